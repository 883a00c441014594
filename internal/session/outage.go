package session

import (
	"context"
	"sync"
	"time"
)

const (
	// outageBearable is how long pods may be out of reach before anybody is told.
	outageBearable = 2 * time.Second
	// outageAsk is how long the API server may take to say that it is there.
	outageAsk = 2 * time.Second
)

// outage tells the user when saves do not arrive because the cluster is out of reach, and
// when it is back. A pod alone that is out of reach is none: it restarts, or another takes
// its place. All methods are safe for concurrent use.
type outage struct {
	ask  func(context.Context) error // nil when the API server answers
	gone func(error)
	back func(time.Duration)

	mu    sync.Mutex
	lost  map[*pod]time.Time // since when
	since time.Time          // the first of them was lost; zero while nobody was told
}

// newOutage tells the user of a session.
func newOutage(s *Session) *outage {
	return &outage{
		ask: func(ctx context.Context) error {
			return s.Cluster.Explain(s.applier.Client.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Error())
		},
		gone: func(err error) {
			s.Printer.Warn("", err.Error(), "saves wait until it is within reach again")
		},
		back: func(after time.Duration) {
			s.Printer.Note("", "the cluster is within reach again, after "+after.Round(100*time.Millisecond).String())
		},
	}
}

// lose takes in that a pod is out of reach. It is of interest until ctx ends.
func (o *outage) lose(ctx context.Context, p *pod) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost == nil {
		o.lost = map[*pod]time.Time{}
	}
	o.lost[p] = now
	timer := time.AfterFunc(outageBearable, func() { o.look(ctx, p, now) })
	context.AfterFunc(ctx, func() {
		timer.Stop()
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.lost, p)
	})
}

// look finds out whether a pod that was lost is so because of the cluster.
func (o *outage) look(ctx context.Context, p *pod, lost time.Time) {
	if !o.isLost(p, lost) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, outageAsk)
	defer cancel()
	err := o.ask(limited)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil || ctx.Err() != nil || !o.since.IsZero() || !o.lost[p].Equal(lost) {
		return
	}
	o.since = lost
	for _, at := range o.lost {
		if at.Before(o.since) {
			o.since = at
		}
	}
	o.gone(err)
}

func (o *outage) isLost(p *pod, since time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost[p].Equal(since)
}

// find takes in that a pod is within reach.
func (o *outage) find(p *pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.lost, p)
	if !o.since.IsZero() {
		o.back(time.Since(o.since))
		o.since = time.Time{}
	}
}
