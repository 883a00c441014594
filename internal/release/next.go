package release

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/release/verdict"
)

// Next decides. The plan has been checked.
func Next(p Plan, s State, w World) (State, []Action) {
	d := &decision{Plan: p, State: s, World: w}
	if d.Phase == "" {
		d.Phase, d.Started, d.Route.Generation = Starting, w.Now, 1
	}
	d.convict()
	switch why, convicted := d.undoing(); {
	case why != "":
		d.undo(why, convicted)
	case d.Phase == Undoing:
		d.undone()
	case d.Phase.Ended():
		d.afterwards()
	case d.Phase == Promoting || d.Orders.Promote:
		d.promote()
	case d.Canary.Ready == 0:
		d.start()
	case d.measuring():
		d.measure()
	default:
		d.progress()
	}
	d.wait()
	return d.State, d.actions
}

type decision struct {
	Plan
	State
	World
	actions []Action
	asked   bool // somebody is, whether it may go on
}

func (d *decision) add(a Action) { d.actions = append(d.actions, a) }

func (d *decision) say(phase Phase, format string, args ...any) {
	d.Phase, d.Message = phase, fmt.Sprintf(format, args...)
}

// later has this asked again after a time from then.
func (d *decision) later(since time.Time, after time.Duration) {
	d.add(Action{Kind: Later, At: since.Add(after)})
}

// route has the doors obey a share, and says it each time: whoever carries it out may
// have been another process the last time.
func (d *decision) route(weight, mirror Weight) { d.steer(Route{Weight: weight, Mirror: mirror}) }

// shut has the doors keep everything from the canary.
func (d *decision) shut() { d.steer(Route{Shut: true}) }

func (d *decision) steer(r Route) {
	r.Generation = d.Route.Generation
	if r != d.Route {
		r.Generation++
		d.Route, d.StepSince = r, time.Time{}
	}
	d.add(Action{Kind: Steer, Route: d.Route})
}

// obeyed says that every door does what the route says.
func (d *decision) obeyed() bool { return d.Obeyed >= d.Route.Generation }

func (d *decision) scale(pods int32) {
	d.State.Pods = pods
	d.add(Action{Kind: Scale, Pods: pods})
}

// hindrance is why pods are not ready, as the end of a sentence.
func (d *decision) hindrance() string {
	if d.Hindrance == "" {
		return ""
	}
	return " (" + d.Hindrance + ")"
}

// need is how many pods a share of the requests takes.
func (d *decision) need(w Weight, least int32) int32 { return Need(d.Stable.Want, w, least) }

// needed is how many pods a step takes.
func (d *decision) needed(s Step) int32 {
	return d.need(max(s.Weight, s.Mirror), s.Least(d.Stable.Want))
}

// Need is how many pods a share of the requests takes if all of them take so many; it is
// at least one and no fewer than least, but no more than all.
func Need(all int32, w Weight, least int32) int32 {
	return min(max(part(all, w), least, 1), max(all, 1))
}

// undoing says why the release is to be undone, "" for no reason. It looks at nothing
// that undoing would have to wait for.
func (d *decision) undoing() (why string, convicted bool) {
	if d.Phase == Undone || d.Phase == Superseded || d.Phase == Undoing || d.Phase == Promoted && d.Cleaned {
		return "", false
	}
	switch {
	case d.Verdict == verdict.Bad:
		return cmp.Or(d.World.Why, "the evidence is against it"), true
	case d.Orders.Undo:
		return cmp.Or(d.Orders.Why, "somebody has undone it"), false
	case d.Phase == Promoted || d.Phase == Promoting:
		return "", false
	case d.Verdict == verdict.Inconclusive && d.Doubt == UndoInDoubt:
		return "there was " + unproven(d.World.Why), false
	case d.Phase == Starting && d.Now.Sub(d.Started) >= d.Plan.Patience():
		return fmt.Sprintf("none of its pods was ready after %s%s", d.Plan.Patience(), d.hindrance()), false
	}
	return "", false
}

