// Package vulns finds known vulnerabilities that a change brings in: a dependency
// at a version that has one, or a call on a changed line that reaches one. Its
// main type is [Checker]; the search is govulncheck's, in this process.
//
// A Checker is settings only and may be used from many goroutines.
package vulns

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/vuln/scan"

	"github.com/bightdev/bight/internal/change/review"
)

// Checker looks up a change's Go modules in a database of vulnerabilities.
type Checker struct {
	// Database is a directory with a copy of a Go vulnerability database, or its
	// URL. "" means that there is none; the report says so then.
	Database string

	Env []string // the environment of the go command; nil is this process's
}

// Name implements [review.Checker].
func (c *Checker) Name() string { return "vulns" }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	modules := touched(in)
	if len(modules) == 0 {
		return review.Result{}, nil
	}
	if c.Database == "" {
		return review.Result{}, errors.New("no database: name the worker a directory with a copy of https://vuln.go.dev, by --vuln-db or $GOVULNDB")
	}
	db, err := c.url()
	if err != nil {
		return review.Result{}, err
	}
	var res review.Result
	for _, m := range modules {
		findings, err := c.module(ctx, in, db, m)
		if err != nil {
			if ctx.Err() != nil {
				return res, context.Cause(ctx)
			}
			res.Unchecked = append(res.Unchecked, review.Unchecked{What: "the Go module in " + m.dir, Why: err.Error()})
			continue
		}
		res.Findings = append(res.Findings, findings...)
	}
	return res, nil
}

func (c *Checker) url() (string, error) {
	if strings.Contains(c.Database, "://") {
		return c.Database, nil
	}
	dir, err := filepath.Abs(c.Database)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(filepath.Join(dir, "index")); err != nil || !info.IsDir() {
		return "", fmt.Errorf("no database: %s has no directory index, so it is no copy of a Go vulnerability database", c.Database)
	}
	return "file://" + filepath.ToSlash(dir), nil
}

// module is a Go module of the checkout that a change touches.
type module struct {
	dir  string          // relative to the checkout
	dirs map[string]bool // of changed Go files, relative to the module; tests don't count
	mod  bool            // go.mod changes
}

func (m *module) patterns() []string {
	var out []string
	for d := range m.dirs {
		out = append(out, "./"+d)
	}
	slices.Sort(out)
	return out
}

func touched(in *review.Input) []*module {
	byDir := map[string]*module{}
	for _, f := range in.Diff.Files {
		base := path.Base(f.Path)
		code := path.Ext(base) == ".go" && !strings.HasSuffix(base, "_test.go")
		if f.Kind == review.Deleted || review.Vendored(f.Path) || !code && base != "go.mod" || !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			continue
		}
		root, ok := moduleRoot(in.Dir, path.Dir(f.Path))
		if !ok {
			continue // package goanalysis says so
		}
		m := byDir[root]
		if m == nil {
			m = &module{dir: root, dirs: map[string]bool{}}
			byDir[root] = m
		}
		if !code {
			m.mod = true
		} else if rel, err := filepath.Rel(root, path.Dir(f.Path)); err == nil {
			m.dirs[filepath.ToSlash(rel)] = true
		}
	}
	var out []*module
	for _, m := range byDir {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *module) int { return cmp.Compare(a.dir, b.dir) })
	return out
}

func moduleRoot(root, dir string) (string, bool) {
	for {
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(dir), "go.mod")); err == nil {
			return dir, true
		}
		if dir == "." {
			return "", false
		}
		dir = path.Dir(dir)
	}
}

// module scans one module: first which of the modules and packages that it uses are
// known to be vulnerable, for which nothing has to be compiled, and only if there
// are any, which calls lead there.
func (c *Checker) module(ctx context.Context, in *review.Input, db string, m *module) ([]review.Finding, error) {
	dir := filepath.Join(in.Dir, filepath.FromSlash(m.dir))
	patterns := []string{"./..."}
	if !m.mod {
		patterns = m.patterns()
	}
	known, err := c.scan(ctx, dir, db, "package", patterns...)
	if err != nil {
		return nil, err
	}
	var out []review.Finding
	if m.mod {
		b, err := in.Read(path.Join(m.dir, "go.mod"))
		if err != nil {
			return nil, err
		}
		out = append(out, known.required(path.Join(m.dir, "go.mod"), b)...)
	}
	imported := slices.ContainsFunc(known.found, func(f finding) bool { return f.Trace[0].Package != "" })
	if !imported || len(m.dirs) == 0 {
		return out, nil
	}
	calls, err := c.scan(ctx, dir, db, "symbol", m.patterns()...)
	if err != nil {
		return out, err
	}
	return append(out, calls.called(m.dir, in.Diff)...), nil
}

