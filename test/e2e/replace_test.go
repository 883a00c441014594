//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/steer"
)

const (
	packerURL = "http://packer:8080/"
	queueURL  = "http://queue:8081"
)

// packing is an app of which two services take jobs off a queue, and a bight up that
// follows its source.
type packing struct {
	*bay
	up *session
}

// taking is what the queue has counted.
type taking struct {
	Taken, Answered map[string]int
	Failed          int
	Errors          []string
	Slowest         float64
}

// TestReplace takes the place of processes that consume something.
func TestReplace(t *testing.T) {
	p := newPacking(t)
	t.Run("UnderLoad", func(t *testing.T) { p.on(t).underLoad() })
	t.Run("SavesMeanwhile", func(t *testing.T) { p.on(t).savesMeanwhile() })
	t.Run("Killed", func(t *testing.T) { p.on(t).killed() })
	t.Run("OfARunningProcess", func(t *testing.T) { p.on(t).ofARunningProcess() })
	t.Run("WithoutPorts", func(t *testing.T) { p.on(t).withoutPorts() })
	t.Run("BadInput", func(t *testing.T) { p.on(t).badInput() })
	if left := p.list(); len(left) > 0 {
		t.Errorf("in the end there is %+v", left)
	}
}

func newPacking(t *testing.T) *packing {
	t.Helper()
	b := &bay{lab: &lab{T: t, dir: t.TempDir(), namespace: name(t)}, programs: t.TempDir()}
	b.vacate(b.namespace)
	t.Cleanup(b.remove)
	if err := os.CopyFS(b.dir, os.DirFS("testdata/replace")); err != nil {
		t.Fatal(err)
	}
	b.write("go.mod", "module example.com/replace\n\ngo 1.26\n")
	build := exec.Command("go", "build", "-o", b.programs, "./packer", "./mute")
	build.Dir, build.Env = b.dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := &packing{bay: b, up: b.lab.up()}
	b.proxy = b.connectProxy()
	p.consumes(3)
	// kube-proxy hears of pods that are ready when everybody does.
	seen := map[string]bool{}
	p.eventually("both pods answer", func() error {
		a, err := p.ask(p.client(false, false), packerURL)
		if err != nil {
			return err
		}
		if seen[a.body] = true; len(seen) < 2 {
			return errors.New("one does")
		}
		return nil
	})
	return p
}

// connectProxy starts what leads into the cluster's network.
func (b *bay) connectProxy() string {
	b.Helper()
	s := b.background(nil, "connect", "--proxy", "--port", "0")
	s.says("HTTP_PROXY=http://")
	_, rest, _ := strings.Cut(s.output.String(), "HTTP_PROXY=http://")
	return strings.Fields(rest)[0]
}

func (p *packing) on(t *testing.T) *packing {
	b := p.bay.on(t)
	up := *p.up
	up.lab = b.lab
	return &packing{bay: b, up: &up}
}

// tell asks the queue.
func (p *packing) tell(path string) (got taking) {
	p.Helper()
	p.eventually("the queue answers", func() error {
		a, err := p.ask(p.client(false, false), queueURL+path)
		if err == nil && a.code != http.StatusOK {
			err = errors.New(a.body)
		}
		if err == nil && path == "/counts" {
			err = json.Unmarshal([]byte(a.body), &got)
		}
		return err
	})
	return got
}

// byPods is how many jobs each pod has taken.
func byPods(got taking) map[string]int {
	pods := maps.Clone(got.Taken)
	maps.DeleteFunc(pods, func(who string, _ int) bool { return strings.HasSuffix(who, "/ada") })
	return pods
}

