package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/bounds"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// course is one release on its way: what is known of it, and what is seen.
type course struct {
	memory
	r     *v1alpha1.Release
	scene scene
	newer bool

	bench   *bench
	asking  asking
	routing *v1alpha1.Routing
	events  []v1alpha1.ReleaseEvent
	verdict *v1alpha1.VerdictStatus
	pods    [2]v1alpha1.VersionStatus // stable's and canary's
	// attempts are the releases of its version before it.
	attempts []v1alpha1.ReleaseAttempt

	written *v1alpha1.ReleaseStatus // what the API has
	wrote   time.Time               // when
	told    string                  // the essence of what was written
	late    bool                    // there is more evidence, which is to be told soon
	saved   time.Time               // when the evidence was written last
	refused *v1alpha1.ReleaseRefusal
	by      *bounds.Bounds // that have judged last
	shelved bool           // what is known of it is kept
	away    time.Duration  // for how long nobody has acted, and by how much clocks differ
	free    time.Time      // when the pods of another release were kept last, before it began
	unshown time.Time      // when a preview was refused
	known   int            // how much of what the judge was told is among that
	heard   bool           // the batches that have come were counted
	asked   time.Time      // when a new share was, zero once every pod obeys it
	scribe  *scribe        // of what the judge is told
	noted   time.Time      // when that was written last
	notedAt verdict.Kind   // what the judge has said then
	// gateways are what is known of the routes of Gateway API that share the requests.
	gateways []v1alpha1.RouteStatus
	sent     map[v1alpha1.TrafficRoute]string // the resourceVersions that were written over
	opening  time.Time                        // since when the canary could take what a route leads there
	left     bool                             // nobody leads to the canary any more
	leaving  time.Time                        // when the routes began to be put back
	meddled  time.Time                        // when it was told last that somebody has changed a route
	// unable are the routes whose gateways were looked up, and whether they can do what was asked.
	unable map[v1alpha1.TrafficRoute]inability
}

// memory is what is kept of a release in its status.
type memory struct {
	State release.State `json:"state"`
	// At is when it was written, by the clock of who wrote it. The times in it are compared
	// with this one alone: the next to act may be another machine, with another clock.
	At time.Time `json:"at,omitzero"`
	// Since is the generation of the routing from which doors obey State.Route.
	Since int64 `json:"since,omitempty"`
	// Turned is when the Service began to select the new pods.
	Turned time.Time `json:"turned,omitzero"`
	// Template is the digest of the template that the Deployment was given.
	Template string `json:"template,omitempty"`
	// Before is the template of stable's pods, until nothing is left to be done.
	Before *corev1.PodTemplateSpec `json:"before,omitempty"`
	// Alone says that the Service leads to the new pods because no other exists.
	Alone bool `json:"alone,omitempty"`
	// Said is the digest of the orders that were told of, and Judged of those that a policy
	// has allowed or refused last.
	Said   string `json:"said,omitempty"`
	Judged string `json:"judged,omitempty"`
	// Heeded are the orders that hold.
	Heeded v1alpha1.ReleaseOrders `json:"heeded,omitzero"`
	// Measured is how many of stable's latencies were known when the canary got its first
	// request.
	Measured int64 `json:"measured,omitempty"`
	// Exposed, Full and Undoing are those of the status.
	Exposed time.Time `json:"exposed,omitzero"`
	Full    time.Time `json:"full,omitzero"`
	Undoing time.Time `json:"undoing,omitzero"`
	// Shared says that routes of Gateway API have led to the version.
	Shared bool `json:"shared,omitempty"`
}

func newCourse(r *v1alpha1.Release) (*course, error) {
	co := &course{r: r, written: r.Status.DeepCopy()}
	co.routing, co.events, co.verdict = r.Status.Route.DeepCopy(), slices.Clone(r.Status.Events), r.Status.Verdict.DeepCopy()
	co.refused, co.gateways = r.Status.Refused.DeepCopy(), r.DeepCopy().Status.Gateways
	co.pods = [2]v1alpha1.VersionStatus{r.Status.Stable, r.Status.Canary}
	if s := r.Status.State; s != nil && len(s.Raw) > 0 {
		if err := json.Unmarshal(s.Raw, &co.memory); err != nil {
			return nil, fmt.Errorf("read the state in the status of Release %s: %w", r.Name, err)
		}
	}
	co.adopt(time.Now())
	return co, nil
}

// adopt takes the times of what somebody else has written for such of this process's clock.
// The time in between, in which nobody has acted, does not count: how long it was two
// clocks can't tell.
func (co *course) adopt(now time.Time) {
	if co.At.IsZero() {
		return
	}
	co.away = now.Sub(co.At).Round(0)
	co.State = co.State.Moved(co.away)
	if !co.Turned.IsZero() {
		co.Turned = co.Turned.Add(co.away)
	}
	co.At = now
}

