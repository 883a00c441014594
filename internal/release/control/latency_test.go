package control

import (
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

const ms = time.Millisecond

// about is what a node tells of n requests that took from 1 to 100 ms.
func about(n int) *spec.Latencies {
	l := &spec.Latencies{Over: 10 * time.Second}
	for i := range n {
		l.Counts.Add(time.Duration(1+i%100) * ms)
	}
	return l
}

// opens lets the canary have its first requests.
func (co *course) opens() {
	was := co.State
	co.State.Opened, co.State.Route.Weight = true, 500
	co.freeze(was)
	co.note(was, verdict.Verdict{Is: verdict.Collecting})
	co.direct()
}

// beforehand is a release whose canary has had no request, and what nodes have told of
// stable's.
func beforehand(t *testing.T, judge v1alpha1.ReleaseJudge, nodes ...int) *course {
	t.Helper()
	co := underWay(t)
	co.State.Opened, co.State.Route.Weight = false, 0
	co.r.Spec.Plan.Judge = judge
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes {
		node := string(rune('a' + i))
		co.bench.take(spec.Batch{Node: node, Boot: "x", Seq: 1, Stable: about(1)}, time.Now())
		co.bench.take(spec.Batch{Node: node, Boot: "x", Seq: 2, Stable: about(n)}, time.Now()) // in place of the one before
	}
	return co
}

func TestStableIsFrozenWhenTheCanaryGetsItsFirstRequest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		judge  v1alpha1.ReleaseJudge
		nodes  []int
		frozen bool
		says   string
	}{
		{"two nodes have seen enough together", v1alpha1.ReleaseJudge{}, []int{60, 60}, true, "stable has answered half in "},
		{"they have not", v1alpha1.ReleaseJudge{}, []int{60, 30}, false, "latency is not judged: 90 of stable's requests were measured"},
		{"nobody has", v1alpha1.ReleaseJudge{}, nil, false, "latency is not judged: 0 of stable's"},
		{"nobody minds", v1alpha1.ReleaseJudge{Latency: "off"}, []int{500}, false, "latency is not judged, as the plan says"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			co := beforehand(t, tt.judge, tt.nodes...)
			if co.bench.dirty {
				t.Error("what was measured is kept with the evidence")
			}
			b := co.baseline(time.Now())
			sum := int64(0)
			for _, n := range tt.nodes {
				sum += int64(n)
			}
			if want := (map[bool]int64{true: spec.Enough})[spec.MindsLatency(tt.judge)]; b.Want != want || want > 0 && (b.Have != sum || sum > 0 && b.Over < 10*time.Second) {
				t.Errorf("before: %+v", b)
			}
			before := co.routing.Generation
			co.opens()
			if got := len(co.routing.Quantiles) == 4; got != tt.frozen || co.routing.Generation <= before {
				t.Errorf("the routing is %+v", co.routing)
			}
			if last := co.events[len(co.events)-1].Text; !strings.HasPrefix(co.verdict.Latency, tt.says) || !strings.Contains(textOf(co.events), tt.says) {
				t.Errorf("it says %q and %q", co.verdict.Latency, last)
			}
			if got := co.bench.config.Slow(false) != nil; got != tt.frozen {
				t.Errorf("judged by %+v", co.bench.config)
			}
			if b := co.baseline(time.Now()); b.Want != 0 {
				t.Errorf("afterwards: %+v", b)
			}
			// What is measured later is what the canary may have done to stable.
			was := digest(co.routing.Quantiles)
			co.bench.take(spec.Batch{Node: "z", Boot: "x", Seq: 1, Stable: about(1000)}, time.Now())
			co.freeze(co.State)
			if co.direct(); digest(co.routing.Quantiles) != was {
				t.Errorf("frozen anew: %v", co.routing.Quantiles)
			}
		})
	}
}

func textOf(events []v1alpha1.ReleaseEvent) string {
	var all []string
	for _, e := range events {
		all = append(all, e.Text)
	}
	return strings.Join(all, "\n")
}

