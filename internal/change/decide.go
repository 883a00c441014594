package change

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/queue"
)

// View is all that a decision is made from.
type View struct {
	App     *v1alpha1.App
	Changes []*v1alpha1.Change // all of the app, in any order
	// Tree is that of the branch's newest commit, "" when there is none.
	Tree string
	// Trees are those of commits that changes were merged as.
	Trees map[string]string
	// Unmergeable says of a change, by name, why it can't be merged into the branch,
	// and Conflicts with which others it can't be merged together.
	Unmergeable map[string]string
	Conflicts   map[string][]string
	// Now is when the view was made.
	Now time.Time
}

// Kind says what an action does.
type Kind string

// Kinds of Action.
const (
	// Reset makes an ended change begin again.
	Reset Kind = "reset"
	// End gives the change its last phase.
	End Kind = "end"
	// Order has a worker do a step: the change's own, or that of its run.
	Order Kind = "order"
	// Start begins a run of Changes, of which Change is the last.
	Start Kind = "start"
	// Later has the app looked at again at the time of At.
	Later Kind = "later"
	// Abandon ends a run that nobody needs.
	Abandon Kind = "abandon"
	// Apart runs the tests of a stranger's change, which a worker has compiled.
	Apart Kind = "apart"
	// Preview deploys a run's result to an environment of its own.
	Preview Kind = "preview"
	// Merge brings a run's result to the branch.
	Merge Kind = "merge"
	// Deploy brings a merged change to an environment.
	Deploy Kind = "deploy"
	// Along notes that an environment has a merged change since it has a later one.
	Along Kind = "along"
)

// Action is one thing to do. Doing it twice does no harm.
type Action struct {
	Kind   Kind
	Change string
	// Run is the index of one of the change's runs.
	Run     int
	Changes []string
	Step    string
	// Environment is that of Deploy and Along, By the change that an environment has.
	Environment, By string
	// Split tells that several workers may do the step of an Order together, and Part
	// from 1, which of its parts it is.
	Split bool
	Part  int

	Phase, Message string
	Reason         string // of the condition, "" for the phase
	Attempt        int32
	At             time.Time
}

// Decide returns what is to be done now. The same view gives the same actions.
func Decide(v View) []Action {
	d := &decision{View: v, byName: map[string]*v1alpha1.Change{}, lost: map[[2]string]*v1alpha1.Change{}}
	for _, c := range v.Changes {
		d.byName[c.Name] = c
	}
	d.changes()
	d.tryAlone()
	d.queue()
	d.runs()
	d.deployments()
	return d.actions
}

type decision struct {
	View
	byName  map[string]*v1alpha1.Change
	waiting []*v1alpha1.Change // for the merge, in order
	alone   []*v1alpha1.Change // that nobody wants merged yet
	actions []Action
	// lost has, by change and step, which other one has failed there that it was merged
	// together with, so that the step comes to nothing.
	lost map[[2]string]*v1alpha1.Change
}

func (d *decision) add(a Action) { d.actions = append(d.actions, a) }

// changes decides what concerns each change alone.
func (d *decision) changes() {
	for _, c := range inOrder(d.Changes) {
		switch {
		case Ended(c):
			if Retried(c) && c.Spec.ReplacedBy == "" {
				d.add(Action{Kind: Reset, Change: c.Name, Attempt: c.Spec.Attempt})
			}
		case c.Status.Merged != "":
		case c.Spec.ReplacedBy != "":
			d.end(c, v1alpha1.Superseded, "replaced by "+c.Spec.ReplacedBy)
		case c.Spec.Cancel:
			d.end(c, v1alpha1.Cancelled, cmp.Or(c.Annotations[v1alpha1.ReasonAnnotation], "somebody has asked for that"))
		default:
			d.review(c)
		}
	}
}

func (d *decision) end(c *v1alpha1.Change, phase, message string) {
	d.add(Action{Kind: End, Change: c.Name, Phase: phase, Message: message})
}

func (d *decision) unmergeable(c *v1alpha1.Change, why string) {
	d.add(Action{Kind: End, Change: c.Name, Phase: v1alpha1.Refused, Reason: v1alpha1.Unmergeable, Message: why})
}

