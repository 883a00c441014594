package flow

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// Needs returns the variables and flags that the program surely ends without,
// each with the place where it is read.
func (p *Program) Needs() []Atom {
	var out []Atom
	for _, f := range p.fns {
		for _, b := range f.scan().branches {
			if b.conditional || !p.always[b.fn] {
				continue
			}
			terms := emptyTests(b.cond, b.negated)
			ends := p.ends(b.body, b.fn, 0)
			if len(terms) == 0 || !ends && !fails(b.body) {
				continue
			}
			for _, e := range terms {
				out = append(out, p.needed(e, b.fn, ends)...)
			}
		}
	}
	for _, d := range p.flags {
		if d.required && d.def == nil {
			v, _ := p.query(&flagExpr{def: d}, d.fn.root())
			out = append(out, bestControl(v)...)
		}
	}
	return out
}

// bestControl is the control by which a value is easiest to give: a variable
// before a flag.
func bestControl(v Value) []Atom {
	var out []Atom
	for _, a := range v {
		if t, ok := a.Control(); ok && (len(out) == 0 || out[0].Kind == Flag && t.Kind == Env) {
			out = []Atom{t}
		}
	}
	return out
}

// needed are the controls that decide whether e is empty. ends tells that the
// program ends at once then; else the function returns an error, and what
// becomes of that is up to its callers.
func (p *Program) needed(e ast.Expr, f *fn, ends bool) []Atom {
	var out []Atom
	for _, cs := range p.expand(e, f) {
		sure := true
		for _, s := range cs.Chain {
			sure = sure && p.Always(s)
		}
		if !ends {
			sure = sure && p.failureEnds(f, cs.Chain)
		}
		if !sure {
			continue
		}
		for _, g := range cs.Value.Groups() {
			// Anything but the empty string stands in for what is not set.
			if !slices.ContainsFunc(g.Consts(), func(a Atom) bool { return a.Text != "" }) && onlyControls(g) {
				out = append(out, bestControl(g)...)
			}
		}
	}
	return out
}

func onlyControls(v Value) bool {
	for _, a := range v {
		_, control := a.Control()
		if _, isConst := a.Const(); !control && !isConst {
			return false
		}
	}
	return true
}

// failureEnds reports whether the program ends when f, called by the chain,
// returns an error.
func (p *Program) failureEnds(f *fn, chain []*Site) bool {
	if len(chain) > 0 && p.callees[chain[0]].fn == f {
		return p.errorEndsAt(chain[0], 0)
	}
	return p.errorEnds(f, 0)
}

// emptyTests are the expressions, each of which being empty makes cond true
// (false for the else part).
func emptyTests(cond ast.Expr, negated bool) []ast.Expr {
	switch c := unparen(cond).(type) {
	case *ast.BinaryExpr:
		eq, either := token.EQL, token.LOR
		if negated {
			eq, either = token.NEQ, token.LAND
		}
		switch c.Op {
		case either:
			return append(emptyTests(c.X, negated), emptyTests(c.Y, negated)...)
		case eq:
			if isEmptyLit(c.Y) {
				return []ast.Expr{lenArg(c.X)}
			}
			if isEmptyLit(c.X) {
				return []ast.Expr{lenArg(c.Y)}
			}
		case token.LSS: // len(x) < 1
			if a := lenArg(c.X); a != c.X && !negated {
				return []ast.Expr{a}
			}
		case token.GTR: // len(x) > 0, else
			if a := lenArg(c.X); a != c.X && negated {
				return []ast.Expr{a}
			}
		}
	case *ast.UnaryExpr:
		if c.Op == token.NOT && !negated {
			if id, ok := unparen(c.X).(*ast.Ident); ok {
				return []ast.Expr{id}
			}
		}
	case *ast.Ident:
		if negated {
			return []ast.Expr{c}
		}
	}
	return nil
}

func isEmptyLit(e ast.Expr) bool {
	l, ok := unparen(e).(*ast.BasicLit)
	return ok && (l.Value == `""` || l.Value == "``" || l.Value == "0")
}

// lenArg is x of len(x), else e itself.
func lenArg(e ast.Expr) ast.Expr {
	if c, ok := unparen(e).(*ast.CallExpr); ok && len(c.Args) == 1 {
		if id, ok := c.Fun.(*ast.Ident); ok && id.Name == "len" {
			return c.Args[0]
		}
	}
	return e
}

// ends reports whether the statements end the program.
func (p *Program) ends(body []ast.Stmt, f *fn, depth int) bool {
	for _, s := range body {
		switch s := s.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && p.fatal(call, f, depth) {
				return true
			}
		case *ast.ReturnStmt:
			if f.decl != nil && f.name == "main" && f.recv == "" && f.pkg() == p.Main {
				return p.complains(body)
			}
			return false
		}
	}
	return false
}

