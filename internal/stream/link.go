package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// readBuffer is what a link reads ahead: heads of frames and small ones. Most of a
// large one is read to where it belongs.
const readBuffer = 16 << 10

var (
	errDead     = errors.New("no sign of life from the other side")
	errReplaced = errors.New("replaced by a newer connection")
)

// link is one transport while a session uses it.
type link struct {
	s     *Session
	conn  io.ReadWriteCloser
	start time.Time
	heard atomic.Int64  // nanoseconds after start when bytes last came
	stop  chan struct{} // closed when the link is given up
	small [8]byte       // payload of the frame that is being read
}

// Read implements io.Reader for the frame reader; any byte is a sign of life.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	if n > 0 {
		l.heard.Store(int64(time.Since(l.start)))
	}
	return n, err
}

// serveLink runs the session over conn until conn breaks, the session ends or
// another transport takes over, which it returns. It closes conn, unless it is the
// client that moves: then conn is left as it is.
func (s *Session) serveLink(conn io.ReadWriteCloser) (next *attachment, err error) {
	l := &link{s: s, conn: conn, start: time.Now(), stop: make(chan struct{})}
	s.mu.Lock()
	s.ask, s.pong = true, 0
	s.gov = newGovernor(s.limits.Replay, s.now(), s.out.acked)
	s.turns.confirm(s.out.acked, s.out.end)
	s.mu.Unlock()
	s.poke()
	var g sync.WaitGroup
	errs := make(chan error, 3)
	for _, run := range []func() error{l.readFrames, l.writeFrames, l.keepAlive} {
		g.Go(func() { errs <- run() })
	}
	select {
	case err = <-errs:
	case <-s.over:
	case next = <-s.next:
		err = errReplaced
	}
	close(l.stop)
	if s.client && next != nil {
		l.rest(&g)
	} else {
		_ = conn.Close() // it is broken or given up: there is nobody to tell
		g.Wait()
	}

	s.mu.Lock()
	closing := s.closing && next == nil // else the next one brings the goaway
	s.mu.Unlock()
	switch {
	case errors.Is(err, ErrProtocol), errors.Is(err, ErrPeerClosed):
		s.end(err)
	case closing:
		s.end(errClosed)
	}
	return next, err
}

// restTime is how long what is being written to a transport that is left may take.
const restTime = 300 * time.Millisecond

// rest waits for the link's goroutines without closing its transport, if that can be:
// the server is to hear of the next one before this one ends.
func (l *link) rest(g *sync.WaitGroup) {
	conn, ok := l.conn.(interface{ SetReadDeadline(time.Time) error })
	if !ok || conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		_ = l.conn.Close()
	}
	late := time.AfterFunc(restTime, func() { _ = l.conn.Close() })
	g.Wait()
	late.Stop()
}

// keepAlive sends pings and gives the link up when nothing comes for too long.
func (l *link) keepAlive() error {
	s := l.s
	dead := s.limits.Dead
	if s.State().Direct {
		dead /= 2 // there is another way to go, and nothing to lose
	}
	ticker := time.NewTicker(s.limits.Ping)
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return nil
		case <-ticker.C:
		}
		now := time.Since(l.start)
		if silent := now - time.Duration(l.heard.Load()); silent >= dead {
			return fmt.Errorf("%w for %v", errDead, silent.Round(time.Millisecond))
		}
		s.mu.Lock()
		s.ask = true
		s.out.idle()
		s.mu.Unlock()
		s.poke()
	}
}

// batch is what is written at once: unsequenced frames, frames of the log, and
// a question about how far the peer is then.
type batch struct {
	head []byte
	log  [][]byte
	tail []byte
}

func (b *batch) size() int {
	n := len(b.head) + len(b.tail)
	for _, p := range b.log {
		n += len(p)
	}
	return n
}

// writeFrames writes what the session has to say.
func (l *link) writeFrames() error {
	s := l.s
	w := gatherer{w: l.conn}
	_, w.vectored = l.conn.(*net.TCPConn)
	var b batch
	for {
		s.nextBatch(&b)
		if b.size() == 0 {
			select {
			case <-s.wake:
				continue
			case <-l.stop:
				return nil
			}
		}
		err := w.write(&b)
		s.mu.Lock()
		s.out.written()
		last := s.closing && s.out.unsent() == 0
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if last && l.closeWrite() {
			<-l.stop
			return nil
		}
	}
}

