package control

import (
	"context"
	"slices"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
)

// traffic has the requests of a release shared. Values keep nothing: what there is to
// know is in the course, and in the cluster.
type traffic interface {
	// fit says what keeps the requests from being shared so, before anything is changed:
	// a [refusal] if it is for good.
	fit(context.Context, *desk, *course) error
	// see notes in the course who obeys its routing.
	see(*course)
	// share has the requests shared as the course's routing says, which is written down
	// already. It returns when to be asked again though nothing has changed.
	share(context.Context, *desk, *course) (time.Time, error)
	// obeyed says whether all obey the routing of generation course.Since, or a newer one.
	obeyed(*course) bool
	// back takes away what share has put up. It is done when nobody leads to the canary any
	// more; until then it is to be asked again.
	back(context.Context, *desk, *course) (done bool, err error)
}

// trafficOf is how the requests of a release are shared.
func trafficOf(r *v1alpha1.Release) traffic {
	if byRoutes(r) {
		return byGateways{}
	}
	return byDoors{}
}

// byRoutes says whether routes of Gateway API share the requests.
func byRoutes(r *v1alpha1.Release) bool { return len(r.Spec.Traffic.Routes) > 0 }

// byDoors are the doors of node agents, which obey the Release's status by themselves, and
// have nothing to be taken away.
type byDoors struct{}

func (byDoors) fit(context.Context, *desk, *course) error                { return nil }
func (byDoors) see(*course)                                              {}
func (byDoors) share(context.Context, *desk, *course) (time.Time, error) { return time.Time{}, nil }
func (byDoors) back(context.Context, *desk, *course) (bool, error)       { return true, nil }

// turning is how long everybody may take to hear that the Service selects others.
func (co *course) turning() time.Duration {
	if byRoutes(co.r) {
		return max(turning, lagging)
	}
	return turning
}

// longestGrace is how long the pods of before wait at the most for what they carry.
const longestGrace = 5 * time.Minute

// carries says whether requests are under way that come to the pods of before, which end next,
// and are carried by their doors. The app in such a pod knows nothing of them: told to end, it
// does so at once if it has none of its own, and its network with it.
func (co *course) carries(now time.Time) bool {
	if now.After(co.longest()) {
		return false
	}
	return slices.ContainsFunc(co.r.Status.Doors, func(d v1alpha1.NodeDoors) bool { return d.Underway > 0 })
}

// longest is until when the pods of before wait for that: as long as they may take to end.
func (co *course) longest() time.Time {
	grace := 30 * time.Second
	if b := co.Before; b != nil && b.Spec.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*b.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return co.Turned.Add(co.turning() + min(grace, longestGrace))
}

// obeyed says whether every pod of stable that serves has a door that obeys.
func (byDoors) obeyed(co *course) bool {
	stable, _ := co.sets()
	covered := map[string]bool{}
	for _, d := range co.r.Status.Doors {
		if d.Generation >= co.Since {
			for _, p := range d.Pods {
				covered[p] = true
			}
		}
	}
	for _, p := range co.scene.podsOf(stable) {
		if isReady(p) && !covered[p.Name] {
			return false
		}
	}
	return true
}
