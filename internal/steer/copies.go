package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// copyTime is how long a copy may take from the end of the original, at least.
const copyTime = 30 * time.Second

var errNoStatus = errors.New("the call has ended without a status")

// copied returns whether a request is copied, and where to: the version that gets
// copies, unless it has the request itself.
func (dec *decision) copied() (a *arm, local, ok bool) {
	s := dec.s
	if s.Mirror == nil {
		return nil, false, false
	}
	to := s.Find(s.Mirror.Version)
	if to == dec.to || !s.turns.copy() {
		return nil, false, false
	}
	if !s.mirrors(dec.d.split.Load()) {
		return nil, false, false
	}
	return &s.arms[to], to == s.local, true
}

// mirrors says whether the split in force still has the mirror.
func (s *splitting) mirrors(now *splitting) bool {
	return now == s || now != nil && now.Mirror != nil && now.Mirror.Version == s.Mirror.Version
}

// dialCopy connects to who gets a copy, as dec.address does for requests: to the next pod
// first, and after it to others. f is told who is asked.
func (d *Door) dialCopy(ctx context.Context, f *flight, a *arm, local bool, dialled net.Addr) (net.Conn, error) {
	if local {
		f.ask(a.name, netip.AddrPort{}, false)
		return d.connect(ctx, dialled)
	}
	err, long := errNoPod, false
	for _, to := range a.inTurn() {
		f.ask(a.name, to, false)
		f.seeks()
		nc, e := d.dialPeer(ctx, to)
		if f.connected(); e == nil {
			a.met(to)
			f.found()
			return nc, nil
		}
		if err = e; ctx.Err() != nil {
			return nil, err
		}
		long = a.unreachable(to, e) || long
	}
	f.unheard(f.Tries > 0 && !long)
	return nil, err
}

// inTurn are the pods that may be asked for one copy, those that have just taken no
// connection after the others.
func (a *arm) inTurn() (all []netip.AddrPort) {
	now, n := time.Now().UnixNano(), uint64(len(a.addresses))
	at := a.next.Add(1) - 1
	for _, rested := range []bool{false, true} {
		for i := range n {
			if j := (at + i) % n; (a.rests[j].last.Load() > now) == rested && len(all) < maxTries {
				all = append(all, a.addresses[j])
			}
		}
	}
	return all
}

// resting says whether a pod has just taken no connection.
func (a *arm) resting(i int) bool { return a.rests[i].last.Load() > time.Now().UnixNano() }

// answered takes in the answer to a copy, of HTTP/1 as a hearer.
type answered struct {
	f *flight
	a *arm // that it is of
}

// hear takes note of the head, unless said is that the app has got no copy.
func (a answered) hear(status int, said string) error {
	if !a.f.Pod.IsValid() {
		said = "" // the app's own word
	}
	if _, err := told(said); err != nil {
		a.f.unheard(!a.a.unreachable(a.f.Pod, err))
		return err
	}
	a.a.reached(a.f.Pod)
	a.f.answer(status, said)
	return nil
}

func (a answered) head(p []byte, status int, said string) error {
	if err := a.hear(status, said); err != nil {
		return err
	}
	a.f.tape.hears(a.f, uncarried(p), status, false)
	return nil
}

func (a answered) said(p []byte) { a.f.tape.said(p) }

// mirror begins a copy of a request, if there is one to be made.
func (c *conn) mirror(ctx context.Context, d *delivery, dec *decision) *spool {
	a, local, ok := dec.copied()
	if !ok {
		return nil
	}
	dialled, method, raw := c.client.conn.LocalAddr(), d.method, d.raw
	if !local {
		raw = carried(raw)
	}
	record := func(f *flight, to int) *tape { return dec.record(f, to, dialled, d.raw, nil) }
	return c.d.copyTo(ctx, dec, record, func(ctx context.Context, s *spool, f *flight) error {
		nc, err := c.d.dialCopy(ctx, f, a, local, dialled)
		if err != nil {
			return err
		}
		up := &upstream{source: source{conn: nc}}
		defer up.close()
		stop := context.AfterFunc(ctx, func() { abort(nc) })
		defer stop()
		heard := make(chan error, 1)
		go func() {
			err := up.ignore(KindHTTP1, method, answered{f, a})
			_, _ = s.Close(), nc.Close() // nobody wants more of either
			heard <- err
		}()
		if _, err = nc.Write(raw); err == nil {
			_, err = io.Copy(nc, s)
		}
		if err != nil && s.ours() != nil {
			abort(nc) // what was sent is no request
		}
		return <-heard // of a request that is not taken, the answer tells more than err
	})
}

