package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/netns"
	"github.com/bightdev/bight/cluster/internal/proc"
)

// role says when a process ends, when the cluster does.
type role int

const (
	serves role = iota // last: containers need it while they end
	drives             // first: it would start containers again
)

// process is one component: a program that is kept running until it is stopped.
type process struct {
	name  string
	role  role
	argv  []string
	dir   string           // working directory
	ns    *netns.Namespace // where it runs; nil: where we do
	log   string           // file for its output
	needs string           // a Unix socket that has to answer first; empty: none
	term  syscall.Signal   // asks it to end
	wait  time.Duration    // how long it may take to
}

// Process is the state of a component, as [Status] reports it.
type Process struct {
	Name     string `json:"name"`
	PID      int    `json:"pid"` // in the cluster's PID namespace; 0 when it is not running
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"`    // how it last ended
	LastWord string `json:"lastWord,omitempty"` // of its log, when it did
	Log      string `json:"log"`
}

// processes keeps components running and reaps what is orphaned: the supervisor
// is the first process of its PID namespace. It is safe for concurrent use.
type processes struct {
	log     *slog.Logger
	changed func() // called after a component has started or ended

	mu   sync.Mutex
	kept []*kept
	own  map[int]bool // children that exec.Cmd.Wait collects
}

// kept is one component that is kept running.
type kept struct {
	process
	state  Process // guarded by processes.mu
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended for good
}

func newProcesses(log *slog.Logger, changed func()) *processes {
	return &processes{log: log, changed: changed, own: map[int]bool{}}
}

// keep runs p until it is stopped, starting it again whenever it ends by itself.
// It returns at once. The end of ctx does not stop p: components end in an order.
func (ps *processes) keep(ctx context.Context, p process) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &kept{process: p, state: Process{Name: p.name, Log: p.log}, cancel: cancel, done: make(chan struct{})}
	ps.mu.Lock()
	ps.kept = append(ps.kept, k)
	ps.mu.Unlock()
	go func() {
		defer close(k.done)
		ps.repeat(ctx, k)
	}()
}

// stop ends the components that match and returns when they have.
func (ps *processes) stop(match func(process) bool) {
	ps.mu.Lock()
	all := slices.Clone(ps.kept)
	ps.mu.Unlock()
	all = slices.DeleteFunc(all, func(k *kept) bool { return !match(k.process) })
	for _, k := range all {
		k.cancel()
	}
	for _, k := range all {
		<-k.done
	}
}

// A component that ran for this long has been well.
const wellAfter = 10 * time.Second

func (ps *processes) repeat(ctx context.Context, k *kept) {
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	pause := shortest
	for ctx.Err() == nil {
		began := time.Now()
		err := ps.run(ctx, k)
		if ctx.Err() != nil {
			return
		}
		word := lastWord(k.log)
		ps.log.Warn("component ended", "component", k.name, "error", err, "log", word)
		ps.mu.Lock()
		k.state.Restarts++
		k.state.Error, k.state.LastWord = err.Error(), word
		ps.mu.Unlock()
		ps.changed()
		if time.Since(began) > wellAfter {
			pause = shortest
		}
		pauseFor(ctx, pause)
		pause = min(2*pause, longest)
	}
}

// run runs k once and returns how it ended.
func (ps *processes) run(ctx context.Context, k *kept) error {
	for k.needs != "" && answers(ctx, k.needs) != nil && ctx.Err() == nil {
		pauseFor(ctx, 5*time.Millisecond)
	}
	out, err := os.OpenFile(k.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(k.argv[0], k.argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = k.dir, out, out
	if err := ps.start(cmd, k.ns, &k.state); err != nil {
		return err
	}
	ps.changed()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer ps.forget(cmd.Process.Pid, &k.state)
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("ended with code 0")
		}
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(k.term)
	timer := time.NewTimer(k.wait)
	defer timer.Stop()
	select {
	case err = <-ended:
	case <-timer.C:
		ps.log.Warn("component did not end when asked", "component", k.name, "after", k.wait)
		_ = cmd.Process.Kill()
		err = <-ended
	}
	return err
}

// call runs cmd, which is no component, to its end.
func (ps *processes) call(cmd *exec.Cmd, ns *netns.Namespace) error {
	var state Process
	if err := ps.start(cmd, ns, &state); err != nil {
		return err
	}
	defer ps.forget(cmd.Process.Pid, &state)
	return cmd.Wait()
}

// start starts cmd. The lock is held from the start to the entry in own, so that
// the reaper can't collect a child that is not known yet.
func (ps *processes) start(cmd *exec.Cmd, ns *netns.Namespace, state *Process) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	start := cmd.Start
	if ns != nil {
		start = func() error { return ns.Start(cmd) }
	}
	if err := start(); err != nil {
		return err
	}
	ps.own[cmd.Process.Pid] = true
	state.PID = cmd.Process.Pid
	return nil
}

func (ps *processes) forget(pid int, state *Process) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.own, pid)
	state.PID = 0
}

// snapshot returns the state of all components, in the order they were started.
func (ps *processes) snapshot() []Process {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := []Process{}
	for _, k := range ps.kept {
		all = append(all, k.state)
	}
	return all
}

// hopeless is why waiting longer makes no sense.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

func isHopeless(err error) bool { return errors.As(err, new(hopeless)) }

// A component that ended this often while the cluster comes up will not recover.
const hopelessRestarts = 5

// explain adds to err what is known of the component that it is about. When any
// component keeps ending, err is about that one, and hopeless.
func (ps *processes) explain(name string, err error) error {
	return explain(ps.snapshot(), name, err)
}

func explain(all []Process, name string, err error) error {
	for _, p := range all {
		if p.Restarts >= hopelessRestarts {
			return hopeless{fmt.Errorf("%s has ended %d times, last with %s: %s; its log is %s%s", p.Name, p.Restarts, p.Error, p.LastWord, p.Log, remedy(p.LastWord))}
		}
	}
	for _, p := range all {
		if p.Name != name {
			continue
		}
		if p.Error != "" {
			return fmt.Errorf("%w; %s has ended %d times, last with %s: %s; its log is %s%s", err, p.Name, p.Restarts, p.Error, p.LastWord, p.Log, remedy(p.LastWord))
		}
		return fmt.Errorf("%w; %s is running, its log is %s", err, p.Name, p.Log)
	}
	return err
}

// reap collects orphans until the channel is closed. It looks at each ended child
// before taking it, and leaves alone those that exec.Cmd.Wait takes.
func (ps *processes) reap(children <-chan os.Signal) {
	for range children {
		ps.reapAll(proc.Ended(os.Getpid()))
	}
}

func (ps *processes) reapAll(ended []int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, pid := range ended {
		if !ps.own[pid] {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}