func (c *Checker) scan(ctx context.Context, dir, db, level string, patterns ...string) (*result, error) {
	cmd := scan.Command(ctx, append([]string{"-C", dir, "-db", db, "-format", "json", "-scan", level}, patterns...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = strings.NewReader(""), &stdout, &stderr, c.Env
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return nil, fmt.Errorf("look for known vulnerabilities: %w", err)
	}
	return decode(&stdout)
}

// result is what a scan says.
type result struct {
	entries map[string]entry
	found   []finding
}

// entry is one vulnerability of the database.
type entry struct {
	ID       string   `json:"id"`
	Summary  string   `json:"summary"`
	Aliases  []string `json:"aliases"`
	Database struct {
		URL string `json:"url"`
	} `json:"database_specific"`
}

// finding is one way that a vulnerability concerns the module. The first frame of
// its trace is the vulnerable symbol, the last is the entry point.
type finding struct {
	OSV   string  `json:"osv"`
	Fixed string  `json:"fixed_version"`
	Trace []frame `json:"trace"`
}

type frame struct {
	Module   string `json:"module"`
	Version  string `json:"version"`
	Package  string `json:"package"`
	Function string `json:"function"`
	Receiver string `json:"receiver"`
	Position *struct {
		File   string `json:"filename"` // relative to the module
		Line   int    `json:"line"`
		Column int    `json:"column"`
	} `json:"position"`
}

func (f frame) symbol() string {
	return strings.Join(slices.DeleteFunc([]string{f.Package, strings.TrimPrefix(f.Receiver, "*"), f.Function},
		func(s string) bool { return s == "" }), ".")
}

func decode(r io.Reader) (*result, error) {
	out := &result{entries: map[string]entry{}}
	dec := json.NewDecoder(r)
	for {
		var msg struct {
			OSV     *entry   `json:"osv"`
			Finding *finding `json:"finding"`
		}
		err := dec.Decode(&msg)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read what the scan says: %w", err)
		}
		if msg.OSV != nil {
			out.entries[msg.OSV.ID] = *msg.OSV
		}
		if msg.Finding != nil && len(msg.Finding.Trace) > 0 {
			out.found = append(out.found, *msg.Finding)
		}
	}
}

// required returns a finding for each line of a go.mod that asks for a vulnerable
// version; the review keeps those of changed lines.
func (r *result) required(name string, mod []byte) []review.Finding {
	f, err := modfile.ParseLax(name, mod, nil)
	if err != nil {
		return nil // the go command says it better
	}
	var out []review.Finding
	for _, x := range r.found {
		m := x.Trace[0]
		for _, req := range f.Require {
			if req.Mod.Path != m.Module {
				continue
			}
			line := req.Syntax.Start.Line
			if slices.ContainsFunc(out, func(o review.Finding) bool { return o.Line == line && o.Rule == x.OSV }) {
				continue
			}
			out = append(out, r.finding(x, review.Warning, name, line, 0,
				fmt.Sprintf("%s %s has a known vulnerability", m.Module, req.Mod.Version)))
		}
	}
	return out
}

// called returns a finding for each vulnerability that a changed line leads to.
func (r *result) called(dir string, d *review.Diff) []review.Finding {
	var out []review.Finding
	for _, x := range r.found {
		top := x.Trace[0]
		if top.Function == "" || len(x.Trace) < 2 {
			continue // it is only imported
		}
		for _, fr := range x.Trace[1:] {
			if fr.Position == nil || fr.Position.Line == 0 {
				continue
			}
			file := path.Join(dir, filepath.ToSlash(fr.Position.File))
			fd := d.File(file)
			if fd == nil || !fd.Touches(fr.Position.Line, fr.Position.Line) {
				continue
			}
			if slices.ContainsFunc(out, func(o review.Finding) bool { return o.File == file && o.Line == fr.Position.Line && o.Rule == x.OSV }) {
				break
			}
			f := r.finding(x, review.Error, file, fr.Position.Line, fr.Position.Column, "this call reaches "+top.symbol()+", which has a known vulnerability")
			f.ByteColumns = true
			out = append(out, f)
			break
		}
	}
	return out
}

func (r *result) finding(x finding, s review.Severity, file string, line, column int, text string) review.Finding {
	e := r.entries[x.OSV]
	names := append([]string{x.OSV}, e.Aliases...)
	text += " (" + strings.Join(names, ", ") + ")"
	if e.Summary != "" {
		text += ": " + strings.TrimSuffix(e.Summary, ".")
	}
	switch m := x.Trace[0].Module; {
	case x.Fixed == "":
		text += ". There is no version without it yet."
	case m == "stdlib" || m == "toolchain":
		text += fmt.Sprintf(". It is mended in Go %s.", strings.TrimPrefix(x.Fixed, "v"))
	default:
		text += fmt.Sprintf(". It is mended in %s: go get %s@%s", x.Fixed, m, x.Fixed)
	}
	return review.Finding{
		Rule: x.OSV, Severity: s, Message: text, URL: e.Database.URL, File: file, Line: line, Column: column, Cause: "vulnerability " + x.OSV,
	}
}