// review has a change reviewed, and lets it into the queue unless that refuses it.
func (d *decision) review(c *v1alpha1.Change) {
	s := StepOf(c.Status.Steps, v1alpha1.ReviewStep)
	switch {
	case s == nil || s.State == v1alpha1.StepWaiting || s.State == v1alpha1.StepRunning:
		d.add(Action{Kind: Order, Change: c.Name, Run: -1, Step: v1alpha1.ReviewStep})
	case s.State == v1alpha1.StepFailed:
		d.end(c, v1alpha1.Refused, "review: "+s.Message)
		return
	case s.State == v1alpha1.StepErred:
		d.end(c, v1alpha1.Failed, "review: "+s.Message)
		return
	}
	switch {
	case c.Spec.Untrusted:
		d.stranger(c)
	case c.Spec.Merge:
		d.waiting = append(d.waiting, c)
	default:
		d.alone = append(d.alone, c)
	}
}

// most is how often the run of a change may be lost.
const most = 3

// tryAlone has the changes tested that nobody wants merged yet, each by itself. When
// somebody does, what was tested counts.
func (d *decision) tryAlone() {
	for _, c := range d.alone {
		if why := d.Unmergeable[c.Name]; why != "" {
			d.unmergeable(c, why)
			continue
		}
		state, attempt, message := lastAlone(c)
		switch {
		case state == v1alpha1.RunFailed:
			d.end(c, v1alpha1.Refused, message)
		case state == v1alpha1.RunLost && attempt >= most:
			d.end(c, v1alpha1.Failed, message)
		case state == "" || state == v1alpha1.RunLost || state == v1alpha1.RunCancelled:
			d.add(Action{Kind: Start, Change: c.Name, Changes: []string{c.Name}, Attempt: attempt + 1})
		}
	}
}

// lastAlone is how the newest run of a change by itself stands.
func lastAlone(c *v1alpha1.Change) (state string, attempt int32, message string) {
	for _, r := range c.Status.Runs {
		if len(r.Changes) != 1 {
			continue
		}
		state, attempt, message = r.State, r.Attempt, ""
		for _, s := range r.Steps {
			if s.State == v1alpha1.StepFailed || s.State == v1alpha1.StepErred {
				message = s.Name + ": " + s.Message
				break
			}
		}
	}
	return state, attempt, message
}

// queue asks the merge queue.
func (d *decision) queue() {
	s := queue.Snapshot{Tip: d.Tree, Budget: int(max(d.App.Spec.Policy.Speculation, 1))}
	for _, c := range d.waiting {
		s.Changes = append(s.Changes, queue.Change{
			ID: c.Name, Head: c.Spec.Commit, Queued: time.Unix(0, c.Spec.Order),
			Unmergeable: d.Unmergeable[c.Name], Conflicts: d.Conflicts[c.Name],
		})
	}
	for _, c := range d.Changes {
		if !c.Spec.Merge || c.Spec.Untrusted {
			continue
		}
		for _, r := range c.Status.Runs {
			if run, ok := queued(r); ok && (r.State == v1alpha1.RunFailed || !d.landedPart(r)) {
				s.Runs = append(s.Runs, run)
			}
		}
	}
	// The branch is taken as sound: what is on it has been through this, or was there
	// before.
	s.Runs = append(s.Runs, queue.Run{Combination: queue.Combination{Base: d.Tree}, State: queue.Passed, Attempt: 1})
	s.Landed = d.landed()
	for _, a := range queue.Plan(s) {
		d.obey(a)
	}
}

// landedPart reports whether a change of a run is merged. What such a run has shown of the
// others is of a base that the branch has left: that they fail with the merged one is worth
// knowing, but merging them rests on a run of their own, most of which is known already.
func (d *decision) landedPart(r v1alpha1.Run) bool {
	return slices.ContainsFunc(r.Changes, func(name string) bool { m := d.byName[name]; return m != nil && m.Status.Merged != "" })
}

func queued(r v1alpha1.Run) (queue.Run, bool) {
	states := map[string]queue.State{
		v1alpha1.RunRunning: queue.Running, v1alpha1.RunPassed: queue.Passed,
		v1alpha1.RunFailed: queue.Failed, v1alpha1.RunLost: queue.Lost,
	}
	state, ok := states[r.State]
	out := queue.Run{State: state, Attempt: int(r.Attempt)}
	out.Base = r.Base
	for i, name := range r.Changes {
		out.Steps = append(out.Steps, queue.Step{ID: name, Head: r.Heads[i]})
	}
	return out, ok
}

