package goanalysis

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/checker"
	"golang.org/x/tools/go/packages"
	"honnef.co/go/tools/analysis/facts/deprecated"
	"honnef.co/go/tools/analysis/lint"

	"github.com/bightdev/bight/internal/change/review"
)

// review loads and analyses the targets.
func (u *universe) review(ctx context.Context, in *review.Input) (review.Result, error) {
	var res review.Result
	if err := u.load(ctx); err != nil {
		return res, err
	}
	var whole []*packages.Package
	for _, p := range u.targets {
		findings, notes := u.compileFindings(in, p)
		res.Findings = append(res.Findings, findings...)
		res.Unchecked = append(res.Unchecked, notes...)
		if !p.IllTyped && p.Types != nil {
			whole = append(whole, p)
			continue
		}
		res.Unchecked = append(res.Unchecked, review.Unchecked{
			What: p.PkgPath, Why: "it does not compile, so vet and staticcheck did not look at it",
		})
	}
	if len(whole) == 0 {
		return res, nil
	}
	findings, notes, err := u.analyse(ctx, whole)
	res.Findings = append(res.Findings, findings...)
	res.Unchecked = append(res.Unchecked, notes...)
	return res, err
}

// analyse runs the rules. Facts travel between packages that were read from
// source, so the imports that were not are hidden from the driver meanwhile.
func (u *universe) analyse(ctx context.Context, pkgs []*packages.Package) ([]review.Finding, []review.Unchecked, error) {
	all, restore := u.hideImports()
	defer restore()

	w := wrapper{ctx: ctx, clones: map[*analysis.Analyzer]*analysis.Analyzer{}, imports: all}
	suite := rules()
	byClone := make(map[*analysis.Analyzer]rule, len(suite))
	var roots []*analysis.Analyzer
	for _, r := range suite {
		a := w.clone(r.analyzer)
		byClone[a] = r
		roots = append(roots, a)
	}
	graph, err := checker.Analyze(roots, pkgs, nil)
	if err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	ignored := u.ignores(pkgs)
	var out []review.Finding
	failed := map[string][]string{}
	for _, act := range graph.Roots {
		r := byClone[act.Analyzer]
		if act.Err != nil {
			failed[act.Package.PkgPath] = append(failed[act.Package.PkgPath], fmt.Sprintf("%s: %v", r.analyzer.Name, act.Err))
			continue
		}
		for _, d := range act.Diagnostics {
			if f, ok := u.finding(r, d); ok && !ignored.has(f) {
				out = append(out, f)
			}
		}
	}
	return out, crashes(failed), nil
}

func crashes(failed map[string][]string) []review.Unchecked {
	var out []review.Unchecked
	for pkg, why := range failed {
		slices.Sort(why)
		first := why[0]
		if len(why) > 1 {
			first += fmt.Sprintf(" (and %d more rules)", len(why)-1)
		}
		out = append(out, review.Unchecked{What: pkg, Why: first})
	}
	slices.SortFunc(out, func(a, b review.Unchecked) int { return cmp.Compare(a.What, b.What) })
	return out
}

// imports keeps what packages import while the driver must not see it.
type imports map[*packages.Package]map[string]*packages.Package

// hideImports leaves each package only those imports that were read from source
// and are in order.
func (u *universe) hideImports() (all imports, restore func()) {
	all = imports{}
	for p := range u.source {
		all[p] = p.Imports
		kept := map[string]*packages.Package{}
		for name, dep := range p.Imports {
			if u.source[dep] && u.checked[dep] && !dep.IllTyped && dep.Types != nil {
				kept[name] = dep
			}
		}
		p.Imports = kept
	}
	return all, func() {
		for p, old := range all {
			p.Imports = old
		}
	}
}

// wrapper stands between the driver and the analyzers: a crash becomes an error,
// the end of ctx is seen between any two of them, and what is deprecated in
// packages that were not read from source is looked up.
type wrapper struct {
	ctx    context.Context
	clones map[*analysis.Analyzer]*analysis.Analyzer

	imports imports
}

