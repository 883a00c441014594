package suite

import (
	"cmp"
	"slices"
	"strings"
)

// finish counts, and judges the whole. No test at all is a pass: there is nothing
// that could have failed, and the counts say so.
func (r *Result) finish() {
	slices.SortStableFunc(r.Units, func(a, b UnitResult) int { return cmp.Compare(a.Name, b.Name) })
	r.Status, r.Counts = Passed, Counts{}
	for _, u := range r.Units {
		switch {
		case u.Status == Failed:
			r.Status = Failed
		case u.Status == Stopped && r.Status == Passed:
			r.Status = Stopped
		}
		r.Counts.add(u)
	}
	r.Counts.Flaky = len(r.Flakes)
}

func (c *Counts) add(u UnitResult) {
	parents := map[string]bool{}
	for _, t := range u.Tests {
		for i := range len(t.Name) {
			if t.Name[i] == '/' {
				parents[t.Name[:i]] = true
			}
		}
	}
	for _, t := range u.Tests {
		if parents[t.Name] {
			continue
		}
		switch t.Status {
		case Passed:
			c.Passed++
		case Skipped:
			c.Skipped++
		default:
			c.Failed++
		}
		if u.Cached != "" {
			c.Cached++
		}
	}
}

// Merge puts the results of several workers together: the seconds are those of the
// slowest one.
func Merge(results ...*Result) *Result {
	out := &Result{}
	var isolation []string
	for _, r := range results {
		if r == nil {
			continue
		}
		out.Units = append(out.Units, r.Units...)
		out.Flakes = append(out.Flakes, r.Flakes...)
		out.Notes = append(out.Notes, r.Notes...)
		out.Seconds = max(out.Seconds, r.Seconds)
		if r.Isolation != "" && !slices.Contains(isolation, r.Isolation) {
			isolation = append(isolation, r.Isolation)
		}
	}
	out.Isolation = strings.Join(isolation, ", ")
	out.finish()
	return out
}

// Durations are how many seconds each unit took, also those that were known.
func (r *Result) Durations() map[string]float64 {
	out := map[string]float64{}
	for _, u := range r.Units {
		out[u.Name] += u.Seconds
	}
	return out
}

// FailedIn names the units that did not pass, for the search for a broken change.
func (r *Result) FailedIn() []string {
	var out []string
	for _, u := range r.Units {
		if u.Status != Passed {
			out = append(out, u.Name)
		}
	}
	return out
}
