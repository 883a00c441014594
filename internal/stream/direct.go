package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// settleTime is how old a session is before it looks for a direct way: one that
	// only asks a question is over by then.
	settleTime = 500 * time.Millisecond
	// lookTime is how long it may take to find one and to get an answer there.
	lookTime = 5 * time.Second
	// againTime is how long a direct way that has broken is tried once more, while
	// nothing else carries the session.
	againTime = time.Second
	// firstPause and longestPause are between attempts.
	firstPause, longestPause = 10 * time.Second, 5 * time.Minute
	// steadyTime is how long a direct way has to last to be worth another attempt
	// after firstPause.
	steadyTime = time.Minute
)

type dialFunc func(context.Context) (io.ReadWriteCloser, error)

// direct is what a client knows of the direct way of one session. It belongs to
// Client.run, and while a link is being served to look.
type direct struct {
	c     *Client
	s     *Session
	dial  dialFunc      // as the server said last
	on    bool          // the session's transport is direct
	since time.Time     // it is
	pause time.Duration // before the next attempt
	none  bool          // there is no direct way
}

// serve is Session.serveLink, and looks for a direct way meanwhile if the session has
// none.
func (d *direct) serve(conn io.ReadWriteCloser) (next *attachment, err error) {
	if d.c.Direct == nil || d.none || d.on {
		return d.s.serveLink(conn)
	}
	ctx, cancel := context.WithCancel(d.s.ctx)
	var looking sync.WaitGroup
	looking.Go(func() { d.look(ctx) })
	next, err = d.s.serveLink(conn)
	cancel()
	looking.Wait()
	return next, err
}

// look tries, after growing pauses, until it has given the link that is being served
// another transport, or ctx ends.
func (d *direct) look(ctx context.Context) {
	for {
		timer := time.NewTimer(d.pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		at, err := d.reach(ctx)
		if err == nil {
			select {
			case d.s.next <- at:
			case <-ctx.Done():
				_ = at.conn.Close()
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		d.s.log.Debug("stream session finds no direct way", "session", d.s.id[:8], "err", err)
		var p *permanentError
		if d.none = errors.As(err, &p); d.none {
			return
		}
		d.pause = longer(d.pause, 0)
	}
}

// longer is the pause after one that did not help, or whose help lasted for a while.
func longer(pause, lasted time.Duration) time.Duration {
	if lasted >= steadyTime {
		return firstPause
	}
	return min(max(2*pause, firstPause), longestPause)
}

// reach opens a direct transport. The session may move there, and has not yet.
func (d *direct) reach(ctx context.Context) (*attachment, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime,
		fmt.Errorf("no answer within %v: %w", lookTime, context.DeadlineExceeded))
	defer cancel()
	dial, err := d.c.Direct(ctx, d.s)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	h := d.c.hello(d.s.limits)
	h.Session, h.Move = d.s.id, true
	if _, err := greet(ctx, conn, h); err != nil {
		_ = conn.Close()
		return nil, err
	}
	d.dial = dial
	return &attachment{conn: conn, hello: h, direct: true}, nil
}

// move makes at the session's transport in place of old, which it closes. No link is
// running.
func (d *direct) move(old io.Closer, at *attachment) error {
	// It may take a second, which nobody waits for but the session's end.
	defer d.s.handlers.Go(func() { _ = old.Close() })
	if err := d.s.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(d.s.ctx, againTime,
		fmt.Errorf("no answer within %v: %w", againTime, context.DeadlineExceeded))
	defer cancel()
	w, err := exchange(ctx, at.conn, commit{Received: d.s.position()}, at.hello)
	if err == nil && !d.s.goOn(w, true) {
		err = ErrSessionLost
	}
	if err != nil {
		d.pause = longer(d.pause, 0)
		return err
	}
	d.on, d.since = true, time.Now()
	return nil
}

// again tries a direct way that has broken once more, unless it had not lasted. If
// that does not help it returns nil.
func (d *direct) again(ctx context.Context) io.ReadWriteCloser {
	if !d.on {
		return nil
	}
	lasted := time.Since(d.since)
	if lasted >= firstPause {
		limited, cancel := context.WithTimeout(ctx, againTime)
		defer cancel()
		conn, w, err := d.c.attempt(limited, d.dial, d.s.limits, d.s)
		if err == nil && d.s.goOn(w, true) {
			d.since = time.Now()
			return conn
		}
		if conn != nil {
			_ = conn.Close()
		}
	}
	d.on, d.pause = false, longer(d.pause, lasted)
	return nil
}
