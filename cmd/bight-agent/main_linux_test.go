package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/tree"
)

// The programs that are tested, built once.
var agentBin, serviceBin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "bight-agent-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	agentBin, serviceBin = filepath.Join(dir, "agent"), filepath.Join(dir, "service")
	for bin, pkg := range map[string]string{agentBin: ".", serviceBin: "./testdata/service"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	return m.Run()
}

// Everything that is imported is copied into every pod.
func TestImportsAreFew(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	const own = "github.com/bightdev/bight/"
	allowed := regexp.MustCompile(`^(golang\.org/x/(sys|net/bpf|sync/errgroup)(/.*)?|github\.com/klauspost/compress(/.*)?|` +
		`github\.com/(google/nftables|mdlayher/(netlink|socket))(/.*)?|` +
		own + `(cmd/bight-agent|internal/(atomicfile|agent|agent/(confine|gate|node|static)|live/wire|live/delta|probe|procnet|reach|steer|stream|stream/direct|tree)))$`)
	for pkg := range strings.FieldsSeq(string(out)) {
		if !allowed.MatchString(pkg) {
			t.Errorf("the agent imports %s", pkg)
		}
	}
}

func TestSize(t *testing.T) {
	st, err := os.Stat(agentBin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", st.Size())
	if st.Size() > 12<<20 {
		t.Errorf("the agent has %d bytes, want less than 12 MiB", st.Size())
	}
}

// buffer is what a process has printed.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 15 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// pod is an agent in a directory that is laid out like a container's root.
type pod struct {
	t         *testing.T
	dir       string
	addr      string
	port      string
	out, errs buffer
	cmd       *exec.Cmd
	sandboxed bool
	flags     []string
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t, dir: t.TempDir(), addr: "127.0.0.1:" + freePort(t), port: freePort(t)}
	// TempDir is for its owner only.
	must(t, os.Chmod(p.dir, 0o755), os.Chmod(filepath.Dir(p.dir), 0o755))
	for _, d := range []string{"bight/live", "srv/app", "proc"} {
		must(t, os.MkdirAll(filepath.Join(p.dir, d), 0o755))
	}
	copyFile(t, agentBin, filepath.Join(p.dir, "bight/agent"))
	copyFile(t, serviceBin, filepath.Join(p.dir, "srv/app/service"))
	must(t, os.WriteFile(filepath.Join(p.dir, "srv/app/version.txt"), []byte("image"), 0o644))
	return p
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o755))
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must(t, err)
	return port
}

// mount gives the live directory a file system of its own.
func (p *pod) mount(size string) {
	p.t.Helper()
	live := filepath.Join(p.dir, "bight/live")
	must(p.t, unix.Mount("tmpfs", live, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0777,size="+size))
	p.t.Cleanup(func() { must(p.t, unix.Unmount(live, unix.MNT_DETACH)) })
}

// sandbox makes the pod like one under the restricted policy, in an image from
// scratch: a root that can't be written, nothing in it but the two programs, a
// user without a name, a process number space of its own. Not even /proc is
// there.
func (p *pod) sandbox() {
	p.t.Helper()
	must(p.t, unix.Mount(p.dir, p.dir, "", unix.MS_BIND, ""))
	p.t.Cleanup(func() { must(p.t, unix.Unmount(p.dir, unix.MNT_DETACH)) })
	must(p.t, unix.Mount("", p.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	p.mount("64m")
	p.sandboxed = true
}

func (p *pod) path(name string) string {
	if p.sandboxed {
		return "/" + name
	}
	return filepath.Join(p.dir, name)
}

// command is the agent with some arguments, in the pod.
func (p *pod) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.path("bight/agent"), args...)
	cmd.Env = []string{"BIGHT_TOKEN=secret", "PORT=" + p.port, "PATH=/bin"}
	if p.sandboxed {
		cmd.Dir = "/srv/app"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Chroot:     p.dir,
			Credential: &syscall.Credential{Uid: 65532, Gid: 65532},
			Cloneflags: syscall.CLONE_NEWPID,
		}
	}
	return cmd
}

// start runs the agent with a service; args are of that.
func (p *pod) start(args ...string) {
	p.t.Helper()
	all := append([]string{"run", "--root", p.path("srv/app"), "--live", p.path("bight/live"), "--listen", p.addr, "--name", "web"}, p.flags...)
	all = append(append(all, "--", "./service"), args...)
	p.cmd = p.command(all...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	must(p.t, p.cmd.Start())
	cmd := p.cmd
	p.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			killAll(cmd.Process.Pid)
			_ = cmd.Wait()
		}
		if p.t.Failed() {
			p.t.Logf("stdout: %s\nstderr: %s", p.out.String(), p.errs.String())
		}
	})
}

