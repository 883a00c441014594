package nodeagent

import (
	"net/netip"
	"slices"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// settling is how long after they have said so gateways may still send requests by what
	// they had before.
	settling = 5 * time.Second
	// mostShares is how many changes of a share are remembered.
	mostShares = 64
)

// shared is with which probability a request that came to the pods of either version came to
// the canary, where gateways share them: nobody here has drawn that. While gateways change
// from one share to another it is the larger of the two, so that nothing counts for more
// than it is worth. The zero value is none at all. It is pure.
type shared struct {
	all []change // oldest first
}

type change struct {
	from   time.Time
	weight steer.Weight
}

// follow takes in a release, and what is in effect of it.
func (s *shared) follow(r *v1alpha1.Release, route *v1alpha1.Routing, now time.Time) {
	want := steer.Weight(0)
	if !route.Shut {
		want = part(int(route.Weight), int(route.Mirror))
	}
	if n := len(s.all); n > 0 && s.all[n-1].from.After(now) {
		if s.all[n-1].weight == want {
			return // it is about to be
		}
		s.all = s.all[:n-1]
	}
	last := s.at(now)
	obey := !slices.ContainsFunc(r.Status.Gateways, func(g v1alpha1.RouteStatus) bool { return !spec.Obeys(g, route.Generation) })
	switch {
	case want > last:
		s.all = append(s.all, change{now, want})
	case want < last && obey:
		s.all = append(s.all, change{now.Add(settling), want})
	}
	s.all = s.all[max(0, len(s.all)-mostShares):]
}

// part is which part of the requests that pods get comes to the canary, those of which it
// gets copies among them, rounded up.
func part(weight, mirror int) steer.Weight {
	of := int(steer.All)
	return steer.Weight(((weight+mirror)*of + of + mirror - 1) / (of + mirror))
}

// at is the share at a time.
func (s *shared) at(t time.Time) (w steer.Weight) {
	for _, c := range s.all {
		if !c.from.After(t) {
			w = c.weight
		}
	}
	return w
}

// outcome is one of a door at a pod, told as though the door had drawn the version.
func (s *shared) outcome(o *steer.Outcome, pod netip.AddrPort) *steer.Outcome {
	out := *o
	out.Weight = s.at(o.Time)
	if o.Version != v1alpha1.Canary {
		out.Weight = steer.All - out.Weight
	} else if !o.Pod.IsValid() {
		out.Pod = pod
	}
	return &out
}
