package flow

import (
	"go/ast"
	"go/token"
	"strconv"
)

func (w *walker) assignStmt(n *ast.AssignStmt) {
	define := n.Tok == token.DEFINE
	targets := make([]target, len(n.Lhs))
	if !define {
		for i, e := range n.Lhs {
			targets[i] = w.target(e)
		}
	}
	// The right side does not see the variables that the left side declares.
	saved := w.into
	w.into = nil
	if !define {
		w.into = targets
	}
	mark := len(w.info.sites)
	w.exprs(n.Rhs)
	w.into = saved
	if define {
		for i, e := range n.Lhs {
			targets[i] = w.defineTarget(e)
		}
		for _, s := range w.info.sites[mark:] {
			if s.into == nil && s.lit == w.lit {
				s.into = targets
			}
		}
	}
	for i := range n.Lhs {
		a := assign{plain, nil, -1}
		switch {
		case n.Tok != token.ASSIGN && n.Tok != token.DEFINE:
			continue // += and the like
		case len(n.Rhs) == len(n.Lhs):
			a.rhs = n.Rhs[i]
		default:
			a.rhs, a.index = n.Rhs[0], i
		}
		w.bind(targets[i], a, n.Lhs[i])
	}
}

func (w *walker) defineTarget(e ast.Expr) target {
	id, ok := e.(*ast.Ident)
	if !ok {
		return target{}
	}
	l := w.scopes[len(w.scopes)-1][id.Name]
	if l == nil {
		l = w.declare(id, nil)
	}
	w.info.uses[id] = l
	return target{local: l}
}

// target resolves the left side of an assignment.
func (w *walker) target(e ast.Expr) target {
	switch e := e.(type) {
	case *ast.Ident:
		if l := w.lookup(e.Name); l != nil {
			w.info.uses[e] = l
			return target{local: l}
		}
		w.info.idents[e.Name] = true
		return target{global: e.Name}
	case *ast.SelectorExpr:
		w.node(e)
		if x, ok := e.X.(*ast.Ident); ok && w.info.uses[x] == nil {
			if _, isPkg := w.fn.file.imports[x.Name]; isPkg {
				return target{global: e.Sel.Name, pkg: x.Name}
			}
		}
		return target{field: e.Sel.Name, of: e.X}
	case *ast.ParenExpr:
		return w.target(e.X)
	default:
		w.node(e)
	}
	return target{}
}

func (w *walker) bind(t target, a assign, lhs ast.Expr) {
	switch {
	case t.local != nil:
		t.local.assigns = append(t.local.assigns, a)
	case t.field != "" || t.global != "":
	default:
		// *p = x
		if s, ok := unparen(lhs).(*ast.StarExpr); ok {
			if id, ok := unparen(s.X).(*ast.Ident); ok {
				if l := w.info.uses[id]; l != nil {
					w.info.derefs[l] = append(w.info.derefs[l], a)
					l.assigns = append(l.assigns, a)
				}
			}
		}
		return
	}
	w.info.bindings = append(w.info.bindings, binding{t, a, w.fn})
}

func unparen(e ast.Expr) ast.Expr {
	for {
		p, ok := e.(*ast.ParenExpr)
		if !ok {
			return e
		}
		e = p.X
	}
}

func (w *walker) call(n *ast.CallExpr) {
	s := &Site{
		Call: n, Parent: w.parent, Conditional: w.cond > 0,
		fn: w.fn, lit: w.lit, into: w.into, result: w.result,
	}
	w.info.sites = append(w.info.sites, s)
	w.parent = s
	w.node(n.Fun)
	for i, a := range n.Args {
		w.node(a)
		w.handOver(n, i, a)
	}
	w.parent = s.Parent
}

// handOver notes that a call was given a variable's address, through which it
// may set the variable.
func (w *walker) handOver(call *ast.CallExpr, i int, arg ast.Expr) {
	a := assign{byPointer, call, i}
	switch arg := unparen(arg).(type) {
	case *ast.UnaryExpr:
		if arg.Op == token.AND {
			if _, lit := unparen(arg.X).(*ast.CompositeLit); !lit {
				w.bind(w.target(arg.X), a, arg.X)
			}
		}
	case *ast.Ident:
		if l := w.info.uses[arg]; l != nil && l.param >= 0 {
			if _, ptr := l.typ.(*ast.StarExpr); ptr {
				w.info.derefs[l] = append(w.info.derefs[l], a)
			}
		}
	}
}

func (w *walker) composite(n *ast.CompositeLit) {
	w.info.literals = append(w.info.literals, &Literal{n, w.cond > 0, w.fn})
	if n.Type != nil {
		w.node(n.Type)
	}
	_, isMap := n.Type.(*ast.MapType)
	_, isArray := n.Type.(*ast.ArrayType)
	for i, e := range n.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			w.node(e)
			if n.Type != nil && !isArray && !isMap {
				t := target{field: "#" + strconv.Itoa(i), typ: n.Type, of: n}
				w.info.bindings = append(w.info.bindings, binding{t, assign{plain, e, -1}, w.fn})
			}
			continue
		}
		key, isField := kv.Key.(*ast.Ident)
		if !isField || isMap || isArray {
			w.node(kv.Key)
			w.node(kv.Value)
			continue
		}
		t := target{field: key.Name, typ: n.Type, of: n}
		saved := w.into
		w.into = []target{t}
		w.node(kv.Value)
		w.into = saved
		w.info.bindings = append(w.info.bindings, binding{t, assign{plain, kv.Value, -1}, w.fn})
	}
}