// mirrorTo begins a copy of a request, if there is one to be made. whole says whether all
// of the original's body was read.
func (s *streams) mirrorTo(in *incoming, dec *decision) (c *spool, whole func() bool) {
	a, local, ok := dec.copied()
	if !ok {
		return nil, nil
	}
	out := in.copy(s.door)
	if !local {
		out.Header.Set(Carried, carriedAsks)
	}
	d, dialled := s.c.d, s.c.client.conn.LocalAddr()
	record := func(f *flight, to int) *tape { return dec.record(f, to, dialled, nil, in.r) }
	c = d.copyTo(s.door, dec, record, func(ctx context.Context, body *spool, f *flight) error {
		dial := func(ctx context.Context) (net.Conn, error) { return d.dialCopy(ctx, f, a, local, dialled) }
		var resp *http.Response
		err := sendCopy(ctx, out, body, dial, func(r *http.Response) error {
			said := r.Header.Get(Carried)
			r.Header.Del(Carried)
			if err := (answered{f, a}).hear(r.StatusCode, said); err != nil {
				return err
			}
			resp = r
			f.tape.hear(f, r)
			return nil
		})
		if isCall(out.Header) || resp != nil && isCall(resp.Header) {
			status := statusOf(resp)
			f.call(status)
			if err == nil && status < 0 {
				err = errNoStatus
			}
		}
		return err
	})
	if c == nil {
		return nil, nil
	}
	return c, in.copyTo(c)
}

// copyTo copies the body to all as it is read. whole says whether all of it was.
func (in *incoming) copyTo(all ...*spool) (whole func() bool) {
	body := &copying{Reader: in.body, to: all}
	in.body = body
	return func() bool { return in.empty() || body.whole.Load() }
}

// copying is a body that is copied as it is read.
type copying struct {
	io.Reader
	to    spools
	whole atomic.Bool // it was read to its end
}

// Read implements io.Reader.
func (c *copying) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	_, _ = c.to.Write(p[:n]) // never fails
	if errors.Is(err, io.EOF) {
		c.whole.Store(true)
		for _, s := range c.to {
			s.tape.wasWhole()
			s.end() // who answers the copy waits for nothing else
		}
	}
	return n, err
}

// copyTo runs a copy beside the original, and ends it some time after that. record keeps
// what passes by of it.
func (d *Door) copyTo(ctx context.Context, dec *decision, record func(*flight, int) *tape, send func(context.Context, *spool, *flight) error) *spool {
	if d.counts.copying.Add(1) > maxCopies {
		d.counts.copying.Add(-1)
		d.counts.dropped.Add(1)
		return nil
	}
	s := newSpool()
	f := dec.copies()
	s.tape = record(f, dec.s.Find(f.Version))
	s.run(ctx, &d.copies, dec.s.copyTime(), func(ctx context.Context) error { return send(ctx, s, f) }, func(err error, cut bool) {
		defer d.counts.copying.Add(-1)
		if err != nil {
			d.counts.dropped.Add(1)
			d.logger().Debug("request not mirrored", "err", fmt.Errorf("copy a request: %w", err))
			f.end(true, cut || errors.Is(err, errNoPod), err.Error())
			return
		}
		d.counts.mirrored.Add(1)
		f.end(false, false, "")
	})
	return s
}

// copies takes up the flight of a copy.
func (dec *decision) copies() *flight {
	o := dec.flight
	f := dec.s.watch.begin()
	f.ID, f.Generation, f.Of, f.Key, f.Client = o.ID, o.Generation, o.Of, o.Key, o.Client
	f.Copy, f.Version, f.Weight = true, dec.s.Mirror.Version, dec.s.Mirror.Weight
	f.watch()
	o.w.mu.Lock() // check may look
	defer o.w.mu.Unlock()
	o.Copied = true
	return f
}

// copyTime is how long a copy may take from the end of the original: so long at least that
// it is told of one that is never answered.
func (s *splitting) copyTime() time.Duration {
	if n := len(s.Slow); n > 0 {
		return max(copyTime, s.Slow[n-1]+time.Second)
	}
	return copyTime
}
