// Package gateway has routes of Gateway API share the requests of a release: HTTPRoutes
// and GRPCRoutes, whatever implements the gateways.
//
// [Apply] makes of a route's rules what a [Share] says, and [Restore] what they were.
// Both are pure functions of rules as the API server has them, without types, so that
// fields which nobody here has heard of stay what they are. A [Record], which the route
// has as an annotation, tells what its rules were and what was made of them: whoever finds
// it can put the route back, also after others have edited it. [Parents] reads what
// controllers of gateways say. Nothing here keeps state; values are safe for concurrent
// use as long as nobody changes them.
package gateway

import (
	"fmt"
	"math/big"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
)

// Share says what a route is to do with the requests for a Service.
type Share struct {
	Kind      string // of the route
	Namespace string // of the route, the Service and the canary
	// Service leads to stable, Canary is the Service that leads to the new version.
	Service, Canary string
	// Weight and Mirror are in hundredths of a percent.
	Weight, Mirror int64
	// Routes give some requests to one version: the first that matches counts.
	Routes []v1alpha1.ReleaseRoute
}

// all is every request.
const all = 10_000

// Of is what a routing means for a route. Where the version is shut, or has no pods, it
// has no request.
func Of(kind, namespace, service, canary string, r *v1alpha1.Routing) Share {
	s := Share{Kind: kind, Namespace: namespace, Service: service, Canary: canary}
	if r != nil && !r.Shut && r.Canary != "" {
		s.Weight, s.Mirror, s.Routes = int64(r.Weight), int64(r.Mirror), r.Routes
	}
	return s
}

