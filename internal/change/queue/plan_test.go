package queue

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// snapshot makes one from a few words: changes "a b c" in that order; runs
// "t0:a+b=failed", a state with a number behind it is a later attempt; landings
// "t0:a>t1".
func snapshot(budget, limit int, changes, runs, landed string) Snapshot {
	s := Snapshot{Tip: "t0", Budget: budget, Limit: limit}
	for i, id := range strings.Fields(changes) {
		s.Changes = append(s.Changes, Change{ID: id, Head: "h", Queued: time.Unix(int64(i), 0)})
	}
	steps := func(s string) []Step {
		var out []Step
		for id := range strings.SplitSeq(s, "+") {
			if id, head, _ := strings.Cut(id, "@"); id != "" {
				out = append(out, Step{id, max(head, "h")})
			}
		}
		return out
	}
	for _, f := range strings.Fields(runs) {
		base, rest, _ := strings.Cut(f, ":")
		what, state, _ := strings.Cut(rest, "=")
		attempt := 1
		if n := len(state) - 1; state[n] <= '9' {
			attempt, state = int(state[n]-'0'), state[:n]
		}
		s.Runs = append(s.Runs, Run{Combination: Combination{base, steps(what)}, State: State(state), Attempt: attempt})
	}
	for _, f := range strings.Fields(landed) {
		base, rest, _ := strings.Cut(f, ":")
		what, after, _ := strings.Cut(rest, ">")
		s.Landed = append(s.Landed, Landing{base, steps(what), after})
		s.Tip = after
	}
	return s
}

