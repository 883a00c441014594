package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Why a session ends.
var (
	// ErrSessionLost says that the other side does not know the session any
	// more, most likely because it was started anew. Connect again.
	ErrSessionLost = errors.New("session lost: the other side was restarted or has waited too long")
	// ErrPeerClosed says that the other side closed the session.
	ErrPeerClosed = errors.New("session closed by the other side")
	// ErrBusy says that the session has as many streams as Limits.Streams of either
	// side allows.
	ErrBusy = errors.New("no more streams can be open at a time")
	// ErrProtocol says that the other side sent what no correct peer sends.
	ErrProtocol = errors.New("stream protocol violated")

	errClosed = fmt.Errorf("session closed: %w", net.ErrClosed)
)

// Limits bound what a session costs. Zero fields have defaults.
type Limits struct {
	// Window is how many bytes a stream may have under way or unread: 16 MiB. A
	// stream starts with 32 KiB, gets 256 KiB when it has use for them, and more
	// when its reader keeps up and a round trip is too long for that.
	Window int
	// Streams is how many there may be at a time: 4,096. Others are refused.
	Streams int
	// Budget bounds the growth beyond 256 KiB of all streams of a session
	// together: 64 MiB. Half as much is there for growth up to 256 KiB.
	Budget int
	// Replay is how many unconfirmed bytes are kept for sending again, and so
	// how many are under way at most: 16 MiB. Writers wait beyond it.
	Replay int
	// Ping is how often a sign of life is sent, 2 s; Dead is how long without
	// one from the peer makes a transport count as broken, 6 s. A direct one, beside
	// which there is another, has half as long.
	Ping, Dead time.Duration
	// Handshake is how long a new connection may take to say hello: 5 s.
	Handshake time.Duration
}

const (
	// baseWindow is what every stream has, and initialWindow what it gets at the
	// first sign that it has use for it.
	baseWindow    = 32 << 10
	initialWindow = 256 << 10
	minReplay     = 256 << 10
	// controlReserve is how much more than Limits.Replay the log may hold: frames
	// that are no data can't wait.
	controlReserve = 1 << 20
	lingerTime     = 2 * time.Second
)

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.Window, 16<<20)
	set(&l.Streams, 4096)
	set(&l.Budget, 64<<20)
	set(&l.Replay, 16<<20)
	l.Window = max(l.Window, 2*maxPayload)
	l.Replay = max(l.Replay, minReplay)
	setTime(&l.Ping, 2*time.Second)
	setTime(&l.Dead, 6*time.Second)
	setTime(&l.Handshake, 5*time.Second)
	return l
}

// Session is one connection that outlives its transports. [Client.Connect] or a
// [Server] makes it; whoever has it may Close it.
type Session struct {
	id       string
	who      string // server: what Server.Admit said
	client   bool
	limits   Limits
	peer     peer
	log      *slog.Logger
	handle   func(context.Context, *Stream)
	onState  func(State)
	ctx      context.Context // of the handlers; ends with the session
	cancel   context.CancelCauseFunc
	pool     buffers
	handlers sync.WaitGroup

	wake chan struct{}    // there is something to write
	next chan *attachment // a transport that takes over
	over chan struct{}    // the session has ended
	done chan struct{}    // and its goroutines too

	began time.Time

	mu       sync.Mutex
	out      replay
	gov      governor // of the present transport
	turns    turns
	waited   time.Duration // when a Write last had to wait
	streams  map[uint32]*Stream
	lastID   uint32 // of our last stream
	peerID   uint32 // of the peer's last stream
	serving  int    // handlers that run
	budget   int    // left of limits.Budget
	steps    int    // left of what is there for the first growth of streams
	received uint64 // position up to which the peer's frames were taken
	told     uint64 // the position of our last ack
	ask      bool   // a ping is to be sent
	pong     uint64 // the ping to answer, 0 for none
	closing  bool   // a goaway is under way
	err      error  // why the session ended
	state    State
}