// landed are the merges that the changes tell of.
func (d *decision) landed() []queue.Landing {
	var all []queue.Landing
	for _, c := range mergedInOrder(d.Changes) {
		step := queue.Step{ID: c.Name, Head: c.Spec.Commit}
		after := d.Trees[c.Status.Merged]
		if n := len(all); n > 0 && all[n-1].Before == c.Status.MergedOnto && all[n-1].Before != all[n-1].After {
			all[n-1].Steps, all[n-1].After = append(all[n-1].Steps, step), after
			continue
		}
		all = append(all, queue.Landing{Before: c.Status.MergedOnto, Steps: []queue.Step{step}, After: after})
	}
	return all
}

// obey turns what the queue wants into actions.
func (d *decision) obey(a queue.Action) {
	var names []string
	for _, s := range a.Steps {
		names = append(names, s.ID)
	}
	switch a.Kind {
	case queue.Start:
		if len(names) == 0 {
			return
		}
		if at := d.notBefore(a.Base, names, int32(a.Attempt)); d.Now.Before(at) {
			d.add(Action{Kind: Later, Change: names[len(names)-1], At: at})
			return
		}
		d.add(Action{Kind: Start, Change: names[len(names)-1], Changes: names, Attempt: int32(a.Attempt)})
	case queue.Wait:
		d.giveUp()
	case queue.Cancel:
		if lead, run := d.runOf(a.Base, names); lead != nil {
			d.add(Action{Kind: Abandon, Change: lead.Name, Run: run, Message: a.Reason})
		}
	case queue.Refuse:
		if c := d.byName[a.Change.ID]; c != nil {
			switch a.Cause {
			case queue.Conflict:
				d.unmergeable(c, a.Reason)
			case queue.Unjudged:
				d.end(c, v1alpha1.Failed, a.Reason)
			default:
				d.end(c, v1alpha1.Refused, d.whyRefused(a))
			}
		}
	case queue.Merge:
		d.merge(a.Base, names)
	}
}

// notBefore is when a run may be tried again whose last attempt showed nothing: what
// was away then may be back by then.
func (d *decision) notBefore(base string, names []string, attempt int32) time.Time {
	lead := d.byName[names[len(names)-1]]
	if lead == nil || attempt < 2 || d.Now.IsZero() {
		return time.Time{}
	}
	var ended time.Time
	for _, r := range lead.Status.Runs {
		if r.Base != base || !slices.Equal(r.Changes, names) || r.Attempt != attempt-1 {
			continue
		}
		for _, s := range r.Steps {
			if s.Ended != nil && s.Ended.After(ended) {
				ended = s.Ended.Time
			}
		}
	}
	if ended.IsZero() {
		return ended
	}
	pauses := []time.Duration{3 * time.Second, 20 * time.Second}
	return ended.Add(pauses[min(int(attempt)-2, len(pauses)-1)])
}

// giveUp ends the first change in the queue when its run was lost so often that the
// queue starts it no more, and nothing is under way that could change that.
func (d *decision) giveUp() {
	for _, c := range d.Changes {
		if slices.ContainsFunc(c.Status.Runs, func(r v1alpha1.Run) bool { return r.State == v1alpha1.RunRunning }) {
			return
		}
	}
	for _, c := range inOrder(d.waiting) {
		i := len(c.Status.Runs) - 1
		if i < 0 || c.Status.Runs[i].State != v1alpha1.RunLost || c.Status.Runs[i].Base != d.Tree {
			continue
		}
		for _, s := range c.Status.Runs[i].Steps {
			if s.State == v1alpha1.StepErred {
				d.end(c, v1alpha1.Failed, s.Name+": "+s.Message)
				return
			}
		}
	}
}

// merge merges a prefix that has passed, as far as it is reviewed.
func (d *decision) merge(base string, names []string) {
	for _, name := range names {
		if !Done(State(d.byName[name].Status.Steps, v1alpha1.ReviewStep)) {
			return // when it is, this is decided again
		}
	}
	if lead, run := d.runOf(base, names); lead != nil && lead.Status.Runs[run].State == v1alpha1.RunPassed {
		d.add(Action{Kind: Merge, Change: lead.Name, Run: run, Changes: names})
	}
}

