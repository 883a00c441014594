package nodeagent

import (
	"sync"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// measuredEvery is how often the controller is told of stable's latencies while they
	// come, and remindEvery how often otherwise: it may be another that has heard nothing.
	measuredEvery, remindEvery = 500 * time.Millisecond, 3 * time.Second
)

// baseline are the latencies of stable's requests, as long as the canary gets none. It is
// pure.
type baseline struct {
	wanted bool
	window latency.Window
	told   int64 // how many were told last
	at     time.Time
}

// want says whether they matter still.
func (b *baseline) want(j v1alpha1.ReleaseJudge, route *v1alpha1.Routing) {
	b.wanted = spec.MindsLatency(j) && len(route.Quantiles) == 0 && route.Weight == 0 && route.Mirror == 0 && !route.Shut
}

// add counts a request that has ended, if it was stable's and went well.
func (b *baseline) add(o *steer.Outcome, now time.Time) {
	if b.wanted && o.Version == v1alpha1.Stable && wentWell(o) {
		b.window.Add(o.Latency, now)
	}
}

func wentWell(o *steer.Outcome) bool {
	a := verdict.Answer{Status: o.Status, Broken: o.Broken, Cancelled: o.Cancelled, Running: o.Running}
	if o.GRPC >= 0 {
		a.GRPC = &o.GRPC
	}
	return verdict.Classify(a) == verdict.Succeeded
}

// tell is what the controller is to know now, nil for nothing new.
func (b *baseline) tell(now time.Time) *spec.Latencies {
	if !b.wanted || now.Sub(b.at) < measuredEvery {
		return nil
	}
	counts, over := b.window.Sum(now)
	if n := counts.N(); n == 0 || n == b.told && now.Sub(b.at) < remindEvery {
		return nil
	}
	b.told, b.at = counts.N(), now
	return &spec.Latencies{Counts: counts, Over: over}
}

// idle is what doors share requests for while no release is under way: everything is
// their pod's own.
const idle = "nothing"

// measured are the latencies of the requests that were shared for nothing, by port. The
// zero value is none.
type measured struct {
	mu    sync.Mutex
	ports map[int]*latency.Window
}

// begin says that a door is there.
func (m *measured) begin(port int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ports == nil {
		m.ports = map[int]*latency.Window{}
	}
	if m.ports[port] == nil {
		m.ports[port] = &latency.Window{}
		m.ports[port].Begin(now)
	}
}

func (m *measured) add(port int, o *steer.Outcome, now time.Time) {
	if o.Running || !wentWell(o) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.ports[port]; w != nil {
		w.Add(o.Latency, now)
	}
}

// of is what is known of a port.
func (m *measured) of(port int) *latency.Window {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := &latency.Window{}
	if w := m.ports[port]; w != nil {
		all.Merge(w)
	}
	return all
}
