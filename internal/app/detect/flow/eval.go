package flow

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

// frame is a function that is being evaluated and how it was called.
type frame struct {
	fn   *fn
	node ast.Node // FuncDecl or FuncLit; nil for package variables
	site *Site    // the call; nil when it is not known which
	up   *frame   // where the call was made
}

// evaluator holds what one query needs. It is not safe for concurrent use.
type evaluator struct {
	p       *Program
	depth   int
	steps   int
	unbound ast.Node // a function whose caller decides the value
	active  map[activation]bool
	groups  int
}

// activation is a variable in one call of its function.
type activation struct {
	local *local
	frame *frame
}

const (
	maxDepth   = 40
	maxSteps   = 4000 // of one query
	maxCallers = 600  // that one query is spread over
)

func (f *fn) root() *frame {
	fr := &frame{fn: f}
	if f.decl != nil {
		fr.node = f.decl
	}
	return fr
}

// Case is what an expression may be when its function is reached by one chain
// of calls.
type Case struct {
	Value Value
	// Chain are the calls that led there, the innermost first. It is empty when
	// the callers do not matter.
	Chain []*Site

	frame *frame
}

// Expand evaluates an expression that is an argument of the call, once for each
// chain of callers that makes a difference.
func (p *Program) Expand(e ast.Expr, s *Site) []Case { return p.expand(e, s.fn) }

// ExpandIn is Expand for a part of a composite literal.
func (p *Program) ExpandIn(e ast.Expr, l *Literal) []Case { return p.expand(e, l.fn) }

func (p *Program) expand(e ast.Expr, f *fn) []Case {
	budget := maxCallers
	return p.expandFrame(e, f.root(), 0, &budget)
}

func (p *Program) expandFrame(e ast.Expr, fr *frame, depth int, budget *int) []Case {
	v, owner := p.query(e, fr)
	if owner == nil || depth >= 5 {
		return []Case{{v, chain(fr), fr}}
	}
	var out []Case
	for _, s := range p.callers[owner] {
		if *budget--; *budget < 0 {
			break
		}
		next, ok := rebase(fr, owner, s)
		if !ok {
			continue
		}
		out = append(out, p.expandFrame(e, next, depth+1, budget)...)
	}
	if len(out) == 0 {
		return []Case{{v, chain(fr), fr}}
	}
	return out
}

// rebase gives the frame of owner, the outermost of fr's chain or a function
// literal in it, the caller s.
func rebase(fr *frame, owner ast.Node, s *Site) (*frame, bool) {
	for x := fr; x != nil; x = x.up {
		if x.site != nil && x.site.Call == s.Call {
			return nil, false // recursion
		}
	}
	if fr.up != nil {
		up, ok := rebase(fr.up, owner, s)
		return &frame{fr.fn, fr.node, fr.site, up}, ok
	}
	if fr.node == owner {
		return &frame{fr.fn, fr.node, s, s.fn.root()}, true
	}
	// The literal is part of fr's function: its caller is evaluated there too.
	return &frame{fr.fn, owner, s, s.fn.root()}, true
}

func chain(fr *frame) []*Site {
	var out []*Site
	for ; fr != nil; fr = fr.up {
		if fr.site != nil {
			out = append(out, fr.site)
		}
	}
	return out
}

// query evaluates e and names the function whose caller would have to be known.
func (p *Program) query(e ast.Expr, fr *frame) (Value, ast.Node) {
	outer := p.ev
	p.ev.unbound, p.ev.steps, p.ev.depth = nil, outer.steps/2, 0
	p.ev.active = map[activation]bool{}
	v := p.ev.eval(e, fr)
	owner, groups := p.ev.unbound, p.ev.groups
	p.ev = outer
	p.ev.groups = groups
	return v, owner
}

// anyCaller evaluates e in f for whatever callers there are, each a group.
func (p *Program) anyCaller(e ast.Expr, index int, f *fn) Value {
	if index >= 0 {
		if call, ok := unparen(e).(*ast.CallExpr); ok {
			e = &resultExpr{call, index}
		}
	}
	cases := p.expand(e, f)
	var out Value
	for _, c := range cases {
		v := c.Value
		if len(cases) > 1 {
			p.ev.groups++
			v = regroup(v, p.ev.groups)
		}
		out = union(out, v)
	}
	return out
}

func regroup(v Value, g int) Value {
	out := make(Value, len(v))
	for i, a := range v {
		if a.group == 0 {
			a.group = g
		}
		out[i] = a
	}
	return out
}

// resultExpr stands for one of several results of a call.
type resultExpr struct {
	*ast.CallExpr
	index int
}

