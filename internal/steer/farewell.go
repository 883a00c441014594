package steer

import (
	"encoding/binary"
	"net"
	"sync"
)

// farewell is a client's HTTP/2 connection that is passed on unread. It follows
// the frames to the client only by their lengths, so that it can put one of its own
// between two of them: GOAWAY, after which a client opens a new connection for new
// requests and finishes on the old one what it has there.
type farewell struct {
	net.Conn

	mu     sync.Mutex
	gone   chan struct{} // closed with the connection
	frames int
	head   [9]byte // of the frame that is passing
	have   int     // bytes of head
	left   int     // bytes of its payload
	block  bool    // its header block goes on in the next frame
	wanted bool    // the farewell is to be said
}

// Types and flags of frames.
const (
	frameHeaders      = 1
	framePush         = 5
	frameGoAway       = 7
	frameContinuation = 9
	flagEndHeaders    = 4
)

// closed returns what is closed when the connection is.
func (f *farewell) closed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone == nil {
		f.gone = make(chan struct{})
	}
	return f.gone
}

// Close implements net.Conn.
func (f *farewell) Close() error {
	gone := f.closed()
	f.mu.Lock()
	select {
	case <-gone:
	default:
		close(f.gone)
	}
	f.mu.Unlock()
	return f.Conn.Close()
}

// CloseWrite says that no more is written.
func (f *farewell) CloseWrite() error {
	closeWrite(f.Conn)
	return nil
}

// SetLinger passes on to the connection what it is for.
func (f *farewell) SetLinger(sec int) error {
	if tcp, ok := f.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(sec)
	}
	return nil
}

// Write implements net.Conn.
func (f *farewell) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n < len(p) {
		k := f.pass(p[n:])
		m, err := f.Conn.Write(p[n : n+k])
		if n += m; err != nil {
			return n, err
		}
		if err := f.say(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// goAway says farewell as soon as a frame has ended.
func (f *farewell) goAway() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = true
	_ = f.say() // an error is seen by the next Write, too
}

// pass follows the bytes of p; it stops where a farewell fits, if one is wanted.
func (f *farewell) pass(p []byte) (n int) {
	for n < len(p) && !(f.wanted && f.between()) {
		if f.have < len(f.head) {
			k := copy(f.head[f.have:], p[n:])
			n, f.have = n+k, f.have+k
			if f.have < len(f.head) {
				continue
			}
			f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
			switch f.head[3] {
			case frameHeaders, framePush, frameContinuation:
				f.block = f.head[4]&flagEndHeaders == 0
			}
		} else {
			k := min(f.left, len(p)-n)
			n, f.left = n+k, f.left-k
		}
		if f.left == 0 {
			f.have = 0
			f.frames++
		}
	}
	return n
}

// between says whether another frame may be put here. The first has to be the
// server's.
func (f *farewell) between() bool { return f.frames > 0 && f.have == 0 && !f.block }

// say writes the frame if it is wanted and fits. It is called with f.mu held.
func (f *farewell) say() error {
	if !f.wanted || !f.between() {
		return nil
	}
	f.wanted = false
	frame := make([]byte, 17)
	frame[2], frame[3] = 8, frameGoAway
	binary.BigEndian.PutUint32(frame[9:], 1<<31-1) // every stream is still served; no error
	_, err := f.Conn.Write(frame)
	return err
}