// peer is what the handshake told about the other side.
type peer struct {
	Version  string
	Features []string
	Window   int // the initial one of its streams
	Replay   int
}

func newSession(ctx context.Context, id string, client bool, l Limits, p peer) *Session {
	s := &Session{
		id: id, client: client, limits: l, peer: p,
		wake: make(chan struct{}, 1),
		next: make(chan *attachment),
		over: make(chan struct{}), done: make(chan struct{}),
		streams: map[uint32]*Stream{},
		budget:  l.Budget,
		steps:   l.Budget / 2,
		began:   time.Now(),
		gov:     newGovernor(l.Replay, 0, 0),
		turns:   turns{round: 2},
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if !client {
		s.lastID = 1 // the server's are odd from 3 on, the client's even from 2 on
	}
	return s
}

// ID identifies the session to both sides. Whoever knows it and the token can
// take it over, so only its beginning belongs in a log.
func (s *Session) ID() string { return s.id }

// Who returns whom the server's Admit has found for the client's token, "" at the
// client.
func (s *Session) Who() string { return s.who }

// PeerVersion returns the version of the program at the other side.
func (s *Session) PeerVersion() string { return s.peer.Version }

// Features returns the features that both sides have.
func (s *Session) Features() []string { return s.peer.Features }

// Done is closed when the session has ended and all its goroutines have.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended, nil while it has not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Open opens a stream. It does not wait for the peer: the header and what is
// written after it travel together. It waits only while the session has more to
// send than it may keep.
func (s *Session) Open(ctx context.Context, header []byte) (*Stream, error) {
	if len(header) > maxOpenHeader {
		return nil, fmt.Errorf("open stream: header of %d bytes is larger than %d", len(header), maxOpenHeader)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
	}
	st, err := s.register(header)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if st.id == 0 {
			st.endWriting(context.Cause(ctx))
		}
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, fmt.Errorf("open stream: %w", s.err)
	}
	if s.turns.sparse.len() == 0 && s.mayAdd(true) {
		s.sendOpen(st)
	}
	for st.id == 0 && st.werr == nil {
		s.turns.add(st)
		s.poke()
		st.wcond.Wait()
	}
	if st.werr != nil {
		return nil, fmt.Errorf("open stream: %w", st.werr)
	}
	return st, nil
}

// register makes a stream that has no number yet.
func (s *Session) register(header []byte) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case s.closing:
		return nil, errClosed
	case len(s.streams) >= s.limits.Streams:
		return nil, fmt.Errorf("%w: there are %d", ErrBusy, len(s.streams))
	}
	return newStream(s, 0, append([]byte(nil), header...)), nil
}

// now is the time that the governor knows.
func (s *Session) now() time.Duration { return time.Since(s.began) }

// poke tells the link's writer that there is something to do.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sendCode sends a stop or reset, whatever the limits: there is at most one of
// each per stream.
func (s *Session) sendCode(st *Stream, t frameType, code uint32) {
	if s.err != nil || st.id == 0 || st.sentEnd && st.gotEnd {
		return
	}
	binary.BigEndian.PutUint32(s.out.add(frame{typ: t, stream: st.id, length: 4}), code)
	s.poke()
}

func (s *Session) sendFin(st *Stream) {
	if st.sentEnd || s.err != nil {
		return
	}
	s.out.add(frame{typ: frameFin, stream: st.id})
	st.sentEnd = true
	s.forget(st)
	s.poke()
}

func (s *Session) sendReset(st *Stream, code uint32) {
	if st.sentEnd && st.gotEnd {
		return
	}
	s.sendCode(st, frameReset, code)
	st.sentEnd = true
	s.forget(st)
}

// forget drops a stream that has ended in both directions.
func (s *Session) forget(st *Stream) {
	if st.sentEnd && st.gotEnd && s.streams[st.id] == st {
		delete(s.streams, st.id)
		s.budget += st.fromBudget
		s.steps += st.fromSteps
	}
}