// stop asks the agent to stop and returns its exit code.
func (p *pod) stop() int {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// session is a target and what it has told.
type session struct {
	*live.Target
	mu     sync.Mutex
	events []live.Event
}

func (s *session) find(match func(live.Event) bool) (live.Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.events) - 1; i >= 0; i-- {
		if match(s.events[i]) {
			return s.events[i], true
		}
	}
	return live.Event{}, false
}

func (s *session) await(t *testing.T, what string, match func(live.Event) bool) (ev live.Event) {
	t.Helper()
	eventually(t, what, func() (ok bool) { ev, ok = s.find(match); return ok })
	return ev
}

func (p *pod) session() *session {
	s := &session{}
	s.Target = live.NewTarget(live.TargetConfig{
		Name: "web", Token: "secret", Client: "test",
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", p.addr)
		},
		Events: func(ev live.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, ev)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	p.t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// want is a tree of the service and some files.
func want(t *testing.T, seq uint64, files map[string]string) live.Wanted {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile(serviceBin)
	must(t, err)
	w := live.Wanted{Restart: true, Seq: seq, Tree: tree.Tree{
		"service": {Mode: 0o755, Size: int64(len(b)), Hash: sha256.Sum256(b), Local: serviceBin},
	}}
	for name, content := range files {
		local := filepath.Join(dir, name)
		must(t, os.WriteFile(local, []byte(content), 0o644))
		w.Tree[name] = tree.Entry{Mode: 0o644, Size: int64(len(content)), Hash: sha256.Sum256([]byte(content)), Local: local}
	}
	return w
}

func synced(seq uint64) func(live.Event) bool {
	return func(ev live.Event) bool { return ev.Kind == live.Synced && ev.Seq == seq }
}

func (p *pod) get() string {
	resp, err := http.Get("http://127.0.0.1:" + p.port + "/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// isReady asks as kubelet does.
func (p *pod) isReady(port string) {
	p.t.Helper()
	eventually(p.t, "the agent answers kubelet", func() bool {
		resp, err := http.Get("http://127.0.0.1:" + port + "/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func TestRestrictedPodFromScratch(t *testing.T) {
	p := newPod(t)
	p.sandbox()
	at := freePort(t)
	p.flags = []string{"--ready", "http:" + p.port + "/", "--ready-at", at}
	p.start()
	p.isReady(at)
	if got, want := p.get(), "image 65532 /srv/app"; got != want {
		t.Errorf("before an edit: %q, want %q", got, want)
	}
	s := p.session()
	for seq := uint64(1); seq < 4; seq++ {
		content := fmt.Sprintf("edit %d", seq)
		s.Want(want(t, seq, map[string]string{"version.txt": content}))
		done := s.await(t, "sync", synced(seq))
		if done.Content > 100 {
			t.Errorf("edit %d: %d bytes of content were sent", seq, done.Content)
		}
		expect := content + " 65532 /bight/live/app"
		eventually(t, content, func() bool { return p.get() == expect })
	}
	if d, err := s.Verify(t.Context()); err != nil || d != s.State().Want {
		t.Errorf("Verify = %s, %v", d, err)
	}
	// The agent is the first process: only it can have handled the signal.
	if code := p.stop(); code != 128+15 {
		t.Errorf("exit code %d, want 143", code)
	}
	// A container that is restarted goes on with the newest files.
	p.start()
	eventually(t, "the newest files", func() bool { return p.get() == "edit 3 65532 /bight/live/app" })
}

func TestMemory(t *testing.T) {
	p := newPod(t)
	p.mount("200m")
	p.start()
	s := p.session()
	s.Want(want(t, 1, map[string]string{"version.txt": "1", "big": strings.Repeat("0123456789abcdef", 1<<19)}))
	s.await(t, "sync", synced(1))
	for seq := uint64(2); seq < 5; seq++ {
		s.Want(want(t, seq, map[string]string{"version.txt": "1", "big": strings.Repeat("0123456789abcde"+strconv.Itoa(int(seq)), 1<<19)}))
		s.await(t, "sync", synced(seq))
	}
	var kib int
	eventually(t, "less than 15 MiB resident", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		must(t, err)
		m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
		kib, err = strconv.Atoi(string(m[1]))
		must(t, err)
		return kib < 15<<10
	})
	t.Logf("%d KiB resident", kib)
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"exit-on-term", "0"}, 0},
		{[]string{"exit-on-term", "7"}, 7},
		{[]string{"serve"}, 128 + int(syscall.SIGTERM)},
		{[]string{"die", "9"}, 128 + 9}, // waiting to be started again
	} {
		p := newPod(t)
		p.start(tt.args...)
		if tt.args[0] != "serve" {
			eventually(t, "start", func() bool { return strings.Contains(p.out.String(), "up") })
		} else {
			eventually(t, "start", func() bool { return strings.HasPrefix(p.get(), "image") })
		}
		if tt.args[0] == "die" {
			eventually(t, "end", func() bool { return len(children(p.cmd.Process.Pid)) == 0 })
		}
		if got := p.stop(); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.args, got, tt.want)
		}
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	p := newPod(t)
	p.start("signals")
	eventually(t, "start", func() bool { return strings.Contains(p.out.String(), "up") })
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, 40} {
		must(t, p.cmd.Process.Signal(sig))
		eventually(t, sig.String(), func() bool { return strings.Contains(p.out.String(), fmt.Sprintf("got %d\n", int(sig))) })
	}
	if code := p.stop(); code != 0 || !strings.HasSuffix(p.out.String(), "got 15\n") {
		t.Errorf("exit code %d, output %q", code, p.out.String())
	}
}

// killAll ends a process and what it has started, which would outlive it outside of a pod.
func killAll(pid int) {
	_ = syscall.Kill(pid, syscall.SIGSTOP) // it starts nothing more
	below := children(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for child := range below {
		killAll(child)
	}
}

// children returns the states of the children of a process, by their numbers.
func children(pid int) map[int]string {
	states := map[int]string{}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(b)) {
			n, _ := strconv.Atoi(f)
			st, err := os.ReadFile("/proc/" + f + "/stat")
			if err != nil {
				continue
			}
			states[n] = string(st[bytes.LastIndexByte(st, ')')+2:][:1])
		}
	}
	return states
}

