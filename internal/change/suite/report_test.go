package suite

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAResultSaysInASentenceWhatItShowsAndFromWhom(t *testing.T) {
	pass := func(name, cached string) UnitResult {
		return UnitResult{Name: name, Status: Passed, Cached: cached, Tests: []Test{{Name: "TestIt", Status: Passed}}}
	}
	for _, c := range []struct {
		name        string
		units       []UnitResult
		text, known string
	}{
		{"nothing", nil, "0 tests passed", ""},
		{"run", []UnitResult{pass("a", "")}, "1 test passed", ""},
		{"some known", []UnitResult{pass("a", ""), pass("b", "same inputs as x")}, "2 tests passed, 1 of them known", ""},
		{"one known", []UnitResult{pass("a", "same inputs as x")}, "1 test passed, known", "same inputs as x"},
		{
			"all known", []UnitResult{pass("a", "same inputs as change 1"), pass("b", "same inputs as change 2"), pass("c", "same inputs as change 1")},
			"3 tests passed, all known", "same inputs as change 1 and change 2",
		},
		{
			"of many", []UnitResult{pass("a", "same inputs as 1"), pass("b", "same inputs as 2"), pass("c", "same inputs as 3"), pass("d", "same inputs as 4"), pass("e", "same inputs as 5")},
			"5 tests passed, all known", "same inputs as 1 and 2 and 3 and 2 others",
		},
		{
			"failed", []UnitResult{pass("a", ""), {Name: "b", Status: Failed, Tests: []Test{{
				Name: "TestSum", Status: Failed, File: "b/b_test.go", Line: 7, Output: []string{"=== RUN", "    b_test.go:7: the sum is 3"},
			}}}, {Name: "c", Status: Failed, Reason: "it does not compile"}},
			"b/b_test.go:7: TestSum: the sum is 3\nc: it does not compile", "",
		},
	} {
		r := Merge(&Result{Units: c.units})
		if diff := cmp.Diff([]string{c.text, c.known}, []string{r.Text(), r.Known()}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestEstimatesTakeTheMeanForWhatIsNotKnown(t *testing.T) {
	units := []Unit{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	if got := Estimates(units, map[string]float64{"x": 9}); got != nil {
		t.Errorf("with nothing known: %v", got)
	}
	want := map[string]float64{"a": 10, "b": 20, "c": 15}
	if diff := cmp.Diff(want, Estimates(units, map[string]float64{"a": 10, "b": 20, "x": 99})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
