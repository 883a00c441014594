package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/manifest"
	"github.com/bightdev/bight/internal/change/review/policy"
	"github.com/bightdev/bight/internal/change/review/sarif"
	"github.com/bightdev/bight/internal/change/work"
)

// emptyTree is git's name of a tree without files.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// review looks at what the commit changes.
func (w *Worker) review(ctx context.Context, j *job) work.Result {
	in, err := w.input(ctx, j)
	if err != nil {
		return erred(err)
	}
	checkers, err := w.checkers(ctx, j)
	if err != nil {
		return erred(err)
	}
	base := &rendering{done: make(chan struct{})}
	go func() {
		defer close(base.done)
		base.err = w.renderBase(ctx, j, in)
	}()
	reviewer := &review.Reviewer{Gates: w.Gates, Log: w.Log}
	for _, c := range checkers {
		switch c.(type) {
		case *manifest.Checker, *policy.Checker: // the rest need not wait
			c = after{c, base}
		}
		reviewer.Checkers = append(reviewer.Checkers, c)
	}
	if in.App != nil && len(in.App.Linters) > 0 {
		own, leave := w.lint(ctx, j, in.App)
		defer leave()
		reviewer.Checkers = append(reviewer.Checkers, own...)
	}
	report, err := reviewer.Review(ctx, in)
	<-base.done // it ends with ctx, or long before
	if err != nil {
		return erred(err)
	}
	if base.err != nil {
		fmt.Fprintf(j.out, "the objects of commit %s are not known, so all of those of %s were checked: %s\n", short(j.Base), short(j.Commit), base.err)
	}
	return w.reviewed(j, in.App, report)
}

// input gathers what there is to look at, but for the objects of the base.
func (w *Worker) input(ctx context.Context, j *job) (*review.Input, error) {
	base := cmp.Or(j.Base, emptyTree)
	in := &review.Input{
		Dir: j.copy.Dir, Base: j.Base, Head: j.Commit, Churn: churn(ctx, j),
		BaseFile: review.GitBase(j.copy.Repository.Dir, base),
	}
	var diffErr, planErr error
	var tasks sync.WaitGroup
	tasks.Go(func() {
		in.Diff, diffErr = review.GitDiff(ctx, j.copy.Repository.Dir, base, j.Commit)
	})
	tasks.Go(func() {
		if in.App, planErr = j.plan(ctx); planErr == nil {
			in.Objects, planErr = objects(in.App, j)
		}
	})
	if c, err := j.copy.Repository.Commit(ctx, j.Commit); err == nil {
		in.Authors = []string{fmt.Sprintf("%s <%s>", c.Author.Name, c.Author.Email)}
	}
	tasks.Wait()
	if diffErr != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", short(j.Commit), short(base), diffErr)
	}
	if planErr != nil {
		fmt.Fprintf(j.out, "the app is not known: %s\n", planErr) // the build says so, too
	}
	return in, nil
}

// lint returns the app's own linters, ready to run in a working copy that is given
// back by leave.
func (w *Worker) lint(ctx context.Context, j *job, a *app.App) (own []review.Checker, leave func()) {
	if j.Untrusted {
		return notRun(a, "the change's author may not push here, and the change says what is run"), func() {}
	}
	s, err := w.another(ctx, j.Order, j.copy, "lint", j.Commit, nil)
	leave = func() {
		if s != nil {
			w.leave(s)
		}
	}
	if err != nil {
		return notRun(a, "its working copy: %s", err), leave
	}
	return linters(a, s.copy.Dir), leave
}

// recently is how far back changes of a file count.
const recently = 90 * 24 * time.Hour

// churn counts how often files were changed lately; nil where a copy is without
// history, as checkouts are.
func churn(ctx context.Context, j *job) map[string]int {
	if _, err := os.Stat(filepath.Join(j.copy.Repository.Dir, "shallow")); err == nil || j.Base == "" {
		return nil
	}
	counts, err := review.GitChurn(ctx, j.copy.Repository.Dir, j.Base, recently)
	if err != nil {
		return nil // the risk is judged without
	}
	return counts
}

// reviewed makes a step's result of a report.
func (w *Worker) reviewed(j *job, a *app.App, report *review.Report) work.Result {
	risk := int32(report.Risk.Score)
	r := work.Result{State: work.Passed, Risk: &risk, Files: map[string][]byte{}}
	if b, err := json.Marshal(report); err == nil {
		r.Files["review.json"] = b
	}
	var out bytes.Buffer
	if err := sarif.Encode(&out, report); err == nil {
		r.Files["review.sarif"] = out.Bytes()
	}
	refused := told(j, report.Findings)
	for _, u := range report.Unchecked {
		fmt.Fprintln(j.out, unchecked(u))
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
	if missing := failedLinters(a, report); len(missing) > 0 {
		r.Message += "; not checked by " + strings.Join(missing, ", ")
	}
	if len(refused) > 0 {
		r.State = work.Failed
		r.Message = firstLines(strings.Join(refused, "\n"), 6)
	}
	return r
}

// unchecked says what was not checked, by whom and why.
func unchecked(u review.Unchecked) string {
	why := strings.TrimPrefix(u.Why, u.Tool+": ")
	if u.What != "" && !strings.Contains(why, u.What) {
		why = u.What + ": " + why
	}
	return "not checked by " + u.Tool + ": " + why
}

// failedLinters are those of the app's linters that said nothing, because they are not
// there or did not do their work. What the review has of its own is in the log alone.
func failedLinters(a *app.App, report *review.Report) (names []string) {
	if a == nil {
		return nil
	}
	for _, c := range report.Checks {
		if c.Failed != "" && slices.ContainsFunc(a.Linters, func(l *app.Linter) bool { return l.Name == c.Tool }) {
			names = append(names, c.Tool)
		}
	}
	return names
}

// told prints findings, and returns those that refuse the change.
func told(j *job, findings []review.Finding) (refused []string) {
	for _, f := range findings {
		fmt.Fprintln(j.out, line(f))
		if refuses(j.Policy.RefuseAt, f.Severity) {
			refused = append(refused, line(f))
		}
	}
	return refused
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
	rule := f.Tool + " " + f.Rule
	if (f.Tool == "policy" || f.Tool == "gate") && f.Why != "" {
		rule += ": " + f.Why // a rule of the team's own, which says where it is
	}
	return strings.TrimPrefix(fmt.Sprintf("%s: %s: %s (%s)", where, f.Severity, f.Message, rule), ": ")
}

func short(commit string) string { return commit[:min(12, len(commit))] }
