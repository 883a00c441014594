package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// Covered is how many obey what the release effectively says, and how many there are:
// pods of stable or, where routes of Gateway API share the requests, gateways.
func Covered(r *v1alpha1.Release) (obey, of int) {
	of = int(r.Status.Stable.Pods)
	e := spec.Effective(r)
	if ByRoutes(r) {
		return covered(r, e)
	}
	if e == nil {
		return 0, of
	}
	for _, d := range r.Status.Doors {
		if d.Generation >= e.Generation {
			obey += len(d.Pods)
		}
	}
	return min(obey, of), of // a pod may have gone since its node has reported
}

// ByRoutes says whether routes of Gateway API share the requests of a release.
func ByRoutes(r *v1alpha1.Release) bool { return r != nil && len(r.Spec.Traffic.Routes) > 0 }

// covered is how many gateways obey, each counted for each route. What nobody knows the
// gateways of counts as one.
func covered(r *v1alpha1.Release, e *v1alpha1.Routing) (obey, of int) {
	for i := range r.Spec.Traffic.Routes {
		var s v1alpha1.RouteStatus
		if i < len(r.Status.Gateways) {
			s = r.Status.Gateways[i]
		}
		of += max(1, len(s.Parents))
		for _, p := range s.Parents {
			if e != nil && p.Obeys && s.Problem == "" && s.Generation >= e.Generation {
				obey++
			}
		}
	}
	return obey, of
}

// Sharers are those that Covered counts, in words.
func Sharers(r *v1alpha1.Release) string {
	if ByRoutes(r) {
		return "gateway"
	}
	return "pod"
}

// ShutInside says whether the version's own pods hand what comes to them to the pods of the
// version before: then no request is its own, whatever gateways do.
func ShutInside(r *v1alpha1.Release) bool {
	e := spec.Effective(r)
	if e == nil || !e.Shut || !ByRoutes(r) || len(e.Before) == 0 {
		return false
	}
	obey, of := spec.Inside(r)
	return of > 0 && obey >= of
}

// sheds says whether the version's own pods have doors, whose word counts when it is undone:
// what a gateway says it may do a moment later.
func sheds(r *v1alpha1.Release, e *v1alpha1.Routing) bool {
	return ByRoutes(r) && e.Shut && len(e.Before) > 0 && len(e.Addresses) > 0 && spec.Doors(r) > 0
}

// Observed reports whether the orders of a release are what its doors do, all of them,
// and if not, what it waits for.
//
// Who undoes waits for the doors alone: these obey the order itself. All else has to be
// taken in by the controller first.
func Observed(r *v1alpha1.Release) (done bool, waiting string) {
	e := spec.Effective(r)
	switch {
	case e == nil && (spec.Over(r) || r.Spec.Orders.Undo):
		return true, "" // no request was ever given to it, or will be again
	case e == nil:
		return false, "the controller has not begun with it"
	case r.Spec.Orders.Promote && !r.Spec.Orders.Undo && phaseOf(r) == release.Promoted:
		return true, "" // which it is when all have obeyed; then stable's pods go
	}
	if waiting := untaken(r, e); waiting != "" {
		return false, waiting
	}
	if sheds(r, e) {
		obey, of := spec.Inside(r)
		if doors := spec.Doors(r); obey < min(of, doors) {
			return false, fmt.Sprintf("%d of %d pods of the version hand their requests back", obey, doors)
		}
		if obey >= of {
			return true, ""
		}
		// Pods without a door are the gateways' to leave.
	}
	if obey, of := Covered(r); obey < of {
		return false, fmt.Sprintf("%d of %d %ss obey", obey, of, Sharers(r))
	}
	return true, ""
}

const notSeen = "the controller has not seen the order yet; does it run? kubectl get pods -n bight-system"

