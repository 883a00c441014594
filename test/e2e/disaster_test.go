//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// processOf returns the process of this machine whose command line begins with
// argv and which runs in a pod.
func (l *lab) processOf(pod string, argv ...string) int {
	l.Helper()
	p, err := client.CoreV1().Pods(l.namespace).Get(context(), pod, meta.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		l.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cgroup, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if bytes.Contains(cgroup, []byte(p.UID)) && bytes.HasPrefix(cmdline, []byte(strings.Join(argv, "\x00"))) {
			return pid
		}
	}
	l.Fatalf("no process %v in pod %s", argv, pod)
	return 0
}

func TestAKilledAgentGoesOnWithTheNewestSource(t *testing.T) {
	l := goApp(t)
	s := l.up()
	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	pod := l.pods()[0]
	if err := syscall.Kill(l.processOf(pod, "/bight/agent", "run"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("the container is started again", func() error {
		p, err := client.CoreV1().Pods(l.namespace).Get(context(), pod, meta.GetOptions{})
		if err == nil && p.Status.ContainerStatuses[0].RestartCount == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	s.serves("hello", "/", "second")
	l.write("main.go", server("third"))
	s.serves("hello", "/", "third")
	l.eventually("in sync", l.inSync)
}

func TestARestartedAPIServerIsNoticedByNobody(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	l.killComponent("kube-apiserver")
	l.write("main.go", server("second"))
	s.serves("hello", "/", "second")
	l.eventually("in sync", l.inSync)
}

// killComponent kills a part of the embedded cluster, which is then started again.
func (l *lab) killComponent(name string) {
	l.Helper()
	if err := syscall.Kill(l.component(name), syscall.SIGKILL); err != nil {
		l.Fatal(err)
	}
}

// component is the process of a part of the embedded cluster.
func (l *lab) component(name string) (pid int) {
	l.Helper()
	out, _, code := l.bight("cluster", "status", "-o", "json")
	if code != 0 {
		l.Fatal(out)
	}
	var report struct {
		Components []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		l.Fatal(err)
	}
	for _, c := range report.Components {
		if c.Name == name {
			return c.PID
		}
	}
	l.Fatalf("the cluster has no component %s", name)
	return 0
}

// throttle is a TCP proxy, on the way to the API server for one, that can go dead.
type throttle struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	dead     bool
	wake     chan struct{}
	conns    []net.Conn
}

// newThrottle starts a throttle on the way to an address of this machine.
func newThrottle(t *testing.T, target string) *throttle {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	th := &throttle{listener: listener, target: target, wake: make(chan struct{})}
	go th.serve()
	t.Cleanup(func() { listener.Close(); th.set(false) })
	return th
}

// throughThrottle makes a kubeconfig that leads through a throttle, and nowhere past it.
func throughThrottle(t *testing.T) (*throttle, string) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(os.Getenv("BIGHT_TEST_KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	cluster := config.Clusters[config.Contexts[config.CurrentContext].Cluster]
	th := newThrottle(t, strings.TrimPrefix(cluster.Server, "https://"))
	cluster.Server = "https://" + th.listener.Addr().String()
	cluster.Extensions = nil // the way to the pods
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return th, file
}

func (th *throttle) serve() {
	for {
		outer, err := th.listener.Accept()
		if err != nil {
			return
		}
		inner, err := net.Dial("tcp", th.target)
		if err != nil {
			outer.Close()
			continue
		}
		go th.copy(outer, inner)
		go th.copy(inner, outer)
	}
}

func (th *throttle) copy(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		th.pass()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				from.Close()
			}
			return
		}
	}
}

// pass returns once the throttle is alive.
func (th *throttle) pass() {
	for {
		th.mu.Lock()
		dead, wake := th.dead, th.wake
		th.mu.Unlock()
		if !dead {
			return
		}
		<-wake
	}
}

func (th *throttle) set(dead bool) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.dead = dead
	close(th.wake)
	th.wake = make(chan struct{})
}

