package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Client connects to a [Server]. It may be used for many sessions.
type Client struct {
	// Dial opens a transport. Its ctx bounds the dialling, not the transport;
	// closing that must make its reads and writes return.
	Dial func(context.Context) (io.ReadWriteCloser, error)
	// Direct, if not nil, asks the server, over a session that Dial's transport
	// carries, for a better way to it, and returns what dials that. The session moves
	// there while its streams go on, and back to Dial's when that way breaks. An error
	// that is [Permanent] says that there is none; after others it is called again.
	Direct   func(context.Context, *Session) (dial func(context.Context) (io.ReadWriteCloser, error), err error)
	Token    string
	Version  string   // of this program
	Features []string // that this program has
	Limits   Limits
	// Handle serves streams that the server opens; nil refuses them. The stream
	// is closed when it returns, ctx ends with the session.
	Handle func(ctx context.Context, st *Stream)
	// OnState is told of each change of a session's transport, one at a time. It
	// must return soon.
	OnState func(State)
	Log     *slog.Logger

	settle time.Duration // settleTime, but in tests
}

// Permanent marks an error of [Client.Dial] after which dialling again has no
// sense, for example because the pod is gone. The session ends with it; one of
// [Client.Direct] only ends the attempts.
func Permanent(err error) error { return &permanentError{err} }

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = time.Second
	dialTimeout  = 10 * time.Second
)

// Connect tries once to reach the server. The session lives until ctx ends or
// it is closed; while it does, a broken transport is replaced by a new one.
func (c *Client) Connect(ctx context.Context) (*Session, error) {
	limits := c.Limits.withDefaults()
	conn, w, err := c.attempt(ctx, c.Dial, limits, nil)
	if err != nil {
		return nil, fmt.Errorf("connect stream session: %w", err)
	}
	s := newSession(ctx, w.Session, true, limits, peer{
		Version: w.Version, Features: common(c.Features, w.Features), Window: w.Window, Replay: w.Replay,
	})
	s.handle, s.onState, s.log = c.Handle, c.OnState, c.Log
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.state.RTT = w.rtt
	s.setState(Connected, nil)
	go c.run(s, conn)
	return s, nil
}

// run keeps the session going until it ends; Done tells when it has returned.
func (c *Client) run(s *Session, conn io.ReadWriteCloser) {
	ctx := s.ctx
	stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	defer func() {
		stop()
		s.finish()
	}()
	way := direct{c: c, s: s, pause: cmp.Or(c.settle, settleTime)}
	for {
		next, err := way.serve(conn)
		if next != nil {
			if err = way.move(conn, next); err == nil {
				conn = next.conn
				s.setState(Moved, nil)
				continue
			}
			_ = next.conn.Close()
		}
		if s.Err() != nil {
			return
		}
		s.setState(Lost, err)
		if conn = way.again(ctx); conn == nil {
			conn, err = c.redial(ctx, s)
		}
		if conn == nil {
			s.end(err)
			return
		}
		s.setState(Resumed, nil)
	}
}

// finish lets the handlers end and marks the session as done.
func (s *Session) finish() {
	s.handlers.Wait()
	s.mu.Lock()
	s.out.release()
	err := s.err
	s.mu.Unlock()
	s.setState(Ended, err)
	close(s.done)
}

// redial tries until the session goes on over a new transport: at once, then
// after growing pauses.
func (c *Client) redial(ctx context.Context, s *Session) (io.ReadWriteCloser, error) {
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, w, err := c.attempt(ctx, c.Dial, s.limits, s)
		if err == nil {
			if s.goOn(w, false) {
				return conn, nil
			}
			_ = conn.Close()
			return nil, ErrSessionLost
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if isPermanent(err) {
			return nil, err
		}
		s.log.Debug("stream session redial", "session", s.id[:8], "err", err)
		timer := time.NewTimer(backoff/2 + rand.N(backoff/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

func isPermanent(err error) bool {
	var p *permanentError
	var refused *RefusedError
	return errors.As(err, &p) || errors.As(err, &refused) ||
		errors.Is(err, ErrSessionLost) || errors.Is(err, ErrProtocol)
}

// goOn takes the server's answer over a transport that is to carry the session from
// now on. It reports false when that can't go on. No link is running, so the
// positions stand still.
func (s *Session) goOn(w welcome, direct bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.RTT, s.state.Direct = w.rtt, direct
	return s.out.rewind(w.Received)
}

// position is up to where everything has come, which the server is about to be told.
// No link is running.
func (s *Session) position() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = s.received
	return s.received
}

// hello is how the client introduces itself.
func (c *Client) hello(l Limits) hello {
	return hello{
		Min: protocolMin, Max: protocolMax, Version: c.Version, Token: c.Token,
		Features: c.Features, Window: baseWindow, Replay: l.Replay,
	}
}

// attempt dials once and greets the server: for a new session when s is nil,
// else to go on with s.
func (c *Client) attempt(ctx context.Context, dial dialFunc, l Limits, s *Session) (io.ReadWriteCloser, welcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout,
		fmt.Errorf("no answer within %v: %w", dialTimeout, context.DeadlineExceeded))
	defer cancel()
	h := c.hello(l)
	if s != nil {
		h.Session, h.Received = s.id, s.position()
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, welcome{}, err
	}
	w, err := greet(ctx, conn, h)
	if err != nil {
		_ = conn.Close()
		return nil, w, err
	}
	return conn, w, nil
}