// untaken says what of the orders the controller has not made the doors' business yet,
// "" for nothing.
func untaken(r *v1alpha1.Release, e *v1alpha1.Routing) string {
	o, phase := r.Spec.Orders, phaseOf(r)
	still := func(what string) string {
		if r.Status.Message == "" {
			return what
		}
		return what + " (" + r.Status.Message + ")"
	}
	now := release.Weight(e.Weight)
	switch {
	case o.Undo && (!phase.Ended() || phase == release.Promoted) && (e.Alone || r.Status.Stable.Pods == 0 && r.Status.Canary.Ready > 0):
		return still("nobody else could have its requests")
	case phase == release.Promoted && !o.Undo && !gone(r) && seen(r) < r.Generation:
		return notSeen
	case o.Undo && e.Shut, phase.Ended() && !o.Undo:
		return ""
	case o.Undo:
		return still("the controller has not taken it back yet")
	case seen(r) < r.Generation:
		return notSeen
	case !equality.Semantic.DeepEqual(slices.Concat(o.Routes, spec.Expand(r.Spec.Plan).Routes), e.Routes):
		return still("the routes are not in force yet")
	case e.Alone && !o.Promote && o.Weight != nil && now != release.All:
		return still("it has all requests, whatever its share is: no pod of the version before exists, and bight release undo makes them anew")
	case o.Promote && now != release.All:
		return still(fmt.Sprintf("it has %s of the requests, and not yet all", now))
	case o.Promote || o.Weight == nil:
		return ""
	}
	want, err := spec.Weight(o.Weight, "orders.weight")
	switch {
	case err != nil:
		return err.Error()
	case now == want && e.Mirror != 0:
		return still("it gets copies of requests still")
	case now != want:
		return still(fmt.Sprintf("it has %s of the requests, and not yet %s", now, want))
	}
	return ""
}

// seen is the newest generation of the Release that the controller has decided on, 0 for
// none.
func seen(r *v1alpha1.Release) (generation int64) {
	for _, c := range r.Status.Conditions {
		generation = max(generation, c.ObservedGeneration)
	}
	return generation
}

// serving are the pods that get requests, by name.
func serving(pods []core.Pod) []string {
	var names []string
	for _, p := range pods {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool {
			return c.Type == core.PodReady && c.Status == core.ConditionTrue
		})
		if ready && p.DeletionTimestamp == nil {
			names = append(names, p.Name)
		}
	}
	return names
}

// obeying reports whether all of these pods of stable obey.
func obeying(r *v1alpha1.Release, names []string) bool {
	e := spec.Effective(r)
	if e == nil {
		return false
	}
	covered := map[string]bool{}
	for _, d := range r.Status.Doors {
		for _, p := range d.Pods {
			covered[p] = d.Generation >= e.Generation
		}
	}
	return !slices.ContainsFunc(names, func(p string) bool { return !covered[p] })
}

// gatewaysBehind says which gateways do not obey, and why.
func gatewaysBehind(r *v1alpha1.Release, e *v1alpha1.Routing) (lines []string) {
	if sheds(r, e) {
		for _, d := range r.Status.Doors {
			for _, p := range d.Pods {
				if spec.OfCanary(r, p) && d.Generation < e.Generation {
					lines = append(lines, fmt.Sprintf("pod %s of the version, on node %s, keeps what comes to it still", p, d.Node))
				}
			}
		}
	}
	for _, s := range r.Status.Gateways {
		what := s.Kind + " " + s.Name
		switch {
		case s.Problem != "":
			lines = append(lines, what+": "+s.Problem)
			continue
		case s.Generation < e.Generation:
			lines = append(lines, what+" is not written yet")
			continue
		}
		for _, p := range s.Parents {
			if !p.Obeys {
				lines = append(lines, fmt.Sprintf("gateway %s (%s), of %s: %s", p.Gateway, cmp.Or(p.Controller, "nobody's"), what, p.Why))
			}
		}
	}
	return lines
}

