package review

import (
	"cmp"
	"context"
	"slices"
)

// Severity says what a finding asks for.
type Severity string

// Levels of [Severity].
const (
	Error   Severity = "error"   // wrong: do not merge
	Warning Severity = "warning" // probably wrong: look at it
	Note    Severity = "note"    // could be better
)

// Rank orders severities: a higher one is worse, and 0 is no severity at all.
func (s Severity) Rank() int {
	switch s {
	case Error:
		return 3
	case Warning:
		return 2
	case Note:
		return 1
	}
	return 0
}

// Finding is one thing that is wrong, for one cause.
type Finding struct {
	Rule     string   `json:"rule"` // "SA4006", "generic-api-key", ...
	Tool     string   `json:"tool"` // which checker says so: "staticcheck", "secrets", ...
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
	URL      string   `json:"url,omitempty"` // where the rule is explained

	// File is relative to the root of the checkout, slash separated; "" where
	// the finding is about the change as a whole. Lines and columns count from 1,
	// columns in characters; 0 is "not known". The end is exclusive.
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Column    int    `json:"column,omitempty"`
	EndLine   int    `json:"endLine,omitempty"`
	EndColumn int    `json:"endColumn,omitempty"`

	// Object is the rendered object that the finding is about ("Deployment cart").
	Object string `json:"object,omitempty"`

	// Why says what makes the change answerable for a finding whose line it does
	// not touch: "go.mod changes". A finding without it is kept on changed lines only.
	Why string `json:"why,omitempty"`

	Fixes []Fix `json:"fixes,omitempty"`

	// Fingerprint stays the same while lines move, so that a comment on a host can
	// be found again. The Reviewer sets it.
	Fingerprint string `json:"fingerprint,omitempty"`

	// Cause, where set, is what findings of different rules on one line have in
	// common: one of them is kept.
	Cause string `json:"-"`

	// Style marks a matter of taste, which nobody wants to hear of in generated files.
	Style bool `json:"-"`

	// Private marks a finding whose line must not be told, not even by a hash.
	Private bool `json:"-"`

	// ByteColumns says that columns, here and in Fixes, count bytes as Go's do.
	// The Reviewer makes characters of them, since it reads the lines anyway.
	ByteColumns bool `json:"-"`
}

// Fix is one way to put a finding right. Its edits do not overlap.
type Fix struct {
	Message string `json:"message"`
	Edits   []Edit `json:"edits"`
}

// Edit replaces a stretch of a file of the head commit. The end is exclusive.
type Edit struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	EndLine   int    `json:"endLine"`
	EndColumn int    `json:"endColumn"`
	New       string `json:"new"`
}

// Unchecked is something that a review would have looked at and did not.
type Unchecked struct {
	Tool string `json:"tool"`
	What string `json:"what,omitempty"` // a package, a file, an object; "" is everything
	Why  string `json:"why"`
}

// Result is what one checker has to say.
type Result struct {
	Findings  []Finding
	Unchecked []Unchecked
}

// Checker looks at a change in one way.
type Checker interface {
	// Name is a word that the checker's entries in the report are known by.
	Name() string

	// Check returns what it found, and what it could not look at. An error
	// means that nothing was checked. It returns soon after ctx ends.
	Check(ctx context.Context, in *Input) (Result, error)
}

// Gate looks at what the checkers said and at the risk, after all of them.
type Gate interface {
	Name() string
	Judge(ctx context.Context, in *Input, rep *Report) (Result, error)
}

// Report is what a review says.
type Report struct {
	Findings  []Finding   `json:"findings"`   // the worst first, then by file and line
	Unchecked []Unchecked `json:"notChecked"` // by tool
	Risk      Risk        `json:"risk"`
	Checks    []Check     `json:"checks"` // in the order of the Reviewer's settings

	Files   int `json:"files"`   // how many files the change touches
	Added   int `json:"added"`   // lines
	Removed int `json:"removed"` // lines
}

// Check says how one checker did.
type Check struct {
	Tool     string `json:"tool"`
	Millis   int64  `json:"millis"`
	Findings int    `json:"findings"`         // kept, before those with one cause are merged
	Failed   string `json:"failed,omitempty"` // why nothing was checked
}

// Worst returns the highest severity among the findings, or "".
func (r *Report) Worst() Severity {
	var worst Severity
	for _, f := range r.Findings {
		if f.Severity.Rank() > worst.Rank() {
			worst = f.Severity
		}
	}
	return worst
}

// Count returns how many findings have the severity.
func (r *Report) Count(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

func sortFindings(fs []Finding) {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(b.Severity.Rank(), a.Severity.Rank()),
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Tool, b.Tool),
			cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Message, b.Message),
		)
	})
}
