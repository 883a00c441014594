package goanalysis

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/gcexportdata"
	"golang.org/x/tools/go/packages"

	"github.com/bightdev/bight/internal/change/review"
)

// maxSourceDeps is how many packages of the same module, imported by one that is
// reviewed, are read from source for what they say about their own functions.
const maxSourceDeps = 24

// list asks the go command for the touched packages and all that they import.
func (c *Checker) list(ctx context.Context, root string, m *module) ([]*packages.Package, error) {
	cfg := &packages.Config{
		Context: ctx,
		Dir:     filepath.Join(root, filepath.FromSlash(m.dir)),
		Env:     c.environ(),
		Tests:   slices.ContainsFunc(m.dirs, m.tests),
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps |
			packages.NeedModule | packages.NeedExportFile | packages.NeedTypesSizes | packages.NeedForTest,
	}
	var patterns []string
	for _, dir := range m.dirs {
		rel, err := filepath.Rel(filepath.FromSlash(m.dir), filepath.FromSlash(dir))
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, "./"+filepath.ToSlash(rel))
	}
	pkgs, err := packages.Load(cfg, patterns...)
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return pkgs, nil
}

// leftOut says which touched files no loaded package has.
func leftOut(root string, m *module, pkgs []*packages.Package) []review.Unchecked {
	have := map[string]bool{}
	for _, p := range pkgs {
		for _, f := range slices.Concat(p.GoFiles, p.CompiledGoFiles) {
			have[f] = true
		}
	}
	var out []review.Unchecked
	for _, dir := range m.dirs {
		for _, base := range m.files[dir] {
			name := filepath.Join(root, filepath.FromSlash(dir), base)
			if !have[name] {
				out = append(out, review.Unchecked{
					What: filepath.ToSlash(filepath.Join(dir, base)),
					Why:  "it is not part of a build on this machine (build constraints or file name), so its package was analysed without it",
				})
			}
		}
	}
	return out
}

// universe is a set of packages that are type-checked together: the plain ones, or
// those that one package's tests see.
type universe struct {
	root    string // of the checkout
	forTest string
	targets []*packages.Package // to be reviewed
	source  map[*packages.Package]bool

	fset    *token.FileSet
	known   map[string]*types.Package // by path
	checked map[*packages.Package]bool
	broken  map[*packages.Package][]problem // in a target
}

func (u *universe) what() string {
	names := make([]string, len(u.targets))
	for i, p := range u.targets {
		names[i] = p.PkgPath
	}
	return strings.Join(names, ", ")
}

// universes sorts the loaded packages. A package whose tests the change touches is
// reviewed together with them.
func universes(root string, m *module, pkgs []*packages.Package) []*universe {
	tested := map[string]bool{}
	for _, p := range pkgs {
		if p.ForTest != "" && m.tests(dirOf(root, p)) {
			tested[p.ForTest] = true
		}
	}
	var out []*universe
	of := map[string]*universe{}
	for _, p := range pkgs {
		if strings.HasSuffix(p.ID, ".test") && p.ForTest == "" && p.Name == "main" && len(p.GoFiles) == 0 {
			continue
		}
		if strings.HasSuffix(p.PkgPath, ".test") || tested[p.PkgPath] && p.ForTest == "" || p.ForTest != "" && !tested[p.ForTest] {
			continue
		}
		u := of[p.ForTest]
		if u == nil {
			u = &universe{
				root: root, forTest: p.ForTest, source: map[*packages.Package]bool{},
				fset: token.NewFileSet(), known: map[string]*types.Package{"unsafe": types.Unsafe},
				checked: map[*packages.Package]bool{}, broken: map[*packages.Package][]problem{},
			}
			of[p.ForTest] = u
			out = append(out, u)
		}
		u.targets = append(u.targets, p)
		u.source[p] = true
	}
	for _, u := range out {
		u.addSourceDeps()
	}
	return out
}

func dirOf(root string, p *packages.Package) string {
	for _, f := range slices.Concat(p.GoFiles, p.OtherFiles) {
		if rel, err := filepath.Rel(root, filepath.Dir(f)); err == nil {
			return filepath.ToSlash(rel)
		}
	}
	return ""
}

func (u *universe) addSourceDeps() {
	for _, t := range u.targets {
		for _, dep := range sortedImports(t) {
			if len(u.source)-len(u.targets) < maxSourceDeps && dep.Module != nil && dep.Module.Main && len(dep.CompiledGoFiles) > 0 {
				u.source[dep] = true
			}
		}
	}
}

