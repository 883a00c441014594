package flow

import (
	"go/ast"
	"go/token"
	"sort"
	"strings"
)

// flagDef is the definition of a command-line flag.
type flagDef struct {
	name     string
	def      ast.Expr // nil when there is none
	envs     []ast.Expr
	required bool
	pointer  bool // the value is stored through the call's first argument
	pos      token.Pos
	fn       *fn
}

// FlagInfo is a command-line flag that a program defines.
type FlagInfo struct {
	Name    string
	Default Value // what stands in for it, a variable included
	Pos     token.Pos
}

// Flags returns the flags that the program defines, by name.
func (p *Program) Flags() []FlagInfo {
	var out []FlagInfo
	for _, d := range p.flags {
		f := FlagInfo{Name: d.name, Pos: d.pos}
		for _, a := range p.anyCaller(&flagExpr{def: d}, -1, d.fn) {
			if t, ok := a.Control(); !ok || t.Kind != Flag || t.Text != d.name {
				f.Default = append(f.Default, a)
			}
		}
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

var flagTypes = map[string]bool{
	"String": true, "Int": true, "Int16": true, "Int32": true, "Int64": true, "Uint": true, "Uint16": true,
	"Uint32": true, "Uint64": true, "Bool": true, "Duration": true, "Float64": true, "StringSlice": true,
	"StringArray": true, "IP": true, "Float32": true, "Uint8": true, "TCP": true, "URL": true,
	"ExistingFile": true, "ExistingDir": true, "Strings": true,
}

// flagDef recognises a call that defines a flag, in the manner of packages flag,
// pflag (also by way of cobra) and kingpin.
func (ev *evaluator) flagDef(c Callee, call *ast.CallExpr) (flagDef, bool) {
	if c.Local || !flagLibrary(c.Path) {
		return flagDef{}, false
	}
	if strings.Contains(c.Path, "kingpin") {
		return kingpinFlag(c, call)
	}
	base, shift := c.Name, 0
	if t, ok := strings.CutSuffix(base, "P"); ok && (flagTypes[t] || strings.HasSuffix(t, "Var")) {
		base, shift = t, 1
	}
	t, pointer := strings.CutSuffix(base, "Var")
	if !flagTypes[t] {
		return flagDef{}, false
	}
	args := call.Args
	d := flagDef{pointer: pointer, pos: call.Pos()}
	if pointer && len(args) > 0 {
		args = args[1:]
	}
	if len(args) != 3+shift {
		return flagDef{}, false
	}
	lit, ok := ev.flagName(args[0])
	d.name, d.def = lit, args[1+shift]
	if !ok {
		d.name = ""
	}
	d.pos = args[0].Pos()
	return d, true
}

func (ev *evaluator) flagName(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return single(literal(e))
	case *ast.Ident:
		for _, k := range ev.p.order {
			if g := k.vars[e.Name]; g != nil && g.expr != nil {
				if lit, ok := g.expr.(*ast.BasicLit); ok {
					return single(literal(lit))
				}
			}
		}
	}
	return "", false
}

func flagLibrary(ip string) bool {
	if ip == "flag" || ip == "github.com/spf13/cobra" || strings.Contains(ip, "kingpin") {
		return true
	}
	return strings.Contains(ip[strings.LastIndexByte(ip, '/')+1:], "flag")
}

// kingpinFlag reads a chain such as Flag("port", "help").Default("80").String().
func kingpinFlag(c Callee, call *ast.CallExpr) (flagDef, bool) {
	t, pointer := strings.CutSuffix(c.Name, "Var")
	if !flagTypes[t] {
		return flagDef{}, false
	}
	d := flagDef{pointer: pointer}
	for e := call; ; {
		sel, ok := e.Fun.(*ast.SelectorExpr)
		if !ok {
			return flagDef{}, false
		}
		switch {
		case sel.Sel.Name == "Default" && len(e.Args) > 0:
			d.def = e.Args[0]
		case sel.Sel.Name == "Required":
			d.required = true
		case strings.HasPrefix(sel.Sel.Name, "Envar") && len(e.Args) == 1:
			d.envs = append(d.envs, e.Args[0])
		case sel.Sel.Name == "Flag" && len(e.Args) > 0:
			if lit, ok := e.Args[0].(*ast.BasicLit); ok {
				d.name, _ = single(literal(lit))
				d.pos = lit.Pos()
			}
			return d, d.name != ""
		}
		if e, ok = sel.X.(*ast.CallExpr); !ok {
			return flagDef{}, false
		}
	}
}

// flagValue is the flag, then what stands in for it.
func (ev *evaluator) flagValue(d flagDef, fr *frame) Value {
	var out Value
	if d.name != "" {
		out = Value{{Atoms: []Atom{{Flag, d.name, d.pos}}}}
	}
	for _, e := range d.envs {
		for _, a := range ev.eval(e, fr).Consts() {
			out = union(out, Value{{Atoms: []Atom{{Env, a.Text, a.Pos}}}})
		}
	}
	if d.def != nil {
		out = union(out, ev.eval(d.def, fr))
	}
	if len(out) == 0 {
		return unknown()
	}
	return out
}

// findFlags fills the table of flags, for those that look them up by name.
func (p *Program) findFlags() {
	for _, s := range p.Sites {
		if d, ok := p.ev.flagDef(p.callees[s], s.Call); ok && d.name != "" {
			d.fn = s.fn
			if _, dup := p.flags[d.name]; !dup {
				p.flags[d.name] = d
			}
		}
	}
	for _, s := range p.Sites { // cobra
		if c := p.callees[s]; c.Path == "github.com/spf13/cobra" && strings.HasSuffix(c.Name, "FlagRequired") && len(s.Call.Args) == 1 {
			name, _ := p.ev.flagName(s.Call.Args[0])
			if d, ok := p.flags[name]; ok && p.Always(s) {
				d.required, d.def = true, nil
				p.flags[name] = d
			}
		}
	}
	// urfave/cli: &cli.StringFlag{Name: "port", Value: "8080", EnvVars: ...}
	for _, l := range p.Literals {
		t := p.typeExpr(l.Lit.Type, l.fn.file)
		if !strings.Contains(t.Path, "urfave/cli") || !strings.HasSuffix(t.Name, "Flag") {
			continue
		}
		d := flagDef{pos: l.Lit.Pos(), fn: l.fn}
		for key, e := range Fields(l.Lit) {
			switch key {
			case "Name":
				n, _ := single(p.ev.eval(e, l.fn.root()))
				d.name, _, _ = strings.Cut(n, ",")
				d.pos = e.Pos()
			case "Value":
				d.def = e
			case "Required":
				id, ok := e.(*ast.Ident)
				d.required = ok && id.Name == "true"
			case "EnvVar":
				d.envs = append(d.envs, e)
			case "EnvVars", "Sources":
				ast.Inspect(e, func(n ast.Node) bool {
					if lit, ok := n.(*ast.BasicLit); ok {
						d.envs = append(d.envs, lit)
					}
					return true
				})
			}
		}
		if d.name != "" {
			p.flags[d.name] = d
		}
	}
}

// Fields are the keyed elements of a struct literal.
func Fields(lit *ast.CompositeLit) map[string]ast.Expr {
	out := map[string]ast.Expr{}
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if id, ok := kv.Key.(*ast.Ident); ok {
				out[id.Name] = kv.Value
			}
		}
	}
	return out
}

