package contract

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/bightdev/bight/internal/change/review"
)

// definition is one thing that a .proto file defines: a message, a field by its
// number, an enum, a value, a service, a method.
type definition struct {
	what   string // "field", "method", ...
	name   string // as the file has it
	shape  string // what must stay the same for programs that talk to each other
	parent string // the full name of what it is in; "" is the file
	file   string
	line   int
}

// definitions are by full name; fields and values by their parent's and their number.
type definitions map[string]definition

// protoSet are the .proto files that a change touches, before and after: together,
// so that what moves from one to another is not removed.
type protoSet struct {
	base, head definitions
	renamed    map[string]string // base path -> head path
}

func (s *protoSet) moved(f *review.FileDiff) {
	if s.renamed == nil {
		s.renamed = map[string]string{}
	}
	s.renamed[f.OldPath] = f.Path
}

// parse reads one file. Imports are not followed: names of types are compared as
// they are written.
func (d definitions) parse(name string, src []byte) error {
	if src == nil {
		return nil
	}
	handler := reporter.NewHandler(nil)
	node, err := parser.Parse(name, io.LimitReader(bytes.NewReader(src), 4<<20), handler)
	if err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	res, err := parser.ResultFromAST(node, false, handler)
	if err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	r := protoReader{into: d, file: name, res: res, node: node}
	fd := res.FileDescriptorProto()
	r.messages(fd.GetPackage(), "", fd.GetMessageType())
	r.enums(fd.GetPackage(), "", fd.GetEnumType())
	for _, s := range fd.GetService() {
		full := join(fd.GetPackage(), s.GetName())
		r.add(full, definition{what: "service", name: s.GetName()}, res.ServiceNode(s))
		for _, m := range s.GetMethod() {
			shape := fmt.Sprintf("%s%s -> %s%s", stream(m.GetClientStreaming()), short(m.GetInputType()), stream(m.GetServerStreaming()), short(m.GetOutputType()))
			r.add(join(full, m.GetName()), definition{what: "method", name: m.GetName(), parent: full, shape: shape}, res.MethodNode(m))
		}
	}
	return nil
}

type protoReader struct {
	into definitions
	file string
	res  parser.Result
	node *ast.FileNode
}

func (r *protoReader) add(key string, d definition, n ast.Node) {
	d.file = r.file
	if n != nil {
		d.line = r.node.NodeInfo(n).Start().Line
	}
	r.into[key] = d
}

func (r *protoReader) messages(scope, parent string, ms []*descriptorpb.DescriptorProto) {
	for _, m := range ms {
		full := join(scope, m.GetName())
		if !m.GetOptions().GetMapEntry() {
			r.add(full, definition{what: "message", name: m.GetName(), parent: parent}, r.res.MessageNode(m))
		}
		for _, f := range m.GetField() {
			r.add(fmt.Sprintf("%s#%d", full, f.GetNumber()),
				definition{what: "field", name: f.GetName(), parent: full, shape: fieldShape(f)}, r.res.FieldNode(f))
		}
		r.messages(full, full, m.GetNestedType())
		r.enums(full, full, m.GetEnumType())
	}
}

func (r *protoReader) enums(scope, parent string, es []*descriptorpb.EnumDescriptorProto) {
	for _, e := range es {
		full := join(scope, e.GetName())
		r.add(full, definition{what: "enum", name: e.GetName(), parent: parent}, r.res.EnumNode(e))
		for _, v := range e.GetValue() {
			r.add(fmt.Sprintf("%s#%d", full, v.GetNumber()),
				definition{what: "value", name: v.GetName(), parent: full}, r.res.EnumValueNode(v))
		}
	}
}

func fieldShape(f *descriptorpb.FieldDescriptorProto) string {
	t := short(f.GetTypeName())
	if t == "" {
		t = strings.ToLower(strings.TrimPrefix(f.GetType().String(), "TYPE_"))
	}
	if f.GetLabel() == descriptorpb.FieldDescriptorProto_LABEL_REPEATED {
		t = "repeated " + t
	}
	return t
}

// short leaves only the last part of a type's name, which may be written in full or not.
func short(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

func stream(yes bool) string {
	if yes {
		return "stream "
	}
	return ""
}

func join(scope, name string) string {
	if scope == "" {
		return name
	}
	return scope + "." + name
}

// compare says what the head commit takes away or redefines.
func (s *protoSet) compare() []review.Finding {
	keys := slices.Collect(maps.Keys(s.base))
	slices.SortFunc(keys, func(a, b string) int {
		x, y := s.base[a], s.base[b]
		return cmp.Or(cmp.Compare(x.file, y.file), cmp.Compare(x.line, y.line), cmp.Compare(a, b))
	})
	var out []review.Finding
	for _, key := range keys {
		old := s.base[key]
		now, still := s.head[key]
		if _, gone := s.goneWith(old); gone {
			continue // said for what it was in
		}
		switch {
		case !still:
			out = append(out, s.removed(key, old))
		case old.shape != now.shape:
			out = append(out, finding("proto-"+old.what+"-changed", review.Error, now.file, now.line, "",
				fmt.Sprintf("%s changes from %s to %s: programs built from the old contract read something else", title(key, old), old.shape, now.shape)))
		case old.name != now.name:
			out = append(out, finding("proto-"+old.what+"-renamed", review.Warning, now.file, now.line, "",
				fmt.Sprintf("%s is renamed to %s: the wire format is the same, but JSON and source that use the name break", title(key, old), now.name)))
		}
	}
	return out
}

// goneWith returns the outermost thing that a definition was in and that is gone too.
func (s *protoSet) goneWith(d definition) (string, bool) {
	for p := d.parent; p != ""; p = s.base[p].parent {
		if _, ok := s.head[p]; !ok {
			return p, true
		}
	}
	return "", false
}

func (s *protoSet) removed(key string, old definition) review.Finding {
	file, line := old.file, 0
	if to, ok := s.renamed[file]; ok {
		file = to
	}
	if parent, ok := s.head[old.parent]; ok && old.parent != "" {
		file, line = parent.file, parent.line
	}
	for k, d := range s.head {
		if d.what == old.what && d.name == old.name && d.parent == old.parent && old.what != "message" && strings.Contains(k, "#") {
			return finding("proto-"+old.what+"-renumbered", review.Error, d.file, d.line, "",
				fmt.Sprintf("%s gets the number %s: programs built from the old contract read it as something else, or not at all", title(key, old), k[strings.IndexByte(k, '#')+1:]))
		}
	}
	text := title(key, old) + " is removed: programs that use it break"
	if old.what == "field" || old.what == "value" {
		text += ". Keep its number reserved, so that nothing else is ever read in its place"
	}
	return finding("proto-"+old.what+"-removed", review.Error, file, line, "the change removes it", text)
}

func title(key string, d definition) string {
	full, number, ok := strings.Cut(key, "#")
	if !ok {
		return d.what + " " + full
	}
	return fmt.Sprintf("%s %s.%s (number %s)", d.what, full, d.name, number)
}

func finding(rule string, s review.Severity, file string, line int, why, text string) review.Finding {
	if why == "" {
		why = "the change redefines it"
	}
	return review.Finding{Rule: rule, Severity: s, File: file, Line: line, Message: text, Why: why}
}