// giveCredit lets the peer send more on st.
func (s *Session) giveCredit(st *Stream, n int, grow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.gotEnd || s.err != nil {
		return
	}
	now := s.now()
	if grow && now-st.credited < windowRounds*s.state.RTT+quietSlack {
		window := baseWindow + st.fromBudget + st.fromSteps
		if by := min(window, s.limits.Window-window, s.budget); by > 0 {
			s.budget -= by
			st.fromBudget += by
			st.in.enlarge(by)
			n += by
		}
	}
	st.credited = now
	s.sendWindow(st, n)
}

// windowRounds is in how many round trips, beside the time that bytes stand in
// queues, half a window must be read for it to be too small.
const windowRounds = 2

// step lets the peer send more on a stream that has got half of what it could.
func (s *Session) step(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := min(initialWindow-baseWindow, s.limits.Window-baseWindow)
	if st.gotEnd || s.err != nil || st.fromSteps+st.fromBudget > 0 || by > s.steps {
		return
	}
	s.steps -= by
	st.fromSteps = by
	st.in.enlarge(by)
	s.sendWindow(st, by)
}

func (s *Session) sendWindow(st *Stream, n int) {
	binary.BigEndian.PutUint32(s.out.add(frame{typ: frameWindow, stream: st.id, length: 4}), uint32(n))
	s.poke()
}

// end ends the session; the first reason counts.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	close(s.over)
	streams := make([]*Stream, 0, len(s.streams))
	for _, st := range s.streams {
		streams = append(streams, st)
		st.endWriting(err)
	}
	for st := s.turns.next(true); st != nil; st = s.turns.next(true) {
		st.endWriting(err)
	}
	s.mu.Unlock()
	s.cancel(err)
	for _, st := range streams {
		st.in.finish(err, false)
	}
}

// Close ends the session on both sides, after what was written has been
// delivered or two seconds have passed, and waits for its goroutines. It must
// not be called by a handler of the session or its observer, which it waits for.
func (s *Session) Close() error {
	s.mu.Lock()
	up := s.state.Kind == Connected || s.state.Kind == Resumed || s.state.Kind == Moved
	if s.err == nil && !s.closing && up {
		s.closing = true
		s.out.add(frame{typ: frameGoAway})
		s.poke()
	}
	s.mu.Unlock()
	if up {
		timer := time.NewTimer(lingerTime)
		defer timer.Stop()
		select {
		case <-s.over:
		case <-timer.C:
		}
	}
	s.end(errClosed)
	<-s.done
	return nil
}

// StateKind is what happened to a session's transport.
type StateKind string

// Kinds of [State].
const (
	Connected StateKind = "connected"
	Lost      StateKind = "lost"
	Resumed   StateKind = "resumed"
	Moved     StateKind = "moved" // to another transport, without a loss
	Ended     StateKind = "ended"
)

// State is the condition of a session's transport.
type State struct {
	Kind   StateKind
	Direct bool          // the transport is, or was last, one of Client.Direct's
	RTT    time.Duration // last measured, 0 before the first answer
	Err    error         // why it was lost or ended
	Down   time.Duration // how long it was lost, when Resumed
	At     time.Time     // since when
}

// State returns the present state.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// setState records a change and tells the observer of it.
func (s *Session) setState(kind StateKind, err error) {
	s.mu.Lock()
	now := time.Now()
	st := State{Kind: kind, Direct: s.state.Direct, RTT: s.state.RTT, Err: err, At: now}
	if kind == Resumed && s.state.Kind == Lost {
		st.Down = now.Sub(s.state.At)
	}
	s.state = st
	s.mu.Unlock()
	level := slog.LevelDebug
	if kind == Lost || kind == Resumed {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "stream session", "state", kind, "direct", st.Direct, "session", s.id[:8], "down", st.Down, "err", err)
	if s.onState != nil {
		s.onState(st)
	}
}

// inUse reports whether the session has a stream.
func (s *Session) inUse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams) > 0
}
