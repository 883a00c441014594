package steer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// unanswered is why a pod of another version has not answered, before anything of an
// answer has reached the client.
type unanswered struct {
	err   error
	heard bool // something has: an interim answer
}

func (u *unanswered) Error() string { return "the pod has not answered: " + u.err.Error() }

func (u *unanswered) Unwrap() error { return u.err }

// toVersion sends a request to the version that a split decides for, to the app if
// there is no split.
func (c *conn) toVersion(ctx context.Context, d *delivery, mark string) bool {
	if d.carried {
		return c.toApp(ctx, d, mark)
	}
	seen := d.steered()
	dec := c.d.decide(seen, c.remote)
	if dec == nil {
		return c.toApp(ctx, d, mark)
	}
	d.dec = dec
	defer dec.over()
	d.tape = dec.record(dec.flight, dec.to, c.client.conn.LocalAddr(), d.raw, nil)
	if s := c.mirror(ctx, d, dec); s != nil {
		d.copies = append(d.copies, s)
		defer func() { s.over(d.body.done()) }()
	}
	if mark == "" && !dec.local() {
		d.keep.Store(true) // from here on; nothing was taken yet
	}
	why := ""
	for !dec.local() {
		more, err := c.toPeer(ctx, d, dec)
		if err == nil {
			return more
		}
		u, sent := errors.AsType[*unanswered](err)
		switch why = err.Error(); {
		case sent && !d.again(u):
			c.d.counts.lost.Add(1)
			if errors.Is(err, errRefused) {
				dec.unheard()
			}
			dec.broke(err)
			return c.answer(d, http.StatusBadGateway, splitMarker+": "+note("lost", why), dec.whyLost(why)+".\n")
		case errors.Is(err, errNoPod) && !dec.fall():
			dec.broke(err)
			return c.answer(d, http.StatusServiceUnavailable, splitMarker+": "+note("lost", why), dec.whyLost(why)+".\n")
		}
	}
	dec.ask(netip.AddrPort{})
	more := c.toApp(ctx, d, mark)
	if more && c.app != nil {
		c.app.watch() // so that its end is known, whoever answers meanwhile
	}
	return more
}

// errNoPod says that no pod is left to be tried.
var errNoPod = errors.New("no pod is left to be tried")

// toPeer sends a request to a pod of another version. After an error nothing of an
// answer has reached the client.
func (c *conn) toPeer(ctx context.Context, d *delivery, dec *decision) (more bool, err error) {
	up, err := c.peer(ctx, d, dec)
	if err != nil {
		return false, err
	}
	more, err = (&exchange{c: c, d: d, up: up}).run(ctx)
	switch a := &dec.s.arms[dec.to]; {
	case errors.Is(err, errRefused):
		dec.unreachable(a, up.peer, err)
	case err != nil:
		a.reached(up.peer)
	}
	if err == nil && more {
		up.since = time.Now()
		up.watch() // so that its end is known when it is used again
	}
	return more, err
}

// peer returns a connection to a pod of the version: the one that the client has, if
// that still is one of its addresses, or a new one. A client's connections are its
// own, as those to the app are: a request that the door reads differently from the
// app can then harm nobody but its sender.
func (c *conn) peer(ctx context.Context, d *delivery, dec *decision) (*upstream, error) {
	a := &dec.s.arms[dec.to]
	for _, up := range c.peers {
		if up.arm != a.name {
			continue
		}
		_, known := a.known[up.peer]
		fresh := idempotent(d.method) || time.Since(up.since) < maxIdle
		if known && fresh && !dec.shed() && !up.stirred() {
			dec.ask(up.peer)
			return up, nil
		}
		c.forget(up)
		break
	}
	why := errNoPod
	for {
		to, ok := dec.address()
		if !ok {
			return nil, why
		}
		dec.ask(to)
		dec.flight.seeks()
		nc, err := c.d.dialPeer(ctx, to)
		if err == nil {
			a.met(to)
			dec.flight.found()
			up := &upstream{source: source{conn: nc}, peer: to, arm: a.name}
			up.stop = context.AfterFunc(ctx, func() { abort(nc) })
			c.peers = append(c.peers, up)
			return up, nil
		}
		dec.unreachable(a, to, err)
		why = fmt.Errorf("%w: %w", errNoPod, err)
	}
}

// ask takes note of who is asked.
func (dec *decision) ask(pod netip.AddrPort) {
	if dec != nil {
		if pod.IsValid() && !dec.away {
			dec.away = true
			dec.d.counts.carried.Add(1)
			dec.d.counts.underway.Add(1)
		}
		dec.flight.ask(dec.s.arms[dec.to].name, pod, dec.fell)
	}
}

// over is called once when nothing of the request is left to be carried.
func (dec *decision) over() {
	if dec.away {
		dec.d.counts.underway.Add(-1)
	}
}

// broke tells that the request has found nobody to answer it.
func (dec *decision) broke(err error) {
	if dec != nil {
		dec.flight.end(true, false, err.Error())
	}
}
