package change

import (
	"slices"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/suite"
)

// orders has a step of a run done: as one, or the parts of it that are not done yet.
// What was tried before and showed nothing is not split: one worker is enough then to
// see why.
func (d *decision) orders(c *v1alpha1.Change, run int, step string) {
	r := c.Status.Runs[run]
	s := StepOf(r.Steps, step)
	if s == nil || len(s.Parts) == 0 {
		d.add(Action{Kind: Order, Change: c.Name, Run: run, Step: step, Split: step == v1alpha1.TestStep && r.Attempt <= 1})
		return
	}
	for i, p := range s.Parts {
		if !PartEnded(p) {
			d.add(Action{Kind: Order, Change: c.Name, Run: run, Step: step, Part: i + 1})
		}
	}
}

// PartEnded reports whether a part of a step is done, well or not.
func PartEnded(p v1alpha1.Part) bool {
	return p.State != v1alpha1.StepWaiting && p.State != v1alpha1.StepRunning
}

// PartsEnded reports whether all parts of a step are.
func PartsEnded(s v1alpha1.Step) bool {
	return !slices.ContainsFunc(s.Parts, func(p v1alpha1.Part) bool { return !PartEnded(p) })
}

// Parts shares the tests that are to be run, with the seconds that each takes, out over
// several workers. There is one part where more are not worth it, and each test is in
// one of them.
func Parts(seconds map[string]float64, workers int) []v1alpha1.Part {
	var units []suite.Unit
	for name := range seconds {
		units = append(units, suite.Unit{Name: name})
	}
	var parts []v1alpha1.Part
	for _, share := range suite.Split(units, seconds, suite.Worth(seconds, workers)) {
		p := v1alpha1.Part{State: v1alpha1.StepWaiting}
		for _, u := range share {
			p.Units = append(p.Units, u.Name)
		}
		slices.Sort(p.Units)
		parts = append(parts, p)
	}
	return parts
}
