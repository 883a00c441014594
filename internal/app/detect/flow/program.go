package flow

import (
	"cmp"
	"context"
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// Program is one package main and everything of the source tree that it may run.
type Program struct {
	Loader *Loader
	Main   *Package
	// Sites are the calls that the program may make, Literals the composite
	// literals that it may evaluate.
	Sites    []*Site
	Literals []*Literal

	pkgs     map[string]*Package // by directory
	order    []*Package
	reached  map[*fn]bool
	fns      []*fn // reached, in the order they were found
	always   map[*fn]bool
	named    map[string]bool // methods that somebody calls or mentions
	typed    map[*typeDecl]bool
	bindings map[string][]binding // by field, or by "." and the global's name
	callers  map[ast.Node][]*Site
	callees  map[*Site]Callee
	siteOf   map[*ast.CallExpr]*Site
	flags    map[string]flagDef
	fields   map[string]Value // memo of evalField
	globals  map[string]Value // memo of evalGlobal
	busy     map[string]bool
	keys     settings
	tags     map[string]Tag // by type and field
	looked   int            // steps of the present search for a function's value
	homes    map[*ast.FuncLit]*fn
	ev       evaluator
}

// Load reads the package main in dir and what it reaches.
func (l *Loader) Load(ctx context.Context, dir string) (*Program, error) {
	pkgs, err := l.closure(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	p := &Program{
		Loader: l, Main: pkgs[0], order: pkgs, pkgs: map[string]*Package{},
		reached: map[*fn]bool{}, always: map[*fn]bool{}, named: map[string]bool{}, typed: map[*typeDecl]bool{},
		bindings: map[string][]binding{}, callers: map[ast.Node][]*Site{}, callees: map[*Site]Callee{},
		siteOf: map[*ast.CallExpr]*Site{}, flags: map[string]flagDef{},
		fields: map[string]Value{}, globals: map[string]Value{}, busy: map[string]bool{},
	}
	p.ev.p = p
	for _, k := range pkgs {
		p.pkgs[k.Dir] = k
	}
	p.reachAll()
	p.collect()
	p.resolveAll()
	p.spread(p.roots())
	p.findFlags()
	p.findSettings()
	p.findTags()
	return p, nil
}

// Imports reports whether a file of the program imports a path for which match
// is true.
func (p *Program) Imports(match func(importPath string) bool) bool {
	for _, k := range p.order {
		for _, f := range k.files {
			for _, ip := range f.imports {
				if match(ip) {
					return true
				}
			}
		}
	}
	return false
}

// Packages returns the packages that the program is made of.
func (p *Program) Packages() []*Package { return p.order }

// MainPos is where func main is, or the start of the package.
func (p *Program) MainPos() token.Pos {
	if f := p.Main.funcs["main"]; f != nil {
		return f.decl.Name.Pos()
	}
	if len(p.Main.files) > 0 {
		return p.Main.files[0].ast.Package
	}
	return token.NoPos
}

func (p *Program) roots() []*fn {
	var out []*fn
	if f := p.Main.funcs["main"]; f != nil {
		out = append(out, f)
	}
	for _, k := range p.order {
		for _, f := range k.files {
			out = append(out, f.inits)
			for _, d := range f.ast.Decls {
				if fd, ok := d.(*ast.FuncDecl); ok && fd.Recv == nil && fd.Name.Name == "init" {
					if g := k.funcs[fmt.Sprint("init ", int(fd.Pos()))]; g != nil {
						out = append(out, g)
					}
				}
			}
		}
	}
	return out
}

// reachAll finds the functions that may run: those that are mentioned by one
// that may, and the methods of the types that are mentioned. Exported methods
// count even when nobody in the tree calls them, since a library may.
func (p *Program) reachAll() {
	for _, f := range p.roots() {
		p.reach(f)
	}
	for i := 0; i < len(p.fns); i++ {
		f := p.fns[i]
		in := f.scan()
		for name := range in.idents {
			p.mention(f.pkg(), name)
		}
		for q := range in.quals {
			if k := p.imported(f.file, q[0]); k != nil {
				p.mention(k, q[1])
			}
		}
		for s := range in.sels {
			p.mentionMethod(s)
		}
	}
}

func (p *Program) reach(f *fn) {
	if p.reached[f] {
		return
	}
	p.reached[f] = true
	p.fns = append(p.fns, f)
}

// collect gathers what is in the functions that were reached, in the order of
// the source: the main package first, files by name.
func (p *Program) collect() {
	index := map[*Package]int{}
	for i, k := range p.order {
		index[k] = i
	}
	slices.SortFunc(p.fns, func(a, b *fn) int {
		return cmp.Or(cmp.Compare(index[a.pkg()], index[b.pkg()]), cmp.Compare(a.file.name, b.file.name), cmp.Compare(a.start(), b.start()))
	})
	for _, f := range p.fns {
		in := f.scan()
		p.Sites = append(p.Sites, in.sites...)
		p.Literals = append(p.Literals, in.literals...)
		for _, s := range in.sites {
			p.siteOf[s.Call] = s
		}
		for _, b := range in.bindings {
			switch {
			case b.target.field != "":
				p.bindings[b.target.field] = append(p.bindings[b.target.field], b)
			case b.target.global != "":
				k := "." + b.target.global
				p.bindings[k] = append(p.bindings[k], b)
			}
		}
	}
}

// start is where f begins in its file; what initializes variables comes first.
func (f *fn) start() token.Pos {
	if f.decl == nil {
		return token.NoPos
	}
	return f.decl.Pos()
}

func (p *Program) mention(k *Package, name string) {
	if f := k.funcs[name]; f != nil {
		p.reach(f)
	}
	if t := k.types[name]; t != nil {
		p.mentionType(t)
	}
}

func (p *Program) mentionType(t *typeDecl) {
	if p.typed[t] {
		return
	}
	p.typed[t] = true
	k := t.file.pkg
	for name, list := range k.methods {
		for _, m := range list {
			if m.recv == t.spec.Name.Name && (ast.IsExported(name) || p.named[name]) {
				p.reach(m)
			}
		}
	}
	ast.Inspect(t.spec.Type, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				if o := p.imported(t.file, x.Name); o != nil {
					p.mention(o, n.Sel.Name)
				}
			}
			return false
		case *ast.Ident:
			if u := k.types[n.Name]; u != nil {
				p.mentionType(u)
			}
		}
		return true
	})
}

