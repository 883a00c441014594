package change

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// model carries actions out as the controller does, without a cluster.
type model struct {
	t       *testing.T
	view    View
	broken  map[string]bool // changes whose tests fail
	bad     map[string]bool // changes, or environment and change, that do not come to serve with what is merged by them
	tried   []string        // deployments
	runs    int
	merges  int
	late    func() bool // whether a step ends later, or a run before it is abandoned and after anybody has looked
	clock   time.Time
	deploys []string
	reasons map[string]string // of changes that have ended
}

func newModel(t *testing.T, environments []v1alpha1.Environment, n int) *model {
	preview := false
	app := &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main", Environments: environments, Policy: v1alpha1.Policy{Preview: &preview, Speculation: 3}}}
	app.Name, app.Namespace = "shop", "shop"
	m := &model{t: t, view: View{App: app, Tree: "tree-0", Trees: map[string]string{}}, broken: map[string]bool{}, bad: map[string]bool{}, reasons: map[string]string{}, clock: time.Unix(1_800_000_000, 0)}
	for i := range n {
		m.push(fmt.Sprintf("c%03d", i))
	}
	return m
}

func (m *model) push(name string) *v1alpha1.Change {
	m.clock = m.clock.Add(time.Second)
	c := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{App: "shop", Commit: "head-" + name, Order: m.clock.UnixNano(), Merge: true}}
	c.Name = name
	m.view.Changes = append(m.view.Changes, c)
	return c
}

func (m *model) change(name string) *v1alpha1.Change {
	i := slices.IndexFunc(m.view.Changes, func(c *v1alpha1.Change) bool { return c.Name == name })
	if i < 0 {
		m.t.Fatalf("there is no change %s", name)
	}
	return m.view.Changes[i]
}

func (m *model) now() *metav1.MicroTime {
	m.clock = m.clock.Add(time.Millisecond)
	t := metav1.NewMicroTime(m.clock)
	return &t
}

// do carries out one action and reports whether it changed the view.
func (m *model) do(a Action) bool {
	c := m.change(a.Change)
	st := &c.Status
	step := func(list []v1alpha1.Step, name, state, message string) []v1alpha1.Step {
		return SetStep(list, v1alpha1.Step{Name: name, State: state, Message: message, Started: m.now(), Ended: m.now()})
	}
	switch a.Kind {
	case Reset:
		*st = Again(*st, a.Attempt)
	case End:
		if Ended(c) {
			m.t.Errorf("%s ends twice: %+v", c.Name, a)
		}
		st.Phase, st.Message, m.reasons[c.Name] = a.Phase, a.Message, a.Reason
	case Order:
		list, state := &st.Steps, v1alpha1.StepPassed
		if a.Run >= 0 {
			list = &st.Runs[a.Run].Steps
			if a.Step == v1alpha1.TestStep && slices.ContainsFunc(st.Runs[a.Run].Changes, func(n string) bool { return m.broken[n] }) {
				state = v1alpha1.StepFailed
			}
		}
		*list = step(*list, a.Step, state, "")
		if a.Run >= 0 {
			st.Runs[a.Run].State = RunState(m.view.App.Spec.Policy, c, *list)
		}
	case Apart:
		state := v1alpha1.StepPassed
		if m.broken[a.Change] {
			state = v1alpha1.StepFailed
		}
		r := &st.Runs[a.Run]
		r.Steps = step(r.Steps, a.Step, state, "")
		r.State = RunState(m.view.App.Spec.Policy, c, r.Steps)
	case Start:
		r := v1alpha1.Run{Base: m.view.Tree, Changes: a.Changes, Commit: "merge-" + strings.Join(a.Changes, "-"), State: v1alpha1.RunRunning, Attempt: a.Attempt}
		for _, n := range a.Changes {
			r.Heads = append(r.Heads, m.change(n).Spec.Commit)
		}
		if slices.ContainsFunc(st.Runs, func(o v1alpha1.Run) bool {
			return o.Base == r.Base && slices.Equal(o.Changes, r.Changes) && o.Attempt == r.Attempt && o.State != v1alpha1.RunCancelled
		}) {
			m.t.Errorf("a run that is there already is started: %+v", a)
			return false
		}
		st.Runs = append(st.Runs, r)
		m.runs++
	case Abandon:
		r := &st.Runs[a.Run]
		switch {
		case m.late == nil || !m.late():
			r.State = v1alpha1.RunCancelled
		case slices.ContainsFunc(r.Changes, func(n string) bool { return m.broken[n] }):
			r.State, r.Steps = v1alpha1.RunFailed, step(r.Steps, v1alpha1.TestStep, v1alpha1.StepFailed, "")
		default:
			r.State = v1alpha1.RunPassed
		}
	case Merge:
		m.merge(a)
	case Deploy:
		m.tried = append(m.tried, a.Environment+" "+a.Change)
		if by := c.Status.MergedBy; m.bad[by] || m.bad[a.Environment+" "+by] {
			st.Steps = step(st.Steps, a.Step, v1alpha1.StepFailed, "it does not serve")
			return true
		}
		st.Steps = step(st.Steps, a.Step, v1alpha1.StepPassed, "")
		m.deploys = append(m.deploys, a.Environment+" "+a.Change)
	case Along:
		st.Steps = step(st.Steps, a.Step, v1alpha1.StepPassed, "went along with "+a.By)
	default:
		m.t.Fatalf("unknown action %+v", a)
	}
	return true
}

