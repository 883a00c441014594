// Package change decides what happens to the changes of an app: commits on their way
// through review, build, test and merge to the app's environments.
//
// The main entry is [Decide], a pure function from one [View] of an app and all its
// changes to the [Action]s that follow. Package controller carries them out and
// writes down, in the status of the changes, what came of them; the next view is made
// from that alone, so whoever carries actions out may die at any point. What the
// packages below do is told there. Everything here is safe for concurrent use.
package change

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// What the controller serves over HTTP.
const (
	GitPath   = "/git/"     // + <namespace>/<app>.git
	WorkPath  = "/v1/work"  // a WebSocket of package work
	FilesPath = "/v1/files" // + /<namespace>/<change>/<file>
	HooksPath = "/hooks"    // + /<namespace>/<app>: webhooks of outside hosts
	// ResultsPath, + /<namespace>/<app>, answers workers that ask what is known.
	ResultsPath = "/v1/results"
)

// TicketPrefix begins what the holder of a Ticket shows in place of a token:
// "bight-ticket.<namespace>.<name>.<key>".
const TicketPrefix = "bight-ticket"

// Name is the name of the Change of a commit.
func Name(app, commit string) string {
	return app[:min(len(app), 50)] + "-" + commit[:min(len(commit), 12)]
}

// Ended reports whether nothing more happens to a change, unless somebody retries it.
func Ended(c *v1alpha1.Change) bool {
	switch c.Status.Phase {
	case v1alpha1.Deployed, v1alpha1.Refused, v1alpha1.Failed, v1alpha1.Cancelled, v1alpha1.Superseded:
		return true
	}
	return false
}

// Waits reports whether a change is held and nobody has said the word yet that it
// waits for.
func Waits(c *v1alpha1.Change) bool {
	switch {
	case c.Status.Phase != v1alpha1.Held || c.Spec.Cancel || c.Spec.ReplacedBy != "":
		return false
	case c.Status.Current == v1alpha1.MergeStep:
		return !c.Spec.Merge
	}
	environment, deploys := strings.CutPrefix(c.Status.Current, v1alpha1.DeployStep+"/")
	return !deploys || !slices.Contains(c.Spec.Promote, environment)
}

// Retried reports whether somebody wants an ended change done again.
func Retried(c *v1alpha1.Change) bool { return c.Spec.Attempt > c.Status.Attempt }

