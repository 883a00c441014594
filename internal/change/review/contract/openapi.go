package contract

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/bightdev/bight/internal/change/review"
)

// maxNodes is how many schemas of one document are compared.
const maxNodes = 100_000

// compareOpenAPI compares two versions of a document.
func compareOpenAPI(ctx context.Context, f *review.FileDiff, base, head []byte) ([]review.Finding, error) {
	old, err := load(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("read the base commit's version: %w", err)
	}
	c := &comparison{file: f.Path, seen: map[visit]bool{}}
	if head == nil {
		c.add("api-removed", review.Error, nil, "the document is removed: whoever calls its %d paths can't know that they still exist", old.Paths.Len())
		return c.out, nil
	}
	now, err := load(ctx, head)
	if err != nil {
		return nil, fmt.Errorf("read it: %w", err)
	}
	c.paths(old, now)
	return c.out, ctx.Err()
}

// load reads a document. References to other files and hosts are refused: a
// review reads nothing that the change does not have.
func load(ctx context.Context, b []byte) (*openapi3.T, error) {
	l := openapi3.NewLoader()
	l.IncludeOrigin, l.Context = true, ctx
	doc, err := l.LoadFromData(b)
	if err != nil {
		return nil, err
	}
	if doc.Paths == nil {
		doc.Paths = openapi3.NewPaths()
	}
	return doc, nil
}

// visit is a pair of schemas that was compared; they may refer to themselves.
type visit struct {
	was, is *openapi3.Schema
	request bool
}

// comparison walks two documents side by side.
type comparison struct {
	file string
	out  []review.Finding
	seen map[visit]bool
}

func (c *comparison) add(rule string, s review.Severity, at *openapi3.Origin, format string, args ...any) {
	line := 0
	if at != nil && at.Key != nil {
		line = at.Key.Line
	}
	text := fmt.Sprintf(format, args...)
	// A schema that many operations share breaks once.
	if !slices.ContainsFunc(c.out, func(f review.Finding) bool { return f.Rule == rule && f.Message == text && f.Line == line }) {
		c.out = append(c.out, finding(rule, s, c.file, line, "the change redefines the contract", text))
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (c *comparison) paths(old, now *openapi3.T) {
	for _, p := range sorted(old.Paths.Map()) {
		was, is := old.Paths.Value(p), now.Paths.Value(p)
		if is == nil {
			is = renamedParameters(now.Paths, p)
		}
		if is == nil {
			c.add("api-path-removed", review.Error, now.Paths.Origin, "the path %s is removed", p)
			continue
		}
		ops := is.Operations()
		for _, method := range sorted(was.Operations()) {
			if ops[method] == nil {
				c.add("api-operation-removed", review.Error, is.Origin, "%s %s is removed", method, p)
				continue
			}
			c.operation(method+" "+p, was.Operations()[method], ops[method], was.Parameters, is.Parameters)
		}
	}
}

// renamedParameters finds a path that differs only in what its parameters are called.
func renamedParameters(in *openapi3.Paths, p string) *openapi3.PathItem {
	want := shape(p)
	for _, q := range sorted(in.Map()) {
		if shape(q) == want {
			return in.Value(q)
		}
	}
	return nil
}

func shape(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		if strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") {
			parts[i] = "{}"
		}
	}
	return strings.Join(parts, "/")
}

func (c *comparison) operation(name string, was, is *openapi3.Operation, wasShared, isShared openapi3.Parameters) {
	before, after := parameters(was.Parameters, wasShared), parameters(is.Parameters, isShared)
	for _, key := range sorted(after) {
		p, old := after[key], before[key]
		switch {
		case p.In == openapi3.ParameterInPath: // part of the path, whatever it is called
		case old == nil && p.Required:
			c.add("api-parameter-required", review.Error, p.Origin, "%s has a new required parameter: %s in %s", name, p.Name, p.In)
		case old != nil && !old.Required && p.Required:
			c.add("api-parameter-required", review.Error, p.Origin, "%s now requires the parameter %s in %s", name, p.Name, p.In)
		}
		if old != nil {
			c.schema(name+": parameter "+p.Name, old.Schema, p.Schema, true)
		}
	}
	if body := is.RequestBody; body != nil && body.Value != nil {
		old := was.RequestBody
		if body.Value.Required && (old == nil || old.Value == nil || !old.Value.Required) {
			c.add("api-body-required", review.Error, body.Value.Origin, "%s now requires a body", name)
		}
		if old != nil && old.Value != nil {
			c.content(name+": request", old.Value.Content, body.Value.Content, body.Value.Origin, true)
		}
	}
	c.responses(name, was, is)
}

