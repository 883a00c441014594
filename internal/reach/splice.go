package reach

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

const (
	smallBuffer = 2 << 10              // what an idle flow holds
	largeBuffer = 64<<10 + frameHeader // what a busy one does
	hugeBuffer  = stream.BulkWrite     // and one that fills that, if few do
	// hugeBuffers is how many of these there are, at each end.
	hugeBuffers = 16
	// drainTime is how long a socket may take for the rest of what was sent to
	// it, when its peer wants to hear nothing any more.
	drainTime = 5 * time.Second
)

// buffers are shared by flows: one holds a large buffer only while bytes are
// moving.
type buffers struct {
	large, huge sync.Pool
	out         atomic.Int32 // huge ones in use
}

// get returns a large buffer, or if it may be a huge one.
func (b *buffers) get(huge bool) *[]byte {
	pool, size := &b.large, largeBuffer
	if huge {
		if b.out.Add(1) <= hugeBuffers {
			pool, size = &b.huge, hugeBuffer
		} else {
			b.out.Add(-1)
		}
	}
	if buf, ok := pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, size)
	return &buf
}

func (b *buffers) put(buf *[]byte) {
	if len(*buf) < hugeBuffer {
		b.large.Put(buf)
		return
	}
	b.out.Add(-1)
	b.huge.Put(buf)
}

// splice carries bytes between a socket of this machine and a connection of the
// other until both directions have ended. A half-close and a reset at one side
// become the same at the other. Up is from far to sock.
type splice struct {
	sock net.Conn
	far  *Conn
	up   chan upEnd
}

// upEnd is how the way up has ended.
type upEnd struct {
	err   error
	write bool // it was the socket that failed
}

// start begins with the way up. The socket is made while it runs: ready waits for
// that and returns it, nil when there is none. Up to then failed reads are told by
// giveUp.
func (s *splice) start(ready func(giveUp error) net.Conn) {
	s.up = make(chan upEnd, 1)
	go func() {
		buf := make([]byte, smallBuffer)
		n, err := s.far.Read(buf)
		giveUp := err
		if errors.Is(err, io.EOF) {
			giveUp = nil
		}
		sock := ready(giveUp)
		var end upEnd
		if sock != nil {
			end = s.upward(sock, buf[:n], err)
		}
		s.up <- end
	}()
}

// upward copies to the socket, beginning with what the first read gave. The rest is
// written from where it lies.
func (s *splice) upward(sock net.Conn, first []byte, err error) (end upEnd) {
	to := &checked{w: sock}
	if len(first) > 0 {
		_, _ = to.Write(first)
	}
	if to.err == nil && err == nil {
		if _, err = s.far.st.WriteTo(to); err == nil {
			err = io.EOF
		} else {
			err = s.far.explain("read", err)
		}
	}
	switch {
	case to.err != nil:
		return upEnd{err: to.err, write: true}
	case errors.Is(err, io.EOF):
		if half, ok := sock.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // the other side may have gone already
		}
		return upEnd{}
	}
	abort(sock)
	return upEnd{err: err}
}

// run does the way down, waits for the other and closes both ends.
func (s *splice) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		s.far.Reset()
		abort(s.sock)
	})
	defer stop()
	readErr, writeErr := s.downward()
	switch {
	case readErr != nil:
		s.far.Reset()
		abort(s.sock)
	case writeErr != nil:
		s.lastWords(writeErr)
	default:
		// The socket's end may still be a reset, which only a write notices.
		_ = s.far.CloseWrite()
	}
	if end := <-s.up; end.write {
		s.far.Reset()
	}
	_ = s.sock.Close()
	_ = s.far.Close()
}

// lastWords ends the socket when the far side takes nothing any more. If that
// has closed its end in peace, what it sent before still gets there.
func (s *splice) lastWords(err error) {
	var reset *stream.ResetError
	if !errors.As(err, &reset) || reset.Code != stream.CodeUnread {
		abort(s.sock)
		return
	}
	_ = s.sock.SetWriteDeadline(time.Now().Add(drainTime))
	end := <-s.up
	s.up <- end
	if end.err != nil {
		abort(s.sock)
	}
}

// downward copies from the socket until that or the far side ends.
func (s *splice) downward() (readErr, writeErr error) {
	src := newSource(s.sock, s.far.bufs)
	for {
		buf, n, err := src.read()
		if n > 0 {
			_, writeErr = s.far.Write((*buf)[:n])
		}
		if buf != nil {
			s.far.bufs.put(buf)
		}
		switch {
		case writeErr != nil:
			return nil, writeErr
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// abort closes a socket with a reset, where it can.
func abort(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}