func sortedImports(p *packages.Package) []*packages.Package {
	var out []*packages.Package
	for _, dep := range p.Imports {
		out = append(out, dep)
	}
	slices.SortFunc(out, func(a, b *packages.Package) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// problem is something that keeps a package from compiling.
type problem struct {
	pos token.Position
	msg string
}

// load type-checks what is read from source, imports first.
func (u *universe) load(ctx context.Context) error {
	for _, t := range u.targets {
		if err := u.check(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (u *universe) check(ctx context.Context, p *packages.Package) error {
	if u.checked[p] {
		return nil
	}
	u.checked[p] = true
	for _, dep := range u.sourceBelow(p, map[*packages.Package]bool{}) {
		if err := u.check(ctx, dep); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	u.parse(p)
	p.Fset = u.fset
	p.TypesInfo = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Implicits: map[ast.Node]types.Object{}, Instances: map[*ast.Ident]types.Instance{}, Scopes: map[ast.Node]*types.Scope{},
		Selections: map[*ast.SelectorExpr]*types.Selection{}, FileVersions: map[*ast.File]string{},
	}
	cfg := types.Config{
		Importer: importer{u, p},
		Sizes:    p.TypesSizes,
		Error:    func(err error) { u.note(p, err) },
	}
	if p.Module != nil && p.Module.GoVersion != "" {
		cfg.GoVersion = "go" + p.Module.GoVersion
	}
	p.Types, _ = cfg.Check(p.PkgPath, u.fset, p.Syntax, p.TypesInfo) // errors went to note
	u.known[p.PkgPath] = p.Types
	return nil
}

// sourceBelow returns the packages read from source that p imports, through
// whatever lies between: one identity for each package, or types don't match.
func (u *universe) sourceBelow(p *packages.Package, seen map[*packages.Package]bool) []*packages.Package {
	var out []*packages.Package
	for _, dep := range sortedImports(p) {
		if seen[dep] {
			continue
		}
		seen[dep] = true
		out = append(out, u.sourceBelow(dep, seen)...)
		if u.source[dep] {
			out = append(out, dep)
		}
	}
	return out
}

func (u *universe) parse(p *packages.Package) {
	p.Syntax = nil
	for _, name := range p.CompiledGoFiles {
		if filepath.Ext(name) != ".go" {
			continue
		}
		f, err := parser.ParseFile(u.fset, name, nil, parser.ParseComments|parser.SkipObjectResolution|parser.AllErrors)
		if err != nil {
			u.note(p, err)
		}
		if f != nil {
			p.Syntax = append(p.Syntax, f)
		}
	}
}

// note keeps what is wrong with a package, in a form that does not depend on who
// found it.
func (u *universe) note(p *packages.Package, err error) {
	p.IllTyped = true
	var te types.Error
	var list scanner.ErrorList
	switch {
	case errors.As(err, &te):
		p.TypeErrors = append(p.TypeErrors, te)
		u.broken[p] = append(u.broken[p], problem{u.position(te.Pos), te.Msg})
	case errors.As(err, &list) && len(list) > 0:
		// Whatever follows in the same file is most likely for the same cause.
		u.broken[p] = append(u.broken[p], problem{list[0].Pos, list[0].Msg})
	default:
		u.broken[p] = append(u.broken[p], problem{msg: err.Error()})
	}
}

// position returns where something is in the checkout. Files that cgo generates
// say where they are from; everywhere else, line directives have no say.
func (u *universe) position(pos token.Pos) token.Position {
	at := u.fset.PositionFor(pos, false)
	if !inside(u.root, at.Filename) {
		return u.fset.Position(pos)
	}
	return at
}

func inside(root, name string) bool {
	rel, err := filepath.Rel(root, name)
	return err == nil && filepath.IsLocal(rel)
}

// importer gives a package what it imports.
type importer struct {
	u *universe
	p *packages.Package
}

func (i importer) Import(path string) (*types.Package, error) {
	if path == "unsafe" {
		return types.Unsafe, nil
	}
	dep := i.p.Imports[path]
	if dep == nil {
		return nil, errors.New("the go command does not know it")
	}
	if p := i.u.known[dep.PkgPath]; p != nil && p.Complete() {
		return p, nil
	}
	if i.u.source[dep] {
		return nil, errors.New("it imports this package")
	}
	return i.u.readExport(dep)
}

func (u *universe) readExport(p *packages.Package) (*types.Package, error) {
	if p.ExportFile == "" {
		return nil, errors.New(firstError(p))
	}
	f, err := os.Open(p.ExportFile)
	if err != nil {
		return nil, fmt.Errorf("read its export data: %w", err)
	}
	defer f.Close()
	r, err := gcexportdata.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read its export data: %w", err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read its export data: %w", err)
	}
	t, err := gcexportdata.Read(strings.NewReader(string(b)), u.fset, u.known, p.PkgPath)
	if err != nil {
		return nil, fmt.Errorf("read its export data: %w", err)
	}
	return t, nil
}

// firstError says why a package has no export data.
func firstError(p *packages.Package) string {
	if len(p.Errors) > 0 {
		return p.Errors[0].Msg
	}
	for _, dep := range sortedImports(p) {
		if len(dep.Errors) > 0 {
			return dep.PkgPath + ": " + dep.Errors[0].Msg
		}
	}
	return "it does not compile"
}