func TestOrphansAreReapedAndKilledAtARestart(t *testing.T) {
	p := newPod(t)
	p.start("orphans")
	eventually(t, "start", func() bool { return strings.HasPrefix(p.get(), "image") })
	// The service and the orphan that lives long; those that lived short are gone.
	eventually(t, "reaping", func() bool {
		c := children(p.cmd.Process.Pid)
		for _, state := range c {
			if state == "Z" {
				return false
			}
		}
		return len(c) == 2
	})
	before := children(p.cmd.Process.Pid)
	s := p.session()
	s.Want(want(t, 1, map[string]string{"version.txt": "next"}))
	eventually(t, "restart", func() bool { return strings.HasPrefix(p.get(), "next") })
	eventually(t, "the end of the old ones", func() bool {
		for pid := range children(p.cmd.Process.Pid) {
			if _, old := before[pid]; old {
				return false
			}
		}
		return true
	})
}

func TestOutputAndEnvironment(t *testing.T) {
	p := newPod(t)
	p.start("talk")
	app := "BIGHT_APP=" + p.path("bight/live/app")
	eventually(t, "output", func() bool { return p.out.String() == "to stdout "+app && p.errs.String() == "to stderr" })
	s := p.session()
	eventually(t, "last output", func() bool {
		b, err := s.Output(t.Context())
		return err == nil && strings.Contains(string(b), "to stdout") && strings.Contains(string(b), "to stderr")
	})
}

func TestFullDisk(t *testing.T) {
	p := newPod(t)
	p.mount("8m")
	p.start()
	s := p.session()
	s.Want(want(t, 1, map[string]string{"version.txt": "small"}))
	eventually(t, "first edit", func() bool { return strings.HasPrefix(p.get(), "small") })
	s.Want(want(t, 2, map[string]string{"version.txt": "large", "big": strings.Repeat("x", 20<<20)}))
	told := s.await(t, "problem", func(ev live.Event) bool { return ev.Kind == live.Problem })
	if msg := told.Err.Error(); !strings.Contains(msg, "no space left") || !strings.Contains(msg, "20 MiB") || !strings.Contains(msg, "of 8192 KiB are free") {
		t.Errorf("problem: %s", msg)
	}
	if got := p.get(); !strings.HasPrefix(got, "small") {
		t.Errorf("after the failure: %q", got)
	}
	// What is announced fits, what comes with the file system's own needs does not.
	var st unix.Statfs_t
	must(t, unix.Statfs(filepath.Join(p.dir, "bight/live"), &st))
	free := int(st.Bavail) * int(st.Bsize)
	many := map[string]string{"version.txt": "many"}
	for i := range 1500 {
		many[fmt.Sprintf("f%d", i)] = strings.Repeat("x", free/1500-50)
	}
	s.Want(want(t, 3, many))
	s.await(t, "problem while staging", func(ev live.Event) bool {
		return ev.Kind == live.Problem && strings.Contains(ev.Err.Error(), "stopped at")
	})
	s.Want(want(t, 4, map[string]string{"version.txt": "fits"}))
	s.await(t, "sync", synced(4))
	eventually(t, "the edit that fits", func() bool { return strings.HasPrefix(p.get(), "fits") })
}