func (m *model) merge(a Action) {
	before := m.view.Tree
	run := m.change(a.Change).Status.Runs[a.Run]
	if run.State != v1alpha1.RunPassed {
		m.t.Errorf("a run that %s is merged: %+v", run.State, a)
	}
	if run.Base != before || !slices.Equal(run.Changes, a.Changes) {
		m.t.Errorf("a run of %v on %s is merged as one on %s: %+v", run.Changes, run.Base, before, a)
	}
	for _, n := range a.Changes {
		c := m.change(n)
		if m.broken[n] {
			m.t.Errorf("%s is broken and is merged", n)
		}
		if c.Status.Merged != "" {
			m.t.Errorf("%s is merged twice", n)
		}
		m.merges++
		c.Status.Merged, c.Status.MergedAt, c.Status.MergedOnto, c.Status.MergedBy = fmt.Sprintf("commit-%d", m.merges), m.now(), before, a.Change
		m.view.Tree = fmt.Sprintf("tree-%d", m.merges)
		m.view.Trees[c.Status.Merged] = m.view.Tree
	}
}

// settle decides and does until nothing is left to do. pick chooses which of the
// actions are done before the next look.
func (m *model) settle(pick func(n int) int) {
	m.t.Helper()
	for range 10_000 {
		actions := Decide(m.view)
		if again := Decide(m.view); !cmp.Equal(actions, again) {
			m.t.Fatalf("the same view gives other actions:\n%s", cmp.Diff(actions, again))
		}
		if len(actions) == 0 {
			return
		}
		for _, a := range actions[:pick(len(actions))] {
			if a.Kind == Order && m.late != nil && m.late() {
				continue
			}
			m.do(a)
			if a.Kind != Order && a.Kind != Along {
				break // the view is another one now
			}
		}
	}
	m.t.Fatal("it does not come to an end")
}

func all(n int) int { return n }

func phases(m *model) map[string]string {
	out := map[string]string{}
	for _, c := range m.view.Changes {
		out[c.Name] = c.Status.Phase
	}
	return out
}

