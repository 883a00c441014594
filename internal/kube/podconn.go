package kube

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"k8s.io/streaming/pkg/httpstream"
)

const (
	// podReadAhead is how much of a connection is read before anybody asks.
	podReadAhead = 256 << 10
	// portErrorWait is how long an end of data waits for the reason, which comes
	// on a stream of its own.
	portErrorWait = 500 * time.Millisecond
)

// maxPodWrite is how much goes into one frame of the port-forward.
const maxPodWrite = 128 << 10

// podConn is a connection to a port of a pod: a net.Conn. It is the only one on
// its tunnel and closes that with itself.
type podConn struct {
	tunnel *tunnel
	port   int
	data   httpstream.Stream
	errs   httpstream.Stream
	told   chan struct{}
	tasks  sync.WaitGroup

	wmu sync.Mutex // one Write at a time

	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte // buf[r:w] came and was not read yet
	r, w   int
	err    error // why nothing more comes
	reason error // what the error stream said
	closed bool
	finned bool // CloseWrite was called
	rd, wd timeLimit
}

var _ net.Conn = (*podConn)(nil)

func newPodConn(t *tunnel, port int, errs, data httpstream.Stream) *podConn {
	c := &podConn{tunnel: t, port: port, data: data, errs: errs, told: make(chan struct{})}
	c.cond = sync.NewCond(&c.mu)
	c.tasks.Go(c.listen)
	c.tasks.Go(c.pump)
	return c
}

// listen reads the error stream.
func (c *podConn) listen() {
	defer close(c.told)
	text, _ := io.ReadAll(io.LimitReader(c.errs, maxStatus)) // an error here ends data as well
	if len(text) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = portError(c.tunnel, c.port, string(text))
	c.cond.Broadcast()
}

// pump reads ahead, so that Read can be given a deadline.
func (c *podConn) pump() {
	p := make([]byte, 32<<10)
	for {
		n, err := c.data.Read(p)
		if err != nil {
			err = c.whyEnded(err)
		}
		c.mu.Lock()
		c.keep(p[:n])
		c.err = err
		c.cond.Broadcast()
		for c.w-c.r >= podReadAhead && !c.closed && err == nil {
			c.cond.Wait()
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// keep puts p where Read finds it.
func (c *podConn) keep(p []byte) {
	if c.closed {
		return
	}
	if len(c.buf)-c.w < len(p) && c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if missing := len(p) - (len(c.buf) - c.w); missing > 0 {
		c.buf = append(c.buf, make([]byte, max(missing, len(c.buf)))...)
	}
	c.w += copy(c.buf[c.w:], p)
}

// whyEnded finds the reason for an end of the data stream.
func (c *podConn) whyEnded(err error) error {
	timer := time.NewTimer(portErrorWait)
	defer timer.Stop()
	select {
	case <-c.told:
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.reason != nil:
		return c.reason
	case c.tunnel.broken():
		return fmt.Errorf("pod %s/%s: %w", c.tunnel.namespace, c.tunnel.pod, ErrTunnelLost)
	}
	return err
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
		case c.w > c.r:
			n := copy(p, c.buf[c.r:c.w])
			if c.r += n; c.r == c.w {
				c.r, c.w = 0, 0
			}
			c.cond.Broadcast()
			return n, nil
		case c.err != nil:
			return 0, c.err
		case len(p) == 0:
			return 0, nil
		}
		c.cond.Wait()
	}
}

// Write implements net.Conn. A write whose deadline passes leaves the
// connection closed, because nobody can tell how much of it got through.
func (c *podConn) Write(p []byte) (n int, err error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for {
		if err := c.writeState(); err != nil || len(p) == 0 {
			return n, err
		}
		k, err := c.data.Write(p[:min(len(p), maxPodWrite)])
		n, p = n+k, p[k:]
		if err != nil {
			if state := c.writeState(); state != nil {
				err = state
			} else if c.tunnel.broken() {
				err = ErrTunnelLost
			}
			return n, err
		}
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
	return c.data.Close()
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
	c.rd.set(time.Time{}, nil)
	c.wd.set(time.Time{}, nil)
	c.cond.Broadcast()
	c.mu.Unlock()

	timer := time.AfterFunc(closeTimeout, func() { _ = c.tunnel.raw.Close() })
	if !finned {
		_ = c.data.Close() // what was written goes first
	}
	c.tunnel.shut()
	timer.Stop()
	c.tasks.Wait()
	return nil
}

// LocalAddr implements net.Conn.
func (c *podConn) LocalAddr() net.Addr { return PodAddr{Namespace: c.tunnel.namespace} }

// RemoteAddr implements net.Conn.
func (c *podConn) RemoteAddr() net.Addr {
	return PodAddr{Namespace: c.tunnel.namespace, Pod: c.tunnel.pod, Port: c.port}
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
		case c.wmu.TryLock():
			c.wmu.Unlock() // no write is under way
		default:
			_ = c.tunnel.raw.Close()
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
