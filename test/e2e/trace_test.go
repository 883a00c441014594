//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/bridge"
)

// chain is an app of three services that call each other by HTTP/1 and HTTP/2. The
// first sends baggage on, the second nothing, the third says what it got.
var chain = map[string]string{
	"go.mod": "module example.com/chain\n\ngo 1.25\n",
	"front/main.go": `package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	mid := os.Getenv("MID_URL")
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/alone", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		q, err := http.NewRequestWithContext(r.Context(), "GET", mid+"/"+r.Header.Get("X-Session"), nil)
		if err == nil {
			q.Header["Baggage"] = r.Header["Baggage"]
			var a *http.Response
			if a, err = http.DefaultClient.Do(q); err == nil {
				defer a.Body.Close()
				_, err = io.Copy(w, a.Body)
			}
		}
		if err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
`,
	"mid/main.go": `package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	back := os.Getenv("BACK_URL")
	var clients [2]http.Client
	for i := range clients {
		p := new(http.Protocols)
		p.SetHTTP1(i == 0)
		p.SetUnencryptedHTTP2(i == 1)
		clients[i].Transport = &http.Transport{Protocols: p}
	}
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		who := os.Getenv("WHO")
		if who == "" {
			who = "app"
		}
		fmt.Fprintln(w, who)
		for i := range clients {
			a, err := clients[i].Get(back + "/shelf")
			if err != nil {
				fmt.Fprintln(w, err)
				continue
			}
			_, _ = io.Copy(w, a.Body)
			a.Body.Close()
		}
	})
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	log.Fatal(http.ListenAndServe(":"+port, nil))
}
`,
	"back/main.go": `package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Proto, r.Header["X-Dev"])
	})
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Addr: ":8080", Handler: mux, Protocols: p}
	log.Fatal(s.ListenAndServe())
}
`,
}

// newChain deploys the app, with a way into its network.
func newChain(t *testing.T) *bay {
	t.Helper()
	b := &bay{lab: newLab(t, chain), programs: t.TempDir()}
	build := exec.Command("go", "build", "-o", b.programs, "./mid")
	build.Dir, build.Env = b.dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	b.once()
	s := b.background(nil, "connect", "--proxy", "--port", "0")
	s.says("HTTP_PROXY=http://")
	b.proxy = regexp.MustCompile(`HTTP_PROXY=http://(\S+)`).FindStringSubmatch(s.output.String())[1]
	for _, service := range []string{"back", "mid", "front"} {
		b.eventually(service+" answers", func() error {
			_, err := b.ask(b.client(false, false), "http://"+service+":8080/")
			return err
		})
	}
	return b
}

func TestTrace(t *testing.T) {
	b := newChain(t)
	trace := func(args ...string) (*bridge.Trace, string, int) {
		t.Helper()
		out, errs, code := b.bight(append([]string{"doctor", "-n", b.namespace, "-o", "json", "--trace"}, args...)...)
		var found bridge.Trace
		if out != "" {
			if err := json.Unmarshal([]byte(out), &found); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
		}
		return &found, errs, code
	}
	states := func(found *bridge.Trace) (all []string) {
		for _, s := range found.Services {
			all = append(all, s.Service+": "+string(s.State))
		}
		return all
	}

	t.Run("Dropped", func(t *testing.T) {
		found, errs, code := trace("/")
		if want := []string{"front: has", "mid: drops", "back: without"}; code != 1 || !slices.Equal(states(found), want) {
			t.Fatalf("exit code %d, %s\n%s%+v", code, cmp.Diff(want, states(found)), errs, found)
		}
		want := regexp.MustCompile(`mid drops it: it called back \(BACK_URL, mid/main\.go:12\) without the header`)
		if !want.MatchString(errs) || len(found.Drops) != 1 || !slices.Equal(found.Answers, []int{200, 200, 200, 200, 200}) {
			t.Errorf("it says\n%s%+v", errs, found)
		}
	})
	t.Run("AnotherHeader", func(t *testing.T) {
		found, errs, code := trace("http://front:8080/", "--header", "x-dev=ada")
		if want := []string{"front: drops", "mid: without", "back: without"}; code != 1 || !slices.Equal(states(found), want) {
			t.Errorf("exit code %d, %s\n%s%+v", code, cmp.Diff(want, states(found)), errs, found)
		}
	})
	t.Run("DespiteOthers", func(t *testing.T) {
		// Somebody else's requests go to back all the time, and have no header.
		done := make(chan struct{})
		stop := make(chan struct{})
		c := b.client(false, true)
		go func() {
			defer close(done)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if _, err := b.ask(c, "http://back:8080/others"); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		defer func() { close(stop); <-done }()
		found, errs, code := trace("front/alone")
		if want := []string{"front: has", "back: not reached", "mid: not reached"}; code != 0 || !slices.Equal(states(found), want) {
			t.Errorf("exit code %d, %s\n%s%+v", code, cmp.Diff(want, states(found)), errs, found)
		}
	})
	t.Run("NoSuchService", func(t *testing.T) {
		if _, errs, code := trace("http://frnt/"); code != 4 || !strings.Contains(errs, "did you mean front?") {
			t.Errorf("exit code %d\n%s", code, errs)
		}
	})
	if left := b.list(); len(left) > 0 {
		t.Errorf("after the end there is %+v", left)
	}
}
