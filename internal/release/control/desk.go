package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// keepEvidence is how often the judge's state is written down while it changes. What is
// lost with this process counts for nothing, on either side.
const keepEvidence = 3 * time.Second

// again is the pause after an attempt that has failed, which grows to as much as
// longest.
const again, longest = 200 * time.Millisecond, 10 * time.Second

// desk has the releases of one Deployment, of which the newest counts.
type desk struct {
	c    *Controller
	key  types.NamespacedName
	ward *ward
	log  *slog.Logger
	news chan struct{} // has room for one

	mu       sync.Mutex
	releases map[types.UID]*v1alpha1.Release
	batches  []spec.Batch
	answers  []answer

	// Of run alone.
	courses map[types.UID]*course
	all     []*v1alpha1.Release // as they were taken
	wrote   *appsv1.Deployment  // as it was written last, nil for never
	wroteAt time.Time
	freedAt time.Time // when routes of a release before were put back
}

func newDesk(c *Controller, key types.NamespacedName) *desk {
	return &desk{
		c: c, key: key, log: c.Log.With("namespace", key.Namespace, "deployment", key.Name), news: make(chan struct{}, 1),
		releases: map[types.UID]*v1alpha1.Release{}, courses: map[types.UID]*course{},
	}
}

func (d *desk) rouse() {
	select {
	case d.news <- struct{}{}:
	default:
	}
}

func (d *desk) put(r *v1alpha1.Release) {
	d.mu.Lock()
	d.releases[r.UID] = r
	d.mu.Unlock()
	d.rouse()
}

func (d *desk) drop(uid types.UID) {
	d.mu.Lock()
	delete(d.releases, uid)
	d.mu.Unlock()
	d.rouse()
}

func (d *desk) has(uid types.UID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.releases[uid] != nil
}

// retain drops all releases but these. It reports whether there were others.
func (d *desk) retain(those map[types.UID]bool) (others bool) {
	d.mu.Lock()
	before := len(d.releases)
	maps.DeleteFunc(d.releases, func(uid types.UID, _ *v1alpha1.Release) bool { return !those[uid] })
	others = len(d.releases) < before
	d.mu.Unlock()
	d.rouse()
	return others
}

func (d *desk) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.releases) == 0
}

// give brings a batch of evidence. It reports whether its release is judged.
func (d *desk) give(b spec.Batch) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.releases[b.UID]
	if r == nil || !judged(r) || len(d.batches) >= maxBatches {
		return r != nil && len(d.batches) >= maxBatches
	}
	d.batches = append(d.batches, b)
	d.rouse()
	return true
}

// judged says whether requests still tell for or against a release: one that has ended is
// judged no more, but for one whose plan says so as long as its requests can go back.
func judged(r *v1alpha1.Release) bool {
	phase, route := release.Phase(r.Status.Phase), r.Status.Route
	return !phase.Ended() || phase == release.Promoted && r.Spec.Plan.Judge.Kept && route != nil && !route.Retire
}

// maxBatches are more than wait at a desk that is well.
const maxBatches = 10_000

// take returns the releases, the newest first, and the batches that have come.
func (d *desk) take() ([]*v1alpha1.Release, []spec.Batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := slices.Collect(maps.Values(d.releases))
	slices.SortFunc(all, func(a, b *v1alpha1.Release) int { return -spec.Compare(a, b) })
	batches := d.batches
	d.batches = nil
	return all, batches
}

