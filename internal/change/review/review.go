package review

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
)

// Reviewer reviews changes.
type Reviewer struct {
	Checkers []Checker
	Gates    []Gate // asked in order, when all Checkers have ended

	Timeout     time.Duration // for each checker and gate; 0 is two minutes
	Parallel    int           // how many checkers run at a time; 0 is one per processor
	MaxFindings int           // kept of each checker; 0 is 200

	Log *slog.Logger // nil is none
}

// Review looks at a change. An error means that there was nothing to look at, or
// that ctx ended; what goes wrong with one checker is in the Report.
func (r *Reviewer) Review(ctx context.Context, in *Input) (*Report, error) {
	if in.Diff == nil {
		return nil, errors.New("review: the change has no diff")
	}
	rep := &Report{
		Findings:  []Finding{},
		Unchecked: []Unchecked{},
		Checks:    make([]Check, len(r.Checkers)),
		Files:     len(in.Diff.Files),
	}
	rep.Added, rep.Removed = in.Diff.Size()
	results := make([]Result, len(r.Checkers))

	var g errgroup.Group
	limit := r.Parallel
	if limit <= 0 {
		limit = runtime.GOMAXPROCS(0)
	}
	g.SetLimit(limit)
	for i, c := range r.Checkers {
		g.Go(func() error {
			results[i], rep.Checks[i] = r.ask(ctx, c.Name(), func(ctx context.Context) (Result, error) { return c.Check(ctx, in) })
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("review: %w", context.Cause(ctx))
	}
	var found []Finding
	for i := range results {
		kept := r.take(rep, in, results[i], &rep.Checks[i])
		found = append(found, kept...)
	}
	rep.Findings = settle(found, in.Diff, in.lines, in.Generated)
	rep.Risk = Assess(Facts{Diff: in.Diff, App: in.App, AppDir: in.appPrefix(), Churn: in.Churn, Findings: rep.Findings})
	if err := r.gates(ctx, in, rep); err != nil {
		return nil, err
	}
	return rep, nil
}

// gates asks the gates in order; each sees what those before it said.
func (r *Reviewer) gates(ctx context.Context, in *Input, rep *Report) error {
	for _, gate := range r.Gates {
		res, check := r.ask(ctx, gate.Name(), func(ctx context.Context) (Result, error) { return gate.Judge(ctx, in, rep) })
		if ctx.Err() != nil {
			return fmt.Errorf("review: %w", context.Cause(ctx))
		}
		kept := r.take(rep, in, res, &check)
		rep.Checks = append(rep.Checks, check)
		rep.Findings = settle(append(rep.Findings, kept...), in.Diff, in.lines, in.Generated)
	}
	return nil
}

// ask runs one checker within its time, and makes of whatever goes wrong an entry
// of the report.
func (r *Reviewer) ask(ctx context.Context, name string, check func(context.Context) (Result, error)) (res Result, c Check) {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = 2 * time.Minute
	}
	tooLong := fmt.Errorf("it took longer than %s", timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, tooLong)
	defer cancel()

	began := time.Now()
	err := guarded(&res, func() (Result, error) { return check(ctx) })
	c = Check{Tool: name, Millis: time.Since(began).Milliseconds()}
	if err == nil && ctx.Err() != nil && len(res.Findings) == 0 && len(res.Unchecked) == 0 {
		err = ctx.Err() // it gave up without a word
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = context.Cause(ctx)
		}
		c.Failed = err.Error()
		res.Unchecked = append(res.Unchecked, Unchecked{Tool: name, Why: c.Failed})
		if r.Log != nil {
			r.Log.Warn("checker failed", "checker", name, "err", err)
		}
	}
	return res, c
}

// guarded turns a panic into an error: a checker reads what strangers wrote.
func guarded(res *Result, check func() (Result, error)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			*res, err = Result{}, fmt.Errorf("it crashed: %v\n%s", p, firstLines(string(debug.Stack()), 12))
		}
	}()
	*res, err = check()
	return err
}

func firstLines(s string, n int) string {
	for i := range s {
		if s[i] == '\n' {
			if n--; n == 0 {
				return s[:i]
			}
		}
	}
	return s
}

// take moves a result into the report, and returns its findings, those of them
// that the change is answerable for, as many as a person would read.
func (r *Reviewer) take(rep *Report, in *Input, res Result, c *Check) []Finding {
	for _, u := range res.Unchecked {
		if u.Tool == "" {
			u.Tool = c.Tool
		}
		rep.Unchecked = append(rep.Unchecked, u)
	}
	for i := range res.Findings {
		if res.Findings[i].Tool == "" {
			res.Findings[i].Tool = c.Tool
		}
	}
	kept := settle(res.Findings, in.Diff, in.lines, in.Generated)
	most := r.MaxFindings
	if most <= 0 {
		most = 200
	}
	if len(kept) > most {
		rep.Unchecked = append(rep.Unchecked, Unchecked{
			Tool: c.Tool,
			Why:  fmt.Sprintf("%d more findings are not shown: the report keeps the worst %d of a checker", len(kept)-most, most),
		})
		kept = kept[:most]
	}
	c.Findings = len(kept)
	return kept
}
