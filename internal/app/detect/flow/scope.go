package flow

import (
	"go/ast"
	"go/token"
)

// local is a variable, constant, parameter or result of a function.
type local struct {
	name    string
	owner   ast.Node // the FuncDecl or FuncLit that it belongs to; nil in package variables
	param   int      // position among the parameters, else -1
	variad  bool
	typ     ast.Expr
	assigns []assign
}

// assignKind says how an assign gets its value.
type assignKind uint8

const (
	plain     assignKind = iota // = rhs, or result index of the call rhs
	rangeKey                    // the keys of rhs
	rangeElem                   // the elements of rhs
	byPointer                   // rhs is a call that has the variable's address as its argument index
)

type assign struct {
	kind  assignKind
	rhs   ast.Expr
	index int // see kind; -1 for the only value of rhs
}

// target is what an assign gives a value to: one of local, field or global.
type target struct {
	local *local
	// field is the name of a field, of the struct that of is or whose type is typ.
	field string
	of    ast.Expr
	typ   ast.Expr
	// global is a package-level name, in the package that is imported as pkg
	// ("" for the same package).
	global, pkg string
}

type binding struct {
	target target
	assign assign
	fn     *fn
}

// Site is a call in a reachable function.
type Site struct {
	Call *ast.CallExpr
	// Parent is the call that this one is inside of, or nil.
	Parent *Site
	// Conditional tells that the function may run without making the call.
	Conditional bool

	fn     *fn
	lit    *ast.FuncLit // innermost function literal around it
	into   []target     // what the statement assigns
	result ast.Node     // the function that the statement returns from
}

// Literal is a composite literal in a reachable function.
type Literal struct {
	Lit         *ast.CompositeLit
	Conditional bool
	fn          *fn
}

// branch is an if or a case whose body may end the program.
type branch struct {
	cond        ast.Expr
	body        []ast.Stmt
	negated     bool // body is the else part
	conditional bool
	fn          *fn
}

type ret struct {
	owner   ast.Node
	results []ast.Expr
}

// info is what one walk over a function finds.
type info struct {
	uses     map[*ast.Ident]*local
	results  map[ast.Node][]*local // named results
	sites    []*Site
	literals []*Literal
	bindings []binding
	derefs   map[*local][]assign // *p = x, and p handed on
	branches []branch
	returns  []ret

	idents map[string]bool    // names that are no locals
	quals  map[[2]string]bool // package name, name
	sels   map[string]bool    // methods and fields
}

// scan returns what is in f. It is worked out once.
func (f *fn) scan() *info {
	f.once.Do(func() {
		w := &walker{fn: f, info: &info{
			uses: map[*ast.Ident]*local{}, results: map[ast.Node][]*local{}, derefs: map[*local][]assign{},
			idents: map[string]bool{}, quals: map[[2]string]bool{}, sels: map[string]bool{},
		}}
		w.push()
		for _, n := range f.body {
			w.node(n)
		}
		f.info = w.info
	})
	return f.info
}

type walker struct {
	fn     *fn
	info   *info
	scopes []map[string]*local
	owner  ast.Node
	lit    *ast.FuncLit
	cond   int
	parent *Site
	into   []target
	result ast.Node
}

func (w *walker) push() { w.scopes = append(w.scopes, map[string]*local{}) }
func (w *walker) pop()  { w.scopes = w.scopes[:len(w.scopes)-1] }

func (w *walker) lookup(name string) *local {
	for i := len(w.scopes) - 1; i >= 0; i-- {
		if l := w.scopes[i][name]; l != nil {
			return l
		}
	}
	return nil
}

func (w *walker) declare(id *ast.Ident, typ ast.Expr) *local {
	l := &local{name: id.Name, owner: w.owner, param: -1, typ: typ}
	if id.Name != "_" {
		w.scopes[len(w.scopes)-1][id.Name] = l
	}
	w.info.uses[id] = l
	return l
}

// inside runs f in a scope of its own; cond tells that it may not run.
func (w *walker) inside(cond bool, f func()) {
	w.push()
	if cond {
		w.cond++
	}
	f()
	if cond {
		w.cond--
	}
	w.pop()
}

