// Package goanalysis reviews Go code: what doesn't compile, and what go vet and
// staticcheck have to say, in this process. Its [Checker] loads only the packages
// whose files a change touches. Those, and the packages of the same module that
// they import directly, are read from source; everything else comes from the go
// command's build cache, which the build of the change fills anyway.
//
// A Checker is settings only and may be used from many goroutines.
package goanalysis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/change/review"
)

// Checker reviews Go packages.
type Checker struct {
	// Env is the environment of the go command; nil is this process's.
	Env []string
}

// Name implements [review.Checker].
func (c *Checker) Name() string { return "go" }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	var res review.Result
	modules, notes := touchedModules(in)
	res.Unchecked = notes
	for _, m := range modules {
		r, err := c.module(ctx, in, m)
		if err != nil {
			if ctx.Err() != nil {
				return res, context.Cause(ctx)
			}
			res.Findings = append(res.Findings, brokenModule(in, m, err)...)
			res.Unchecked = append(res.Unchecked, review.Unchecked{What: m.what(), Why: err.Error()})
			continue
		}
		res.Findings = append(res.Findings, r.Findings...)
		res.Unchecked = append(res.Unchecked, r.Unchecked...)
	}
	return res, nil
}

// module is a Go module of the checkout with the directories that a change touches.
type module struct {
	dir   string              // relative to the checkout
	dirs  []string            // relative to the checkout, sorted
	files map[string][]string // directory -> touched Go files that exist, by base name
}

func (m *module) what() string { return "the Go module in " + m.dir }

// tests reports whether the change touches a test of the directory.
func (m *module) tests(dir string) bool {
	return slices.ContainsFunc(m.files[dir], func(f string) bool { return strings.HasSuffix(f, "_test.go") })
}

// touchedModules groups a change's Go files by module and directory.
func touchedModules(in *review.Input) ([]*module, []review.Unchecked) {
	var notes []review.Unchecked
	byDir := map[string]*module{}
	var out []*module
	for _, f := range in.Diff.Files {
		dir := path.Dir(f.Path)
		if path.Ext(f.Path) != ".go" || f.Submodule() || review.Vendored(f.Path) || ignoredDir(dir) {
			continue
		}
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) || !hasGo(filepath.Join(in.Dir, filepath.FromSlash(dir))) {
			continue // the package is gone
		}
		root, ok := moduleRoot(in.Dir, dir)
		if !ok {
			notes = append(notes, review.Unchecked{What: f.Path, Why: "it is in no Go module: there is no go.mod above it"})
			continue
		}
		m := byDir[root]
		if m == nil {
			m = &module{dir: root, files: map[string][]string{}}
			byDir[root] = m
			out = append(out, m)
		}
		if !slices.Contains(m.dirs, dir) {
			m.dirs = append(m.dirs, dir)
		}
		if f.Kind != review.Deleted {
			m.files[dir] = append(m.files[dir], path.Base(f.Path))
		}
	}
	for _, m := range out {
		slices.Sort(m.dirs)
	}
	return out, notes
}

// ignoredDir reports whether the go command leaves a directory alone.
func ignoredDir(dir string) bool {
	for d := range strings.SplitSeq(dir, "/") {
		if d == "testdata" || d != "." && (strings.HasPrefix(d, ".") || strings.HasPrefix(d, "_")) {
			return true
		}
	}
	return false
}

func hasGo(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return strings.HasSuffix(e.Name(), ".go") && !e.IsDir()
	})
}

// moduleRoot returns the nearest directory at or above dir that has a go.mod.
func moduleRoot(root, dir string) (string, bool) {
	for {
		if info, err := os.Stat(filepath.Join(root, filepath.FromSlash(dir), "go.mod")); err == nil && info.Mode().IsRegular() {
			return dir, true
		}
		if dir == "." {
			return "", false
		}
		dir = path.Dir(dir)
	}
}

var inGoMod = regexp.MustCompile(`(?m)go\.(mod|work|sum):(\d+)(?::(\d+))?: (.*)$`)

// brokenModule makes a finding of the go command's complaint about a file.
func brokenModule(in *review.Input, m *module, err error) []review.Finding {
	match := inGoMod.FindStringSubmatch(err.Error())
	if match == nil {
		return nil
	}
	file := path.Join(m.dir, "go."+match[1])
	if in.Diff.File(file) == nil {
		return nil // it was so before: the note of what was not checked says it
	}
	line, _ := strconv.Atoi(match[2])
	return []review.Finding{{
		Rule: "go.mod", Severity: review.Error, File: file, Line: line,
		Message: match[4], Why: "the change touches " + file + ", which the go command can't read",
	}}
}

// module loads and analyses what the change touches of one module.
func (c *Checker) module(ctx context.Context, in *review.Input, m *module) (review.Result, error) {
	pkgs, err := c.list(ctx, in.Dir, m)
	if err != nil {
		return review.Result{}, err
	}
	var res review.Result
	res.Unchecked = append(res.Unchecked, leftOut(in.Dir, m, pkgs)...)
	for _, u := range universes(in.Dir, m, pkgs) {
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		r, err := u.review(ctx, in)
		if err != nil {
			return res, fmt.Errorf("analyse %s: %w", u.what(), err)
		}
		res.Findings = append(res.Findings, r.Findings...)
		res.Unchecked = append(res.Unchecked, r.Unchecked...)
	}
	return res, nil
}

// environ returns the go command's environment without what would make a review
// edit go.mod.
func (c *Checker) environ() []string {
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	out := make([]string, 0, len(env)+1)
	for _, kv := range env {
		if flags, ok := strings.CutPrefix(kv, "GOFLAGS="); ok {
			kept := slices.DeleteFunc(strings.Fields(flags), func(f string) bool {
				return strings.TrimPrefix(strings.TrimPrefix(f, "-"), "-") == "mod=mod"
			})
			kv = "GOFLAGS=" + strings.Join(kept, " ")
		}
		out = append(out, kv)
	}
	return out
}

var errCrashed = errors.New("the analyzer crashed")