// whyRefused tells a change's author what its run has shown.
func (d *decision) whyRefused(a queue.Action) string {
	if a.Cause != queue.Broken {
		return a.Reason
	}
	var names []string
	for _, s := range a.Steps {
		names = append(names, s.ID)
	}
	lead, i := d.runOf(a.Base, names)
	if lead == nil {
		return a.Reason
	}
	for _, s := range lead.Status.Runs[i].Steps {
		if s.State == v1alpha1.StepFailed {
			return s.Name + ": " + s.Message
		}
	}
	return a.Reason
}

// runOf finds the newest run of a combination, on that base and no other.
func (d *decision) runOf(base string, names []string) (*v1alpha1.Change, int) {
	if len(names) == 0 {
		return nil, 0
	}
	lead := d.byName[names[len(names)-1]]
	if lead == nil {
		return nil, 0
	}
	for i, r := range slices.Backward(lead.Status.Runs) {
		if slices.Equal(r.Changes, names) && r.Base == base && r.State != v1alpha1.RunCancelled {
			return lead, i
		}
	}
	return nil, 0
}

// runs has the steps of the runs done.
func (d *decision) runs() {
	for _, c := range inOrder(d.Changes) {
		for i, r := range c.Status.Runs {
			if r.State != v1alpha1.RunRunning {
				continue
			}
			if d.abandoned(c.Name, i) {
				continue
			}
			if slices.ContainsFunc(r.Changes, func(name string) bool { m := d.byName[name]; return m == nil || Ended(m) || m.Status.Merged != "" }) {
				d.add(Action{Kind: Abandon, Change: c.Name, Run: i, Message: "a change of it is no longer in the queue"})
				continue
			}
			if c.Spec.Untrusted && !MayRun(d.App.Spec.Policy, c) {
				d.add(Action{Kind: Abandon, Change: c.Name, Run: i, Message: "nothing of it may be run any more"})
				continue
			}
			for _, name := range runStepsOf(d.App.Spec.Policy, c) {
				state := State(r.Steps, name)
				switch {
				case state != v1alpha1.StepWaiting && state != v1alpha1.StepRunning:
				case name == v1alpha1.TestStep && c.Spec.Untrusted:
					if Done(State(r.Steps, v1alpha1.BuildStep)) {
						d.add(Action{Kind: Apart, Change: c.Name, Run: i, Step: name})
					}
				case name != v1alpha1.PreviewStep:
					d.orders(c, i, name)
				case Done(State(r.Steps, v1alpha1.BuildStep)):
					d.add(Action{Kind: Preview, Change: c.Name, Run: i, Step: name})
				}
			}
		}
	}
}

func (d *decision) abandoned(change string, run int) bool {
	return slices.ContainsFunc(d.actions, func(a Action) bool { return a.Kind == Abandon && a.Change == change && a.Run == run })
}

// deployments brings merged changes to the environments, in the environments' order.
// Only the newest is deployed: it has what those before it brought, also those that
// nobody has let in by name. When it comes to nothing, the one before it is, unless it was
// merged by the same run: then it is the very same that would be deployed.
func (d *decision) deployments() {
	merged := mergedInOrder(d.Changes)
	before := len(merged) - 1 // how far the environment before this one is
	for _, e := range d.App.Spec.Environments {
		step := DeployStep(e.Name)
		has, want := -1, -1
		failed := map[string]*v1alpha1.Change{} // by the change whose run it was merged by
		for i, c := range slices.Backward(merged) {
			by := cmp.Or(c.Status.MergedBy, c.Name)
			together := failed[by]
			if together != nil && Ended(together) && c.Status.Attempt > together.Status.Attempt {
				together = nil // it is retried by itself
			}
			switch state := State(c.Status.Steps, step); {
			case Done(state):
				has = max(has, i)
			case state == v1alpha1.StepFailed:
				failed[by] = cmp.Or(failed[by], c)
			case state != v1alpha1.StepWaiting && state != v1alpha1.StepRunning:
			case together != nil && max(has, want) < 0:
				d.lost[[2]string{c.Name, step}] = together
			case want < 0 && i <= before && together == nil && !gone(c) && d.mayEnter(c, e):
				want = i
			}
		}
		if want > has {
			d.add(Action{Kind: Deploy, Change: merged[want].Name, Environment: e.Name, Step: step})
		}
		for _, c := range merged[:max(has, 0)] {
			if state := State(c.Status.Steps, step); !Done(state) && !Ended(c) {
				d.add(Action{Kind: Along, Change: c.Name, Environment: e.Name, Step: step, By: merged[has].Name})
			}
		}
		before = has
	}
	d.finish(merged)
}

