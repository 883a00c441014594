package flow

import (
	"go/ast"
	"go/token"
	"strings"
)

// Type is a named type, pointers to it included. For what a library returns,
// Name is a guess ("NewServer" gives "Server") and Path is certain.
type Type struct{ Path, Name string }

// Callee is what a call calls.
type Callee struct {
	// Path, Recv and Name say which function or method of a library it is. Path
	// is "" when it is not known whose method it is, or for built-in functions.
	Path, Recv, Name string
	// Local tells that it is a function of the source tree.
	Local bool

	fn  *fn
	lit *ast.FuncLit
}

// Callee returns what the call calls.
func (p *Program) Callee(s *Site) Callee { return p.callees[s] }

// resolveAll finds what each call calls and who calls each function.
func (p *Program) resolveAll() {
	var dynamic []*Site
	for _, s := range p.Sites {
		c := p.resolveSite(s)
		if c.fn == nil && c.lit == nil && c.Path == "" {
			dynamic = append(dynamic, s)
		}
		p.addCaller(s, c)
	}
	// Functions that are handed over as values: func(getenv func(string) string).
	for range 2 {
		for _, s := range dynamic {
			if c := p.callees[s]; c.Path == "" && c.fn == nil && c.lit == nil {
				if c = p.funcValue(s.Call.Fun, s.fn, 0); c.fn != nil || c.lit != nil || c.Path != "" {
					p.callees[s] = c
					p.addCaller(s, c)
				}
			}
		}
	}
}

// resolveSite is resolve, worked out once. A call that is needed to resolve
// itself is unknown.
func (p *Program) resolveSite(s *Site) Callee {
	if c, ok := p.callees[s]; ok {
		return c
	}
	p.callees[s] = Callee{}
	c := p.resolve(s.Call, s.fn)
	p.callees[s] = c
	return c
}

func (p *Program) addCaller(s *Site, c Callee) {
	switch {
	case c.fn != nil && c.fn.decl != nil:
		p.callers[c.fn.decl] = append(p.callers[c.fn.decl], s)
	case c.lit != nil:
		p.callers[c.lit] = append(p.callers[c.lit], s)
	}
}

func (p *Program) resolve(call *ast.CallExpr, f *fn) Callee {
	in := f.scan()
	switch fun := generic(call.Fun).(type) {
	case *ast.FuncLit:
		return Callee{lit: fun, Local: true}
	case *ast.Ident:
		if l := in.uses[fun]; l != nil {
			for _, a := range l.assigns {
				if lit, ok := unparen(a.rhs).(*ast.FuncLit); ok && a.kind == plain {
					return Callee{lit: lit, Local: true, Name: fun.Name}
				}
			}
			return Callee{Name: fun.Name}
		}
		if g := f.pkg().funcs[fun.Name]; g != nil {
			return Callee{fn: g, Local: true, Name: fun.Name}
		}
		return Callee{Name: fun.Name}
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok && in.uses[x] == nil {
			if k := p.imported(f.file, x.Name); k != nil {
				if g := k.funcs[fun.Sel.Name]; g != nil {
					return Callee{fn: g, Local: true, Name: fun.Sel.Name}
				}
				return Callee{Name: fun.Sel.Name}
			}
			if ip, ok := f.file.imports[x.Name]; ok && f.pkg().vars[x.Name] == nil {
				return Callee{Path: ip, Name: fun.Sel.Name}
			}
		}
		return p.resolveMethod(fun, f)
	}
	return Callee{}
}

// generic strips parentheses and type arguments.
func generic(e ast.Expr) ast.Expr {
	switch e := unparen(e).(type) {
	case *ast.IndexExpr:
		return generic(e.X)
	case *ast.IndexListExpr:
		return generic(e.X)
	default:
		return e
	}
}

func (p *Program) resolveMethod(fun *ast.SelectorExpr, f *fn) Callee {
	name := fun.Sel.Name
	t := p.typeOf(fun.X, f, 0)
	if t.Path != "" {
		if k := p.localPkg(t); k != nil {
			if m := p.method(k, t.Name, name, 0); m != nil {
				return Callee{fn: m, Local: true, Name: name, Recv: t.Name}
			}
			if e := p.embeddedLibrary(k, t.Name); e.Path != "" {
				return Callee{Path: e.Path, Recv: e.Name, Name: name}
			}
		} else {
			return Callee{Path: t.Path, Recv: t.Name, Name: name}
		}
	}
	// An interface, or a type that is not known: the only method of that name.
	var only *fn
	for _, k := range p.order {
		for _, m := range k.methods[name] {
			if only != nil {
				return Callee{Name: name}
			}
			only = m
		}
	}
	if only != nil && t.Path != "" {
		return Callee{fn: only, Local: true, Name: name}
	}
	return Callee{Name: name}
}

