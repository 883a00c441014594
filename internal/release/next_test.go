package release

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/verdict"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// drive lets a release meet one world after the other, each of which obeys its route
// unless it says otherwise, and returns what is told of each.
type drive struct {
	plan  Plan
	state State
	world World
	last  []Action
}

func newDrive(p Plan) *drive {
	return &drive{plan: p, world: World{Now: began, Verdict: verdict.Collecting, Stable: Pods{Want: 10, Ready: 10, All: 10}}}
}

// meets asks Next until nothing changes any more, with all pods obeying.
func (d *drive) meets(change func(w *World)) string {
	if change != nil {
		change(&d.world)
	}
	for range 20 {
		before := d.state
		d.next()
		d.world.Obeyed = d.state.Route.Generation
		if d.state == before {
			break
		}
	}
	return fmt.Sprintf("%s %s: %s", d.state.Phase, d.state.Route.Weight, d.state.Message)
}

func (d *drive) next() { d.state, d.last = Next(d.plan, d.state, d.world) }

func (d *drive) did(k Kind) bool {
	for _, a := range d.last {
		if a.Kind == k {
			return true
		}
	}
	return false
}

func after(t time.Duration) func(*World) { return func(w *World) { w.Now = w.Now.Add(t) } }

var steps = Plan{Steps: []Step{
	{Weight: 500, For: 10 * time.Second},
	{Weight: 2000, Hold: true},
	{Weight: 5000, Proven: true},
}}

func TestAReleaseByItsPlan(t *testing.T) {
	d := newDrive(steps)
	var got []string
	for _, change := range []func(*World){
		nil,
		func(w *World) { w.Canary = Pods{Ready: 1, All: 1} },
		after(9 * time.Second),
		after(time.Second), // 20 % takes two pods
		func(w *World) { w.Canary = Pods{Ready: 2, All: 2} },
		func(w *World) { w.Orders.Go = 1 },
		func(w *World) { w.Canary = Pods{Ready: 5, All: 5} },
		func(w *World) { w.Why = "60 of 510 requests" },
		func(w *World) { w.Verdict = verdict.Good },
		func(w *World) { w.Canary = Pods{Ready: 8, All: 10} },
		func(w *World) { w.Canary = Pods{Ready: 10, All: 10} },
	} {
		got = append(got, d.meets(change))
	}
	want := []string{
		"Starting 0 %: waits for the first pod to be ready",
		"Progressing 5 %: 5 % of the requests for 10s",
		"Progressing 5 %: 5 % of the requests for 10s",
		"Progressing 5 %: waits for 1 of 2 pods to be ready before it gets 20 % of the requests",
		"Held 20 %: 20 % of the requests, until somebody says bight release resume",
		"Progressing 20 %: waits for 3 of 5 pods to be ready before it gets 50 % of the requests",
		"Progressing 50 %: 50 % of the requests: collecting evidence",
		"Progressing 50 %: 50 % of the requests: 60 of 510 requests",
		"Promoting 50 %: 5 of 10 pods are ready",
		"Promoting 80 %: 8 of 10 pods are ready",
		"Promoted 100 %: it has all requests",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it goes otherwise (-want +got):\n%s", diff)
	}
	if d.meets(after(29 * time.Second)); d.state.Cleaned || d.did(Finish) {
		t.Errorf("stable's pods are replaced too early: %+v", d.last)
	}
	d.world.Now = d.world.Now.Add(time.Second)
	if d.next(); !d.state.Cleaned || !d.did(Finish) {
		t.Errorf("stable's pods are never replaced: %+v", d.last)
	}
}

// upTo brings a release to its step of 20 %.
func upTo20(t *testing.T) *drive {
	t.Helper()
	d := newDrive(steps)
	d.meets(func(w *World) { w.Canary = Pods{Ready: 4, All: 4} })
	d.meets(after(10 * time.Second))
	if d.state.Route.Weight != 2000 {
		t.Fatalf("state %+v", d.state)
	}
	return d
}