func TestEachChangeGetsWhatItDeserves(t *testing.T) {
	prod := []v1alpha1.Environment{{Name: "stage"}, {Name: "prod"}}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := newModel(t, prod, 30)
		for _, c := range m.view.Changes {
			m.broken[c.Name] = r.IntN(8) == 0
		}
		m.late = func() bool { return r.IntN(2) == 0 }
		m.settle(func(n int) int { return 1 + r.IntN(n) })
		for name, phase := range phases(m) {
			want := v1alpha1.Deployed
			if m.broken[name] {
				want = v1alpha1.Refused
			}
			if phase != want {
				t.Errorf("seed %d: %s (broken: %t) is %q, want %q", seed, name, m.broken[name], phase, want)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func TestWhatCannotBeMergedSaysThatThisIsWhy(t *testing.T) {
	for name, prepare := range map[string]func(v *View, c *v1alpha1.Change){
		"with the branch": func(v *View, c *v1alpha1.Change) { v.Unmergeable = map[string]string{c.Name: "it conflicts"} },
		"nor is wanted": func(v *View, c *v1alpha1.Change) {
			v.Unmergeable, c.Spec.Merge = map[string]string{c.Name: "it conflicts"}, false
		},
	} {
		m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 2)
		c := m.change("c001")
		prepare(&m.view, c)
		m.settle(all)
		if c.Status.Phase != v1alpha1.Refused || m.reasons[c.Name] != v1alpha1.Unmergeable {
			t.Errorf("%s: %s, %q", name, c.Status.Phase, m.reasons[c.Name])
		}
		if m.reasons["c000"] != "" {
			t.Errorf("%s: the other one has the reason %q", name, m.reasons["c000"])
		}
	}
}

func TestWhatCannotBeMergedWithAnotherIsRefusedAsThatIsMerged(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 2)
	m.view.Conflicts = map[string][]string{"c001": {"c000"}}
	for range 100 {
		actions := Decide(m.view)
		if len(actions) == 0 {
			break
		}
		if actions[0].Kind != Merge {
			m.do(actions[0])
			continue
		}
		refused := slices.IndexFunc(actions, func(a Action) bool { return a.Kind == End && a.Change == "c001" })
		if refused < 0 || actions[refused].Phase != v1alpha1.Refused || actions[refused].Reason != v1alpha1.Unmergeable {
			t.Errorf("c000 is merged, and of c001 nothing is decided but %+v", actions[1:])
		}
		return
	}
	t.Error("c000 is never merged")
}

// TestAMergeHoldsUpNoneThatWasTestedWithIt merges the first of two changes while the run of
// both is under way, which says what it has shown before it is abandoned.
func TestAMergeHoldsUpNoneThatWasTestedWithIt(t *testing.T) {
	for _, test := range []struct {
		state   string // of the run of both
		attempt int32
		alone   bool // the second was on a branch of its own before, and passed
		want    string
		runs    int // further ones
	}{
		{v1alpha1.RunRunning, 1, false, v1alpha1.Deployed, 1},
		{v1alpha1.RunPassed, 1, false, v1alpha1.Deployed, 1},
		{v1alpha1.RunPassed, 1, true, v1alpha1.Deployed, 1},
		{v1alpha1.RunLost, most, false, v1alpha1.Deployed, 1},
		{v1alpha1.RunFailed, 1, false, v1alpha1.Refused, 0},
		{v1alpha1.RunFailed, 1, true, v1alpha1.Refused, 0},
	} {
		m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 2)
		first, second := m.change("c000"), m.change("c001")
		ran := func(c *v1alpha1.Change, state string, attempt int32, changes ...*v1alpha1.Change) {
			r := v1alpha1.Run{Base: "tree-0", State: state, Attempt: attempt, Steps: []v1alpha1.Step{{Name: v1alpha1.TestStep, State: v1alpha1.StepPassed}}}
			if state == v1alpha1.RunFailed {
				r.Steps[0].State, r.Steps[0].Message = v1alpha1.StepFailed, "it is red"
			}
			for _, of := range changes {
				r.Changes, r.Heads = append(r.Changes, of.Name), append(r.Heads, of.Spec.Commit)
			}
			c.Status.Runs = append(c.Status.Runs, r)
		}
		if test.alone {
			ran(second, v1alpha1.RunPassed, 1, second)
		}
		ran(first, v1alpha1.RunPassed, 1, first)
		ran(second, test.state, test.attempt, first, second)
		m.merge(Action{Kind: Merge, Change: first.Name, Changes: []string{first.Name}})
		m.settle(all)
		if second.Status.Phase != test.want || m.runs != test.runs {
			t.Errorf("%+v: it is %q, %q after %d more runs", test, second.Status.Phase, second.Status.Message, m.runs)
		}
		if first.Status.Phase != v1alpha1.Deployed {
			t.Errorf("%+v: the first is %q", test, first.Status.Phase)
		}
	}
}

func TestPeopleEndAndRetryChanges(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 3)
	m.change("c000").Spec.Cancel = true
	m.change("c001").Spec.ReplacedBy = "c002"
	m.settle(all)
	want := map[string]string{"c000": v1alpha1.Cancelled, "c001": v1alpha1.Superseded, "c002": v1alpha1.Deployed}
	if d := cmp.Diff(want, phases(m)); d != "" {
		t.Errorf("phases (-want +got):\n%s", d)
	}
	m.change("c000").Spec.Cancel, m.change("c000").Spec.Attempt = false, 1
	m.settle(all)
	if got := m.change("c000").Status.Phase; got != v1alpha1.Deployed {
		t.Errorf("after a retry it is %q", got)
	}
}

