//go:build !unix

package reach

import "net"

// source reads from a socket.
type source struct {
	conn net.Conn
	bufs *buffers
}

func newSource(c net.Conn, bufs *buffers) *source { return &source{conn: c, bufs: bufs} }

// read returns what has come in a buffer of bufs; whoever calls puts it
// back if it is not nil.
func (s *source) read() (buf *[]byte, n int, err error) {
	buf = s.bufs.get(false)
	n, err = s.conn.Read(*buf)
	return buf, n, err
}
