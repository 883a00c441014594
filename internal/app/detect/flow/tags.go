package flow

import (
	"cmp"
	"go/ast"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Tag is a struct field that a library fills from a variable.
type Tag struct {
	Env        string
	Default    string
	HasDefault bool
	Required   bool
	Pos        token.Pos
}

// Tags returns the variables that struct tags name, by name.
func (p *Program) Tags() []Tag {
	var out []Tag
	for _, t := range p.tags {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Tag) int {
		fa, la := p.Loader.Position(a.Pos)
		fb, lb := p.Loader.Position(b.Pos)
		return cmp.Or(cmp.Compare(a.Env, b.Env), cmp.Compare(fa, fb), cmp.Compare(la, lb))
	})
	return out
}

func tagKey(t Type, field string) string { return t.Path + "|" + t.Name + "|" + field }

// findTags reads the struct tags of the libraries that fill structs from the
// environment, when the program uses one.
func (p *Program) findTags() {
	p.tags = map[string]Tag{}
	lib := p.Imports(func(ip string) bool {
		return envLibrary(ip) || strings.Contains(ip, "go-flags") || strings.Contains(ip, "kong") ||
			strings.Contains(ip, "go-arg") || strings.Contains(ip, "/conf")
	})
	if !lib {
		return
	}
	for _, s := range p.Sites {
		c := p.callees[s]
		if strings.HasSuffix(c.Path, "/envconfig") && strings.HasSuffix(c.Name, "rocess") && len(s.Call.Args) == 2 {
			prefix, _ := single(p.anyCaller(s.Call.Args[0], -1, s.fn))
			p.processStruct(p.typeOf(s.Call.Args[1], s.fn, 0), strings.ToUpper(prefix), 0)
		}
	}
	// Structs with a prefix first: those inside of them are not read on their own.
	var list []*typeDecl
	for t := range p.typed {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *typeDecl) int {
		return cmp.Or(cmp.Compare(a.file.name, b.file.name), cmp.Compare(a.spec.Pos(), b.spec.Pos()))
	})
	prefixes := map[*typeDecl][]string{}
	for _, t := range list {
		p.eachField(t, func(f *ast.Field, _ string, tag reflect.StructTag) {
			prefix, ok := tag.Lookup("envPrefix")
			if !ok {
				if _, rest, found := strings.Cut(tag.Get("env"), "prefix="); found {
					prefix, ok = rest, true
				}
			}
			if prefix == "" {
				prefix = tag.Get("env-prefix")
				ok = ok || prefix != ""
			}
			if inner := p.typeExpr(f.Type, t.file); ok {
				if k := p.localPkg(inner); k != nil && k.types[inner.Name] != nil {
					d := k.types[inner.Name]
					prefixes[d] = append(prefixes[d], prefix)
				}
			}
		})
	}
	for _, t := range list {
		of := prefixes[t]
		if len(of) == 0 {
			of = []string{""}
		}
		p.eachField(t, func(f *ast.Field, name string, tag reflect.StructTag) {
			for i, prefix := range of {
				if e, ok := envTag(tag); ok {
					e.Env, e.Pos = prefix+e.Env, f.Pos()
					key := tagKey(Type{localPrefix + t.file.pkg.Dir, t.spec.Name.Name}, name)
					if i > 0 {
						key += "|" + prefix
					}
					if _, dup := p.tags[key]; !dup {
						p.tags[key] = e
					}
				}
			}
		})
	}
}

func (p *Program) eachField(t *typeDecl, f func(*ast.Field, string, reflect.StructTag)) {
	st, ok := t.spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, fl := range st.Fields.List {
		var tag reflect.StructTag
		if fl.Tag != nil {
			s, _ := single(literal(fl.Tag))
			tag = reflect.StructTag(s)
		}
		for _, n := range fl.Names {
			f(fl, n.Name, tag)
		}
		if len(fl.Names) == 0 {
			f(fl, baseName(fl.Type), tag)
		}
	}
}

// envTag reads one field's tag as the well-known libraries do.
func envTag(tag reflect.StructTag) (Tag, bool) {
	raw := tag.Get("env")
	if raw == "" {
		if _, rest, ok := strings.Cut(tag.Get("arg"), "env:"); ok { // go-arg
			raw = rest
		}
	}
	parts := strings.Split(raw, ",")
	t := Tag{Env: strings.TrimSpace(parts[0])}
	if !ValidEnv(t.Env) {
		return Tag{}, false
	}
	for _, o := range parts[1:] {
		o = strings.TrimSpace(o)
		switch {
		case o == "required" || o == "notEmpty":
			t.Required = true
		case strings.HasPrefix(o, "default="):
			t.Default, t.HasDefault = strings.TrimPrefix(o, "default="), true
		}
	}
	for _, k := range []string{"envDefault", "env-default", "default"} {
		if d, ok := tag.Lookup(k); ok && !t.HasDefault {
			t.Default, t.HasDefault = d, true
		}
	}
	for _, k := range []string{"env-required", "required"} {
		if v, ok := tag.Lookup(k); ok && v != "false" {
			t.Required = true
		}
	}
	return t, true
}

