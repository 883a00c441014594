package suite

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Text says in a sentence what a result that passed shows, and in a few lines what
// failed and where in one that did not.
func (r *Result) Text() string {
	if r.Status != Passed {
		return r.failures()
	}
	n := r.Counts
	text := fmt.Sprintf("%d tests passed", n.Passed)
	if n.Passed == 1 {
		text = "1 test passed"
	}
	switch {
	case n.Cached == 0:
	case n.Cached < n.Passed:
		text += fmt.Sprintf(", %d of them known", n.Cached)
	case n.Passed == 1:
		text += ", known"
	default:
		text += ", all known"
	}
	if len(r.Flakes) > 0 {
		text += "; " + r.flaky()
	}
	return text
}

// Known says why nothing had to be run: "same inputs as change 3f2a". It is "" when
// something was.
func (r *Result) Known() string {
	var from []string
	for _, u := range r.Units {
		if u.Cached == "" {
			return ""
		}
		if why := strings.TrimPrefix(u.Cached, sameInputs); !slices.Contains(from, why) {
			from = append(from, why)
		}
	}
	if len(from) == 0 {
		return ""
	}
	const most = 3
	if len(from) > most {
		from = append(from[:most], fmt.Sprintf("%d others", len(from)-most))
	}
	return sameInputs + strings.Join(from, " and ")
}

// sameInputs begins what tells of a result that was known.
const sameInputs = "same inputs as "

func (r *Result) flaky() string {
	var names []string
	for _, f := range r.Flakes {
		names = append(names, f.Test)
	}
	return "flaky: " + strings.Join(names, ", ")
}

// failures says what failed and where.
func (r *Result) failures() string {
	var lines []string
	for _, u := range r.Units {
		lines = append(lines, u.Failures()...)
	}
	if len(r.Flakes) > 0 {
		lines = append(lines, r.flaky())
	}
	const most = 8
	switch {
	case len(lines) == 0:
		return "the tests did not pass"
	case len(lines) > most:
		lines = append(lines[:most], fmt.Sprintf("... and %d lines more", len(lines)-most))
	}
	return strings.Join(lines, "\n")
}

// Count is how many tests a unit has, subtests apart from those that have them.
func (u UnitResult) Count() int {
	var c Counts
	c.add(u)
	return c.Passed + c.Failed + c.Skipped
}

// Failures says what of a unit failed and where, a line for each.
func (u UnitResult) Failures() []string {
	if u.Status != Failed && u.Status != Stopped {
		return nil
	}
	var lines []string
	if u.Reason != "" {
		lines = append(lines, u.Name+": "+u.Reason)
	}
	for _, t := range u.Tests {
		if t.Name == wholeCommand && u.Kind == Shell {
			lines = append(lines, telling(u.Output)...)
			continue
		}
		if t.Status == Failed || t.Status == Stopped {
			lines = append(lines, u.describe(t))
		}
	}
	return lines
}

// describe says what failed, where, and the first thing that the test says of it.
func (u UnitResult) describe(t Test) string {
	text := u.Name + " " + t.Name
	if t.File != "" {
		text = fmt.Sprintf("%s:%d: %s", t.File, t.Line, t.Name)
	}
	i := slices.IndexFunc(t.Output, func(l string) bool { return position.MatchString(l) })
	if i < 0 {
		i = slices.IndexFunc(t.Output, func(l string) bool {
			return l != "" && !strings.HasPrefix(strings.TrimSpace(l), "---") && !strings.HasPrefix(l, "===")
		})
	}
	if i >= 0 {
		text += ": " + strings.TrimSpace(position.ReplaceAllString(t.Output[i], ""))
	}
	return text
}

// telling picks what a command's own words say of its failure: the lines that look
// like one in the manner of common test programs, else the last ones.
func telling(output []string) []string {
	const most = 4
	var found, last []string
	for _, l := range output {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		if last = append(last, l); len(last) > most {
			last = last[1:]
		}
		if trouble.MatchString(l) && len(found) < most && !slices.Contains(found, l) {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		found = last
	}
	return found
}

// trouble begins a line that tells of a failure: TAP's, node's, jest's, mocha's,
// pytest's, cargo's, a shell's or npm's, and most programs' errors.
var trouble = regexp.MustCompile(`^(not ok\b|[✖✗✕×●] |--- FAIL|FAIL(ED)?\b|E  |panic\b|fatal\b|(npm )?(?i:err(or)?!?)\b|[A-Z]\w*(Error|Exception)\b|(/\S*/)?sh: )`)

// position begins what a test says with Error and the like.
var position = regexp.MustCompile(`^\s*[\w./-]+\.go:\d+: `)

// KeyOf is the digest of what decides the results of units.
func KeyOf(units []Unit) string {
	k := newKey("units")
	for _, u := range units {
		k.add(u.Name, u.Key)
	}
	return k.sum()[:32]
}
