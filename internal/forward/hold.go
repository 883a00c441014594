package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"time"
)

const (
	// shortestPause and longestPause are between two attempts to reach a service
	// when nobody says that it is ready: a pod without the agent has nobody to.
	shortestPause = 2 * time.Millisecond
	longestPause  = 200 * time.Millisecond
)

// errStopping is that the session ends.
var errStopping = errors.New("bight up is stopping")

// errPatience is that an attempt to connect took as long as a request may wait.
var errPatience = errors.New("no answer to the attempt to connect")

// unreadyError is that no pod could be reached in time.
type unreadyError struct {
	service string
	waited  time.Duration
	err     error // of the last attempt
}

func (e *unreadyError) Error() string {
	return fmt.Sprintf("no pod of %s could be reached in %s: %v", e.service, e.waited, e.err)
}

func (e *unreadyError) Unwrap() error { return e.err }

// lostError is that a service took a request and did not answer it.
type lostError struct {
	service string
	err     error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("%s did not answer: %v", e.service, e.err)
}

func (e *lostError) Unwrap() error { return e.err }

// goneError is that a service is not part of the app any more.
type goneError struct{ service string }

func (e *goneError) Error() string { return e.service + " is not part of the app any more" }

// outcome is how far a failed attempt came.
type outcome int

const (
	unsent   outcome = iota // no byte reached a process
	orphaned                // a process may have had the request
)

// again reports whether a request may be sent again after an attempt that came so
// far. A request that reached nobody always may. One that may have been carried
// out must be idempotent, and even then is sent once more only: a restart is over
// after that, and a service that dies of a request should not be fed it for ten
// seconds. lost counts such attempts since the service was last seen down.
func again(o outcome, idempotent bool, lost int) bool {
	return o == unsent || idempotent && lost <= 1
}

// idempotent reports whether doing a request twice has the effect of doing it
// once (RFC 9110, 9.2.2). An idempotency key makes any request so.
func idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("Idempotency-Key") != "" || r.Header.Get("X-Idempotency-Key") != ""
}

// patience is how long somebody goes on trying.
type patience struct {
	proxy    *Proxy
	deadline time.Time
	pause    time.Duration
}

func (p *Proxy) patience() *patience {
	return &patience{proxy: p, deadline: time.Now().Add(p.Hold), pause: shortestPause}
}

// wait waits until something changed or a pause is over, whichever comes first.
// It reports false when there is no time left.
func (w *patience) wait(ctx context.Context, changed <-chan struct{}) (bool, error) {
	left := time.Until(w.deadline)
	if left <= 0 {
		return false, nil
	}
	timer := time.NewTimer(min(w.pause, left))
	defer timer.Stop()
	w.pause = min(2*w.pause, longestPause)
	select {
	case <-changed:
		w.pause = shortestPause
		return true, nil
	case <-timer.C:
		return time.Now().Before(w.deadline), nil
	case <-w.proxy.waits.Done():
		return false, errStopping
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// holder sends one request to a service, as often as it takes.
type holder struct {
	proxy *Proxy
	key   key
	h2    bool
}

// RoundTrip implements http.RoundTripper.
func (h *holder) RoundTrip(req *http.Request) (*http.Response, error) {
	var body *tape
	if req.Body != nil && req.Body != http.NoBody {
		body = newTape(req.Body, tapeLimit)
	}
	patience, lost := h.proxy.patience(), 0
	for {
		changed := h.proxy.watch()
		u := h.proxy.table.Load().upstreams[h.key]
		if u == nil {
			return nil, &goneError{h.key.service}
		}
		resp, o, err := h.try(req, u, body, patience.deadline)
		if err == nil {
			body.seal()
			return resp, nil
		}
		if req.Context().Err() != nil {
			return nil, err
		}
		if lost++; o == unsent {
			lost = 0
		}
		if !again(o, idempotent(req), lost) {
			return nil, &lostError{h.key.service, err}
		}
		h.proxy.Log.Debug("request is held", "service", h.key.service, "port", h.key.port, "err", err)
		more, stop := patience.wait(req.Context(), changed)
		switch {
		case stop != nil:
			return nil, stop
		case !more:
			return nil, &unreadyError{h.key.service, h.proxy.Hold, err}
		case !body.again():
			return nil, &lostError{h.key.service, fmt.Errorf("%w, and %w", err, errTapeOver)}
		}
	}
}

// try sends a request once. The deadline is for reaching the service, not for its
// answer. The outcome is that of an error.
func (h *holder) try(req *http.Request, u *upstream, body *tape, deadline time.Time) (*http.Response, outcome, error) {
	// The response's body lives as long as this context, which ends with the
	// client's request.
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(time.Until(deadline), func() { cancel(errPatience) })
	defer timer.Stop()
	stop := context.AfterFunc(h.proxy.waits, func() { cancel(errStopping) })
	defer stop()
	var used *conn
	var before int64
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		timer.Stop()
		stop()
		if c, ok := info.Conn.(*conn); ok {
			used, before = c, c.sent.Load()
		}
	}}
	out := req.WithContext(httptrace.WithClientTrace(ctx, trace))
	if body != nil {
		var err error
		if out.Body, err = body.next(); err != nil {
			return nil, orphaned, err
		}
		out.GetBody = body.next
	}
	resp, err := u.transport(h.h2).RoundTrip(out)
	if err == nil {
		return resp, unsent, nil
	}
	if cause := context.Cause(ctx); cause != nil && req.Context().Err() == nil {
		err = cause
	}
	cancel(err)
	if used == nil || used.refused.Load() || used.sent.Load() == before {
		return nil, unsent, err
	}
	return nil, orphaned, err
}
