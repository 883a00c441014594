package manifest

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// maxDepth is how deep an object may nest. The API server's own limit is lower.
const maxDepth = 200

// walk finds what the typed package does not look for.
type walk struct {
	schemas map[string]*spec.Schema
	found   []complaint
}

type complaint struct{ rule, path, text string }

func (w *walk) add(rule, path, format string, args ...any) {
	w.found = append(w.found, complaint{rule, path, fmt.Sprintf(format, args...)})
}

// requiredBelow reports whether a required field is missing somewhere below path.
func (w *walk) requiredBelow(path string) bool {
	return slices.ContainsFunc(w.found, func(c complaint) bool {
		return c.rule == "required" && strings.HasPrefix(c.path, path)
	})
}

func (w *walk) value(s *spec.Schema, v any, path string, depth int) {
	if s = w.resolve(s); s == nil || depth > maxDepth {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		w.object(s, v, path, depth)
	case []any:
		if s.Items != nil && s.Items.Schema != nil {
			for i, x := range v {
				w.value(s.Items.Schema, x, fmt.Sprintf("%s[%d]", path, i), depth+1)
			}
		}
	case float64:
		if s.Type.Contains("integer") && v != math.Trunc(v) {
			w.add("wrong-type", path, "expected a whole number, got %v", v)
		}
	case string:
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, any(v)) {
			allowed := make([]string, len(s.Enum))
			for i, e := range s.Enum {
				allowed[i] = fmt.Sprint(e)
			}
			w.add("not-allowed", path, "%q is not one of %s", v, strings.Join(allowed, ", "))
		}
	}
}

func (w *walk) object(s *spec.Schema, v map[string]any, path string, depth int) {
	for _, name := range s.Required {
		if x, ok := v[name]; !ok || x == nil {
			w.add("required", path+"."+name, "it is required and missing")
		}
	}
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if p, ok := s.Properties[name]; ok {
			w.value(&p, v[name], path+"."+name, depth+1)
		} else if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
			w.value(s.AdditionalProperties.Schema, v[name], path+"."+name, depth+1)
		}
	}
}

// resolve follows references, also those that are wrapped to carry a default.
func (w *walk) resolve(s *spec.Schema) *spec.Schema {
	for range 16 {
		if s == nil {
			return nil
		}
		ref := s.Ref.String()
		if ref == "" && len(s.AllOf) == 1 {
			ref = s.AllOf[0].Ref.String()
		}
		if ref == "" {
			return s
		}
		s = w.schemas[strings.TrimPrefix(ref, "#/components/schemas/")]
	}
	return nil
}
