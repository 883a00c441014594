package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/probe"
	"github.com/bightdev/bight/internal/tree"
)

// TestMain lets the test binary be the process that is supervised: it listens on
// LISTEN after DELAY.
func TestMain(m *testing.M) {
	if at := os.Getenv("LISTEN"); at != "" {
		delay, _ := time.ParseDuration(os.Getenv("DELAY")) // none is none
		time.Sleep(delay)
		ln, err := net.Listen("tcp", at)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			conn, err := ln.Accept()
			if err != nil {
				os.Exit(1)
			}
			fmt.Fprintln(conn, os.Getpid())
			_ = conn.Close()
		}
	}
	os.Exit(m.Run())
}

// supervised is an agent without sessions.
type supervised struct {
	*Agent
	port int

	mu     sync.Mutex
	events []string
}

func supervise(t *testing.T, delay time.Duration) *supervised {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	s := NewSupervisor([]string{os.Args[0]})
	s.Env = append(os.Environ(), fmt.Sprint("LISTEN=127.0.0.1:", port), "DELAY="+delay.String())
	s.Dir = func() (string, tree.Hash) { return ".", tree.Hash{} }
	s.Stdout, s.Stderr = io.Discard, io.Discard
	s.Probe = &probe.Probe{Kind: "tcp", Port: port}
	a := &supervised{Agent: &Agent{sup: s, Log: slog.New(slog.DiscardHandler)}, port: port}
	s.OnEvent = func(ev wire.Event) {
		a.mu.Lock()
		defer a.mu.Unlock()
		names := map[wire.EventKind]string{wire.Started: "started", wire.BecameUp: "up", wire.Exited: "exited", wire.Replaced: "replaced by " + ev.By}
		a.events = append(a.events, names[ev.Kind])
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	await(t, s.Ready())
	return a
}

func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not happen")
	}
}

// pid asks the process for its number, by way of a door.
func (a *supervised) pid(t *testing.T) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := a.dialProcess(ctx, a.port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	b, err := io.ReadAll(conn)
	return strings.TrimSpace(string(b)), err
}

func (a *supervised) happened() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

func TestHeldProcessIsNotStartedBeforeItsRelease(t *testing.T) {
	a := supervise(t, 0)
	first, err := a.pid(t)
	if err != nil {
		t.Fatal(err)
	}
	await(t, a.sup.Hold("ada@laptop"))
	if now := a.sup.Process(); now.Phase != wire.Held || now.Pid != 0 || a.sup.HeldBy() != "ada@laptop" {
		t.Errorf("it is %+v, held by %q", now, a.sup.HeldBy())
	}
	if _, err := os.Stat(filepath.Join("/proc", first)); !os.IsNotExist(err) {
		t.Errorf("process %s: %v, want none", first, err)
	}
	await(t, a.sup.Restart(t.Context())) // as a save does
	began := time.Now()
	if _, err := a.pid(t); err == nil || !strings.Contains(err.Error(), "ada@laptop replaces it") || time.Since(began) > 5*time.Second {
		t.Errorf("connecting to it gives %v after %s", err, time.Since(began))
	}
	a.sup.Release()
	second, err := a.pid(t)
	if err != nil || second == first {
		t.Errorf("after the release: process %s, %v; before it was %s", second, err, first)
	}
	await(t, a.sup.Ready())
	if got, want := a.happened(), []string{"started", "up", "replaced by ada@laptop", "started", "up"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestConnectionsWaitForProcessThatWasReleased(t *testing.T) {
	a := supervise(t, 300*time.Millisecond)
	for range 3 {
		ended := a.sup.Hold("ada@laptop")
		await(t, ended)
		a.sup.Release()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := a.pid(t); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// A hold and its release may come before anything was done about either.
func TestHoldsAndReleasesInAnyOrder(t *testing.T) {
	a := supervise(t, 0)
	var ended []<-chan struct{}
	for i := range 50 {
		ended = append(ended, a.sup.Hold("ada@laptop"))
		if i%3 == 0 {
			await(t, ended[len(ended)-1])
		}
		a.sup.Release()
		if i%5 == 0 {
			a.sup.Restart(t.Context())
		}
	}
	for _, c := range ended {
		await(t, c)
	}
	if _, err := a.pid(t); err != nil {
		t.Error(err)
	}
	await(t, a.sup.Hold("ada@laptop"))
	if a.sup.Process().Phase != wire.Held {
		t.Errorf("it is %+v", a.sup.Process())
	}
}

func TestProcessThatKeepsCrashingIsHeld(t *testing.T) {
	s := NewSupervisor([]string{"false"})
	if _, err := exec.LookPath("false"); err != nil {
		t.Fatal(err)
	}
	s.Dir = func() (string, tree.Hash) { return ".", tree.Hash{} }
	exits, started := make(chan struct{}, 100), make(chan struct{}, 100)
	s.OnEvent = func(ev wire.Event) {
		switch ev.Kind {
		case wire.Exited:
			exits <- struct{}{}
		case wire.Started:
			started <- struct{}{}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	await(t, exits)
	await(t, exits)
	await(t, s.Hold("ada@laptop"))
	if now := s.Process(); now.Phase != wire.Held {
		t.Errorf("it is %+v", now)
	}
	for len(started) > 0 {
		<-started
	}
	s.Release()
	await(t, started)
}
