package project

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of what is read, so that a file that means harm costs next to nothing.
const (
	maxNodes  = 20_000 // values, those behind an alias counted each time
	maxKey    = 256    // bytes of a key
	maxErrors = 20     // that are told
	maxText   = 800    // bytes of an error's text
)

// decoder fills structs from YAML nodes and keeps where each value is.
type decoder struct {
	at    map[string]position
	bad   map[string]bool // paths whose value could not be read
	errs  []*Error
	more  int // errors that are not among errs
	nodes int
}

func (d *decoder) fail(at position, format string, args ...any) {
	if len(d.errs) >= maxErrors {
		d.more++
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText/2]+" ... "+text[len(text)-maxText/2:], "")
	}
	d.errs = append(d.errs, &Error{max(at.line, 1), max(at.column, 1), text})
}

func (d *decoder) document(b []byte, f *File) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if err == io.EOF {
		return // an empty file overrides nothing
	}
	if err != nil {
		line, text := yamlError(err)
		d.fail(position{line, 1}, "%s", text)
		return
	}
	var more yaml.Node
	if err := dec.Decode(&more); err != io.EOF {
		d.fail(position{max(more.Line, 1), 1}, "the file has a second document; one is all that is read")
		return
	}
	if len(doc.Content) != 1 {
		return
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return
	}
	d.value(root, reflect.ValueOf(f).Elem(), "")
}

// yamlError takes the line out of the parser's message.
func yamlError(err error) (int, string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, msg, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(n); err == nil {
				return line, msg
			}
		}
	}
	return 1, text
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.nodes++; d.nodes > maxNodes || d.more > 0 {
		if d.nodes == maxNodes+1 {
			d.fail(position{n.Line, n.Column}, "the file is too large: more than %d values", maxNodes)
		}
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if _, ok := d.at[path]; !ok {
		d.at[path] = position{n.Line, n.Column}
	}
	if v.Type() == reflect.TypeFor[EnvValue]() && n.Kind == yaml.ScalarNode {
		d.scalar(n, v.FieldByName("Value"), path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), path)
		v.Set(p)
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.wrongKind(n, path, "a list")
			return
		}
		for i, c := range n.Content {
			e := reflect.New(v.Type().Elem()).Elem()
			d.value(c, e, join(path, strconv.Itoa(i)))
			v.Set(reflect.Append(v, e))
		}
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) wrongKind(n *yaml.Node, path, want string) {
	d.bad[path] = true
	have := map[yaml.Kind]string{yaml.ScalarNode: "a plain value", yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}[n.Kind]
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		have = "nothing"
	}
	if path == "" {
		path = "the file"
	}
	d.fail(position{n.Line, n.Column}, "%s must be %s, not %s", path, want, have)
}

// pairs calls f for each key of a mapping, which it checks to be plain and there
// once.
func (d *decoder) pairs(n *yaml.Node, f func(key string, k, v *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			d.fail(position{k.Line, k.Column}, "a key must be a plain value")
			continue
		}
		if len(k.Value) > maxKey {
			d.fail(position{k.Line, k.Column}, "a key has %d characters; at most %d are read", len(k.Value), maxKey)
			continue
		}
		if line, dup := seen[k.Value]; dup {
			d.fail(position{k.Line, k.Column}, "%s is there twice, first in line %d", k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		f(k.Value, k, v)
	}
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.wrongKind(n, path, "a mapping with "+strings.Join(fieldNames(v.Type()), ", "))
		return
	}
	d.pairs(n, func(key string, k, val *yaml.Node) {
		i := slices.Index(fieldNames(v.Type()), key)
		if i < 0 {
			what := key
			if path != "" {
				what = fmt.Sprintf("%s in %s", key, path)
			}
			hint := didYouMean(key, fieldNames(v.Type()))
			if hint == "" {
				hint = "; known are " + strings.Join(fieldNames(v.Type()), ", ")
			}
			d.fail(position{k.Line, k.Column}, "unknown field %s%s", what, hint)
			return
		}
		d.at[join(path, key)] = position{k.Line, k.Column}
		d.value(val, v.Field(fieldIndexes(v.Type())[i]), join(path, key))
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.wrongKind(n, path, "a mapping")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, func(key string, k, val *yaml.Node) {
		d.at[join(path, key)] = position{k.Line, k.Column}
		e := reflect.New(v.Type().Elem()).Elem()
		empty := val.Kind == yaml.ScalarNode && val.Tag == "!!null"
		if !empty || e.Kind() != reflect.Struct || e.Type() == reflect.TypeFor[EnvValue]() {
			d.value(val, e, join(path, key))
		}
		v.SetMapIndex(reflect.ValueOf(key), e)
	})
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	at := position{n.Line, n.Column}
	if n.Kind != yaml.ScalarNode {
		d.wrongKind(n, path, "a plain value")
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.Tag == "!!null" {
			d.bad[path] = true
			d.fail(at, `%s has no value; write "" for the empty string`, path)
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if err != nil || n.Tag != "!!bool" {
			d.bad[path] = true
			d.fail(at, "%s must be true or false, not %q", path, n.Value)
			return
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if err != nil || n.Tag != "!!int" {
			d.bad[path] = true
			d.fail(at, "%s must be a whole number, not %q", path, n.Value)
			return
		}
		v.SetInt(int64(i))
	}
}

func fieldNames(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" {
			out = append(out, name)
		}
	}
	return out
}

func fieldIndexes(t reflect.Type) []int {
	var out []int
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") != "" {
			out = append(out, i)
		}
	}
	return out
}

// joined is everything that was found wrong, in the order of the file.
func (d *decoder) joined() error {
	slices.SortStableFunc(d.errs, func(a, b *Error) int { return a.Line - b.Line })
	list := make([]error, len(d.errs))
	for i, e := range d.errs {
		list[i] = e
	}
	if d.more > 0 {
		last := d.errs[len(d.errs)-1]
		list = append(list, &Error{last.Line, last.Column, "and more: these are the first"})
	}
	return errors.Join(list...)
}
