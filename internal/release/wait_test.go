package release

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/verdict"
)

// The canary's first request waits for as long as it takes to measure stable, if that is
// short: with little traffic or none it does not.
func TestTheFirstRequestWaitsUntilStableIsMeasured(t *testing.T) {
	d := newDrive(steps)
	d.meets(func(w *World) { w.Baseline = Baseline{Want: 100, Have: 9, Over: 500 * time.Millisecond} })
	var got []string
	for _, change := range []func(*World){
		func(w *World) { w.Canary = Pods{Ready: 1, All: 1} },
		func(w *World) { w.Baseline.Have, w.Baseline.Over = 60, 5*time.Second },
		func(w *World) { w.Baseline.Have, w.Baseline.Over = 99, 6*time.Second },
		func(w *World) { w.Baseline.Have, w.Baseline.Over = 100, 6*time.Second },
		func(w *World) { w.Baseline = Baseline{Want: 100, Have: 1, Over: time.Millisecond} }, // it has begun
	} {
		got = append(got, d.meets(change))
	}
	want := []string{
		"Progressing 0 %: measures the latency of the version before: 9 of 100 requests",
		"Progressing 0 %: measures the latency of the version before: 60 of 100 requests",
		"Progressing 0 %: measures the latency of the version before: 99 of 100 requests",
		"Progressing 5 %: 5 % of the requests for 10s",
		"Progressing 5 %: 5 % of the requests for 10s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it goes otherwise (-want +got):\n%s", diff)
	}

	order := Weight(100)
	for _, tt := range []struct {
		name   string
		change func(*World)
		waits  bool
	}{
		{"nobody needs it", func(w *World) {}, false},
		{"no traffic", func(w *World) { w.Baseline = Baseline{Want: 100, Over: time.Minute} }, false},
		{"no traffic yet", func(w *World) { w.Baseline = Baseline{Want: 100} }, false},
		{"9 a second", func(w *World) { w.Baseline = Baseline{Want: 100, Have: 45, Over: 5 * time.Second} }, false},
		{"11 a second", func(w *World) { w.Baseline = Baseline{Want: 100, Have: 55, Over: 5 * time.Second} }, true},
		{"enough long ago", func(w *World) { w.Baseline = Baseline{Want: 100, Have: 100, Over: 5 * time.Minute} }, false},
		{"somebody has ordered a weight", func(w *World) {
			w.Baseline = Baseline{Want: 100, Have: 55, Over: 5 * time.Second}
			w.Orders.Weight = &order
		}, false},
		{"somebody promotes", func(w *World) {
			w.Baseline = Baseline{Want: 100, Have: 55, Over: 5 * time.Second}
			w.Orders.Promote = true
		}, false},
		{"undone", func(w *World) {
			w.Baseline = Baseline{Want: 100, Have: 55, Over: 5 * time.Second}
			w.Orders.Undo = true
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDrive(steps)
			d.world.Canary = Pods{Ready: 10, All: 10}
			d.meets(tt.change)
			if got := strings.HasPrefix(d.state.Message, "measures "); got != tt.waits || !d.world.Orders.Undo && d.state.Opened == tt.waits {
				t.Errorf("%+v", d.state)
			}
			if tt.waits && !d.did(Later) {
				t.Errorf("it is not looked at again: %+v", d.last)
			}
		})
	}
}

// However few requests have come at once, the wait is over after ten seconds: what comes
// for that long at the rate that is waited for is enough.
func TestTheWaitForStableEnds(t *testing.T) {
	for have := int64(1); have < 100; have++ {
		if (Baseline{Want: 100, Have: have, Over: soon}).comes() {
			t.Errorf("%d in %s are waited for", have, soon)
		}
	}
	if !(Baseline{Want: 100, Have: 1, Over: 100 * time.Millisecond}).comes() {
		t.Error("nothing is waited for")
	}
}

// The time that people take to decide is none of that for a verdict.
func TestTheDeadlineWaitsForPeople(t *testing.T) {
	const limit = 10 * time.Minute
	order := Weight(2500)
	none := func(*World) {}
	for _, tt := range []struct {
		name       string
		plan       Plan
		begin, end func(*World) // of an hour
		counts     bool         // the hour
	}{
		{"paused", steps, func(w *World) { w.Orders.Paused = true }, func(w *World) { w.Orders.Paused = false }, false},
		{"a weight by hand", steps, func(w *World) { w.Orders.Weight = &order }, func(w *World) { w.Orders.Weight = nil }, false},
		{"a step that holds", Plan{Steps: []Step{{Weight: 500, Hold: true}, {Weight: 600, Proven: true}}}, none, func(w *World) { w.Orders.Go++ }, false},
		{"a step that waits for evidence", Plan{Steps: []Step{{Weight: 500, Proven: true}}}, none, none, true},
		{"a step that takes its time", Plan{Steps: []Step{{Weight: 500, For: 2 * time.Hour}}}, none, none, true},
		{"no pod is ready", steps, func(w *World) { w.Canary.Ready = 0 }, func(w *World) { w.Canary.Ready = 10 }, true},
		{"nobody decides in doubt", Plan{Steps: []Step{{Weight: 500, Proven: true}}}, func(w *World) { w.Verdict = verdict.Inconclusive }, none, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDrive(tt.plan)
			d.world.Canary = Pods{Ready: 10, All: 10}
			d.meets(nil)
			d.meets(after(time.Minute))
			d.meets(tt.begin)
			for range 3 {
				d.meets(after(20 * time.Minute))
			}
			during := d.state.Deadline(limit, d.world.Now).Sub(began)
			d.meets(tt.end)
			d.meets(after(time.Minute))
			after := d.state.Deadline(limit, d.world.Now).Sub(began)
			most := limit
			if !tt.counts {
				most += time.Hour
			}
			// A step that holds has done so for the first minute, too.
			if during < most || during > most+time.Minute || after < most || after > most+time.Minute {
				t.Errorf("the deadline is after %s, and then %s, want %s", during, after, most)
			}
		})
	}
}

// A deadline that has passed is not brought back by waiting.
func TestAPauseAfterTheDeadlineIsTooLate(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Weight: 500, Proven: true}}})
	d.world.Canary = Pods{Ready: 10, All: 10}
	d.meets(nil)
	d.meets(after(11 * time.Minute))
	d.meets(func(w *World) { w.Orders.Paused = true })
	d.meets(after(time.Hour))
	if at := d.state.Deadline(10*time.Minute, d.world.Now); at.After(d.world.Now) {
		t.Errorf("the deadline is %s from now", at.Sub(d.world.Now))
	}
}
