package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Server takes sessions. Its fields are set before Serve is called.
type Server struct {
	Token string // that clients must have; required without Admit
	// Admit, in place of Token, says who has a token, or why nobody may come in
	// with it, which the client is told. Session.Who returns it; a session is gone
	// on with only by a token that the same one has. It must not wait, nor call the
	// Server.
	Admit    func(token string) (who string, err error)
	Version  string   // of this program
	Features []string // that this program has
	Limits   Limits
	// Retain is how long a session whose transport is lost waits for the client
	// to come back: 60 s.
	Retain time.Duration
	// MaxSessions is how many there may be at a time: 16.
	MaxSessions int
	// Handle serves a stream that a client opened. The stream is closed when it
	// returns; ctx ends with the session, after which it must return.
	Handle func(ctx context.Context, st *Stream)
	Log    *slog.Logger

	mu       sync.Mutex
	sessions map[string]*Session
}

// attachment is a transport whose client has said hello, or at the client one whose
// server has answered to that.
type attachment struct {
	conn     io.ReadWriteCloser
	hello    hello
	protocol int
	who      string
	direct   bool // it came by Resume
}

// Serve takes connections from ln until ctx ends, then ends all sessions and
// waits for their handlers. It closes ln.
func (v *Server) Serve(ctx context.Context, ln net.Listener) error {
	if v.Token == "" && v.Admit == nil {
		return errors.New("serve streams: a server without a token would let anyone in")
	}
	if v.Log == nil {
		v.Log = slog.New(slog.DiscardHandler)
	}
	v.mu.Lock()
	v.sessions = map[string]*Session{}
	v.mu.Unlock()
	var g sync.WaitGroup
	defer g.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errClosed)
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for backoff := time.Duration(0); ; {
		conn, err := ln.Accept()
		if err == nil {
			backoff = 0
			g.Go(func() {
				v.serveConn(ctx, conn, func(at *attachment, s *Session) { g.Go(func() { v.run(s, at) }) })
			})
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve streams: %w", err)
		}
		v.Log.Warn("accept stream connection", "err", err)
		backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
	}
}

// Resume does the handshake on a connection that came by another way than Serve's
// listener. A session that there is may move to it or go on over it; none begins. It
// returns when the session has the connection, or it is closed.
func (v *Server) Resume(ctx context.Context, conn io.ReadWriteCloser) {
	v.serveConn(ctx, conn, nil)
}

// serveConn does the handshake on conn and gives it to its session. begin starts a
// new one; without it there are no new ones.
func (v *Server) serveConn(ctx context.Context, conn io.ReadWriteCloser, begin func(*attachment, *Session)) {
	limits := v.Limits.withDefaults()
	hctx, cancel := context.WithTimeout(ctx, limits.Handshake)
	defer cancel()
	release := guard(hctx, conn)
	var h hello
	err := readHello(conn, &h)
	if !release() || err != nil {
		_ = conn.Close()
		v.Log.Debug("connection dropped before its handshake", "err", err)
		return
	}
	protocol, refusal := negotiate(h)
	var who string
	var why error
	if refusal == "" {
		if who, why = v.admit(h.Token); why != nil {
			refusal = RefusedToken
		}
	}
	if refusal == "" && (h.Window <= 0 || h.Window > maxCredit || h.Replay < minReplay) {
		_ = conn.Close()
		return
	}
	at := &attachment{conn: conn, hello: h, protocol: protocol, who: who, direct: begin == nil}
	if refusal == "" {
		refusal, why = v.assign(ctx, hctx, at, limits, begin)
	}
	if refusal != "" {
		v.refuse(hctx, conn, refusal, why)
	}
}

// errToken is why a token is not the one; the client has words of its own for it.
var errToken = errors.New("")

// admit says who has a token.
func (v *Server) admit(token string) (who string, err error) {
	if v.Admit != nil {
		return v.Admit(token)
	}
	if v.Token == "" || !sameToken(token, v.Token) {
		return "", errToken
	}
	return "", nil
}

// End ends the sessions of those whom over is true of, without waiting for their
// goroutines. A client that comes back is told that its session is lost, or what
// Admit says.
func (v *Server) End(over func(who string) bool, why error) {
	v.mu.Lock()
	var ended []*Session
	for id, s := range v.sessions {
		if over(s.who) {
			delete(v.sessions, id)
			ended = append(ended, s)
		}
	}
	v.mu.Unlock()
	for _, s := range ended {
		s.end(why)
	}
}

// Sessions returns how many sessions those have whom of is true of, also sessions
// that wait for their client to come back.
func (v *Server) Sessions(of func(who string) bool) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.sessions {
		if of(s.who) {
			n++
		}
	}
	return n
}

// refuse tells the client why and hangs up.
func (v *Server) refuse(ctx context.Context, conn io.ReadWriteCloser, r Refusal, why error) {
	v.Log.Info("stream connection refused", "reason", string(r), "why", why)
	w := welcome{Version: v.Version, Refused: string(r)}
	if why != nil {
		text := why.Error()
		w.Why = text[:min(len(text), maxWhy)]
	}
	if r == RefusedVersion {
		w.Min, w.Max = protocolMin, protocolMax
	}
	release := guard(ctx, conn)
	_ = writeHello(conn, w) // a client that has gone needs no answer
	release()
	_ = conn.Close()
}