func TestWhatStrangersMakeIsNotRun(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 1)
	c := m.change("c000")
	c.Spec.Untrusted = true
	m.settle(all)
	if m.runs != 0 || m.merges != 0 {
		t.Errorf("%d runs, %d merges of a stranger's change", m.runs, m.merges)
	}
	if phase, _, _ := Describe(m.view, c); phase != v1alpha1.Held {
		t.Errorf("phase %q", phase)
	}
}

func TestWhatNobodyWantsMergedIsTestedAndHeld(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 3)
	good, bad := m.change("c000"), m.change("c001")
	good.Spec.Merge, bad.Spec.Merge = false, false
	m.broken["c001"] = true
	m.settle(all)
	if phase, _, message := Describe(m.view, good); phase != v1alpha1.Held || good.Status.Merged != "" || !strings.Contains(message, "bight change merge c000") {
		t.Errorf("phase %q, merged %q, message %q", phase, good.Status.Merged, message)
	}
	if bad.Status.Phase != v1alpha1.Refused {
		t.Errorf("the broken one is %q", bad.Status.Phase)
	}
	if got := m.change("c002").Status.Phase; got != v1alpha1.Deployed {
		t.Errorf("the one that is to be merged is %q", got)
	}
	good.Spec.Merge = true
	m.settle(all)
	if good.Status.Phase != v1alpha1.Deployed {
		t.Errorf("wanted, it is %q", good.Status.Phase)
	}
}

func TestARunThatIsLostAgainAndAgainIsGivenUp(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 1)
	c := m.change("c000")
	c.Spec.Merge = false
	lost := v1alpha1.Run{Base: m.view.Tree, Changes: []string{"c000"}, Heads: []string{c.Spec.Commit}, State: v1alpha1.RunLost, Attempt: most,
		Steps: []v1alpha1.Step{{Name: "build", State: v1alpha1.StepErred, Message: "the registry is away"}}}
	c.Status.Runs = []v1alpha1.Run{lost}
	m.settle(all)
	if c.Status.Phase != v1alpha1.Failed || c.Status.Message != "build: the registry is away" {
		t.Errorf("phase %q, message %q", c.Status.Phase, c.Status.Message)
	}
}

func TestAFindingRefusesBeforeTheMerge(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 2)
	c := m.change("c000")
	c.Status.Steps = []v1alpha1.Step{{Name: v1alpha1.ReviewStep, State: v1alpha1.StepFailed, Message: "a secret"}}
	m.settle(all)
	want := map[string]string{"c000": v1alpha1.Refused, "c001": v1alpha1.Deployed}
	if d := cmp.Diff(want, phases(m)); d != "" {
		t.Errorf("phases (-want +got):\n%s", d)
	}
	if c.Status.Message != "review: a secret" || c.Status.Merged != "" {
		t.Errorf("message %q, merged %q", c.Status.Message, c.Status.Merged)
	}
}

func TestTimelineIsThatOfTheRunThatCounts(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 1)
	m.settle(all)
	c := m.change("c000")
	var names []string
	for _, s := range Compose(m.view, c) {
		names = append(names, s.Name)
	}
	if d := cmp.Diff([]string{"review", "build", "test", "deploy/prod"}, names); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
}

// TestNothingIsUnderWayOfWhatHasEnded refuses a change by its build while its tests run:
// the run, which nobody follows any more, says for ever that they do.
func TestNothingIsUnderWayOfWhatHasEnded(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 1)
	c := m.change("c000")
	c.Status.Phase = v1alpha1.Refused
	c.Status.Runs = []v1alpha1.Run{{Changes: []string{c.Name}, State: v1alpha1.RunFailed, Steps: []v1alpha1.Step{
		{Name: v1alpha1.BuildStep, State: v1alpha1.StepFailed, Message: "it does not compile"},
		{Name: v1alpha1.TestStep, State: v1alpha1.StepRunning, Commit: "result"},
	}}}
	m.view.Now = m.clock
	for _, when := range []string{"when it ends", "later"} {
		c.Status.Steps = Compose(m.view, c)
		s := StepOf(c.Status.Steps, v1alpha1.TestStep)
		if s == nil || s.State != v1alpha1.StepCancelled || s.Message != "the change was refused" || s.Ended == nil || !s.Ended.Time.Equal(m.clock) {
			t.Errorf("%s: step %+v", when, s)
		}
		m.view.Now = m.view.Now.Add(time.Minute)
		// Soon the run has ended, too, and has a reason of its own.
		t := &c.Status.Runs[0].Steps[1]
		t.State, t.Message = v1alpha1.StepCancelled, "nothing can be learnt from it any more"
	}
	c.Status.Runs[0].Steps[1].State = v1alpha1.StepRunning
	c.Status.Phase = v1alpha1.Running
	if s := StepOf(Compose(m.view, c), v1alpha1.TestStep); s.State != v1alpha1.StepRunning {
		t.Errorf("of a change that is under way: %+v", s)
	}
}

