package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

const (
	// maxSpool is how far a laptop may be behind with the copy of one request.
	maxSpool = 1 << 20
	// maxCopies is how many requests of one rule are copied at a time.
	maxCopies = 64
	// mirrorTime is how long a laptop may take for a copy from the end of the original, at a
	// breakpoint for example.
	mirrorTime = 5 * time.Minute
)

var (
	errBehind = errors.New("it is too far behind")
	errPart   = errors.New("the request itself was not read to its end")
)

// spool holds what was copied of a request and not sent yet. Writing to it never
// waits and never fails.
type spool struct {
	mu    sync.Mutex
	news  sync.Cond
	buf   []byte
	ended bool
	err   error
	after func() // is called when the original has ended, if not nil
	tape  *tape  // is shown what is written, nil for nobody; of who writes
}

func newSpool() *spool {
	s := &spool{}
	s.news.L = &s.mu
	return s
}

func (s *spool) write(p []byte) {
	s.tape.asked(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil || s.ended:
		return
	case len(s.buf)+len(p) > maxSpool:
		s.err, s.buf = errBehind, nil
	default:
		s.buf = append(s.buf, p...)
	}
	s.news.Signal()
}

func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.news.Signal()
}

// over says that the original has ended. A copy of less than the whole request is not one.
func (s *spool) over(whole bool) {
	if !whole {
		s.fail(errPart)
	}
	s.end()
	if s.after != nil {
		s.after()
	}
}

// run sends the copy beside its original, as one of all, and ends it with ctx, or when it takes
// long from the end of the original. done is told how it went; cut is that the door has ended it.
func (s *spool) run(ctx context.Context, all *sync.WaitGroup, long time.Duration, send func(context.Context) error, done func(err error, cut bool)) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(math.MaxInt64, cancel)
	s.after = func() {
		if ctx.Err() == nil { // it may have ended long before the original
			limit.Reset(long)
		}
	}
	stop := context.AfterFunc(ctx, func() { s.fail(context.Canceled) })
	all.Go(func() {
		err := send(ctx)
		cut := s.ours() != nil || ctx.Err() != nil
		stop()
		cancel()
		limit.Stop()  // if it begins again, it ends nothing
		_ = s.Close() // nothing more is taken
		done(err, cut)
	})
}

// ours is why the door, and not who gets the copy, has ended it; nil if it has not.
func (s *spool) ours() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, errBehind) || errors.Is(s.err, errPart) || errors.Is(s.err, context.Canceled) {
		return s.err
	}
	return nil
}

func (s *spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.buf = err, nil
	}
	s.news.Signal()
}

// Read implements io.Reader.
func (s *spool) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 && s.err == nil && !s.ended {
		s.news.Wait()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case len(s.buf) == 0:
		return 0, io.EOF
	}
	n := copy(p, s.buf)
	if s.buf = s.buf[n:]; len(s.buf) == 0 {
		s.buf = nil
	}
	return n, nil
}

// Close implements io.Closer.
func (s *spool) Close() error {
	s.fail(io.ErrClosedPipe)
	return nil
}

// spools are the copies of one request.
type spools []*spool

// Write implements io.Writer.
func (all spools) Write(p []byte) (int, error) {
	for _, s := range all {
		s.write(p)
	}
	return len(p), nil
}

func (all spools) over(whole bool) {
	for _, s := range all {
		s.over(whole)
	}
}

// mirror begins a copy of a request, or of a raw connection; its bytes are to be
// written to the spool. It returns nil if there are too many already.
func (l *lease) mirror(ctx context.Context, remote string, kind Kind, method string) *spool {
	return l.copyTo(ctx, func(ctx context.Context, s *spool) error {
		up, err := l.open(ctx, Info{Kind: kind, Remote: remote, Mirror: true})
		if err != nil {
			return err
		}
		defer up.close()
		stop := context.AfterFunc(ctx, func() { abort(up.conn) })
		defer stop()
		if err := up.await(ctx); err != nil {
			return err
		}
		up.settle()
		heard := make(chan error, 1)
		go func() { heard <- up.ignore(kind, method, nil) }()
		_, err = io.Copy(up.conn, s)
		switch {
		case err != nil:
			abort(up.conn)
		case kind == KindRaw:
			closeWrite(up.conn)
		}
		return errors.Join(err, <-heard)
	})
}

// copyTo runs a copy beside the original, and ends it mirrorTime after that, or with the lease.
func (l *lease) copyTo(ctx context.Context, send func(context.Context, *spool) error) *spool {
	if l.absent() != "" {
		l.dropped.Add(1)
		return nil
	}
	if l.copying.Add(1) > maxCopies {
		l.copying.Add(-1)
		l.dropped.Add(1)
		return nil
	}
	s := newSpool()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.over, cancel)
	s.run(ctx, &l.doors[0].copies, mirrorTime, func(ctx context.Context) error { return send(ctx, s) }, func(err error, _ bool) {
		defer l.copying.Add(-1)
		stop()
		cancel()
		if err != nil {
			l.dropped.Add(1)
			l.host.logger().Debug("request not mirrored", "owner", l.rule.Owner, "err", err)
			return
		}
		l.mirrored.Add(1)
	})
	return s
}

// hearer is shown an answer of HTTP/1 that nobody gets: its head, and what there is of
// its body, if it does not say that it was no answer. nil is nobody.
type hearer interface {
	head(p []byte, status int, said string) error
	said(p []byte)
}

// ignore reads an answer and throws it away.
func (u *upstream) ignore(kind Kind, method string, to hearer) error {
	if kind == KindRaw {
		u.skip(len(u.bytes()))
		_, err := io.Copy(io.Discard, u.conn)
		return err
	}
	for {
		a, err := parseAnswer(u.bytes(), method)
		switch {
		case errors.Is(err, errMore):
			if err := u.fill(); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			continue
		case err != nil:
			if status, ok := oddStatus(u.bytes()); ok && to != nil {
				_ = to.head(nil, status, "") // it is one
			}
			return u.drain(to)
		}
		if to != nil && (a.status >= 200 || a.status == 101) {
			said, _ := a.value(Carried)
			if err := to.head(u.bytes()[:a.size], a.status, said); err != nil {
				return err
			}
		}
		if a.body.kind == bodyRest {
			u.skip(a.size)
			return u.drain(to)
		}
		u.skip(a.size)
		if a.status < 200 {
			continue
		}
		for !a.body.done() {
			if len(u.bytes()) == 0 {
				if err := u.fill(); err != nil {
					return fmt.Errorf("read the answer: %w", err)
				}
			}
			n, err := a.body.take(u.bytes())
			if to != nil {
				to.said(u.bytes()[:n])
			}
			u.skip(n)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// drain reads to the end of the connection.
func (u *upstream) drain(to hearer) error {
	for {
		if to != nil {
			to.said(u.bytes())
		}
		u.skip(len(u.bytes()))
		if err := u.fill(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
}
