package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// maxKept is how much of a request's body is kept to send it a second time.
	maxKept = 64 << 10
	// lingerTime and lingerBytes bound what is read of a request that was answered
	// without being read.
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// delivery is a request on its way.
type delivery struct {
	*request
	raw    []byte      // its head, as it came but for Carried
	came   time.Time   // when that was read, if another door wants to know how long the app takes
	kept   []byte      // what was taken of its body
	keep   atomic.Bool // kept is all of it so far
	copies spools      // mirrors
	dec    *decision   // of a split; nil if none has decided
	tape   *tape       // what is kept of it; nil for nothing
}

// seen is shown the body as it goes by.
func (d *delivery) seen(p []byte) {
	if d.keep.Load() {
		if len(d.kept)+len(p) > maxKept {
			d.keep.Store(false)
			d.kept = nil
		} else {
			d.kept = append(d.kept, p...)
		}
	}
	d.tape.asked(p)
	_, _ = d.copies.Write(p) // never fails
}

// repeatable says whether the request can be sent once more although its effect
// may have happened.
func (d *delivery) repeatable() bool { return d.keep.Load() && idempotent(d.method) }

// again says whether the request can be sent to somebody else after err.
func (d *delivery) again(err *unanswered) bool {
	if errors.Is(err, errRefused) {
		return d.keep.Load() // nobody has seen anything of it
	}
	return !err.heard && d.repeatable()
}

// serveHTTP1 routes a connection's requests one after the other.
func (c *conn) serveHTTP1(ctx context.Context) {
	if c.last != nil { // the client was slow to speak
		c.last.idle()
	}
	for {
		r, err := c.readRequest(ctx)
		switch {
		case errors.Is(err, errOdd):
			if len(c.client.bytes()) > 0 || c.last == nil || c.last.err == nil { // else the app has ended it
				c.unread()
			}
			c.toLastUnread(ctx)
			return
		case err != nil:
			return
		}
		d := &delivery{request: r}
		if d.raw = append([]byte(nil), c.client.bytes()[:r.size]...); r.carried {
			d.raw = uncarried(d.raw)
			if asks, _ := r.value(Carried); asks == carriedAsks {
				d.came = time.Now()
			}
		}
		c.client.skip(r.size)
		if !c.deliver(ctx, d) {
			return
		}
	}
}

