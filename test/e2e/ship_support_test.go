//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
)

// dock is a repository that is shipped from.
type dock struct {
	*lab
	prod    string // the namespace of its environment
	commits int
}

// newDock makes a repository with an app of two services, named as the test, in a
// cluster with a controller.
func newDock(t *testing.T) *dock {
	t.Helper()
	l := newLab(t, nil)
	d := &dock{lab: l, prod: l.namespace + "-prod"}
	t.Cleanup(func() {
		if _, errs, code := d.bight("uninstall"); code != 0 {
			t.Errorf("uninstall: exit code %d\n%s", code, errs)
		}
	})
	d.install()
	for _, ns := range []string{d.prod, l.namespace + "-stage"} {
		d.vacate(ns)
		t.Cleanup(func() { _ = client.CoreV1().Namespaces().Delete(context(), ns, deleteNow()) })
	}
	for path, content := range map[string]string{
		"go.mod":             "module example.com/" + l.namespace + "\n\ngo 1.26\n",
		"README.md":          "An app.\n",
		"cart/main.go":       shipped("cart", "first"),
		"cart/main_test.go":  "package main\n\nimport \"testing\"\n\nfunc TestWord(t *testing.T) {\n\tif word == \"\" {\n\t\tt.Error(\"there is no word\")\n\t}\n}\n",
		"stock/main.go":      shipped("stock", "first"),
		"stock/main_test.go": "package main\n\nimport \"testing\"\n\nfunc TestWord(t *testing.T) {\n\tif word == \"\" {\n\t\tt.Error(\"there is no word\")\n\t}\n}\n",
	} {
		d.write(path, content)
	}
	d.git("init", "--quiet", "--initial-branch", "main", ".")
	return d
}

// dockTest is one of several tests on the same repository.
type dockTest struct {
	name string
	run  func(*dock)
}

// step runs one, and reports whether it has passed.
func (d *dock) step(t *testing.T, s dockTest) bool {
	return t.Run(s.name, func(t *testing.T) {
		on := *d
		l := *d.lab
		l.T = t
		on.lab = &l
		s.run(&on)
	})
}

// chain runs one after the other, each of which builds on those before.
func (d *dock) chain(t *testing.T, tests []dockTest) {
	for _, s := range tests {
		if !d.step(t, s) {
			t.Fatal("the rest builds on this")
		}
	}
}

// install brings the controller of this version into the cluster.
func (d *dock) install(args ...string) {
	d.Helper()
	if _, errs, code := d.bight(append([]string{"install"}, args...)...); code != 0 {
		d.Fatalf("install: exit code %d\n%s", code, errs)
	}
}

// shipped is a service that says a word.
func shipped(service, word string) string {
	port := map[string]string{"cart": "8080", "stock": "8081"}[service]
	return `package main

import (
	"fmt"
	"net/http"
	"os"
)

const word = "` + word + `"

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, word)
	})
	if err := http.ListenAndServe(":` + port + `", nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
`
}

func (d *dock) git(args ...string) string {
	d.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.org", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.org",
		"PATH="+binaries+string(os.PathListSeparator)+os.Getenv("PATH")) // git-remote-bight is there
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits everything and returns the name of the change that it will be.
func (d *dock) commit(title string) string {
	d.Helper()
	d.git("add", "--all")
	// No two have the same time, by which an amended commit is known for what it was.
	d.commits++
	d.git("commit", "--quiet", "--message", title, "--date", fmt.Sprintf("@%d +0000", time.Now().Unix()-1000+int64(d.commits)))
	return d.namespace + "-" + d.git("rev-parse", "HEAD")[:12]
}

// ship ships HEAD and returns what was said.
func (d *dock) ship(args ...string) (said string, code int) {
	d.Helper()
	_, errs, code := d.bight(append([]string{"ship", "-n", d.namespace}, args...)...)
	return errs, code
}

// ships ships HEAD, and fails the test unless that ends with a code.
func (d *dock) ships(want int, args ...string) string {
	d.Helper()
	said, code := d.ship(args...)
	if code != want {
		d.Fatalf("bight ship: exit code %d, want %d\n%s", code, want, said)
	}
	return said
}

