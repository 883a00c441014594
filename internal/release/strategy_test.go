package release

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/verdict"
)

// blueGreen makes all pods first, waits for a word, and moves all requests at once.
var blueGreen = Plan{Steps: []Step{{Part: All, Hold: true}}, Keep: 10 * time.Minute, AtOnce: true}

func TestBlueGreenMovesAllRequestsAtOnce(t *testing.T) {
	d := newDrive(blueGreen)
	var got []string
	for _, change := range []func(*World){
		nil,
		func(w *World) { w.Canary = Pods{Ready: 4, All: 10} },
		func(w *World) { w.Canary = Pods{Ready: 10, All: 10} },
		func(w *World) { w.Stable.Want = 12 }, // a scaler wants more
		func(w *World) { w.Orders.Go = 1 },
		func(w *World) { w.Canary = Pods{Ready: 12, All: 12} },
	} {
		got = append(got, d.meets(change))
	}
	want := []string{
		"Starting 0 %: waits for the first pod to be ready",
		"Progressing 0 %: 4 of 10 pods are ready",
		"Held 0 %: 0 % of the requests, until somebody says bight release resume",
		"Held 0 %: 0 % of the requests, until somebody says bight release resume",
		"Promoting 0 %: 10 of 12 pods are ready: all requests move when all are",
		"Promoted 100 %: it has all requests",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it goes otherwise (-want +got):\n%s", diff)
	}
	if d.state.Pods != 12 {
		t.Errorf("%d pods", d.state.Pods)
	}
}

func TestBlueGreenMakesAllPodsFromTheStart(t *testing.T) {
	d := newDrive(blueGreen)
	if d.meets(nil); d.state.Pods != 10 {
		t.Errorf("%d pods", d.state.Pods)
	}
}

// switched is a blue-green release that has all requests.
func switched(t *testing.T) *drive {
	t.Helper()
	d := newDrive(blueGreen)
	d.meets(func(w *World) { w.Canary, w.Orders.Go = Pods{Ready: 10, All: 10}, 1 })
	if d.state.Phase != Promoted {
		t.Fatalf("state %+v", d.state)
	}
	return d
}

func TestTheEvidenceUndoesWhatHasAllRequests(t *testing.T) {
	d := switched(t)
	if got := d.meets(func(w *World) { w.Now, w.Verdict, w.Why = w.Now.Add(9*time.Minute), verdict.Bad, "it fails" }); got != "Undone 0 %: it fails" || !d.state.Convicted {
		t.Errorf("%s, convicted: %v", got, d.state.Convicted)
	}
	d = switched(t)
	d.meets(after(10 * time.Minute))
	if got := d.meets(func(w *World) { w.Verdict = verdict.Bad }); got != "Promoted 100 %: it has all requests" {
		t.Errorf("when nothing is left to go back to, %s", got)
	}
}

func TestPodsFollowAScalerAsLongAsBothAreKept(t *testing.T) {
	d := switched(t)
	if d.meets(func(w *World) { w.Stable.Want = 14 }); d.state.Pods != 14 || !d.did(Scale) {
		t.Errorf("%d pods: %+v", d.state.Pods, d.last)
	}
}

func TestAPlanThatEndsWithUndoing(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Mirror: 1000, For: time.Minute}}, Undo: true})
	if got := d.meets(func(w *World) { w.Canary = Pods{Ready: 1, All: 1} }); got != "Progressing 0 %: 0 % of the requests for 1m0s" || d.state.Route.Mirror != 1000 {
		t.Errorf("%s, %+v", got, d.state.Route)
	}
	if got := d.meets(after(time.Minute)); got != "Undone 0 %: the plan is over, and ends with that" || d.state.Convicted || !d.state.Route.Shut {
		t.Errorf("%s, %+v", got, d.state)
	}
}

func TestAStepBeginsWhenItsPodsAreReady(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Weight: 100, For: time.Minute}, {Weight: 100, Part: 5000, For: time.Minute}}})
	d.meets(func(w *World) { w.Canary = Pods{Ready: 1, All: 1} })
	if got := d.meets(after(time.Minute)); got != "Progressing 1 %: 1 of 5 pods are ready" {
		t.Error(got)
	}
	if got := d.meets(func(w *World) { w.Canary = Pods{Ready: 5, All: 5} }); got != "Progressing 1 %: 1 % of the requests for 1m0s" {
		t.Error(got)
	}
	if d.meets(after(59 * time.Second)); d.state.Phase == Promoted {
		t.Error("it does not last from when the pods were ready")
	}
}

// What only an order promotes says so, and not that it goes on.
func TestATestOfTwoVersionsWaitsForPromote(t *testing.T) {
	d := newDrive(Plan{Steps: []Step{{Weight: 5000}}, ByOrder: true})
	if got, want := d.meets(func(w *World) { w.Canary = Pods{Ready: 10, All: 10} }), "Held 50 %: 50 % of the requests, until somebody says bight release promote"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
