package suite

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Reading makes a unit's result of the events that its compiled tests print, wherever
// they run. It is a writer of these, for one run of the program.
type Reading struct {
	unit Unit
	ev   *events
}

// NewReading reads what the tests of u print, and writes what they say to log.
func NewReading(u Unit, log io.Writer) *Reading { return &Reading{u, newEvents(log)} }

// Write takes events, in pieces of any size.
func (r *Reading) Write(p []byte) (int, error) { return r.ev.Write(p) }

// Result returns what was read. A program that was ended from outside was so by stop,
// for a reason; code is what it exited with.
func (r *Reading) Result(stop Stop, reason string, code int) (UnitResult, error) {
	if err := r.ev.end(); err != nil {
		return UnitResult{}, err
	}
	res := r.ev.result(r.unit, "")
	late := overdue(res)
	switch {
	case late != "":
		res.Status, res.Stop, res.Reason = Stopped, StopTime, "it took longer than "+late
	case stop != "":
		res.Status, res.Stop, res.Reason = Stopped, stop, reason
	case res.Status == Stopped:
		res.Status, res.Reason = Failed, fmt.Sprintf("the tests ended without a result, with exit code %d", code)
		res.Output = r.ev.stray.lines
	case res.Status == Passed && code != 0:
		res.Status, res.Reason = Failed, fmt.Sprintf("the tests ended with exit code %d", code)
	}
	return res, nil
}

// overdue is the time that a test program ended itself after, "" if it did not.
func overdue(u UnitResult) string {
	if u.Status == Passed {
		return ""
	}
	lines := slices.Clone(u.Output)
	for _, t := range u.Tests {
		if t.Status != Passed {
			lines = append(lines, t.Output...)
		}
	}
	for _, l := range lines {
		if after, ok := strings.CutPrefix(l, "panic: test timed out after "); ok {
			return strings.TrimSpace(after)
		}
	}
	return ""
}

// Suspects are the tests of a failed unit that are run once more; none where they are
// too many for flakes, or where not a test failed but the whole.
func (u *UnitResult) Suspects() []string {
	if u.Status != Failed || u.Reason != "" {
		return nil
	}
	names := failing(u.Tests)
	if len(names) > reruns {
		return nil
	}
	return names
}

// Again marks those suspects as flaky that passed in a second run, and returns them.
// There is no history of what strangers have made, so none is certain enough for
// quarantine.
func (u *UnitResult) Again(second UnitResult) []Flake {
	var out []Flake
	for _, name := range u.Suspects() {
		if !slices.ContainsFunc(second.Tests, func(t Test) bool { return t.Name == name && t.Status == Passed }) {
			continue
		}
		f := Flake{Test: u.Name + " " + name, Chance: Flakiness([]Outcome{
			{Unit: u.Name, Test: name, Key: u.Key, Passed: false}, {Unit: u.Name, Test: name, Key: u.Key, Passed: true},
		})}
		for i := range u.Tests {
			t := &u.Tests[i]
			if top(t.Name) != name || t.Status == Passed || t.Status == Skipped {
				continue
			}
			if t.Flaky = true; t.Line > 0 {
				f.File, f.Line = t.File, t.Line
			}
		}
		out = append(out, f)
	}
	return out
}

// Pattern is the -test.run of tests by their names.
func Pattern(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }
