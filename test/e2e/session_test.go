//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// said is a Go service that answers with what the package word says and with its
// variable GREETING.
func said(port int) string {
	return fmt.Sprintf(`package main

import (
	"fmt"
	"net/http"
	"os"

	"example.com/hello/word"
)

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "said", word.Word, os.Getenv("GREETING"))
	})
	if err := http.ListenAndServe(":%d", nil); err != nil {
		panic(err)
	}
}
`, port)
}

func word(text string) string {
	return "package word\n\n// Word is said by everybody.\nconst Word = \"" + text + "\"\n"
}

// pairApp is an app of two services that share a package.
func pairApp(t *testing.T) *lab {
	return newLab(t, map[string]string{
		"go.mod": goMod, "word/word.go": word("first"), "one/main.go": said(8081), "two/main.go": said(8082),
	})
}

// deployments returns the names of what is deployed.
func (l *lab) deployments() []string {
	l.Helper()
	list, err := client.AppsV1().Deployments(l.namespace).List(context(), meta.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	var names []string
	for _, d := range list.Items {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return names
}

func (l *lab) deploys(names ...string) {
	l.Helper()
	l.eventually(fmt.Sprint(names, " are deployed"), func() error {
		if got := l.deployments(); !slices.Equal(got, names) {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
}

// says waits until the session has printed a text.
func (s *session) says(text string) {
	s.Helper()
	s.eventually(fmt.Sprintf("it says %q", text), func() error {
		if !strings.Contains(s.output.String(), text) {
			return errors.New("not there")
		}
		return nil
	})
}

// hasURL waits until a service has a URL.
func (s *session) hasURL(service string) {
	s.Helper()
	s.eventually("a URL of "+service, func() error {
		if !slices.ContainsFunc(s.eventsOf("url"), func(e event) bool { return e.Service == service }) {
			return errors.New("none yet")
		}
		return nil
	})
}

func TestServicesComeAndGoWithTheirSource(t *testing.T) {
	l := pairApp(t)
	s := l.up()
	s.serves("one", "/", "said first")

	l.write("three/main.go", said(8083))
	s.hasURL("three")
	s.serves("three", "/", "said first")
	l.deploys("one", "three", "two")

	if err := os.Rename(filepath.Join(l.dir, "two"), filepath.Join(l.dir, "deux")); err != nil {
		t.Fatal(err)
	}
	s.hasURL("deux")
	s.serves("deux", "/", "said first")
	l.deploys("deux", "one", "three")

	if err := os.RemoveAll(filepath.Join(l.dir, "three")); err != nil {
		t.Fatal(err)
	}
	l.deploys("deux", "one")
	l.write("word/word.go", word("second"))
	s.serves("one", "/", "said second")
	s.serves("deux", "/", "said second")
	l.eventually("in sync", l.inSync)
}

func TestAServiceThatComesOrGoesRestartsNoOther(t *testing.T) {
	l := pairApp(t)
	s := l.up()
	s.serves("one", "/", "said first")
	before := l.pods()
	l.write("word/word.go", word("second")) // the pods are ahead of their images
	s.serves("one", "/", "said second")
	s.serves("two", "/", "said second")
	l.write("site/index.html", "<h1>a site</h1>\n")
	s.hasURL("site")
	s.serves("site", "/", "a site")
	if err := os.RemoveAll(filepath.Join(l.dir, "site")); err != nil {
		t.Fatal(err)
	}
	l.deploys("one", "two")
	l.write("word/word.go", word("third"))
	s.serves("one", "/", "said third")
	l.eventually("the pods are those from before", func() error {
		if now := l.pods(); !slices.Equal(now, before) {
			return fmt.Errorf("%v became %v", before, now)
		}
		return nil
	})
	l.eventually("in sync", l.inSync)
	if said := s.output.String(); strings.Contains(said, "✗") || strings.Contains(said, "error") {
		t.Error("there was nothing wrong")
	}
}

func TestTheProjectFileIsFollowed(t *testing.T) {
	l := pairApp(t)
	s := l.up()
	s.serves("one", "/", "said first")

	l.write("bight.yaml", "services:\n  one:\n    env:\n      GREETING: morning\n")
	s.serves("one", "/", "said first morning")
	l.write("bight.yaml", "services:\n  one:\n    env:\n      GREETING: evening\n    replicas: 2\n")
	s.serves("one", "/", "said first evening")
	l.eventually("two pods of one", func() error {
		for _, service := range l.status().Services {
			if service.Name == "one" && service.Ready != 2 {
				return fmt.Errorf("%d are ready", service.Ready)
			}
		}
		return nil
	})

	l.write("bight.yaml", "services:\n  one:\n    envv: {}\n")
	s.says("envv")
	s.serves("one", "/", "evening")
	l.write("word/word.go", word("second"))
	s.serves("two", "/", "said second")
	if n := strings.Count(s.output.String(), "envv"); n > 2 {
		t.Errorf("the mistake is shown %d times", n)
	}
	l.write("bight.yaml", "services:\n  one:\n    env:\n      GREETING: night\n")
	s.serves("one", "/", "said second night")
	l.eventually("in sync", l.inSync)
}

func TestASaveDuringTheFirstDeployIsNotLost(t *testing.T) {
	l := goApp(t)
	s := l.launch()
	l.eventually("it is built", func() error {
		if len(s.eventsOf("build")) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	l.write("main.go", server("second"))
	s.hasURL("hello")
	s.serves("hello", "/", "second")
	l.eventually("in sync", l.inSync)
}

func TestTheLatestOfManySavesWins(t *testing.T) {
	l := pairApp(t)
	s := l.up()
	for i := range 20 {
		l.write("word/word.go", word(fmt.Sprint("number ", i)))
		l.write("one/main.go", said(8081)+fmt.Sprintf("// %d\n", i))
	}
	s.serves("one", "/", "said number 19")
	s.serves("two", "/", "said number 19")
	l.eventually("in sync", l.inSync)
}

func TestWhatNoServiceIsMadeOfDoesNothing(t *testing.T) {
	l := pairApp(t)
	s := l.up()
	s.serves("two", "/", "said first")
	before := fmt.Sprint(l.pods())
	l.write("README.md", "# hello\n")
	l.write("one/README.md", "# one\n")
	l.write("one/main_test.go", "package main\n\nimport \"testing\"\n\nfunc TestNothing(t *testing.T) {}\n")
	l.write("word/word.go", word("second"))
	s.serves("one", "/", "said second")
	s.serves("two", "/", "said second")
	for _, e := range s.eventsOf("sync") {
		if e.Text != "word/word.go" {
			t.Errorf("a save of %s was sent to %s", e.Text, e.Service)
		}
	}
	if after := fmt.Sprint(l.pods()); after != before {
		t.Errorf("pods %s became %s", before, after)
	}
}

func TestWhatDoesNotCompileKeepsTheOthersFromNothing(t *testing.T) {
	l := pairApp(t)
	l.write("two/main.go", strings.Replace(said(8082), "fmt.Fprintln", "fmt.Fprintlnn", 1))
	_, errs, code := l.bight("up", "--once", "-n", l.namespace)
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if n := strings.Count(errs, "undefined: fmt.Fprintlnn"); n != 1 {
		t.Errorf("the mistake is shown %d times:\n%s", n, errs)
	}
	l.deploys("one")

	s := l.up()
	s.serves("one", "/", "said first")
	l.write("two/main.go", said(8082))
	l.deploys("one", "two")
	s.serves("two", "/", "said first")
	s.signal(syscall.SIGINT)
	before := l.pods()

	l.write("two/main.go", strings.Replace(said(8082), "fmt.Fprintln", "fmt.Fprintlnn", 1))
	if _, errs, code = l.bight("up", "--once", "-n", l.namespace); code != 1 {
		t.Errorf("exit code %d, want 1\n%s", code, errs)
	}
	if after := l.pods(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("pods %v became %v", before, after)
	}
}

func TestASyntaxErrorRemovesNoService(t *testing.T) {
	broken := strings.Replace(said(8082), "func main() {", "func main( {", 1)
	l := pairApp(t)
	s := l.up()
	s.serves("two", "/", "said first")
	l.write("two/main.go", broken)
	s.says("two/main.go:")
	l.write("one/main.go", strings.Replace(said(8081), `"said"`, `"told"`, 1))
	s.serves("one", "/", "told first")
	s.serves("two", "/", "said first")
	l.deploys("one", "two")
	s.signal(syscall.SIGINT)

	_, errs, code := l.bight("up", "--once", "-n", l.namespace)
	if code != 1 || !strings.Contains(errs, "two/main.go:") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	l.deploys("one", "two")

	again := l.launch()
	again.says("two cannot be found")
	l.write("two/main.go", strings.Replace(said(8082), `"said"`, `"healed"`, 1))
	again.hasURL("two")
	again.serves("two", "/", "healed first")
}

func TestFilesBesideAProgramAreLive(t *testing.T) {
	l := newLab(t, map[string]string{
		"go.mod": goMod, "static/motto.txt": "be brief\n", "pages/home.html": "<h1>{{.}} first</h1>\n",
		"main.go": `package main

import (
	"embed"
	"html/template"
	"net/http"
)

//go:embed static
var static embed.FS

func main() {
	http.Handle("/static/", http.FileServer(http.FS(static)))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		page, err := template.ParseFiles("pages/home.html")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = page.Execute(w, "template")
	})
	if err := http.ListenAndServe(":8080", nil); err != nil {
		panic(err)
	}
}
`,
	})
	s := l.up()
	s.serves("hello", "/", "template first")
	s.serves("hello", "/static/motto.txt", "be brief")
	l.write("pages/home.html", "<h1>{{.}} second</h1>\n")
	s.serves("hello", "/", "template second")
	l.write("static/motto.txt", "be brave\n")
	s.serves("hello", "/static/motto.txt", "be brave")
	l.write("static/new.txt", "brand new\n")
	s.serves("hello", "/static/new.txt", "brand new")
	l.eventually("in sync", l.inSync)
}

func TestACrashLoopIsNoFloodOfPanels(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	l.write("main.go", strings.Replace(server("second"), `fmt.Println("starting with"`, `panic("no luck today"); fmt.Println("starting with"`, 1))
	l.eventually("it was started four times", func() error {
		if n := len(s.eventsOf("restart")); n < 6 { // a start and an end each
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	if n := strings.Count(s.output.String(), "no luck today"); n != 1 {
		t.Errorf("the crash is shown %d times", n)
	}
	l.write("main.go", server("third"))
	s.serves("hello", "/", "third")
	s.says("starting with third")
}

func TestNoRequestFailsWhileTheProcessIsReplaced(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	stop, failed := make(chan struct{}), make(chan []string)
	go func() {
		var wrong []string
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n == 0 {
					wrong = append(wrong, "no request was made")
				}
				failed <- wrong
				return
			default:
				if body, err := s.get("hello", "/"); err != nil {
					wrong = append(wrong, fmt.Sprintf("%v %s", err, body))
				}
			}
		}
	}()
	for i := range 5 {
		word := fmt.Sprint("version ", i)
		l.write("main.go", server(word))
		s.serves("hello", "/", word)
	}
	close(stop)
	if wrong := <-failed; len(wrong) > 0 {
		t.Errorf("%d requests failed: %s", len(wrong), wrong[0])
	}
}

func TestAnInterruptAtAnyMomentEndsAtOnceAndTheNextRunHeals(t *testing.T) {
	l := pairApp(t)
	for _, moment := range []string{"plan", "build", "push", "deploy", "ready"} {
		l.write("word/word.go", word("before "+moment)) // so that there is something to do
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			s := l.launch()
			l.eventually("event "+moment, func() error {
				select {
				case <-s.ended:
					return fmt.Errorf("it ended with %d", s.cmd.ProcessState.ExitCode())
				default:
				}
				if len(s.eventsOf(moment)) == 0 && len(s.eventsOf("url")) == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			began := time.Now()
			code := s.signal(sig)
			if took := time.Since(began); code != 130 || took > busy*3*time.Second {
				t.Errorf("%v after %s: exit code %d after %s", sig, moment, code, took)
			}
		}
	}
	l.once()
	if err := l.inSync(); err != nil {
		t.Error(err)
	}
	if left, err := client.CoordinationV1().Leases(l.namespace).List(context(), meta.ListOptions{}); err != nil || len(left.Items) > 0 {
		t.Errorf("%d leases are left, %v", len(left.Items), err)
	}
}

func TestAPodThatIsReplacedWithoutASessionIsToldOf(t *testing.T) {
	l := goApp(t)
	s := l.up()
	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	s.signal(syscall.SIGINT)
	if !strings.Contains(s.output.String(), "files of its last deploy") {
		t.Errorf("it does not say what a new pod has:\n%s", s.output)
	}
	if err := l.inSync(); err != nil {
		t.Errorf("before: %v", err)
	}
	old := l.pods()[0]
	if err := client.CoreV1().Pods(l.namespace).Delete(context(), old, deleteNow()); err != nil {
		t.Fatal(err)
	}
	l.eventually("status tells of the new pod's files", func() error {
		err := l.inSync()
		if err == nil || !strings.Contains(err.Error(), "has other files than the local source; bight up brings them") {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
	l.once()
	if err := l.inSync(); err != nil {
		t.Error(err)
	}
	before := l.pods()
	l.once()
	if after := l.pods(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("pods %v became %v", before, after)
	}
}

func TestDownEndsTheSession(t *testing.T) {
	l := goApp(t)
	s := l.up()
	if _, errs, code := l.bightWith([]string{"BIGHT_USER=somebody-else"}, "down", "-n", l.namespace); code != 1 || !strings.Contains(errs, "tester") {
		t.Errorf("down by another: exit code %d\n%s", code, errs)
	}
	if _, errs, code := l.bight("down", "-n", l.namespace); code != 0 {
		t.Fatalf("down: exit code %d\n%s", code, errs)
	}
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("the session goes on")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(s.output.String(), "bight down") {
		t.Errorf("exit code %d\n%s", code, s.output)
	}
	if _, err := client.CoreV1().Namespaces().Get(context(), l.namespace, meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace: %v", err)
	}
}

func TestEventsTellEveryStep(t *testing.T) {
	l := goApp(t)
	s := l.up()
	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	l.eventually("the save's event", func() error {
		if len(s.eventsOf("sync")) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	for _, kind := range []string{"plan", "build", "push", "deploy", "ready", "change", "sync", "restart"} {
		if len(s.eventsOf(kind)) == 0 {
			t.Errorf("no event of type %s", kind)
		}
	}
	e := s.eventsOf("sync")[0]
	if e.Service != "hello" || e.Text != "main.go" || e.Files != 1 || e.Bytes == 0 {
		t.Errorf("%+v", e)
	}
	for _, phase := range []string{"build", "send", "apply", "ready", "total"} {
		if e.MS[phase] <= 0 {
			t.Errorf("phase %s took %v ms", phase, e.MS[phase])
		}
	}
}

func TestLogsBeginWithTheSessionAndLoseNothing(t *testing.T) {
	l := newLab(t, map[string]string{"go.mod": goMod, "main.go": `package main

import (
	"fmt"
	"net/http"
	"strings"
)

func main() {
	fmt.Println("process started")
	http.HandleFunc("/print", func(w http.ResponseWriter, r *http.Request) {
		for i := range 500 {
			fmt.Println("line", i, "of", r.URL.RawQuery)
		}
		fmt.Println("long" + strings.Repeat("x", 2<<20) + "end")
		fmt.Println("done")
	})
	if err := http.ListenAndServe(":8080", nil); err != nil {
		panic(err)
	}
}
`})
	l.once()
	s := l.up()
	if _, err := s.get("hello", "/print?a"); err != nil {
		t.Fatal(err)
	}
	s.says("│ done")
	out := s.output.String()
	if strings.Contains(out, "process started") {
		t.Error("lines from before the session are printed")
	}
	for i := range 500 {
		if n := strings.Count(out, fmt.Sprintf("│ line %d of a\n", i)); n != 1 {
			t.Errorf("line %d is printed %d times", i, n)
		}
	}
	if n := strings.Count(out, "x"); n < 2<<20 {
		t.Errorf("%d bytes of a long line are printed", n)
	}
}
