package session

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/ui/term"
)

func TestACursorLosesAndRepeatsNothing(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	log := []struct {
		at   time.Time
		text string
	}{{at(10), "a"}, {at(20), "b"}, {at(20), "c"}, {at(20), "d"}, {at(1500), "e"}, {at(1500), "f"}, {at(3000), "g"}}
	for cut := range len(log) + 1 {
		for again := range len(log) + 1 {
			c := cursor{at: at(0)}
			var got []string
			read := func(n int) {
				from := c.reopen()
				for _, line := range log[:n] {
					if !line.at.Before(from.Time) && c.isNew(line.at) {
						got = append(got, line.text)
					}
				}
			}
			read(cut)
			read(max(cut, again))
			read(len(log))
			if text := strings.Join(got, ""); text != "abcdefg" {
				t.Errorf("cut after %d and %d: %s", cut, again, text)
			}
		}
	}
}

func TestLinesFromBeforeTheSessionAreNotPrinted(t *testing.T) {
	since := time.Unix(100, 500)
	c := cursor{at: since}
	if from := c.reopen(); from.After(since) {
		t.Errorf("it reads from %s, after %s", from, since)
	}
	if c.isNew(since.Add(-1)) || !c.isNew(since.Add(1)) {
		t.Error("wrong")
	}
}

func TestStamped(t *testing.T) {
	for line, want := range map[string]string{
		"2026-11-21T04:05:45.976123456Z hello  world": "hello  world",
		"2026-11-21T04:05:45.976123456Z ":             "",
	} {
		if at, text, ok := stamped(line); !ok || text != want || at.Nanosecond() != 976123456 {
			t.Errorf("%q: %v, %q, %v", line, at, text, ok)
		}
	}
	if _, text, ok := stamped("no time here"); ok || text != "no time here" {
		t.Errorf("got %q, %v", text, ok)
	}
}

func TestReadLinesGivesEveryByteOfVeryLongLines(t *testing.T) {
	long := strings.Repeat("x", 2*longestLine+5)
	var got []string
	var wholes []bool
	err := readLines(iotest.HalfReader(strings.NewReader("a\r\n"+long+"\nb")), func(line string, whole bool) {
		got, wholes = append(got, line), append(wholes, whole)
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(got, ""); text != "a"+long+"b" {
		t.Errorf("%d bytes, want %d", len(text), len(long)+2)
	}
	if want := []bool{true, true, false, false, true}; !slices.Equal(wholes, want) {
		t.Errorf("beginnings of lines: %v, want %v", wholes, want)
	}
}

// TestLogsAreTheServicesOwnBesideAProxy has an API server that, as the real one, gives
// no log of a pod with two containers to who names none.
func TestLogsAreTheServicesOwnBesideAProxy(t *testing.T) {
	object := core.Pod{ObjectMeta: meta.ObjectMeta{Name: "cart-1", Labels: map[string]string{nameLabel: "cart"}}}
	object.Spec.Containers = []core.Container{{Name: "linkerd-proxy"}, {Name: "cart"}}
	list := core.PodList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []core.Pod{object}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/log"):
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(list); err != nil {
				t.Error(err)
			}
		case r.URL.Query().Get("container") == "":
			http.Error(w, "a container name must be specified for pod cart-1", http.StatusBadRequest)
		case r.URL.Query().Get("timestamps") != "":
			fmt.Fprintf(w, "%s says %s\n", time.Now().Add(time.Second).Format(time.RFC3339Nano), r.URL.Query().Get("container"))
		default:
			fmt.Fprintf(w, "says %s\n", r.URL.Query().Get("container"))
		}
	}))
	defer server.Close()
	var out bytes.Buffer
	s := Deployed(shopApp(), Config{
		Cluster: kube.New(&restclient.Config{Host: server.URL}, "", ""), Namespace: "shop-ada", Log: slog.New(slog.DiscardHandler),
		Printer: term.New(term.Config{Out: term.Stream{W: &out}, Err: term.Stream{W: io.Discard}}),
	})
	if err := s.Logs(t.Context(), LogOptions{}); err != nil {
		t.Error(err)
	}
	client, err := s.Cluster.Typed()
	if err != nil {
		t.Fatal(err)
	}
	s.applier = &deploy.Applier{Client: client}
	newPods(s).log(t.Context(), &pod{name: "cart-1", service: "cart", container: "cart"}, time.Now()) // it is gone when its log ends
	if err := s.Printer.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "says cart"); got != 2 {
		t.Errorf("%d of 2 lines were printed: %q", got, out.String())
	}
}
