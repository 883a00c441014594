package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// ErrLost is the cause of the end of work whose lease was lost with the connection.
var ErrLost = errors.New("the connection to the controller is lost, and the step with it")

// RefusedError says that the controller does not want this worker.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "the controller refuses this worker: " + e.Why }

// Client is a worker's end.
type Client struct {
	Hello Hello
	// Dial connects to the hub.
	Dial func(ctx context.Context) (*websocket.Conn, error)
	Do   Doer
	Log  *slog.Logger
	// Connected, where it is not nil, is called after each connection was made.
	Connected func()
	// Drain, once it is closed, has Run take no more orders and return nil when those that
	// it has are done. What it would lose then by a lost connection, another does.
	Drain <-chan struct{}
}

// Run works until ctx ends, and connects again whenever the connection is lost. It
// returns a *RefusedError when the controller does not want this worker, else ctx's
// error.
func (c *Client) Run(ctx context.Context) error {
	pause := 50 * time.Millisecond
	for {
		began := time.Now()
		err := c.serve(ctx)
		var refused *RefusedError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case c.draining():
			return nil
		case errors.As(err, &refused):
			return err
		}
		c.Log.Info("not connected to the controller; trying again", "err", err)
		if time.Since(began) > 10*time.Second {
			pause = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Drain:
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (c *Client) draining() bool {
	select {
	case <-c.Drain:
		return true
	default:
		return false
	}
}

// serve does what one connection brings.
func (c *Client) serve(ctx context.Context) error {
	conn, err := c.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxFrame)
	if err := transmit(ctx, conn, message{Hello: &c.Hello}); err != nil {
		return err
	}
	if c.Connected != nil {
		c.Connected()
	}
	// The connection outlives ctx for as long as it takes to say goodbye: steps of a
	// worker that just falls silent are given to another later.
	link, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	s := &shift{c: c, conn: conn, ctx: link, running: map[string]context.CancelCauseFunc{}, unheard: map[string]bool{}}
	var tasks sync.WaitGroup
	defer context.AfterFunc(ctx, func() {
		s.stop(context.Cause(ctx))
		_ = conn.Close(websocket.StatusGoingAway, "the worker ends")
	})()
	tasks.Go(func() {
		if err := alive(link, conn); err != nil {
			cancel(fmt.Errorf("%w: %w", ErrLost, err))
		}
	})
	tasks.Go(func() { s.drain(link) })
	err = s.hear(link)
	cancel(fmt.Errorf("%w: %w", ErrLost, err))
	_ = conn.CloseNow()
	tasks.Wait()
	s.tasks.Wait()
	var closed websocket.CloseError
	if errors.As(err, &closed) && closed.Code == websocket.StatusPolicyViolation {
		return &RefusedError{Why: closed.Reason}
	}
	return err
}

// shift is what a worker does during one connection.
type shift struct {
	c     *Client
	conn  *websocket.Conn
	ctx   context.Context // of the connection: to end a write early would end it
	tasks sync.WaitGroup

	mu      sync.Mutex
	running map[string]context.CancelCauseFunc // by id and lease
	unheard map[string]bool                    // results that the hub has not answered
	last    bool                               // no more orders come
}

// drain tells the hub when the worker wants no more orders.
func (s *shift) drain(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.c.Drain:
		s.c.Log.Info("no more steps are taken; those that are under way are finished")
		if err := transmit(ctx, s.conn, message{Drain: true}); err != nil {
			_ = s.conn.CloseNow()
		}
	}
}

// leave ends the connection when nothing is done any more and no more comes. It has the
// lock.
func (s *shift) leave() {
	if s.last && len(s.running) == 0 && len(s.unheard) == 0 {
		// Apart, since who calls this may be who reads the answer.
		s.tasks.Go(func() { _ = s.conn.Close(websocket.StatusGoingAway, "the worker ends") })
	}
}

// stop ends everything that is being done.
func (s *shift) stop(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.running {
		cancel(why)
	}
}

func (s *shift) hear(ctx context.Context) error {
	for {
		m, err := receive(ctx, s.conn)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%s#%d", m.ID, m.Lease)
		switch {
		case m.Drain:
			s.mu.Lock()
			s.last = true
			s.leave()
			s.mu.Unlock()
		case m.Order != nil:
			order := *m.Order
			own, stop := context.WithCancelCause(ctx)
			s.mu.Lock()
			s.running[key] = stop
			s.mu.Unlock()
			s.tasks.Go(func() {
				s.do(own, order)
				stop(nil)
				s.mu.Lock()
				delete(s.running, key)
				s.leave()
				s.mu.Unlock()
			})
		case m.Stop != "":
			s.mu.Lock()
			if stop := s.running[key]; stop != nil {
				stop(errors.New(m.Stop))
			}
			s.mu.Unlock()
		case m.Counted, m.Refused != "":
			if m.Refused != "" {
				s.c.Log.Warn("result not counted", "order", m.ID, "why", m.Refused)
			}
			s.mu.Lock()
			delete(s.unheard, key)
			s.leave()
			s.mu.Unlock()
		}
	}
}

// do does one order within its time.
func (s *shift) do(ctx context.Context, o Order) {
	id := o.ID()
	log := s.c.Log.With("change", o.Change, "step", o.Step)
	log.Info("step begun", "lease", o.Lease)
	began := time.Now()
	limited := ctx
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("the step took longer than the %s that it may", o.Timeout))
		defer cancel()
	}
	out := &printed{s: s, own: ctx, id: id, lease: o.Lease}
	r := s.c.Do(limited, o, out)
	if ctx.Err() != nil {
		log.Info("step given up", "why", context.Cause(ctx))
		return // nobody counts it
	}
	if cause := context.Cause(limited); cause != nil && r.State != Passed && r.State != Skipped {
		r.State, r.Message = Failed, cause.Error()
	}
	log.Info("step ended", "state", r.State, "took", time.Since(began).Round(time.Millisecond))
	s.mu.Lock()
	s.unheard[fmt.Sprintf("%s#%d", id, o.Lease)] = true
	s.mu.Unlock()
	if err := transmit(s.ctx, s.conn, message{ID: id, Lease: o.Lease, Result: &r}); err != nil {
		log.Info("result not sent", "err", err)
		_ = s.conn.CloseNow()
	}
}

// printed sends what a step prints.
type printed struct {
	s     *shift
	own   context.Context // of the order
	id    string
	lease int32
}

var (
	_ io.Writer = (*printed)(nil)
	_ Teller    = (*printed)(nil)
)

// Doing implements [Teller].
func (p *printed) Doing(text string) {
	if p.own.Err() == nil {
		_ = transmit(p.s.ctx, p.s.conn, message{ID: p.id, Lease: p.lease, Doing: &text}) // nobody is left to be told, or somebody is
	}
}

// Write sends b in pieces. It never fails: what nobody can read any more is dropped.
func (p *printed) Write(b []byte) (int, error) {
	const piece = 256 << 10
	for rest := b; len(rest) > 0 && p.own.Err() == nil; {
		n := min(len(rest), piece)
		if transmit(p.s.ctx, p.s.conn, message{ID: p.id, Lease: p.lease, Log: rest[:n]}) != nil {
			break
		}
		rest = rest[n:]
	}
	return len(b), nil
}