func TestOrders(t *testing.T) {
	tests := []struct {
		name   string
		change func(*World)
		want   string
	}{
		{"more", func(w *World) { w.Orders.Weight = ptr(Weight(3500)) }, "Held 35 %: 35 % of the requests, by hand"},
		{"less", func(w *World) { w.Orders.Weight = ptr(Weight(1)) }, "Held 0.01 %: 0.01 % of the requests, by hand"},
		{"none", func(w *World) { w.Orders.Weight = ptr(Weight(0)) }, "Held 0 %: 0 % of the requests, by hand"},
		{"more than there are pods for", func(w *World) { w.Orders.Weight = ptr(Weight(4100)) },
			"Progressing 20 %: waits for 1 of 5 pods to be ready before it gets 41 % of the requests"},
		{"paused", func(w *World) { w.Orders.Paused = true }, "Held 20 %: paused at 20 %"},
		{"promote", func(w *World) { w.Orders.Promote, w.Orders.Why = true, "I know"; w.Canary = Pods{Ready: 10, All: 10} }, "Promoted 100 %: it has all requests: I know"},
		{"promote with few pods", func(w *World) { w.Orders.Promote = true }, "Promoting 40 %: 4 of 10 pods are ready"},
		{"undo", func(w *World) { w.Orders.Undo, w.Orders.Why = true, "it is ugly" }, "Undone 0 %: it is ugly"},
		{"undo and promote", func(w *World) { w.Orders.Undo, w.Orders.Promote = true, true }, "Undone 0 %: somebody has undone it"},
		{"all pods lost", func(w *World) { w.Canary.Ready = 0 }, "Held 0 %: none of its pods is ready: it gets no requests until one is"},
		{"one pod lost", func(w *World) { w.Canary.Ready = 1 }, "Held 20 %: 20 % of the requests, until somebody says bight release resume"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := upTo20(t).meets(tt.change); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestByHandAndOn(t *testing.T) {
	d := upTo20(t)
	d.meets(func(w *World) { w.Orders.Weight = ptr(Weight(3000)); w.Canary = Pods{Ready: 10, All: 10} })
	if got, want := d.meets(func(w *World) { w.Orders.Weight = nil }), "Progressing 50 %: 50 % of the requests: collecting evidence"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// What was measured in a peer: with one pod of stable not ready, an abort left the
// weight as it was; an edited step began again from zero.
// A test of two versions is decided by an order to promote or to undo, and by nothing else.
func TestByOrderAlone(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Weight: All / 2}}, ByOrder: true})
	ready := func(w *World) { w.Canary = Pods{Want: 5, Ready: 5, All: 5} }
	for _, change := range []func(*World){ready, after(time.Hour), func(w *World) { w.Orders.Go++ }, func(w *World) { w.Verdict = verdict.Good }} {
		if got := d.meets(change); d.state.Phase != Held && d.state.Phase != Progressing {
			t.Fatal(got)
		}
	}
	if got := d.meets(nil); !strings.HasPrefix(got, "Held 50 %: ") {
		t.Error(got)
	}
	d.meets(func(w *World) { w.Orders.Promote = true })
	if d.state.Phase != Promoting {
		t.Errorf("it is %s", d.state.Phase)
	}
}

func TestUndoWaitsForNothing(t *testing.T) {
	for _, change := range []func(*World){
		func(w *World) { w.Stable.Ready = 9 },
		func(w *World) { w.Stable.Ready = 0 },
		func(w *World) { w.Stable.Want = 100 },
		func(w *World) { w.Canary.Ready = 0 },
		func(w *World) { w.Orders.Paused = true },
		func(w *World) { w.Orders.Weight = ptr(Weight(9000)) },
		func(w *World) { w.Orders.Promote = true },
		func(w *World) { w.Obeyed = 0 },
		func(w *World) { w.Now = time.Time{} },
	} {
		d := upTo20(t)
		change(&d.world)
		d.world.Verdict, d.world.Why = verdict.Bad, "E = 1430, abort at 1000"
		d.next()
		if d.state.Route.Weight != 0 || !d.state.Convicted || !d.did(Convict) || d.last[0].Kind != Steer {
			t.Errorf("%+v\n%+v", d.state, d.last)
		}
	}
}

func TestUndoWithNothingBefore(t *testing.T) {
	d := upTo20(t)
	want := "Held 20 %: it is to be undone (it is ugly), but no pod of the version before exists: bring one back"
	if got := d.meets(func(w *World) { w.Stable = Pods{Want: 10}; w.Orders.Undo, w.Orders.Why = true, "it is ugly" }); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := d.meets(func(w *World) { w.Stable = Pods{Want: 1, All: 1} }); !strings.HasPrefix(got, "Undone 0 %") {
		t.Error(got)
	}
}

