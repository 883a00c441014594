// Package ledger is the controller's memory of how changes and releases have gone: it
// writes down what has ended, counts it, sends it on as traces, and answers who asks.
//
// The main type is [Ledger]. What ended while no controller led is taken in by the next
// one. Whether something was taken in before is known from the journal alone, so that
// nothing counts twice. A Ledger is safe for concurrent use.
package ledger

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/stats"
	"github.com/bightdev/bight/internal/stats/journal"
	"github.com/bightdev/bight/internal/stats/meter"
	"github.com/bightdev/bight/internal/stats/traces"
)

// Ledger takes in what has ended. Its fields are set before anything else.
type Ledger struct {
	Journal *journal.Journal
	Meter   *meter.Meter
	// Traces is nil where nobody wants any.
	Traces *traces.Sender
	// Place says whose environment a namespace is, and ChangeOf returns a change, nil for
	// one that is no more. Neither asks the API server.
	Place    func(ctx context.Context, namespace string) stats.Place
	ChangeOf func(ctx context.Context, namespace, name string) *v1alpha1.Change
	Log      *slog.Logger

	mu   sync.Mutex // of what is taken in, one after the other
	life context.Context
	led  time.Time       // since when life is
	told map[string]bool // of what had ended shortly before that

	answer sync.Mutex // one at a time
}

// recent is how long ago something may have ended that is told of again by a process that
// begins to lead: the one before it may have been killed before it did.
const recent = 2 * time.Minute

// Lead begins to take in, until ctx ends.
func (l *Ledger) Lead(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.Journal.Open(); err != nil {
		return err
	}
	l.life, l.led, l.told = ctx, time.Now(), map[string]bool{}
	l.Meter.Lead(true)
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.life = nil
		l.Meter.Lead(false)
		if err := l.Journal.Close(); err != nil {
			l.Log.Warn("the journal is not closed", "err", err)
		}
	})
	return nil
}

// Change takes in what has ended of a change.
func (l *Ledger) Change(a *v1alpha1.App, m *v1alpha1.Change, findings func() []stats.Finding) {
	for _, e := range stats.OfChange(a, m) {
		l.take(e, func(fresh bool) {
			if e.Kind != stats.Change {
				return
			}
			if fresh {
				l.Meter.Steps(m)
			}
			if l.Traces != nil {
				l.Traces.Send(traces.OfChange(m, findings()))
			}
		})
	}
}

// Release takes in a release that has ended.
func (l *Ledger) Release(r *v1alpha1.Release) {
	if _, over := stats.OfRelease(stats.Place{}, r); !over {
		return
	}
	l.mu.Lock()
	ctx := l.life
	l.mu.Unlock()
	if ctx == nil {
		return
	}
	place := l.Place(ctx, r.Namespace)
	var m *v1alpha1.Change
	if namespace, name, made := changeOf(r.Spec.Change); made {
		if m = l.ChangeOf(ctx, namespace, name); m != nil && place.App == "" {
			place.Tenant, place.App = m.Namespace, m.Spec.App
		}
	}
	e, _ := stats.OfRelease(place, r)
	l.take(e, func(bool) {
		if l.Traces != nil {
			l.Traces.Send(traces.OfRelease(r, e, m))
		}
	})
}

// changeOf reads NAMESPACE/NAME#ATTEMPT.
func changeOf(s string) (namespace, name string, ok bool) {
	s, _, _ = strings.Cut(s, "#")
	return strings.Cut(s, "/")
}

// take writes an event down. tell is called if it is new, or may not have been told of.
func (l *Ledger) take(e stats.Event, tell func(fresh bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life == nil {
		return
	}
	fresh, err := l.Journal.Append(e)
	if err != nil {
		l.Log.Warn("what has ended is not written down", "name", e.Name, "kind", e.Kind, "err", err)
		return
	}
	// What ended before the journal began was there when this version came.
	if begun := l.Journal.Begun(); e.Ended.Before(begun) {
		return
	}
	if fresh {
		l.Meter.Count(e)
	}
	again := !fresh && e.Ended.Before(l.led) && l.led.Sub(e.Ended) < recent && !l.told[e.ID]
	if again {
		l.told[e.ID] = true
	}
	if fresh || again {
		tell(fresh)
	}
}
