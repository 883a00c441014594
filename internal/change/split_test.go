package change

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/api/v1alpha1"
)

// ordersOf are the orders for the test step of a run, in a few words.
func ordersOf(r v1alpha1.Run) []string {
	c := &v1alpha1.Change{}
	c.Name, c.Status.Runs = "shop-1", []v1alpha1.Run{r}
	d := &decision{}
	d.orders(c, 0, v1alpha1.TestStep)
	var out []string
	for _, a := range d.actions {
		out = append(out, fmt.Sprintf("%s %s part %d split %v", a.Kind, a.Step, a.Part, a.Split))
	}
	return out
}

func TestAStepIsOrderedAsAWholeOrInThePartsThatAreNotDone(t *testing.T) {
	parts := func(states ...string) []v1alpha1.Step {
		s := v1alpha1.Step{Name: v1alpha1.TestStep, State: v1alpha1.StepRunning}
		for _, state := range states {
			s.Parts = append(s.Parts, v1alpha1.Part{State: state})
		}
		return []v1alpha1.Step{s}
	}
	for _, c := range []struct {
		name string
		run  v1alpha1.Run
		want []string
	}{
		{"new", v1alpha1.Run{Attempt: 1}, []string{"order test part 0 split true"}},
		{"tried before", v1alpha1.Run{Attempt: 2}, []string{"order test part 0 split false"}},
		{
			"split", v1alpha1.Run{Attempt: 1, Steps: parts(v1alpha1.StepWaiting, v1alpha1.StepRunning, v1alpha1.StepPassed)},
			[]string{"order test part 1 split false", "order test part 2 split false"},
		},
		{
			"one part left", v1alpha1.Run{Attempt: 1, Steps: parts(v1alpha1.StepPassed, v1alpha1.StepFailed, v1alpha1.StepRunning, v1alpha1.StepErred)},
			[]string{"order test part 3 split false"},
		},
	} {
		if diff := cmp.Diff(c.want, ordersOf(c.run)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestTestsAreSharedOutByHowLongTheyTake(t *testing.T) {
	for _, c := range []struct {
		name    string
		seconds map[string]float64
		workers int
		want    [][]string
	}{
		{"one worker", map[string]float64{"a": 100, "b": 100}, 1, [][]string{{"a", "b"}}},
		{"not worth it", map[string]float64{"a": 6, "b": 6, "c": 6}, 3, [][]string{{"a", "b", "c"}}},
		{"two", map[string]float64{"a": 30, "b": 10, "c": 10, "d": 10}, 2, [][]string{{"a"}, {"b", "c", "d"}}},
		{"more workers than it is worth", map[string]float64{"a": 10, "b": 10, "c": 10, "d": 5}, 8, [][]string{{"a", "d"}, {"b"}, {"c"}}},
		{"one that takes most", map[string]float64{"a": 90, "b": 5, "c": 5, "d": 5, "e": 5}, 4, [][]string{{"a"}, {"b", "c", "d", "e"}}},
		{"one unit", map[string]float64{"a": 1000}, 4, [][]string{{"a"}}},
	} {
		var got [][]string
		for _, p := range Parts(c.seconds, c.workers) {
			if p.State != v1alpha1.StepWaiting {
				t.Errorf("%s: a part is %s", c.name, p.State)
			}
			got = append(got, p.Units)
		}
		slices.SortFunc(got, slices.Compare)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
