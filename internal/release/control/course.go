package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	appsv1 "k8s.io/api/apps/v1"
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

	written *v1alpha1.ReleaseStatus // what the API has
	wrote   time.Time               // when
	told    string                  // the essence of what was written
	late    bool                    // there is more evidence, which is to be told soon
	saved   time.Time               // when the evidence was written last
	refused *v1alpha1.ReleaseRefusal
	by      *bounds.Bounds // that have judged last
	shelved bool           // what is known of it is kept
	asked   time.Time      // when a new share was, zero once every pod obeys it
}

// memory is what is kept of a release in its status.
type memory struct {
	State release.State `json:"state"`
	// Since is the generation of the routing from which doors obey State.Route.
	Since int64 `json:"since,omitempty"`
	// Turned is when the Service began to select the new pods.
	Turned time.Time `json:"turned,omitzero"`
	// Template is the digest of the template that the Deployment was given.
	Template string `json:"template,omitempty"`
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
}

func newCourse(r *v1alpha1.Release) (*course, error) {
	co := &course{r: r, written: r.Status.DeepCopy()}
	co.routing, co.events, co.verdict = r.Status.Route.DeepCopy(), slices.Clone(r.Status.Events), r.Status.Verdict.DeepCopy()
	co.refused = r.Status.Refused.DeepCopy()
	co.pods = [2]v1alpha1.VersionStatus{r.Status.Stable, r.Status.Canary}
	if s := r.Status.State; s != nil && len(s.Raw) > 0 {
		if err := json.Unmarshal(s.Raw, &co.memory); err != nil {
			return nil, fmt.Errorf("read the state in the status of Release %s: %w", r.Name, err)
		}
	}
	return co, nil
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
func (co *course) leads() string {
	stable, canary := co.sets()
	hash := co.routing.Stable
	alone := canary != nil && canary != stable && len(co.scene.podsOf(stable)) == 0 && !co.scene.strays[hash] &&
		co.scene.count(canary, 0).Ready > 0
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
	co.bench, err = newBench(co.r, co.routing, co.State.Started)
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
		if !co.State.Phase.Ended() {
			co.bench.watch(co.scene, stable, canary, time.Now())
			co.bench.passes(time.Now(), co.deadline(time.Now()))
		}
		v = co.bench.judge.Verdict(co.bench.state)
		co.bench.trace(v, time.Now())
		alone = cmp.Or(alone, co.bench.alone)
	}
	if alone != "" && v.Is != verdict.Bad {
		v.Is, v.Why = verdict.Bad, alone
	}
	return v
}

// deadline is when there is no good verdict any more.
func (co *course) deadline(now time.Time) time.Time {
	return co.State.Deadline(co.bench.patience(), now)
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
		Stable: co.scene.count(stable, want), Canary: co.scene.count(canary, want), Obeyed: co.obeyed(),
		Hindrance: co.scene.hindrance(canary), Baseline: co.baseline(time.Now()),
	}
}