// closeWrite tells the transport that nothing will follow the goaway, if it can be
// told. Relays that wait for that, as a port-forward's do for a second when its other
// end is gone, need not.
func (l *link) closeWrite() bool {
	conn, ok := l.conn.(interface{ CloseWrite() error })
	return ok && conn.CloseWrite() == nil
}

// gatherer writes batches, each with one system call if it can.
type gatherer struct {
	w        io.Writer
	vectored bool // w writes net.Buffers at once
	scratch  []byte
}

// cheapCopy is how many bytes are sooner copied than written from where they are.
const cheapCopy = 16 << 10

func (g *gatherer) write(b *batch) error {
	all := make(net.Buffers, 0, 8)
	if len(b.head) > 0 {
		all = append(all, b.head)
	}
	all = append(all, b.log...)
	if len(b.tail) > 0 {
		all = append(all, b.tail)
	}
	size := b.size()
	if len(all) == 1 || size > cheapCopy && g.vectored {
		_, err := all.WriteTo(g.w)
		return err
	}
	if cap(g.scratch) < size {
		g.scratch = make([]byte, 0, max(size, cheapCopy))
	}
	g.scratch = g.scratch[:0]
	for _, p := range all {
		g.scratch = append(g.scratch, p...)
	}
	_, err := g.w.Write(g.scratch)
	return err
}

// nextBatch collects what to write next.
func (s *Session) nextBatch(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.head, b.log, b.tail = b.head[:0], b.log[:0], b.tail[:0]
	s.takeTurns()
	if s.out.unsent() > 0 {
		b.log = s.out.next(b.log, s.gov.batch())
	}
	// Who is held back must have a question under way, whose answer lets it go on.
	heldBack := len(b.log) == 0 && s.turns.len() > 0 && s.gov.asked < s.out.sent
	if s.ask || heldBack || s.gov.due(s.out.sent) {
		b.tail = appendUint64Frame(b.tail, framePing, s.gov.ask(s.now(), s.out.sent))
		s.ask = false
	}
	due := s.received - s.told
	if due > 0 && (len(b.log) > 0 || len(b.tail) > 0 || s.pong != 0 || due >= s.ackEvery()) {
		b.head = appendUint64Frame(b.head, frameAck, s.received)
		s.told = s.received
	}
	if s.pong != 0 {
		b.head = appendUint64Frame(b.head, framePong, s.pong)
		s.pong = 0
	}
}

// ackEvery is how much may come before an ack is sent for its own sake: few
// enough bytes that the peer, which keeps them, never waits for it. Mostly the peer
// asks before that, and whatever goes back costs each relay as much as a full frame.
func (s *Session) ackEvery() uint64 { return uint64(min(2<<20, s.peer.Replay/4)) }

// readFrames takes the peer's frames. It never waits for anything but the
// transport, so two sessions can't wait for each other.
func (l *link) readFrames() error {
	src := bufio.NewReaderSize(l, readBuffer)
	var h [headerSize]byte
	for {
		if _, err := io.ReadFull(src, h[:]); err != nil {
			return err
		}
		f, err := parseFrame(h)
		if err != nil {
			return err
		}
		if err := l.take(f, src); err != nil {
			return err
		}
	}
}

// take processes one frame whose header was read.
func (l *link) take(f frame, src *bufio.Reader) error {
	s := l.s
	if f.typ == frameData {
		st, err := s.incoming(f.stream)
		if err != nil {
			return err
		}
		if st == nil {
			_, err = src.Discard(f.length)
		} else {
			var half bool
			if half, err = st.in.fill(src, f.length); half && !st.stepped {
				st.stepped = true
				s.step(st)
			}
		}
		if err == nil {
			s.advance(f)
		}
		return err
	}
	payload := l.small[:min(f.length, len(l.small))]
	if f.typ == frameOpen {
		payload = make([]byte, f.length)
	}
	if _, err := io.ReadFull(src, payload); err != nil {
		return err
	}
	if !f.typ.sequenced() {
		return l.takeUnsequenced(f, binary.BigEndian.Uint64(payload))
	}
	if err := s.takeControl(f, payload); err != nil {
		return err
	}
	s.advance(f)
	return nil
}

