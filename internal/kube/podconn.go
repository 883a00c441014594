package kube

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/moby/spdystream/spdy"
)

const (
	// podReadAhead is how much of a connection is read before anybody asks.
	podReadAhead  = 256 << 10
	podReadAtOnce = 16 << 10
	// portErrorWait is how long an end of data waits for the reason, which comes
	// on a stream of its own.
	portErrorWait = 500 * time.Millisecond
	// maxPodWrite is how much goes into one frame of the port-forward.
	maxPodWrite = 256 << 10
)

// podConn is a connection to a port of a pod: a net.Conn. It is the only one on
// its tunnel and closes that with itself.
type podConn struct {
	*tunnel
	port  int
	done  chan struct{} // closed with closed
	tasks sync.WaitGroup

	writing sync.Mutex // one Write at a time

	mu     sync.Mutex
	cond   *sync.Cond
	in     ring // what came and was not read yet
	ended  bool // nothing more comes, but the reason for that may
	late   *time.Timer
	err    error // why nothing more comes
	text   []byte
	heard  bool  // the error stream has ended
	reason error // what it said
	reset  bool  // nobody takes what is written
	closed bool
	finned bool // CloseWrite was called
	rd, wd timeLimit
}

var _ net.Conn = (*podConn)(nil)

// newPodConn returns a connection for which start has to be called.
func newPodConn(t *tunnel) *podConn {
	c := &podConn{tunnel: t, done: make(chan struct{})}
	c.cond = sync.NewCond(&c.mu)
	c.tasks.Go(c.receive)
	c.tasks.Go(func() { t.keepAlive(c.done) })
	return c
}

// start asks for a port of the pod. Whether anybody listens there the pod's side says
// later. patient waits until the pod's side has heard of it, which shows that the
// tunnel is not broken.
func (c *podConn) start(ctx context.Context, port int, patient bool) error {
	c.mu.Lock()
	c.port = port
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	err := c.write(opening(port), nil)
	if err == nil && patient {
		select {
		case <-c.replied:
		case <-c.lost:
			err = ErrTunnelLost
		}
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("forward to port %d of pod %s/%s: %w", port, c.namespace, c.pod, err)
	}
	return nil
}

// receive takes the frames of the other side. It reads ahead, so that Read can be
// given a deadline.
func (c *podConn) receive() {
	err := c.takeFrames()
	if !errors.Is(err, errFrame) {
		err = ErrTunnelLost
	}
	close(c.lost)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(fmt.Errorf("pod %s/%s: %w", c.namespace, c.pod, err))
}

// errFrame says that the server sent what is no port-forward.
var errFrame = errors.New("the port-forward is not understood")