// over says that nothing is left to be done.
func (co *course) over() bool { return co.State.Cleaned && co.routing == nil }

// begun says that the Deployment was given the template.
func (co *course) begun() bool { return co.Template != "" }

// engaged says that the Deployment is this release's, and has its template.
func (co *course) engaged() bool {
	d := co.scene.deployment
	if d == nil {
		return false
	}
	b := beforeOf(d)
	return b != nil && b.Release == co.r.UID && (co.Template == "" || co.Template == digest(plain(&d.Spec.Template)))
}

// same says that the Deployment has the release's template, and its pods had it before.
func (co *course) same() bool {
	template := &co.scene.deployment.Spec.Template
	if co.routing == nil || co.Template != digest(plain(template)) {
		return false
	}
	rs := co.scene.setWith(co.routing.Stable)
	return rs != nil && rs == co.scene.setOf(template)
}

// sets are the ReplicaSets of both versions, nil for one that is not there.
func (co *course) sets() (stable, canary *appsv1.ReplicaSet) {
	if b := beforeOf(co.scene.deployment); b != nil {
		stable = co.scene.setWith(b.Stable)
	}
	return stable, co.scene.setOf(&co.scene.deployment.Spec.Template)
}

// leads is the hash of the pods that the Service is to select: stable's, whose doors share
// the requests. Where somebody has deleted stable's ReplicaSet and with it all of its pods,
// nobody would answer, so the new ones do as long as that lasts, whatever their share is.
// It lasts until those that are made anew are ready.
func (co *course) leads() string {
	stable, canary := co.sets()
	hash := co.routing.Stable
	none := len(co.scene.podsOf(stable)) == 0 && !co.scene.strays[hash]
	alone := canary != nil && canary != stable && co.scene.count(canary, 0).Ready > 0 && (none || co.Alone && !co.State.Remade.IsZero())
	if alone != co.Alone {
		co.Alone = alone
		if alone {
			co.say("no pod of the version before exists: its requests are this version's")
		} else {
			co.say("the Service leads to the pods of the version before again")
		}
	}
	if alone {
		return canary.Labels[hashLabel]
	}
	return hash
}

// wishes are what the spec says.
func (co *course) wishes() (release.Plan, release.Orders, error) {
	plan, err := spec.Plan(co.r.Spec.Plan)
	orders, wrong := spec.Orders(co.Heeded)
	if co.r.DeletionTimestamp != nil && !co.State.Phase.Ended() {
		orders.Undo, orders.Why = true, "the Release was deleted"
	}
	return plan, orders, errors.Join(err, wrong)
}

// sit has the release judged, from when the first pods of the canary are there.
func (co *course) sit() error {
	if co.Template == "" { // a process before this one had no time to write it down
		co.Template = digest(plain(&co.scene.deployment.Spec.Template))
	}
	if co.routing == nil {
		co.reroute()
	}
	if co.bench != nil {
		return co.bench.rejudge(co.r, co.routing)
	}
	var err error
	co.bench, err = newBench(co.r, co.routing, co.State.Started, co.away)
	return err
}

// freeze notes what stable's latencies are, at the moment before the canary gets its first
// request: what it does to them later is not what they were.
func (co *course) freeze(was release.State) {
	if was.Opened || !co.State.Opened || co.bench == nil {
		return
	}
	stable, _ := co.bench.baseline(time.Now())
	co.Measured = stable.N()
	if co.routing.Quantiles == nil && spec.MindsLatency(co.r.Spec.Plan.Judge) {
		co.routing.Quantiles = spec.Freeze(stable)
	}
	co.routing.Generation++
	if err := co.bench.rejudge(co.r, co.routing); err != nil {
		co.routing.Quantiles = nil // errors are judged all the same
	}
	co.say("%s", co.latency())
}

// latency says what slow is.
func (co *course) latency() string {
	return spec.Latency(co.r.Spec.Plan.Judge, co.routing.Quantiles, co.Measured)
}

// reroute makes the routing of a release whose status somebody has emptied: what has begun
// goes on from no requests at all. Ports that can't be found are not shared.
func (co *course) reroute() {
	d := co.scene.deployment
	stable, _ := co.sets()
	co.routing = &v1alpha1.Routing{
		Generation: time.Now().UnixMilli(), Selector: d.Spec.Selector.MatchLabels, Stable: beforeOf(d).Stable, Judges: judges(co.scene, stable),
		ByRoutes: byRoutes(co.r),
	}
	for _, d := range co.r.Status.Doors { // whose clock this was made by may have been ahead
		co.routing.Generation = max(co.routing.Generation, d.Generation+1)
	}
	if stable != nil && co.scene.service != nil {
		co.routing.Ports, _ = ports(co.scene.service, &stable.Spec.Template, &d.Spec.Template)
	}
}

