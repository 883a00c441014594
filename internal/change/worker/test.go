package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/tests"
	"github.com/bightdev/bight/internal/change/work"
)

// test runs the app's tests whose inputs are not known to pass.
func (w *Worker) test(ctx context.Context, j *job) work.Result {
	a, err := j.plan(ctx)
	if err != nil {
		return failed(err)
	}
	source := tests.Of(a, j.dir)
	units, err := source.Discover(ctx)
	if err != nil {
		fmt.Fprintln(j.out, err)
		return work.Result{State: work.Failed, Message: firstLines(err.Error(), 4)}
	}
	if len(units) == 0 {
		return work.Result{State: work.Skipped, Message: "there are no tests"}
	}
	policy := suite.FailFlakes
	if j.Policy.Quarantine {
		policy = suite.Quarantine
	}
	shelf := w.shelf(ctx, j, units)
	runner := &suite.Runner{
		Source: source, Policy: policy, Trust: j.classes()[0], From: "change " + j.Change,
		Cache: &suite.Cache{Store: shelf}, History: tests.History(w.Cache, j.Namespace, j.App),
		Limits: limits(j.Order), Secrets: []string{j.password}, Output: j.out, Log: w.Log,
	}
	if units, err = j.part(units); err != nil {
		return erred(err)
	}
	if r, ok := w.split(ctx, j, runner, units); ok {
		return r
	}
	got, err := runner.Run(ctx, units)
	if err != nil {
		return erred(err)
	}
	r := tested(j, units, got)
	r.Keep = shelf.kept()
	if j.Part == 0 && r.Cached == "" {
		maps.Copy(r.Keep, suite.KeepDurations(j.Directory, got.Durations()))
	}
	return r
}

// part returns the units that an order is about.
func (j *job) part(units []suite.Unit) ([]suite.Unit, error) {
	if j.Part == 0 {
		return units, nil
	}
	var out []suite.Unit
	for _, name := range j.Units {
		n := len(out)
		for _, u := range units {
			if u.Name == name {
				out = append(out, u)
			}
		}
		if len(out) == n {
			return nil, fmt.Errorf("there are no tests of %s here, which another worker has found: do both have the same toolchain?", name)
		}
	}
	return out, nil
}

// split answers an order with what is known, and leaves the rest to several workers,
// where there are such and it is worth it.
func (w *Worker) split(ctx context.Context, j *job, runner *suite.Runner, units []suite.Unit) (work.Result, bool) {
	const most = 2000 // names in one object
	if j.Part > 0 || j.Workers < 2 {
		return work.Result{}, false
	}
	known, rest := runner.Known(ctx, units)
	seconds := suite.Estimates(rest, w.durations(ctx, j, runner.History, rest))
	if n := suite.Worth(seconds, j.Workers); n < 2 || len(rest) > most {
		return work.Result{}, false
	}
	b, err := json.Marshal(known)
	if err != nil {
		return work.Result{}, false
	}
	fmt.Fprintf(j.out, "%d of %d packages are to be tested; several workers do it\n", len(rest), len(units))
	return work.Result{State: work.Split, Message: "shared out", Key: suite.KeyOf(units), Rest: seconds, Files: map[string][]byte{"tests.json": b}}, true
}

// durations are how many seconds units have taken: here, or else where they ran.
func (w *Worker) durations(ctx context.Context, j *job, history suite.History, units []suite.Unit) map[string]float64 {
	seconds := map[string]float64{}
	key := suite.DurationsKey(j.Directory)
	if b, ok := w.ask(ctx, j, suite.DurationsKind, []string{key})[string(suite.Trusted)+"/"+key]; ok {
		if err := json.Unmarshal(b, &seconds); err != nil {
			w.Log.Debug("durations can't be read", "err", err)
		}
	}
	for _, u := range units {
		outcomes, err := history.Outcomes(ctx, u.Name)
		if s, known := suite.Duration(outcomes); err == nil && known {
			seconds[u.Name] = s
		}
	}
	return seconds
}

// tested makes a step's result of that of the tests.
func tested(j *job, units []suite.Unit, got *suite.Result) work.Result {
	r := work.Result{State: work.Passed, Key: suite.KeyOf(units), Message: got.Text(), Files: map[string][]byte{}}
	var junit bytes.Buffer
	if err := suite.WriteJUnit(&junit, got); err == nil {
		r.Files["junit.xml"] = junit.Bytes()
	}
	if b, err := json.Marshal(got); err == nil {
		r.Files["tests.json"] = b
	}
	for _, note := range got.Notes {
		fmt.Fprintln(j.out, note)
	}
	if got.Status != suite.Passed {
		r.State = work.Failed
		return r
	}
	r.Cached = got.Known()
	return r
}