// TestWhatWaitsNoMore tells a change that is held from one whose word was said and not
// heard of yet, which is what follows it right after bight change promote sees.
func TestWhatWaitsNoMore(t *testing.T) {
	held := func(current string) v1alpha1.ChangeStatus {
		return v1alpha1.ChangeStatus{Phase: v1alpha1.Held, Current: current}
	}
	for name, test := range map[string]struct {
		status v1alpha1.ChangeStatus
		spec   v1alpha1.ChangeSpec
		want   bool
	}{
		"runs":               {v1alpha1.ChangeStatus{Phase: v1alpha1.Running}, v1alpha1.ChangeSpec{}, false},
		"held for prod":      {held("deploy/prod"), v1alpha1.ChangeSpec{Merge: true, Promote: []string{"stage"}}, true},
		"promoted to prod":   {held("deploy/prod"), v1alpha1.ChangeSpec{Merge: true, Promote: []string{"stage", "prod"}}, false},
		"held for the merge": {held("merge"), v1alpha1.ChangeSpec{}, true},
		"to be merged":       {held("merge"), v1alpha1.ChangeSpec{Merge: true}, false},
		"to be cancelled":    {held("merge"), v1alpha1.ChangeSpec{Cancel: true}, false},
		"a stranger's":       {held(""), v1alpha1.ChangeSpec{Untrusted: true}, true},
	} {
		if got := Waits(&v1alpha1.Change{Spec: test.spec, Status: test.status}); got != test.want {
			t.Errorf("%s: waits %t, want %t", name, got, test.want)
		}
	}
}

func TestTitle(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"one\ntwo":                       "one",
		"\n\n  spaced \n":                "spaced",
		"tab\tand \x1b[31mescape":        "tab and  [31mescape",
		"bad \xff bytes":                 "bad \ufffd bytes",
		strings.Repeat("ä", 300) + "end": strings.Repeat("ä", 199) + "…",
	} {
		if got := Title(in); got != want {
			t.Errorf("Title(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestLostRunsAreTriedAgainLaterAndGivenUp has what a build needs be away.
func TestLostRunsAreTriedAgainLaterAndGivenUp(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 1)
	c := m.change("c000")
	c.Status.Steps = []v1alpha1.Step{{Name: v1alpha1.ReviewStep, State: v1alpha1.StepPassed}}
	lose := func(attempt int32) {
		c.Status.Runs = append(c.Status.Runs, v1alpha1.Run{
			Base: m.view.Tree, Changes: []string{c.Name}, Heads: []string{c.Spec.Commit}, Commit: "result", State: v1alpha1.RunLost, Attempt: attempt,
			Steps: []v1alpha1.Step{{Name: v1alpha1.BuildStep, State: v1alpha1.StepErred, Message: "the registry is away", Ended: m.now()}},
		})
	}
	for _, step := range []struct {
		lost  int32
		after time.Duration // since then
		want  Action
	}{
		{1, time.Second, Action{Kind: Later, Change: c.Name}},
		{1, 4 * time.Second, Action{Kind: Start, Change: c.Name, Changes: []string{c.Name}, Attempt: 2}},
		{2, 4 * time.Second, Action{Kind: Later, Change: c.Name}},
		{2, 21 * time.Second, Action{Kind: Start, Change: c.Name, Changes: []string{c.Name}, Attempt: 3}},
		{3, time.Second, Action{Kind: End, Change: c.Name, Phase: v1alpha1.Failed, Message: "build: the registry is away"}},
	} {
		for int32(len(c.Status.Runs)) < step.lost {
			lose(int32(len(c.Status.Runs)) + 1)
		}
		m.view.Now = m.clock.Add(step.after)
		got := Decide(m.view)
		for i := range got {
			got[i].At = time.Time{}
		}
		if diff := cmp.Diff([]Action{step.want}, got); diff != "" {
			t.Errorf("%d times lost, %s after (-want +got):\n%s", step.lost, step.after, diff)
		}
	}
}