// advance counts a sequenced frame as received.
func (s *Session) advance(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received += uint64(headerSize + f.length)
	if s.received-s.told >= s.ackEvery() {
		s.poke()
	}
}

func (l *link) takeUnsequenced(f frame, v uint64) error {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.typ {
	case frameAck:
		if !s.out.ack(v) {
			return protocolError("confirms position %d of %d", v, s.out.end)
		}
		s.gov.confirm(s.now(), v, s.out.kept(), s.turns.len() > 0)
		s.turns.confirm(v, s.out.end)
		if s.turns.len() > 0 {
			s.poke()
		}
	case framePing:
		s.pong = v
		s.poke()
	case framePong:
		if rtt, ok := s.gov.answer(s.now(), v); ok {
			s.state.RTT = rtt
		}
	}
	return nil
}

// incoming returns the stream of a frame, nil when it has ended already.
func (s *Session) incoming(id uint32) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[id]; st != nil {
		return st, nil
	}
	last := s.peerID
	if s.ours(id) {
		last = s.lastID
	}
	if id > last {
		return nil, protocolError("frame for stream %d, which was never opened", id)
	}
	return nil, nil
}

// ours tells whether streams of that number are opened by this side.
func (s *Session) ours(id uint32) bool { return (id%2 == 0) == s.client }

// takeControl processes a sequenced frame other than data.
func (s *Session) takeControl(f frame, payload []byte) error {
	switch f.typ {
	case frameGoAway:
		return ErrPeerClosed
	case frameOpen:
		return s.accept(f.stream, payload)
	}
	st, err := s.incoming(f.stream)
	if st == nil || err != nil {
		return err
	}
	if err := s.update(st, f, payload); err != nil {
		return err
	}
	switch f.typ { // last, so that who sees the end finds everything in order
	case frameFin:
		st.in.finish(io.EOF, false)
	case frameReset:
		st.in.finish(&ResetError{Code: binary.BigEndian.Uint32(payload)}, true)
	}
	return nil
}

// update applies a control frame to what s.mu guards of its stream.
func (s *Session) update(st *Stream, f frame, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.overrun(); err != nil {
		return err
	}
	switch f.typ {
	case frameWindow:
		credit := uint64(st.credit) + uint64(binary.BigEndian.Uint32(payload))
		if credit > maxCredit {
			return protocolError("window of %d bytes", credit)
		}
		st.credit = int(credit)
		if len(st.pending) > 0 {
			s.turns.add(st)
			s.poke()
		}
	case frameStop:
		st.endWriting(&ResetError{Code: binary.BigEndian.Uint32(payload)})
		s.sendFin(st)
	case frameReset:
		st.gotEnd = true
		st.endWriting(&ResetError{Code: binary.BigEndian.Uint32(payload)})
		s.sendFin(st)
		s.forget(st)
	case frameFin:
		st.gotEnd = true
		s.forget(st)
	}
	return nil
}

// maxCredit is more than any window; it keeps sums from overflowing.
const maxCredit = 1 << 30

// accept takes a stream that the peer opened.
func (s *Session) accept(id uint32, header []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil { // nobody would tell the stream that the session has ended
		return s.err
	}
	if err := s.overrun(); err != nil {
		return err
	}
	if s.ours(id) || id <= s.peerID {
		return protocolError("opens stream %d after %d", id, s.peerID)
	}
	s.peerID = id
	code := uint32(0)
	switch {
	case s.handle == nil:
		code = CodeRefused
	case len(s.streams) >= s.limits.Streams, s.serving >= s.limits.Streams:
		code = CodeBusy
	}
	if code != 0 { // nothing is kept of it: what the peer has still to say of it is dropped
		binary.BigEndian.PutUint32(s.out.add(frame{typ: frameReset, stream: id, length: 4}), code)
		s.poke()
		return nil
	}
	st := newStream(s, id, header)
	s.streams[id] = st
	s.serving++
	s.handlers.Go(func() {
		defer s.served()
		defer st.Close()
		s.handle(s.ctx, st)
	})
	return nil
}

func (s *Session) served() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving--
}

// overrun is an error when the peer makes us answer and does not confirm what we
// answer. It wants s.mu held.
func (s *Session) overrun() error {
	if n := s.out.kept(); n > s.limits.Replay+controlReserve {
		return protocolError("leaves %d bytes unconfirmed", n)
	}
	return nil
}
