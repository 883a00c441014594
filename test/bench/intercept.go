package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// runNothing measures bight run of a program that does nothing, against one kubectl
// get pods.
func runNothing(ctx context.Context, b *bed) ([]row, error) {
	w, err := b.wire(ctx, "bench-run", 1)
	if err != nil {
		return nil, err
	}
	defer w.remove()
	program := func(args ...string) action {
		return func(ctx context.Context, _ int) (time.Duration, error) {
			_, took, err := runIn(ctx, w.dir, nil, args...)
			return took, err
		}
	}
	all, err := b.alternate(ctx, []string{"kubectl get pods", "bight run", "bight run SERVICE"},
		program(b.kubectl, "get", "pods", "-n", w.namespace),
		program(b.program("bight"), "run", "-n", w.namespace, "--", "true"),
		program(b.program("bight"), "run", wireName, "-n", w.namespace, "--", "true"))
	if err != nil {
		return nil, err
	}
	get := durations("kubectl get pods of the same namespace", all[0])
	return []row{
		{Name: "bight run -- true", Reference: &get, Limit: 3, Ours: durations("the whole program", all[1])},
		{Name: "bight run SERVICE -- true", Reference: &get, Ours: durations("the whole program, with the pod's environment and files", all[2])},
	}, nil
}

// engagePods is how many pods an intercept is engaged at.
const engagePods = 3

// engage measures bight intercept, the command, from its start until requests at
// each of three pods have been seen here, against one kubectl exec. The requests are
// made all the time, while kubectl runs too, on one connection to each pod's door
// that was open before; none may fail, no connection may be cut, no pod be
// restarted, neither then nor when it is left.
func engage(ctx context.Context, b *bed) ([]row, error) {
	removeBox, err := b.box(ctx, "bench-box")
	if err != nil {
		return nil, err
	}
	defer removeBox()
	w, err := b.wire(ctx, "bench-engage", engagePods)
	if err != nil {
		return nil, err
	}
	defer w.remove()
	l, err := openLaptop()
	if err != nil {
		return nil, err
	}
	defer l.close()
	doors, err := w.doors()
	if err != nil {
		return nil, err
	}
	defer doors.close()
	bridge, err := w.bridge(ctx)
	if err != nil {
		return nil, err
	}
	var command, inside []engaged
	measure := func(into *[]engaged, start func() (held, error)) action {
		return func(ctx context.Context, round int) (time.Duration, error) {
			e, err := engageOnce(ctx, l, doors, start)
			if round > 0 {
				*into = append(*into, e)
			}
			return e.seen, err
		}
	}
	alone := b.execTrue("bench-box")
	beside := func(ctx context.Context, round int) (took time.Duration, err error) {
		err = doors.beside(ctx, func(ctx context.Context) error {
			took, err = alone(ctx, round)
			return err
		})
		return took, err
	}
	all, err := b.alternate(ctx, []string{"kubectl exec", "kubectl exec alone", "bight intercept", "the package"}, beside, alone,
		measure(&command, func() (held, error) { return b.intercept(w, l.port) }),
		measure(&inside, func() (held, error) { return startInside(bridge, l.port), nil }))
	if err != nil {
		return nil, err
	}
	after, err := b.pods(ctx, w.namespace)
	if err != nil {
		return nil, err
	}
	if was, is := identities(w.pods), identities(after); !slices.Equal(was, is) {
		return nil, fmt.Errorf("pods were replaced or restarted: %v became %v", was, is)
	}
	if err := doors.kept(); err != nil {
		return nil, err
	}
	exec := durations("kubectl exec POD -- true, a program of its own, while the same requests are made", all[0])
	quiet := durations("", all[1]).median()
	name := fmt.Sprintf("%d pods: start → seen here from each", engagePods)
	how := fmt.Sprintf("until requests that are made every %s on one open connection to each pod have come here from all; none failed", probeDoor)
	return []row{
		{Name: "bight intercept, " + name, Reference: &exec, Limit: 0.5, Phases: account(command, quiet),
			Ours: durations("the whole program, "+how, all[2])},
		{Name: "the same by a program that runs, " + name, Reference: &exec, Limit: 0.5, Phases: account(inside, quiet),
			Ours: durations("internal/bridge in the benchmark's own process, with new connections to the agents each time, "+how, all[3])},
	}, nil
}

// probeDoor is between two requests to a door.
const probeDoor = 5 * time.Millisecond

// engaged is how one intercept went: from its start until it was seen here and until
// it said that it is in force, and from when it was interrupted until it had ended.
type engaged struct{ seen, said, left time.Duration }