// obeyed is the generation of the state's route if every pod of stable that serves has a
// door that obeys it, or else one less.
func (co *course) obeyed() int64 {
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
			return co.State.Route.Generation - 1
		}
	}
	if co.Since == 0 {
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

// version tells of the pods of a version.
func (co *course) version(rs *appsv1.ReplicaSet) v1alpha1.VersionStatus {
	if rs == nil {
		return v1alpha1.VersionStatus{}
	}
	n := co.scene.count(rs, 0)
	v := v1alpha1.VersionStatus{Hash: rs.Labels[hashLabel], Ready: n.Ready, Pods: n.All}
	if rs.Spec.Replicas != nil {
		v.Want = *rs.Spec.Replicas
	}
	if cs := rs.Spec.Template.Spec.Containers; len(cs) > 0 {
		v.Image = cs[0].Image
	}
	return v
}

// maxEvents is how many are kept.
const maxEvents = 50

// say notes what has happened.
func (co *course) say(format string, args ...any) {
	co.events = append(co.events, v1alpha1.ReleaseEvent{Time: now(), Text: fmt.Sprintf(format, args...)})
	if n := len(co.events); n > maxEvents {
		co.events = co.events[n-maxEvents:]
	}
}

// note notes what is new since a state.
func (co *course) note(was release.State, v verdict.Verdict) {
	if said := digest(co.r.Spec.Orders); said != co.Said {
		switch o := co.r.Spec.Orders; {
		case o.By != "" && co.Said == "":
			co.say("%s has begun it", o.By)
		case o.By != "":
			co.say("%s", co.ordered(o))
		}
		co.Said = said
	}
	shown := status(v)
	if co.verdict == nil || co.verdict.Is != shown.Is {
		co.say("verdict: %s (%s)", shown.Is, shown.Why)
		shown.Since = micro(time.Now())
	} else {
		shown.Since = co.verdict.Since
	}
	switch {
	case co.routing != nil && co.State.Opened:
		shown.Latency = co.latency()
	case co.verdict != nil:
		shown.Latency = co.verdict.Latency
	}
	co.verdict = shown
	co.times(was)
	s := co.State
	if s.Route.Weight != was.Route.Weight {
		co.say("%s of the requests", s.Route.Weight)
	}
	if s.Phase != was.Phase && s.Phase != release.Progressing {
		co.say("%s: %s", s.Phase, s.Message)
	}
}

// times notes when the version was given requests first, when it had all of them, and when
// it began to lose them.
func (co *course) times(was release.State) {
	s, now := co.State, time.Now().Truncate(time.Microsecond)
	if co.Exposed.IsZero() && (s.Route.Weight > 0 || s.Route.Mirror > 0) {
		co.Exposed = now
	}
	if co.Full.IsZero() && s.Phase == release.Promoted {
		co.Full = now
	}
	losing := func(p release.Phase) bool { return p == release.Undoing || p == release.Undone }
	if co.Undoing.IsZero() && losing(s.Phase) && !losing(was.Phase) {
		co.Undoing = now
	}
}

// due is when to look again though nothing changes: for the evidence's sake.
func (co *course) due() time.Time {
	if co.bench == nil || co.State.Phase.Ended() {
		return time.Time{}
	}
	var at time.Time
	if over := co.deadline(time.Now()).Add(time.Second); over.After(time.Now()) {
		at = over
	}
	if co.late {
		at = earlier(at, co.wrote.Add(calm))
	}
	if co.bench.dirty {
		at = earlier(at, co.saved.Add(keepEvidence))
	}
	return at
}

// status is what there is to be told. The doors are the node agents' to tell.
func (co *course) status() (*v1alpha1.ReleaseStatus, error) {
	s := &v1alpha1.ReleaseStatus{
		Phase: string(co.State.Phase), Message: co.State.Message, Convicted: co.State.Convicted,
		Started: micro(co.State.Started), Route: co.routing.DeepCopy(), Stable: co.pods[0], Canary: co.pods[1],
		Exposed: micro(co.Exposed), Full: micro(co.Full), Undoing: micro(co.Undoing),
		Verdict: co.verdict, Events: co.events, Refused: co.refused, Evidence: co.written.Evidence,
	}
	if co.State.Phase.Ended() {
		s.Ended = micro(co.State.Ended)
	}
	s.Weight = co.State.Route.Weight.String()
	if plan, err := spec.Plan(co.r.Spec.Plan); err == nil {
		s.Steps = int32(len(plan.Steps))
		s.Step = min(int32(co.State.Step)+1, s.Steps)
	}
	raw, err := json.Marshal(co.memory)
	if err != nil {
		return nil, err
	}
	s.State = &runtime.RawExtension{Raw: raw}
	if b := co.bench; b != nil && b.dirty && (time.Since(co.saved) >= keepEvidence || co.State.Phase != release.Phase(co.written.Phase)) {
		raw, err := b.keep()
		if err != nil {
			return nil, err
		}
		s.Evidence = &runtime.RawExtension{Raw: raw}
	}
	s.Conditions = slices.Clone(co.written.Conditions)
	setCondition(s, co.r.Generation)
	return s, nil
}

func micro(t time.Time) *metav1.MicroTime {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewMicroTime(t.Truncate(time.Microsecond))
	return &m
}
