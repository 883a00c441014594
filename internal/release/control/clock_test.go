package control

import (
	"encoding/json"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/verdict"
)

// Whoever acts next may have a clock that is minutes off: what has lasted so long lasts on
// from there, in the plan and in the verdict.
func TestClocksOfTwoLeadersMayDiffer(t *testing.T) {
	for _, off := range []time.Duration{0, 10 * time.Minute, -10 * time.Minute, 72 * time.Hour} {
		co := underWay(t)
		theirs := time.Now().Add(off)
		ago := func(d time.Duration) time.Time { return theirs.Add(-d).Truncate(time.Microsecond) }
		co.State.Started, co.State.StepSince, co.State.WaitSince, co.Turned = ago(5*time.Minute), ago(20*time.Second), ago(4*time.Second), ago(2*time.Second)
		if err := co.sit(); err != nil {
			t.Fatal(err)
		}
		co.bench.began = theirs.Round(0)
		co.bench.observe(verdict.Observation{At: ago(time.Second), Counts: &verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Failed: 1}}}}})
		kept, err := co.bench.keep()
		if err != nil {
			t.Fatal(err)
		}
		co.At = theirs
		raw, err := json.Marshal(co.memory)
		if err != nil {
			t.Fatal(err)
		}
		r := co.r.DeepCopy()
		r.Status.State, r.Status.Evidence = &runtime.RawExtension{Raw: raw}, &runtime.RawExtension{Raw: kept}
		shown := metav1.NewMicroTime(ago(5 * time.Minute))
		r.Status.Started = &shown
		next, err := newCourse(r)
		if err != nil {
			t.Fatal(err)
		}
		next.scene = co.scene
		if err := next.sit(); err != nil {
			t.Fatal(err)
		}
		for name, tt := range map[string]struct {
			at   time.Time
			want time.Duration
		}{
			"the beginning": {next.State.Started, 5 * time.Minute}, "the step": {next.State.StepSince, 20 * time.Second},
			"the wait": {next.State.WaitSince, 4 * time.Second}, "the turn": {next.Turned, 2 * time.Second},
		} {
			if got := time.Since(tt.at); got < tt.want-time.Millisecond || got > tt.want+5*time.Second {
				t.Errorf("%s off: %s is %s ago, want %s", off, name, got, tt.want)
			}
		}
		next.judge()
		if got := next.bench.state.Now; got < 5*time.Minute-time.Second || got > 5*time.Minute+5*time.Second {
			t.Errorf("%s off: it has been judged for %s, want 5 minutes", off, got)
		}
		if v := next.bench.judge.Verdict(next.bench.state); v.Is != verdict.Collecting {
			t.Errorf("%s off: it is %s", off, v.Is)
		}
		s, err := next.status()
		if err != nil || !s.Started.Equal(&shown) {
			t.Errorf("%s off: begun at %v, was %v: %v", off, s.Started, shown, err)
		}
	}
}

// What doors obey is never older than what they have obeyed, whatever the clock says.
func TestARoutingMadeAnewIsNewerThanWhatDoorsObey(t *testing.T) {
	co := underWay(t)
	ahead := time.Now().Add(time.Hour).UnixMilli()
	co.r.Status.Doors, co.routing = []v1alpha1.NodeDoors{{Node: "a", Generation: ahead}}, nil
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	if co.routing.Generation <= ahead {
		t.Errorf("generation %d, and a door obeys %d", co.routing.Generation, ahead)
	}
}