// judge returns the verdict on what is seen now.
func (co *course) judge() verdict.Verdict {
	v := verdict.Verdict{Is: verdict.Collecting}
	alone := spec.Convicted(co.r)
	if co.bench != nil {
		stable, canary := co.sets()
		if co.judging() {
			co.bench.watch(co.scene, stable, canary, time.Now())
			co.bench.passes(time.Now(), co.deadline(time.Now()))
		}
		v = co.bench.judge.Verdict(co.bench.state)
		co.bench.tape.Say(v)
		co.bench.trace(v, time.Now())
		alone = cmp.Or(alone, co.bench.alone)
	}
	if alone != "" && v.Is != verdict.Bad {
		v.Is, v.Why = verdict.Bad, alone
	}
	return v
}

// judging says whether what is seen still tells for or against the version.
func (co *course) judging() bool {
	p := co.State.Phase
	return !p.Ended() || p == release.Promoted && co.r.Spec.Plan.Judge.Kept && !co.State.Cleaned
}

// deadline is when there is no good verdict any more. It is put off in strides: while a
// release waits, what it is told every moment is the same.
func (co *course) deadline(now time.Time) time.Time {
	const stride = 5 * time.Second
	first := co.State.Started.Add(co.bench.patience())
	off := co.State.Deadline(co.bench.patience(), now).Sub(first)
	return first.Add((off + stride - 1).Truncate(stride))
}

// baseline is what is known of stable's requests as long as it matters.
func (co *course) baseline(now time.Time) (b release.Baseline) {
	if co.bench != nil && !co.State.Opened && spec.MindsLatency(co.r.Spec.Plan.Judge) {
		all, over := co.bench.baseline(now)
		b.Want, b.Have, b.Over = spec.Enough, all.N(), over
	}
	return b
}

// world is what is seen.
func (co *course) world(orders release.Orders, v verdict.Verdict) release.World {
	stable, canary := co.sets()
	want := co.scene.want()
	return release.World{
		Now: time.Now(), Orders: orders, Verdict: v.Is, Why: v.Why,
		Stable: co.scene.count(stable, want), Canary: co.scene.count(canary, want), Obeyed: co.obeyed(), Unreached: spec.Unreached(co.r),
		Gone: stable == nil && co.Before != nil, Hindrance: co.scene.hindrance(canary), Baseline: co.baseline(time.Now()),
	}
}

// obeyed is the generation of the state's route if all who share the requests obey it, or
// else one less.
func (co *course) obeyed() int64 {
	if co.Since == 0 || !trafficOf(co.r).obeyed(co) {
		return co.State.Route.Generation - 1
	}
	return co.State.Route.Generation
}

// direct makes the routing what the state says. What differs has a new generation.
func (co *course) direct() {
	stable, canary := co.sets()
	next := co.routing.DeepCopy()
	route := co.State.Route
	next.Weight, next.Mirror, next.Shut = int32(route.Weight), int32(route.Mirror), route.Shut
	next.Alone = co.Alone
	// What says so is the last that anybody's order could have come before.
	next.Retire = co.State.Phase == release.Promoted && co.State.Cleaned
	next.Held = max(next.Held, next.Weight)
	if next.Weight == 0 {
		next.Held = 0
	}
	next.Judges = max(next.Judges, judges(co.scene, stable))
	next.Routes = append(slices.Clone(co.Heeded.Routes), co.r.Spec.Plan.Routes...)
	if !co.State.Opened {
		next.Routes = slices.DeleteFunc(next.Routes, func(r v1alpha1.ReleaseRoute) bool { return r.To == v1alpha1.Canary })
	}
	next.Affinity = co.r.Spec.Plan.Affinity
	next.ByRoutes, next.Before = byRoutes(co.r), nil
	for _, p := range co.scene.podsOf(stable) {
		if next.ByRoutes && isReady(p) && p.Status.PodIP != "" {
			next.Before = append(next.Before, p.Status.PodIP)
		}
	}
	slices.Sort(next.Before)
	next.Addresses, next.Canary = nil, ""
	if canary != nil && canary != stable {
		next.Canary = canary.Labels[hashLabel]
		for _, p := range co.scene.podsOf(canary) {
			if isReady(p) && p.Status.PodIP != "" {
				next.Addresses = append(next.Addresses, p.Status.PodIP)
			}
		}
		slices.Sort(next.Addresses)
	}
	changed := !apiequality.Semantic.DeepEqual(next, co.routing)
	if changed {
		next.Generation++
	}
	if before := co.written.Route; co.Since == 0 || before == nil || before.Weight != next.Weight || before.Mirror != next.Mirror || before.Shut != next.Shut {
		if changed || co.Since == 0 {
			if before != nil && co.Since != 0 {
				co.asked = time.Now()
			}
			co.Since = next.Generation
		}
	}
	co.routing = next
	co.pods[0], co.pods[1] = co.version(stable), co.version(canary)
}

// maxEvents is how many are kept.
const maxEvents = 50
