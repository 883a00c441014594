package flow

import (
	"go/ast"
	"strings"
)

// call is what a call returns: its result index, or its only one for -1.
func (ev *evaluator) call(call *ast.CallExpr, index int, fr *frame) Value {
	p := ev.p
	s := p.siteOf[call]
	if s == nil {
		return unknown()
	}
	c := p.callees[s]
	if c.fn == nil && c.lit == nil && c.Path == "" {
		if d := ev.bound(call, fr); d.Path != "" || d.Local {
			c = d
		}
	}
	switch {
	case c.fn != nil:
		return ev.inline(c.fn, c.fn.decl, s, index, fr)
	case c.lit != nil:
		return ev.inline(fr.fn, c.lit, s, index, fr)
	}
	return ev.library(c, call, index, fr)
}

// bound is the function that a parameter was given by the frame's caller.
func (ev *evaluator) bound(call *ast.CallExpr, fr *frame) Callee {
	id, ok := unparen(call.Fun).(*ast.Ident)
	if !ok {
		return Callee{}
	}
	l := fr.fn.scan().uses[id]
	if l == nil || l.param < 0 {
		return Callee{}
	}
	for x := fr; x != nil; x = x.up {
		if x.node == l.owner && x.site != nil && l.param < len(x.site.Call.Args) {
			return ev.p.funcValue(x.site.Call.Args[l.param], x.up.fn, 0)
		}
	}
	return Callee{}
}

// inline is what f returns when s calls it in the frame fr.
func (ev *evaluator) inline(f *fn, node ast.Node, s *Site, index int, fr *frame) Value {
	same, deep := 0, 0
	for x := fr; x != nil; x = x.up {
		if x.node == node {
			same++
		}
		deep++
	}
	if same > 1 || deep > 10 {
		return unknown()
	}
	if lit, ok := node.(*ast.FuncLit); ok {
		// A literal that was handed over belongs to another function.
		if g := ev.p.homeOf(lit); g != nil {
			f = g
		}
	}
	next := &frame{fn: f, node: node, site: s, up: fr}
	in := f.scan()
	var out Value
	for _, r := range in.returns {
		if r.owner != node {
			continue
		}
		out = union(out, ev.returned(r, max(index, 0), index, next))
	}
	if len(out) > 1 && index >= 0 {
		out = dropEmpty(out) // what goes with an error
	}
	if len(out) == 0 {
		return unknown()
	}
	return out
}

func (ev *evaluator) returned(r ret, i, index int, fr *frame) Value {
	named := fr.fn.scan().results[r.owner]
	switch {
	case len(r.results) == 0:
		if i < len(named) {
			return ev.local(named[i], fr)
		}
	case len(r.results) == 1 && index > 0:
		if call, ok := unparen(r.results[0]).(*ast.CallExpr); ok {
			return ev.call(call, index, fr)
		}
	case i < len(r.results):
		if call, ok := unparen(r.results[i]).(*ast.CallExpr); ok && len(r.results) == 1 {
			return ev.call(call, index, fr)
		}
		return ev.eval(r.results[i], fr)
	}
	return nil
}

func dropEmpty(v Value) Value {
	var out Value
	for _, a := range v {
		if s, ok := a.Const(); !ok || s != "" {
			out = append(out, a)
		}
	}
	return out
}

// homeOf is the function that a literal is written in.
func (p *Program) homeOf(lit *ast.FuncLit) *fn {
	if p.homes == nil {
		p.homes = map[*ast.FuncLit]*fn{}
		for _, f := range p.fns {
			for _, n := range f.body {
				ast.Inspect(n, func(n ast.Node) bool {
					if l, ok := n.(*ast.FuncLit); ok {
						p.homes[l] = f
					}
					return true
				})
			}
		}
	}
	return p.homes[lit]
}