func parameters(lists ...openapi3.Parameters) map[string]*openapi3.Parameter {
	out := map[string]*openapi3.Parameter{}
	for _, l := range lists {
		for _, p := range l {
			if p == nil || p.Value == nil {
				continue
			}
			if key := p.Value.In + " " + p.Value.Name; out[key] == nil {
				out[key] = p.Value
			}
		}
	}
	return out
}

func (c *comparison) responses(name string, was, is *openapi3.Operation) {
	if was.Responses == nil {
		return
	}
	for _, status := range sorted(was.Responses.Map()) {
		old := was.Responses.Value(status)
		var now *openapi3.ResponseRef
		if is.Responses != nil {
			now = is.Responses.Value(status)
		}
		switch {
		case old == nil || old.Value == nil:
		case (now == nil || now.Value == nil) && strings.HasPrefix(status, "2"):
			c.add("api-response-removed", review.Error, is.Origin, "%s no longer answers %s", name, status)
		case now != nil && now.Value != nil:
			c.content(name+": response "+status, old.Value.Content, now.Value.Content, now.Value.Origin, false)
		}
	}
}

func (c *comparison) content(name string, was, is openapi3.Content, at *openapi3.Origin, request bool) {
	for _, media := range sorted(was) {
		now := is[media]
		if now == nil {
			c.add("api-media-type-removed", review.Error, at, "%s is no longer in %s", name, media)
			continue
		}
		if was[media] != nil {
			c.schema(name, was[media].Schema, now.Schema, request)
		}
	}
}

// schema compares two schemas: of what callers send, or of what they get.
func (c *comparison) schema(name string, was, is *openapi3.SchemaRef, request bool) {
	if was == nil || is == nil || was.Value == nil || is.Value == nil || len(c.seen) > maxNodes {
		return
	}
	old, now := was.Value, is.Value
	v := visit{old, now, request}
	if c.seen[v] {
		return
	}
	c.seen[v] = true
	if is.Ref != "" {
		name = is.Ref[strings.LastIndexByte(is.Ref, '/')+1:]
	}
	if a, b := typeName(old), typeName(now); a != b && a != "" && b != "" && !(a == "integer" && b == "number" && request) && !(a == "number" && b == "integer" && !request) {
		c.add("api-type-changed", review.Error, now.Origin, "%s changes its type from %s to %s", name, a, b)
		return
	}
	for _, p := range sorted(old.Properties) {
		next, ok := now.Properties[p]
		if !ok {
			if !request {
				c.add("api-property-removed", review.Error, now.Origin, "%s loses the property %s, which callers may read", name, p)
			}
			continue
		}
		c.schema(name+"."+p, old.Properties[p], next, request)
	}
	for _, p := range now.Required {
		if request && !slices.Contains(old.Required, p) {
			c.add("api-property-required", review.Error, now.Origin, "%s now requires the property %s", name, p)
		}
	}
	for _, p := range old.Required {
		if _, ok := now.Properties[p]; ok && !request && !slices.Contains(now.Required, p) {
			c.add("api-property-optional", review.Warning, now.Origin, "%s no longer promises the property %s", name, p)
		}
	}
	if request && len(now.Enum) > 0 {
		for _, v := range old.Enum {
			if !slices.ContainsFunc(now.Enum, func(x any) bool { return fmt.Sprint(x) == fmt.Sprint(v) }) {
				c.add("api-value-removed", review.Error, now.Origin, "%s no longer accepts the value %v", name, v)
			}
		}
	}
	c.schema(name+"[]", old.Items, now.Items, request)
	for i := range min(len(old.AllOf), len(now.AllOf)) {
		c.schema(name, old.AllOf[i], now.AllOf[i], request)
	}
}

func typeName(s *openapi3.Schema) string {
	if s.Type == nil {
		return ""
	}
	types := slices.Sorted(slices.Values(s.Type.Slice()))
	return strings.Join(types, " or ")
}
