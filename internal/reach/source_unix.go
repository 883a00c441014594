//go:build unix

package reach

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// source reads from a socket. It takes a buffer when there is something to read,
// so that a thousand idle flows hold none.
type source struct {
	conn net.Conn
	bufs *buffers
	raw  syscall.RawConn // nil if conn is no socket
	// datagrams makes an empty read a datagram, and not the end.
	datagrams bool
	full      bool // the last read filled its buffer
}

func newSource(c net.Conn, bufs *buffers) *source {
	s := &source{conn: c, bufs: bufs}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// read returns what has come in a buffer of bufs; whoever calls puts it
// back if it is not nil.
func (s *source) read() (buf *[]byte, n int, err error) {
	if s.raw == nil {
		buf = s.bufs.get(false)
		n, err = s.conn.Read(*buf)
		return buf, n, err
	}
	var rerr error
	err = s.raw.Read(func(fd uintptr) bool {
		if buf == nil {
			buf = s.bufs.get(s.full && !s.datagrams)
		}
		for {
			n, rerr = syscall.Read(int(fd), *buf)
			if !errors.Is(rerr, syscall.EINTR) {
				break
			}
		}
		if errors.Is(rerr, syscall.EAGAIN) {
			s.bufs.put(buf)
			buf = nil
			return false
		}
		return true
	})
	n = max(n, 0)
	s.full = buf != nil && n >= largeBuffer
	switch {
	case err != nil:
		return buf, 0, err
	case rerr != nil:
		return buf, n, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", rerr)}
	case n == 0 && !s.datagrams:
		return buf, 0, io.EOF
	}
	return buf, n, nil
}