// byPointer is what a call stores through its argument i.
func (ev *evaluator) byPointer(call *ast.CallExpr, i int, fr *frame) Value {
	s := ev.p.siteOf[call]
	if s == nil {
		return nil
	}
	c := ev.p.callees[s]
	if c.fn == nil {
		if i == 0 {
			if d, ok := ev.flagDef(c, call); ok && d.pointer {
				return ev.flagValue(d, fr)
			}
		}
		if i == 1 && (c.Name == "Sscanf" || c.Name == "Sscan") && len(call.Args) > 0 {
			return ev.eval(call.Args[0], fr)
		}
		return nil
	}
	same := 0
	for x := fr; x != nil; x = x.up {
		if x.node == c.fn.decl {
			same++
		}
	}
	if same > 1 {
		return nil
	}
	next := &frame{fn: c.fn, node: c.fn.decl, site: s, up: fr}
	var out Value
	for l, list := range c.fn.scan().derefs {
		if l.param == i && l.owner == ast.Node(c.fn.decl) {
			for _, a := range list {
				out = union(out, ev.assigned(a, next))
			}
		}
	}
	return out
}

// through are functions whose result is, for our purpose, their first argument.
var through = map[string]bool{
	"strconv.Atoi": true, "strconv.Itoa": true, "strconv.ParseInt": true, "strconv.ParseUint": true,
	"strconv.FormatInt": true, "strconv.FormatUint": true, "strings.TrimSpace": true, "strings.ToLower": true,
	"strings.TrimSuffix": true, "strings.TrimRight": true, "strings.TrimPrefix": true, "strings.TrimLeft": true,
	"strings.Trim": true, "fmt.Sprint": true, "path.Clean": true, "path/filepath.Clean": true,
	"path/filepath.FromSlash": true, "path/filepath.Abs": true, "net/url.Parse": true, "os.ExpandEnv": true,
	"strings.Split": true, "net.ResolveTCPAddr": true, "net/netip.ParseAddrPort": true, "os.DirFS": true,
	"net/http.Dir": true, "net/url.PathEscape": true, "strings.Clone": true, "net/url.ParseRequestURI": true,
}

func (ev *evaluator) library(c Callee, call *ast.CallExpr, index int, fr *frame) Value {
	arg := func(i int) Value {
		if i < len(call.Args) {
			return ev.eval(call.Args[i], fr)
		}
		return unknown()
	}
	if name, def, ok := envCall(c, call); ok {
		return union(ev.envValue(name, call, fr), ev.eval(def, fr).ifKnown(def != nil))
	}
	if d, ok := ev.flagDef(c, call); ok {
		if d.pointer {
			return unknown()
		}
		return ev.flagValue(d, fr)
	}
	if v, ok := ev.keyed(c, call, fr); ok {
		return v
	}
	switch full := c.Path + "." + c.Name; {
	case full == "fmt.Sprintf":
		return ev.sprintf(call, fr)
	case full == "net.JoinHostPort":
		return concat(concat(arg(0), constant(":", call.Pos())), arg(1))
	case full == "cmp.Or":
		var out Value
		for i := range call.Args {
			out = union(out, arg(i))
		}
		return dropEmpty(out)
	case full == "path.Join" || full == "path/filepath.Join":
		out := arg(0)
		for i := 1; i < len(call.Args); i++ {
			out = concat(concat(out, constant("/", call.Pos())), arg(i))
		}
		return out
	case full == "net.ResolveTCPAddr" || full == "net.ResolveUDPAddr":
		return arg(1)
	case full == "strings.Join", full == "strings.Split":
		return arg(0)
	case through[full] && index <= 0:
		return arg(0)
	}
	if c.Path == "" && len(call.Args) == 1 && ev.conversion(call.Fun, fr) {
		return arg(0)
	}
	return unknown()
}

// conversion reports whether fun is a type: string(x), int(x), time.Duration(x).
func (ev *evaluator) conversion(fun ast.Expr, fr *frame) bool {
	switch fun := unparen(fun).(type) {
	case *ast.Ident:
		switch fun.Name {
		case "string", "int", "int16", "int32", "int64", "uint", "uint16", "uint32", "uint64":
			return true
		}
		return fr.fn.pkg().types[fun.Name] != nil
	case *ast.ArrayType:
		return true
	}
	return false
}