// localPrefix marks the paths of the tree's own types: localPrefix + directory.
const localPrefix = "./"

func (p *Program) localPkg(t Type) *Package {
	if d, ok := strings.CutPrefix(t.Path, localPrefix); ok {
		return p.pkgs[d]
	}
	return nil
}

func (p *Program) method(k *Package, typ, name string, depth int) *fn {
	for _, m := range k.methods[name] {
		if m.recv == typ {
			return m
		}
	}
	t := k.types[typ]
	if t == nil || depth > 3 {
		return nil
	}
	st, ok := t.spec.Type.(*ast.StructType)
	if !ok {
		return nil
	}
	for _, f := range st.Fields.List {
		if len(f.Names) > 0 {
			continue
		}
		e := p.typeExpr(f.Type, t.file)
		if ek := p.localPkg(e); ek != nil {
			if m := p.method(ek, e.Name, name, depth+1); m != nil {
				return m
			}
		}
	}
	return nil
}

// embeddedLibrary is the library type that a struct embeds.
func (p *Program) embeddedLibrary(k *Package, typ string) Type {
	t := k.types[typ]
	if t == nil {
		return Type{}
	}
	if st, ok := t.spec.Type.(*ast.StructType); ok {
		for _, f := range st.Fields.List {
			if len(f.Names) == 0 {
				if e := p.typeExpr(f.Type, t.file); e.Path != "" && !strings.HasPrefix(e.Path, localPrefix) {
					return e
				}
			}
		}
	}
	return Type{}
}

// typeExpr is the named type that an expression for a type denotes.
func (p *Program) typeExpr(e ast.Expr, f *file) Type {
	switch e := e.(type) {
	case *ast.Ident:
		if f.pkg.types[e.Name] != nil {
			return Type{localPrefix + f.pkg.Dir, e.Name}
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			if k := p.imported(f, x.Name); k != nil {
				return Type{localPrefix + k.Dir, e.Sel.Name}
			}
			if ip, ok := f.imports[x.Name]; ok {
				return Type{ip, e.Sel.Name}
			}
		}
	case *ast.StarExpr:
		return p.typeExpr(e.X, f)
	case *ast.ParenExpr:
		return p.typeExpr(e.X, f)
	case *ast.IndexExpr:
		return p.typeExpr(e.X, f)
	case *ast.Ellipsis:
		return p.typeExpr(e.Elt, f)
	}
	return Type{}
}

