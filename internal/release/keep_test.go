package release

import (
	"testing"
	"time"
)

// Somebody's word ends the time for which the pods of before are kept; what was said of a step
// does not.
func TestAWordEndsWhatIsKept(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after time.Duration
		told  int64
		done  bool
	}{
		{"nobody has spoken", 9 * time.Minute, 1, false},
		{"nobody has spoken, and it is over", 10 * time.Minute, 1, true},
		{"somebody has", time.Second, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDrive(Plan{Steps: []Step{{Weight: 500, For: time.Hour}}, Keep: 10 * time.Minute})
			d.meets(func(w *World) { w.Canary, w.Orders.Go = Pods{Ready: 10, All: 10}, 1 }) // which waits for no word
			d.meets(func(w *World) { w.Orders.Promote = true })
			if d.state.Phase != Promoted || d.state.Cleaned {
				t.Fatalf("%+v", d.state)
			}
			d.meets(func(w *World) { w.Now, w.Orders.Go = w.Now.Add(tt.after), tt.told })
			if d.state.Phase != Promoted || d.state.Cleaned != tt.done {
				t.Errorf("%+v", d.state)
			}
		})
	}
	// It is no word for what is undone: its pods still answer.
	d := newDrive(Plan{Steps: []Step{{Weight: 500, Hold: true}}})
	d.meets(func(w *World) { w.Canary = Pods{Ready: 10, All: 10} })
	d.meets(func(w *World) { w.Orders.Undo = true })
	d.meets(func(w *World) { w.Orders.Go = 1 })
	if d.state.Phase != Undone || d.state.Cleaned {
		t.Errorf("%+v", d.state)
	}
}

// The time to go back to the version of before is none for what was undone: nobody goes back
// to that, and the next version waits until its pods are gone.
func TestWhatIsUndoneIsNotKeptToGoBackTo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		atOnce bool
		keep   time.Duration
		done   time.Duration
	}{
		{"blue-green", true, 10 * time.Minute, 30 * time.Second},
		{"blue-green, soon", true, 5 * time.Second, 5 * time.Second},
		{"a canary whose requests take long", false, 10 * time.Minute, 10 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDrive(Plan{Steps: []Step{{Weight: 500, For: time.Hour}}, Keep: tt.keep, AtOnce: tt.atOnce})
			d.meets(func(w *World) { w.Canary = Pods{Ready: 10, All: 10} })
			d.meets(func(w *World) { w.Orders.Promote = true })
			d.meets(func(w *World) { w.Orders.Undo = true })
			if d.state.Phase != Undone {
				t.Fatalf("%+v", d.state)
			}
			since := d.state.Ended
			d.meets(func(w *World) { w.Now = since.Add(tt.done - time.Second) })
			if d.state.Cleaned {
				t.Errorf("its pods are gone before %s", tt.done)
			}
			d.meets(func(w *World) { w.Now = since.Add(tt.done) })
			if !d.state.Cleaned {
				t.Errorf("its pods are kept for longer than %s", tt.done)
			}
		})
	}
}
