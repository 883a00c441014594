package gateway

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/api/v1alpha1"
)

const several = `
- name: admin
  matches: [{path: {type: PathPrefix, value: /admin}}]
  backendRefs: [{name: admin, port: 80, weight: 1}]
- matches: [{path: {type: PathPrefix, value: /}}]
  timeouts: {request: 3s}
  backendRefs: [{name: cart, port: 80, weight: 90}, {name: legacy, port: 80, weight: 10}]
`

// recorded applies a share, and makes the record of that as it comes back from the API.
func recorded(t testing.TB, was []any, s Share) ([]any, *Record) {
	t.Helper()
	made, from, err := Apply(was, s)
	if err != nil {
		t.Fatal(err)
	}
	r := ReadRecord(Record{Release: "r", Service: s.Service, Canary: s.Canary, Was: was, Made: made, From: from}.String())
	if r == nil {
		t.Fatal("the record can't be read")
	}
	return made, r
}

func TestWhatOthersHaveEditedStays(t *testing.T) {
	s := share(500, 0, to("canary", "x-tester=1"), to("stable", "x-calm=1"))
	backends := func(rule any) []any { return list(rule.(map[string]any), "backendRefs") }
	tests := []struct {
		name string
		edit func([]any) []any
		want func([]any) []any // of what was before
	}{
		{"nothing", func(r []any) []any { return r }, func(r []any) []any { return r }},
		{"a field of a rule", func(r []any) []any {
			r[3].(map[string]any)["timeouts"] = map[string]any{"request": "9s"}
			return r
		}, func(r []any) []any {
			r[1].(map[string]any)["timeouts"] = map[string]any{"request": "9s"}
			return r
		}},
		{"a rule of others", func(r []any) []any {
			r[0].(map[string]any)["timeouts"] = map[string]any{"request": "9s"}
			return r
		}, func(r []any) []any {
			r[0].(map[string]any)["timeouts"] = map[string]any{"request": "9s"}
			return r
		}},
		{"another rule", func(r []any) []any {
			return append(r, map[string]any{"backendRefs": []any{map[string]any{"name": "new"}}})
		}, func(r []any) []any {
			return append(r, map[string]any{"backendRefs": []any{map[string]any{"name": "new"}}})
		}},
		{"a rule less", func(r []any) []any { return r[1:] }, func(r []any) []any { return r[1:] }},
		{"the order", func(r []any) []any { return append(r[1:], r[0]) }, func(r []any) []any { return append(r[1:], r[0]) }},
		{"all put back", func([]any) []any { return rulesOf(t, several) }, func(r []any) []any { return r }},
		{"the weight of another backend", func(r []any) []any {
			backends(r[3])[2].(map[string]any)["weight"] = int64(2000)
			return r
		}, func(r []any) []any {
			backends(r[1])[0].(map[string]any)["weight"] = int64(9)
			backends(r[1])[1].(map[string]any)["weight"] = int64(2)
			return r
		}},
		{"a rule for testers", func(r []any) []any {
			r[1].(map[string]any)["timeouts"] = map[string]any{"request": "1s"}
			r[2].(map[string]any)["timeouts"] = map[string]any{"request": "1s"}
			return r
		}, func(r []any) []any { return r }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			made, record := recorded(t, rulesOf(t, several), s)
			got, edited := Restore(tt.edit(deepCopy(made)), record, s)
			if diff := cmp.Diff(tt.want(rulesOf(t, several)), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if edited != (tt.name != "nothing") {
				t.Errorf("edited: %v", edited)
			}
		})
	}
}

// However the rules are written, and whatever else is for the same requests: who edits one
// loses none.
func TestAnEditLosesNoRule(t *testing.T) {
	const odd = `
- matches: [{path: {type: PathPrefix, value: /b}}]
  backendRefs: [{name: cart, port: 80}]
- matches: [{path: {type: PathPrefix, value: /a}}]
  filters: []
  backendRefs: [{name: cart, port: 80, weight: 100}]
- matches: [{path: {type: PathPrefix, value: /twice}}]
  backendRefs: [{name: cart, port: 80, weight: 1}, {name: cart, port: 80, weight: 1}]
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{name: other, port: 80}]
`
	s := share(500, 0, below("/a", to("canary", "x-tester=1")), below("/b", to("canary")))
	was := rulesOf(t, odd)
	made, record := recorded(t, rulesOf(t, odd), s)
	for i, at := range record.From {
		if at == Added {
			continue
		}
		changed := deepCopy(made)
		changed[i].(map[string]any)["timeouts"] = map[string]any{"request": "9s"}
		got, _ := Restore(changed, record, s)
		if len(got) != len(was) {
			t.Fatalf("rule %d is edited, and %d of %d are left:\n%v", at, len(got), len(was), got)
		}
		for k := range was {
			if k != at && !same(got[k], was[k]) {
				t.Errorf("rule %d is edited, and rule %d is %v", at, k, got[k])
			}
		}
		if timeouts := got[at].(map[string]any)["timeouts"]; timeouts == nil {
			t.Errorf("the edit of rule %d is lost: %v", at, got[at])
		}
	}
	if got, _ := Restore([]any{}, record, s); len(got) != len(was) {
		t.Errorf("of all rules taken off, %d are left", len(got))
	}
}