func (c *podConn) takeFrames() error {
	var head [frameHead]byte
	replies := map[uint32]bool{}
	for replied := false; ; {
		if _, err := io.ReadFull(c.over, head[:]); err != nil {
			return err
		}
		first, second := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
		flags, length := second>>24, int(second&maxFrame)
		if first&controlBit == 0 {
			if err := c.takeData(first, length, flags&uint32(spdy.DataFlagFin) != 0); err != nil {
				return err
			}
			continue
		}
		if length > maxControl {
			return fmt.Errorf("%w: a control frame of %d bytes", errFrame, length)
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(c.over, body); err != nil {
			return err
		}
		var about uint32 // mostly a stream
		if length >= 4 {
			about = binary.BigEndian.Uint32(body)
		}
		switch kind := spdy.ControlFrameType(first); {
		case kind == spdy.TypeSynReply:
			if about == errorStream || about == dataStream {
				replies[about] = true
			}
			if replies[errorStream] && replies[dataStream] && !replied {
				close(c.replied)
				replied = true
			}
			if flags&uint32(spdy.ControlFlagFin) != 0 {
				c.end(about)
			}
		case kind == spdy.TypeRstStream:
			c.end(about)
			c.mu.Lock()
			c.reset = c.reset || about == dataStream
			c.mu.Unlock()
		case kind == spdy.TypePing && about%2 == 0: // theirs: ours are odd
			if err := c.write(append(head[:], body...), nil); err != nil {
				return err
			}
		case kind == spdy.TypeGoAway:
			return io.EOF
		}
	}
}

// takeData takes a frame of data. last says that the stream ends with it.
func (c *podConn) takeData(stream uint32, length int, last bool) error {
	var err error
	switch stream {
	case dataStream:
		err = c.fill(length)
	case errorStream:
		text := make([]byte, min(length, maxStatus))
		if _, err = io.ReadFull(c.over, text); err == nil {
			_, err = io.CopyN(io.Discard, c.over, int64(length-len(text)))
		}
		if len(c.text) < maxStatus {
			c.text = append(c.text, text...)
		}
	default:
		_, err = io.CopyN(io.Discard, c.over, int64(length))
	}
	if err == nil && last {
		c.end(stream)
	}
	return err
}

// fill puts bytes where Read finds them, each as soon as it is there.
func (c *podConn) fill(length int) error {
	for length > 0 {
		free := c.room()
		if free == nil {
			_, err := io.CopyN(io.Discard, c.over, int64(length))
			return err
		}
		n, err := c.over.Read(free[:min(len(free), length)])
		length -= n
		c.mu.Lock()
		c.in.n += n
		c.cond.Broadcast()
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// room waits until something may be read, and returns where to; nil when nobody wants
// it. Only what is read there counts as taken.
func (c *podConn) room() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.in.n >= podReadAhead && !c.closed {
		c.cond.Wait()
	}
	if c.closed {
		return nil
	}
	return c.in.free()
}

// end notes that one of the streams has ended.
func (c *podConn) end(stream uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch stream {
	case dataStream:
		if c.ended = true; !c.heard && c.late == nil {
			c.late = time.AfterFunc(portErrorWait, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.finish(io.EOF)
			})
		}
	case errorStream:
		if c.heard = true; len(c.text) > 0 && c.reason == nil {
			c.reason = portError(c.tunnel, c.port, string(c.text))
		}
	}
	if c.ended && c.heard {
		c.finish(io.EOF)
	}
}

// finish says that nothing more comes, and why. It wants c.mu held.
func (c *podConn) finish(err error) {
	if c.reason != nil {
		err = c.reason
	}
	if c.err == nil {
		c.err = err
	}
	if c.late != nil {
		c.late.Stop()
	}
	c.cond.Broadcast()
}

// Read implements net.Conn.
func (c *podConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.rd.passed:
			return 0, os.ErrDeadlineExceeded
		case c.in.n > 0:
			full := c.in.n >= podReadAhead
			n := c.in.take(p)
			if full {
				c.cond.Broadcast()
			}
			return n, nil
		case c.err != nil:
			return 0, c.err
		case len(p) == 0:
			return 0, nil
		}
		c.cond.Wait()
	}
}

// ring is a buffer that one fills and others empty. It grows as it fills up.
type ring struct {
	buf  []byte
	r, n int // n bytes from r on, around the end
}

// free returns a part of it that is not in use, never an empty one.
func (b *ring) free() []byte {
	switch {
	case b.n == len(b.buf):
		larger := make([]byte, max(2*len(b.buf), podReadAtOnce))
		n := b.n
		b.take(larger)
		b.buf, b.r, b.n = larger, 0, n
	case b.n == 0:
		b.r = 0
	}
	if w := b.r + b.n; w < len(b.buf) {
		return b.buf[w:]
	}
	return b.buf[b.r+b.n-len(b.buf) : b.r]
}

// take moves bytes to p.
func (b *ring) take(p []byte) (n int) {
	for n < len(p) && b.n > 0 {
		k := copy(p[n:], b.buf[b.r:min(b.r+b.n, len(b.buf))])
		n += k
		b.n -= k
		if b.r += k; b.r == len(b.buf) {
			b.r = 0
		}
	}
	return n
}

