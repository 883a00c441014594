package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/bightdev/bight/api/v1alpha1"
)

// key is what Gateway API orders matches by, and what tells whether a request can match
// two of them.
type key struct {
	unknown bool // a regular expression: every implementation orders it as it likes
	order   [5]int
	exact   bool // path is the whole path, else a prefix
	path    string
	method  string // of HTTP
	call    [2]string
	headers map[string]string
	queries map[string]string
}

// key reads a match.
func (s Share) key(match map[string]any) key {
	k := key{}
	k.headers = k.pairs(list(match, "headers"), strings.ToLower)
	if s.Kind == v1alpha1.GRPCRoute {
		m, _ := match["method"].(map[string]any)
		k.call = [2]string{text(m, "service", ""), text(m, "method", "")}
		k.unknown = k.unknown || text(m, "type", "Exact") != "Exact"
		k.order = [5]int{len(k.call[0]), len(k.call[1]), len(k.headers)}
		return k
	}
	k.queries = k.pairs(list(match, "queryParams"), func(s string) string { return s })
	path, _ := match["path"].(map[string]any)
	kind := text(path, "type", "PathPrefix")
	k.path, k.exact, k.method = text(path, "value", "/"), kind == "Exact", text(match, "method", "")
	k.unknown = k.unknown || kind != "Exact" && kind != "PathPrefix"
	is := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	k.order = [5]int{is(k.exact), len(strings.TrimRight(k.path, "/")), is(k.method != ""), len(k.headers), len(k.queries)}
	return k
}

// pairs are the names that a match asks, with their values if those are known.
func (k *key) pairs(of []any, name func(string) string) map[string]string {
	all := map[string]string{}
	for _, x := range of {
		m, _ := x.(map[string]any)
		value := text(m, "value", "")
		if text(m, "type", "Exact") != "Exact" {
			value = "" // any
		}
		all[name(text(m, "name", ""))] = value
	}
	return all
}

// meets says whether a request may match both.
func (k key) meets(o key) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	for _, both := range [][2]map[string]string{{k.headers, o.headers}, {k.queries, o.queries}} {
		for name, value := range both[0] {
			if differ(value, both[1][name]) {
				return false
			}
		}
	}
	if differ(k.method, o.method) || differ(k.call[0], o.call[0]) || differ(k.call[1], o.call[1]) {
		return false
	}
	switch {
	case k.unknown || o.unknown || k.path == "" && o.path == "":
		return true
	case k.exact && o.exact:
		return k.path == o.path
	case k.exact:
		return under(k.path, o.path)
	case o.exact:
		return under(o.path, k.path)
	}
	return under(k.path, o.path) || under(o.path, k.path)
}

// beats says whether a request that matches both is the first one's. Of two that are
// equal it is the one that comes first, which earlier says.
func (k key) beats(o key, earlier bool) bool {
	for i := range k.order {
		if c := cmp.Compare(k.order[i], o.order[i]); c != 0 {
			return c > 0
		}
	}
	return earlier
}

// precedence says where the rules that were added would have a request that is not theirs:
// gateways take the most specific match of all rules, not the first. What a regular
// expression has is up to the implementation, before as after.
func (s Share) precedence(families []family) error {
	for a, of := range families {
		for b, other := range families {
			if err := s.between(a, b, of, other); err != nil {
				return err
			}
		}
	}
	for i, f := range families {
		if err := s.within(i, f); err != nil {
			return err
		}
	}
	return nil
}

// between sees to it that whoever had a request before has it still: a rule, or one that
// was made of it.
func (s Share) between(a, b int, of, other family) error {
	if a == b {
		return nil
	}
	for x, m := range of.matches {
		for y, n := range other.matches {
			if m.unknown || n.unknown || !m.meets(n) || !m.beats(n, a < b) {
				continue
			}
			for j, c := range other.cohorts {
				for _, k := range c.keys[y] {
					if !of.ours && m.meets(k) && !m.beats(k, a < b) {
						return s.stolen(a, b, j)
					}
					for _, first := range of.cohorts[:min(j+1, len(of.cohorts))] {
						if slices.ContainsFunc(first.keys[x], func(f key) bool { return f.meets(k) && !f.beats(k, a < b) }) {
							return s.stolen(a, b, j)
						}
					}
				}
			}
		}
	}
	return nil
}

