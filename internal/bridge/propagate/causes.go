package propagate

import (
	"slices"
	"sync"
	"time"
)

const (
	// afterglow is for how long the trace of a request that was answered is known:
	// some work goes on behind an answer.
	afterglow = 5 * time.Second
	// maxAnswered is how many answered requests are known at most.
	maxAnswered = 4096
)

// cause is an intercepted request.
type cause struct {
	value  string   // of the key
	traces []string // that it is part of
	ended  time.Time
}

// causes are the intercepted requests that may have caused others. Its methods may be
// called by any number of goroutines.
type causes struct {
	mu       sync.Mutex
	under    map[*cause]bool
	answered []*cause // in the order of their ends
}

// begin adds a request.
func (c *causes) begin(value string, traces []string) *cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under == nil {
		c.under = map[*cause]bool{}
	}
	one := &cause{value: value, traces: traces}
	c.under[one] = true
	return one
}

// end is told that a request was answered.
func (c *causes) end(one *cause, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.under[one] {
		return
	}
	delete(c.under, one)
	c.forget(now)
	if len(one.traces) > 0 {
		one.ended = now
		c.answered = append(c.answered, one)
	}
}

// forget drops the answered requests whose time is over. The caller has the lock.
func (c *causes) forget(now time.Time) {
	old := max(0, len(c.answered)-maxAnswered+1)
	for old < len(c.answered) && now.Sub(c.answered[old].ended) > afterglow {
		old++
	}
	if c.answered = c.answered[old:]; len(c.answered) == 0 {
		c.answered = nil
	}
}

// of returns the key's value for a request that is part of the traces. A trace of an
// intercepted request decides. Where none is known, or none given, it is one of those
// that are under way: of a request with a trace of its own only such ones that had
// none, since the command has begun that trace itself. When these do not agree on a
// value, nobody knows.
func (c *causes) of(traces []string, now time.Time) (value string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	for one := range c.under {
		if shared(one.traces, traces) {
			return one.value, true
		}
	}
	for _, one := range c.answered {
		if shared(one.traces, traces) {
			return one.value, true
		}
	}
	for one := range c.under {
		if len(traces) > 0 && len(one.traces) > 0 {
			continue
		}
		if ok && one.value != value {
			return "", false
		}
		value, ok = one.value, true
	}
	return value, ok
}

// shared says whether two requests are part of one trace.
func shared(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}