// Who has taken the annotation off has left what is the release's: that goes all the same.
func TestWithoutARecord(t *testing.T) {
	s := share(2500, 1000)
	made, _, err := Apply(rulesOf(t, plain), s)
	if err != nil {
		t.Fatal(err)
	}
	got, edited := Restore(made, nil, s)
	if diff := cmp.Diff(rulesOf(t, plain), got); diff != "" || !edited {
		t.Errorf("edited: %v (-want +got):\n%s", edited, diff)
	}
	for _, text := range []string{"", "{", `{"stable":"x"}`, "[]", "null"} {
		if r := ReadRecord(text); r != nil {
			t.Errorf("%q is %+v", text, r)
		}
	}
}

// Apply then Restore is what it was, at any share, whichever rules there are; and where
// somebody has edited one of them, nothing of the release is left.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(several), uint16(500), uint16(0), uint8(1), uint8(0))
	f.Add([]byte(plain), uint16(10_000), uint16(100), uint8(3), uint8(1))
	f.Add([]byte(`[{backendRefs: [{name: cart, weight: 7}, {name: cart, port: 81, weight: 2}, {name: legacy, weight: 3}], filters: [{type: X}]}]`), uint16(3333), uint16(0), uint8(2), uint8(0))
	f.Add([]byte(`[{matches: [{path: {type: Exact, value: /a}}, {headers: [{name: x-tester, value: "1"}]}], backendRefs: [{name: cart}]}]`), uint16(1), uint16(0), uint8(3), uint8(0))
	f.Fuzz(func(t *testing.T, text []byte, weight, mirror uint16, routes, edit uint8) {
		var was []any
		if fields := map[string]any{}; !reads(text, &fields) {
			return
		} else if was = list(fields, "rules"); len(was) == 0 {
			return
		}
		if strings.Contains(string(text), "cart-canary") {
			return // the name is the release's
		}
		s := share(int64(weight)%(all+1), int64(mirror)%(all+1))
		for i, r := range []v1alpha1.ReleaseRoute{to("canary", "x-tester=1"), to("stable", "x-calm=1"), below("/a/b", to("canary", "y=2"))} {
			if routes&(1<<i) != 0 {
				s.Routes = append(s.Routes, r)
			}
		}
		before := deepCopy(was)
		made, from, err := Apply(was, s)
		if err != nil {
			return
		}
		if !same(was, before) {
			t.Fatal("what was given is changed")
		}
		record := ReadRecord(Record{Release: "r", Service: s.Service, Canary: s.Canary, Was: was, Made: made, From: from}.String())
		got, edited := Restore(made, record, s)
		if diff := cmp.Diff(before, got); diff != "" || edited {
			t.Fatalf("edited: %v (-want +got):\n%s", edited, diff)
		}
		changed := deepCopy(made)
		rule, ok := changed[int(edit)%len(changed)].(map[string]any)
		if !ok {
			return
		}
		rule["edited"] = "yes"
		got, _ = Restore(changed, record, s)
		left, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(left), "cart-canary") {
			t.Fatalf("of the release is left: %s", left)
		}
		if len(got) > len(was)+1 { // one for a route, edited, may be anybody's
			t.Fatalf("%d rules were %d: %s", len(got), len(was), left)
		}
		for i, at := range from {
			if at != Added && i != int(edit)%len(made) && !slices.ContainsFunc(got, func(x any) bool { return same(x, before[at]) }) {
				t.Fatalf("rule %d, which nobody has edited, is lost: %s", at, left)
			}
		}
	})
}

func reads(text []byte, fields *map[string]any) bool {
	var rules []map[string]any
	if yaml.Unmarshal(text, &rules) != nil {
		return false
	}
	b, err := json.Marshal(map[string]any{"rules": rules})
	return err == nil && unmarshal(string(b), fields) == nil && !slices.ContainsFunc(rules, func(r map[string]any) bool { return r == nil })
}

func TestParents(t *testing.T) {
	condition := func(kind, status string, generation int64, message string) any {
		return map[string]any{"type": kind, "status": status, "observedGeneration": generation, "message": message, "reason": "Why"}
	}
	route := func(conditions ...any) map[string]any {
		return map[string]any{
			"metadata": map[string]any{"namespace": "shop", "generation": int64(4)},
			"spec": map[string]any{"parentRefs": []any{
				map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web", "sectionName": "https"},
			}},
			"status": map[string]any{"parents": []any{
				map[string]any{"controllerName": "old", "parentRef": map[string]any{"name": "gone"}},
				map[string]any{"controllerName": "c", "parentRef": map[string]any{"name": "web", "namespace": "shop", "sectionName": "https"}, "conditions": conditions},
			}},
		}
	}
	accepted, resolved := condition("Accepted", "True", 4, ""), condition("ResolvedRefs", "True", 4, "")
	tests := []struct {
		name  string
		route map[string]any
		want  string // why it does not obey
	}{
		{"obeys", route(accepted, resolved), ""},
		{"late", route(accepted, condition("ResolvedRefs", "True", 3, "")), "it has seen generation 3 of the route, and not yet 4"},
		{"refused", route(condition("Accepted", "False", 5, "no such listener"), resolved), "Accepted is False: no such listener"},
		{"a Service that it does not know", route(accepted, condition("ResolvedRefs", "False", 4, "")), "ResolvedRefs is False: Why"},
		{"says nothing yet", route(), "it does not say yet whether the route is Accepted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := []Parent{{Gateway: "web/https", Controller: "c", Obeys: tt.want == "", Why: tt.want}}
			if diff := cmp.Diff(want, Parents(tt.route)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	silent := runtime.DeepCopyJSON(route())
	delete(silent, "status")
	if got := Parents(silent); len(got) != 1 || got[0].Obeys || got[0].Why != "no controller says anything of the route" {
		t.Errorf("%+v", got)
	}
}
