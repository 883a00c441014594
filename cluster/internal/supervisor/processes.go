package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/netns"
)

// process is one component: a program that is kept running until its context
// ends.
type process struct {
	name string
	argv []string
	dir  string           // working directory
	ns   *netns.Namespace // where it runs
	env  []string         // added to the supervisor's own
	log  string           // file for its output
	stop syscall.Signal   // asks it to end
	wait time.Duration    // how long it may take to
}

// Process is the state of a component, as [Status] reports it.
type Process struct {
	Name     string `json:"name"`
	PID      int    `json:"pid"` // in the cluster's PID namespace; 0 when it is not running
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"` // how it last ended
	Log      string `json:"log"`
}

// processes keeps components running and reaps what is orphaned: the supervisor
// is the first process of its PID namespace.
type processes struct {
	log *slog.Logger

	mu    sync.Mutex
	state map[string]*Process
	order []string
	own   map[int]bool // children that exec.Cmd.Wait collects
	group sync.WaitGroup
}

func newProcesses(log *slog.Logger) *processes {
	return &processes{log: log, state: map[string]*Process{}, own: map[int]bool{}}
}

// keep runs p until ctx ends, starting it again whenever it ends by itself. It
// returns at once; wait waits for the end.
func (ps *processes) keep(ctx context.Context, p process) {
	ps.mu.Lock()
	if ps.state[p.name] == nil {
		ps.state[p.name] = &Process{Name: p.name, Log: p.log}
		ps.order = append(ps.order, p.name)
	}
	ps.mu.Unlock()
	ps.group.Go(func() {
		pause := 100 * time.Millisecond
		for ctx.Err() == nil {
			began := time.Now()
			err := ps.run(ctx, p)
			if ctx.Err() != nil {
				return
			}
			ps.log.Warn("component ended", "component", p.name, "error", err)
			ps.mu.Lock()
			ps.state[p.name].Restarts++
			ps.state[p.name].Error = fmt.Sprint(err)
			ps.mu.Unlock()
			if time.Since(began) > 10*time.Second {
				pause = 100 * time.Millisecond
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, 5*time.Second)
		}
	})
}

// run runs p once and returns how it ended.
func (ps *processes) run(ctx context.Context, p process) error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, out, out
	cmd.Env = append(os.Environ(), p.env...)

	// The lock is held from the start to the entry in own, so that the reaper
	// can't collect a child that is not known yet.
	ps.mu.Lock()
	err = p.ns.Start(cmd)
	if err == nil {
		ps.own[cmd.Process.Pid] = true
		ps.state[p.name].PID = cmd.Process.Pid
	}
	ps.mu.Unlock()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		ps.mu.Lock()
		delete(ps.own, cmd.Process.Pid)
		ps.state[p.name].PID = 0
		ps.mu.Unlock()
	}()
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("ended with code 0")
		}
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(p.stop)
	select {
	case err = <-ended:
	case <-time.After(p.wait):
		ps.log.Warn("component did not end when asked", "component", p.name, "after", p.wait)
		_ = cmd.Process.Kill()
		err = <-ended
	}
	return err
}

// wait returns when every component that was kept has ended.
func (ps *processes) wait() { ps.group.Wait() }

// snapshot returns the state of all components, in the order they were started.
func (ps *processes) snapshot() []Process {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var all []Process
	for _, name := range ps.order {
		all = append(all, *ps.state[name])
	}
	return all
}

// reap collects orphans for as long as the process lives. It looks at each ended
// child before taking it, and leaves alone those that exec.Cmd.Wait takes.
func (ps *processes) reap(chld <-chan os.Signal) {
	for range chld {
		for ps.reapOne() {
		}
	}
}

func (ps *processes) reapOne() bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	orphan := 0
	for _, pid := range ended() {
		if !ps.own[pid] {
			orphan = pid
			break
		}
	}
	if orphan == 0 {
		return false
	}
	pid, err := unix.Wait4(orphan, nil, unix.WNOHANG, nil)
	return err == nil && pid == orphan
}
