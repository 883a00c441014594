package switchboard

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// pipe returns two ends of a connection in this process. Unlike those of [net.Pipe], each
// end can say that it writes no more, and be reset.
func pipe() (a, b *end) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	a, b = &end{in: r1, out: w2}, &end{in: r2, out: w1}
	a.peer, b.peer = b, a
	return a, b
}

// end is one end of a pipe.
type end struct {
	in, out net.Conn
	peer    *end
	reset   atomic.Bool // by the peer
}

var errReset = errors.New("the connection was reset")

// Read implements net.Conn.
func (e *end) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if errors.Is(err, io.EOF) && e.reset.Load() {
		err = errReset
	}
	return n, err
}

// Write implements net.Conn.
func (e *end) Write(p []byte) (int, error) { return e.out.Write(p) }

// CloseWrite says that no more is written.
func (e *end) CloseWrite() error { return e.out.Close() }

// SetLinger with 0 makes the next Close a reset.
func (e *end) SetLinger(seconds int) error {
	e.peer.reset.Store(seconds == 0)
	return nil
}

// Close implements net.Conn.
func (e *end) Close() error { return errors.Join(e.out.Close(), e.in.Close()) }

// LocalAddr implements net.Conn.
func (e *end) LocalAddr() net.Addr { return e.in.LocalAddr() }

// RemoteAddr implements net.Conn.
func (e *end) RemoteAddr() net.Addr { return e.in.RemoteAddr() }

// SetDeadline implements net.Conn.
func (e *end) SetDeadline(t time.Time) error {
	return errors.Join(e.SetReadDeadline(t), e.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (e *end) SetReadDeadline(t time.Time) error { return e.in.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (e *end) SetWriteDeadline(t time.Time) error { return e.out.SetWriteDeadline(t) }
