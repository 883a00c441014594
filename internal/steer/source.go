package steer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

const (
	smallBuffer = 4 << 10
	largeBuffer = 32 << 10
)

// source reads a connection. It belongs to one goroutine at a time; that may have
// it watched meanwhile.
type source struct {
	conn    net.Conn
	buf     []byte
	r, w    int
	err     error // why nothing more comes
	waiting *watch
}

// watch is a read under way. n and err belong to whoever has seen done closed.
type watch struct {
	done chan struct{}
	n    int
	err  error
}

// bytes returns what was read and not skipped.
func (s *source) bytes() []byte { return s.buf[s.r:s.w] }

func (s *source) skip(n int) {
	s.r += n
	if s.r < s.w || s.waiting != nil {
		return
	}
	if s.r, s.w = 0, 0; len(s.buf) > largeBuffer {
		s.buf = nil
	}
}

// room returns where the next bytes go.
func (s *source) room() []byte {
	switch {
	case s.buf == nil:
		s.buf = make([]byte, smallBuffer)
	case s.w == len(s.buf) && s.r > 0:
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	case s.w == len(s.buf):
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	return s.buf[s.w:]
}

// got takes note of a read. An error that came with bytes comes again.
func (s *source) got(n int, err error) error {
	s.w += n
	if n > 0 {
		return nil
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) { // else the connection is as it was
		s.err = err
	}
	return err
}

// fill waits for more bytes and reads them once.
func (s *source) fill() error {
	if s.err != nil {
		return s.err
	}
	return s.got(s.conn.Read(s.room()))
}

// roomy gives the source a large buffer, for a body.
func (s *source) roomy() {
	if s.r == s.w && len(s.buf) < largeBuffer {
		s.buf, s.r, s.w = make([]byte, largeBuffer), 0, 0
	}
}

// rest gives the buffer back while nothing comes.
func (s *source) rest() {
	if s.waiting == nil && s.r == s.w {
		s.buf, s.r, s.w = nil, 0, 0
	}
}

// watch waits in the background until there is more than is read already, or the
// connection has ended; s.err then tells. What it returns is closed then, and
// heard has to be called.
func (s *source) watch() <-chan struct{} {
	if s.waiting == nil {
		w := &watch{done: make(chan struct{}), err: s.err}
		s.waiting = w
		if s.err != nil {
			close(w.done)
			return w.done
		}
		nc, room := s.conn, s.room()
		go func() { // heard or settle waits for it
			w.n, w.err = nc.Read(room)
			close(w.done)
		}()
	}
	return s.waiting.done
}

// heard is called after a watch is over.
func (s *source) heard() {
	w := s.waiting
	s.waiting = nil
	_ = s.got(w.n, w.err) // kept in s.err
}

// settle ends a watch, if there is one, and loses nothing.
func (s *source) settle() {
	if s.waiting == nil {
		return
	}
	select {
	case <-s.waiting.done:
	default:
		_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // fails if the connection is closed, which ends the watch
		<-s.waiting.done
		_ = s.conn.SetReadDeadline(time.Time{})
	}
	s.heard()
}

// stirred says, without waiting, whether something has come or the end has.
func (s *source) stirred() bool {
	select {
	case <-s.watch():
		s.heard()
		return true
	default:
		return len(s.bytes()) > 0
	}
}

// upstream is a connection to the app, or to a laptop.
type upstream struct {
	source
	lease *lease // of the laptop; nil for the app
	taken bool   // the laptop has said that its handler is there
	used  bool   // a request was answered on it
	// process is which one of the app's it leads to, see Door.
	process int64
	peer    netip.AddrPort // of a pod of another version
	arm     string         // its version
	since   time.Time      // when it answered last
	stop    func() bool    // what ends it with ctx, or with the lease

	state atomic.Int32 // of a laptop's: it is closed when it is idle and the lease is over
}

const (
	upIdle = iota
	upBusy
	upDead
)

// busy says that the connection is in use, if it still may be.
func (u *upstream) busy() bool {
	return u.lease == nil || u.state.CompareAndSwap(upIdle, upBusy)
}

// idle says that it is not.
func (u *upstream) idle() {
	if u.lease == nil {
		return
	}
	u.state.Store(upIdle)
	if u.lease.over.Err() != nil && u.state.CompareAndSwap(upIdle, upDead) {
		_ = u.conn.Close()
	}
}

// closeWrite says that no more is written to c.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the other side may have gone
		return
	}
	_ = c.Close()
}

// abort ends c so that the other side sees that it was cut off.
func abort(c net.Conn) {
	switch c := c.(type) {
	case *stream.Stream:
		c.Reset(stream.CodeAborted)
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0) // fails when it is closed already
	}
	_ = c.Close()
}

// pipe copies what comes from src to dst, its end too. When dst takes no more,
// what it still says is not lost.
func pipe(dst net.Conn, to io.Writer, src net.Conn) {
	_, err := io.Copy(to, src)
	if err == nil {
		closeWrite(dst)
		return
	}
	if reset, ok := errors.AsType[*stream.ResetError](err); ok && reset.Code == stream.CodeUnread || errors.Is(err, syscall.EPIPE) {
		return
	}
	abort(dst)
	abort(src)
}

// splice connects a client with who serves it until both directions have ended, or
// ctx has. What was read of them already goes first; mirror gets a copy of what the
// client sends. If sending is not nil, the client's bytes are somebody else's until
// it yields. splice closes both.
func splice(ctx context.Context, client, up *source, mirror io.Writer, sending <-chan error) {
	if sending == nil {
		client.settle()
	}
	up.settle()
	stop := context.AfterFunc(ctx, func() { abort(client.conn); abort(up.conn) })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		forward(client, up, nil)
	}()
	if sending != nil {
		<-sending // what went wrong shows again
	}
	forward(up, client, mirror)
	<-done
	_, _ = client.conn.Close(), up.conn.Close() // both are over
}

// forward is one direction of a splice.
func forward(dst, src *source, mirror io.Writer) {
	var to io.Writer = dst.conn
	if mirror != nil {
		to = io.MultiWriter(to, mirror)
	}
	if p := src.bytes(); len(p) > 0 {
		if _, err := to.Write(p); err != nil {
			src.skip(len(p))
			return // the other direction ends by itself
		}
		src.skip(len(p))
	}
	src.buf, src.r, src.w = nil, 0, 0
	if src.err != nil && !errors.Is(src.err, io.EOF) {
		abort(dst.conn)
		abort(src.conn)
		return
	}
	pipe(dst.conn, to, src.conn)
}