// complains reports whether statements before a bare return from main print
// something: a program that says why it stops.
func (p *Program) complains(body []ast.Stmt) bool {
	for _, s := range body {
		if es, ok := s.(*ast.ExprStmt); ok {
			if call, ok := es.X.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
					n := sel.Sel.Name
					if strings.Contains(n, "rint") || strings.HasPrefix(n, "Error") {
						return true
					}
				}
			}
		}
	}
	return false
}

func (p *Program) fatal(call *ast.CallExpr, f *fn, depth int) bool {
	name := ""
	switch fun := unparen(call.Fun).(type) {
	case *ast.Ident:
		if fun.Name == "panic" {
			return true
		}
		name = fun.Name
	case *ast.SelectorExpr:
		name = fun.Sel.Name
	}
	if strings.HasPrefix(name, "Fatal") || strings.HasPrefix(name, "Panic") || strings.HasPrefix(name, "Exit") {
		if name == "Exit" && len(call.Args) == 1 {
			if l, ok := call.Args[0].(*ast.BasicLit); ok && l.Value == "0" {
				return false
			}
		}
		return true
	}
	if name == "Msg" || name == "Msgf" || name == "Send" { // zerolog: log.Fatal().Msg(...)
		for e := call.Fun; ; {
			sel, ok := e.(*ast.SelectorExpr)
			if !ok {
				return false
			}
			if sel.Sel.Name == "Fatal" || sel.Sel.Name == "Panic" {
				return true
			}
			inner, ok := sel.X.(*ast.CallExpr)
			if !ok {
				return false
			}
			e = inner.Fun
		}
	}
	if depth > 2 {
		return false
	}
	if s := p.siteOf[call]; s != nil {
		if c := p.callees[s]; c.fn != nil && c.fn.decl != nil && c.fn != f {
			return p.ends(c.fn.decl.Body.List, c.fn, depth+1)
		}
	}
	return false
}

// fails reports whether the statements return an error, or a code that is not 0.
func fails(body []ast.Stmt) bool {
	if len(body) == 0 {
		return false
	}
	r, ok := body[len(body)-1].(*ast.ReturnStmt)
	if !ok || len(r.Results) == 0 {
		return false
	}
	switch e := unparen(r.Results[len(r.Results)-1]).(type) {
	case *ast.Ident:
		return e.Name != "nil" && e.Name != "true" && e.Name != "false"
	case *ast.BasicLit:
		return e.Kind == token.INT && e.Value != "0"
	}
	return true
}

// errorEnds reports whether the program ends when f returns an error.
func (p *Program) errorEnds(f *fn, depth int) bool {
	if depth > 5 || f.decl == nil {
		return false
	}
	return slices.ContainsFunc(p.callers[f.decl], func(s *Site) bool { return p.Always(s) && p.errorEndsAt(s, depth) })
}

// errorEndsAt reports whether the program ends when the call s returns an error.
func (p *Program) errorEndsAt(s *Site, depth int) bool {
	if s.Parent != nil {
		return p.fatalOnError(s.Parent)
	}
	if s.result != nil {
		return p.errorEnds(s.fn, depth+1)
	}
	if len(s.into) == 0 {
		return false
	}
	err := s.into[len(s.into)-1].local
	// The variable is often used again: the test that counts is the next one.
	for _, b := range s.fn.scan().branches {
		if err == nil || b.cond.Pos() < s.Call.Pos() || !testsError(b, err, s.fn) {
			continue
		}
		return p.ends(b.body, s.fn, 0) || fails(b.body) && p.errorEnds(s.fn, depth+1)
	}
	return false
}

// fatalOnError reports whether a call that is given an error ends the program.
func (p *Program) fatalOnError(s *Site) bool {
	if p.fatal(s.Call, s.fn, 0) {
		return true
	}
	c := p.callees[s]
	if c.fn == nil || c.fn.decl == nil {
		return strings.HasPrefix(c.Name, "Must") || strings.HasPrefix(c.Name, "must")
	}
	for _, b := range c.fn.scan().branches { // func check(err error) { if err != nil { log.Fatal(err) } }
		if p.ends(b.body, c.fn, 1) {
			return true
		}
	}
	return false
}

func testsError(b branch, err *local, f *fn) bool {
	c, ok := unparen(b.cond).(*ast.BinaryExpr)
	if !ok || b.negated || c.Op != token.NEQ {
		return false
	}
	x, ok := unparen(c.X).(*ast.Ident)
	return ok && f.scan().uses[x] == err
}
