package agent

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/probe"
	"github.com/bightdev/bight/internal/tree"
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
	longLife   = 10 * time.Second // after which a process is believed to be sound
)

// Supervisor keeps one process running, as the first process of a container has
// to. Its fields are set before Run, whose goroutine decides everything; the
// other methods may be called from any goroutine.
type Supervisor struct {
	Command []string
	Env     []string
	Dir     func() (dir string, digest tree.Hash) // where to start it, asked each time
	Stdout  io.Writer
	Stderr  io.Writer
	Grace   time.Duration // between SIGTERM and SIGKILL at a restart; 2 s
	// Drain is how long the process goes on after SIGTERM has come to us, because
	// not everybody knows yet that the pod ends; Leave is called then. A second signal
	// is passed on at once.
	Drain   time.Duration
	Leave   func()           // must return soon
	Probe   *probe.Probe     // tells when the process can serve; nil: when it runs
	OnEvent func(wire.Event) // must return soon
	Log     *slog.Logger

	output ring
	orders chan order
	ended  chan status
	up     chan int // pid
	probes sync.WaitGroup
	holds  chan struct{} // what is below about holds has changed

	mu      sync.Mutex
	now     wire.Process
	ready   chan struct{}   // closed while the process is ready
	heldBy  string          // who replaces the process, or ""
	holding []chan struct{} // to close when it has ended
	soon    bool            // it is about to be started

	// Of Run's goroutine.
	p       *process
	waiting []order          // restarts that the old process's end is awaited for
	leaving bool             // asked to stop
	drained <-chan time.Time // when the process is to know
	last    int              // exit code of the last process
	pause   time.Duration    // before the next start
	resume  <-chan time.Time // when the pause is over
	kill    <-chan time.Time // when the grace is over
}

// order asks for a restart; done is closed when the old process has ended.
type order struct {
	at   time.Time
	done chan struct{}
}

// NewSupervisor returns a Supervisor of command.
func NewSupervisor(command []string) *Supervisor {
	return &Supervisor{
		Command: command, Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr, Grace: 2 * time.Second,
		Log: slog.New(slog.DiscardHandler), OnEvent: func(wire.Event) {},
		orders: make(chan order), ended: make(chan status, 16), up: make(chan int),
		ready: make(chan struct{}), holds: make(chan struct{}, 1),
	}
}

// Restart replaces the process, or starts it at once when it is waiting to be.
// The channel is closed when the old one has ended.
func (s *Supervisor) Restart(ctx context.Context) <-chan struct{} {
	o := order{time.Now(), make(chan struct{})}
	select {
	case s.orders <- o:
	case <-ctx.Done():
		close(o.done)
	}
	return o.done
}

// Process returns the state of the process.
func (s *Supervisor) Process() wire.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Ready returns a channel that is closed when the process, if it is not replaced
// before, can serve.
func (s *Supervisor) Ready() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// Output returns the last that was printed, 64 KiB at most.
func (s *Supervisor) Output() []byte { return s.output.last(ringSize) }

// forwarded returns the signals that are passed on: all that can be caught and
// are not about the agent itself.
func forwarded() []os.Signal {
	own := []syscall.Signal{
		syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF,
		syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP,
		32, 33, 34, // of C libraries
	}
	var all []os.Signal
	for n := syscall.Signal(1); n <= 64; n++ {
		if !slices.Contains(own, n) {
			all = append(all, n)
		}
	}
	return all
}

// Run runs the process until SIGTERM or SIGINT comes or ctx ends, and returns
// the exit code of the process (128 + n when signal n has ended it).
func (s *Supervisor) Run(ctx context.Context) int {
	// Orphans come to us even where another process is the first one.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	child, signals := make(chan os.Signal, 1), make(chan os.Signal, 64)
	signal.Notify(child, syscall.SIGCHLD)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(child)
	defer signal.Stop(signals)
	rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var reaper sync.WaitGroup
	reaper.Go(func() { reap(rctx, child, s.ended) })
	defer func() {
		cancel()
		reaper.Wait()
		s.probes.Wait()
		for _, o := range s.waiting {
			close(o.done)
		}
		_, ended := s.held()
		closeAll(ended)
	}()
	s.start(rctx, time.Now())
	stop := ctx.Done()
	for {
		select {
		case st := <-s.ended:
			if s.p == nil || st.pid != s.p.pid {
				continue // an orphan
			}
			s.end(rctx, st.ws)
		case o := <-s.orders:
			s.restart(rctx, o)
		case <-s.holds:
			s.heed(rctx)
		case sig := <-signals:
			s.signal(sig)
		case <-stop:
			stop = nil
			s.signal(syscall.SIGTERM)
		case <-s.drained:
			s.drained = nil
			s.signal(syscall.SIGTERM)
		case <-s.kill:
			s.kill = nil
			if s.p != nil {
				s.p.signal(syscall.SIGKILL)
			}
		case <-s.resume:
			s.start(rctx, time.Now())
		case pid := <-s.up:
			s.isUp(pid)
		}
		if s.leaving && s.p == nil {
			return s.last
		}
	}
}