// change returns a change as it is now.
func (d *dock) change(name string) *v1alpha1.Change {
	d.Helper()
	out, errs, code := d.bight("change", "show", name, "-n", d.namespace, "-o", "json")
	if code != 0 {
		d.Fatalf("change show %s: exit code %d\n%s", name, code, errs)
	}
	c := &v1alpha1.Change{}
	if err := json.Unmarshal([]byte(out), c); err != nil {
		d.Fatalf("%v in %s", err, out)
	}
	return c
}

// runs waits until a step of a change is being done.
func (d *dock) runs(name, step string) {
	d.Helper()
	d.eventually(step+" of "+name+" runs", func() error {
		c, err := read[v1alpha1.Change](v1alpha1.Changes(), d.namespace, name)
		if err == nil && !at(c, step, v1alpha1.StepRunning) {
			err = fmt.Errorf("it is %+v", change.StepOf(c.Status.Steps, step))
		}
		return err
	})
}

// states are the states of a change's steps, by name.
func (d *dock) states(name string) map[string]string {
	d.Helper()
	states := map[string]string{}
	for _, s := range d.change(name).Status.Steps {
		states[s.Name] = s.State
	}
	return states
}

// serves waits until a service of an environment says a word.
func (d *dock) serves(namespace, service, word string) {
	d.Helper()
	d.eventually(service+" in "+namespace+" says "+word, func() error { return d.says(namespace, service, word) })
}

func (d *dock) says(namespace, service, word string) error {
	got, err := client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("services").
		Name("http:" + service + ":" + map[string]string{"cart": "8080", "stock": "8081"}[service]).SubResource("proxy").
		DoRaw(context())
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(got)) != word {
		return fmt.Errorf("it says %q", got)
	}
	return nil
}

// process is a bight that runs on.
type process struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	ended  chan struct{}
}

// start starts bight in the repository; it is ended with the test.
func (d *dock) start(args ...string) *process {
	d.Helper()
	return d.startWith(nil, args...)
}

// startWith is start with more variables.
func (d *dock) startWith(env []string, args ...string) *process {
	d.Helper()
	p := &process{output: &lockedBuffer{}, ended: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(binaries, "bight"), args...)
	p.cmd.Dir, p.cmd.Env = d.dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		d.Fatal(err)
	}
	go func() { defer close(p.ended); _ = p.cmd.Wait() }()
	d.Cleanup(func() {
		p.signal(syscall.SIGINT)
		select {
		case <-p.ended:
		case <-time.After(patience):
			p.signal(syscall.SIGKILL)
			<-p.ended
		}
		if d.Failed() {
			d.Logf("bight %s said:\n%s", args[0], p.output)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// end waits for the end and returns the exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("it does not end: %s", p.output)
	}
	return p.cmd.ProcessState.ExitCode()
}

// leader is the pod of the controller that acts.
func (d *dock) leader() string {
	d.Helper()
	var name string
	d.eventually("a controller acts", func() error {
		pods, err := client.CoreV1().Pods("bight-system").List(context(), meta.ListOptions{LabelSelector: v1alpha1.LeaderLabel + "=true"})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			for _, c := range p.Status.ContainerStatuses {
				if c.Ready && p.DeletionTimestamp == nil {
					name = p.Name
					return nil
				}
			}
		}
		return errors.New("none does")
	})
	return name
}

// drip asks a service of an environment without pause until stop, and counts what
// fails.
func (d *dock) drip(namespace, service string) (stop func() (asked, failed int)) {
	done := make(chan struct{})
	var tasks sync.WaitGroup
	asked, failed := 0, 0
	tasks.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
			asked++
			r := client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("services").
				Name("http:" + service + ":8080").SubResource("proxy").Do(context())
			var status int
			if r.StatusCode(&status); r.Error() != nil || status != http.StatusOK {
				failed++
			}
		}
	})
	return func() (int, int) { close(done); tasks.Wait(); return asked, failed }
}

// said returns nil if a process has said something.
func (p *process) said(text string) error {
	if !strings.Contains(p.output.String(), text) {
		return fmt.Errorf("it has said %q", p.output)
	}
	return nil
}