// typeOf is the named type of an expression in f, as far as can be told.
func (p *Program) typeOf(e ast.Expr, f *fn, depth int) Type {
	if depth > 8 {
		return Type{}
	}
	switch e := e.(type) {
	case *ast.Ident:
		if l := f.scan().uses[e]; l != nil {
			return p.typeOfLocal(l, f, depth)
		}
		return p.typeOfGlobal(f.pkg(), e.Name, depth)
	case *ast.ParenExpr:
		return p.typeOf(e.X, f, depth)
	case *ast.StarExpr:
		return p.typeOf(e.X, f, depth)
	case *ast.UnaryExpr:
		if e.Op == token.AND {
			return p.typeOf(e.X, f, depth)
		}
	case *ast.CompositeLit:
		if e.Type != nil {
			return p.typeExpr(e.Type, f.file)
		}
	case *ast.TypeAssertExpr:
		if e.Type != nil {
			return p.typeExpr(e.Type, f.file)
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && f.scan().uses[x] == nil {
			if k := p.imported(f.file, x.Name); k != nil {
				return p.typeOfGlobal(k, e.Sel.Name, depth)
			}
			if ip, ok := f.file.imports[x.Name]; ok {
				return Type{ip, strings.TrimPrefix(e.Sel.Name, "Default")}
			}
		}
		return p.fieldType(p.typeOf(e.X, f, depth+1), e.Sel.Name, 0)
	case *ast.CallExpr:
		return p.typeOfCall(e, f, 0, depth+1)
	}
	return Type{}
}

func (p *Program) typeOfLocal(l *local, f *fn, depth int) Type {
	if l.typ != nil {
		if t := p.typeExpr(l.typ, f.file); t.Path != "" {
			return t
		}
	}
	for _, a := range l.assigns {
		if a.kind != plain {
			continue
		}
		var t Type
		if call, ok := unparen(a.rhs).(*ast.CallExpr); ok {
			t = p.typeOfCall(call, f, max(a.index, 0), depth+1)
		} else {
			t = p.typeOf(a.rhs, f, depth+1)
		}
		if t.Path != "" {
			return t
		}
	}
	return Type{}
}

func (p *Program) typeOfGlobal(k *Package, name string, depth int) Type {
	g := k.vars[name]
	if g == nil {
		return Type{}
	}
	if g.typ != nil {
		return p.typeExpr(g.typ, g.file)
	}
	if g.expr == nil {
		return Type{}
	}
	if call, ok := unparen(g.expr).(*ast.CallExpr); ok {
		return p.typeOfCall(call, g.file.inits, max(g.index, 0), depth+1)
	}
	return p.typeOf(g.expr, g.file.inits, depth+1)
}

func (p *Program) typeOfCall(call *ast.CallExpr, f *fn, index, depth int) Type {
	if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "new" && len(call.Args) == 1 {
		return p.typeExpr(call.Args[0], f.file)
	}
	if t := p.typeExpr(generic(call.Fun), f.file); strings.HasPrefix(t.Path, localPrefix) {
		if k := p.localPkg(t); k != nil && k.types[t.Name] != nil {
			return t // a conversion
		}
	}
	if depth > 8 {
		return Type{}
	}
	var c Callee
	if s := p.siteOf[call]; s != nil {
		c = p.resolveSite(s)
	} else {
		c = p.resolve(call, f)
	}
	if c.fn != nil && c.fn.decl != nil {
		i := 0
		if c.fn.decl.Type.Results == nil {
			return Type{}
		}
		for _, r := range c.fn.decl.Type.Results.List {
			n := max(len(r.Names), 1)
			if index < i+n {
				return p.typeExpr(r.Type, c.fn.file)
			}
			i += n
		}
		return Type{}
	}
	if c.Path != "" && index == 0 {
		if x, ok := unparen(call.Fun).(*ast.IndexExpr); ok { // Parse[config]()
			if t := p.typeExpr(x.Index, f.file); t.Path != "" {
				return t
			}
		}
		return Type{c.Path, strings.TrimPrefix(c.Name, "New")}
	}
	return Type{}
}

// fieldType is the type of a field of a struct of the tree.
func (p *Program) fieldType(t Type, name string, depth int) Type {
	k := p.localPkg(t)
	if k == nil || depth > 3 {
		return Type{}
	}
	d := k.types[t.Name]
	if d == nil {
		return Type{}
	}
	st, ok := d.spec.Type.(*ast.StructType)
	if !ok {
		return Type{}
	}
	for _, f := range st.Fields.List {
		for _, n := range f.Names {
			if n.Name == name {
				return p.typeExpr(f.Type, d.file)
			}
		}
		if len(f.Names) == 0 {
			e := p.typeExpr(f.Type, d.file)
			if e.Name == name {
				return e
			}
			if r := p.fieldType(e, name, depth+1); r.Path != "" {
				return r
			}
		}
	}
	return Type{}
}

// funcValue is the function that an expression, not called here, stands for.
func (p *Program) funcValue(e ast.Expr, f *fn, depth int) Callee {
	if depth == 0 {
		p.looked = 0
	}
	if p.looked++; depth > 5 || p.looked > 100 {
		return Callee{}
	}
	switch e := generic(e).(type) {
	case *ast.FuncLit:
		return Callee{lit: e, Local: true}
	case *ast.Ident:
		l := f.scan().uses[e]
		if l == nil {
			break
		}
		for _, a := range l.assigns {
			if a.kind == plain && a.index < 0 {
				if c := p.funcValue(a.rhs, f, depth+1); c.Path != "" || c.Local {
					return c
				}
			}
		}
		if l.param >= 0 {
			for i, s := range p.callers[l.owner] {
				if l.param < len(s.Call.Args) && i < 4 {
					if c := p.funcValue(s.Call.Args[l.param], s.fn, depth+1); c.Path != "" || c.Local {
						return c
					}
				}
			}
		}
		return Callee{Name: e.Name}
	case *ast.SelectorExpr:
		c := p.resolve(&ast.CallExpr{Fun: e}, f)
		if c.Path != "" || c.Local {
			return c
		}
		if p.localPkg(p.typeOf(e.X, f, 0)) == nil {
			return c
		}
		for _, b := range p.bindings[e.Sel.Name] {
			if b.assign.kind == plain && b.assign.index < 0 {
				if c := p.funcValue(b.assign.rhs, b.fn, depth+1); c.Path != "" || c.Local {
					return c
				}
			}
		}
		return c
	}
	return p.resolve(&ast.CallExpr{Fun: e}, f)
}
