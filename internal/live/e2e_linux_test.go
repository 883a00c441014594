package live

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bightdev/bight/internal/agent"
	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/probe"
	"github.com/bightdev/bight/internal/tree"
)

// The test binary is also the agent and the services that it runs: the variable
// says which.
const roleEnv = "BIGHT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "agent":
		os.Exit(agentRole())
	case "limited":
		os.Exit(limitedRole())
	case "idle":
		time.Sleep(time.Hour)
	case "web":
		os.Exit(webRole())
	}
	fmt.Fprintln(os.Stderr, "unknown role")
	os.Exit(2)
}

// agentRole is the agent: DIR PORT, with the service's role in another variable.
func agentRole() int {
	dir, addr, ready := os.Args[1], os.Args[2], os.Args[3]
	os.Setenv(roleEnv, os.Getenv("BIGHT_TEST_SERVICE"))
	a := &agent.Agent{
		Name: "web", Root: filepath.Join(dir, "root"), Live: filepath.Join(dir, "live"), Token: "secret", Version: "test",
		Command: []string{"/proc/self/exe"}, RestartProcess: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if ready != "" {
		var err error
		if a.Probe, err = probe.Parse(ready); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	os.Unsetenv("BIGHT_TOKEN")
	code, err := a.Run(context.Background(), ln)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// webRole serves the files of its working directory as they were when it
// started: all of them in one answer, so that a mixture shows. A file named
// crash makes it exit.
func webRole() int {
	if b, err := os.ReadFile("crash"); err == nil {
		fmt.Printf("panic: %s\n", b)
		return 3
	}
	if _, err := os.Stat("stubborn"); err == nil {
		signal.Ignore(syscall.SIGTERM)
	}
	var all bytes.Buffer
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, rerr := os.ReadFile(p)
			fmt.Fprintf(&all, "%s=%x\n", p, sha256.Sum256(b))
			return rerr
		}
		return err
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(all.Bytes()) })
	fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
	return 1
}

// pod is an agent, as it would be in a pod, and a place to keep sources in.
type pod struct {
	t       testing.TB
	dir     string // root and live
	src     string
	port    string // of the service
	addr    string // of the agent
	service string
	cmd     *exec.Cmd
	dialed  atomic.Int64
	mu      sync.Mutex
	conns   []net.Conn
	cut     atomic.Bool // no connection is possible
	far     bool        // connections take a while
}