// convict notes that the evidence is against a version that is being undone already.
func (d *decision) convict() {
	if d.World.Verdict == verdict.Bad && (d.Phase == Undoing || d.Phase == Undone) && !d.Convicted && !d.Cleaned {
		d.Convicted = true
		d.Message = cmp.Or(d.World.Why, "the evidence is against it")
		d.add(Action{Kind: Convict, Why: d.Message})
	}
}

// undo takes all requests from the canary, whatever the state of stable's pods: they
// were good enough before. Only if there are none at all there is nothing to go back
// to.
func (d *decision) undo(why string, convicted bool) {
	if d.Canary.All > 0 && d.remaking() {
		d.say(Held, "it is to be undone (%s) as soon as the pods of the version before are ready, which are made anew: %d of %d", why, d.Stable.Ready, d.Stable.Want)
		d.route(d.Route.Weight, 0)
		return
	}
	if d.Stable.All == 0 && d.Stable.Want > 0 && d.Canary.All > 0 {
		d.say(Held, "it is to be undone (%s), but no pod of the version before exists: bring one back", why)
		d.route(d.Route.Weight, 0)
		return
	}
	d.say(Undoing, "%s", why)
	d.Ended, d.Convicted = d.Now, convicted
	d.shut()
	if convicted {
		d.add(Action{Kind: Convict, Why: why})
	}
	d.undone()
}

// enough is how long it takes at least until fewer of stable's pods, made anew, than there
// are to be will do.
const enough = 30 * time.Second

// remaking has stable's pods made anew if somebody has deleted their ReplicaSet, and says
// whether they are waited for: what was undone takes no pods away before others are ready.
func (d *decision) remaking() bool {
	if d.Gone && d.Stable.Want > 0 {
		if d.Remade.IsZero() {
			d.Remade = d.Now
		}
		d.add(Action{Kind: Remake})
		return true
	}
	switch {
	case d.Remade.IsZero():
		return false
	case d.Stable.Ready >= d.Stable.Want, d.Stable.Ready > 0 && d.Now.Sub(d.Remade) >= enough:
		d.Remade = time.Time{}
		return false
	}
	d.later(d.Now, time.Second)
	return true
}

// undone ends what is being undone when every door says so. The canary's pods stay for
// a while: they still answer what they were asked. A door that says nothing for so long
// has no agent any more, or finds no canary when that is gone: stable answers there.
func (d *decision) undone() {
	if d.Phase == Undoing && (d.obeyed() || d.Now.Sub(d.Ended) >= d.Plan.Left()) {
		d.Phase = Undone
		d.Ended = d.Now
	} else if d.Phase == Undoing {
		d.later(d.Ended, d.Plan.Left())
	}
	if d.Phase == Undone {
		d.afterwards()
		return
	}
	d.shut()
}

// afterwards removes the pods that have no more requests.
func (d *decision) afterwards() {
	if d.Cleaned {
		return
	}
	kept := d.Plan.Left()
	if d.Phase == Promoted {
		kept = d.Plan.Kept()
		d.route(All, 0)
		d.scale(d.need(All, 0)) // a scaler may want more of them meanwhile
	} else {
		d.shut()
	}
	told := d.Phase == Promoted && d.Orders.Go > d.State.Go
	if d.Now.Sub(d.Ended) < kept && !told {
		d.later(d.Ended, kept)
		return
	}
	if d.Phase == Undone && d.Canary.All > 0 && d.remaking() && d.Now.Sub(d.Remade) < d.Plan.Patience() {
		return
	}
	d.Cleaned = true
	switch d.Phase {
	case Promoted:
		d.add(Action{Kind: Finish})
	default:
		d.add(Action{Kind: Revert, Why: d.Message})
	}
}

// start waits for the first pods. Until there are any, and whenever there are none,
// the canary gets no request.
func (d *decision) start() {
	d.say(d.Phase, "waits for the first pod to be ready%s", d.hindrance())
	if d.Phase != Starting {
		d.say(Held, "none of its pods is ready%s: it gets no requests until one is", d.hindrance())
	} else {
		d.later(d.Started, d.Plan.Patience())
	}
	d.route(0, 0)
	d.scale(max(d.State.Pods, d.needed(d.step())))
}