// Stable's ReplicaSet is deleted, and what it was is known: its pods are made anew before
// anything is taken from the canary.
func TestUndoMakesTheVersionBeforeAnew(t *testing.T) {
	d := upTo20(t)
	waits := "Held 20 %: it is to be undone (it is ugly) as soon as the pods of the version before are ready, which are made anew: "
	got := d.meets(func(w *World) {
		w.Stable, w.Gone, w.Orders.Undo, w.Orders.Why = Pods{Want: 10}, true, true, "it is ugly"
	})
	if got != waits+"0 of 10" || !d.did(Remake) {
		t.Errorf("%s, %+v", got, d.last)
	}
	if got := d.meets(func(w *World) { w.Stable, w.Gone = Pods{Want: 10, All: 10, Ready: 9}, false }); got != waits+"9 of 10" || d.did(Remake) {
		t.Errorf("%s, %+v", got, d.last)
	}
	short := *d
	if got := short.meets(after(enough)); !strings.HasPrefix(got, "Undone 0 %") {
		t.Errorf("with one that is not ready: %s", got)
	}
	if got := d.meets(func(w *World) { w.Stable.Ready = 10 }); !strings.HasPrefix(got, "Undone 0 %") || !d.state.Remade.IsZero() {
		t.Error(got)
	}
}

func TestWhatIsUndoneKeepsItsPodsUntilOthersAreReady(t *testing.T) {
	d := upTo20(t)
	d.meets(func(w *World) { w.Orders.Undo = true })
	gone := func(w *World) {
		w.Stable, w.Gone, w.Now = Pods{Want: 10}, true, w.Now.Add(time.Minute)
	}
	if d.meets(gone); d.state.Cleaned || d.state.Phase != Undone || !d.did(Remake) || d.did(Revert) {
		t.Errorf("%+v, %+v", d.state, d.last)
	}
	never := *d
	if never.meets(after(11 * time.Minute)); !never.state.Cleaned {
		t.Error("it waits forever")
	}
	if d.meets(func(w *World) { w.Stable, w.Gone = Pods{Want: 10, All: 10, Ready: 10}, false }); !d.state.Cleaned {
		t.Errorf("%+v", d.state)
	}
}

func TestAPlanMayChange(t *testing.T) {
	d := upTo20(t)
	generation := d.state.Route.Generation
	for _, weight := range []Weight{2500, 1500} {
		d.plan.Steps = []Step{{Weight: 500}, {Weight: weight, Hold: true}, {Weight: All}}
		d.world.Obeyed = d.state.Route.Generation
		d.next()
		generation++
		if d.state.Route != (Route{Generation: generation, Weight: weight}) {
			t.Errorf("route %+v, want %s in one go", d.state.Route, weight)
		}
	}
	d.plan.Steps = d.plan.Steps[:1]
	if got, want := d.meets(nil), "Promoting 40 %: 4 of 10 pods are ready"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestNoEvidenceIsNeverGood(t *testing.T) {
	for doubt, want := range map[Doubt]string{
		HoldInDoubt: "Held 50 %: 50 % of the requests, and no verdict in time: no traffic; bight release resume has it go on all the same",
		UndoInDoubt: "Undone 0 %: there was no verdict in time: no traffic",
	} {
		d := newDrive(Plan{Steps: []Step{{Weight: 5000, Proven: true}}, Doubt: doubt})
		d.meets(func(w *World) { w.Canary = Pods{Ready: 10, All: 10} })
		if got := d.meets(func(w *World) { w.Verdict, w.Why = verdict.Inconclusive, "no traffic" }); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// A version that no request has reached does not go on because time goes by.
func TestAVersionThatNobodyReaches(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Weight: 2000, For: 10 * time.Second}, {Weight: 5000, For: 10 * time.Second}}})
	d.meets(func(w *World) { w.Canary = Pods{Ready: 10, All: 10} })
	held := "Held 20 %: 20 % of the requests, " + unreached + "; bight release resume has it go on all the same"
	for _, step := range []struct {
		name   string
		change func(*World)
		want   string
	}{
		{"a few packets were lost", func(w *World) { w.Unreached = many - 1 }, "Progressing 20 %: 20 % of the requests for 10s"},
		{"nobody reaches it", func(w *World) { w.Unreached = many }, held},
		{"time goes by", after(time.Minute), held},
		{"by hand", func(w *World) { w.Orders.Weight = ptr[Weight](1000) }, "Held 10 %: 10 % of the requests, by hand, " + unreached},
		{"none by hand", func(w *World) { w.Orders.Weight = ptr[Weight](0) }, "Held 0 %: 0 % of the requests, by hand"},
		{"by the plan", func(w *World) { w.Orders.Weight = nil }, held},
		{"somebody says so", func(w *World) { w.Orders.Go++ }, "Progressing 20 %: 20 % of the requests for 10s"},
		{"once, for one step", after(10 * time.Second), strings.ReplaceAll(held, "20 %", "50 %")},
		{"one is reached", func(w *World) { w.Unreached = 0 }, "Progressing 50 %: 50 % of the requests for 10s"},
		{"to the end", after(10 * time.Second), "Promoted 100 %: it has all requests"},
	} {
		if got := d.meets(step.change); got != step.want {
			t.Errorf("%s: %s\nwant %s", step.name, got, step.want)
		}
	}
}