// processStruct does as kelseyhightower/envconfig: PREFIX_FIELD unless a tag
// says otherwise.
func (p *Program) processStruct(t Type, prefix string, depth int) {
	k := p.localPkg(t)
	if k == nil || k.types[t.Name] == nil || depth > 4 {
		return
	}
	d := k.types[t.Name]
	p.eachField(d, func(f *ast.Field, field string, tag reflect.StructTag) {
		if tag.Get("ignored") == "true" || !ast.IsExported(field) {
			return
		}
		name := tag.Get("envconfig")
		if name == "" {
			name = field
			if tag.Get("split_words") == "true" {
				name = snake(field)
			}
		}
		name = strings.ToUpper(name)
		if prefix != "" {
			name = prefix + "_" + name
		}
		if inner := p.typeExpr(f.Type, d.file); p.localPkg(inner) != nil {
			if len(f.Names) == 0 {
				name = prefix
			}
			p.processStruct(inner, name, depth+1)
			return
		}
		def, has := tag.Lookup("default")
		p.tags[tagKey(t, field)] = Tag{
			Env: name, Default: def, HasDefault: has, Required: tag.Get("required") == "true", Pos: f.Pos(),
		}
	})
}

// snake turns MyHTTPPort into MY_HTTP_PORT.
func snake(s string) string {
	var b strings.Builder
	up := func(c byte) bool { return c >= 'A' && c <= 'Z' }
	for i := range len(s) {
		if i > 0 && up(s[i]) && (!up(s[i-1]) || i+1 < len(s) && !up(s[i+1])) {
			b.WriteByte('_')
		}
		b.WriteByte(s[i])
	}
	return strings.ToUpper(b.String())
}

// field is what a field may hold, in any value of the type.
func (p *Program) field(t Type, name string) Value {
	key := tagKey(t, name)
	if v, ok := p.fields[key]; ok {
		return v
	}
	if p.busy[key] {
		return nil
	}
	p.busy[key] = true
	defer delete(p.busy, key)
	out := p.tagged(t, name)
	pos := "#" + p.fieldIndex(t, name)
	for _, n := range []string{name, pos} {
		for _, b := range p.bindings[n] {
			if p.sameStruct(t, b) {
				out = union(out, p.bound(b))
			}
		}
	}
	if len(out) == 0 {
		out = unknown()
	}
	p.fields[key] = out
	return out
}

// tagged is what the field's tag says: a variable, or a key of viper's.
func (p *Program) tagged(t Type, name string) Value {
	var out Value
	if e, ok := p.tags[tagKey(t, name)]; ok {
		out = Value{{Atoms: []Atom{{Env, e.Env, e.Pos}}}}
		if e.HasDefault {
			out = union(out, constant(e.Default, e.Pos))
		}
	}
	if !p.keys.used {
		return out
	}
	k := p.localPkg(t)
	if k == nil || k.types[t.Name] == nil {
		return out
	}
	p.eachField(k.types[t.Name], func(f *ast.Field, field string, tag reflect.StructTag) {
		if m := tag.Get("mapstructure"); m != "" && field == name {
			m, _, _ = strings.Cut(m, ",")
			out = union(out, p.ev.key(m, f.Pos(), k.types[t.Name].file.inits.root()))
		}
	})
	return out
}

func (p *Program) fieldIndex(t Type, name string) string {
	k := p.localPkg(t)
	if k == nil || k.types[t.Name] == nil {
		return "?"
	}
	at, out := 0, "?"
	p.eachField(k.types[t.Name], func(_ *ast.Field, field string, _ reflect.StructTag) {
		if field == name {
			out = strconv.Itoa(at)
		}
		at++
	})
	return out
}

// sameStruct reports whether a binding may set a field of a t.
func (p *Program) sameStruct(t Type, b binding) bool {
	var o Type
	if b.target.typ != nil {
		o = p.typeExpr(b.target.typ, b.fn.file)
	} else if b.target.of != nil {
		o = p.typeOf(b.target.of, b.fn, 0)
	}
	if t.Path == "" {
		return o.Path == "" || strings.HasPrefix(o.Path, localPrefix)
	}
	if o.Path == "" {
		return b.target.field[0] != '#'
	}
	return o == t
}