// measuring says whether the canary's first request waits until stable is known. An order
// does not wait.
func (d *decision) measuring() bool {
	return !d.Opened && d.Route.Weight == 0 && d.Route.Mirror == 0 && d.Orders.Weight == nil && d.Baseline.comes()
}

func (d *decision) measure() {
	d.say(Progressing, "measures the latency of the version before: %d of %d requests", d.Baseline.Have, d.Baseline.Want)
	d.route(0, 0)
	d.scale(max(d.State.Pods, d.needed(d.step())))
	d.later(d.Now, time.Second)
}

// wait counts the time in which people have the release wait on purpose: they pause it,
// hold its weight, or are asked whether it may go on. When they can't decide because the
// time for a verdict is over, that is no more time for it.
func (d *decision) wait() {
	waits := !d.Phase.Ended() && d.Phase != Undoing && d.Phase != Promoting &&
		(d.Orders.Paused || d.Orders.Weight != nil || d.asked)
	switch {
	case waits && d.WaitSince.IsZero():
		d.WaitSince = d.Now
	case !waits && !d.WaitSince.IsZero():
		d.Waited += max(d.Now.Sub(d.WaitSince), 0)
		d.WaitSince = time.Time{}
	}
}

func (d *decision) step() Step { return d.Steps[min(d.Step, len(d.Steps)-1)] }

// progress follows what people want now, and the plan.
func (d *decision) progress() {
	d.Opened = true
	if d.Step >= len(d.Steps) { // the plan was shortened
		d.Step = len(d.Steps) - 1
	}
	if d.Orders.Weight != nil {
		d.byHand(*d.Orders.Weight)
		return
	}
	s := d.step()
	if least := s.Least(d.Stable.Want); d.StepSince.IsZero() && d.Canary.Ready < min(least, d.Stable.Want) {
		d.gather(least)
		return
	}
	if !d.give(s.Weight, s.Mirror, s.Least(d.Stable.Want)) {
		return
	}
	if d.StepSince.IsZero() {
		d.StepSince = d.Now
	}
	if d.over(s) {
		d.advance()
	}
}

// gather waits for the pods that a step asks for. What the canary has already it keeps.
func (d *decision) gather(least int32) {
	need := d.need(max(d.Route.Weight, d.Route.Mirror), least)
	d.say(Progressing, "%d of %d pods are ready%s", d.Canary.Ready, need, d.hindrance())
	d.scale(need)
	d.route(d.Route.Weight, d.Route.Mirror)
}

// byHand gives the canary what somebody has ordered.
func (d *decision) byHand(w Weight) {
	for d.Step < len(d.Steps)-1 && d.step().Weight <= w { // where the plan goes on
		d.Step++
	}
	switch given := d.give(w, 0, 0); {
	case given && d.unreached() && w > 0:
		d.say(Held, "%s of the requests, by hand, %s", w, unreached)
	case given:
		d.say(Held, "%s of the requests, by hand", w)
	}
}

// give gives the canary a share as soon as it has the pods for it, and says whether
// that is so at every door.
func (d *decision) give(weight, mirror Weight, least int32) bool {
	need := d.need(max(weight, mirror), least)
	d.scale(need)
	// What it has already it keeps, though a pod of it is not ready at the moment.
	if d.Canary.Ready < need && max(weight, mirror) > max(d.Route.Weight, d.Route.Mirror) {
		d.say(Progressing, "waits for %d of %d pods to be ready before it gets %s of the requests%s", need-d.Canary.Ready, need, weight, d.hindrance())
		d.route(d.Route.Weight, d.Route.Mirror)
		return false
	}
	d.route(weight, mirror)
	if !d.obeyed() {
		d.say(Progressing, "%s of the requests, as soon as every pod has heard of it", weight)
		return false
	}
	return true
}

