package supervisor

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// script is a component that is a line of shell.
func script(t *testing.T, name, line string) process {
	t.Helper()
	return process{
		name: name, role: serves, argv: []string{"/bin/sh", "-c", line}, dir: t.TempDir(),
		log: filepath.Join(t.TempDir(), name+".log"), term: syscall.SIGTERM, wait: 10 * time.Second,
	}
}

// waitFor waits for a component to be as f wants it.
func waitFor(t *testing.T, ps *processes, name string, f func(Process) bool) Process {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		for _, p := range ps.snapshot() {
			if p.Name == name && f(p) {
				return p
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", name, ps.snapshot())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAComponentThatEndsIsStartedAgain(t *testing.T) {
	changes := make(chan struct{}, 100)
	ps := newProcesses(quiet(), func() { changes <- struct{}{} })
	ps.keep(t.Context(), script(t, "weak", "echo 'error: no disk' >&2; exit 3"))
	p := waitFor(t, ps, "weak", func(p Process) bool { return p.Restarts >= 2 })
	if p.Error != "exit status 3" || p.LastWord != "error: no disk" {
		t.Errorf("got %+v", p)
	}
	ps.stop(func(process) bool { return true })
	if len(changes) < 4 { // two starts, two ends
		t.Errorf("told of %d changes", len(changes))
	}
	after := ps.snapshot()[0]
	if after.PID != 0 {
		t.Errorf("after stop: %+v", after)
	}
}

func TestAKilledComponentHasAnotherPID(t *testing.T) {
	ps := newProcesses(quiet(), func() {})
	ps.keep(t.Context(), script(t, "strong", "exec sleep 60"))
	defer ps.stop(func(process) bool { return true })
	first := waitFor(t, ps, "strong", func(p Process) bool { return p.PID != 0 })
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := waitFor(t, ps, "strong", func(p Process) bool { return p.PID != 0 && p.Restarts == 1 })
	if second.PID == first.PID || second.Error != "signal: killed" {
		t.Errorf("got %+v, was %+v", second, first)
	}
}

func TestComponentsEndInTheirOrder(t *testing.T) {
	ps := newProcesses(quiet(), func() {})
	ctx, cancel := context.WithCancel(t.Context())
	kubelet := script(t, "kubelet", "exec sleep 60")
	kubelet.role = drives
	ps.keep(ctx, kubelet)
	ps.keep(ctx, script(t, "etcd", "exec sleep 60"))
	waitFor(t, ps, "etcd", func(p Process) bool { return p.PID != 0 })
	waitFor(t, ps, "kubelet", func(p Process) bool { return p.PID != 0 })
	cancel() // the cluster is told to end; its components are, in their order
	ps.stop(func(p process) bool { return p.role == drives })
	waitFor(t, ps, "kubelet", func(p Process) bool { return p.PID == 0 })
	waitFor(t, ps, "etcd", func(p Process) bool { return p.PID != 0 })
	ps.stop(func(process) bool { return true })
	waitFor(t, ps, "etcd", func(p Process) bool { return p.PID == 0 })
}

func TestAComponentThatDoesNotListenIsKilled(t *testing.T) {
	ps := newProcesses(quiet(), func() {})
	p := script(t, "deaf", "trap '' TERM; echo deaf; exec sleep 60")
	p.wait = 20 * time.Millisecond
	ps.keep(t.Context(), p)
	deadline := time.Now().Add(20 * time.Second)
	for { // until it does not listen
		if b, _ := os.ReadFile(p.log); contains(string(b), "deaf") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it did not start")
		}
		time.Sleep(time.Millisecond)
	}
	pid := ps.snapshot()[0].PID
	ps.stop(func(process) bool { return true })
	if err := syscall.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d: got %v, want that it is gone", pid, err)
	}
}

