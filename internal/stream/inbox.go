package stream

import (
	"bufio"
	"io"
	"os"
	"sync"
	"time"
)

const (
	smallChunk  = 4 << 10
	mediumChunk = 16 << 10
	largeChunk  = maxPayload
)

// buffers recycles chunks. Unused ones are left to the garbage collector, so an
// idle session holds none.
type buffers struct {
	small, medium, large sync.Pool
}

// of returns the pool and size of chunks for n bytes.
func (b *buffers) of(n int) (*sync.Pool, int) {
	switch {
	case n <= smallChunk:
		return &b.small, smallChunk
	case n <= mediumChunk:
		return &b.medium, mediumChunk
	}
	return &b.large, largeChunk
}

func (b *buffers) get(n int) *chunk {
	pool, size := b.of(n)
	if c, ok := pool.Get().(*chunk); ok {
		return c
	}
	return &chunk{buf: make([]byte, size)}
}

func (b *buffers) put(c *chunk) {
	c.r, c.w = 0, 0
	pool, _ := b.of(len(c.buf))
	pool.Put(c)
}

// chunk holds received bytes buf[r:w].
type chunk struct {
	buf  []byte
	r, w int
}

// inbox is the receiving half of a stream: what came and was not read yet, and
// how much more may come.
type inbox struct {
	mu     sync.Mutex
	cond   *sync.Cond
	pool   *buffers
	chunks []*chunk
	// filling is the chunk that the link's reader is writing to, beyond its w.
	filling *chunk
	// lent is the chunk whose bytes a WriteTo is writing.
	lent *chunk

	buffered int
	window   int // bytes that may be under way or buffered
	allowed  int // of these, how many the peer may still send
	consumed int // read, and not yet given back to the peer

	err      error // why nothing more comes; io.EOF after a fin
	closed   bool  // nobody reads any more: whatever comes is thrown away
	deadline deadline
}

func (in *inbox) init(pool *buffers, window int) {
	in.pool, in.window, in.allowed = pool, window, window
	in.cond = sync.NewCond(&in.mu)
}

// fill takes n bytes from src. Nothing of them is visible before all have come,
// because a frame that was cut is sent anew. It reports whether half of the
// window has come.
func (in *inbox) fill(src *bufio.Reader, n int) (half bool, err error) {
	in.mu.Lock()
	if n > in.allowed {
		in.mu.Unlock()
		return false, protocolError("stream got %d bytes more than its window", n-in.allowed)
	}
	if in.err != nil && !in.closed {
		in.mu.Unlock()
		return false, protocolError("data after the end of a stream")
	}
	if in.closed {
		in.allowed -= n
		in.mu.Unlock()
		_, err := src.Discard(n)
		if err != nil {
			in.mu.Lock()
			in.allowed += n
			in.mu.Unlock()
		}
		return false, err
	}
	c := in.tail(n)
	in.filling = c
	dst := c.buf[c.w : c.w+n]
	in.mu.Unlock()

	_, err = io.ReadFull(src, dst)

	in.mu.Lock()
	defer in.mu.Unlock()
	in.filling = nil
	if err != nil {
		return false, err
	}
	in.allowed -= n
	if in.closed {
		return false, nil
	}
	c.w += n
	in.buffered += n
	in.cond.Signal()
	return in.allowed <= in.window/2, nil
}

// tail returns the last chunk if it has n bytes left, else a new one.
func (in *inbox) tail(n int) *chunk {
	if k := len(in.chunks); k > 0 {
		if c := in.chunks[k-1]; len(c.buf)-c.w >= n {
			return c
		}
	}
	c := in.pool.get(n)
	in.chunks = append(in.chunks, c)
	return c
}

// read waits for bytes and copies them to p. credit tells the caller to give
// the peer that many bytes more, grow that a larger window would be of use.
func (in *inbox) read(p []byte) (n, credit int, grow bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.wait(len(p) == 0); err != nil || in.buffered == 0 {
		return 0, 0, false, err
	}
	for n < len(p) && in.buffered > 0 {
		c := in.chunks[0]
		k := copy(p[n:], c.buf[c.r:c.w])
		n += k
		in.take(c, k)
	}
	in.consumed += n
	credit, grow = in.credit()
	return n, credit, grow, nil
}

// wait waits for bytes, unless it is only asked whether there can be any. It wants
// in.mu held.
func (in *inbox) wait(only bool) error {
	for in.buffered == 0 || in.closed || in.deadline.passed {
		switch {
		case in.closed:
			return errReadClosed
		case in.deadline.passed:
			return os.ErrDeadlineExceeded
		case in.err != nil:
			return in.err
		case only:
			return nil
		}
		in.cond.Wait()
	}
	return nil
}

// take counts k bytes of the first chunk as read. It wants in.mu held.
func (in *inbox) take(c *chunk, k int) {
	c.r += k
	in.buffered -= k
	if c.r == c.w && c != in.filling {
		in.chunks[0] = nil
		in.chunks = in.chunks[1:]
		in.pool.put(c)
	}
}

// lend waits for bytes and returns some where they lie. They stay as they are until
// giveBack. One who reads has all to himself.
func (in *inbox) lend() ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.wait(false); err != nil {
		return nil, err
	}
	c := in.chunks[0]
	in.lent = c
	return c.buf[c.r:c.w], nil
}

// giveBack ends a lend of which n bytes were used.
func (in *inbox) giveBack(n int) (credit int, grow bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.lent
	in.lent = nil
	if len(in.chunks) == 0 || in.chunks[0] != c {
		return 0, false // they were thrown away meanwhile
	}
	in.take(c, n)
	in.consumed += n
	return in.credit()
}

// credit decides, after a read, what to give back to the peer: half a window at
// a time, so that few frames are spent on it. A window that was read as fast as
// it was filled may well be what limits the sender.
func (in *inbox) credit() (credit int, grow bool) {
	if in.consumed < in.window/2 || in.err != nil {
		return 0, false
	}
	credit, in.consumed = in.consumed, 0
	in.allowed += credit
	return credit, in.buffered < in.window/4
}

func (in *inbox) enlarge(by int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.window += by
	in.allowed += by
}

// finish says that nothing more comes. What has come stays readable, except
// after a reset.
func (in *inbox) finish(err error, discard bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if discard {
		in.drop()
	}
	if in.err == nil || discard && in.err == io.EOF {
		in.err = err
	}
	in.cond.Broadcast()
}

// close says that nobody reads any more. It reports whether more could come.
func (in *inbox) close() (open bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	open = in.err == nil && !in.closed
	in.closed = true
	in.deadline.set(time.Time{}, in.cond)
	in.drop()
	in.cond.Broadcast()
	return open
}

func (in *inbox) drop() {
	for _, c := range in.chunks {
		if c != in.filling && c != in.lent {
			in.pool.put(c)
		}
	}
	in.chunks, in.buffered = nil, 0
}

func (in *inbox) setDeadline(t time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.deadline.set(t, in.cond)
}

// deadline wakes the waiters of a condition at a time. Its methods want the
// condition's lock held.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (d *deadline) set(t time.Time, cond *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		if d.timer == timer {
			d.passed = true
			cond.Broadcast()
		}
	})
	d.timer = timer
}