func TestPodsThatAreNeverReady(t *testing.T) {
	d := newDrive(steps)
	d.meets(nil)
	if got, want := d.meets(after(10*time.Minute)), "Undone 0 %: none of its pods was ready after 10m0s"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	d.world.Now = d.world.Now.Add(30 * time.Second)
	if d.next(); !d.did(Revert) {
		t.Errorf("what was before is not put back: %+v", d.last)
	}
}

// Whatever happens in whatever order, what the package promises is kept.
func TestItSaysWhyPodsAreNotReady(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Weight: 1000}, {Weight: 5000}}, Ready: time.Minute})
	said := d.meets(func(w *World) { w.Hindrance = "exceeded quota: pods" })
	if !strings.Contains(said, "waits for the first pod to be ready (exceeded quota: pods)") {
		t.Errorf("it says %q", said)
	}
	if said := d.meets(after(time.Minute)); !strings.Contains(said, "none of its pods was ready after 1m0s (exceeded quota: pods)") {
		t.Errorf("in the end it says %q", said)
	}
}

// A door that says nothing any more keeps nothing from ending.
func TestUndoingEndsThoughADoorIsSilent(t *testing.T) {
	d := upTo20(t)
	d.world.Orders.Undo = true
	d.next()
	d.next()
	if d.state.Phase != Undoing {
		t.Fatalf("it is %s", d.state.Phase)
	}
	d.world.Now = d.world.Now.Add(time.Hour)
	d.next()
	if d.state.Phase != Undone {
		t.Errorf("after an hour it is %s", d.state.Phase)
	}
}

func FuzzNext(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := randomPlan(r)
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		var s State
		w := World{Now: began, Verdict: verdict.Collecting, Stable: Pods{Want: 4, Ready: 4, All: 4}}
		for range 60 {
			was := s
			s, _ = Next(p, s, w)
			keeps(t, p, was, s, w)
			if again, _ := Next(p, s, w); again.Route.Weight == 0 && s.Route.Weight > 0 && w.Canary.Ready > 0 {
				t.Fatalf("asked twice, it undoes:\n%+v\n%+v", s, again)
			}
			happen(r, &w, s)
		}
	})
}

func randomPlan(r *rand.Rand) Plan {
	p := Plan{Keep: time.Duration(r.IntN(60)) * time.Second, Doubt: []Doubt{HoldInDoubt, UndoInDoubt}[r.IntN(2)],
		AtOnce: r.IntN(4) == 0, Undo: r.IntN(8) == 0}
	for range 1 + r.IntN(4) {
		p.Steps = append(p.Steps, Step{Weight: Weight(r.IntN(int(All))), Mirror: Weight(r.IntN(int(All))), For: time.Duration(r.IntN(20)) * time.Second,
			Hold: r.IntN(3) == 0, Proven: r.IntN(3) == 0, Pods: int32(r.IntN(3)), Part: Weight(r.IntN(2) * r.IntN(int(All)))})
	}
	return p
}

// happen changes one thing of the world.
func happen(r *rand.Rand, w *World, s State) {
	switch r.IntN(14) {
	case 13:
		w.Stable.Want = 1 + r.Int32N(8)
	case 0:
		w.Canary.Ready = min(s.Pods, int32(r.IntN(6)))
	case 1:
		w.Canary.Ready = s.Pods
	case 2:
		w.Stable.Ready = int32(r.IntN(5))
	case 3:
		w.Orders.Paused = !w.Orders.Paused
	case 4:
		w.Orders.Weight = ptr(Weight(r.IntN(int(All) + 1)))
	case 5:
		w.Orders.Weight = nil
	case 6:
		w.Orders.Go++
	case 7:
		w.Orders.Promote = r.IntN(8) == 0
	case 8:
		w.Verdict = []verdict.Kind{verdict.Collecting, verdict.Good, verdict.Inconclusive, verdict.Bad}[r.IntN(4)]
	case 9:
		w.Orders.Undo = r.IntN(8) == 0
	case 10:
		w.Baseline = Baseline{Want: 100, Have: int64(r.IntN(120)), Over: time.Duration(r.IntN(20)) * time.Second}
	default:
		w.Obeyed = s.Route.Generation
	}
	w.Now = w.Now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
}