// readRequest waits for the head of the next request. With errOdd the connection
// is not to be read any more, with any other error it is over.
func (c *conn) readRequest(ctx context.Context) (*request, error) {
	slow := time.NewTimer(wholeHead)
	defer slow.Stop()
	c.client.rest() // many connections are idle
	if c.last != nil && len(c.last.bytes()) > 0 && !c.unasked() {
		return nil, errOdd
	}
	for {
		p := c.client.bytes()
		if len(p) > 0 {
			if r, err := parseRequest(p); !errors.Is(err, errMore) {
				return r, err
			}
		}
		if c.client.err != nil {
			if len(p) > 0 {
				return nil, errOdd
			}
			return nil, c.client.err
		}
		var fromUp <-chan struct{}
		if c.last != nil {
			fromUp = c.last.watch()
		}
		select {
		case <-c.client.watch():
			c.client.heard()
		case <-fromUp:
			c.last.heard()
			if !c.unasked() {
				return nil, errOdd
			}
		case <-slow.C:
			if len(p) > 0 {
				return nil, errOdd
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// unasked is called when the one who answered last has ended the connection, or
// says more. From a laptop or another pod that means nothing to the client, and that
// the app which a laptop replaces has ended does not either. Else the app may be
// saying why; then the client is to hear it.
func (c *conn) unasked() (goOn bool) {
	if t := c.d.rules.Load(); c.last.lease == nil && !c.last.peer.IsValid() && (t == nil || !t.replaced || len(c.last.bytes()) > 0) {
		return false
	}
	c.forget(c.last)
	return true
}

// toLastUnread gives the rest of the connection to the app, on the connection that
// the client has to it.
func (c *conn) toLastUnread(ctx context.Context) {
	if c.app == nil || c.app != c.last {
		c.toAppUnread(ctx)
		return
	}
	c.splice(ctx, c.app, nil, nil)
}

// deliver sends a request to where it belongs and its answer to the client. It
// returns whether another request may follow.
func (c *conn) deliver(ctx context.Context, d *delivery) bool {
	c.d.asks(1) // before it is decided whom
	defer c.d.asks(-1)
	seen := d.steered()
	to, mirrors := c.d.pick(seen)
	for _, l := range mirrors {
		if s := l.mirror(ctx, c.client.conn.RemoteAddr().String(), KindHTTP1, d.method); s != nil {
			d.copies = append(d.copies, s)
		}
	}
	mirrored := d.copies // and those for a split end by themselves
	defer func() { mirrored.over(d.body.done()) }()
	_, _ = d.copies.Write(d.raw) // never fails
	mark := ""
	var tried leases
	for to != nil {
		var more bool
		err := c.d.elsewhere(func() (err error) {
			more, err = c.toLaptop(ctx, d, to)
			return err
		})
		if err == nil {
			return more
		}
		f, ok := errors.AsType[*failure](err)
		if !ok {
			return false
		}
		again := f.unseen || d.repeatable()
		if again && to.left() {
			to, _ = c.d.pick(seen, tried...)
			continue
		}
		tried = append(tried, to)
		c.d.logger().Debug("laptop has not answered", "owner", to.rule.Owner, "port", c.d.Port, "why", f.why)
		if to.rule.Strict || !again {
			tried.missed()
			return c.answerLost(d, f.why)
		}
		mark = note("app", f.why)
		to, _ = c.d.pick(seen, tried...)
	}
	tried.byApp()
	return c.toVersion(ctx, d, mark)
}

// toLaptop sends a request to a laptop. After a failure nothing of an answer has
// reached the client, and the request can be sent elsewhere.
func (c *conn) toLaptop(ctx context.Context, d *delivery, l *lease) (more bool, err error) {
	d.keep.Store(true)
	for {
		if why := l.absent(); why != "" {
			return false, &failure{why, true}
		}
		up, err := c.dialLaptop(ctx, l, KindHTTP1)
		if err != nil {
			return false, err
		}
		again := up.used
		more, err = (&exchange{c: c, d: d, up: up}).run(ctx)
		if err == nil {
			up.idle()
			return more, nil
		}
		f, ok := errors.AsType[*failure](err)
		if !ok || !again || !f.unseen && !d.repeatable() {
			return false, err
		}
		// The handler has closed a connection that it had kept.
	}
}

// toApp sends a request to the app.
func (c *conn) toApp(ctx context.Context, d *delivery, mark string) bool {
	up, err := c.dialApp(ctx)
	if err != nil {
		c.d.logger().Debug("request refused", "port", c.d.Port, "err", err)
		d.dec.broke(err)
		switch {
		case mark != "":
			return c.answerLost(d, err.Error())
		case !d.came.IsZero():
			return c.answer(d, http.StatusServiceUnavailable, Carried+": "+carriedRefused, "")
		}
		abort(c.client.conn)
		return false
	}
	more, err := (&exchange{c: c, d: d, up: up, mark: mark}).run(ctx)
	return more && err == nil
}

// answerLost says that no laptop can answer.
func (c *conn) answerLost(d *delivery, why string) bool {
	text := fmt.Sprintf("This request belongs to a laptop that did not answer it: %s.\n", why)
	return c.answer(d, http.StatusBadGateway, marker+": "+note("lost", why), text)
}

// answer answers in the place of those who can't.
func (c *conn) answer(d *delivery, status int, mark, text string) bool {
	more := d.body.done() && d.lasts() && d.minor > 0
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\n%s\r\nContent-Type: text/plain; charset=utf-8\r\n", status, http.StatusText(status), mark)
	if !more {
		head += "Connection: close\r\n"
	}
	head += fmt.Sprintf("Content-Length: %d\r\n\r\n", len(text))
	if d.method == "HEAD" {
		text = ""
	}
	if _, err := io.WriteString(c.client.conn, head+text); err != nil || more {
		return err == nil && more
	}
	linger(c.client.conn)
	return false
}

// linger reads a little of what a client still sends, so that it gets to read the
// answer before it learns that it was not heard to the end.
func linger(nc net.Conn) {
	closeWrite(nc)
	_ = nc.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, nc, lingerBytes)
}
