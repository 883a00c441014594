package gate

import (
	"slices"

	"github.com/bightdev/bight/internal/steer"
)

// Split makes requests for a port of the pod, which is of version local, be shared
// between versions, as [steer.Host.Split] does; a nil split ends that. It is in force
// when Split returns, for all requests but those on connections from before the first
// split or rule. Pods of other versions are reached from the network of this one.
func (g *Gate) Split(port int, local string, s *steer.Split) error {
	return g.host.Split(port, local, s)
}

// InForce tells of the split of a port, if it has one. It may take some milliseconds,
// since it looks at the pod's connections.
func (g *Gate) InForce(port int) (s steer.SplitStatus, has bool) {
	if d := g.doorOf(port); d != nil {
		return d.InForce()
	}
	return s, false
}

// Decided returns what tells the ID of the last request for a port that a split has
// decided about, for as long as the gate is open and after. It never waits.
func (g *Gate) Decided(port int) func() uint64 {
	if d := g.doorOf(port); d != nil {
		return d.Decided
	}
	return func() uint64 { return 0 }
}

// doorOf returns the part of the door that is about a port, nil if there is none.
func (g *Gate) doorOf(port int) *steer.Door {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.doors, func(d *steer.Door) bool { return d.Port == port }); i >= 0 {
		return g.doors[i]
	}
	return nil
}