// Apply returns the rules of a route that share the requests as s says. Rules that do not
// lead to the Service stay what they are, and so does of the others what is not theirs to
// change; other backends keep their exact proportion. The rules that give some requests
// to one version come right before those that they are made of. from tells of which rule each
// was made, as [Record.From] has it. The error says what a route can't say; the rules given
// are never changed.
func Apply(rules []any, s Share) (out []any, from []int, err error) {
	var families []family
	led := false
	for i, r := range rules {
		rule, ok := r.(map[string]any)
		if !ok {
			return nil, nil, fmt.Errorf("rules[%d] is no object", i)
		}
		f, err := s.family(rule)
		if err != nil {
			return nil, nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		families = append(families, f)
		if !f.ours {
			out, from = append(out, runtime.DeepCopyJSONValue(rule)), append(from, i)
			continue
		}
		led = true
		for _, c := range f.cohorts {
			if c.rule != nil {
				out, from = append(out, c.rule), append(from, Added)
			}
		}
		shared, err := s.share(rule)
		if err != nil {
			return nil, nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		out, from = append(out, shared), append(from, i)
	}
	if !led {
		return nil, nil, fmt.Errorf("no rule of it leads to Service %s with a weight: name the route whose backendRefs have it", s.Service)
	}
	if err := s.precedence(families); err != nil {
		return nil, nil, err
	}
	return out, from, limits(out)
}

// share is a rule whose requests for the Service are shared by weight.
func (s Share) share(rule map[string]any) (map[string]any, error) {
	out := runtime.DeepCopyJSON(rule)
	if s.Weight > 0 {
		refs, err := s.split(list(out, "backendRefs"))
		if err != nil {
			return nil, err
		}
		out["backendRefs"] = refs
	}
	return out, s.mirror(out)
}

// split gives the canary its part of what the Service's backends have.
func (s Share) split(refs []any) ([]any, error) {
	var weights []int64
	var own []bool
	for _, r := range refs {
		weights = append(weights, weightOf(r))
		own = append(own, s.names(r, s.Service))
	}
	factor, err := s.factor(weights, own)
	if err != nil {
		return nil, err
	}
	var out []any
	for i, r := range refs {
		ref := r.(map[string]any)
		has := weights[i] * factor
		if !own[i] || weights[i] == 0 {
			ref["weight"] = has
			out = append(out, ref)
			continue
		}
		canary := runtime.DeepCopyJSON(ref)
		part := (has*s.Weight + all/2) / all
		ref["weight"], canary["weight"], canary["name"] = has-part, part, s.Canary
		out = append(out, ref, canary)
	}
	return out, nil
}

// maxWeight is the largest that the API takes.
const maxWeight = 1_000_000

// factor is by how much all weights are multiplied, so that the canary's part of the
// Service's is a whole number: exact if there is such a factor, or else to less than a
// hundredth of a percent.
func (s Share) factor(weights []int64, own []bool) (int64, error) {
	most := int64(maxWeight) / max(slices.Max(weights), 1)
	exact, finest := int64(1), int64(maxWeight)
	for i, w := range weights {
		if !own[i] || w == 0 {
			continue
		}
		exact = lcm(exact, all/gcd(all, w*s.Weight))
		finest = min(finest, w)
	}
	switch {
	case 100%exact == 0 && most >= 100:
		return 100, nil // which people read as percent
	case exact <= most:
		return exact, nil
	case finest*most >= all:
		return most, nil
	}
	return 0, fmt.Errorf("the weights of its backends lie so far apart that a part of %d can't be told in whole numbers up to %d: divide them by what they have in common, or make them smaller", finest, maxWeight)
}

func gcd(a, b int64) int64 { return new(big.Int).GCD(nil, nil, big.NewInt(a), big.NewInt(b)).Int64() }

func lcm(a, b int64) int64 { return a / gcd(a, b) * b }

// mirror adds to a rule that the canary gets copies.
func (s Share) mirror(rule map[string]any) error {
	if s.Mirror == 0 {
		return nil
	}
	port, filters := any(nil), list(rule, "filters")
	for _, r := range list(rule, "backendRefs") {
		ref := r.(map[string]any)
		switch {
		case s.names(ref, s.Canary) || weightOf(ref) == 0:
		case !s.names(ref, s.Service):
			return fmt.Errorf("it has other backends than Service %s, and a route can mirror the requests of a whole rule only: leave out mirror", s.Service)
		case port != nil && port != ref["port"]:
			return fmt.Errorf("it leads to several ports of Service %s, and a mirror has one: leave out mirror", s.Service)
		default:
			port = ref["port"]
		}
	}
	if port == nil { // at 100 % the Service has no weight
		return nil
	}
	mirror := map[string]any{"backendRef": map[string]any{"group": "", "kind": "Service", "name": s.Canary, "port": port}}
	switch {
	case s.Mirror == all:
	case s.Mirror%100 == 0:
		mirror["percent"] = s.Mirror / 100
	default:
		mirror["fraction"] = map[string]any{"numerator": s.Mirror, "denominator": int64(all)}
	}
	rule["filters"] = append(filters, map[string]any{"type": "RequestMirror", "requestMirror": mirror})
	return nil
}

// leads says whether a rule leads to the Service.
func (s Share) leads(rule map[string]any) bool {
	return slices.ContainsFunc(list(rule, "backendRefs"), func(r any) bool { return s.names(r, s.Service) && weightOf(r) > 0 })
}

// names says whether a reference is to a Service of the route's namespace.
func (s Share) names(ref any, service string) bool {
	m, _ := ref.(map[string]any)
	name, _ := m["name"].(string)
	return name == service && name != "" && text(m, "group", "") == "" && text(m, "kind", "Service") == "Service" &&
		text(m, "namespace", s.Namespace) == s.Namespace
}

// weightOf is the weight of a backend: 1 if it has none.
func weightOf(ref any) int64 {
	m, _ := ref.(map[string]any)
	if w, ok := m["weight"]; ok {
		return number(w)
	}
	return 1
}

func number(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}

func list(m map[string]any, name string) []any {
	l, _ := m[name].([]any)
	return l
}

// text is a field, or what it is by default.
func text(m map[string]any, name, otherwise string) string {
	if s, ok := m[name].(string); ok {
		return s
	}
	return otherwise
}

// What the API server takes of one route.
const (
	maxRules      = 16
	maxMatches    = 64 // of a rule
	maxAllMatches = 128
	maxBackends   = 16 // of a rule
	maxFilters    = 16 // of a rule
	maxHeaders    = 16 // of a match, and as many parameters
)

// limits says what of rules is more than a route may have.
func limits(rules []any) error {
	if n := len(rules); n > maxRules {
		return fmt.Errorf("it would have %d rules with those that give some requests to one version, and %d are the most: take fewer routes, or another HTTPRoute for some of its rules", n, maxRules)
	}
	total := 0
	for _, r := range rules {
		rule := r.(map[string]any)
		for name, most := range map[string]int{"matches": maxMatches, "backendRefs": maxBackends, "filters": maxFilters} {
			if n := len(list(rule, name)); n > most {
				return fmt.Errorf("a rule would have %d %s, and %d are the most", n, name, most)
			}
		}
		for _, m := range list(rule, "matches") {
			match, _ := m.(map[string]any)
			if n := max(len(list(match, "headers")), len(list(match, "queryParams"))); n > maxHeaders {
				return fmt.Errorf("a match would have %d headers or parameters, and %d are the most", n, maxHeaders)
			}
		}
		total += len(list(rule, "matches"))
	}
	if total > maxAllMatches {
		return fmt.Errorf("its rules would have %d matches, and %d are the most", total, maxAllMatches)
	}
	return nil
}