func (v Value) ifKnown(ok bool) Value {
	if !ok {
		return nil
	}
	return v
}

// sprintf puts the arguments into the format where it is a plain one.
func (ev *evaluator) sprintf(call *ast.CallExpr, fr *frame) Value {
	if len(call.Args) == 0 {
		return unknown()
	}
	format, ok := single(ev.eval(call.Args[0], fr))
	if !ok {
		return unknown()
	}
	out, next := constant("", call.Args[0].Pos()), 1
	for {
		lit, rest, found := strings.Cut(format, "%")
		if lit != "" {
			out = concat(out, constant(lit, call.Args[0].Pos()))
		}
		if !found || rest == "" {
			return out
		}
		verb := strings.TrimLeft(rest, "+-# 0123456789.")
		if verb == "" {
			return out
		}
		format = verb[1:]
		switch {
		case verb[0] == '%':
			out = concat(out, constant("%", call.Pos()))
		case next < len(call.Args) && strings.IndexByte("svdq", verb[0]) >= 0:
			out = concat(out, ev.eval(call.Args[next], fr))
			next++
		default:
			out = concat(out, unknown())
			next++
		}
	}
}

func single(v Value) (string, bool) {
	if len(v) != 1 {
		return "", false
	}
	return v[0].Const()
}

// envCall recognises a read of a variable. def is the default that is given to
// a library's function along with the name, or nil.
func envCall(c Callee, call *ast.CallExpr) (name, def ast.Expr, ok bool) {
	if len(call.Args) == 0 || c.Local {
		return nil, nil, false
	}
	switch c.Path {
	case "os", "syscall":
		return call.Args[0], nil, c.Name == "Getenv" || c.Name == "LookupEnv"
	case "", "fmt", "strings", "flag":
		return nil, nil, false
	}
	if !envLibrary(c.Path) || c.Recv != "" {
		return nil, nil, false
	}
	lit, isLit := call.Args[0].(*ast.BasicLit)
	if !isLit || !strings.HasPrefix(lit.Value, `"`) || !ValidEnv(strings.Trim(lit.Value, `"`)) ||
		strings.ToUpper(lit.Value) != lit.Value {
		return nil, nil, false
	}
	if len(call.Args) == 2 {
		def = call.Args[1]
	}
	return call.Args[0], def, true
}

// envLibrary reports whether an import path is that of a library that reads
// variables: its name says so.
func envLibrary(ip string) bool {
	if isMajor(ip[strings.LastIndexByte(ip, '/')+1:]) {
		ip = ip[:strings.LastIndexByte(ip, '/')]
	}
	last := ip[strings.LastIndexByte(ip, '/')+1:]
	return strings.Contains(last, "env")
}

// ValidEnv reports whether s can be the name of a variable that people use:
// letters, digits and underscores.
func ValidEnv(s string) bool {
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	letter := false
	for _, r := range s {
		switch {
		case r >= 'A' && r <= 'Z' || r == '_':
			letter = true
		case r >= 'a' && r <= 'z':
			letter = true
		case r >= '0' && r <= '9':
		default:
			return false
		}
	}
	return letter
}

func (ev *evaluator) envValue(name ast.Expr, call *ast.CallExpr, fr *frame) Value {
	var out Value
	for _, a := range ev.eval(name, fr) {
		if s, ok := a.Const(); ok && ValidEnv(s) {
			pos := call.Pos()
			if len(a.Atoms) > 0 && a.Atoms[0].Pos.IsValid() {
				pos = a.Atoms[0].Pos
			}
			out = union(out, Value{{Atoms: []Atom{{Env, s, pos}}, group: a.group}})
		}
	}
	if len(out) == 0 {
		return unknown()
	}
	return out
}