// StepOf returns the step of that name, or nil.
func StepOf(steps []v1alpha1.Step, name string) *v1alpha1.Step {
	i := slices.IndexFunc(steps, func(s v1alpha1.Step) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &steps[i]
}

// State returns the state of a step, [v1alpha1.StepWaiting] when it is not there.
func State(steps []v1alpha1.Step, name string) string {
	if s := StepOf(steps, name); s != nil {
		return s.State
	}
	return v1alpha1.StepWaiting
}

// Again is the status of a change that begins again: what is merged stays so, with all that was
// done on the way, since what failed came after.
func Again(was v1alpha1.ChangeStatus, attempt int32) v1alpha1.ChangeStatus {
	now := v1alpha1.ChangeStatus{Phase: v1alpha1.Pending, Attempt: attempt}
	if was.Merged != "" {
		now.Merged, now.MergedAt, now.MergedOnto, now.MergedBy = was.Merged, was.MergedAt, was.MergedOnto, was.MergedBy
		now.Images, now.Runs, now.Risk = was.Images, was.Runs, was.Risk
		now.Steps = slices.DeleteFunc(was.Steps, func(s v1alpha1.Step) bool { return !Done(s.State) })
	}
	return now
}

// Done reports whether a step in that state lets what comes after it begin.
func Done(state string) bool { return state == v1alpha1.StepPassed || state == v1alpha1.StepSkipped }

// SetStep puts a step in the place of the one of its name.
func SetStep(steps []v1alpha1.Step, s v1alpha1.Step) []v1alpha1.Step {
	if old := StepOf(steps, s.Name); old != nil {
		*old = s
		return steps
	}
	return append(steps, s)
}

// DeployStep is the name of the step that brings a change to an environment.
func DeployStep(environment string) string { return v1alpha1.DeployStep + "/" + environment }

// RunSteps are the steps of a run under a policy, in order.
func RunSteps(p v1alpha1.Policy) []string {
	steps := []string{v1alpha1.BuildStep, v1alpha1.TestStep}
	if Previews(p) {
		steps = append(steps, v1alpha1.PreviewStep)
	}
	return steps
}

// Previews reports whether changes run in an environment of their own before they are
// merged.
func Previews(p v1alpha1.Policy) bool { return p.Preview == nil || *p.Preview }

// RunState is what a run of a change shows, from its steps.
func RunState(p v1alpha1.Policy, c *v1alpha1.Change, steps []v1alpha1.Step) string {
	state := v1alpha1.RunPassed
	for _, name := range runStepsOf(p, c) {
		switch s := State(steps, name); {
		case s == v1alpha1.StepFailed:
			return v1alpha1.RunFailed
		case s == v1alpha1.StepErred:
			state = v1alpha1.RunLost
		case !Done(s) && state != v1alpha1.RunLost:
			state = v1alpha1.RunRunning
		}
	}
	return state
}

// Namespace is where an app's environment is.
func Namespace(app string, e v1alpha1.Environment) string {
	return cmp.Or(e.Namespace, app+"-"+e.Name)
}

// inOrder sorts changes as they came.
func inOrder(changes []*v1alpha1.Change) []*v1alpha1.Change {
	out := slices.Clone(changes)
	slices.SortStableFunc(out, func(a, b *v1alpha1.Change) int {
		return cmp.Or(cmp.Compare(a.Spec.Order, b.Spec.Order), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// mergedInOrder returns the merged ones, as they were merged.
func mergedInOrder(changes []*v1alpha1.Change) []*v1alpha1.Change {
	out := slices.DeleteFunc(slices.Clone(changes), func(c *v1alpha1.Change) bool { return c.Status.Merged == "" || c.Status.MergedAt == nil })
	slices.SortStableFunc(out, func(a, b *v1alpha1.Change) int {
		return cmp.Or(a.Status.MergedAt.Time.Compare(b.Status.MergedAt.Time), cmp.Compare(a.Spec.Order, b.Spec.Order))
	})
	return out
}

// Title is a commit's first line, as a Change has it.
func Title(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line)
	if r := []rune(line); len(r) > 200 {
		line = string(r[:199]) + "…"
	}
	return line
}

// Compose returns the timeline of a change: its own steps, and those of the run that
// says most about it. A change that has ended has no step that is under way, whatever
// the run says that was left when it ended.
func Compose(v View, c *v1alpha1.Change) []v1alpha1.Step {
	steps := slices.DeleteFunc(slices.Clone(c.Status.Steps), func(s v1alpha1.Step) bool { return ofRun(s.Name) })
	if lead, r := bestRun(v.Changes, c); r != nil {
		for _, s := range r.Steps {
			s.Parts = nil // the run has them
			if lead.Name != c.Name {
				s.Message = strings.TrimSuffix("together with "+lead.Name+": "+s.Message, ": ")
			}
			steps = append(steps, s)
		}
	}
	rank := func(s v1alpha1.Step) int {
		return slices.Index([]string{v1alpha1.ReviewStep, v1alpha1.BuildStep, v1alpha1.TestStep, v1alpha1.PreviewStep, v1alpha1.MergeStep}, s.Name)
	}
	slices.SortStableFunc(steps, func(a, b v1alpha1.Step) int { return cmp.Compare(uint(rank(a)), uint(rank(b))) })
	if Ended(c) {
		for i, s := range steps {
			if s.State == v1alpha1.StepRunning || s.State == v1alpha1.StepWaiting || s.State == v1alpha1.StepCancelled {
				steps[i] = cancelled(v, c, s)
			}
		}
	}
	return steps
}

// cancelled is a step as it stands since its change has ended.
func cancelled(v View, c *v1alpha1.Change, s v1alpha1.Step) v1alpha1.Step {
	if was := StepOf(c.Status.Steps, s.Name); was != nil && was.State == v1alpha1.StepCancelled && was.Commit == s.Commit {
		return *was
	}
	ended := metav1.NewMicroTime(v.Now)
	s.State, s.Ended, s.Message = v1alpha1.StepCancelled, &ended, "the change was "+strings.ToLower(c.Status.Phase)
	return s
}

func ofRun(name string) bool {
	return name == v1alpha1.BuildStep || name == v1alpha1.TestStep || name == v1alpha1.PreviewStep
}

// bestRun is the one that a change was merged by, else one that is under way, else the
// last.
func bestRun(changes []*v1alpha1.Change, c *v1alpha1.Change) (*v1alpha1.Change, *v1alpha1.Run) {
	var lead *v1alpha1.Change
	var best *v1alpha1.Run
	value := func(l *v1alpha1.Change, r *v1alpha1.Run) int {
		n := 0
		switch {
		case c.Status.MergedBy == l.Name && r.State == v1alpha1.RunPassed:
			n = 8
		case r.State == v1alpha1.RunRunning || r.State == v1alpha1.RunPassed:
			n = 4
		case r.State == v1alpha1.RunFailed:
			n = 2
		}
		if l.Name == c.Name {
			n++
		}
		return n
	}
	for _, l := range inOrder(changes) {
		for i := range l.Status.Runs {
			r := &l.Status.Runs[i]
			if slices.Contains(r.Changes, c.Name) && (best == nil || value(l, r) >= value(lead, best)) {
				lead, best = l, r
			}
		}
	}
	return lead, best
}

// Newest returns the newest change that an environment has, and its step there.
func Newest(changes []*v1alpha1.Change, environment string) (*v1alpha1.Change, *v1alpha1.Step) {
	for _, c := range slices.Backward(mergedInOrder(changes)) {
		if s := StepOf(c.Status.Steps, DeployStep(environment)); s != nil && Done(s.State) {
			return c, s
		}
	}
	return nil, nil
}
