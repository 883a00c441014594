package gateway

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// Record is what a route's annotation tells of a release that shares its requests.
type Record struct {
	Release types.UID `json:"release"`
	Service string    `json:"service"`
	Canary  string    `json:"canary"`
	// Was are the rules of before, and Made what was made of them.
	Was  []any `json:"was"`
	Made []any `json:"made"`
	// From tells for each rule that was made of which one of before it was, Added for one that
	// is for a route of the release.
	From []int `json:"from"`
}

// Added is where a rule comes from that was made for a route of a release.
const Added = -1

// ReadRecord reads an annotation, nil for one that is nobody's.
func ReadRecord(annotation string) *Record {
	if annotation == "" {
		return nil
	}
	r, fields := &Record{}, map[string]any{}
	if err := json.Unmarshal([]byte(annotation), r); err != nil || r.Release == "" {
		return nil
	}
	// Whole numbers stay such.
	if err := unmarshal(annotation, &fields); err != nil {
		return nil
	}
	r.Was, r.Made = list(fields, "was"), list(fields, "made")
	if len(r.From) != len(r.Made) || slices.ContainsFunc(r.From, func(at int) bool { return at < Added || at >= len(r.Was) }) {
		return nil
	}
	return r
}

// String is the annotation.
func (r Record) String() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // what came from JSON
	}
	return string(b)
}

// Restore returns what the rules of a route were, and whether anybody has edited them since
// the record was made. Who has is right: of what they have written, only what is the
// release's is taken out. A record of nil knows of no rules of before.
func Restore(rules []any, r *Record, s Share) (was []any, edited bool) {
	if r == nil {
		r = &Record{}
	} else if same(rules, r.Made) {
		return deepCopy(r.Was), false
	}
	taken := make([]bool, len(r.Made))
	for _, x := range rules {
		rule, ok := x.(map[string]any)
		if !ok {
			continue
		}
		i := slices.IndexFunc(r.Made, func(m any) bool { return same(m, rule) })
		if i >= 0 && taken[i] {
			i = -1
		}
		switch {
		case i >= 0 && r.From[i] == Added:
			taken[i] = true
		case i >= 0:
			taken[i] = true
			was = append(was, runtime.DeepCopyJSONValue(r.Was[r.From[i]]))
		case slices.ContainsFunc(r.Was, func(w any) bool { return same(w, rule) }):
			was = append(was, runtime.DeepCopyJSONValue(rule))
		case made(rule, r, s):
		default:
			was = append(was, s.strip(rule, r.Was))
		}
	}
	if len(was) == 0 { // a route without rules is none
		return deepCopy(r.Was), true
	}
	return was, true
}

// made says whether a rule is one for a route of the release, edited: by its matches, or where a
// rule of before has the same, by where it leads.
func made(rule map[string]any, r *Record, s Share) bool {
	added, base := false, false
	for i, x := range r.Made {
		m, _ := x.(map[string]any)
		if same(m["matches"], rule["matches"]) {
			added, base = added || r.From[i] == Added, base || r.From[i] != Added
		}
	}
	refs := list(rule, "backendRefs")
	to := func(name string) bool { return slices.ContainsFunc(refs, func(b any) bool { return s.names(b, name) }) }
	return added && (!base || to(s.Canary) && !to(s.Service))
}

// strip takes out of a rule what is the release's. before are rules of which it may be one.
func (s Share) strip(rule map[string]any, before []any) map[string]any {
	out := runtime.DeepCopyJSON(rule)
	if filters := list(out, "filters"); filters != nil {
		kept := slices.DeleteFunc(slices.Clone(filters), func(f any) bool {
			filter, _ := f.(map[string]any)
			mirror, _ := filter["requestMirror"].(map[string]any)
			return s.names(mirror["backendRef"], s.Canary)
		})
		if out["filters"] = kept; len(kept) == 0 {
			delete(out, "filters")
		}
	}
	var refs []any
	found := false
	for _, x := range list(out, "backendRefs") {
		ref, _ := x.(map[string]any)
		if !s.names(x, s.Canary) {
			refs = append(refs, x)
			continue
		}
		found = true
		ref["name"] = s.Service
		i := slices.IndexFunc(refs, func(o any) bool { return same(weightless(o), weightless(ref)) })
		if i < 0 {
			refs = append(refs, ref)
			continue
		}
		stable := refs[i].(map[string]any)
		stable["weight"] = weightOf(stable) + weightOf(ref)
	}
	if !found {
		return out
	}
	out["backendRefs"] = refs
	for _, x := range before {
		if w, _ := x.(map[string]any); proportional(refs, list(w, "backendRefs")) {
			out["backendRefs"] = deepCopy(list(w, "backendRefs"))
			return out
		}
	}
	common := int64(0)
	for _, ref := range refs {
		common = gcd(common, weightOf(ref))
	}
	for _, ref := range refs {
		if common > 1 {
			ref.(map[string]any)["weight"] = weightOf(ref) / common
		}
	}
	return out
}

// proportional says whether two lists of backends differ by a factor of all weights alone.
func proportional(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !same(weightless(a[i]), weightless(b[i])) {
			return false
		}
		// Products of two weights fit by far.
		for j := range i {
			if weightOf(a[i])*weightOf(b[j]) != weightOf(a[j])*weightOf(b[i]) {
				return false
			}
		}
		if (weightOf(a[i]) == 0) != (weightOf(b[i]) == 0) {
			return false
		}
	}
	return true
}

func weightless(ref any) any {
	m, ok := ref.(map[string]any)
	if !ok {
		return ref
	}
	out := map[string]any{}
	for k, v := range m {
		if k != "weight" {
			out[k] = v
		}
	}
	return out
}

func same(a, b any) bool { return reflect.DeepEqual(a, b) }

func deepCopy(l []any) []any {
	if l == nil {
		return nil
	}
	return runtime.DeepCopyJSONValue(l).([]any)
}

// unmarshal reads JSON as the API's objects are read: whole numbers are int64.
func unmarshal(text string, into *map[string]any) error {
	if err := utiljson.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("read the annotation of a route: %w", err)
	}
	return nil
}