// LitType is the type of a composite literal.
func (p *Program) LitType(l *Literal) Type {
	if l.Lit.Type == nil {
		return Type{}
	}
	return p.typeExpr(l.Lit.Type, l.fn.file)
}

// settings are what is known of a program's use of viper.
type settings struct {
	used     bool
	prefix   string
	auto     bool // every key is also a variable
	replaced bool // "-" and "." in keys become "_" in variables
	defaults map[string]setting
	envs     map[string][]setting
}

type setting struct {
	expr ast.Expr
	fn   *fn
}

func viperPath(ip string) bool { return strings.HasPrefix(ip, "github.com/spf13/viper") }

func (p *Program) findSettings() {
	k := &p.keys
	k.defaults, k.envs = map[string]setting{}, map[string][]setting{}
	for _, s := range p.Sites {
		c := p.callees[s]
		if !viperPath(c.Path) {
			continue
		}
		k.used = true
		var first string
		if len(s.Call.Args) > 0 {
			first, _ = single(p.anyCaller(s.Call.Args[0], -1, s.fn))
		}
		switch c.Name {
		case "SetDefault":
			if len(s.Call.Args) == 2 {
				k.defaults[strings.ToLower(first)] = setting{s.Call.Args[1], s.fn}
			}
		case "AutomaticEnv":
			k.auto = true
		case "SetEnvPrefix":
			k.prefix = strings.ToUpper(first) + "_"
		case "SetEnvKeyReplacer":
			k.replaced = true
		case "BindEnv":
			for _, e := range s.Call.Args[min(1, len(s.Call.Args)):] {
				k.envs[strings.ToLower(first)] = append(k.envs[strings.ToLower(first)], setting{e, s.fn})
			}
			if len(s.Call.Args) == 1 {
				k.envs[strings.ToLower(first)] = []setting{{s.Call.Args[0], s.fn}}
			}
		}
	}
}

// keyed recognises look-ups by key: viper.GetString("port"), cmd.Flags().GetInt("port").
func (ev *evaluator) keyed(c Callee, call *ast.CallExpr, fr *frame) (Value, bool) {
	if len(call.Args) != 1 {
		return nil, false
	}
	viper := viperPath(c.Path) && strings.HasPrefix(c.Name, "Get")
	flags := flagLibrary(c.Path) && strings.HasPrefix(c.Name, "Get")
	cli := strings.Contains(c.Path, "urfave/cli") && flagTypes[c.Name]
	if !viper && !flags && !cli {
		return nil, false
	}
	var out Value
	for _, k := range ev.eval(call.Args[0], fr).Consts() {
		if viper {
			out = union(out, ev.key(k.Text, k.Pos, fr))
		} else if d, ok := ev.p.flags[k.Text]; ok {
			out = union(out, ev.flagValue(d, d.fn.root()))
		}
	}
	return out, len(out) > 0
}

// key is what viper has for a key: its flag, its variables, its default.
func (ev *evaluator) key(key string, pos token.Pos, fr *frame) Value {
	k := &ev.p.keys
	var out Value
	low := strings.ToLower(key)
	if d, ok := ev.p.flags[key]; ok {
		out = ev.flagValue(d, d.fn.root())
	}
	for _, s := range k.envs[low] {
		for _, a := range ev.eval(s.expr, s.fn.root()).Consts() {
			name := a.Text
			if name == key {
				name = ev.keyEnv(key)
			}
			out = union(out, Value{{Atoms: []Atom{{Env, name, a.Pos}}}})
		}
	}
	if k.auto && len(out) == 0 {
		if name := ev.keyEnv(key); ValidEnv(name) {
			out = union(out, Value{{Atoms: []Atom{{Env, name, pos}}}})
		}
	}
	if s, ok := k.defaults[low]; ok {
		out = union(out, ev.eval(s.expr, s.fn.root()))
	}
	return out
}

func (ev *evaluator) keyEnv(key string) string {
	k := &ev.p.keys
	if k.replaced {
		key = strings.NewReplacer("-", "_", ".", "_").Replace(key)
	}
	return k.prefix + strings.ToUpper(key)
}