// Doorless says which pods of an undone version, whose others hand back what comes to them, have no door, and why: what
// gateways still lead there, they answer. pods are those of the version, as far as they are known.
func Doorless(r *v1alpha1.Release, pods []core.Pod) (lines []string) {
	e := spec.Effective(r)
	if e == nil || !sheds(r, e) {
		return nil
	}
	has, why, heard := map[string]bool{}, map[string]string{}, map[string]bool{}
	for _, d := range r.Status.Doors {
		heard[d.Node] = true
		for _, p := range d.Pods {
			has[p] = true
		}
		for _, p := range d.Problems {
			why[p.Name] = p.Why
		}
	}
	for _, p := range pods {
		if has[p.Name] || p.Status.PodIP == "" || !slices.Contains(e.Addresses, p.Status.PodIP) {
			continue
		}
		reason := cmp.Or(why[p.Name], "nothing is said of it")
		if !heard[p.Spec.NodeName] {
			reason = "the agent of that node says nothing"
		}
		lines = append(lines, fmt.Sprintf("pod %s of the version, on node %s, has no door: %s", p.Name, p.Spec.NodeName, reason))
	}
	if obey, of := spec.Doors(r), len(e.Addresses); len(lines) == 0 && obey < of {
		lines = append(lines, fmt.Sprintf("%d of %d pods of the version have no door", of-obey, of))
	}
	slices.Sort(lines)
	return lines
}

// Behind says which pods of stable do not obey, and why. pods are those of stable, nil
// if they are not known: then only what the agents tell. Where routes of Gateway API share the requests, they are those of
// the version, and gateways may be behind.
func Behind(r *v1alpha1.Release, pods []core.Pod) []string {
	e := spec.Effective(r)
	if e == nil {
		return nil
	}
	if ByRoutes(r) {
		return append(gatewaysBehind(r, e), Doorless(r, pods)...)
	}
	var lines []string
	told := map[string]bool{}
	reports := map[string]v1alpha1.NodeDoors{}
	for _, d := range r.Status.Doors {
		reports[d.Node] = d
		for _, p := range d.Problems {
			told[p.Name] = true
			lines = append(lines, fmt.Sprintf("pod %s on node %s: %s", p.Name, d.Node, p.Why))
		}
		if d.Generation >= e.Generation {
			continue
		}
		for _, p := range d.Pods {
			if !told[p] {
				told[p] = true
				lines = append(lines, fmt.Sprintf("pod %s on node %s obeys generation %d of the routing, and not yet %d", p, d.Node, d.Generation, e.Generation))
			}
		}
	}
	for _, p := range pods {
		d, reported := reports[p.Spec.NodeName]
		switch {
		case told[p.Name] || slices.Contains(d.Pods, p.Name):
		case p.Spec.NodeName == "":
			lines = append(lines, fmt.Sprintf("pod %s is on no node yet", p.Name))
		case !reported:
			lines = append(lines, fmt.Sprintf("pod %s on node %s: the agent of that node says nothing", p.Name, p.Spec.NodeName))
		default:
			lines = append(lines, fmt.Sprintf("pod %s on node %s has no door yet", p.Name, p.Spec.NodeName))
		}
	}
	slices.Sort(lines)
	return lines
}

// maxBehind is how many pods an error names.
const maxBehind = 10

// TimeoutError says that an order was not observed in time, and what is behind. The
// order stands.
type TimeoutError struct {
	Release *v1alpha1.Release
	After   time.Duration
	Waiting string
	Behind  []string // pods, or gateways
}

func (e *TimeoutError) Error() string {
	lines := []string{fmt.Sprintf("the order is given, and release %s does not obey it after %s: %s", e.Release.Name, e.After, e.Waiting)}
	if lines = append(lines, e.Behind[:min(len(e.Behind), maxBehind)]...); len(e.Behind) > maxBehind {
		lines = append(lines, fmt.Sprintf("and %d more", len(e.Behind)-maxBehind))
	}
	if len(e.Behind) > 0 && !ByRoutes(e.Release) {
		lines = append(lines, "kubectl get pods -n bight-system -o wide shows whether the agents of these nodes run")
	}
	return strings.Join(append(lines, fmt.Sprintf("the order stands: bight release watch %s -n %s tells what becomes of it", e.Release.Spec.Deployment, e.Release.Namespace)), "\n")
}

// Unwrap makes it one of those errors that say that the time was over.
func (e *TimeoutError) Unwrap() error { return context.DeadlineExceeded }
