package review

import (
	"regexp"
	"strconv"
)

// Field is where in the source a field of a rendered object was read.
type Field struct {
	Name string // of the field, at whatever depth: "replicas"
	Item string // of a list's element, by its name: the variable of env; "" for all of the field
	File string
	Line int // from 1
}

// At returns the place in the source of what is at a path of the object, as schemas
// write it (spec.template.spec.containers[name="cart"].env[0].value): that of the
// deepest field on the way whose place is known, or else the object's own.
func (o Object) At(path string) (file string, line int) {
	file, line = o.File, o.Line
	var at any = o.Value
	for _, step := range steps.FindAllStringSubmatch(path, -1) {
		m, _ := at.(map[string]any)
		at = m[step[1]]
		item := ""
		if step[2] != "" {
			list, _ := at.([]any)
			at = element(list, step[2])
			m, _ := at.(map[string]any)
			item, _ = m["name"].(string)
		}
		if f, ok := o.field(step[1], item); ok {
			file, line = f.File, f.Line
		}
	}
	return file, line
}

// Of returns the place in the source of what an expression over the object is about,
// where it names one field whose place is known, or else the object's own.
func (o Object) Of(expression string) (file string, line int) {
	var about Field
	for _, step := range selected.FindAllStringSubmatch(expression, -1) {
		f, ok := o.field(step[1], "")
		switch {
		case !ok:
		case about.Name != "" && about.Name != f.Name:
			return o.File, o.Line
		default:
			about = f
		}
	}
	if about.Name == "" {
		return o.File, o.Line
	}
	return about.File, about.Line
}

var (
	steps    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9]*)(?:\[([^\]]*)\])?`) // of a path
	selected = regexp.MustCompile(`\.\??([A-Za-z][A-Za-z0-9]*)\b`)           // in an expression
	keys     = regexp.MustCompile(`([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^,]*)`)   // of an element
)

// element returns what an index or keys stand for in a list.
func element(list []any, which string) any {
	if i, err := strconv.Atoi(which); err == nil {
		if i < 0 || i >= len(list) {
			return nil
		}
		return list[i]
	}
next:
	for _, x := range list {
		m, _ := x.(map[string]any)
		for _, k := range keys.FindAllStringSubmatch(which, -1) {
			want, err := strconv.Unquote(k[2])
			if err != nil {
				want = k[2]
			}
			if text(m[k[1]]) != want {
				continue next
			}
		}
		return x
	}
	return nil
}

// text is a plain value as paths write it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// field returns what is known of a field: of one item, or else of all, or else the first
// in the file that the object is from.
func (o Object) field(name, item string) (best Field, ok bool) {
	for _, f := range o.Fields {
		switch {
		case f.Name != name:
		case f.Item == item:
			return f, true
		case item == "" && f.File == o.File && (!ok || f.Line < best.Line):
			best, ok = f, true
		}
	}
	return best, ok
}
