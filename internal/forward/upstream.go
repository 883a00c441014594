package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// idleTimeout is how long an unused connection to a pod is kept. Invalidate
// makes most of them go sooner.
const idleTimeout = 60 * time.Second

// verdictWait is how long a failed Write waits for a Read to fail as well.
const verdictWait = time.Second

// upstream is a port of a service, with the connections to it.
type upstream struct {
	proxy *Proxy
	key   key

	mu     sync.Mutex
	dialer func(ctx context.Context, port int) (net.Conn, error)
	h1, h2 *http.Transport // made when they are needed
}

func (u *upstream) use(dialer func(ctx context.Context, port int) (net.Conn, error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dialer = dialer
}

// transport returns what carries HTTP/1.1, or HTTP/2, to the service.
func (u *upstream) transport(h2 bool) *http.Transport {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := &u.h1
	if h2 {
		t = &u.h2
	}
	if *t == nil {
		*t = u.newTransport(h2)
	}
	return *t
}

func (u *upstream) newTransport(h2 bool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	return &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return u.dial(ctx) },
		Protocols:           &protocols,
		DisableCompression:  true, // the client decides what it can read
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     idleTimeout,
		ReadBufferSize:      32 << 10,
		WriteBufferSize:     32 << 10,
	}
}

// reset makes later requests use new connections. Those in use are closed when
// their requests have ended.
func (u *upstream) reset() {
	u.mu.Lock()
	old := []*http.Transport{u.h1, u.h2}
	u.h1, u.h2 = nil, nil
	u.mu.Unlock()
	for _, t := range old {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
}

// dial opens a connection; it takes at most as long as a request may wait.
func (u *upstream) dial(ctx context.Context) (*conn, error) {
	p := u.proxy
	if !p.enter() {
		return nil, net.ErrClosed
	}
	defer p.tasks.Done()
	u.mu.Lock()
	dialer := u.dialer
	u.mu.Unlock()
	if dialer == nil {
		return nil, fmt.Errorf("%s has no pod", u.key.service)
	}
	ctx, cancel := context.WithTimeout(ctx, p.Hold)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	inner, err := dialer(ctx, u.key.port)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, proxy: p, ended: make(chan struct{})}
	if !p.track(c) {
		_ = inner.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// conn is a connection to a pod. It knows what became of it.
type conn struct {
	net.Conn
	proxy *Proxy

	once     sync.Once
	ended    chan struct{} // closed when nothing more can be read
	sent     atomic.Int64  // bytes
	received atomic.Int64
	refused  atomic.Bool // nothing listened: what was sent reached nobody
}

// note keeps what an error says.
func (c *conn) note(err error) {
	if c.received.Load() == 0 && errors.Is(err, syscall.ECONNREFUSED) {
		c.refused.Store(true)
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	if err != nil {
		c.note(err)
		c.once.Do(func() { close(c.ended) })
	}
	return n, err
}

// Write implements net.Conn. When it fails although nothing was ever received, the
// Read that is under way may be about to learn that nobody listens. That is worth
// a moment: it decides whether the request may be sent again.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	if err == nil {
		return n, nil
	}
	c.note(err)
	if c.received.Load() > 0 || c.refused.Load() {
		return n, err
	}
	timer := time.NewTimer(verdictWait)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-c.proxy.ctx.Done():
	case <-timer.C:
	}
	return n, err
}

// CloseWrite says that nothing more comes.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("half-close: %w", errors.ErrUnsupported)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.proxy.untrack(c)
	c.once.Do(func() { close(c.ended) })
	return c.Conn.Close()
}
