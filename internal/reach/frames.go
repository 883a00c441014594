package reach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

const (
	frameHeader = 2
	noteLength  = 0xffff // of UDP: no datagram is as long
	maxDatagram = 65527
)

// frames decodes the messages of a stream. An error of the stream that passes,
// such as a deadline, loses nothing.
type frames struct {
	r     io.Reader
	notes bool // the greatest length stands for a note, of one byte

	buf        []byte
	start, end int // of what was read and not returned
}

// next returns the next message, which is valid until the call after it.
func (f *frames) next() (msg []byte, note bool, err error) {
	for {
		need := frameHeader
		if have := f.end - f.start; have >= frameHeader {
			n := int(binary.BigEndian.Uint16(f.buf[f.start:]))
			note = f.notes && n == noteLength
			if note {
				n = 1
			}
			if need += n; have >= need {
				msg = f.buf[f.start+frameHeader : f.start+need]
				f.start += need
				return msg, note, nil
			}
		}
		f.room(need)
		n, err := f.r.Read(f.buf[f.end:])
		f.end += n
		if err != nil && n == 0 {
			if errors.Is(err, io.EOF) && f.end > f.start {
				err = io.ErrUnexpectedEOF
			}
			return nil, false, err
		}
	}
}

// room makes the buffer hold a message of need bytes from start on.
func (f *frames) room(need int) {
	if f.start+need <= len(f.buf) && f.end < len(f.buf) {
		return
	}
	buf := f.buf
	if need > len(buf) {
		buf = make([]byte, max(need, smallBuffer))
	}
	f.end = copy(buf, f.buf[f.start:f.end])
	f.start, f.buf = 0, buf
}

// appendFrame appends a message to b.
func appendFrame(b, msg []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(msg)))
	return append(b, msg...)
}

// sendFrame writes a message with one Write, which keeps it whole among those of
// others.
func sendFrame(st *stream.Stream, bufs *buffers, msg []byte) error {
	buf := bufs.get(false)
	defer bufs.put(buf)
	n, err := st.Write(appendFrame((*buf)[:0], msg))
	if err != nil && n > 0 {
		st.Reset(stream.CodeAborted) // a part of a message is worse than none
	}
	return err
}

// udpConn is a UDP flow on the laptop.
type udpConn struct {
	st     *stream.Stream
	remote address
	bufs   *buffers

	mu sync.Mutex // over in
	in frames
}

// Read returns one datagram; what p has no room for is lost.
func (c *udpConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	msg, note, err := c.in.next()
	switch {
	case errors.Is(err, io.EOF):
		return 0, io.EOF
	case err != nil:
		return 0, c.fail("read", err)
	case note:
		s := status(msg[0])
		if n := s.errno(); n != 0 {
			return 0, c.fail("read", os.NewSyscallError("read", n))
		}
		return 0, c.fail("read", fmt.Errorf("the pod could not deliver a datagram (status %d)", s))
	}
	return copy(p, msg), nil
}

// Write sends one datagram.
func (c *udpConn) Write(p []byte) (int, error) {
	if len(p) > maxDatagram {
		return 0, c.fail("write", fmt.Errorf("datagram of %d bytes is larger than %d", len(p), maxDatagram))
	}
	if err := sendFrame(c.st, c.bufs, p); err != nil {
		return 0, c.fail("write", err)
	}
	return len(p), nil
}

func (c *udpConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: c.remote.network, Addr: c.remote, Err: err}
}

func (c *udpConn) Close() error                       { return c.st.Close() }
func (c *udpConn) LocalAddr() net.Addr                { return c.st.LocalAddr() }
func (c *udpConn) RemoteAddr() net.Addr               { return c.remote }
func (c *udpConn) SetDeadline(t time.Time) error      { return c.st.SetDeadline(t) }
func (c *udpConn) SetReadDeadline(t time.Time) error  { return c.st.SetReadDeadline(t) }
func (c *udpConn) SetWriteDeadline(t time.Time) error { return c.st.SetWriteDeadline(t) }