func keeps(t *testing.T, p Plan, was, s State, w World) {
	t.Helper()
	switch {
	case (w.Verdict == verdict.Bad || w.Orders.Undo) && !was.Phase.Ended() && s.Route.Weight != 0:
		t.Fatalf("it is to be undone and has %s:\n%+v\n%+v", s.Route.Weight, s, w)
	case w.Canary.Ready == 0 && !s.Phase.Ended() && s.Route.Weight > 0:
		t.Fatalf("without a pod it has %s:\n%+v\n%+v", s.Route.Weight, s, w)
	case s.Phase == Promoted && was.Phase != Promoted && (s.Route.Weight != All || w.Obeyed < s.Route.Generation):
		t.Fatalf("promoted without all requests:\n%+v\n%+v", s, w)
	case p.AtOnce && (s.Phase == Promoting || s.Phase == Promoted) && s.Route.Weight != was.Route.Weight &&
		(s.Route.Weight != All || w.Canary.Ready < Need(w.Stable.Want, All, 0)):
		t.Fatalf("it has %s, and not all at once:\n%+v\n%+v", s.Route.Weight, s, w)
	case p.Undo && (s.Phase == Promoting || s.Phase == Promoted) && was.Phase != Promoting && was.Phase != Promoted && !w.Orders.Promote:
		t.Fatalf("it is to be undone in the end, and promoted:\n%+v\n%+v", s, w)
	case s.Phase == Undone && s.Route.Weight != 0:
		t.Fatalf("undone with %s:\n%+v", s.Route.Weight, s)
	case s.Route.Generation < was.Route.Generation || s.Route != was.Route && s.Route.Generation == was.Route.Generation && was.Phase != "":
		t.Fatalf("the route changes without a new generation:\n%+v\n%+v", was.Route, s.Route)
	case (s.Route.Weight > 0 || s.Route.Mirror > 0) && !s.Opened || was.Opened && !s.Opened:
		t.Fatalf("it has requests and is not open:\n%+v\n%+v", was, s)
	case s.Waited < was.Waited || s.Deadline(time.Hour, w.Now).Before(was.Deadline(time.Hour, w.Now)):
		t.Fatalf("time that people took is taken back:\n%+v\n%+v", was, s)
	case s.Convicted && !was.Convicted && w.Verdict != verdict.Bad:
		t.Fatalf("convicted without evidence:\n%+v\n%+v", s, w)
	case s.Message == "":
		t.Fatalf("nothing is said of %+v", s)
	}
}

func TestParseWeight(t *testing.T) {
	for text, want := range map[string]Weight{"0": 0, "5": 500, "0.25": 25, "12.5%": 1250, "100": All, " 1 %": 100} {
		if got, err := ParseWeight(text); err != nil || got != want {
			t.Errorf("ParseWeight(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "101", "1.234", "a", ".5", "5%%", "1e1"} {
		if got, err := ParseWeight(text); err == nil {
			t.Errorf("ParseWeight(%q) = %d, want an error", text, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		plan Plan
		want string
	}{
		{Plan{}, "no steps"},
		{Plan{Steps: []Step{{}, {Weight: All + 1}}}, "steps[1].weight"},
		{Plan{Steps: []Step{{Mirror: -1}}}, "steps[0].mirror"},
		{Plan{Steps: []Step{{Weight: All, Mirror: 1}}}, "already"},
		{Plan{Steps: []Step{{For: -1}}}, "lasts"},
		{Plan{Steps: []Step{{Pods: -1}}}, "pods"},
		{Plan{Steps: []Step{{}}, Keep: -1}, "times"},
	} {
		if err := tt.plan.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Check(%+v) = %v, want %q in it", tt.plan, err, tt.want)
		}
	}
}

// A reason that says that there is no verdict is not told that there is none.
func TestNoVerdictIsSaidOnce(t *testing.T) {
	for why, want := range map[string]string{
		"no traffic":                           "no verdict in time: no traffic",
		"no verdict in 30m: no requests":       "no verdict in 30m: no requests",
		"no verdict in 40m: good but for that": "no verdict in 40m, and shown to be good only after it",
	} {
		if got := unproven(why); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
