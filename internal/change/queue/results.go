package queue

import (
	"cmp"
	"slices"
)

// attempts is how often a lost run is started.
const attempts = 3

// results are the runs that concern the snapshot's tip, by the steps on it.
type results struct {
	tip     string
	landed  map[string]Landing
	runs    map[string]result
	longest int // the most steps of any of them
}

// result is what is known about a combination.
type result struct {
	run   Run // the one that counts
	steps []Step
}

func newResults(s Snapshot) results {
	r := results{tip: s.Tip, landed: map[string]Landing{}, runs: map[string]result{}}
	for _, l := range s.Landed {
		r.landed[l.Before] = l
	}
	for _, run := range s.Runs {
		steps, ok := r.onTip(run.Combination)
		if !ok {
			continue
		}
		r.longest = max(r.longest, len(steps))
		key := r.key(steps)
		if old, ok := r.runs[key]; !ok || newer(run, old.run) {
			r.runs[key] = result{run, steps}
		}
	}
	return r
}

// onTip returns what the combination adds to the tip: the changes that have
// landed since its base, in its order, are no longer part of it.
func (r results) onTip(c Combination) (steps []Step, ok bool) {
	base, steps := c.Base, c.Steps
	for range len(r.landed) + 1 {
		if base == r.tip {
			return steps, true
		}
		l, ok := r.landed[base]
		if !ok || len(l.Steps) > len(steps) || !slices.Equal(l.Steps, steps[:len(l.Steps)]) {
			return nil, false
		}
		base, steps = l.After, steps[len(l.Steps):]
	}
	return nil, false // the landings go in a circle
}

// newer reports whether a counts and b does not: it is a later attempt, or the
// less hopeful of two that claim to be the same one.
func newer(a, b Run) bool {
	weight := map[State]int{Lost: 0, Running: 1, Passed: 2, Failed: 3}
	return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(weight[a.State], weight[b.State]),
		cmp.Compare(b.Key(), a.Key()), slices.Compare(b.FailedIn, a.FailedIn)) > 0
}

func (r results) key(steps []Step) string {
	return Combination{r.tip, steps}.Key()
}

func (r results) of(steps []Step) result {
	return r.runs[r.key(steps)]
}

func (r results) state(steps []Step) State {
	return r.of(steps).run.State
}

// exhausted reports whether a combination was lost too often.
func (r results) exhausted(steps []Step) bool {
	got := r.of(steps)
	return got.run.State == Lost && got.run.Attempt >= attempts
}

// tipState is what is known about the tip itself: it passed when a run of it did,
// or one of what has become of it by merging.
func (r results) tipState() State { return r.state(nil) }
