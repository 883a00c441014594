package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire is one direction of an in-memory transport. Like a network it holds what
// was written and loses it when it is cut.
type wire struct {
	mu     sync.Mutex
	cond   *sync.Cond
	store  []byte // what buf grows into when it was empty
	buf    []byte
	limit  int // bytes that may wait
	left   int // bytes until onCut is called, -1 for never
	onCut  func()
	err    error
	frozen bool // nothing comes through, and nobody is told
	unread bool // the reader's deadline has passed
	passed int
}

func newWire(limit int) *wire {
	w := &wire{limit: limit, left: -1, store: make([]byte, 0, min(2*limit, 512<<10))}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *wire) write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(p) > 0 {
		for w.err == nil && (len(w.buf) >= w.limit || w.frozen) {
			w.cond.Wait()
		}
		if w.err != nil {
			return n, w.err
		}
		k := min(len(p), w.limit-len(w.buf))
		if w.left >= 0 {
			k = min(k, w.left)
			w.left -= k
		}
		if len(w.buf) == 0 {
			w.buf = w.store[:0]
		}
		w.buf = append(w.buf, p[:k]...)
		w.passed += k
		p, n = p[k:], n+k
		w.cond.Broadcast()
		if w.left == 0 {
			cut := w.onCut
			w.left = -1
			w.mu.Unlock()
			cut()
			w.mu.Lock()
		}
	}
	return n, nil
}

func (w *wire) read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && !w.unread && (len(w.buf) == 0 || w.frozen) {
		w.cond.Wait()
	}
	if w.unread {
		return 0, os.ErrDeadlineExceeded
	}
	if w.err != nil && (len(w.buf) == 0 || w.err != io.EOF) {
		return 0, w.err
	}
	n := copy(p, w.buf)
	if w.buf = w.buf[n:]; len(w.buf) == 0 {
		w.buf = w.store[:0]
	}
	w.cond.Broadcast()
	return n, nil
}

func (w *wire) stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.cond.Broadcast()
}

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = true
}

// end is one end of an in-memory transport.
type end struct {
	net.Conn // nil: only what is below may be used
	in, out  *wire
}

func (e *end) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e *end) Write(p []byte) (int, error) { return e.out.write(p) }

// SetReadDeadline ends the reading, whatever the time.
func (e *end) SetReadDeadline(time.Time) error {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.unread = true
	e.in.cond.Broadcast()
	return nil
}

func (e *end) Close() error {
	e.out.stop(io.EOF)
	e.in.stop(net.ErrClosed)
	return nil
}

var errCut = errors.New("cut")

// network is a net.Listener and its dialler, with a fault to inject.
type network struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once

	// prepare sees each new transport.
	prepare func(up, down *wire)
	// down makes dialling fail.
	down atomic.Bool

	mu    sync.Mutex
	links [][2]*wire
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	return &network{accept: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.accept:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *network) Addr() net.Addr { return Addr{} }

func (n *network) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	if n.down.Load() {
		return nil, errors.New("network is unreachable")
	}
	up, down := newWire(256<<10), newWire(256<<10)
	if n.prepare != nil {
		n.prepare(up, down)
	}
	n.mu.Lock()
	n.links = append(n.links, [2]*wire{up, down})
	n.mu.Unlock()
	select {
	case n.accept <- &end{in: up, out: down}:
		return &end{in: down, out: up}, nil
	case <-n.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// last returns the two directions of the newest transport.
func (n *network) last() (up, down *wire) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[len(n.links)-1]
	return l[0], l[1]
}

// cut breaks the newest transport; what is under way is lost.
func (n *network) cut() {
	up, down := n.last()
	up.stop(errCut)
	down.stop(errCut)
}

// freeze lets nothing more through on the newest transport.
func (n *network) freeze() {
	up, down := n.last()
	up.freeze()
	down.freeze()
}

// serve runs a server on a new network for the duration of the test.
func serve(t testing.TB, v *Server) (*network, *Client) {
	t.Helper()
	n := newNetwork(t)
	if v.Token == "" {
		v.Token = "secret"
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- v.Serve(ctx, n) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return n, &Client{Dial: n.dial, Token: v.Token, Version: "v1.2.3", Limits: v.Limits}
}

// connect opens a session that is closed when the test ends.
func connect(t testing.TB, c *Client) *Session {
	t.Helper()
	s, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t testing.TB, s *Session, header string) *Stream {
	t.Helper()
	st, err := s.Open(t.Context(), []byte(header))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// echo sends everything back.
func echo(_ context.Context, st *Stream) {
	if _, err := io.Copy(st, st); err == nil {
		_ = st.CloseWrite()
	}
}
