package nodeagent

import (
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// sampling is how old what is known of a gate's rules may be.
	sampling = time.Second
	// counting is how old the counters in an Intercept's status may be. They change
	// with each request, and each change of a status is one of the API server's.
	counting = 5 * time.Second
)

// counts is what was last known of a gate's rules, and told. It keeps the telling
// slow: what has only counted on is told every few seconds.
type counts struct {
	at    time.Time
	rules []steer.Status
	told  map[string]telling // by the names of the Intercepts
}

type telling struct {
	at     time.Time
	status v1alpha1.PodStatus
}

// lister is a gate.
type lister interface{ List() []steer.Status }

// status adds to s what the rule of an Intercept has come to.
func (c *counts) status(s v1alpha1.PodStatus, intercept string, g lister, now time.Time) v1alpha1.PodStatus {
	if now.Sub(c.at) >= sampling {
		c.at, c.rules = now, g.List()
	}
	for _, r := range c.rules {
		if r.Rule.ID == intercept {
			s.State, s.Requests, s.OldConnections = string(r.State), r.Counters.Taken(), r.Counters.Old
			s.EarlierRequests = r.Past.Taken()
			s.Direct = r.Direct
		}
	}
	last, known := c.told[intercept]
	before := last.status
	before.Requests, before.OldConnections = s.Requests, s.OldConnections
	if known && before == s && now.Sub(last.at) < counting {
		return last.status
	}
	if c.told == nil {
		c.told = map[string]telling{}
	}
	c.told[intercept] = telling{now, s}
	return s
}