func newPod(t testing.TB, files map[string]string) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "bight-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := &pod{t: t, dir: dir, src: filepath.Join(dir, "src"), port: freePort(t), addr: "127.0.0.1:" + freePort(t), service: "web"}
	for _, d := range []string{"root", "live", "src"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		p.write(filepath.Join(dir, "root"), name, content)
		p.write(p.src, name, content)
	}
	return p
}

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (p *pod) write(dir, name, content string) {
	p.t.Helper()
	full := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// start starts the agent.
func (p *pod) start() {
	p.t.Helper()
	ready := "http:" + p.port + "/"
	if p.service == "idle" {
		ready = ""
	}
	p.cmd = exec.Command(os.Args[0], p.dir, p.addr, ready)
	p.cmd.Env = append(os.Environ(), roleEnv+"=agent", "BIGHT_TEST_SERVICE="+p.service, "PORT="+p.port)
	if testing.Verbose() {
		p.cmd.Stdout, p.cmd.Stderr = os.Stdout, os.Stderr
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd := p.cmd
	p.t.Cleanup(func() { p.stop(cmd, syscall.SIGTERM) })
}

func (p *pod) stop(cmd *exec.Cmd, sig syscall.Signal) {
	if cmd.ProcessState != nil {
		return
	}
	_ = cmd.Process.Signal(sig)
	// A service that ignores the signal is not waited for.
	late := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
}

// kill ends the agent as a node that loses power does: with all of its
// processes.
func (p *pod) kill() {
	p.t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err == nil {
			children = append(children, b...)
		}
	}
	p.stop(p.cmd, syscall.SIGKILL)
	for pid := range strings.FieldsSeq(string(children)) {
		var n int
		if _, err := fmt.Sscan(pid, &n); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

func (p *pod) dial(ctx context.Context) (net.Conn, error) {
	if p.cut.Load() {
		return nil, errors.New("the network is cut")
	}
	p.dialed.Add(1)
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", p.addr)
	if err == nil {
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
	}
	if err == nil && p.far {
		c = distant{c}
	}
	return c, err
}

// drop breaks every connection.
func (p *pod) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// events collects what a target tells.
type events struct {
	mu  sync.Mutex
	all []Event
	new chan struct{}
}

func (e *events) add(ev Event) {
	e.mu.Lock()
	e.all = append(e.all, ev)
	e.mu.Unlock()
	select {
	case e.new <- struct{}{}:
	default:
	}
}

// await returns the first event from the n-th on that match likes.
func (e *events) await(t testing.TB, from int, what string, match func(Event) bool) (Event, int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		e.mu.Lock()
		for i := from; i < len(e.all); i++ {
			if match(e.all[i]) {
				ev := e.all[i]
				e.mu.Unlock()
				return ev, i + 1
			}
		}
		e.mu.Unlock()
		select {
		case <-e.new:
		case <-deadline:
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, ev := range e.all {
				t.Logf("event %s seq %d err %v", ev.Kind, ev.Seq, ev.Err)
			}
			t.Fatalf("no %s", what)
		}
	}
}

func synced(seq uint64) func(Event) bool {
	return func(ev Event) bool { return ev.Kind == Synced && ev.Seq == seq }
}

func kind(k EventKind) func(Event) bool { return func(ev Event) bool { return ev.Kind == k } }

// target runs a target of p.
func (p *pod) target(name string) (*Target, *events) {
	p.t.Helper()
	ev := &events{new: make(chan struct{}, 1)}
	tg := NewTarget(TargetConfig{
		Name: "web-0", Dial: p.dial, Token: "secret", Client: name, Version: "test", Events: ev.add,
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tg.Run(ctx)
	}()
	p.t.Cleanup(func() {
		cancel()
		<-done
	})
	return tg, ev
}

// readTree reads a directory in the plainest way.
func readTree(t testing.TB, dir string) tree.Tree {
	t.Helper()
	out := tree.Tree{}
	err := filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil || full == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, full)
		if err != nil {
			return err
		}
		e := tree.Entry{Mode: st.Mode(), Local: full}
		switch {
		case st.IsDir():
			ents, err := os.ReadDir(full)
			if err != nil || len(ents) > 0 && st.Mode().Perm() == 0o755 {
				return err
			}
			e.Local = ""
		case st.Mode()&fs.ModeSymlink != 0:
			e.Mode, e.Local = fs.ModeSymlink, ""
			if e.Link, err = os.Readlink(full); err != nil {
				return err
			}
		default:
			b, err := os.ReadFile(full)
			if err != nil {
				return err
			}
			e.Size, e.Hash = int64(len(b)), sha256.Sum256(b)
		}
		out[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *pod) want(tg *Target, seq uint64) Wanted {
	p.t.Helper()
	w := Wanted{Tree: readTree(p.t, p.src), Restart: true, Seq: seq}
	tg.Want(w)
	return w
}

// same checks that what is on the pod's disk is what is wanted.
func (p *pod) same(w Wanted) {
	p.t.Helper()
	got := readTree(p.t, filepath.Join(p.dir, "live", "app"))
	if d := cmp.Diff(w.Tree, got, cmpopts.IgnoreFields(tree.Entry{}, "Local")); d != "" {
		p.t.Errorf("the pod's files differ (-want +got):\n%s", d)
	}
}

// manifest waits until the agent's notes of its tree, written in the background,
// have the content that file has in w.
func (p *pod) manifest(w Wanted, file string) {
	p.t.Helper()
	hash := w.Tree[file].Hash
	var notes []byte
	for range 1000 {
		notes, _ = os.ReadFile(filepath.Join(p.dir, "live", "manifest"))
		if bytes.Contains(notes, hash[:]) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("after 10 s the manifest (%d bytes) does not have %s", len(notes), file)
}

func (p *pod) get(ctx context.Context, tg *Target) (string, error) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var n int
			if _, err := fmt.Sscan(p.port, &n); err != nil {
				return nil, err
			}
			return tg.DialPort(ctx, n)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web/", nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestAnEditIsLive(t *testing.T) {
	p := newPod(t, map[string]string{"a.txt": "one", "dir/b.txt": "two"})
	p.start()
	tg, ev := p.target("anna")
	p.want(tg, 1)
	first, at := ev.await(t, 0, "sync", synced(1))
	if first.Files != 0 || first.Bytes != 0 {
		t.Errorf("files of the image were sent again: %+v", first)
	}
	ev.await(t, 0, "process in the greeting or event", func(ev Event) bool {
		return ev.Kind == Ready || ev.Kind == Connected && ev.State.Process.Phase == wire.Ready
	})
	for seq := uint64(2); seq < 6; seq++ {
		p.write(p.src, "a.txt", fmt.Sprintf("edit %d", seq))
		w := p.want(tg, seq)
		var done Event
		done, at = ev.await(t, at, "sync", synced(seq))
		if done.Files != 1 {
			t.Errorf("%d files were sent, want 1", done.Files)
		}
		ev.await(t, 0, "start", func(e Event) bool { return e.Kind == Started && e.Tree == done.Tree })
		up, _ := ev.await(t, at-1, "readiness", kind(Ready))
		t.Logf("diff %s send %s apply %s, ready after %s", done.Diff, done.Send, done.Apply, up.After)
		p.same(w)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	body, err := p.get(ctx, tg)
	want := fmt.Sprintf("a.txt=%x\n", sha256.Sum256([]byte("edit 5")))
	if err != nil || !strings.Contains(body, want) {
		t.Errorf("GET = %q, %v; want %q in it", body, err, want)
	}
	d, err := tg.Verify(ctx)
	if err != nil || d != tg.State().Want || !tg.State().InSync {
		t.Errorf("Verify = %s, %v; state %+v", d, err, tg.State())
	}
}