func (w *walker) children(n ast.Node) {
	ast.Inspect(n, func(c ast.Node) bool {
		if c == n {
			return true
		}
		if c != nil {
			w.node(c)
		}
		return false
	})
}

func (w *walker) exprs(list []ast.Expr) {
	for _, e := range list {
		w.node(e)
	}
}

func (w *walker) stmts(list []ast.Stmt) {
	for _, s := range list {
		w.node(s)
	}
}

func (w *walker) node(n ast.Node) {
	switch n := n.(type) {
	case nil:
	case *ast.FuncDecl:
		w.function(n, n.Recv, n.Type, n.Body)
	case *ast.FuncLit:
		w.literalFunc(n, w.cond > 0 || w.parent == nil || !runsNow(w.parent.Call, n))
	case *ast.BlockStmt:
		if n != nil {
			w.inside(false, func() { w.stmts(n.List) })
		}
	case *ast.IfStmt:
		w.ifStmt(n)
	case *ast.ForStmt:
		w.inside(false, func() { w.children(n) })
	case *ast.RangeStmt:
		w.rangeStmt(n)
	case *ast.SwitchStmt:
		w.switchStmt(n)
	case *ast.TypeSwitchStmt:
		w.inside(false, func() {
			w.maybe(n.Init)
			w.node(n.Assign)
			for _, c := range n.Body.List {
				w.inside(true, func() { w.stmts(c.(*ast.CaseClause).Body) })
			}
		})
	case *ast.SelectStmt:
		for _, c := range n.Body.List {
			w.inside(true, func() {
				cc := c.(*ast.CommClause)
				w.maybe(cc.Comm)
				w.stmts(cc.Body)
			})
		}
	case *ast.AssignStmt:
		w.assignStmt(n)
	case *ast.ValueSpec:
		w.valueSpec(n)
	case *ast.TypeSpec:
		w.node(n.Type)
	case *ast.ReturnStmt:
		w.info.returns = append(w.info.returns, ret{w.owner, n.Results})
		saved := w.result
		w.result = w.owner
		w.exprs(n.Results)
		w.result = saved
	case *ast.CallExpr:
		w.call(n)
	case *ast.CompositeLit:
		w.composite(n)
	case *ast.SelectorExpr:
		w.selector(n)
	case *ast.Ident:
		w.ident(n)
	case *ast.Field:
		w.node(n.Type)
	case *ast.LabeledStmt:
		w.node(n.Stmt)
	case *ast.BranchStmt, *ast.BasicLit, *ast.EmptyStmt:
	default:
		w.children(n)
	}
}

// maybe is node for statements that may be absent.
func (w *walker) maybe(s ast.Stmt) {
	if s != nil {
		w.node(s)
	}
}

func (w *walker) ident(n *ast.Ident) {
	if l := w.lookup(n.Name); l != nil {
		w.info.uses[n] = l
		return
	}
	w.info.idents[n.Name] = true
}

func (w *walker) selector(n *ast.SelectorExpr) {
	if x, ok := n.X.(*ast.Ident); ok {
		if l := w.lookup(x.Name); l != nil {
			w.info.uses[x] = l
		} else {
			w.info.quals[[2]string{x.Name, n.Sel.Name}] = true
			w.info.idents[x.Name] = true // a package variable, perhaps
		}
	} else {
		w.node(n.X)
	}
	w.info.sels[n.Sel.Name] = true
}

func (w *walker) function(owner ast.Node, recv *ast.FieldList, t *ast.FuncType, body *ast.BlockStmt) {
	saved, into, result := w.owner, w.into, w.result
	w.owner, w.into, w.result = owner, nil, nil
	w.push()
	if recv != nil {
		for _, f := range recv.List {
			for _, id := range f.Names {
				w.declare(id, f.Type)
			}
			w.node(f.Type)
		}
	}
	i := 0
	for _, f := range t.Params.List {
		w.node(f.Type)
		for _, id := range f.Names {
			l := w.declare(id, f.Type)
			l.param = i
			_, l.variad = f.Type.(*ast.Ellipsis)
			i++
		}
		if len(f.Names) == 0 {
			i++
		}
	}
	if t.Results != nil {
		for _, f := range t.Results.List {
			w.node(f.Type)
			for _, id := range f.Names {
				w.info.results[owner] = append(w.info.results[owner], w.declare(id, f.Type))
			}
		}
	}
	if body != nil {
		w.stmts(body.List)
	}
	w.pop()
	w.owner, w.into, w.result = saved, into, result
}