func account(all []engaged, exec float64) map[string]float64 {
	var said, left []time.Duration
	for _, e := range all {
		said, left = append(said, e.said), append(left, e.left)
	}
	return map[string]float64{"said to be in force": durations("", said).median(), "from Ctrl-C to its end": durations("", left).median(),
		"kubectl exec without the requests": exec}
}

// held is an intercept that has been started.
type held interface {
	started() time.Time
	// inForce waits until it says that it is, and returns how long that took.
	inForce(ctx context.Context) (time.Duration, error)
	// leave ends it as a user would, and returns how long that took.
	leave(ctx context.Context) (time.Duration, error)
	// kill ends it if it has not ended yet.
	kill()
}

// engageOnce intercepts and leaves again while requests are made at all doors.
func engageOnce(ctx context.Context, l *laptopServer, doors doors, start func() (held, error)) (engaged, error) {
	var e engaged
	if err := doors.answeredByApp(ctx); err != nil {
		return e, err
	}
	l.forget()
	err := doors.beside(ctx, func(ctx context.Context) error {
		h, err := start()
		if err != nil {
			return err
		}
		defer h.kill()
		if e.said, err = h.inForce(ctx); err != nil {
			return err
		}
		seen, err := l.seenFrom(ctx, doors)
		if err != nil {
			return err
		}
		e.seen = seen.Sub(h.started())
		e.left, err = h.leave(ctx)
		return err
	})
	if err != nil {
		return e, err
	}
	return e, doors.answeredByApp(ctx)
}

// interception is a running bight intercept.
type interception struct {
	cmd   *exec.Cmd
	began time.Time
	ended chan struct{}

	mu     sync.Mutex
	output bytes.Buffer
	said   chan time.Time // when it said that it is in force
}

// intercept starts bight intercept of all requests, to a port of this machine.
func (b *bed) intercept(w *wire, port int) (*interception, error) {
	i := &interception{ended: make(chan struct{}), said: make(chan time.Time, 1)}
	i.cmd = exec.Command(b.program("bight"), "intercept", wireName, "--port", strconv.Itoa(port), "-n", w.namespace)
	i.cmd.Dir, i.cmd.Stdout, i.cmd.Stderr = w.dir, i, i
	i.began = time.Now()
	if err := i.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { defer close(i.ended); _ = i.cmd.Wait() }()
	return i, nil
}

// Write takes what it says.
func (i *interception) Write(p []byte) (int, error) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	before := bytes.Contains(i.output.Bytes(), []byte("in force"))
	i.output.Write(p)
	if !before && bytes.Contains(i.output.Bytes(), []byte("in force")) {
		i.said <- now
	}
	return len(p), nil
}

func (i *interception) text() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.output.String()
}

func (i *interception) started() time.Time { return i.began }

func (i *interception) inForce(ctx context.Context) (time.Duration, error) {
	select {
	case at := <-i.said:
		return at.Sub(i.began), nil
	case <-i.ended:
		return 0, fmt.Errorf("bight intercept has ended with %v\n%s", i.cmd.ProcessState, i.text())
	case <-ctx.Done():
		return 0, fmt.Errorf("bight intercept is not in force: %w\n%s", context.Cause(ctx), i.text())
	}
}

func (i *interception) leave(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := i.cmd.Process.Signal(os.Interrupt); err != nil {
		return 0, err
	}
	select {
	case <-i.ended:
	case <-ctx.Done():
		return 0, fmt.Errorf("bight intercept does not end: %w\n%s", context.Cause(ctx), i.text())
	}
	took := time.Since(began)
	const interrupted = 130
	if code := i.cmd.ProcessState.ExitCode(); code != interrupted {
		return took, fmt.Errorf("bight intercept has ended with %d, not %d\n%s", code, interrupted, i.text())
	}
	return took, nil
}

func (i *interception) kill() {
	if err := i.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-i.ended
}

// laptop measures what bight intercept uses while nothing is asked.
func laptop(ctx context.Context, b *bed) ([]row, error) {
	w, err := b.wire(ctx, "bench-laptop", engagePods)
	if err != nil {
		return nil, err
	}
	defer w.remove()
	l, err := openLaptop()
	if err != nil {
		return nil, err
	}
	defer l.close()
	i, err := b.intercept(w, l.port)
	if err != nil {
		return nil, err
	}
	defer i.kill()
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := i.inForce(limited); err != nil {
		return nil, err
	}
	rows, err := (&session{bed: b, cmd: i.cmd}).idleRows(ctx, fmt.Sprintf("idle bight intercept, %d pods", engagePods))
	for n := range rows {
		rows[n].Ours.What = strings.Replace(rows[n].Ours.What, "bight up", "bight intercept", 1)
	}
	return rows, err
}