// consumes waits until so many pods take jobs, and returns how long that took.
func (p *packing) consumes(pods int) time.Duration {
	p.Helper()
	began := time.Now()
	before := p.tell("/counts")
	p.eventually(fmt.Sprint(pods, " pods take jobs"), func() error {
		now := p.tell("/counts")
		n := 0
		for who := range byPods(now) {
			if now.Taken[who] > before.Taken[who] {
				n++
			}
		}
		if n != pods {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	return time.Since(began)
}

// packs waits until ada has taken some jobs, and fails the test if a pod has meanwhile.
func (p *packing) packs(queue string) {
	p.Helper()
	others := func(got taking) map[string]int {
		pods := byPods(got)
		maps.DeleteFunc(pods, func(who string, _ int) bool { return !strings.HasPrefix(who, queue+"/") })
		return pods
	}
	before := p.tell("/counts")
	p.eventually("the laptop takes jobs", func() error {
		if n := p.tell("/counts").Taken[queue+"/ada"] - before.Taken[queue+"/ada"]; n < 20 {
			return fmt.Errorf("%d of 20", n)
		}
		return nil
	})
	if now := p.tell("/counts"); !maps.Equal(others(before), others(now)) {
		p.Errorf("the pods have taken jobs, too: before %v, now %v", others(before), others(now))
	}
	if left := inPods(p.T, queue); len(left) > 0 {
		p.Errorf("there is %q", left)
	}
}

// inPods are the processes of a service's pods.
func inPods(t *testing.T, service string) []string {
	return slices.DeleteFunc(processes(t, service), func(line string) bool {
		_, command, _ := strings.Cut(line, " ")
		return !strings.HasPrefix(command, "./"+service)
	})
}

// replace starts a command in the place of a service's processes.
func (p *packing) replace(service string) *running {
	p.Helper()
	s := p.background([]string{"BIGHT_USER=ada"}, "run", service, "--replace", "--", "env", "WHO=ada", p.program(service))
	s.says("in force in ")
	return s
}

func (p *packing) underLoad() {
	p.tell("/start")
	began := time.Now()
	s := p.replace("packer")
	engaged := time.Since(began)
	if said := s.output.String(); !strings.Contains(said, "its process is stopped") || !strings.Contains(said, "in force in 2 pods") {
		p.Errorf("it says %s", said)
	}
	p.packs("packer")
	all := p.list()
	if len(all) != 1 || all[0].Mode != steer.Replace || all[0].State != steer.Active || all[0].Pods != 2 || !strings.HasPrefix(all[0].Owner, "ada@") {
		p.Errorf("the list has %+v", all)
	}
	out, _, code := p.bight("status", "-n", p.namespace)
	if code != 0 || !strings.Contains(out, "replaced by ada@") {
		p.Errorf("bight status: exit code %d\n%s", code, out)
	}
	for _, s := range p.status().Services {
		if s.Name == "packer" && s.Ready != 2 {
			p.Errorf("%d pods of packer are ready", s.Ready)
		}
	}
	p.up.says("replaced by ada@")
	if code := s.signal(syscall.SIGINT); code != 128+15 {
		p.Errorf("exit code %d after an interrupt, want 143", code)
	}
	back := p.consumes(3)
	p.tell("/stop")
	got := p.tell("/counts")
	p.Logf("replaced after %s, back after %s; requests were answered %v, the slowest in %.1f ms, %d failed", engaged.Round(time.Millisecond),
		back.Round(time.Millisecond), got.Answered, got.Slowest, got.Failed)
	if got.Failed > 0 || got.Answered["ada"] == 0 || len(got.Answered) < 2 {
		p.Errorf("%+v", got)
	}
}

func (p *packing) savesMeanwhile() {
	s := p.replace("packer")
	p.packs("packer")
	source := filepath.Join(p.dir, "packer/main.go")
	content, err := os.ReadFile(source)
	if err != nil {
		p.Fatal(err)
	}
	p.write("packer/main.go", strings.Replace(string(content), `"first"`, `"second"`, 1))
	p.up.says("staged: replaced by ada@")
	if left := inPods(p.T, "packer"); len(left) > 0 {
		p.Errorf("the save has started %q", left)
	}
	s.signal(syscall.SIGINT)
	p.consumes(3)
	for range 6 {
		if a, err := p.ask(p.client(false, false), packerURL); err != nil || !strings.HasSuffix(a.body, " second\n") {
			p.Errorf("it answers %q, %v", a.body, err)
		}
	}
}

func (p *packing) killed() {
	s := p.replace("packer")
	p.packs("packer")
	began := time.Now()
	s.signal(syscall.SIGKILL)
	p.consumes(3)
	p.soon("killed: the pods take jobs", time.Since(began), 5*time.Second)
	if a, err := p.ask(p.client(false, false), packerURL); err != nil || !strings.HasPrefix(a.body, "packer-") {
		p.Errorf("it answers %q, %v", a.body, err)
	}
	p.eventually("the rule is gone", func() error {
		if left := p.list(); len(left) > 0 {
			return fmt.Errorf("there is %+v", left)
		}
		return nil
	})
	p.eventually("no process is left", func() error {
		if left := processes(p.T, p.program("packer")); len(left) > 0 {
			return fmt.Errorf("there is %s", left)
		}
		return nil
	})
}

func (p *packing) ofARunningProcess() {
	port := 8080 + freeOffset(p.T)
	server := &http.Server{Addr: fmt.Sprint("127.0.0.1:", port), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ada here\n") // who asks may have gone
	})}
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	defer func() { _ = server.Close(); <-served }()
	s := p.intercept("ada", "packer", "--replace", "--port", fmt.Sprint(port))
	if a, err := p.ask(p.client(false, false), packerURL); err != nil || a.body != "ada here\n" {
		p.Errorf("it answers %q, %v", a.body, err)
	}
	if left := inPods(p.T, "packer"); len(left) > 0 {
		p.Errorf("there is %q", left)
	}
	says := []string{`ada@\S+ replaces packer, whose process is stopped meanwhile: wait until they leave`}
	for _, args := range [][]string{
		{"intercept", "packer", "--port", "1", "--header", "x-dev=bob"},
		{"intercept", "packer", "--port", "1", "--replace"},
		{"run", "packer", "--replace", "--", "false"},
	} {
		p.refused(refusal{code: 1, says: says, env: []string{"BIGHT_USER=bob"}}, inNamespace(p.namespace, args)...)
	}
	p.leave(s)
	p.consumes(3)
}

func (p *packing) withoutPorts() {
	s := p.replace("mute")
	p.packs("mute")
	s.signal(syscall.SIGINT)
	p.consumes(3)
}

func (p *packing) badInput() {
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"run", "packer", "--replace", "--header", "x-dev=ada", "--", "true"}, `whose requests would the stopped process answer\?`},
		{[]string{"run", "packer", "--replace", "--path", "/x", "--", "true"}, `Leave out --header and --path`},
		{[]string{"run", "packer", "--replace", "--port", "8080", "--", "true"}, `about every port of the service; leave out --port`},
		{[]string{"run", "packer", "--replace", "--mirror", "--", "true"}, `--replace and --mirror: .*leave one out`},
		{[]string{"run", "--replace", "--", "true"}, `say whose requests come here`},
		{[]string{"intercept", "packer", "--replace", "--port", "1", "--header", "x-dev=ada"}, `whose requests would the stopped process answer\?`},
		{[]string{"intercept", "packer", "--replace"}, `say where the process listens on this machine`},
	} {
		p.refused(refusal{code: 2, says: []string{test.says}}, inNamespace(p.namespace, test.args)...)
	}
}
