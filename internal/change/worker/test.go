package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
)

// test runs the app's tests whose inputs are not known to pass.
func (w *Worker) test(ctx context.Context, j *job) work.Result {
	a, err := j.plan(ctx)
	if err != nil {
		return failed(err)
	}
	source := suite.Source{Root: j.dir, Modules: modules(a, j.dir), Commands: commands(a)}
	units, err := source.Discover(ctx)
	if err != nil {
		fmt.Fprintln(j.out, err)
		return work.Result{State: work.Failed, Message: firstLines(err.Error(), 4)}
	}
	if len(units) == 0 {
		return work.Result{State: work.Skipped, Message: "there are no tests"}
	}
	trust := suite.Trusted
	if j.Untrusted {
		trust = suite.Untrusted
	}
	policy := suite.FailFlakes
	if j.Policy.Quarantine {
		policy = suite.Quarantine
	}
	runner := &suite.Runner{
		Source: source, Policy: policy, Trust: trust, From: "change " + j.Change,
		Cache:   &suite.Cache{Store: suite.Dir(filepath.Join(w.Cache, "tests"))},
		History: &suite.File{Path: filepath.Join(w.Cache, "history", j.Namespace+"."+j.App+".jsonl")},
		Limits:  suite.Limits{Total: j.Timeout}, Secrets: []string{j.password}, Output: j.out, Log: w.Log,
	}
	got, err := runner.Run(ctx, units)
	if err != nil {
		return erred(err)
	}
	return w.tested(j, units, got)
}

// modules are the directories with a go.mod, below that of the app.
func modules(a *app.App, root string) []string {
	dirs := []string{}
	add := func(dir string) {
		dir = filepath.ToSlash(filepath.Clean(dir))
		if _, err := os.Stat(filepath.Join(root, dir, "go.mod")); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	add(".")
	for _, s := range a.Services {
		if s.Build.Module != "" {
			add(s.Build.Module)
		}
	}
	return dirs
}

// commands are the tests that services name themselves.
func commands(a *app.App) []suite.Command {
	var out []suite.Command
	for _, s := range a.Services {
		if s.Test != nil {
			out = append(out, suite.Command{Service: s.Name, Dir: s.Source.Dir, Run: s.Test.Command, Report: s.Test.Report})
		}
	}
	return out
}

// tested makes a step's result of that of the tests.
func (w *Worker) tested(j *job, units []suite.Unit, got *suite.Result) work.Result {
	r := work.Result{State: work.Passed, Files: map[string][]byte{}}
	h := sha256.New()
	for _, u := range units {
		fmt.Fprintf(h, "%s %s\n", u.Name, u.Key)
	}
	r.Key = hex.EncodeToString(h.Sum(nil)[:16])
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
	n := got.Counts
	if got.Status == suite.Passed {
		r.Message = fmt.Sprintf("%s passed", count(n.Passed, "test"))
		if n.Cached > 0 {
			r.Message += fmt.Sprintf(", %d of them known", n.Cached)
		}
		if n.Passed+n.Skipped > 0 && n.Cached == n.Passed+n.Skipped {
			r.Cached = got.Units[0].Cached
		}
		if len(got.Flakes) > 0 {
			r.Message += "; " + flakes(got.Flakes)
		}
		return r
	}
	r.State = work.Failed
	r.Message = failures(got)
	return r
}

func flakes(all []suite.Flake) string {
	var names []string
	for _, f := range all {
		names = append(names, f.Test)
	}
	return "flaky: " + strings.Join(names, ", ")
}

// failures says what failed and where, a few lines.
func failures(got *suite.Result) string {
	var lines []string
	for _, u := range got.Units {
		if u.Status != suite.Failed && u.Status != suite.Stopped {
			continue
		}
		if u.Reason != "" {
			lines = append(lines, u.Name+": "+u.Reason)
		}
		for _, t := range u.Tests {
			if t.Status == suite.Failed || t.Status == suite.Stopped {
				lines = append(lines, describe(u, t))
			}
		}
	}
	if len(got.Flakes) > 0 {
		lines = append(lines, flakes(got.Flakes))
	}
	if len(lines) == 0 {
		return "the tests did not pass"
	}
	return firstLines(strings.Join(lines, "\n"), 8)
}

// describe says what failed, where, and the first thing that the test says of it.
func describe(u suite.UnitResult, t suite.Test) string {
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

// position begins what a test says with Error and the like.
var position = regexp.MustCompile(`^\s*[\w./-]+\.go:\d+: `)