func (s Share) stolen(a, b, route int) error {
	return fmt.Errorf("rules[%d] comes before rules[%d], and would not for %s: gateways take the match that says most, so write a route whose path or headers no other rule is about, or let those rules be of another %s",
		a, b, told(s.Routes[route]), s.Kind)
}

// within sees to it that the first route counts that matches.
func (s Share) within(rule int, f family) error {
	for j, later := range f.cohorts {
		for i, first := range f.cohorts[:j] {
			if s.Routes[i].To == s.Routes[j].To {
				continue
			}
			for m := range f.matches {
				for _, a := range first.keys[m] {
					if slices.ContainsFunc(later.keys[m], func(b key) bool { return !a.unknown && a.meets(b) && !a.beats(b, true) }) {
						return fmt.Errorf("rules[%d]: %s comes before %s, and gateways would take the other, which says more: put it first, or have it ask for more",
							rule, told(s.Routes[i]), told(s.Routes[j]))
					}
				}
			}
		}
	}
	return nil
}

// Parent is what one controller says of a route at one gateway.
type Parent = v1alpha1.RouteParent

// Parents are the gateways of a route, and what their controllers say of it as it is now.
func Parents(route map[string]any) []Parent {
	meta, _ := route["metadata"].(map[string]any)
	spec, _ := route["spec"].(map[string]any)
	status, _ := route["status"].(map[string]any)
	namespace, generation := text(meta, "namespace", ""), number(meta["generation"])
	var out []Parent
	for _, p := range list(spec, "parentRefs") {
		ref, _ := p.(map[string]any)
		name, heard := parentName(ref, namespace), false
		for _, x := range list(status, "parents") {
			entry, _ := x.(map[string]any)
			of, _ := entry["parentRef"].(map[string]any)
			if parentName(of, namespace) != name {
				continue
			}
			heard = true
			why := disobeys(list(entry, "conditions"), generation)
			out = append(out, Parent{Gateway: name, Controller: text(entry, "controllerName", ""), Obeys: why == "", Why: why})
		}
		if !heard {
			out = append(out, Parent{Gateway: name, Why: "no controller says anything of the route"})
		}
	}
	return out
}

// parentName is how people know a parent.
func parentName(ref map[string]any, namespace string) string {
	name := text(ref, "name", "")
	if in := text(ref, "namespace", namespace); in != namespace {
		name = in + "/" + name
	}
	if kind := text(ref, "kind", "Gateway"); kind != "Gateway" {
		name = kind + " " + name
	}
	if section := text(ref, "sectionName", ""); section != "" {
		name += "/" + section
	}
	if port := number(ref["port"]); port != 0 {
		name += fmt.Sprintf(":%d", port)
	}
	return name
}

// disobeys says why a controller does not have a generation of a route, "" if it has.
func disobeys(conditions []any, generation int64) string {
	for _, want := range []string{"Accepted", "ResolvedRefs"} {
		i := slices.IndexFunc(conditions, func(c any) bool {
			m, _ := c.(map[string]any)
			return text(m, "type", "") == want
		})
		if i < 0 {
			return "it does not say yet whether the route is " + want
		}
		c := conditions[i].(map[string]any)
		switch seen := number(c["observedGeneration"]); {
		case seen < generation:
			return fmt.Sprintf("it has seen generation %d of the route, and not yet %d", seen, generation)
		case text(c, "status", "") != "True":
			return want + " is " + text(c, "status", "Unknown") + ": " + cmp.Or(text(c, "message", ""), text(c, "reason", ""), "it does not say why")
		}
	}
	return ""
}