func TestLiveDirectoryThatCanNotBeWritten(t *testing.T) {
	p := newPod(t)
	p.sandbox()
	must(t, unix.Mount("", filepath.Join(p.dir, "bight/live"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	p.start()
	eventually(t, "the process runs all the same", func() bool { return strings.HasPrefix(p.get(), "image") })
	s := p.session()
	s.Want(want(t, 1, map[string]string{"version.txt": "next"}))
	told := s.await(t, "problem", func(ev live.Event) bool { return ev.Kind == live.Problem })
	if !strings.Contains(told.Err.Error(), "read-only file system") {
		t.Errorf("problem: %v", told.Err)
	}
}

func TestRestartTime(t *testing.T) {
	p := newPod(t)
	p.flags = []string{"--ready", "tcp:" + p.port}
	p.start()
	s := p.session()
	var stop, up []time.Duration
	for seq := uint64(1); seq < 12; seq++ {
		s.Want(want(t, seq, map[string]string{"version.txt": fmt.Sprint(seq)}))
		done := s.await(t, "sync", synced(seq))
		started := s.await(t, "start", func(ev live.Event) bool { return ev.Kind == live.Started && ev.Tree == done.Tree })
		ready := s.await(t, "readiness", func(ev live.Event) bool { return ev.Kind == live.Ready && ev.Pid == started.Pid })
		stop, up = append(stop, started.After), append(up, ready.After)
	}
	t.Logf("order to start: %v", stop)
	t.Logf("start to ready: %v", up)
}

func TestStaticSiteUnderLiveUpdate(t *testing.T) {
	p := newPod(t)
	p.mount("64m")
	must(t, os.WriteFile(filepath.Join(p.dir, "srv/app/index.html"), []byte("image"), 0o644))
	p.cmd = p.command("run", "--root", p.path("srv/app"), "--live", p.path("bight/live"), "--listen", p.addr,
		"--ready", "http:"+p.port+"/", "--", p.path("bight/agent"), "static", "--root", p.path("srv/app"), "--listen", ":"+p.port)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	must(t, p.cmd.Start())
	defer p.stop()
	eventually(t, "the image's page", func() bool { return p.get() == "image" })
	pids := children(p.cmd.Process.Pid)
	s := p.session()
	for seq := uint64(1); seq < 5; seq++ {
		w := want(t, seq, map[string]string{"index.html": fmt.Sprint("edit ", seq)})
		w.Restart = false
		s.Want(w)
		s.await(t, "sync", synced(seq))
		if got := p.get(); got != fmt.Sprint("edit ", seq) {
			t.Errorf("edit %d: %q", seq, got)
		}
	}
	for pid := range children(p.cmd.Process.Pid) {
		if _, ok := pids[pid]; !ok {
			t.Error("the server was started anew")
		}
	}
}

func TestBadUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "usage"},
		{[]string{"fly"}, 2, `unknown command "fly"`},
		{[]string{"run", "--listen", "127.0.0.1:0"}, 2, "no command"},
		{[]string{"run", "--listen", "127.0.0.1:0", "--", "x"}, 2, "no token"},
		{[]string{"run", "--nonsense"}, 2, "not defined"},
		{[]string{"ready"}, 2, `unknown command "ready"`},
		{[]string{"static", "--listen", "nowhere"}, 1, "nowhere"},
	} {
		t.Setenv("BIGHT_TOKEN", "")
		var out, errs bytes.Buffer
		if code := run(tt.args, &out, &errs); code != tt.code || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: exit code %d, stderr %q", tt.args, code, errs.String())
		}
	}
	t.Setenv("BIGHT_TOKEN", "x")
	for _, listen := range []string{":80", "0.0.0.0:80", "8080", "10.0.0.1:80"} {
		var out, errs bytes.Buffer
		if code := run([]string{"run", "--listen", listen, "--", "x"}, &out, &errs); code != 2 || !strings.Contains(errs.String(), "--listen") {
			t.Errorf("--listen %s: exit code %d, stderr %q", listen, code, errs.String())
		}
	}
}
