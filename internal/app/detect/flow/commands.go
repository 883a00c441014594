package flow

import (
	"go/ast"
	"slices"
)

// Reaching returns a test of whether the function that e, a part of the literal
// l, stands for may make one of the calls or evaluate one of the literals.
func (p *Program) Reaching(sites []*Site, literals []*Literal) func(e ast.Expr, l *Literal) bool {
	callers := map[*fn][]*fn{}
	for _, f := range p.fns {
		for _, s := range f.scan().sites {
			for _, g := range p.leadsTo(s) {
				callers[g] = append(callers[g], f)
			}
		}
	}
	direct := map[*fn]bool{}
	for _, s := range sites {
		direct[s.fn] = true
	}
	for _, x := range literals {
		direct[x.fn] = true
	}
	reaching := map[*fn]bool{}
	var work []*fn
	for f := range direct {
		work = append(work, f)
	}
	for len(work) > 0 {
		f := work[len(work)-1]
		work = work[:len(work)-1]
		if !reaching[f] {
			reaching[f] = true
			work = append(work, callers[f]...)
		}
	}
	return func(e ast.Expr, l *Literal) bool {
		lit, ok := unparen(e).(*ast.FuncLit)
		if !ok {
			g := p.funcValue(e, l.fn, 0).fn
			return g != nil && reaching[g]
		}
		in := func(n ast.Node) bool { return lit.Pos() <= n.Pos() && n.End() <= lit.End() }
		for _, s := range sites {
			if s.fn == l.fn && in(s.Call) {
				return true
			}
		}
		for _, x := range literals {
			if x.fn == l.fn && in(x.Lit) {
				return true
			}
		}
		for _, s := range l.fn.scan().sites {
			if in(s.Call) && slices.ContainsFunc(p.leadsTo(s), func(g *fn) bool { return reaching[g] }) {
				return true
			}
		}
		return false
	}
}

// leadsTo are the functions of the tree that a call runs: the callee, and what
// it is given to run.
func (p *Program) leadsTo(s *Site) []*fn {
	var out []*fn
	if g := p.callees[s].fn; g != nil {
		out = append(out, g)
	} else if c := p.callees[s]; c.Path == "" && c.Name != "" {
		for _, k := range p.order { // a method of an interface
			for _, m := range k.methods[c.Name] {
				if p.reached[m] {
					out = append(out, m)
				}
			}
		}
	}
	for _, a := range s.Call.Args {
		if g := p.namedFunc(a, s.fn); g != nil {
			out = append(out, g)
		}
	}
	return out
}

// namedFunc is the function or method of the tree that e names, or nil.
func (p *Program) namedFunc(e ast.Expr, f *fn) *fn {
	switch e := unparen(e).(type) {
	case *ast.Ident:
		if f.scan().uses[e] == nil {
			return f.pkg().funcs[e.Name]
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && f.scan().uses[x] == nil {
			if k := p.imported(f.file, x.Name); k != nil {
				return k.funcs[e.Sel.Name]
			}
		}
		for _, k := range p.order {
			if len(k.methods[e.Sel.Name]) > 0 {
				return p.resolve(&ast.CallExpr{Fun: e}, f).fn
			}
		}
	}
	return nil
}

// Parent is the command literal that l is added to with AddCommand, or nil.
func (p *Program) Parent(l *Literal) *Literal {
	for _, s := range p.Sites {
		if p.callees[s].Name != "AddCommand" || s.Receiver() == nil {
			continue
		}
		for _, a := range s.Call.Args {
			if p.litOf(a, s.fn, 0) == l {
				return p.litOf(s.Receiver(), s.fn, 0)
			}
		}
	}
	return nil
}

// litOf is the composite literal that an expression stands for.
func (p *Program) litOf(e ast.Expr, f *fn, depth int) *Literal {
	if depth > 6 {
		return nil
	}
	switch e := unparen(e).(type) {
	case *ast.UnaryExpr:
		return p.litOf(e.X, f, depth)
	case *ast.CompositeLit:
		for _, l := range f.scan().literals {
			if l.Lit == e {
				return l
			}
		}
	case *ast.Ident:
		if l := f.scan().uses[e]; l != nil {
			for _, a := range l.assigns {
				if a.kind == plain && a.index <= 0 {
					if x := p.litOf(a.rhs, f, depth+1); x != nil {
						return x
					}
				}
			}
			return p.litOfParam(l, depth)
		}
		return p.litOfGlobal(f.pkg(), e.Name, depth)
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			if k := p.imported(f.file, x.Name); k != nil {
				return p.litOfGlobal(k, e.Sel.Name, depth)
			}
		}
	case *ast.CallExpr:
		s := p.siteOf[e]
		if s == nil || p.callees[s].fn == nil {
			return nil
		}
		g := p.callees[s].fn
		for _, r := range g.scan().returns {
			if len(r.results) > 0 {
				if x := p.litOf(r.results[0], g, depth+1); x != nil {
					return x
				}
			}
		}
	}
	return nil
}

func (p *Program) litOfParam(l *local, depth int) *Literal {
	if l.param < 0 {
		return nil
	}
	for _, s := range p.callers[l.owner] {
		if l.param < len(s.Call.Args) {
			if x := p.litOf(s.Call.Args[l.param], s.fn, depth+1); x != nil {
				return x
			}
		}
	}
	return nil
}

func (p *Program) litOfGlobal(k *Package, name string, depth int) *Literal {
	g := k.vars[name]
	if g == nil {
		return nil
	}
	if g.expr != nil {
		return p.litOf(g.expr, g.file.inits, depth+1)
	}
	for _, b := range p.bindings["."+name] {
		if b.assign.kind == plain && b.assign.index <= 0 {
			if x := p.litOf(b.assign.rhs, b.fn, depth+1); x != nil {
				return x
			}
		}
	}
	return nil
}