// signal passes sig on; SIGTERM and SIGINT also mean that this is the end.
func (s *Supervisor) signal(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	if !ok || n == syscall.SIGPIPE { // SIGPIPE is about our own output
		return
	}
	if n == syscall.SIGTERM || n == syscall.SIGINT {
		first := !s.leaving
		s.leaving = true
		if first && s.Leave != nil {
			s.Leave()
		}
		if first && s.Drain > 0 && n == syscall.SIGTERM {
			s.drained = time.After(s.Drain)
			return
		}
	}
	if s.p != nil {
		_ = syscall.Kill(s.p.pid, n) // it may have ended just now
	}
}

// restart begins to stop the process, and starts it when there is none.
func (s *Supervisor) restart(ctx context.Context, o order) {
	if s.leaving {
		close(o.done)
		return
	}
	s.pause = 0
	if s.p == nil {
		close(o.done)
		s.start(ctx, o.at)
		return
	}
	s.stop(o)
}

// stop ends the process, for an order to restart or to hold it.
func (s *Supervisor) stop(o order) {
	s.waiting = append(s.waiting, o)
	if len(s.waiting) == 1 {
		s.mu.Lock()
		s.soon = true // unless it is held
		s.mu.Unlock()
		s.p.signal(syscall.SIGTERM)
		s.kill = time.After(s.Grace)
	}
}

// start starts the process, unless somebody replaces it. since is when it became
// clear that it should.
func (s *Supervisor) start(ctx context.Context, since time.Time) {
	s.resume, s.kill = nil, nil
	if s.rest() {
		return
	}
	dir, digest := s.Dir()
	p, err := spawn(s.Command, s.Env, dir, s.Stdout, s.Stderr, &s.output)
	if err != nil {
		s.Log.Error("process not started", "err", err)
		s.update(func(now *wire.Process) { now.Tree = digest; now.Starts++ })
		s.failed(127, 0, 0, []byte(err.Error()+"\n"))
		return
	}
	s.p = p
	s.update(func(now *wire.Process) {
		*now = wire.Process{Phase: wire.Starting, Pid: p.pid, Starts: now.Starts + 1, Tree: digest}
	})
	s.OnEvent(wire.Event{Kind: wire.Started, Pid: p.pid, Tree: digest, After: time.Since(since)})
	pctx, cancel := context.WithCancel(ctx)
	p.cancel = cancel
	if s.Probe == nil {
		s.isUp(p.pid)
		return
	}
	s.probes.Go(func() {
		if s.Probe.Wait(pctx) != nil {
			return
		}
		select {
		case s.up <- p.pid:
		case <-pctx.Done():
		}
	})
}

// isUp notes that the process can serve.
func (s *Supervisor) isUp(pid int) {
	if s.p == nil || s.p.pid != pid || s.p.up {
		return
	}
	s.p.up = true
	s.update(func(now *wire.Process) { now.Phase = wire.Ready })
	s.OnEvent(wire.Event{Kind: wire.BecameUp, Pid: pid, After: time.Since(s.p.started)})
}

// end tidies up after the process and does what comes next.
func (s *Supervisor) end(ctx context.Context, ws syscall.WaitStatus) {
	p := s.p
	s.p, s.kill = nil, nil
	p.cancel()
	p.signal(syscall.SIGKILL) // what it leaves in its group
	killOrphans()
	p.hear()
	s.last = code(ws)
	if s.leaving {
		s.update(func(now *wire.Process) { now.Phase = wire.Stopped })
		return
	}
	held := s.rest()
	waiting := s.waiting
	s.waiting = nil
	for _, o := range waiting {
		close(o.done)
	}
	switch {
	case held:
		return
	case len(waiting) > 0:
		s.start(ctx, waiting[0].at)
		return
	}
	if time.Since(p.started) >= longLife {
		s.pause = 0
	}
	sig, exit := 0, ws.ExitStatus()
	if ws.Signaled() {
		sig, exit = int(ws.Signal()), 0
	}
	s.failed(exit, sig, p.pid, s.output.last(int(min(s.output.written()-p.mark, ringSize))))
}

// failed has the process started again after a pause.
func (s *Supervisor) failed(exit, sig, pid int, output []byte) {
	s.pause = min(max(2*s.pause, firstPause), maxPause)
	s.resume = time.After(s.pause)
	s.update(func(now *wire.Process) {
		now.Phase, now.Pid, now.Code, now.Signal, now.Pause = wire.Waiting, 0, exit, sig, s.pause
	})
	s.OnEvent(wire.Event{Kind: wire.Exited, Pid: pid, Code: exit, Signal: sig, Pause: s.pause, Output: output})
}

// update changes what Process returns, and opens or closes Ready.
func (s *Supervisor) update(f func(*wire.Process)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.now.Phase == wire.Ready
	f(&s.now)
	s.soon = false
	switch is := s.now.Phase == wire.Ready; {
	case is && !was:
		close(s.ready)
	case was && !is:
		s.ready = make(chan struct{})
	}
}