func (p *Program) mentionMethod(name string) {
	if p.named[name] {
		return
	}
	p.named[name] = true
	if ast.IsExported(name) {
		return // reached with its type
	}
	for _, k := range p.order {
		for _, m := range k.methods[name] {
			if t := k.types[m.recv]; t != nil && p.typed[t] {
				p.reach(m)
			}
		}
	}
}

// imported returns the package of the tree that a file knows by that name.
func (p *Program) imported(f *file, name string) *Package {
	if ip, ok := f.imports[name]; ok {
		if d, ok := f.local[ip]; ok {
			if k := p.pkgs[d]; k != nil && (k.Name == name || aliased(f, ip, name)) {
				return k
			}
		} else {
			return nil
		}
	}
	for _, d := range f.local {
		if k := p.pkgs[d]; k != nil && k.Name == name {
			return k
		}
	}
	return nil
}

func aliased(f *file, ip, name string) bool {
	for _, im := range f.ast.Imports {
		if im.Name != nil && im.Name.Name == name && strings.Trim(im.Path.Value, "`\"") == ip {
			return true
		}
	}
	return false
}

// spread marks what surely runs when the given functions do.
func (p *Program) spread(from []*fn) {
	work := append([]*fn(nil), from...)
	for len(work) > 0 {
		f := work[len(work)-1]
		work = work[:len(work)-1]
		if p.always[f] {
			continue
		}
		p.always[f] = true
		for _, s := range f.scan().sites {
			if s.Conditional {
				continue
			}
			if g := p.callees[s].fn; g != nil {
				work = append(work, g)
			}
			if sel, ok := s.Call.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Go" || sel.Sel.Name == "Do") {
				for _, a := range s.Call.Args {
					if g := p.funcValue(a, f, 0).fn; g != nil {
						work = append(work, g)
					}
				}
			}
		}
	}
}

// Always reports whether the program surely makes the call when it starts.
func (p *Program) Always(s *Site) bool { return !s.Conditional && p.always[s.fn] }

// Run marks the function that e, a part of the literal l, stands for as one that
// surely runs, such as the body of the command that was chosen.
func (p *Program) Run(e ast.Expr, l *Literal) {
	if lit, ok := unparen(e).(*ast.FuncLit); ok {
		for _, s := range l.fn.scan().sites {
			if s.lit == lit {
				s = p.siteOf[s.Call]
				if g := p.callees[s].fn; g != nil {
					p.spread([]*fn{g})
				}
			}
		}
		return
	}
	if g := p.funcValue(e, l.fn, 0).fn; g != nil {
		p.spread([]*fn{g})
	}
}

// Pos is where the call is written: the name that is called, which is on the
// line that a reader looks for in a chain of calls.
func (s *Site) Pos() token.Pos {
	if sel, ok := s.Call.Fun.(*ast.SelectorExpr); ok {
		return sel.Sel.Pos()
	}
	return s.Call.Pos()
}

// Within reports whether the call is made by the function that l is evaluated in.
func (s *Site) Within(l *Literal) bool { return s.fn == l.fn }

// SameFunc reports whether both calls are made by one function.
func (s *Site) SameFunc(t *Site) bool { return s.fn == t.fn }

// FuncName is the name of the function that makes the call.
func (s *Site) FuncName() string { return s.fn.name }

// FuncName is the name of the function that has the literal.
func (l *Literal) FuncName() string { return l.fn.name }
