package steer

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"time"
)

// copyTime is how long a copy may take from the end of the original.
const copyTime = 30 * time.Second

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

// dialCopy connects to who gets a copy.
func (d *Door) dialCopy(ctx context.Context, a *arm, local bool, dialled net.Addr) (net.Conn, error) {
	if local {
		return d.connect(ctx, dialled)
	}
	n := uint64(len(a.addresses))
	if n == 0 {
		return nil, errNoPod
	}
	at := a.next.Add(1) - 1
	for i := range n {
		if j := (at + i) % n; !a.resting(int(j)) {
			return d.dialPeer(ctx, a.addresses[j])
		}
	}
	return nil, errNoPod
}

// resting says whether a pod has just taken no connection.
func (a *arm) resting(i int) bool { return a.rests[i].last.Load() > time.Now().UnixNano() }

// mirror begins a copy of a request, if there is one to be made.
func (c *conn) mirror(ctx context.Context, d *delivery, dec *decision) *spool {
	a, local, ok := dec.copied()
	if !ok {
		return nil
	}
	dialled, method := c.client.conn.LocalAddr(), d.method
	s := c.d.copyTo(ctx, func(ctx context.Context, s *spool) error {
		nc, err := c.d.dialCopy(ctx, a, local, dialled)
		if err != nil {
			return err
		}
		up := &upstream{source: source{conn: nc}}
		defer up.close()
		stop := context.AfterFunc(ctx, func() { abort(nc) })
		defer stop()
		heard := make(chan error, 1)
		go func() { heard <- up.ignore(KindHTTP1, method) }()
		if _, err = io.Copy(nc, s); err != nil {
			abort(nc)
		}
		if e := <-heard; err == nil {
			err = e
		}
		return err
	})
	if s == nil {
		return nil
	}
	if local {
		s.write(d.raw)
	} else {
		s.write(carried(d.raw))
	}
	return s
}

// mirrorTo begins a copy of a request, if there is one to be made.
func (s *streams) mirrorTo(in *incoming, dec *decision) *spool {
	a, local, ok := dec.copied()
	if !ok {
		return nil
	}
	out := in.copy(s.ctx)
	if !local {
		out.Header.Set(Carried, "1")
	}
	d, dialled := s.c.d, s.c.client.conn.LocalAddr()
	c := d.copyTo(s.ctx, func(ctx context.Context, body *spool) error {
		return sendCopy(ctx, out, body, func(ctx context.Context) (net.Conn, error) { return d.dialCopy(ctx, a, local, dialled) })
	})
	if c != nil {
		in.body = io.TeeReader(in.body, spools{c})
	}
	return c
}

// copyTo runs a copy beside the original, and ends it copyTime after that.
func (d *Door) copyTo(ctx context.Context, send func(context.Context, *spool) error) *spool {
	if d.counts.copying.Add(1) > maxCopies {
		d.counts.copying.Add(-1)
		d.counts.dropped.Add(1)
		return nil
	}
	s := newSpool()
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(math.MaxInt64, cancel)
	s.after = func() { limit.Reset(copyTime) }
	stop := context.AfterFunc(ctx, func() { s.fail(context.Canceled) })
	d.copies.Go(func() {
		defer d.counts.copying.Add(-1)
		err := send(ctx, s)
		stop()
		limit.Stop() // if it begins again, it ends nothing
		cancel()
		_ = s.Close() // nothing more is taken
		if err != nil {
			d.counts.dropped.Add(1)
			d.logger().Debug("request not mirrored", "err", fmt.Errorf("copy a request: %w", err))
			return
		}
		d.counts.mirrored.Add(1)
	})
	return s
}
