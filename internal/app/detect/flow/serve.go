package flow

import (
	"go/ast"
	"go/token"
	"strings"
)

// Servers returns the calls that serve on what the call s listens on: the
// listener is handed to them directly, or through variables, fields and
// parameters.
func (p *Program) Servers(s *Site) []*Site {
	var out []*Site
	for _, t := range p.Sites {
		name := p.callees[t].Name
		if !strings.HasPrefix(name, "Serve") || name == "ServeHTTP" || p.callees[t].Local {
			continue
		}
		for _, a := range t.Call.Args {
			if p.originates(a, t.fn, s, 0) {
				out = append(out, t)
				break
			}
		}
	}
	return out
}

// Accepts reports whether the program itself accepts connections on what the
// call s listens on.
func (p *Program) Accepts(s *Site) bool {
	for _, t := range p.Sites {
		if name := p.callees[t].Name; name != "Accept" && name != "AcceptTCP" {
			continue
		}
		if x := t.Receiver(); x != nil && p.originates(x, t.fn, s, 0) {
			return true
		}
	}
	return false
}

// originates reports whether e may hold what the call s returned.
func (p *Program) originates(e ast.Expr, f *fn, s *Site, depth int) bool {
	if depth > 6 {
		return false
	}
	switch e := unparen(e).(type) {
	case *ast.CallExpr:
		if e == s.Call {
			return true
		}
		t := p.siteOf[e]
		if t == nil {
			return false
		}
		c := p.callees[t]
		if c.fn != nil {
			return c.fn == s.fn
		}
		for _, a := range e.Args {
			if p.originates(a, f, s, depth+1) {
				return true
			}
		}
	case *ast.UnaryExpr:
		return p.originates(e.X, f, s, depth)
	case *ast.Ident:
		l := f.scan().uses[e]
		if l == nil {
			return p.boundTo("."+e.Name, s, depth)
		}
		for _, a := range l.assigns {
			if a.kind == plain && a.index <= 0 && p.originates(a.rhs, f, s, depth+1) {
				return true
			}
		}
		if l.param >= 0 {
			for _, t := range p.callers[l.owner] {
				if l.param < len(t.Call.Args) && p.originates(t.Call.Args[l.param], t.fn, s, depth+1) {
					return true
				}
			}
		}
	case *ast.SelectorExpr:
		return p.boundTo(e.Sel.Name, s, depth)
	}
	return false
}

func (p *Program) boundTo(key string, s *Site, depth int) bool {
	for _, b := range p.bindings[key] {
		if b.assign.kind == plain && b.assign.index <= 0 && p.originates(b.assign.rhs, b.fn, s, depth+1) {
			return true
		}
	}
	return false
}

// FieldValue is what a field of a library's struct is set to anywhere.
func (p *Program) FieldValue(t Type, field string) Value {
	if len(p.bindings[field]) == 0 {
		return nil
	}
	return p.field(t, field)
}

// Receiver is the expression that a method is called on, or nil.
func (s *Site) Receiver() ast.Expr {
	if sel, ok := generic(s.Call.Fun).(*ast.SelectorExpr); ok {
		return sel.X
	}
	return nil
}

// Chained returns the call that is made on the result of s: t in s().t().
func (p *Program) Chained(s *Site, name string) *Site {
	for _, t := range s.fn.scan().sites {
		if sel, ok := t.Call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == name && sel.X == ast.Expr(s.Call) {
			return t
		}
	}
	return nil
}

// RoutePrefix is the path that what the call registers is served below, and
// whether that is known.
func (p *Program) RoutePrefix(s *Site) (string, bool) {
	x := s.Receiver()
	if x == nil {
		return "", false
	}
	return p.prefixOf(x, s.fn, 0)
}

