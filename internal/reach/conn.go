package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// Dialer connects from a pod. It is a [net.Dialer] for the pod's network.
type Dialer struct {
	Open Opener

	bufs buffers
}

// Dial connects to address as the pod that open leads to does. See
// [Dialer.DialContext].
func Dial(ctx context.Context, open Opener, network, address string) (net.Conn, error) {
	return (&Dialer{Open: open}).DialContext(ctx, network, address)
}

// DialContext connects to address, HOST:PORT, over "tcp" or "udp". Names are
// resolved in the pod. An error is a [*net.OpError] about the system error that
// the agent got, or about a [*net.DNSError]. A TCP connection is a [*Conn]; Read
// and Write of a UDP one are about whole datagrams, and Read returns io.EOF when
// the agent has ended it because it was idle.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	remote := address{network, addr}
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Addr: remote, Err: err}
	}
	var header string
	switch network {
	case "tcp", "tcp4", "tcp6":
		header = headerTCP
	case "udp", "udp4", "udp6":
		header = headerUDP
	default:
		return nil, fail(net.UnknownNetworkError(network))
	}
	if err := checkAddress(addr); err != nil {
		return nil, fail(err)
	}
	st, err := d.Open.Open(ctx, []byte(header+addr))
	if err != nil {
		return nil, fail(err)
	}
	if err := awaitStatus(ctx, st, addr); err != nil {
		return nil, fail(err)
	}
	if header == headerUDP {
		return &udpConn{st: st, remote: remote, in: frames{r: st, notes: true}, bufs: &d.bufs}, nil
	}
	return &Conn{st: st, remote: remote, bufs: &d.bufs}, nil
}

// awaitStatus reads the agent's answer. The stream is gone if there is an error.
func awaitStatus(ctx context.Context, st *stream.Stream, addr string) error {
	stop := context.AfterFunc(ctx, func() { st.Reset(codeReset) })
	err := readStatus(st, addr)
	if !stop() {
		err = context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w (%w)", os.ErrDeadlineExceeded, err)
		}
	}
	if err != nil {
		_ = st.Close()
	}
	return err
}

// Conn is one end of a TCP connection that the agent has made. Its owner closes
// it.
type Conn struct {
	st     *stream.Stream
	remote address
	bufs   *buffers
}

var _ net.Conn = (*Conn)(nil)

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.st.Read(p)
	return n, c.explain("read", err)
}

// WriteTo implements io.WriterTo, without a buffer. An error of w is returned as it is.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	to := &checked{w: w}
	n, err := c.st.WriteTo(to)
	if to.err != nil {
		return n, to.err
	}
	return n, c.explain("read", err)
}

// checked remembers whether it was writing that failed.
type checked struct {
	w   io.Writer
	err error
}

func (c *checked) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.err = err
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.st.Write(p)
	return n, c.explain("write", err)
}

// resetError is a reset of the stream in the words of the operating system.
type resetError struct {
	errno  syscall.Errno
	stream error
}

func (e *resetError) Error() string   { return e.errno.Error() }
func (e *resetError) Unwrap() []error { return []error{e.errno, e.stream} }

func (c *Conn) explain(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	var reset *stream.ResetError
	if errors.As(err, &reset) {
		e := &resetError{errno: syscall.ECONNRESET, stream: err}
		if reset.Code == stream.CodeUnread {
			e.errno = syscall.EPIPE
		}
		err = e
	}
	return &net.OpError{Op: op, Net: c.remote.network, Addr: c.remote, Err: err}
}

// CloseWrite tells the peer that no more will be written; reading goes on.
func (c *Conn) CloseWrite() error { return c.st.CloseWrite() }

// Close ends both directions. What was written is still delivered.
func (c *Conn) Close() error { return c.st.Close() }

// Reset ends the connection at once; the peer's reads and writes then fail with
// ECONNRESET.
func (c *Conn) Reset() { c.st.Reset(codeReset) }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.st.LocalAddr() }

// RemoteAddr implements net.Conn. It is what was dialled.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.st.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.st.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.st.SetWriteDeadline(t) }