func (w *wrapper) clone(a *analysis.Analyzer) *analysis.Analyzer {
	if c := w.clones[a]; c != nil {
		return c
	}
	c := *a
	w.clones[a] = &c
	c.Requires = nil
	for _, req := range a.Requires {
		c.Requires = append(c.Requires, w.clone(req))
	}
	c.Run = func(pass *analysis.Pass) (any, error) { return w.run(a, pass) }
	return &c
}

func (w *wrapper) run(a *analysis.Analyzer, pass *analysis.Pass) (result any, err error) {
	if w.ctx.Err() != nil {
		return nil, context.Cause(w.ctx)
	}
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("%w: %v", errCrashed, p)
		}
	}()
	mine := *pass
	mine.Analyzer = a
	mine.ResultOf = make(map[*analysis.Analyzer]any, len(a.Requires))
	for _, req := range a.Requires {
		mine.ResultOf[req] = pass.ResultOf[w.clones[req]]
	}
	result, err = a.Run(&mine)
	if d, ok := result.(deprecated.Result); ok && err == nil && a == deprecated.Analyzer {
		w.addDeprecated(pass, d)
	}
	return result, err
}

// finding makes a finding of a diagnostic, if that is at a place in the checkout.
func (u *universe) finding(r rule, d analysis.Diagnostic) (review.Finding, bool) {
	at := u.position(d.Pos)
	file, ok := u.relative(at.Filename)
	if !ok {
		return review.Finding{}, false
	}
	f := review.Finding{
		Rule: r.analyzer.Name, Tool: r.tool, Severity: r.severity, Message: d.Message, URL: d.URL,
		File: file, Line: at.Line, Column: at.Column, ByteColumns: true, Style: r.style, Cause: cause(r.analyzer.Name),
	}
	if d.End.IsValid() {
		end := u.position(d.End)
		f.EndLine, f.EndColumn = end.Line, end.Column
	}
	for _, fix := range d.SuggestedFixes {
		if x, ok := u.fix(fix); ok {
			f.Fixes = append(f.Fixes, x)
		}
	}
	return f, true
}

func (u *universe) fix(fix analysis.SuggestedFix) (review.Fix, bool) {
	out := review.Fix{Message: fix.Message}
	for _, e := range fix.TextEdits {
		from := u.fset.PositionFor(e.Pos, false)
		to := from
		if e.End.IsValid() {
			to = u.fset.PositionFor(e.End, false)
		}
		file, ok := u.relative(from.Filename)
		if !ok {
			return out, false
		}
		out.Edits = append(out.Edits, review.Edit{
			File: file, Line: from.Line, Column: from.Column, EndLine: to.Line, EndColumn: to.Column, New: string(e.NewText),
		})
	}
	return out, len(out.Edits) > 0
}

func (u *universe) relative(name string) (string, bool) {
	rel, err := filepath.Rel(u.root, name)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// ignores is what "//lint:ignore RULES reason" comments ask for.
type ignores map[string][]ignore // by file

type ignore struct {
	line  int // 0 is the whole file
	rules []string
}

func (u *universe) ignores(pkgs []*packages.Package) ignores {
	out := ignores{}
	for _, p := range pkgs {
		for _, d := range lint.ParseDirectives(p.Syntax, u.fset) {
			if len(d.Arguments) < 2 {
				continue // without a reason it has no effect, as in staticcheck
			}
			at := u.position(d.Node.Pos())
			file, ok := u.relative(at.Filename)
			if !ok {
				continue
			}
			x := ignore{line: at.Line, rules: strings.Split(d.Arguments[0], ",")}
			switch d.Command {
			case "ignore":
			case "file-ignore":
				x.line = 0
			default:
				continue
			}
			out[file] = append(out[file], x)
		}
	}
	return out
}

func (i ignores) has(f review.Finding) bool {
	for _, x := range i[f.File] {
		if x.line != 0 && x.line != f.Line {
			continue
		}
		for _, r := range x.rules {
			if ok, err := path.Match(r, f.Rule); ok && err == nil {
				return true
			}
		}
	}
	return false
}
