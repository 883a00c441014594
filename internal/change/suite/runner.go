package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Policy says what a flaky test's failure does to a change.
type Policy string

const (
	// FailFlakes fails the change.
	FailFlakes Policy = "fail"
	// Quarantine lets it pass when the test is flaky with a chance above 0.99 by its
	// history. The result lists it each time.
	Quarantine Policy = "quarantine"
)

// certain is how flaky a test must be to be put in quarantine.
const certain = 0.99

// reruns is how many failing tests of a unit are run again; more are no flakes.
const reruns = 10

// Runner runs units of a source tree.
type Runner struct {
	Source Source
	Limits Limits
	Policy Policy // "" is FailFlakes
	// Cache has known results; nil is none. Trust is the change's: what an untrusted
	// one shows is not kept in History and not read by trusted ones.
	Cache *Cache
	Trust Trust // "" is Untrusted
	// History knows durations and flakes; nil is none.
	History History
	// From is how later hits name this run: "change 3f2a".
	From string
	// Secrets are masked in everything that is written or returned.
	Secrets []string
	// Output gets what the tests print; nil drops it.
	Output io.Writer
	// Temp is where temporary directories are made; "" is the system's.
	Temp string
	// Log gets notes, at level debug. Nil is silence.
	Log *slog.Logger
}

// Run runs the units, or takes their results from the cache. The error tells that
// they could not be run; failing tests are in the result. When ctx ends, so do the
// tests, with all processes that they started, and what has ended by then is in the
// result.
func (r *Runner) Run(ctx context.Context, units []Unit) (*Result, error) {
	began := time.Now()
	root, err := filepath.EvalSymlinks(r.Source.Root)
	if err != nil {
		return nil, fmt.Errorf("run tests: %w", err)
	}
	out := r.Output
	if out == nil {
		out = io.Discard
	}
	limits := r.Limits.withDefaults()
	mask := NewMask(&capped{w: out, left: limits.Output}, r.Secrets...)
	once := &run{Runner: r, root: root, limits: limits, log: mask, result: &Result{}}
	if err := once.all(ctx, units); err != nil {
		return nil, errors.Join(err, mask.Flush())
	}
	if err := mask.Flush(); err != nil {
		return nil, fmt.Errorf("write the log of tests: %w", err)
	}
	once.result.Seconds = time.Since(began).Seconds()
	once.result.finish()
	return once.result, nil
}

// Known returns the results of those units that need not be run, and the others.
func (r *Runner) Known(ctx context.Context, units []Unit) (*Result, []Unit) {
	once := &run{Runner: r, root: r.Source.Root, result: &Result{}}
	var rest []Unit
	for _, u := range units {
		if hit, ok := once.known(ctx, u); ok {
			once.result.Units = append(once.result.Units, hit)
		} else {
			rest = append(rest, u)
		}
	}
	once.result.finish()
	return once.result, rest
}

// run is one call of Run.
type run struct {
	*Runner
	root   string
	limits Limits
	log    io.Writer
	result *Result
	files  *hashes // of known
}