// Another process judges by the same latencies.
func TestWhatIsFrozenStays(t *testing.T) {
	co := beforehand(t, v1alpha1.ReleaseJudge{}, 200)
	co.opens()
	slow := verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Closed: [5]int64{0, 0, 0, 0, 3}, Slow: [4]int64{3, 3, 3, 3}}}}}
	co.bench.take(spec.Batch{Node: "a", Boot: "x", Seq: 3, Counts: slow}, time.Now())
	co.State.Route.Weight = 600 // so that it is written
	co.saved = time.Time{}
	co.saves(t)
	r := co.r.DeepCopy()
	r.Status = *co.written.DeepCopy()
	next, err := newCourse(r)
	if err != nil {
		t.Fatal(err)
	}
	next.scene = co.scene
	if err := next.sit(); err != nil {
		t.Fatal(err)
	}
	if digest(next.bench.config) != digest(co.bench.config) || next.latency() != co.latency() {
		t.Errorf("judged by %+v, and was by %+v", next.bench.config, co.bench.config)
	}
	was, is := co.bench.judge.Verdict(co.bench.state), next.bench.judge.Verdict(next.bench.state)
	if was.E <= 1 || is.E != was.E || status(is).Slow != 3 {
		t.Errorf("E was %v and is %v, %d slow", was.E, is.E, status(is).Slow)
	}
}

// Until stable is measured, no route leads to the canary either.
func TestRoutesWaitForTheFirstRequest(t *testing.T) {
	co := beforehand(t, v1alpha1.ReleaseJudge{})
	co.r.Spec.Plan.Routes = []v1alpha1.ReleaseRoute{{Path: "/a", To: v1alpha1.Canary}, {Path: "/b", To: v1alpha1.Stable}}
	if co.direct(); len(co.routing.Routes) != 1 || co.routing.Routes[0].To != v1alpha1.Stable {
		t.Errorf("routes %+v", co.routing.Routes)
	}
	if co.opens(); len(co.routing.Routes) != 2 {
		t.Errorf("routes %+v", co.routing.Routes)
	}
}

// A plan's judge may be changed on the way, and loses nothing of what is known.
func TestThePlanMayBeJudgedOtherwise(t *testing.T) {
	co := beforehand(t, v1alpha1.ReleaseJudge{}, 200)
	co.opens()
	bad := verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Failed: 1}}}}
	co.bench.take(spec.Batch{Node: "a", Boot: "x", Seq: 3, Counts: bad}, time.Now())
	before := co.bench.judge.Verdict(co.bench.state)
	co.r.Spec.Plan.Judge.Latency = v1alpha1.LatencyOff
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	after := co.bench.judge.Verdict(co.bench.state)
	if len(before.Metrics) != 3 || len(after.Metrics) != 1 || after.Metrics[0].Bad != 1 || after.E <= 1 {
		t.Errorf("it was %+v and is %+v", before, after)
	}
}

// A pause takes none of the time for a verdict.
func TestTheDeadlineOfAReleaseThatIsPaused(t *testing.T) {
	co := beforehand(t, v1alpha1.ReleaseJudge{})
	co.State.Started = time.Now().Add(-2 * time.Hour)
	co.State.WaitSince = co.State.Started.Add(time.Minute)
	if v := co.judge(); v.Is != verdict.Collecting {
		t.Errorf("it is %s: %s", v.Is, v.Why)
	}
	co.bench.dirty = false
	if due := co.due(); due.Before(time.Now().Add(28 * time.Minute)) {
		t.Errorf("it is due in %s", time.Until(due))
	}
	co.State.Waited, co.State.WaitSince = time.Minute, time.Time{}
	if v := co.judge(); v.Is != verdict.Collecting { // what was given is given
		t.Errorf("it is %s: %s", v.Is, v.Why)
	}
	fresh := beforehand(t, v1alpha1.ReleaseJudge{})
	fresh.State.Started, fresh.State.Waited, fresh.bench = time.Now().Add(-2*time.Hour), time.Minute, nil
	if err := fresh.sit(); err != nil {
		t.Fatal(err)
	}
	if v := fresh.judge(); v.Is != verdict.Inconclusive {
		t.Errorf("after two hours, with one minute's pause, it is %s: %s", v.Is, v.Why)
	}
}