func (w *walker) literalFunc(n *ast.FuncLit, later bool) {
	parent, lit := w.parent, w.lit
	w.parent, w.lit = nil, n
	if later {
		w.cond++
	}
	w.function(n, nil, n.Type, n.Body)
	if later {
		w.cond--
	}
	w.parent, w.lit = parent, lit
}

// runsNow reports whether a function literal is run by the call that it is part
// of, rather than kept for later.
func runsNow(call *ast.CallExpr, lit *ast.FuncLit) bool {
	if call.Fun == lit {
		return true
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (sel.Sel.Name == "Go" || sel.Sel.Name == "Do" || sel.Sel.Name == "Run" && len(call.Args) < 3)
}

func (w *walker) ifStmt(n *ast.IfStmt) {
	w.inside(false, func() {
		w.maybe(n.Init)
		w.node(n.Cond)
		w.info.branches = append(w.info.branches, branch{n.Cond, n.Body.List, false, w.cond > 0, w.fn})
		w.inside(true, func() { w.stmts(n.Body.List) })
		if b, ok := n.Else.(*ast.BlockStmt); ok {
			w.info.branches = append(w.info.branches, branch{n.Cond, b.List, true, w.cond > 0, w.fn})
		}
		if n.Else != nil {
			w.inside(true, func() { w.node(n.Else) })
		}
	})
}

func (w *walker) rangeStmt(n *ast.RangeStmt) {
	w.node(n.X)
	w.inside(false, func() {
		for i, e := range []ast.Expr{n.Key, n.Value} {
			if e == nil {
				continue
			}
			id, ok := e.(*ast.Ident)
			if !ok || n.Tok != token.DEFINE {
				w.node(e)
				continue
			}
			kind := rangeKey
			if i == 1 {
				kind = rangeElem
			}
			l := w.declare(id, nil)
			l.assigns = append(l.assigns, assign{kind, n.X, -1})
		}
		w.node(n.Body)
	})
}

func (w *walker) switchStmt(n *ast.SwitchStmt) {
	w.inside(false, func() {
		w.maybe(n.Init)
		if n.Tag != nil {
			w.node(n.Tag)
		}
		for _, c := range n.Body.List {
			cc := c.(*ast.CaseClause)
			w.exprs(cc.List)
			for _, e := range cc.List {
				cond := e
				if n.Tag != nil {
					cond = &ast.BinaryExpr{X: n.Tag, Op: token.EQL, Y: e}
				}
				w.info.branches = append(w.info.branches, branch{cond, cc.Body, false, w.cond > 0, w.fn})
			}
			w.inside(true, func() { w.stmts(cc.Body) })
		}
	})
}

func (w *walker) valueSpec(n *ast.ValueSpec) {
	if n.Type != nil {
		w.node(n.Type)
	}
	saved := w.into
	w.into = nil
	top := w.owner == nil
	for _, id := range n.Names {
		if top {
			w.into = append(w.into, target{global: id.Name})
		}
	}
	for i, e := range n.Values {
		if top && len(n.Names) == len(n.Values) {
			w.into = []target{{global: n.Names[i].Name}}
		}
		w.node(e)
	}
	w.into = saved
	if top {
		return
	}
	for i, id := range n.Names {
		l := w.declare(id, n.Type)
		switch {
		case len(n.Values) == len(n.Names):
			l.assigns = append(l.assigns, assign{plain, n.Values[i], -1})
		case len(n.Values) == 1:
			l.assigns = append(l.assigns, assign{plain, n.Values[0], i})
		case n.Type != nil && len(n.Values) == 0:
			// The zero value is no default that anyone chose.
		}
	}
}
