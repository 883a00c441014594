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

// readBuffer is what a link reads ahead.
const readBuffer = 64 << 10

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
// another transport takes over, which it returns. It closes conn.
func (s *Session) serveLink(conn io.ReadWriteCloser) (next *attachment, err error) {
	l := &link{s: s, conn: conn, start: time.Now(), stop: make(chan struct{})}
	s.mu.Lock()
	s.ping, s.pong = 0, 0
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
	_ = conn.Close() // it is broken or given up: there is nobody to tell
	g.Wait()

	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	switch {
	case errors.Is(err, ErrProtocol), errors.Is(err, ErrPeerClosed):
		s.end(err)
	case closing:
		s.end(errClosed)
	}
	return next, err
}

// keepAlive sends pings and gives the link up when nothing comes for too long.
func (l *link) keepAlive() error {
	s := l.s
	ticker := time.NewTicker(s.limits.Ping)
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return nil
		case <-ticker.C:
		}
		now := time.Since(l.start)
		if silent := now - time.Duration(l.heard.Load()); silent >= s.limits.Dead {
			return fmt.Errorf("%w for %v", errDead, silent.Round(time.Millisecond))
		}
		s.mu.Lock()
		s.ping = uint64(now)
		s.mu.Unlock()
		s.poke()
	}
}

// writeFrames writes what the session has to say.
func (l *link) writeFrames() error {
	s := l.s
	first := true
	var control []byte
	var bufs [][]byte
	scratch := make([]byte, 0, 16<<10)
	for {
		control, bufs = s.nextBatch(control[:0], bufs[:0], first)
		first = false
		if len(control) == 0 && len(bufs) == 0 {
			select {
			case <-s.wake:
				continue
			case <-l.stop:
				return nil
			}
		}
		err := writeBatch(l.conn, control, bufs, scratch)
		s.mu.Lock()
		s.out.written()
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// writeBatch writes control and then bufs: in one piece when that is cheap,
// else in one system call where the transport can.
func writeBatch(w io.Writer, control []byte, bufs [][]byte, scratch []byte) error {
	total := len(control)
	for _, b := range bufs {
		total += len(b)
	}
	if len(control) > 0 && total <= cap(scratch) {
		scratch = append(scratch[:0], control...)
		for _, b := range bufs {
			scratch = append(scratch, b...)
		}
		_, err := w.Write(scratch)
		return err
	}
	all := make(net.Buffers, 0, 8)
	if len(control) > 0 {
		all = append(all, control)
	}
	all = append(all, bufs...)
	_, err := all.WriteTo(w)
	return err
}

// nextBatch collects what to write next: unsequenced frames first. The first
// batch of a link says a ping, so that the round trip time is known soon.
func (s *Session) nextBatch(control []byte, bufs [][]byte, first bool) ([]byte, [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeTurns()
	if s.out.unsent() > 0 {
		bufs = s.out.next(bufs, batchSize)
	}
	if first {
		s.ping = 1
	}
	due := s.received - s.told
	if due > 0 && (len(bufs) > 0 || s.ping|s.pong != 0 || due >= s.ackEvery()) {
		control = appendUint64Frame(control, frameAck, s.received)
		s.told = s.received
	}
	if s.pong != 0 {
		control = appendUint64Frame(control, framePong, s.pong)
		s.pong = 0
	}
	if s.ping != 0 {
		control = appendUint64Frame(control, framePing, s.ping)
		s.ping = 0
	}
	return control, bufs
}

// ackEvery is how much may come before an ack is sent for its own sake: few
// enough bytes that the peer, which keeps them, never waits for it.
func (s *Session) ackEvery() uint64 { return uint64(min(128<<10, s.peer.Replay/4)) }

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
			err = st.in.fill(src, f.length)
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
		if len(s.queue) > 0 {
			s.poke()
		}
	case framePing:
		s.pong = v
		s.poke()
	case framePong:
		if rtt := time.Since(l.start) - time.Duration(v); rtt > 0 {
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
	switch f.typ {
	case frameWindow:
		st.credit += int(binary.BigEndian.Uint32(payload))
		if st.credit > maxCredit {
			return protocolError("window of %d bytes", st.credit)
		}
		if len(st.pending) > 0 {
			s.enqueue(st)
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
	if s.ours(id) || id <= s.peerID {
		return protocolError("opens stream %d after %d", id, s.peerID)
	}
	s.peerID = id
	st := newStream(s, id, header)
	s.streams[id] = st
	if s.handle == nil || len(s.streams) > maxStreams {
		_ = st.in.close()
		st.endWriting(errWriteClosed)
		s.sendReset(st, CodeRefused)
		return nil
	}
	s.handlers.Go(func() {
		defer st.Close()
		s.handle(s.ctx, st)
	})
	return nil
}
