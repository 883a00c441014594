package flow

import (
	"go/ast"
	"go/token"
	"strings"
)

// Read is one place where a program reads a variable.
type Read struct {
	Name       string
	Pos        token.Pos // where the name is written
	Default    string    // what the program uses when the variable is unset
	HasDefault bool
	Must       bool // a library's function that ends the program when it is unset
	Always     bool // read whenever the program starts
}

// Reads returns every read of an environment variable, in no special order.
func (p *Program) Reads() []Read {
	var out []Read
	for _, s := range p.Sites {
		c := p.callees[s]
		name, _, ok := envCall(c, s.Call)
		if !ok {
			continue
		}
		for _, cs := range p.expand(name, s.fn) {
			always := p.Always(s)
			for _, x := range cs.Chain {
				always = always && p.Always(x)
			}
			for _, a := range cs.Value {
				n, isConst := a.Const()
				if !isConst || !ValidEnv(n) {
					continue
				}
				r := Read{Name: n, Pos: s.Call.Pos(), Always: always}
				if len(a.Atoms) > 0 && a.Atoms[0].Pos.IsValid() {
					r.Pos = a.Atoms[0].Pos
				}
				low := strings.ToLower(c.Name)
				r.Must = strings.HasPrefix(low, "must") || strings.HasPrefix(low, "require")
				r.Default, r.HasDefault = p.defaultOf(n, s, cs.frame)
				out = append(out, r)
			}
		}
	}
	for _, t := range p.Tags() {
		out = append(out, Read{
			Name: t.Env, Pos: t.Pos, Default: t.Default, HasDefault: t.HasDefault, Must: t.Required, Always: true,
		})
	}
	return append(out, p.keyReads()...)
}

// keyReads are the variables that viper, urfave/cli and kingpin were told of.
func (p *Program) keyReads() []Read {
	var out []Read
	add := func(v Value) {
		for _, a := range v {
			if t, ok := a.Control(); ok && t.Kind == Env {
				r := Read{Name: t.Text, Pos: t.Pos, Always: true}
				r.Default, r.HasDefault = defaultIn(v, t.Text)
				out = append(out, r)
			}
		}
	}
	for key := range p.keys.envs {
		add(p.ev.key(key, token.NoPos, p.Main.files[0].inits.root()))
	}
	if p.keys.auto {
		for key := range p.keys.defaults {
			if _, isFlag := p.flags[key]; !isFlag {
				s := p.keys.defaults[key]
				add(p.ev.key(key, s.expr.Pos(), s.fn.root()))
			}
		}
	}
	for _, d := range p.flags {
		if len(d.envs) > 0 {
			v, _ := p.query(&flagExpr{def: d}, d.fn.root())
			add(v)
		}
	}
	return out
}

// flagExpr stands for the value of a flag.
type flagExpr struct {
	ast.BadExpr
	def flagDef
}

// defaultIn is the literal that stands in for the variable in v.
func defaultIn(v Value, name string) (string, bool) {
	for _, g := range v.Groups() {
		has := false
		for _, a := range g {
			t, ok := a.Control()
			has = has || ok && t.Kind == Env && t.Text == name
		}
		if !has {
			continue
		}
		if c := g.Consts(); len(c) > 0 {
			return c[0].Text, true
		}
	}
	return "", false
}

// defaultOf looks for what stands in for the variable: in the expression that
// reads it, in what that is assigned to, and in what its callers make of it.
func (p *Program) defaultOf(name string, s *Site, fr *frame) (string, bool) {
	for depth := 0; s != nil && fr != nil && depth < 6; depth++ {
		for x := s; x != nil; x = x.Parent {
			if d, ok := defaultIn(p.at(x.Call, fr), name); ok {
				return d, true
			}
		}
		for _, t := range s.into {
			if d, ok := p.defaultInTarget(name, t, fr, 0); ok {
				return d, true
			}
		}
		next, up := fr.site, fr.up
		if next == nil && s.result != nil {
			for _, x := range p.callers[s.result] {
				next, up = x, x.fn.root()
				break
			}
		}
		s, fr = next, up
	}
	return "", false
}

// at is what e may be in the frame; where that depends on who calls the function,
// for any caller.
func (p *Program) at(e ast.Expr, fr *frame) Value {
	v, owner := p.query(e, fr)
	if owner == nil {
		return v
	}
	budget := 16
	for _, c := range p.expandFrame(e, fr, 0, &budget) {
		p.ev.groups++
		v = union(v, regroup(c.Value, p.ev.groups))
	}
	return v
}

func (p *Program) defaultInTarget(name string, t target, fr *frame, hops int) (string, bool) {
	f := fr.fn
	var v Value
	switch {
	case t.local != nil:
		v = p.at(&localExpr{local: t.local}, fr)
	case t.field != "" && t.typ != nil:
		v = p.field(p.typeExpr(t.typ, f.file), t.field)
	case t.field != "" && t.of != nil:
		v = p.field(p.typeOf(t.of, f, 0), t.field)
	case t.global != "" && t.pkg == "":
		v, _ = p.query(&ast.Ident{Name: t.global}, fr)
	}
	if d, ok := defaultIn(v, name); ok {
		return d, true
	}
	if t.local == nil || hops > 2 {
		return "", false
	}
	for _, b := range f.scan().bindings {
		if b.assign.kind == plain && b.target.local != t.local && p.passes(b.assign.rhs, t.local, f) {
			if d, ok := p.defaultInTarget(name, b.target, fr, hops+1); ok {
				return d, true
			}
		}
	}
	for _, r := range f.scan().returns {
		for _, e := range r.results {
			if !p.passes(e, t.local, f) {
				continue
			}
			for _, x := range p.callers[r.owner] {
				if d, ok := defaultIn(p.at(x.Call, x.fn.root()), name); ok {
					return d, true
				}
				break
			}
		}
	}
	return "", false
}

// passes reports whether e is the variable, perhaps converted.
func (p *Program) passes(e ast.Expr, l *local, f *fn) bool {
	switch e := unparen(e).(type) {
	case *ast.Ident:
		return f.scan().uses[e] == l
	case *ast.CallExpr:
		return len(e.Args) > 0 && p.passes(e.Args[0], l, f)
	case *ast.BinaryExpr:
		return false
	}
	return false
}

// localExpr stands for a variable that is not written where it is asked for.
type localExpr struct {
	ast.BadExpr
	local *local
}