func TestAConnectionThatIsCutForTenSecondsHeals(t *testing.T) {
	l := goApp(t)
	th, kubeconfig := throughThrottle(t)
	s := l.up("--kubeconfig", kubeconfig)
	s.serves("hello", "/", "first")
	th.set(true)
	l.write("main.go", server("second"))
	time.Sleep(10 * time.Second) // the length of the cut is what is tested
	th.set(false)
	s.serves("hello", "/", "second")
	l.eventually("in sync", l.inSync)
}

func TestAnEditThatLeavesSizeAndTimeIsSeen(t *testing.T) {
	l := staticApp(t)
	s := l.up()
	service := l.status().Services[0].Name
	s.serves(service, "/", "first")
	file := filepath.Join(l.dir, "index.html")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	// What a clock that was set back, or a tool that keeps times, leaves.
	if err := os.WriteFile(file, []byte("<h1>FIRST</h1>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	s.serves(service, "/", "FIRST")
	past := time.Now().Add(-24 * time.Hour)
	l.write("index.html", "<h1>older</h1>\n")
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
	s.serves(service, "/", "older")
	l.eventually("in sync", l.inSync)
}

func TestAFileThatChangesWhileItIsSentEndsUpRight(t *testing.T) {
	l := staticApp(t)
	s := l.up()
	service := l.status().Services[0].Name
	file := filepath.Join(l.dir, "large.txt")
	for round := range 30 {
		content := bytes.Repeat(fmt.Appendf(nil, "round %d\n", round), 1<<20)
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l.eventually("in sync", l.inSync)
	s.serves(service, "/large.txt", "round 29")
	if body, err := s.get(service, "/large.txt"); err != nil || strings.Contains(body, "round 28") || len(body) != 9*(1<<20) {
		t.Errorf("%d bytes are served, %v", len(body), err)
	}
}

func TestTheEnvironmentEnforcesRestricted(t *testing.T) {
	l := goApp(t)
	l.once()
	ns, err := client.CoreV1().Namespaces().Get(context(), l.namespace, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := ns.Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Errorf("pod-security.kubernetes.io/enforce is %q", got)
	}
	if err := l.inSync(); err != nil {
		t.Error(err)
	}
}

// fetchModule copies a Go module's source, as its author published it.
func fetchModule(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", module).Output()
	if err != nil {
		t.Fatalf("go mod download %s: %v\n%s", module, err, out)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "source")
	if err := os.CopyFS(dir, os.DirFS(m.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPodinfoRunsWithNoFileAdded(t *testing.T) {
	l := &lab{T: t, dir: fetchModule(t, "github.com/stefanprodan/podinfo@latest"), namespace: "t-podinfo"}
	l.vacate(l.namespace)
	t.Cleanup(l.remove)
	l.once()
	s := l.up()
	s.serves("podinfo", "/version", "version")
	s.serves("podinfo", "/readyz", "OK")
	l.eventually("in sync", l.inSync)
}

func shop(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, dir: filepath.Join(t.TempDir(), "shop"), namespace: name(t)}
	if err := os.CopyFS(l.dir, os.DirFS("../../examples/shop")); err != nil {
		t.Fatal(err)
	}
	l.vacate(l.namespace)
	t.Cleanup(l.remove)
	return l
}

func TestShopIsWiredByItsSourceAlone(t *testing.T) {
	l := shop(t)
	l.once()
	before := fmt.Sprint(l.pods())
	l.once()
	if after := fmt.Sprint(l.pods()); after != before {
		t.Errorf("a second run with nothing changed replaced pods: %s became %s", before, after)
	}
	s := l.up()
	s.serves("frontend", "/", "</html>")
	s.serves("web", "/", "</html>")
	for _, service := range l.status().Services {
		if !service.InSync || service.Ready != 1 {
			t.Errorf("%+v", service)
		}
	}
	s.signal(syscall.SIGINT)
	_, errs, code := l.bight("down", "-n", l.namespace)
	if code != 0 {
		t.Fatalf("bight down: exit code %d\n%s", code, errs)
	}
	if _, err := client.CoreV1().Namespaces().Get(context(), l.namespace, meta.GetOptions{}); err == nil {
		t.Error("the namespace is still there")
	}
}