// eval is what e may be in the frame.
func (ev *evaluator) eval(e ast.Expr, fr *frame) Value {
	if ev.steps++; ev.steps > maxSteps || ev.depth > maxDepth || fr == nil {
		return unknown()
	}
	ev.depth++
	defer func() { ev.depth-- }()
	switch e := e.(type) {
	case *ast.BasicLit:
		return literal(e)
	case *ast.Ident:
		if l := fr.fn.scan().uses[e]; l != nil {
			return ev.local(l, fr)
		}
		return ev.global(fr.fn.pkg(), e.Name)
	case *ast.ParenExpr:
		return ev.eval(e.X, fr)
	case *ast.StarExpr:
		return ev.eval(e.X, fr)
	case *ast.UnaryExpr:
		if e.Op == token.AND {
			return ev.eval(e.X, fr)
		}
	case *ast.TypeAssertExpr:
		return ev.eval(e.X, fr)
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return ev.add(e, fr)
		}
	case *ast.SelectorExpr:
		return ev.selector(e, fr)
	case *resultExpr:
		return ev.call(e.CallExpr, e.index, fr)
	case *localExpr:
		return ev.local(e.local, fr)
	case *flagExpr:
		return ev.flagValue(e.def, fr)
	case *pointerExpr:
		return ev.byPointer(e.CallExpr, e.index, fr)
	case *ast.CallExpr:
		return ev.call(e, -1, fr)
	}
	return unknown()
}

func literal(e *ast.BasicLit) Value {
	switch e.Kind {
	case token.STRING, token.CHAR:
		if s, err := strconv.Unquote(e.Value); err == nil {
			return constant(s, e.Pos())
		}
	case token.INT:
		if n, err := strconv.ParseInt(e.Value, 0, 64); err == nil {
			return constant(strconv.FormatInt(n, 10), e.Pos())
		}
	case token.FLOAT:
		return constant(e.Value, e.Pos())
	}
	return unknown()
}

func (ev *evaluator) add(e *ast.BinaryExpr, fr *frame) Value {
	x, y := ev.eval(e.X, fr), ev.eval(e.Y, fr)
	if isInt(e.X) || isInt(e.Y) {
		if a, ok := number(x); ok {
			if b, ok := number(y); ok {
				return constant(strconv.Itoa(a+b), e.Pos())
			}
		}
		return unknown()
	}
	return concat(x, y)
}

func isInt(e ast.Expr) bool {
	l, ok := unparen(e).(*ast.BasicLit)
	return ok && l.Kind == token.INT
}

