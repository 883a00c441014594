// Package external runs linters of the user's choice that write SARIF, on the
// files that a change touches. Its main type is [Checker], one for each linter.
//
// A Checker is settings only and may be used from many goroutines.
package external

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/patternmatcher"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/sarif"
)

// What a linter may write, and how many names it is given.
const (
	maxOutput = 64 << 20
	maxStderr = 4 << 10
	maxFiles  = 5000
)

// Words of a Command that stand for something else.
const (
	Files  = "{files}"  // one argument for each touched file, relative to the checkout
	Output = "{output}" // a file for the SARIF, where the linter doesn't write it to stdout
)

// Checker runs one linter.
type Checker struct {
	Tool     string        // what the linter's findings are known by
	Command  []string      // the program and its arguments; it runs in the checkout
	Patterns []string      // which files it is for, as in .dockerignore ("**/*.js"); none is all
	Env      []string      // its environment; nil is this process's
	Timeout  time.Duration // 0 is one minute
}

// Name implements [review.Checker].
func (c *Checker) Name() string { return c.Tool }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	files, notes, err := c.files(in)
	if err != nil {
		return review.Result{}, err
	}
	if len(files) == 0 {
		return review.Result{}, nil
	}
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%s took longer than %s and was ended", c.Tool, timeout))
	defer cancel()
	out, err := c.run(ctx, in.Dir, files)
	if err != nil {
		return review.Result{}, err
	}
	res, err := sarif.Decode(bytes.NewReader(out), in.Dir)
	if err != nil {
		return review.Result{}, fmt.Errorf("%s: %w; it wrote: %s", c.Tool, err, beginning(out))
	}
	for i := range res.Findings {
		f := &res.Findings[i]
		// Only this program decides what a change is answerable for.
		f.Tool, f.Why, f.Object, f.Fingerprint = c.Tool, "", "", ""
	}
	for i := range res.Unchecked {
		res.Unchecked[i].Tool = c.Tool
	}
	res.Unchecked = append(res.Unchecked, notes...)
	return res, nil
}

// files returns the touched files that the linter is for. Names that a program
// could take for options are written with "./" before them.
func (c *Checker) files(in *review.Input) ([]string, []review.Unchecked, error) {
	var m *patternmatcher.PatternMatcher
	if len(c.Patterns) > 0 {
		var err error
		if m, err = patternmatcher.New(c.Patterns); err != nil {
			return nil, nil, fmt.Errorf("read the patterns of %s: %w", c.Tool, err)
		}
	}
	var out []string
	for _, f := range in.Diff.Files {
		if f.Kind == review.Deleted || f.Submodule() || f.Binary || review.Vendored(f.Path) || !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			continue
		}
		if m != nil {
			ok, err := m.MatchesOrParentMatches(f.Path)
			if err != nil {
				return nil, nil, fmt.Errorf("match the patterns of %s: %w", c.Tool, err)
			}
			if !ok {
				continue
			}
		}
		name := f.Path
		if strings.HasPrefix(name, "-") {
			name = "./" + name
		}
		out = append(out, name)
	}
	if len(out) > maxFiles {
		return out[:maxFiles], []review.Unchecked{{
			What: fmt.Sprintf("%d files", len(out)-maxFiles), Why: fmt.Sprintf("the linter was given the first %d", maxFiles),
		}}, nil
	}
	return out, nil, nil
}

// run runs the linter and returns its SARIF. Many linters exit with 1 when they
// find something, so only a run without a document is a failure.
func (c *Checker) run(ctx context.Context, dir string, files []string) ([]byte, error) {
	if len(c.Command) == 0 {
		return nil, fmt.Errorf("%s has no command", c.Tool)
	}
	var args []string
	output := ""
	for _, a := range c.Command[1:] {
		if a == Files {
			args = append(args, files...)
			continue
		}
		if strings.Contains(a, Output) && output == "" {
			tmp, err := os.MkdirTemp("", "bight-lint-")
			if err != nil {
				return nil, err
			}
			defer os.RemoveAll(tmp)
			output = filepath.Join(tmp, "result.sarif")
		}
		args = append(args, strings.ReplaceAll(a, Output, output))
	}
	cmd := exec.CommandContext(ctx, c.Command[0], args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, c.Env, 2*time.Second
	ownGroup(cmd)
	stdout := &capped{max: maxOutput, full: func() { _ = cmd.Cancel() }}
	stderr := &capped{max: maxStderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	endGroup(cmd) // what it left running
	switch {
	case stdout.over:
		return nil, fmt.Errorf("%s wrote more than %d MiB and was ended", c.Tool, maxOutput>>20)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: the program %s is not installed here", c.Tool, c.Command[0])
	}
	doc := stdout.b.Bytes()
	if output != "" {
		var readErr error
		if doc, readErr = readCapped(output); readErr != nil && err == nil {
			err = readErr
		}
	}
	if len(bytes.TrimSpace(doc)) > 0 {
		return doc, nil
	}
	if err == nil {
		err = errors.New("it wrote no SARIF")
	}
	if said := strings.TrimSpace(stderr.b.String()); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return nil, fmt.Errorf("%s: %w", c.Tool, err)
}

// beginning is the first line of what a linter wrote in place of SARIF, which as a rule
// says what it lacks.
func beginning(out []byte) string {
	const most = 200
	line, _, _ := strings.Cut(strings.TrimSpace(string(out[:min(len(out), maxStderr)])), "\n")
	line = strings.ToValidUTF8(line, "?")
	if r := []rune(line); len(r) > most {
		line = string(r[:most]) + "…"
	}
	return line
}

func readCapped(name string) ([]byte, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, errors.New("it wrote no file of results")
	}
	if !info.Mode().IsRegular() || info.Size() > maxOutput {
		return nil, fmt.Errorf("its file of results is not a regular file of at most %d MiB", maxOutput>>20)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxOutput))
}

// capped keeps the beginning of what is written to it.
type capped struct {
	b    bytes.Buffer
	max  int
	over bool
	full func() // called once when there is more than max
}

func (c *capped) Write(p []byte) (int, error) {
	room := c.max - c.b.Len()
	c.b.Write(p[:min(room, len(p))])
	if len(p) > room && !c.over {
		c.over = true
		if c.full != nil {
			c.full()
		}
	}
	return len(p), nil
}