// words is a plan in the same language.
func words(plan []Action) []string {
	var out []string
	for _, a := range plan {
		names := make([]string, len(a.Steps))
		for i, s := range a.Steps {
			names[i] = s.ID
		}
		w := string(a.Kind) + " " + a.Base + ":" + strings.Join(names, "+")
		if a.Attempt > 1 {
			w += fmt.Sprint(" ", a.Attempt)
		}
		if a.Kind == Refuse {
			w = fmt.Sprint("refuse ", a.Change.ID, " ", a.Cause, a.Other)
		}
		out = append(out, w)
	}
	return out
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name          string
		budget, limit int
		changes       string
		runs, landed  string
		want          string // separated by "; "
	}{
		{"nothing to do", 4, 4, "", "", "", ""},
		{"one change is tested on the tip", 4, 4, "a", "", "", "start t0:a"},
		{"several are tested at once", 1, 4, "a b c", "", "", "start t0:a+b+c"},
		{"while a run is under way, wait", 1, 4, "a b", "t0:a+b=running", "", "wait t0:"},
		{"further ones are tested on what will probably be there", 3, 1, "a b c", "", "",
			"start t0:a; start t0:a+b; start t0:a+b+c"},
		{"the budget limits that", 2, 1, "a b c", "", "", "start t0:a; start t0:a+b"},
		{"what passed is merged as it was tested", 1, 4, "a b c", "t0:a+b=passed", "", "merge t0:a+b; start t0:a+b+c"},
		{"a later one that passed takes those ahead with it", 1, 1, "a b", "t0:a=running t0:a+b=passed", "",
			"merge t0:a+b; cancel t0:a"},
		{"results outlive a merge by the queue", 1, 4, "c d", "t0:a+b+c=passed t0:a+b=passed", "t0:a+b>t1", "merge t1:c; start t1:c+d"},
		{"results do not outlive a push by others", 1, 4, "a", "t9:a=passed t9:a=running", "", "cancel t9:a; start t0:a"},
		{"a failing combination is searched, not tested again", 1, 4, "a b c d", "t0:=passed t0:a+b+c+d=failed", "", "start t0:a+b"},
		{"the first broken one is convicted by a pair of runs", 1, 4, "a b", "t0:a=passed t0:a+b=failed", "",
			"merge t0:a; refuse b broken"},
		{"without knowing the branch nobody is convicted", 1, 4, "a b", "t0:a=failed", "", "start t0:"},
		{"with the branch known, at once", 1, 4, "a b", "t0:a=failed t0:=passed", "", "refuse a broken; start t0:b"},
		{"a result without the refused one stays", 1, 1, "a b", "t0:=passed t0:a=failed t0:b=passed", "", "merge t0:b; refuse a broken"},
		{"one that only fails with one ahead is the one refused", 1, 4, "a b c", "t0:=passed t0:a+b=failed t0:b=passed t0:a=passed", "",
			"merge t0:a; refuse b broken; start t0:a+c"},
		{"a lost run tells nothing and is started again", 1, 4, "a", "t0:a=lost", "", "start t0:a 2"},
		{"one lost too often waits for evidence that others are not", 1, 4, "a", "t0:a=lost3", "", "wait t0:"},
		{"those behind it go on", 1, 4, "a b", "t0:a=lost3 t0:a+b=lost3", "", "start t0:b"},
		{"with that evidence it is set aside", 1, 4, "a b", "t0:a=lost3 t0:a+b=lost3 t0:b=passed", "", "merge t0:b; refuse a unjudged"},
		{"a run of a cancelled change ends", 1, 4, "b", "t0:a+b=running", "", "cancel t0:a+b; start t0:b"},
		{"a force-push makes another change of it", 1, 4, "a b", "t0:a@old=passed t0:a@old+b=running", "", "cancel t0:a+b; start t0:a+b"},
		{"an empty queue has no runs", 1, 4, "", "t0:a=running", "", "cancel t0:a"},
		{"a broken branch takes the first change that mends it", 2, 4, "a b c", "t0:=failed t0:a=failed t0:b=passed", "", "merge t0:b"},
		{"a broken branch is not blamed on a change", 1, 4, "a b", "t0:=failed t0:a=failed", "", "start t0:b"},
		{"a broken branch that nothing mends waits", 1, 4, "a", "t0:=failed t0:a=failed", "", "wait t0:"},
		{"a longer stretch of a known failure is not tested", 3, 4, "a b", "t0:=passed t0:a+b=failed t0:a+b+c=running", "",
			"cancel t0:a+b+c; start t0:a"},
		{"what runs already is made use of", 1, 4, "a b c d", "t0:a=running", "", "wait t0:"},
		{"the needed run displaces an unlikely one", 1, 4, "a b", "t0:b=running", "", "cancel t0:b; start t0:a+b"},
		{"two results of one combination: the later attempt counts", 1, 4, "a", "t0:a=failed t0:a=passed2 t0:=passed", "", "merge t0:a 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(words(Plan(snapshot(c.budget, c.limit, c.changes, c.runs, c.landed))), "; ")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConflictsAreKnownWithoutARun(t *testing.T) {
	s := snapshot(1, 4, "a b c d", "", "")
	s.Changes[1].Conflicts = []string{"a"}
	s.Changes[3].Unmergeable = "main.go changed on both sides"
	if got := words(Plan(s)); !slices.Equal(got, []string{"start t0:a+c"}) {
		t.Errorf("got %v; what conflicts is not tested together", got)
	}
	s.Runs = []Run{{Combination: Combination{"t0", []Step{{"a", "h"}, {"c", "h"}}}, State: Passed, Attempt: 1}}
	want := []string{"merge t0:a+c", "refuse b conflicta", "refuse d conflict"}
	if diff := cmp.Diff(want, words(Plan(s))); diff != "" {
		t.Error(diff)
	}
}

func TestAnOutageIsNotHeldAgainstAChange(t *testing.T) {
	s := snapshot(1, 1, "a b", "t0:z=passed t0:a=lost3", "")
	s.Runs[0].Ended, s.Runs[1].Ended = time.Unix(10, 0), time.Unix(20, 0)
	if got := words(Plan(s)); !slices.Equal(got, []string{"start t0:a+b"}) && !slices.Equal(got, []string{"start t0:b"}) {
		t.Errorf("got %v: a result from before the outage tells nothing, one is needed", got)
	}
	s.Runs = append(s.Runs, Run{Combination: Combination{"t0", []Step{{"b", "h"}}}, State: Failed, Attempt: 1, Ended: time.Unix(30, 0)})
	if got := words(Plan(s)); len(got) == 0 || got[0] != "refuse a unjudged" {
		t.Errorf("got %v, want a refused", got)
	}
}

func TestFailuresPointAtWhatTouchesThem(t *testing.T) {
	s := snapshot(1, 8, "a b c d e f g", "t0:=passed", "")
	for i := range s.Changes {
		s.Changes[i].Touches = []string{"cart"}
	}
	s.Changes[5].Touches = []string{"mail"}
	var steps []Step
	for _, c := range s.Changes {
		steps = append(steps, Step{c.ID, c.Head})
	}
	s.Runs = append(s.Runs, Run{Combination: Combination{"t0", steps}, State: Failed, Attempt: 1, FailedIn: []string{"mail"}})
	got := words(Plan(s))
	if !slices.Equal(got, []string{"start t0:a+b+c+d+e"}) {
		t.Errorf("got %v, want the stretch that leaves out the suspect", got)
	}
}

func TestPriorityIsTimeSoNothingStarves(t *testing.T) {
	at := func(min int) time.Time { return time.Unix(0, 0).Add(time.Duration(min) * time.Minute) }
	old := Change{ID: "old", Queued: at(0)}
	changes := []Change{{ID: "urgent", Queued: at(30), Priority: 4}, old, {ID: "low", Queued: at(0), Priority: -1}}
	for i := range 20 { // however many urgent ones come, those after an hour are behind
		changes = append(changes, Change{ID: fmt.Sprint("flood", i), Queued: at(61 + i), Priority: 100})
	}
	var ids []string
	for _, c := range Order(changes)[:4] {
		ids = append(ids, c.ID)
	}
	if diff := cmp.Diff([]string{"urgent", "old", "flood0", "flood1"}, ids); diff != "" {
		t.Error(diff)
	}
	if i := slices.IndexFunc(Order(changes), func(c Change) bool { return c.ID == "low" }); i > 12 {
		t.Errorf("the low one is at %d", i)
	}
}

// A queue under all that can happen to it: runs are lost, changes are pushed anew
// or cancelled, the branch is moved by others. Each verdict is still right.
func TestDisturbances(t *testing.T) {
	for seed := range uint64(30) {
		changes := hundred()[:40]
		w := newWorld(t, seed, slices.Clone(changes), 3)
		w.lost = 0.1
		w.breakSome(changes, 4, 1)
		for turn := 0; len(w.snap.Changes) > 0; turn++ {
			if turn > 2000 {
				t.Fatalf("seed %d: no end", seed)
			}
			plan := Plan(w.snap)
			w.apply(plan)
			w.apply(nil)
			w.disturb(turn)
			if !w.advance() && len(plan) == 1 && plan[0].Kind == Wait && len(w.snap.Changes) > 0 {
				t.Fatalf("seed %d: stuck: %v", seed, plan)
			}
		}
		if !w.passes(w.merged) {
			t.Errorf("seed %d: the branch is broken", seed)
		}
		for s, a := range w.out {
			if a.Cause == Broken && (w.passes(w.content(a.Combination)) || !w.passes(w.content(*a.Without))) {
				t.Errorf("seed %d: %s refused on false evidence", seed, s.ID)
			}
		}
	}
}

// Changes of all priorities come while others are tested; each is judged, and only
// the broken ones are refused.
func TestArrivalsWithPriorities(t *testing.T) {
	for seed := range uint64(10) {
		later := hundred()[:60]
		w := newWorld(t, seed, nil, 3)
		w.breakSome(later, 6, 0)
		for turn := 0; len(later) > 0 || len(w.snap.Changes) > 0; turn++ {
			if turn > 2000 {
				t.Fatalf("seed %d: no end", seed)
			}
			for n := w.rand.IntN(4); n > 0 && len(later) > 0; n-- {
				c := later[0]
				c.Queued = time.Unix(int64(turn)*60, 0)
				c.Priority = w.rand.IntN(8) - 2
				w.snap.Changes, later = append(w.snap.Changes, c), later[1:]
			}
			w.apply(Plan(w.snap))
			w.advance()
		}
		if len(w.merged) != 54 || !w.passes(w.merged) {
			t.Errorf("seed %d: merged %d", seed, len(w.merged))
		}
		for s := range w.out {
			if !w.bad[s] {
				t.Errorf("seed %d: %s is refused and is good", seed, s.ID)
			}
		}
	}
}

func (w *world) disturb(turn int) {
	if len(w.snap.Changes) == 0 {
		return
	}
	i := w.rand.IntN(len(w.snap.Changes))
	switch {
	case turn%17 == 5: // a new head, which mends it
		w.snap.Changes[i].Head += "'"
	case turn%23 == 7: // cancelled by its author
		w.snap.Changes = slices.Delete(w.snap.Changes, i, i+1)
	case turn%29 == 11: // a push by somebody else
		after := fmt.Sprintf("t%d", len(w.snap.Landed)+1)
		all := w.snap.Landed
		w.snap.Landed = append(all, Landing{w.snap.Tip, []Step{{"push" + after, "x"}}, after})
		w.snap.Tip = after
	}
}

func TestApplyingAPlanTwiceStartsNothingTwice(t *testing.T) {
	changes := hundred()[:10]
	w := newWorld(t, 1, slices.Clone(changes), 4)
	plan := Plan(w.snap)
	w.apply(plan)
	n := w.starts
	w.apply(plan)
	if n == 0 || w.starts != n {
		t.Errorf("%d runs started, then %d", n, w.starts)
	}
	if got := words(Plan(w.snap)); !slices.Equal(got, []string{"wait t0:"}) {
		t.Errorf("the next plan is %v, want to wait", got)
	}
}

func TestKeyTellsCombinationsApart(t *testing.T) {
	seen := map[string]Combination{}
	for _, c := range []Combination{
		{"t", nil}, {"t", []Step{{"a", "b"}}}, {"ta", []Step{{"", "b"}}}, {"t", []Step{{"ab", ""}}},
		{"t", []Step{{"a", ""}, {"b", ""}}}, {"t", []Step{{"1:a", "b"}}},
	} {
		if old, dup := seen[c.Key()]; dup {
			t.Errorf("%v and %v have one key", old, c)
		}
		seen[c.Key()] = c
	}
}

func FuzzPlan(f *testing.F) {
	for _, s := range []Snapshot{
		snapshot(2, 4, "a b c", "t0:a+b=failed t0:a=running", ""),
		snapshot(2, 4, "c d", "t0:a+b+c=passed", "t0:a+b>t1"),
		snapshot(-1, -1, "a a", "t0:=failed t1:a=lost3", "t0:a>t0 t0:>t1"),
	} {
		data, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Snapshot
		if len(data) > 4096 || json.Unmarshal(data, &s) != nil || len(s.Changes) > 50 {
			return
		}
		s.Budget = min(s.Budget, 50)
		plan := Plan(s)
		if diff := cmp.Diff(plan, Plan(s)); diff != "" {
			t.Fatalf("two plans of one snapshot: %s", diff)
		}
		waits := map[Step]bool{}
		for _, c := range Order(s.Changes) {
			waits[Step{c.ID, c.Head}] = true
		}
		started := map[string]bool{}
		for _, a := range plan {
			for _, step := range a.Steps {
				if (a.Kind == Merge || a.Kind == Start) && !waits[step] {
					t.Fatalf("%s of %v, which does not wait", a.Kind, step)
				}
			}
			if a.Kind == Start {
				if started[a.Key()] {
					t.Fatalf("starts %v twice", a.Combination)
				}
				started[a.Key()] = true
			}
		}
		checkAgain(t, s, plan, started)
	})
}

// checkAgain plans once more with the started runs under way.
func checkAgain(t *testing.T, s Snapshot, plan []Action, started map[string]bool) {
	for _, a := range plan {
		if a.Kind == Start {
			s.Runs = append(s.Runs, Run{Combination: a.Combination, State: Running, Attempt: a.Attempt})
		}
	}
	for _, a := range Plan(s) {
		if a.Kind == Start && started[a.Key()] {
			t.Fatalf("starts %v again", a.Combination)
		}
	}
}

func BenchmarkPlanOfHundred(b *testing.B) {
	s := Snapshot{Tip: "t0", Changes: hundred(), Budget: 4}
	for b.Loop() {
		Plan(s)
	}
}