func (p *Program) prefixOf(e ast.Expr, f *fn, depth int) (string, bool) {
	if depth > 8 {
		return "", false
	}
	switch e := unparen(e).(type) {
	case *ast.Ident:
		l := f.scan().uses[e]
		if l == nil {
			if g := f.pkg().vars[e.Name]; g != nil {
				if g.expr != nil {
					return p.prefixOf(g.expr, g.file.inits, depth+1)
				}
				return p.prefixBound("."+e.Name, depth)
			}
			_, isPkg := f.file.imports[e.Name]
			return "", isPkg
		}
		if l.param >= 0 {
			return p.prefixParam(l, f, depth)
		}
		for _, a := range l.assigns {
			if a.kind == plain && a.index <= 0 {
				if s, ok := p.prefixOf(a.rhs, f, depth+1); ok {
					return s, true
				}
			}
		}
	case *ast.UnaryExpr:
		if e.Op == token.AND {
			return p.prefixOf(e.X, f, depth+1)
		}
	case *ast.StarExpr:
		return p.prefixOf(e.X, f, depth+1)
	case *ast.CompositeLit:
		return "", true
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && f.scan().uses[x] == nil && f.file.imports[x.Name] != "" && p.imported(f.file, x.Name) == nil {
			return "", true // http.DefaultServeMux
		}
		return p.prefixBound(e.Sel.Name, depth)
	case *ast.CallExpr:
		return p.prefixOfCall(e, f, depth)
	}
	return "", false
}

func (p *Program) prefixBound(key string, depth int) (string, bool) {
	for _, b := range p.bindings[key] {
		if b.assign.kind == plain && b.assign.index <= 0 {
			if s, ok := p.prefixOf(b.assign.rhs, b.fn, depth+1); ok {
				return s, true
			}
		}
	}
	return "", false
}

// prefixParam is for a router that is handed over: to a function, or to a
// literal as in r.Route("/api", func(r chi.Router) { ... }).
func (p *Program) prefixParam(l *local, f *fn, depth int) (string, bool) {
	if lit, ok := l.owner.(*ast.FuncLit); ok {
		for _, s := range f.scan().sites {
			for _, a := range s.Call.Args {
				if unparen(a) == ast.Expr(lit) && s.Receiver() != nil {
					return p.below(s, f, depth)
				}
			}
		}
	}
	for _, s := range p.callers[l.owner] {
		if l.param < len(s.Call.Args) {
			if r, ok := p.prefixOf(s.Call.Args[l.param], s.fn, depth+1); ok {
				return r, true
			}
		}
	}
	return "", false
}

// below is the prefix of what a Group or Route call gives.
func (p *Program) below(s *Site, f *fn, depth int) (string, bool) {
	outer, ok := p.prefixOf(s.Receiver(), f, depth+1)
	if !ok {
		return "", false
	}
	if len(s.Call.Args) == 0 {
		return outer, true
	}
	if _, isLit := unparen(s.Call.Args[0]).(*ast.FuncLit); isLit {
		return outer, true
	}
	path, known := single(p.anyCaller(s.Call.Args[0], -1, f))
	return outer + strings.TrimSuffix(path, "/"), known
}

func (p *Program) prefixOfCall(call *ast.CallExpr, f *fn, depth int) (string, bool) {
	s := p.siteOf[call]
	if s == nil {
		return "", false
	}
	c := p.callees[s]
	if c.fn != nil {
		for _, r := range c.fn.scan().returns {
			if r.owner == ast.Node(c.fn.decl) && len(r.results) > 0 {
				return p.prefixOf(r.results[0], c.fn, depth+1)
			}
		}
		return "", false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		id, isNew := call.Fun.(*ast.Ident)
		return "", isNew && id.Name == "new"
	}
	switch sel.Sel.Name {
	case "Group", "PathPrefix", "Route", "Party":
		return p.below(s, f, depth)
	case "Subrouter", "With", "Methods", "Name", "Headers", "Schemes", "Use", "StrictSlash", "UseEncodedPath", "NewRoute":
		return p.prefixOf(sel.X, f, depth+1)
	}
	return p.mounted(s)
}

// mounted is where a router that was made by the call s is mounted, "" when it
// is the outermost.
func (p *Program) mounted(s *Site) (string, bool) {
	for _, t := range p.Sites {
		name := p.callees[t].Name
		if (name != "Mount" && name != "StripPrefix") || len(t.Call.Args) < 2 || t == s {
			continue
		}
		if p.originates(t.Call.Args[1], t.fn, s, 0) {
			path, known := single(p.anyCaller(t.Call.Args[0], -1, t.fn))
			return strings.TrimSuffix(path, "/"), known
		}
	}
	return "", true
}