// assign gives at to the session that it asks for, or to a new one.
func (v *Server) assign(ctx, hctx context.Context, at *attachment, l Limits, begin func(*attachment, *Session)) (Refusal, error) {
	if at.hello.Session == "" && begin != nil {
		s, refusal, why := v.newSession(ctx, at, l)
		if refusal == "" {
			begin(at, s)
		}
		return refusal, why
	}
	v.mu.Lock()
	s := v.sessions[at.hello.Session]
	v.mu.Unlock()
	if s == nil || s.who != at.who {
		return refusedSession, nil
	}
	if at.hello.Move {
		if err := v.agree(hctx, s, at); err != nil {
			_ = at.conn.Close()
			v.Log.Debug("session did not move", "session", s.id[:8], "err", err)
			return "", nil
		}
	}
	select {
	case s.next <- at:
		return "", nil
	case <-s.over:
	case <-hctx.Done():
	}
	return refusedSession, nil
}

// agree tells a client that its session may move to at, and waits until it does: from
// then on no bytes come over the transport before.
func (v *Server) agree(ctx context.Context, s *Session, at *attachment) error {
	release := guard(ctx, at.conn)
	err := writeHello(at.conn, v.welcome(s, at, 0))
	var c commit
	if err == nil {
		err = readHello(at.conn, &c)
	}
	if !release() {
		return context.Cause(ctx)
	}
	at.hello.Received = c.Received
	return err
}

// welcome is the answer to a client that is taken.
func (v *Server) welcome(s *Session, at *attachment, received uint64) welcome {
	return welcome{
		Protocol: at.protocol, Version: v.Version, Features: v.Features,
		Window: baseWindow, Replay: s.limits.Replay,
		Session: s.id, Received: received,
	}
}

func (v *Server) newSession(ctx context.Context, at *attachment, l Limits) (*Session, Refusal, error) {
	s := newSession(ctx, newSessionID(), false, l, peer{
		Version: at.hello.Version, Features: common(v.Features, at.hello.Features),
		Window: at.hello.Window, Replay: at.hello.Replay,
	})
	s.handle, s.log = v.Handle, v.Log
	v.mu.Lock()
	defer v.mu.Unlock()
	// Once more, now that End would find the session.
	var err error
	if s.who, err = v.admit(at.hello.Token); err != nil {
		s.cancel(err)
		return nil, RefusedToken, err
	}
	limit := v.MaxSessions
	if limit <= 0 {
		limit = 16
	}
	if len(v.sessions) >= limit && !v.evict() {
		s.cancel(errClosed)
		return nil, RefusedBusy, nil
	}
	v.sessions[s.id] = s
	return s, "", nil
}

// evict ends the session that has waited longest for its client, if one does; one
// without a stream goes before those that somebody may come back to. It wants v.mu
// held.
func (v *Server) evict() bool {
	var oldest *Session
	var since time.Time
	var used bool
	for _, s := range v.sessions {
		st, busy := s.State(), s.inUse()
		if st.Kind != Lost {
			continue
		}
		if oldest == nil || used && !busy || used == busy && st.At.Before(since) {
			oldest, since, used = s, st.At, busy
		}
	}
	if oldest == nil {
		return false
	}
	delete(v.sessions, oldest.id)
	oldest.end(ErrSessionLost)
	return true
}

// run keeps s going over one transport after another until it ends.
func (v *Server) run(s *Session, at *attachment) {
	stop := context.AfterFunc(s.ctx, func() { s.end(context.Cause(s.ctx)) })
	defer func() {
		v.mu.Lock()
		delete(v.sessions, s.id)
		v.mu.Unlock()
		stop()
		s.finish()
	}()
	kind := Connected
	for s.Err() == nil {
		if at == nil {
			if at = v.await(s); at == nil {
				return
			}
		}
		conn := at.conn
		if err := v.attach(s, at); err != nil {
			_ = conn.Close()
			at = nil
			v.Log.Debug("stream handshake", "err", err)
			if kind == Moved {
				s.setState(Lost, err)
				kind = Resumed
			}
			continue
		}
		s.setState(kind, nil)
		kind = Resumed
		var err error
		switch at, err = s.serveLink(conn); {
		case s.Err() != nil:
		case at != nil && at.hello.Move:
			kind = Moved
		default:
			s.setState(Lost, err)
		}
	}
	if at != nil {
		_ = at.conn.Close()
	}
}

// await waits for a client to come back to s.
func (v *Server) await(s *Session) *attachment {
	retain := v.Retain
	if retain <= 0 {
		retain = time.Minute
	}
	timer := time.NewTimer(retain)
	defer timer.Stop()
	select {
	case at := <-s.next:
		return at
	case <-s.over:
	case <-timer.C:
		s.end(ErrSessionLost)
	}
	return nil
}

// attach answers the client's hello and puts s where that wants to go on. No
// link is running, so the positions stand still.
func (v *Server) attach(s *Session, at *attachment) error {
	s.mu.Lock()
	ok := s.out.rewind(at.hello.Received)
	received := s.received
	s.told = received
	s.state.Direct = at.direct
	s.mu.Unlock()
	hctx, cancel := context.WithTimeout(s.ctx, s.limits.Handshake)
	defer cancel()
	if !ok {
		v.refuse(hctx, at.conn, refusedSession, nil)
		return fmt.Errorf("position %d: %w", at.hello.Received, ErrSessionLost)
	}
	release := guard(hctx, at.conn)
	err := writeHello(at.conn, v.welcome(s, at, received))
	if !release() {
		return context.Cause(hctx)
	}
	return err
}
