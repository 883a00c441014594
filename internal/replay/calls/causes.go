package calls

import "slices"

// causes knows which of the replayed requests has caused a call: they are sent one after
// the other. The zero value knows of none.
type causes struct {
	under  string            // the one that is under way
	its    []string          // its traces
	traces map[string]string // the last request of each trace
}

// Begin says that a request is sent, by its ID and its traces.
func (c *causes) Begin(id string, traces []string) {
	if c.traces == nil {
		c.traces = map[string]string{}
	}
	c.under, c.its = id, traces
	for _, t := range traces {
		c.traces[t] = id
	}
}

// End says that it was answered.
func (c *causes) End() { c.under, c.its = "", nil }

// of is the request that has caused a call: one of its trace, which may have been answered
// before, or else the one that is under way.
func (c *causes) of(traces []string) string {
	for _, t := range traces {
		if id, has := c.traces[t]; has && !slices.Contains(c.its, t) {
			return id
		}
	}
	return c.under
}
