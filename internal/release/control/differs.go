package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/release/evidence"
)

// differs says what of a pod template differs between two versions, a line each, without
// what is secret.
func differs(before, now *corev1.PodTemplateSpec) []string {
	a, b, hidden := map[string]string{}, map[string]string{}, map[string]bool{}
	flatten("", plain(before), a, hidden)
	flatten("", plain(now), b, hidden)
	var out []string
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := a[name]
		is, has := b[name]
		switch {
		case had && has && was == is:
		case hidden[name]:
			out = append(out, name+": "+evidence.Hidden+", and another")
		case !had:
			out = append(out, fmt.Sprintf("%s: %s (new)", name, evidence.Text(is)))
		case !has:
			out = append(out, fmt.Sprintf("%s: %s (gone)", name, evidence.Text(was)))
		default:
			out = append(out, fmt.Sprintf("%s: %s -> %s", name, evidence.Text(was), evidence.Text(is)))
		}
	}
	return out
}

// flatten writes all scalars of an object under their paths, and names those that are secret. Of lists whose elements have
// names, the path has these.
func flatten(path string, of any, into map[string]string, hidden map[string]bool) {
	text, err := json.Marshal(of)
	var v any
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		into[path] = err.Error()
		return
	}
	walk(path, v, into, hidden)
}

func walk(path string, v any, into map[string]string, hidden map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, of := range v {
			at := name
			if path != "" {
				at = path + "." + name
			}
			walk(at, of, into, hidden)
		}
	case []any:
		for i, of := range v {
			at := fmt.Sprintf("%s[%d]", path, i)
			if m, ok := of.(map[string]any); ok {
				if name, ok := m["name"].(string); ok {
					at = fmt.Sprintf("%s[%s]", path, name)
					if len(m) > 1 {
						delete(m, "name")
					}
					if _, has := m["value"]; has && (&evidence.Rules{}).Secret(name) {
						hidden[at+".value"] = true
					}
				}
			}
			walk(at, of, into, hidden)
		}
	case nil:
	default:
		into[path] = fmt.Sprint(v)
	}
}