func (r *run) all(ctx context.Context, units []Unit) error {
	temp, remove, err := scratch(r.Temp)
	if err != nil {
		return err
	}
	defer remove()
	byModule := map[string][]Unit{}
	var modules []string
	var commands []Unit
	for _, u := range units {
		if hit, ok := r.known(ctx, u); ok {
			r.result.Units = append(r.result.Units, hit)
			continue
		}
		if u.Kind == Shell {
			commands = append(commands, u)
			continue
		}
		if byModule[u.Module] == nil {
			modules = append(modules, u.Module)
		}
		byModule[u.Module] = append(byModule[u.Module], u)
	}
	for _, m := range modules {
		if err := r.module(ctx, m, byModule[m], temp); err != nil {
			return err
		}
	}
	for _, u := range commands {
		if err := r.command(ctx, u, temp); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) note(format string, args ...any) {
	n := masked(fmt.Sprintf(format, args...), r.Secrets)
	r.result.Notes = append(r.result.Notes, n)
	if r.Log != nil {
		r.Log.Debug("tests", "note", n)
	}
}

// known asks the cache.
func (r *run) known(ctx context.Context, u Unit) (UnitResult, bool) {
	if r.Cache == nil || u.Key == "" {
		return UnitResult{}, false
	}
	res, from, ok, err := r.Cache.Get(ctx, r.trust(), u.Key)
	if err != nil {
		r.note("%v", err)
	}
	if !ok && u.Shape != "" {
		res, from, ok, err = r.Cache.Unread(ctx, r.trust(), u.Shape, r.same)
		if err != nil {
			r.note("%v", err)
		}
	}
	if !ok {
		return UnitResult{}, false
	}
	res.Name, res.Kind, res.Dir, res.Key = u.Name, u.Kind, u.Dir, u.Key
	res.Cached = sameInputs + cmp.Or(from, "an earlier run")
	return res, true
}

// same says whether what tests have read is in the source still.
func (r *run) same(read map[string]string) bool {
	if r.files == nil {
		r.files = newHashes(r.root)
	}
	for path, sum := range read {
		now, err := r.files.file(filepath.Join(r.root, filepath.FromSlash(path)))
		if !filepath.IsLocal(path) || err != nil || now != sum {
			return false
		}
	}
	return true
}

func (r *run) trust() Trust {
	if r.Trust == Trusted {
		return Trusted
	}
	return Untrusted
}

// job prepares a program with a temporary directory of its own below temp.
func (r *run) job(dir, temp string, stdout, stderr io.Writer, limit time.Duration, args ...string) (job, error) {
	home := filepath.Join(temp, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return job{}, err
	}
	env := r.Source.environment(os.Getenv)
	env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
	env = append(env, "HOME="+home, "TMPDIR="+temp, "GOTMPDIR="+temp, "CI=true")
	return job{
		dir: dir, args: args, env: env, stdout: stdout, stderr: stderr,
		temp: temp, limits: r.limits, time: limit,
	}, nil
}

// module runs the tests of packages of one Go module.
func (r *run) module(ctx context.Context, module string, units []Unit, temp string) error {
	dir := filepath.Join(r.root, module)
	args := make([]string, len(units))
	for i, u := range units {
		args[i] = u.Name
	}
	var seen *witness
	if r.Cache != nil && slices.ContainsFunc(units, func(u Unit) bool { return u.Shape != "" }) {
		seen = watchReads(r.root)
		defer seen.close()
	}
	ev, end, err := r.goTest(ctx, dir, temp, r.limits.Total, args...)
	if err != nil {
		return err
	}
	read := r.read(seen)
	rest := unfinished(ev, units)
	greedy := end.stop != "" && end.stop != StopCancelled && end.stop != StopTime
	for _, u := range units {
		if greedy && len(rest) > 1 && slices.Contains(rest, u) {
			continue
		}
		res := ev.result(u, r.root)
		r.explain(&res, end, ev)
		if res.Status == Failed && res.Reason == "" {
			if err := r.again(ctx, dir, temp, u, &res); err != nil {
				return err
			}
		}
		r.keep(ctx, res)
		r.keepRead(ctx, u, res, read)
	}
	if !greedy || len(rest) < 2 {
		return nil
	}
	// One of them took too much; alone they show which.
	for _, u := range rest {
		if err := r.module(ctx, module, []Unit{u}, temp); err != nil {
			return err
		}
	}
	return nil
}

// unfinished are the units whose package had not ended by itself when go test did.
func unfinished(ev *events, units []Unit) []Unit {
	var out []Unit
	for _, u := range units {
		if ev.action(u.Name) != "pass" {
			out = append(out, u)
		}
	}
	return out
}

func (r *run) goTest(ctx context.Context, dir, temp string, limit time.Duration, args ...string) (*events, ended, error) {
	temp, remove, err := scratch(temp) // what one leaves there is not held against the next
	if err != nil {
		return nil, ended{}, err
	}
	defer remove()
	ev := newEvents(r.log)
	stderr := &lines{log: r.log}
	args = append(append([]string{r.Source.goProgram(), "test", "-json", "-count=1", "-timeout=" + r.limits.Test.String()}, r.Source.Flags...), args...)
	j, err := r.job(dir, temp, ev, stderr, limit, args...)
	if err != nil {
		return nil, ended{}, err
	}
	end := j.run(ctx)
	if end.isolation == "" && end.err != nil {
		return nil, end, fmt.Errorf("run tests: %w", end.err)
	}
	r.result.Isolation = end.isolation
	if err := ev.end(); err != nil {
		return nil, end, err
	}
	for _, l := range stderr.all() {
		ev.stray.add(l)
	}
	return ev, end, nil
}

// explain gives a unit that has no verdict of its own the reason for that.
func (r *run) explain(res *UnitResult, end ended, ev *events) {
	if timedOut(res) {
		res.Status, res.Stop = Stopped, StopTime
		res.Reason = fmt.Sprintf("it took longer than %s", r.limits.Test)
		return
	}
	byKernel := end.stop == StopProcesses || end.stop == StopMemory // then the program sees a failure of its own
	byKernel = byKernel || end.stop == StopDisk && printed(res, func(l string) bool { return strings.Contains(l, "file too large") })
	if byKernel && res.Status == Failed || res.Status == Stopped && end.stop != "" {
		res.Status, res.Stop, res.Reason = Stopped, end.stop, end.reason
		return
	}
	if res.Status == Stopped {
		res.Status, res.Reason, res.Output = Failed, "go test ended without a result for it", ev.stray.lines
		if end.err != nil {
			res.Reason += ": " + end.err.Error()
		}
	}
}

// timedOut reports whether go test ended a package for taking too long.
func timedOut(res *UnitResult) bool {
	if res.Status != Failed {
		return false
	}
	return printed(res, func(l string) bool { return strings.HasPrefix(l, "panic: test timed out after ") })
}

// printed reports whether a unit, or a test of it that has not passed, printed such a line.
func printed(res *UnitResult, such func(line string) bool) bool {
	if slices.ContainsFunc(res.Output, such) {
		return true
	}
	return slices.ContainsFunc(res.Tests, func(t Test) bool { return t.Status != Passed && slices.ContainsFunc(t.Output, such) })
}

// top is the test that a subtest belongs to.
func top(name string) string {
	name, _, _ = strings.Cut(name, "/")
	return name
}

// failing are the failed tests that are nobody's subtests.
func failing(tests []Test) []string {
	var out []string
	for _, t := range tests {
		if t.Status != Passed && t.Status != Skipped && !slices.Contains(out, top(t.Name)) {
			out = append(out, top(t.Name))
		}
	}
	return out
}

// again runs the failed tests of a package once more, each alone.
func (r *run) again(ctx context.Context, dir, temp string, u Unit, res *UnitResult) error {
	names := failing(res.Tests)
	if len(names) == 0 || len(names) > reruns {
		return nil
	}
	var flaky []string
	for _, name := range names {
		_, _ = fmt.Fprintf(r.log, "--- %s %s failed; once more, alone\n", u.Name, name) // the log's error comes with the tests' output
		ev, _, err := r.goTest(ctx, dir, temp, r.limits.Total, "-run=^"+name+"$", u.Name)
		if err != nil {
			return err
		}
		second := ev.result(u, r.root)
		passed := slices.ContainsFunc(second.Tests, func(t Test) bool { return t.Name == name && t.Status == Passed })
		if second.Status == Passed && passed {
			flaky = append(flaky, name)
		}
	}
	return r.judge(ctx, u, res, names, flaky)
}

// judge decides by policy about tests that failed and then passed.
func (r *run) judge(ctx context.Context, u Unit, res *UnitResult, failed, flaky []string) error {
	let := 0
	for _, name := range flaky {
		chance, err := r.flakiness(ctx, u, name)
		if err != nil {
			return err
		}
		f := Flake{Test: masked(u.Name+" "+name, r.Secrets), Chance: chance, Quarantined: r.Policy == Quarantine && chance > certain}
		if f.Quarantined {
			let++
		}
		for i := range res.Tests {
			t := &res.Tests[i]
			if top(t.Name) != name || t.Status == Passed || t.Status == Skipped {
				continue
			}
			t.Flaky, t.Quarantined = true, f.Quarantined
			if t.Line > 0 {
				f.File, f.Line = t.File, t.Line
			}
		}
		r.result.Flakes = append(r.result.Flakes, f)
	}
	if let == len(failed) {
		res.Status = Passed
		res.Reason = fmt.Sprintf("%d flaky tests in quarantine failed", let)
	}
	return nil
}

// flakiness is that of a test which just failed and then passed.
func (r *run) flakiness(ctx context.Context, u Unit, name string) (float64, error) {
	now := []Outcome{
		{Unit: u.Name, Test: name, Key: u.Key, Passed: false},
		{Unit: u.Name, Test: name, Key: u.Key, Passed: true},
	}
	if r.History == nil {
		return Flakiness(now), nil
	}
	known, err := r.History.Outcomes(ctx, u.Name)
	if err != nil {
		return 0, err
	}
	known = slices.DeleteFunc(known, func(o Outcome) bool { return o.Test != name })
	return Flakiness(append(known, now...)), nil
}

// keep masks a result and remembers what is worth it.
func (r *run) keep(ctx context.Context, res UnitResult) {
	hide := func(lines []string) {
		for i := range lines {
			lines[i] = masked(lines[i], r.Secrets)
		}
	}
	hide(res.Output)
	res.Reason = masked(res.Reason, r.Secrets)
	for i := range res.Tests {
		hide(res.Tests[i].Output)
		res.Tests[i].Name = masked(res.Tests[i].Name, r.Secrets)
	}
	r.result.Units = append(r.result.Units, res)
	ctx = context.WithoutCancel(ctx) // what was learnt before the end is kept
	flaky := slices.ContainsFunc(res.Tests, func(t Test) bool { return t.Flaky })
	if r.Cache != nil && res.Key != "" && !flaky {
		if err := r.Cache.Put(ctx, r.trust(), r.From, res); err != nil {
			r.note("%v", err)
		}
	}
	if r.History != nil && r.trust() == Trusted {
		if err := r.History.Add(ctx, outcomes(res)...); err != nil {
			r.note("%v", err)
		}
	}
}

// outcomes are what a result adds to the history: the unit, its tests without
// subtests, and the second runs of flaky ones.
func outcomes(res UnitResult) []Outcome {
	if res.Status == Stopped {
		return nil
	}
	out := []Outcome{{Unit: res.Name, Key: res.Key, Passed: res.Status == Passed, Seconds: res.Seconds}}
	for _, t := range res.Tests {
		if strings.Contains(t.Name, "/") || t.Status != Passed && t.Status != Failed {
			continue
		}
		o := Outcome{Unit: res.Name, Test: t.Name, Key: res.Key, Passed: t.Status == Passed, Seconds: t.Seconds}
		out = append(out, o)
		if t.Flaky {
			o.Passed = true
			out = append(out, o)
		}
	}
	return out
}