// Write implements net.Conn. A write whose deadline passes leaves the
// connection closed, because nobody can tell how much of it got through.
func (c *podConn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for {
		if err := c.writeState(); err != nil || len(p) == 0 {
			return n, err
		}
		k := min(len(p), maxPodWrite)
		if err := c.writeData(p[:k], false); err != nil {
			if state := c.writeState(); state != nil {
				return n, state
			}
			return n, fmt.Errorf("pod %s/%s: %w", c.namespace, c.pod, ErrTunnelLost)
		}
		n, p = n+k, p[k:]
	}
}

func (c *podConn) writeState() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.wd.passed:
		return os.ErrDeadlineExceeded
	case c.closed, c.finned:
		return net.ErrClosed
	case c.reason != nil:
		return c.reason
	case c.reset:
		return syscall.EPIPE
	}
	return nil
}

// CloseWrite says that nothing more will be written; reading goes on.
func (c *podConn) CloseWrite() error {
	c.mu.Lock()
	done := c.closed || c.finned
	c.finned = true
	c.mu.Unlock()
	if done {
		return nil
	}
	return c.writeData(nil, true)
}

// Close implements net.Conn. It takes a second at most.
func (c *podConn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	finned := c.finned
	started := c.port != 0
	close(c.done)
	if c.late != nil {
		c.late.Stop()
	}
	c.rd.set(time.Time{}, nil)
	c.wd.set(time.Time{}, nil)
	c.cond.Broadcast()
	c.mu.Unlock()

	timer := time.AfterFunc(closeTimeout, func() { _ = c.raw.Close() })
	if started && !finned {
		_ = c.writeData(nil, true) // what was written goes first
	}
	if started {
		// The library at the other end waits for ever to end a stream whose reply it
		// could not send.
		select {
		case <-c.replied:
		case <-c.lost:
		}
	}
	c.shut()
	timer.Stop()
	c.tasks.Wait()
	return nil
}

// LocalAddr implements net.Conn.
func (c *podConn) LocalAddr() net.Addr { return PodAddr{Namespace: c.namespace} }

// RemoteAddr implements net.Conn.
func (c *podConn) RemoteAddr() net.Addr {
	return PodAddr{Namespace: c.namespace, Pod: c.pod, Port: c.port}
}

// SetDeadline implements net.Conn.
func (c *podConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *podConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.rd.set(t, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.rd.pass(t)
		c.cond.Broadcast()
	})
	c.cond.Broadcast()
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *podConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.wd.set(t, func() {
		c.mu.Lock()
		c.wd.pass(t)
		passed := c.wd.passed
		c.mu.Unlock()
		switch {
		case !passed:
		case c.writing.TryLock():
			c.writing.Unlock() // no write is under way
		default:
			_ = c.raw.Close()
		}
	})
	return nil
}

// timeLimit is a deadline that calls a function when it passes. The owner's
// lock is held by callers of its methods.
type timeLimit struct {
	at     time.Time
	timer  *time.Timer
	passed bool
}

func (l *timeLimit) set(t time.Time, fire func()) {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.at, l.timer, l.passed = t, nil, false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	l.passed = wait <= 0
	if !l.passed {
		l.timer = time.AfterFunc(wait, fire)
	}
}

// pass notes that the deadline t has passed, unless it was moved meanwhile.
func (l *timeLimit) pass(t time.Time) {
	if l.at.Equal(t) {
		l.passed = true
	}
}

// PodAddr is a port of a pod.
type PodAddr struct {
	Namespace, Pod string
	Port           int
}

// Network implements net.Addr.
func (PodAddr) Network() string { return "pod" }

// String implements net.Addr.
func (a PodAddr) String() string { return fmt.Sprintf("%s/%s:%d", a.Namespace, a.Pod, a.Port) }
