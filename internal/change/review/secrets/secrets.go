// Package secrets finds credentials in what a change adds, with the rules of
// gitleaks. Its main type is [Checker]. A finding never has the secret in it, nor
// anything from which it could be guessed.
//
// A Checker compiles its rules once, when first used, and may be used from many
// goroutines.
package secrets

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
	"github.com/zricethezav/gitleaks/v8/report"
	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/change/review"
)

// Added lines are searched in pieces of about this many bytes, which overlap by
// some lines, so that a key of many lines is whole in one of them.
const (
	pieceBytes   = 256 << 10
	overlapLines = 120
)

// Checker searches added lines for credentials.
type Checker struct {
	// Config is gitleaks' configuration (TOML); "" is the rules that it comes
	// with. It must not come from the change under review.
	Config string

	once     sync.Once
	detector *detect.Detector
	err      error
}

// Name implements [review.Checker].
func (c *Checker) Name() string { return "secrets" }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	c.once.Do(func() { c.detector, c.err = newDetector(c.Config) })
	if c.err != nil {
		return review.Result{}, fmt.Errorf("read the rules for secrets: %w", c.err)
	}
	files := in.Diff.Files
	results := make([]review.Result, len(files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range files {
		if f.Kind == review.Deleted || f.Submodule() {
			continue
		}
		g.Go(func() error {
			var err error
			results[i], err = c.file(ctx, f)
			if info, statErr := os.Lstat(filepath.Join(in.Dir, filepath.FromSlash(f.Path))); f.Binary && statErr == nil && info.Size() > review.LargeFile {
				results[i].Unchecked = append(results[i].Unchecked, review.Unchecked{What: f.Path, Why: fmt.Sprintf("its content was not searched: it has more than %d MiB", review.LargeFile>>20)})
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return review.Result{}, err
	}
	var res review.Result
	for _, r := range results {
		res.Findings = append(res.Findings, r.Findings...)
		res.Unchecked = append(res.Unchecked, r.Unchecked...)
	}
	return res, nil
}

func newDetector(toml string) (*detect.Detector, error) {
	if toml == "" {
		toml = config.DefaultConfig
	}
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(toml)); err != nil {
		return nil, err
	}
	var raw config.ViperConfig
	if err := v.Unmarshal(&raw); err != nil {
		return nil, err
	}
	cfg, err := raw.Translate()
	if err != nil {
		return nil, err
	}
	d := detect.NewDetector(cfg)
	d.MaxDecodeDepth = 2
	return d, nil
}

func (c *Checker) file(ctx context.Context, f *review.FileDiff) (review.Result, error) {
	var res review.Result
	if f.Cut {
		res.Unchecked = append(res.Unchecked, review.Unchecked{What: f.Path, Why: "of lines longer than 1 MiB only the beginning was searched"})
	}
	if f.Kind == review.Added || f.Kind == review.Renamed {
		for _, x := range c.search(ctx, f.Path, "") { // some kinds of file are secrets by name
			res.Findings = append(res.Findings, finding(f.Path, 0, x, "the change adds this file"))
		}
	}
	if f.Binary {
		return res, context.Cause(ctx)
	}
	type place struct {
		rule, secret string
		line         int
	}
	seen := map[place]bool{}
	for _, p := range pieces(f.Lines) {
		for _, x := range c.search(ctx, f.Path, p.text) {
			line := p.first + x.StartLine
			k := place{x.RuleID, x.Secret, line}
			if x.Secret == "" && x.Match == "" || seen[k] {
				continue
			}
			seen[k] = true
			res.Findings = append(res.Findings, finding(f.Path, line, x, ""))
		}
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
	}
	return res, nil
}

// Search returns the secrets in a text. It may be used by several goroutines.
func (c *Checker) Search(ctx context.Context, text string) ([]string, error) {
	c.once.Do(func() { c.detector, c.err = newDetector(c.Config) })
	if c.err != nil {
		return nil, fmt.Errorf("read the rules for secrets: %w", c.err)
	}
	// Whoever wrote this text is nobody who may allow anything.
	text = strings.ReplaceAll(text, "gitleaks:allow", "gitleaks allow")
	var all []string
	for _, f := range c.search(ctx, "", text) {
		if f.Secret != "" {
			all = append(all, f.Secret)
		}
	}
	return all, context.Cause(ctx)
}

func (c *Checker) search(ctx context.Context, path, text string) []report.Finding {
	//lint:ignore SA1019 DetectContext takes nothing else
	found := c.detector.DetectContext(ctx, detect.Fragment{Raw: text, FilePath: path})
	if text == "" {
		return found
	}
	kept := found[:0]
	for _, x := range found {
		if !strings.HasPrefix(x.Match, "file detected: ") {
			kept = append(kept, x)
		}
	}
	return kept
}

func finding(path string, line int, x report.Finding, why string) review.Finding {
	what, _, _ := strings.Cut(x.Description, ", ") // what might come of it is the same for all
	f := review.Finding{
		Rule: x.RuleID, Severity: review.Error, File: path, Line: line, Why: why,
		Message: strings.TrimSuffix(what, ".") + ".",
		Cause:   "secret " + x.Secret, Private: true,
	}
	if n := len([]rune(x.Secret)); n > 0 {
		f.Message += fmt.Sprintf(" The secret has %d characters and is not shown.", n)
	}
	f.Message += " Remove it, and revoke it: who can read the repository has it already."
	return f
}

// piece is a run of added lines that follow each other in the file.
type piece struct {
	first int // the number of its first line
	text  string
}

// pieces joins added lines that follow each other.
func pieces(lines []review.Line) []piece {
	var out []piece
	for at := 0; at < len(lines); {
		end, size := at, 0
		for end < len(lines) && lines[end].N == lines[at].N+end-at && size <= pieceBytes {
			size += len(lines[end].Text) + 1
			end++
		}
		var b strings.Builder
		b.Grow(size)
		for _, l := range lines[at:end] {
			b.WriteString(l.Text)
			b.WriteByte('\n')
		}
		out = append(out, piece{lines[at].N, b.String()})
		more := end < len(lines) && lines[end].N == lines[end-1].N+1
		if more && end-at > 2*overlapLines {
			end -= overlapLines
		}
		at = end
	}
	return out
}