// run looks whenever something has changed, until nothing is left to do.
func (d *desk) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := again
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.news:
		case <-timer.C:
		}
		next, err := d.step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.log.Warn("a release does not go on", "err", err)
			next, pause = time.Now().Add(pause), min(2*pause, longest)
		default:
			pause = again
		}
		if d.idle() && d.c.leave(d) {
			return
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// step looks once. It returns when to look again though nothing has changed, the zero
// time for never.
func (d *desk) step(ctx context.Context) (next time.Time, err error) {
	all, batches := d.take()
	maps.DeleteFunc(d.courses, func(uid types.UID, co *course) bool {
		gone := !slices.ContainsFunc(all, func(r *v1alpha1.Release) bool { return r.UID == uid })
		if gone {
			co.asking.stop()
		}
		return gone
	})
	d.hear()
	batches = d.recovered(all, batches)
	d.all = all
	for _, r := range all {
		d.ward.need(d.c, r.Spec.Traffic.Routes)
	}
	var errs []error
	for i, r := range all {
		at, err := d.look(ctx, r, i > 0, batches)
		next, errs = earlier(next, at), append(errs, err)
	}
	d.giveBack(slices.DeleteFunc(batches, func(b spec.Batch) bool {
		co := d.courses[b.UID]
		return co != nil && (co.heard || co.over())
	}))
	return next, errors.Join(errs...)
}

// recovered are the batches, and before them those of a process that was killed before what they
// have made was written down. Of these, some may be there once more; none counts twice.
func (d *desk) recovered(all []*v1alpha1.Release, batches []spec.Batch) []spec.Batch {
	for _, r := range all {
		if d.courses[r.UID] != nil || !judged(r) {
			continue
		}
		was, err := d.c.unsaved.of(r.UID)
		if err != nil {
			d.log.Warn("what a controller before this one has heard last is lost", "release", r.Name, "err", err)
		}
		batches = append(was, batches...)
	}
	return batches
}

// giveBack keeps batches for when there is a bench for them.
func (d *desk) giveBack(batches []spec.Batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.batches = append(slices.DeleteFunc(batches, func(b spec.Batch) bool { return d.releases[b.UID] == nil }), d.batches...)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// look brings one release further.
func (d *desk) look(ctx context.Context, r *v1alpha1.Release, newer bool, batches []spec.Batch) (time.Time, error) {
	co := d.courses[r.UID]
	if co == nil {
		var err error
		if co, err = newCourse(r); err != nil {
			return time.Time{}, err
		}
		if co.attempts, err = d.c.past.before(r); err != nil {
			d.log.Warn("how this version went before is not known", "release", r.Name, "err", err)
		}
		d.courses[r.UID] = co
	}
	co.r, co.newer, co.heard = r, newer, false
	co.heed(d.c.boundsOf(r.Namespace))
	scene, seen := d.ward.look(r.Spec.Deployment, r.Spec.Service)
	if !seen {
		return time.Time{}, nil // the rest is about to come
	}
	if d.behind(scene.deployment) {
		return d.wroteAt.Add(longestBehind), nil // it is about to come
	}
	co.scene = scene
	co.heard = co.bench != nil
	for _, b := range batches {
		if b.UID == r.UID && co.heard {
			count := co.bench.take
			if byRoutes(r) && !scene.onlyAt(co.routing, b.Node) {
				count = co.bench.takeApart
			}
			count(named(b, scene), time.Now())
		}
	}
	if co.bench != nil {
		co.bench.catchUp(time.Now())
	}
	return d.proceed(ctx, co)
}

// proceed decides, writes down and does what is to be done.
func (d *desk) proceed(ctx context.Context, co *course) (time.Time, error) {
	if r := co.r; r.DeletionTimestamp == nil && !slices.Contains(r.Finalizers, finalizer) && !co.over() {
		return time.Time{}, d.finalize(ctx, r, true)
	}
	switch {
	case co.over():
		if co.r.DeletionTimestamp != nil || slices.Contains(co.r.Finalizers, finalizer) {
			return time.Time{}, d.finalize(ctx, co.r, false)
		}
		return time.Time{}, nil
	case co.State.Cleaned:
		return d.wind(ctx, co)
	case !co.engaged() && co.begun():
		return d.outside(ctx, co)
	case !co.engaged():
		return d.begin(ctx, co)
	}
	if co.Judged == "" {
		return time.Time{}, nil // the policies are about to be seen
	}
	if stable, canary := co.sets(); stable != nil && stable == canary {
		return time.Time{}, d.release(ctx, co.scene, nil) // its pods are of this version already
	}
	plan, orders, err := co.wishes()
	if seat := co.sit(); err == nil {
		err = cmp.Or(seat, d.c.guarded(co.r))
	}
	if err != nil && !orders.Undo && spec.Convicted(co.r) == "" && !d.convicts(co) {
		return time.Time{}, d.tell(ctx, co, err.Error()) // it stays as it is until that makes sense
	}
	if err != nil { // to undo it takes no plan and no judge
		plan = release.Plan{Steps: spec.Usual()}
	}
	// Whoever else owns a Service may have put it back.
	if err := d.pin(ctx, co.scene, co.leads()); err != nil {
		return time.Time{}, err
	}
	traffic := trafficOf(co.r)
	traffic.see(co)
	v := co.judge()
	was, world := co.State, co.world(orders, v)
	if !co.asked.IsZero() && world.Obeyed >= was.Route.Generation {
		if d.c.Observed != nil {
			d.c.Observed(time.Since(co.asked))
		}
		co.asked = time.Time{}
	}
	state, actions := release.Next(plan, was, world)
	version := ""
	if state.Phase == release.Promoted && state.Cleaned { // it can't be undone any more
		if version, err = d.unordered(ctx, co.r); version == "" {
			return time.Now().Add(again), err
		}
	}
	routed := co.routing
	co.State = state
	co.freeze(was)
	co.note(was, v)
	co.direct()
	traffic.see(co)
	err = d.writeOver(ctx, co, version)
	if version != "" && apierrors.IsConflict(err) {
		co.State, co.routing = was, routed
		return time.Now().Add(again), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	shown := d.preview(ctx, co) // which nothing else waits for
	next, err := traffic.share(ctx, d, co)
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) { // which passes by nobody's waiting
		co.sayOnce("its routes can't be written: " + err.Error())
	}
	err = errors.Join(err, shown)
	d.shelve(ctx, co)
	d.record(co, v.Is)
	d.ask(ctx, co)
	next = earlier(next, co.due())
	for _, a := range actions {
		switch a.Kind {
		case release.Scale:
			err = errors.Join(err, d.scale(ctx, co, a.Pods))
		case release.Remake:
			err = errors.Join(err, d.remake(ctx, co))
		case release.Later:
			next = earlier(next, a.At)
		case release.Finish, release.Revert:
			d.rouse() // it is wound up
		}
	}
	return next, err
}

// unordered is the resource version of a Release, "" if it has other orders than the one
// that is given, or is gone.
func (d *desk) unordered(ctx context.Context, r *v1alpha1.Release) (string, error) {
	now, err := d.c.dynamic.Resource(v1alpha1.Releases()).Namespace(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for orders that came last: %w", err)
	case now.GetUID() != r.UID || now.GetGeneration() != r.Generation:
		return "", nil
	}
	return now.GetResourceVersion(), nil
}

// convicts reports whether the evidence is against a version, by what was judged last,
// whatever makes no sense in its plan now.
func (d *desk) convicts(co *course) bool {
	if co.bench == nil {
		return false
	}
	v := co.judge()
	d.record(co, v.Is)
	return v.Is == verdict.Bad
}

// begin waits until the Deployment is fit for a release, and then makes it one.
func (d *desk) begin(ctx context.Context, co *course) (time.Time, error) {
	r := co.r
	if co.State.Phase == "" {
		co.State.Phase, co.State.Started = release.Starting, time.Now().Truncate(time.Microsecond)
		co.say("%s", begins(r))
	}
	plan, orders, err := co.wishes()
	template := &corev1.PodTemplateSpec{}
	if err == nil {
		if err = json.Unmarshal(r.Spec.Template.Raw, template); err != nil {
			err = refuse("spec.template is no pod template: %s", err)
		}
	}
	switch {
	case co.newer:
		return d.close(ctx, co, release.Superseded, "a newer version has come before this one began")
	case co.refused != nil && co.Heeded.By == "":
		return d.close(ctx, co, release.Undone, "refused by "+refusedBy(co.refused))
	case co.Judged == "":
		return time.Time{}, nil // the policies are about to be seen
	case orders.Undo || r.DeletionTimestamp != nil:
		return d.close(ctx, co, release.Undone, "undone before it began")
	case d.kept(co) != nil: // which is none of its own time
		co.free = time.Now().Truncate(time.Microsecond)
	case time.Since(co.own()) > plan.Patience():
		return d.close(ctx, co, release.Undone, fmt.Sprintf("it could not begin for %s: %s", plan.Patience(), co.State.Message))
	}
	if err == nil {
		if _, wrong := spec.Judge(r.Spec.Plan.Judge, nil, 1, false); wrong != nil {
			err = refuse("%s", wrong)
		} else if wrong := d.c.guarded(r); wrong != nil {
			err = wrong
		}
	}
	if err == nil {
		err = d.fit(ctx, co, template)
	}
	fits := err == nil
	if fits {
		err = d.engage(ctx, co, plan, template)
	} else if left := d.unpin(ctx, co); left != nil { // by an attempt that did not get through
		return time.Time{}, left
	}
	switch no, final := errors.AsType[refusal](err); {
	case final:
		return d.close(ctx, co, release.Undone, no.why)
	case err != nil && fits:
		return time.Time{}, errors.Join(d.tell(ctx, co, err.Error()), err)
	case err != nil:
		next := co.own().Add(plan.Patience())
		if time.Since(d.freedAt) < lagging {
			next = d.freedAt.Add(lagging)
		}
		return next, d.tell(ctx, co, err.Error())
	}
	return time.Time{}, nil
}

// own is when a release's own time began: it has none while it waits for another one.
func (co *course) own() time.Time {
	if co.free.After(co.State.Started) {
		return co.free
	}
	return co.State.Started
}

// kept is another release that is promoted, and keeps the pods of before it; nil for none.
func (d *desk) kept(co *course) *v1alpha1.Release {
	i := slices.IndexFunc(d.all, func(r *v1alpha1.Release) bool {
		return r.UID != co.r.UID && release.Phase(r.Status.Phase) == release.Promoted && !spec.Over(r)
	})
	if i < 0 {
		return nil
	}
	return d.all[i]
}

// fit says what keeps a release from beginning now.
func (d *desk) fit(ctx context.Context, co *course, template *corev1.PodTemplateSpec) error {
	if r := d.kept(co); r != nil {
		return fmt.Errorf("release %s is promoted, and the pods of before it are about to end: it begins after that", r.Name)
	}
	if err := co.scene.fit(co.r, template); err != nil {
		return err
	}
	if err := trafficOf(co.r).fit(ctx, d, co); err != nil {
		return err
	}
	return d.freed(ctx, co) // last: it takes the share from the one under way
}

// outside ends a release whose Deployment is not its own any more. What was undone is
// undone all the same.
func (d *desk) outside(ctx context.Context, co *course) (time.Time, error) {
	why := "somebody has changed the Deployment's template: what they want is rolled out in the Deployment's own way"
	s := co.scene
	mine := s.deployment != nil && beforeOf(s.deployment) != nil && beforeOf(s.deployment).Release == co.r.UID
	switch {
	case s.deployment == nil:
		why = "the Deployment was deleted"
	case mine:
		// Its pods are about to go.
		if _, err := d.putBack(ctx, co); err != nil {
			return time.Time{}, err
		}
		var template *corev1.PodTemplateSpec
		if stable, _ := co.sets(); co.State.Phase == release.Undoing || co.State.Phase == release.Undone {
			if template = co.Before; stable != nil {
				template = &stable.Spec.Template
			}
		}
		return time.Time{}, d.release(ctx, s, template)
	case co.State.Phase == release.Undoing:
		return d.close(ctx, co, release.Undone, co.State.Message)
	case co.same():
		return d.close(ctx, co, release.Promoted, "the pods are of this version already")
	case co.newer:
		why = "a newer version has come before this one was released"
	}
	return d.close(ctx, co, release.Superseded, why)
}

// putBack takes away what has had the requests shared. What is in the way of that is told.
func (d *desk) putBack(ctx context.Context, co *course) (done bool, err error) {
	if done, err = trafficOf(co.r).back(ctx, d, co); err != nil {
		co.sayOnce("it can't be ended yet: " + err.Error())
		err = errors.Join(err, d.write(ctx, co))
	}
	return done, err
}

// close ends a release of which nothing is left in the cluster. One that has ended before
// stays what it was.
func (d *desk) close(ctx context.Context, co *course, phase release.Phase, why string) (time.Time, error) {
	// First the Service, whose pods may be ending already: nobody has to be asked for that.
	if err := d.unpin(ctx, co); err != nil {
		return time.Time{}, err
	}
	if done, err := d.putBack(ctx, co); err != nil || !done {
		return time.Now().Add(lookBack), err
	}
	if !co.State.Phase.Ended() {
		co.State.Phase, co.State.Message, co.State.Ended = phase, why, time.Now()
		co.say("%s: %s", strings.ToLower(string(phase)), why)
	}
	if co.State.Phase != release.Promoted {
		co.State.Route = release.Route{Generation: co.State.Route.Generation, Shut: true}
	}
	co.State.Cleaned, co.routing, co.Before = true, nil, nil
	d.record(co, "")
	return time.Time{}, d.write(ctx, co)
}

// tell says what a release waits for.
func (d *desk) tell(ctx context.Context, co *course, text string) error {
	if co.State.Message != text {
		co.State.Message = text
		co.say("%s", text)
	}
	return d.write(ctx, co)
}
