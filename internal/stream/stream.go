package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Codes of [Stream.Reset]. Users of the package choose theirs from CodeUser on.
const (
	CodeAborted uint32 = 1   // given up without a particular reason
	CodeRefused uint32 = 2   // the peer takes no streams
	CodeUnread  uint32 = 3   // the reader has closed the stream
	CodeBusy    uint32 = 4   // as many streams are open as the peer takes
	CodeUser    uint32 = 256 // the first code without a meaning to this package
)

// ResetError is what reading or writing gives after the peer has aborted the
// stream.
type ResetError struct{ Code uint32 }

func (e *ResetError) Error() string {
	switch e.Code {
	case CodeAborted:
		return "stream aborted by the other side"
	case CodeRefused:
		return "stream refused by the other side"
	case CodeUnread:
		return "stream is no longer read by the other side"
	case CodeBusy:
		return ErrBusy.Error() + ", at the other side"
	}
	return fmt.Sprintf("stream reset by the other side with code %d", e.Code)
}

// Is makes the peer's word that it is busy the error that this side would have had.
func (e *ResetError) Is(target error) bool { return target == ErrBusy && e.Code == CodeBusy }

var (
	errReadClosed  = fmt.Errorf("read from a closed stream: %w", net.ErrClosed)
	errWriteClosed = fmt.Errorf("write to a closed stream: %w", net.ErrClosed)
)

// Stream is one byte stream of a [Session]. It is a net.Conn; its owner closes
// it.
type Stream struct {
	s      *Session
	id     uint32
	header []byte
	in     inbox
	wmu    sync.Mutex // held by the one Write that is under way

	stepped bool // half of the first window has come; the link's reader only

	// Below is guarded by s.mu.
	wcond     *sync.Cond
	wdeadline deadline
	credit    int    // bytes that the peer lets us send
	pending   []byte // what Write has still to hand over
	queued    bool   // listed in s.turns
	round     uint64 // of s.turns, in which it sent last
	burst     int    // bytes sent in that
	waited    uint64 // the round in which a Write last had to wait
	werr      error  // why writing is over
	sentEnd   bool   // a fin or reset was sent
	gotEnd    bool   // a fin or reset was received

	fromSteps, fromBudget int           // what the window has grown by, and from where
	credited              time.Duration // when the peer last got credit
}

var _ net.Conn = (*Stream)(nil)

func newStream(s *Session, id uint32, header []byte) *Stream {
	st := &Stream{s: s, id: id, header: header, credit: s.peer.Window}
	st.wcond = sync.NewCond(&s.mu)
	st.in.init(&s.pool, baseWindow)
	return st
}

// Header returns the bytes that the stream was opened with.
func (st *Stream) Header() []byte { return st.header }

// Session returns the session that the stream belongs to.
func (st *Stream) Session() *Session { return st.s }

// Read implements net.Conn. What the peer sent before it closed the stream, or
// before the session ended, is read first.
func (st *Stream) Read(p []byte) (int, error) {
	n, credit, grow, err := st.in.read(p)
	if credit > 0 {
		st.s.giveCredit(st, credit, grow)
	}
	return n, err
}

// WriteTo implements io.WriterTo: it writes what the peer sends to w, from where it
// lies, until the peer ends the stream, which is no error. It needs no buffer, which
// counts where many streams wait. Nobody else may read meanwhile.
func (st *Stream) WriteTo(w io.Writer) (total int64, err error) {
	for {
		p, err := st.in.lend()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(p)
		total += int64(n)
		if credit, grow := st.in.giveBack(n); credit > 0 {
			st.s.giveCredit(st, credit, grow)
		}
		if err != nil {
			return total, err
		}
	}
}

// Write implements net.Conn. It returns when the session has taken p over; the
// session then sees to it that it arrives, across broken transports.
func (st *Stream) Write(p []byte) (n int, err error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	total, waited := len(p), false
	st.pending = p
	for {
		switch {
		case total > 0 && len(st.pending) == 0:
			if !waited {
				s.wrote(st, total)
			}
			return total, nil
		case st.werr != nil:
			err = st.werr
		case st.wdeadline.passed:
			err = os.ErrDeadlineExceeded
		case total == 0:
			return 0, nil
		}
		if err != nil {
			n, st.pending = total-len(st.pending), nil
			return n, err
		}
		if s.mayPass(st) && s.sendFrame(st) {
			s.poke()
			continue
		}
		s.turns.add(st)
		s.poke()
		waited, st.waited, s.waited = true, s.turns.round, s.now()
		st.wcond.Wait()
	}
}

// CloseWrite tells the peer that no more will be written; reading goes on.
func (st *Stream) CloseWrite() error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.werr != nil {
		if errors.Is(st.werr, net.ErrClosed) {
			return nil
		}
		return st.werr
	}
	st.endWriting(errWriteClosed)
	s.sendFin(st)
	return nil
}

// endWriting makes writes fail with err. It wants s.mu held.
func (st *Stream) endWriting(err error) {
	if st.werr == nil {
		st.werr = err
	}
	st.wdeadline.set(time.Time{}, st.wcond)
	st.wcond.Broadcast()
}

// Close ends both directions. What was written is still delivered; what the
// peer sends from now on is thrown away and its writes fail.
func (st *Stream) Close() error {
	unread := st.in.close()
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st.endWriting(errWriteClosed)
	if unread {
		s.sendCode(st, frameStop, CodeUnread)
	}
	s.sendFin(st)
	return nil
}

// Reset ends both directions at once and gives the peer a [ResetError] with
// code; what it has not read yet is thrown away.
func (st *Stream) Reset(code uint32) {
	st.in.close()
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st.endWriting(errWriteClosed)
	s.sendReset(st, code)
}

// SetDeadline implements net.Conn.
func (st *Stream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.in.setDeadline(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.wdeadline.set(t, st.wcond)
	return nil
}

// LocalAddr implements net.Conn.
func (st *Stream) LocalAddr() net.Addr { return Addr{Session: st.s.id, Stream: st.id} }

// RemoteAddr implements net.Conn.
func (st *Stream) RemoteAddr() net.Addr { return st.LocalAddr() }

// Addr names a stream.
type Addr struct {
	Session string
	Stream  uint32
}

// Network implements net.Addr.
func (Addr) Network() string { return "bight" }

// String implements net.Addr.
func (a Addr) String() string { return fmt.Sprintf("%.8s/%d", a.Session, a.Stream) }