func number(v Value) (int, bool) {
	if len(v) != 1 {
		return 0, false
	}
	s, ok := v[0].Const()
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

func (ev *evaluator) local(l *local, fr *frame) Value {
	key := activation{l, fr}
	if ev.active[key] {
		return nil
	}
	ev.active[key] = true
	defer delete(ev.active, key)
	var out Value
	if l.param >= 0 {
		out = ev.param(l, fr)
	}
	for _, a := range l.assigns {
		out = union(out, ev.assigned(a, fr))
	}
	if len(out) == 0 {
		return unknown()
	}
	return out
}

func (ev *evaluator) param(l *local, fr *frame) Value {
	for x := fr; x != nil; x = x.up {
		if x.node != l.owner || x.site == nil {
			continue
		}
		args := x.site.Call.Args
		if l.variad {
			var out Value
			for i := l.param; i < len(args); i++ {
				out = union(out, ev.eval(args[i], x.up))
			}
			return out
		}
		if l.param < len(args) {
			return ev.eval(args[l.param], x.up)
		}
		if len(args) == 1 && l.param > 0 { // f(g()) with several results
			if call, ok := unparen(args[0]).(*ast.CallExpr); ok {
				return ev.call(call, l.param, x.up)
			}
		}
		return unknown()
	}
	if ev.unbound == nil {
		ev.unbound = l.owner
	}
	return unknown()
}

// assigned is what a variable gets by one assignment in its own function.
func (ev *evaluator) assigned(a assign, fr *frame) Value {
	switch a.kind {
	case rangeKey, rangeElem:
		return ev.elements(a.rhs, a.kind, fr)
	case byPointer:
		return ev.byPointer(a.rhs.(*ast.CallExpr), a.index, fr)
	}
	if a.index < 0 {
		return ev.eval(a.rhs, fr)
	}
	switch rhs := unparen(a.rhs).(type) {
	case *ast.CallExpr:
		return ev.call(rhs, a.index, fr)
	default: // v, ok := m[k], x.(T), <-c
		if a.index == 0 {
			return ev.eval(rhs, fr)
		}
	}
	return unknown()
}

// elements are what a loop over e sees: the keys or elements of a literal.
func (ev *evaluator) elements(e ast.Expr, kind assignKind, fr *frame) Value {
	switch e := unparen(e).(type) {
	case *ast.CompositeLit:
		var out Value
		_, isMap := e.Type.(*ast.MapType)
		add := func(x ast.Expr) {
			// Elements are no stand-ins for each other.
			out = union(out, regroup(ev.eval(x, fr), rowGroup(x)))
		}
		for _, x := range e.Elts {
			kv, ok := x.(*ast.KeyValueExpr)
			switch {
			case ok && kind == rangeKey && isMap:
				add(kv.Key)
			case ok && kind == rangeElem:
				add(kv.Value)
			case !ok && kind == rangeElem:
				add(x)
			}
		}
		return out
	case *ast.Ident:
		in := fr.fn.scan()
		if l := in.uses[e]; l != nil {
			var out Value
			for _, a := range l.assigns {
				if a.kind == plain && a.index < 0 {
					out = union(out, ev.elements(a.rhs, kind, fr))
				}
			}
			return out
		}
		if g := fr.fn.pkg().vars[e.Name]; g != nil && g.expr != nil && g.index < 0 {
			return ev.elements(g.expr, kind, g.file.inits.root())
		}
	}
	return nil
}

func (ev *evaluator) global(k *Package, name string) Value {
	g := k.vars[name]
	if g == nil {
		if name == "true" || name == "false" {
			return constant(name, token.NoPos)
		}
		return unknown()
	}
	key := k.Dir + "." + name
	p := ev.p
	if v, ok := p.globals[key]; ok {
		return v
	}
	if p.busy[key] {
		return nil
	}
	p.busy[key] = true
	defer delete(p.busy, key)
	var out Value
	if g.expr != nil {
		out = union(out, p.anyCaller(g.expr, g.index, g.file.inits))
	}
	for _, b := range p.bindings["."+name] {
		switch {
		case b.target.pkg == "" && b.fn.pkg() == k, b.target.pkg != "" && p.imported(b.fn.file, b.target.pkg) == k:
			out = union(out, p.bound(b))
		}
	}
	if len(out) == 0 {
		out = unknown()
	}
	p.globals[key] = out
	return out
}

// bound is what a field or package variable gets by one assignment, whoever
// calls the function that makes it.
func (p *Program) bound(b binding) Value {
	switch b.assign.kind {
	case byPointer:
		return p.anyCaller(&pointerExpr{b.assign.rhs.(*ast.CallExpr), b.assign.index}, -1, b.fn)
	case plain:
		return p.anyCaller(b.assign.rhs, b.assign.index, b.fn)
	}
	return nil
}

// pointerExpr stands for what a call stores through its argument index.
type pointerExpr struct {
	*ast.CallExpr
	index int
}

func (ev *evaluator) selector(e *ast.SelectorExpr, fr *frame) Value {
	if x, ok := e.X.(*ast.Ident); ok && fr.fn.scan().uses[x] == nil {
		if k := ev.p.imported(fr.fn.file, x.Name); k != nil {
			return ev.global(k, e.Sel.Name)
		}
		if ip, ok := fr.fn.file.imports[x.Name]; ok && fr.fn.pkg().vars[x.Name] == nil {
			if ip == "net/http" && strings.HasPrefix(e.Sel.Name, "Method") {
				return constant(strings.ToUpper(strings.TrimPrefix(e.Sel.Name, "Method")), e.Pos())
			}
			return unknown()
		}
	}
	if v, ok := ev.fieldOfLocal(e, fr); ok {
		return v
	}
	return ev.p.field(ev.p.typeOf(e.X, fr.fn, 0), e.Sel.Name)
}

// fieldOfLocal evaluates x.f where x is a loop variable over, or an element of,
// a table of literals that is written out.
func (ev *evaluator) fieldOfLocal(e *ast.SelectorExpr, fr *frame) (Value, bool) {
	x, ok := e.X.(*ast.Ident)
	if !ok {
		return nil, false
	}
	l := fr.fn.scan().uses[x]
	if l == nil {
		return nil, false
	}
	var out Value
	for _, a := range l.assigns {
		if a.kind != rangeElem {
			continue
		}
		t, ok := unparen(a.rhs).(*ast.CompositeLit)
		if !ok {
			continue
		}
		for _, el := range t.Elts {
			if row, ok := el.(*ast.CompositeLit); ok {
				if cell := rowCell(t, row, e.Sel.Name); cell != nil {
					out = union(out, regroup(ev.eval(cell, fr), rowGroup(row)))
				}
			}
		}
	}
	return out, len(out) > 0
}

// rowGroup is the group of what a row of a table holds, so that the cells of one
// row belong together.
func rowGroup(row ast.Expr) int { return 1<<40 + int(row.Pos()) }

// rowCell is the field of that name in a row of a table literal.
func rowCell(table, row *ast.CompositeLit, name string) ast.Expr {
	for _, el := range row.Elts {
		if kv, ok := el.(*ast.KeyValueExpr); ok {
			if k, ok := kv.Key.(*ast.Ident); ok && k.Name == name {
				return kv.Value
			}
		}
	}
	at, ok := table.Type.(*ast.ArrayType)
	if !ok {
		return nil
	}
	st, ok := at.Elt.(*ast.StructType)
	if !ok {
		return nil
	}
	i := 0
	for _, f := range st.Fields.List {
		for _, n := range f.Names {
			if n.Name == name && i < len(row.Elts) {
				if _, keyed := row.Elts[i].(*ast.KeyValueExpr); !keyed {
					return row.Elts[i]
				}
			}
			i++
		}
	}
	return nil
}