func TestAComponentWaitsForTheSocketThatItNeeds(t *testing.T) {
	ps := newProcesses(quiet(), func() {})
	p := script(t, "kubelet", "exec sleep 60")
	p.needs = filepath.Join(t.TempDir(), "s")
	ps.keep(t.Context(), p)
	defer ps.stop(func(process) bool { return true })
	if got := ps.snapshot()[0]; got.PID != 0 {
		t.Fatalf("it was started before there is a socket: %+v", got)
	}
	l, err := net.Listen("unix", p.needs)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	waitFor(t, ps, "kubelet", func(p Process) bool { return p.PID != 0 })
}

func TestAProgramThatIsNotThere(t *testing.T) {
	ps := newProcesses(quiet(), func() {})
	p := script(t, "gone", "")
	p.argv = []string{"/no/such/program"}
	ps.keep(t.Context(), p)
	defer ps.stop(func(process) bool { return true })
	got := waitFor(t, ps, "gone", func(p Process) bool { return p.Restarts > 0 })
	if !contains(got.Error, "/no/such/program") {
		t.Errorf("got %+v", got)
	}
}

// TestOrphansAreReaped makes this process one that orphans fall to.
func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	s := &Supervisor{Log: quiet(), processes: newProcesses(quiet(), func() {})}
	stop := s.reap()
	// The shell's child outlives it, and says who it is.
	out, err := s.processes.output(exec.Command("/bin/sh", "-c", "(sleep 0.05 >/dev/null & echo $!)"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatalf("orphan %d is still there", pid)
		}
		time.Sleep(time.Millisecond)
	}
	stop()
}

func (ps *processes) output(cmd *exec.Cmd) (string, error) {
	var out strings.Builder
	cmd.Stdout = &out
	err := ps.call(cmd, nil)
	return out.String(), err
}

func TestWhatIsWrongIsExplained(t *testing.T) {
	cause := errors.New("no answer")
	weak := Process{Name: "etcd", PID: 0, Restarts: 2, Error: "exit status 1", LastWord: "no disk", Log: "/l/etcd.log"}
	broken := Process{Name: "dns", Restarts: hopelessRestarts, Error: "exit status 2", LastWord: "bad port", Log: "/l/dns.log"}
	for _, c := range []struct {
		name     string
		all      []Process
		about    string
		words    []string
		hopeless bool
	}{
		{"it runs", []Process{{Name: "etcd", PID: 7, Log: "/l/etcd.log"}}, "etcd", []string{"no answer", "etcd is running", "/l/etcd.log"}, false},
		{"it ends", []Process{weak}, "etcd", []string{"no answer", "etcd has ended 2 times", "exit status 1", "no disk", "/l/etcd.log"}, false},
		{"another ends again and again", []Process{weak, broken}, "etcd", []string{"dns has ended 5 times", "bad port", "/l/dns.log"}, true},
		{"not started", nil, "etcd", []string{"no answer"}, false},
	} {
		err := explain(c.all, c.about, cause)
		if isHopeless(err) != c.hopeless {
			t.Errorf("%s: hopeless is %v", c.name, !c.hopeless)
		}
		for _, word := range c.words {
			if !contains(err.Error(), word) {
				t.Errorf("%s: the error lacks %q: %v", c.name, word, err)
			}
		}
	}
}

func TestUntilGivesUpOnWhatIsHopeless(t *testing.T) {
	calls := 0
	err := until(t.Context(), time.Minute, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return hopeless{errors.New("never")}
	})
	if err == nil || err.Error() != "never" || calls != 3 {
		t.Errorf("got %v after %d calls", err, calls)
	}
	if err := until(t.Context(), 0, func() error { return errors.New("no socket") }); err == nil || !contains(err.Error(), "no socket") {
		t.Errorf("after its time: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := until(ctx, time.Minute, func() error { return errors.New("no socket") }); !errors.Is(err, context.Canceled) {
		t.Errorf("after a cancel: got %v", err)
	}
}
