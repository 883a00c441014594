package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

const rest = " 1 1 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 7 0 98765 1000000 200\n"

func TestStatIsReadWhateverTheNameHolds(t *testing.T) {
	for _, c := range []struct {
		line string
		want Stat
		ok   bool
	}{
		{"17 (sleep) S 3" + rest, Stat{17, "sleep", 'S', 3, 98765}, true},
		{"17 (a) Z 9) (b) Z 3" + rest, Stat{17, "a) Z 9) (b", 'Z', 3, 98765}, true},
		{"17 (new\nline) R 0" + rest, Stat{17, "new\nline", 'R', 0, 98765}, true},
		{"17 (short) S 3 1 1", Stat{}, false},
		{"x (sleep) S 3" + rest, Stat{}, false},
		{"17 sleep S 3" + rest, Stat{}, false},
		{")(", Stat{}, false},
		{"", Stat{}, false},
	} {
		got, err := parseStat([]byte(c.line))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: got %+v, %v; want %+v, ok %v", c.line, got, err, c.want, c.ok)
		}
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("17 (sleep) S 3" + rest))
	f.Add([]byte("1 () ) Z"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(b); err != nil && s != (Stat{}) {
			t.Errorf("an error and a result: %+v, %v", s, err)
		}
	})
}

func TestInnerPIDs(t *testing.T) {
	for status, want := range map[string][]int{
		"Name:\tx\nNSpid:\t4711\t12\t1\nNSpgid:\t1\n": {4711, 12, 1},
		"NSpid:\t9\n":    {9},
		"NSpid:\tnine\n": nil,
		"Name:\tx\n":     nil,
	} {
		if got := parseInnerPIDs(status); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", status, got, want)
		}
	}
}

func TestEndedChildrenAreFound(t *testing.T) {
	child := start(t, "true")
	deadline := time.Now().Add(10 * time.Second)
	for !slices.Contains(Ended(os.Getpid()), child.Process.Pid) {
		if time.Now().After(deadline) {
			t.Fatal("a child that has ended is not found")
		}
		time.Sleep(time.Millisecond)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(Ended(os.Getpid()), child.Process.Pid) {
		t.Error("a child that was collected is found")
	}
}

func TestWaitEndsWithTheProcess(t *testing.T) {
	child := start(t, "sleep", "60")
	p, err := Open(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while it runs: got %v, want the context's error", err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatalf("after it was killed: %v", err)
	}
	// It has not been collected yet, but it has ended.
	if _, err := Open(child.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("open a process that has ended: got %v, want %v", err, ErrGone)
	}
	_ = child.Wait()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("a signal to a process that is gone: %v", err)
	}
	if _, err := Open(child.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("open a process that is gone: got %v, want %v", err, ErrGone)
	}
}

func TestAnIdentityIsNotItsNumberAlone(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if self.PID != os.Getpid() {
		t.Errorf("got PID %d, want %d", self.PID, os.Getpid())
	}
	again, err := ParseIdentity(self.String() + "\n")
	if err != nil || again != self {
		t.Fatalf("got %v, %v; want %v", again, err, self)
	}
	p, err := again.Open()
	if err != nil {
		t.Fatal(err)
	}
	p.Close()

	started, booted := self, self
	started.Start++
	booted.Boot = "another"
	for _, other := range []Identity{started, booted} {
		if _, err := other.Open(); !errors.Is(err, ErrGone) {
			t.Errorf("%v: got %v, want %v", other, err, ErrGone)
		}
	}
	if _, err := ParseIdentity("12"); err == nil {
		t.Error("half an identity was read")
	}
}

func start(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}
