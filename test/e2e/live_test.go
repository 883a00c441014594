//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const goMod = "module example.com/hello\n\ngo 1.26\n"

// server is a Go service that says word.
func server(word string) string {
	return `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	fmt.Println("starting with", "` + word + `")
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprintln(w, "` + word + `", host)
	})
	if err := http.ListenAndServe(":8080", nil); err != nil {
		panic(err)
	}
}
`
}

// goApp is an app of one Go service that nobody has built before: what another test has
// built of the same source is not built and pushed again.
func goApp(t *testing.T) *lab {
	own := strings.Replace(goMod, "module ", fmt.Sprintf("module t%d.example.com/", time.Now().UnixNano()), 1)
	return newLab(t, map[string]string{"go.mod": own, "main.go": server("first")})
}

func staticApp(t *testing.T) *lab {
	return newLab(t, map[string]string{"index.html": "<h1>first</h1>\n", "css/site.css": "body {}\n"})
}

// pods returns the names of the environment's running pods.
func (l *lab) pods() []string {
	l.Helper()
	list, err := client.CoreV1().Pods(l.namespace).List(context(), meta.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	var names []string
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			names = append(names, p.Name)
		}
	}
	return names
}

func (l *lab) deployment() *apps.Deployment {
	l.Helper()
	list, err := client.AppsV1().Deployments(l.namespace).List(context(), meta.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		l.Fatalf("deployments: %d, %v", len(list.Items), err)
	}
	return &list.Items[0]
}

func TestASaveOfAGoServiceIsLiveInTheSamePod(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	before := l.pods()

	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	if after := l.pods(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("pods %v became %v", before, after)
	}
	l.eventually("in sync", l.inSync)
}

func TestASaveOfAStaticFileIsLive(t *testing.T) {
	l := staticApp(t)
	s := l.up()
	service := l.status().Services[0].Name
	s.serves(service, "/", "first")
	l.write("index.html", "<h1>second</h1>\n")
	s.serves(service, "/", "second")
	l.eventually("in sync", l.inSync)
}

func TestACompileErrorIsShownAndTheOldProcessGoesOn(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	l.write("main.go", strings.Replace(server("second"), "fmt.Println", "fmt.Printlnn", 1))
	l.eventually("the compiler's words", func() error {
		if !strings.Contains(s.output.String(), "undefined: fmt.Printlnn") {
			return errors.New("not there")
		}
		return nil
	})
	s.serves("hello", "/", "first")
	l.write("main.go", server("third"))
	s.serves("hello", "/", "third")
}

func TestACrashAfterAnEditShowsItsOutputAndTheNextSaveHeals(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	pod := l.pods()[0]
	l.write("main.go", strings.Replace(server("second"), `fmt.Println("starting with"`, `panic("no luck today"); fmt.Println("starting with"`, 1))
	l.eventually("the crash is shown", func() error {
		if !strings.Contains(s.output.String(), "no luck today") {
			return errors.New("not there")
		}
		return nil
	})
	l.write("main.go", server("third"))
	s.serves("hello", "/", "third")
	p, err := client.CoreV1().Pods(l.namespace).Get(context(), pod, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("the container was restarted %d times: the agent did not outlive the process", n)
	}
}

func TestANewPodGetsTheNewestSource(t *testing.T) {
	l := goApp(t)
	s := l.up()
	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	if err := client.CoreV1().Pods(l.namespace).Delete(context(), l.pods()[0], deleteNow()); err != nil {
		t.Fatal(err)
	}
	l.eventually("in sync", l.inSync)
	s.serves("hello", "/", "second")
}

func TestAllReplicasGetASave(t *testing.T) {
	l := goApp(t)
	s := l.up()
	d := l.deployment()
	if _, err := client.AppsV1().Deployments(l.namespace).Patch(context(), d.Name, types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), meta.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	l.eventually("three pods ready", func() error {
		if n := l.deployment().Status.ReadyReplicas; n != 3 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	l.eventually("in sync", l.inSync)
}

func TestABurstOfFilesBecomesOneTree(t *testing.T) {
	l := staticApp(t)
	s := l.up()
	service := l.status().Services[0].Name
	for i := range 5000 {
		file := filepath.Join(l.dir, "pages", fmt.Sprint(i%50), fmt.Sprintf("p%d.html", i))
		if i < 50 {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, "page %d\n", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l.eventually("in sync", l.inSync)
	s.serves(service, "/pages/49/p4999.html", "page 4999")
	if err := os.RemoveAll(filepath.Join(l.dir, "pages")); err != nil {
		t.Fatal(err)
	}
	l.eventually("in sync", l.inSync)
	if body, err := s.get(service, "/pages/49/p4999.html"); err == nil {
		t.Errorf("a deleted page is served: %q", body)
	}
}

func TestRenamesLinksModesAndStrangeNames(t *testing.T) {
	l := staticApp(t)
	s := l.up()
	service := l.status().Services[0].Name
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Rename(filepath.Join(l.dir, "css"), filepath.Join(l.dir, "styles")))
	must(os.Symlink("index.html", filepath.Join(l.dir, "home.html")))
	must(os.Symlink(".", filepath.Join(l.dir, "loop")))
	must(os.WriteFile(filepath.Join(l.dir, "with space.txt"), []byte("space\n"), 0o755))
	must(os.WriteFile(filepath.Join(l.dir, "new\nline.txt"), []byte("newline\n"), 0o644))
	must(os.WriteFile(filepath.Join(l.dir, "latin\xe9.txt"), []byte("latin\n"), 0o644))
	l.eventually("in sync", l.inSync)
	s.serves(service, "/styles/site.css", "body")
	s.serves(service, "/home.html", "first")
	s.serves(service, "/with%20space.txt", "space")
	s.serves(service, "/new%0Aline.txt", "newline")
	s.serves(service, "/latin%E9.txt", "latin")
	must(os.Chmod(filepath.Join(l.dir, "with space.txt"), 0o644))
	l.eventually("in sync", l.inSync)
}

func TestAKilledSessionIsTakenUpByTheNext(t *testing.T) {
	l := goApp(t)
	first := l.up()
	first.serves("hello", "/", "first")
	first.signal(syscall.SIGKILL)
	l.write("main.go", server("second"))
	second := l.up()
	second.serves("hello", "/", "second")
}

func TestASecondSessionIsRefusedByName(t *testing.T) {
	l := goApp(t)
	l.up()
	_, errs, code := l.bightWith([]string{"BIGHT_USER=somebody-else"}, "up", "-n", l.namespace)
	if code != 1 || !strings.Contains(errs, "tester") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

func TestCtrlCLeavesTheAppRunning(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	if code := s.signal(syscall.SIGINT); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if n := l.deployment().Status.ReadyReplicas; n != 1 {
		t.Errorf("%d pods are ready", n)
	}
	if !strings.Contains(s.output.String(), "keeps running") {
		t.Errorf("it does not say so: %s", s.output)
	}
}
