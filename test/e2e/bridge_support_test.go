//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	stdcontext "context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube"
	sessions "github.com/bightdev/bight/internal/session"
)

// bay is the app whose requests the tests steer, deployed, and a way into its
// network. Of its services cart and stock answer with who they are, in every
// protocol; load asks them.
type bay struct {
	*lab
	programs string // directory of cart and tool, built for this machine
	proxy    string // where bight connect --proxy listens
}

// newBay deploys the app of testdata/bridge.
func newBay(t *testing.T) *bay {
	t.Helper()
	b := &bay{lab: &lab{T: t, dir: t.TempDir(), namespace: name(t)}, programs: t.TempDir()}
	b.vacate(b.namespace)
	t.Cleanup(b.remove)
	if err := os.CopyFS(b.dir, os.DirFS("testdata/bridge")); err != nil {
		t.Fatal(err)
	}
	// The modules are those of the example, so that they are there already.
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("../../examples/shop", file))
		if err != nil {
			t.Fatal(err)
		}
		b.write(file, regexp.MustCompile(`(?m)^module .*`).ReplaceAllString(string(content), "module example.com/bridge"))
	}
	build := exec.Command("go", "build", "-o", b.programs, "./cart", "./tool")
	build.Dir, build.Env = b.dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	b.once()
	s := b.background(nil, "connect", "--proxy", "--port", "0")
	s.says("HTTP_PROXY=http://")
	b.proxy = regexp.MustCompile(`HTTP_PROXY=http://(\S+)`).FindStringSubmatch(s.output.String())[1]
	// kube-proxy hears of pods that are ready when everybody does.
	for _, url := range []string{cart, stock, "http://load:8081/counters"} {
		b.eventually(url+" answers", func() error {
			_, err := b.ask(b.client(false, false), url)
			return err
		})
	}
	return b
}

// on is the bay for a subtest.
func (b *bay) on(t *testing.T) *bay {
	l := *b.lab
	l.T = t
	return &bay{lab: &l, programs: b.programs, proxy: b.proxy}
}

// program is the path of cart or tool.
func (b *bay) program(name string) string { return filepath.Join(b.programs, name) }

// running is a program of ours that runs.
type running struct {
	*session
	stdin io.Closer
}

// background starts bight with the lab's namespace; the test's end interrupts it.
func (b *bay) background(env []string, args ...string) *running {
	b.Helper()
	s := &running{session: &session{lab: b.lab, output: &lockedBuffer{}, ended: make(chan struct{})}}
	s.cmd = exec.Command(filepath.Join(binaries, "bight"), inNamespace(b.namespace, args)...)
	s.cmd.Dir, s.cmd.Env = b.dir, append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	go func() { defer close(s.ended); _ = s.cmd.Wait() }()
	b.Cleanup(func() {
		s.signal(syscall.SIGINT)
		if b.Failed() {
			b.Logf("bight %s said:\n%s", strings.Join(args, " "), s.output)
		}
	})
	return s
}

// inNamespace puts -n at the end of the arguments, but before --.
func inNamespace(namespace string, args []string) []string {
	for i, a := range args {
		if a == "--" {
			return append(append(append([]string{}, args[:i]...), "-n", namespace), args[i:]...)
		}
	}
	return append(append([]string{}, args...), "-n", namespace)
}

// run runs bight run to its end.
func (b *bay) run(args ...string) (stdout, stderr string, code int) {
	b.Helper()
	return b.bight(inNamespace(b.namespace, append([]string{"run"}, args...))...)
}

// intercept starts bight intercept and waits until it is in force.
func (b *bay) intercept(user string, args ...string) *running {
	b.Helper()
	s := b.background([]string{"BIGHT_USER=" + user}, append([]string{"intercept"}, args...)...)
	b.eventually("the intercept is in force", func() error {
		select {
		case <-s.ended:
			b.Fatalf("bight intercept has ended with %d:\n%s", s.cmd.ProcessState.ExitCode(), s.output)
		default:
		}
		if !strings.Contains(s.output.String(), "in force in ") {
			return errors.New("it does not say so")
		}
		return nil
	})
	return s
}

// leave interrupts, and waits until the agents have no rule.
func (b *bay) leave(all ...*running) {
	b.Helper()
	for _, s := range all {
		if code := s.signal(syscall.SIGINT); code != 130 {
			b.Errorf("bight intercept ends with %d, want 130:\n%s", code, s.output)
		}
	}
	if left := b.list(); len(left) > 0 {
		b.Errorf("after the end there is %+v", left)
	}
}

// list is what bight intercept list prints.
func (b *bay) list() []bridge.Intercept {
	b.Helper()
	out, errs, code := b.bight("intercept", "list", "-o", "json", "-n", b.namespace)
	var list struct{ Intercepts []bridge.Intercept }
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil {
		b.Fatalf("bight intercept list: exit code %d, %v\n%s", code, err, errs)
	}
	return list.Intercepts
}

// laptop is a process like those of the services, on this machine.
type laptop struct {
	who    string
	offset int
}