// gone reports whether a merged change has ended without being everywhere: then no further
// environment gets it.
func gone(c *v1alpha1.Change) bool { return Ended(c) && c.Status.Phase != v1alpha1.Deployed }

func (d *decision) mayEnter(c *v1alpha1.Change, e v1alpha1.Environment) bool {
	return e.Promotion != v1alpha1.Manual || slices.Contains(c.Spec.Promote, e.Name)
}

// finish ends the changes that are everywhere, or never will be.
func (d *decision) finish(merged []*v1alpha1.Change) {
	for _, c := range merged {
		if Ended(c) {
			continue
		}
		var where []string
		for _, e := range d.App.Spec.Environments {
			s := StepOf(c.Status.Steps, DeployStep(e.Name))
			if s == nil || s.State == v1alpha1.StepWaiting || s.State == v1alpha1.StepRunning {
				if other := d.lost[[2]string{c.Name, DeployStep(e.Name)}]; other != nil {
					s := StepOf(other.Status.Steps, DeployStep(e.Name))
					d.end(c, v1alpha1.Refused, "together with "+other.Name+": "+s.Name+": "+s.Message)
				}
				break
			}
			if !Done(s.State) {
				phase := v1alpha1.Refused
				if s.State == v1alpha1.StepErred {
					phase = v1alpha1.Failed
				}
				d.end(c, phase, s.Name+": "+s.Message)
				break
			}
			where = append(where, e.Name)
		}
		if len(where) == len(d.App.Spec.Environments) {
			d.end(c, v1alpha1.Deployed, "deployed to "+strings.Join(where, ", "))
		}
	}
}

// Describe says in a few words what a change waits for, and which step it is at.
func Describe(v View, c *v1alpha1.Change) (phase, current, message string) {
	if c.Spec.Untrusted && Done(State(c.Status.Steps, v1alpha1.ReviewStep)) {
		if phase, message := describeStranger(v.App.Spec.Policy, c); phase != "" {
			return phase, "", message
		}
	}
	if state, _, _ := lastAlone(c); !c.Spec.Merge && c.Status.Merged == "" && state == v1alpha1.RunPassed && Done(State(c.Status.Steps, v1alpha1.ReviewStep)) {
		return v1alpha1.Held, v1alpha1.MergeStep, fmt.Sprintf("it passed; bight change merge %s, or a push to %s, takes it further", c.Name, v.App.Spec.Branch)
	}
	if c.Status.Merged != "" {
		for _, e := range v.App.Spec.Environments {
			state := State(c.Status.Steps, DeployStep(e.Name))
			if Done(state) {
				continue
			}
			if e.Promotion == v1alpha1.Manual && !slices.Contains(c.Spec.Promote, e.Name) {
				return v1alpha1.Held, DeployStep(e.Name), fmt.Sprintf("waits for bight change promote %s %s", c.Name, e.Name)
			}
			return v1alpha1.Running, DeployStep(e.Name), ""
		}
	}
	var at []string
	for _, s := range c.Status.Steps {
		if s.State == v1alpha1.StepRunning || s.State == v1alpha1.StepWaiting {
			at = append(at, s.Name)
			if message == "" {
				message = s.Message
			}
		}
	}
	for _, s := range c.Status.Steps {
		if s.State == v1alpha1.StepErred && len(at) == 0 {
			return v1alpha1.Running, s.Name, "is tried again: " + s.Message
		}
	}
	if len(at) == 0 && len(c.Status.Steps) > 0 {
		return v1alpha1.Running, v1alpha1.MergeStep, "waits for changes that are before it in the queue"
	}
	return v1alpha1.Running, strings.Join(at, ", "), message
}
