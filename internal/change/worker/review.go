package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/sarif"
	"github.com/bightdev/bight/internal/change/work"
)

// emptyTree is git's name of a tree without files.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// review looks at what the commit changes.
func (w *Worker) review(ctx context.Context, j *job) work.Result {
	base := j.Base
	if base == "" {
		base = emptyTree
	}
	diff, err := review.GitDiff(ctx, j.copy.Repository.Dir, base, j.Commit)
	if err != nil {
		return erred(fmt.Errorf("compare %s with %s: %w", short(j.Commit), short(base), err))
	}
	a, err := j.plan(ctx)
	if err != nil {
		fmt.Fprintf(j.out, "the app is not known: %s\n", err) // the build says so, too
		a = nil
	}
	in := &review.Input{
		Dir: j.copy.Dir, Diff: diff, Base: j.Base, Head: j.Commit, App: a,
		BaseFile: review.GitBase(j.copy.Repository.Dir, base),
	}
	if c, err := j.copy.Repository.Commit(ctx, j.Commit); err == nil {
		in.Authors = []string{fmt.Sprintf("%s <%s>", c.Author.Name, c.Author.Email)}
	}
	reviewer := &review.Reviewer{Checkers: w.Checkers, Gates: w.Gates, Log: w.Log}
	report, err := reviewer.Review(ctx, in)
	if err != nil {
		return erred(err)
	}
	return w.reviewed(j, report)
}

// reviewed makes a step's result of a report.
func (w *Worker) reviewed(j *job, report *review.Report) work.Result {
	risk := int32(report.Risk.Score)
	r := work.Result{State: work.Passed, Risk: &risk, Files: map[string][]byte{}}
	if b, err := json.Marshal(report); err == nil {
		r.Files["review.json"] = b
	}
	var out bytes.Buffer
	if err := sarif.Encode(&out, report); err == nil {
		r.Files["review.sarif"] = out.Bytes()
	}
	for _, f := range report.Findings {
		fmt.Fprintln(j.out, line(f))
	}
	for _, u := range report.Unchecked {
		fmt.Fprintf(j.out, "not checked by %s: %s\n", u.Tool, u.Why)
	}
	for _, reason := range report.Risk.Reasons {
		fmt.Fprintf(j.out, "risk +%d: %s\n", reason.Points, reason.Why)
	}
	var counts []string
	for _, s := range []review.Severity{review.Error, review.Warning, review.Note} {
		if n := report.Count(s); n > 0 {
			counts = append(counts, count(n, string(s)))
		}
	}
	if len(counts) == 0 {
		counts = []string{"nothing found"}
	}
	r.Message = fmt.Sprintf("%s in %s; risk %d", strings.Join(counts, ", "), count(report.Files, "file"), risk)
	var refused []string
	for _, f := range report.Findings {
		if refuses(j.Policy.RefuseAt, f.Severity) {
			refused = append(refused, line(f))
		}
	}
	if len(refused) > 0 {
		r.State = work.Failed
		r.Message = firstLines(strings.Join(refused, "\n"), 6)
	}
	return r
}

// refuses reports whether a finding of a severity refuses a change.
func refuses(at string, s review.Severity) bool {
	switch at {
	case "never":
		return false
	case "warning":
		return s == review.Error || s == review.Warning
	}
	return s == review.Error
}

// line is a finding as compilers write theirs.
func line(f review.Finding) string {
	where := f.File
	if f.Line > 0 {
		where += fmt.Sprintf(":%d", f.Line)
		if f.Column > 0 {
			where += fmt.Sprintf(":%d", f.Column)
		}
	}
	if where == "" {
		where = f.Object
	}
	return strings.TrimPrefix(fmt.Sprintf("%s: %s: %s (%s %s)", where, f.Severity, f.Message, f.Tool, f.Rule), ": ")
}

func short(commit string) string { return commit[:min(12, len(commit))] }