// laptop starts one.
func (b *bay) laptop(who string) *laptop {
	b.Helper()
	p := &laptop{who: who, offset: freeOffset(b.T)}
	cmd := exec.Command(b.program("cart"))
	cmd.Env = append(os.Environ(), p.env()...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	b.eventually(who+" listens", func() error {
		_, err := p.counters()
		return err
	})
	return p
}

func (p *laptop) env() []string { return []string{"WHO=" + p.who, fmt.Sprint("OFFSET=", p.offset)} }

// at is where a port of the services is, as --port has it.
func (p *laptop) at(port int) string { return fmt.Sprintf("%d:%d", port+p.offset, port) }

// counters are how many requests and probes have come.
func (p *laptop) counters() (map[string]int, error) {
	return counters(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d", 8080+p.offset))
}

func counters(c *http.Client, url string) (map[string]int, error) {
	response, err := c.Get(url + "/counters")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	all := map[string]int{}
	return all, json.NewDecoder(response.Body).Decode(&all)
}

// freeOffset is by how much the services' ports have to be moved to be free here.
func freeOffset(t *testing.T) int {
	t.Helper()
next:
	for offset := 2000 + os.Getpid()%5000; offset < 50000; offset += 17 {
		for _, port := range []int{8080, 9090, 7000} {
			ln, err := net.Listen("tcp", fmt.Sprint(":", port+offset))
			if err != nil {
				continue next
			}
			ln.Close()
		}
		return offset
	}
	t.Fatal("no free ports")
	return 0
}

// dial connects to an address of the cluster through the proxy.
func (b *bay) dial(ctx stdcontext.Context, _, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", b.proxy)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", address)
	buffered := bufio.NewReader(c)
	response, err := http.ReadResponse(buffered, nil)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	if err == nil && buffered.Buffered() > 0 {
		err = errors.New("the far side spoke first")
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return c, nil
}

// client speaks HTTP/1 to the cluster, or HTTP/2 without TLS. Without keep each
// request has a connection of its own.
func (b *bay) client(http2, keep bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{DialContext: b.dial, Protocols: protocols, DisableKeepAlives: !keep && !http2}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// answer is what came back for a request.
type answer struct {
	code   int
	who    string
	marker string // why it was not a laptop that answered
	body   string
}

// ask asks for the page of a service, with the headers given as name and value.
func (b *bay) ask(c *http.Client, url string, headers ...string) (answer, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header.Get("X-Who"), response.Header.Get("Bight-Intercept"), string(body)}, err
}

// answers fails the test unless who answers each of a few requests.
func (b *bay) answers(who string, c *http.Client, url string, headers ...string) {
	b.Helper()
	for range 5 {
		if a, err := b.ask(c, url, headers...); err != nil || a.code != http.StatusOK || a.who != who {
			b.Errorf("%s %q is answered by %q (%d), %v; want %s", url, headers, a.who, a.code, err, who)
			return
		}
	}
}

// until asks until who answers, and says how long that took. No request may fail.
func (b *bay) until(who, url string) time.Duration {
	b.Helper()
	began, c := time.Now(), b.client(false, false)
	for time.Since(began) < 20*time.Second {
		a, err := b.ask(c, url)
		if err != nil || a.code != http.StatusOK {
			b.Errorf("a request fails %s after: %d, %v", time.Since(began), a.code, err)
		}
		if a.who == who {
			return time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatalf("%s does not answer %s", who, url)
	return 0
}

// counts are what the service load has counted.
type counts struct {
	Requests, Streams, Failed int
	By                        map[string]int
	Errors                    []string
	Slowest                   float64
}

// load tells the service load something.
func (b *bay) load(path string, into any) {
	b.Helper()
	c := b.client(false, false)
	c.Timeout = patience
	a, err := b.ask(c, "http://load:8081"+path)
	if err == nil && a.code != http.StatusOK {
		err = fmt.Errorf("%d %s", a.code, a.body)
	}
	if err == nil && into != nil {
		err = json.Unmarshal([]byte(a.body), into)
	}
	if err != nil {
		b.Fatalf("load %s: %v", path, err)
	}
}

// pod is one running pod of a service.
func (b *bay) pod(service string) *core.Pod {
	b.Helper()
	list, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil && sessions.ServiceOf(p) == service {
			return p
		}
	}
	b.Fatalf("%s has no pod", service)
	return nil
}

// bridge is what the commands use, for a test that engages more often than it can
// start programs.
func (b *bay) bridge() *bridge.Bridge {
	b.Helper()
	cluster, err := kube.Load(kube.Options{Namespace: b.namespace})
	if err != nil {
		b.Fatal(err)
	}
	token, err := (&deploy.Applier{Client: client}).Token(context(), b.namespace, "bridge")
	if err != nil {
		b.Fatal(err)
	}
	return &bridge.Bridge{
		Cluster: cluster, Namespace: b.namespace, App: "bridge", Selector: sessions.Selector("bridge"), Service: sessions.ServiceOf,
		Services: []string{"cart", "load", "stock"},
		Agent: func(pod *core.Pod) (int, bool) {
			agent, ok := deploy.AgentIn(&pod.Spec, sessions.ServiceOf(pod))
			return agent.Port, ok
		},
		Token: token, Owner: "tester@here", Say: func(text string) { b.Log(text) }, Log: slog.New(slog.DiscardHandler),
	}
}

// processes are those of this machine whose command line has a text in it.
func processes(t *testing.T, text string) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if line, _ := os.ReadFile(file); bytes.Contains(line, []byte(text)) { // it may have ended
			all = append(all, file+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return all
}
