package controller

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
)

// shown is a part that has ended with the units named, each with one test; those with
// a ! before their name have failed.
func shown(t *testing.T, k keeper, worker string, units []string, has ...string) v1alpha1.Part {
	t.Helper()
	r := &suite.Result{}
	for _, name := range has {
		status := suite.Passed
		if n, ok := strings.CutPrefix(name, "!"); ok {
			name, status = n, suite.Failed
		}
		r.Units = append(r.Units, suite.UnitResult{Name: name, Kind: suite.GoPackage, Status: status, Tests: []suite.Test{{Name: "TestIt", Status: status}}})
	}
	b, err := json.Marshal(suite.Merge(r))
	if err != nil {
		t.Fatal(err)
	}
	path, err := k.files.put("team", "shop-1", strings.Join(append([]string{worker}, has...), "-")+".json", b)
	if err != nil {
		t.Fatal(err)
	}
	return v1alpha1.Part{Units: units, State: v1alpha1.StepPassed, Worker: worker, Result: path}
}

func TestPartsAreJoinedInOneStep(t *testing.T) {
	k := keeper{&Controller{files: &files{dir: t.TempDir()}}}
	o := work.Order{Namespace: "team", App: "shop", Change: "shop-1", Step: v1alpha1.TestStep, Commit: "0123456789abcdef"}
	for _, c := range []struct {
		name           string
		parts          []v1alpha1.Part
		state, message string
		worker         string
		tests          []string
	}{
		{
			"all passed",
			[]v1alpha1.Part{shown(t, k, "ada", []string{"a", "b"}, "a", "b"), shown(t, k, "bob", []string{"c"}, "c"), shown(t, k, "ada", nil, "d")},
			v1alpha1.StepPassed, "4 tests passed, by 2 workers", "ada, bob", []string{"a", "b", "c", "d"},
		},
		{
			"one failed",
			[]v1alpha1.Part{shown(t, k, "ada", []string{"a"}, "a"), shown(t, k, "bob", []string{"c"}, "!c"), shown(t, k, "ada", nil)},
			v1alpha1.StepFailed, "c TestIt", "ada, bob", []string{"a", "c"},
		},
		{
			"one has shown what another was to show",
			[]v1alpha1.Part{shown(t, k, "ada", []string{"a"}, "a"), shown(t, k, "bob", []string{"c"}, "a", "c"), shown(t, k, "ada", nil)},
			v1alpha1.StepErred, "part 2 of 2, on bob: it has results of 2 packages, and was to have those of 1 others", "", nil,
		},
		{
			"one could not be done",
			[]v1alpha1.Part{shown(t, k, "ada", []string{"a"}, "a"), {Units: []string{"c"}, State: v1alpha1.StepErred, Worker: "bob", Message: "no disk"}, shown(t, k, "ada", nil)},
			v1alpha1.StepErred, "part 2 of 2, on bob: no disk", "", nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &v1alpha1.Step{Name: v1alpha1.TestStep, State: v1alpha1.StepRunning, Parts: c.parts, Log: "team/shop-1/" + strings.ReplaceAll(c.name, " ", "-") + ".log"}
			whole, err := k.join(o, s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{c.state, c.message, c.worker}, []string{s.State, s.Message, s.Worker}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var tests []string
			if whole != nil {
				for _, u := range whole.Units {
					tests = append(tests, u.Name)
				}
				junit, err := k.files.get(s.Evidence["junit.xml"])
				if err != nil || strings.Count(string(junit), "<testcase") != len(c.tests) {
					t.Errorf("%v in JUnit\n%s", err, junit)
				}
				if log, err := k.files.get(s.Log); err != nil || !strings.Contains(string(log), "part 2 of 2, by bob") {
					t.Errorf("%v, the log is\n%s", err, log)
				}
			}
			if diff := cmp.Diff(c.tests, tests); diff != "" {
				t.Errorf("tests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAPartIsOfTheStepForAsLongAsItIsNotDone(t *testing.T) {
	c := &v1alpha1.Change{}
	c.Status.Runs = []v1alpha1.Run{{Commit: "c", State: v1alpha1.RunRunning, Steps: []v1alpha1.Step{{
		Name: v1alpha1.TestStep, State: v1alpha1.StepRunning,
		Parts: []v1alpha1.Part{{State: v1alpha1.StepRunning}, {State: v1alpha1.StepPassed}},
	}}}}
	for part, want := range map[int]bool{0: false, 1: true, 2: false, 3: false} {
		_, _, _, err := open(c, work.Order{Step: v1alpha1.TestStep, Commit: "c", Part: part})
		if got := err == nil; got != want {
			t.Errorf("part %d counts: %v, want %v (%v)", part, got, want, err)
		}
	}
}