// over says whether a step is, and if not, what it waits for.
func (d *decision) over(s Step) bool {
	told, word := d.Orders.Go > d.State.Go, "resume"
	last := d.Step+1 >= len(d.Steps)
	if d.Plan.ByOrder && last {
		s.Hold, told, word = true, false, "promote"
	}
	switch {
	case d.Orders.Paused:
		d.say(Held, "paused at %s", s.Weight)
		return false
	case d.unreached() && !told:
		d.say(Held, "%s of the requests, %s; bight release %s has it go on all the same", s.Weight, unreached, word)
		return false
	case d.Now.Sub(d.StepSince) < s.For:
		d.say(Progressing, "%s of the requests for %s", s.Weight, s.For)
		d.later(d.StepSince, s.For)
		return false
	case s.Proven && d.Verdict != verdict.Good && d.Verdict != verdict.Inconclusive:
		d.say(Progressing, "%s of the requests: %s", s.Weight, cmp.Or(d.World.Why, "collecting evidence"))
		return false
	case s.Proven && d.Verdict == verdict.Inconclusive && !told:
		d.say(Held, "%s of the requests, and %s; bight release resume has it go on all the same", s.Weight, unproven(d.World.Why))
		return false
	case s.Hold && !told:
		d.asked = true
		d.say(Held, "%s of the requests, until somebody says bight release %s", s.Weight, word)
		return false
	}
	if s.Hold || s.Proven || d.unreached() {
		d.State.Go = max(d.State.Go, d.Orders.Go)
	}
	return true
}

// many is how many requests that were the canary's stable has to answer, and all of them,
// until there is more to it than a few packets that were lost.
const many = 10

const unreached = "but stable answers them all: its pods can't connect to this version's, which are ready (a NetworkPolicy may forbid it)"

// unreached says that the canary gets none of the requests that are its own, so time that
// goes by tells nothing of it.
func (d *decision) unreached() bool { return d.Unreached >= many }

// unproven says that there is no verdict, and why, which may say that already.
func unproven(why string) string {
	why = Plain(why)
	if strings.HasPrefix(why, "no verdict in ") {
		return why
	}
	return "no verdict in time: " + why
}

// Plain is why a verdict is what it is, for people: logs are compared with the judge's own
// words.
func Plain(why string) string {
	return strings.Replace(why, ": good but for that", ", and shown to be good only after it", 1)
}

// advance begins the next step. After the last it promotes, or undoes if that is the plan.
func (d *decision) advance() {
	switch last := d.Step+1 >= len(d.Steps); {
	case last && d.Plan.Undo:
		d.undo("the plan is over, and ends with that", false)
		return
	case last:
		d.promote()
		return
	}
	d.Step++
	d.StepSince = time.Time{}
	d.progress()
}

// promote gives the canary everything, as fast as it gets the pods for it. Those that
// were judged are those that stay.
func (d *decision) promote() {
	if d.Canary.Ready == 0 {
		d.start()
		return
	}
	d.Opened = true
	need := d.need(All, 0)
	d.scale(need)
	if d.Canary.Ready < need && d.Route.Weight < All && d.AtOnce {
		d.say(Promoting, "%d of %d pods are ready%s: all requests move when all are", d.Canary.Ready, need, d.hindrance())
		d.route(d.Route.Weight, 0)
		return
	}
	if d.Canary.Ready < need && d.Route.Weight < All {
		able := Weight(int64(All) * int64(d.Canary.Ready) / int64(need))
		d.say(Promoting, "%d of %d pods are ready%s", d.Canary.Ready, need, d.hindrance())
		d.route(max(able, d.Route.Weight), 0)
		return
	}
	d.route(All, 0)
	if !d.obeyed() {
		d.say(Promoting, "all requests, as soon as every pod has heard of it")
		return
	}
	d.say(Promoted, "it has all requests")
	if d.Orders.Promote && d.Orders.Why != "" {
		d.Message += ": " + d.Orders.Why
	}
	d.Ended = d.Now
	d.State.Go = max(d.State.Go, d.Orders.Go) // what was said of a step is not said of what comes now
	d.afterwards()
}
