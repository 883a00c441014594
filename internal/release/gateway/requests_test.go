package gateway

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
)

// asked is a request as a gateway sees it.
type asked struct {
	method, path   string
	headers, query map[string]string
}

func (r asked) has(all []v1alpha1.HeaderMatch, of map[string]string) bool {
	return !slices.ContainsFunc(all, func(h v1alpha1.HeaderMatch) bool { return of[h.Name] != h.Value })
}

// of says whether a request is one of those that a route of a release means.
func (r asked) of(c v1alpha1.ReleaseRoute) bool {
	return (len(c.Methods) == 0 || slices.Contains(c.Methods, r.method)) && r.has(c.Headers, r.headers) && r.has(c.Query, r.query) &&
		(c.Path == "" || r.path == c.Path || !c.Exact && under(r.path, c.Path))
}

// match says whether a match has a request.
func (r asked) match(m map[string]any) bool {
	path, _ := m["path"].(map[string]any)
	value := text(path, "value", "/")
	if text(path, "type", "PathPrefix") == "Exact" && r.path != value || !under(r.path, value) {
		return false
	}
	if method := text(m, "method", r.method); method != r.method {
		return false
	}
	for field, of := range map[string]map[string]string{"headers": r.headers, "queryParams": r.query} {
		for _, x := range list(m, field) {
			if h := x.(map[string]any); of[text(h, "name", "")] != text(h, "value", "") {
				return false
			}
		}
	}
	return true
}

// takes is the rule that a gateway takes for a request, as Gateway API has it: the one with an exact path, or else
// the longest, with a method, the most headers, the most parameters, and of those that are equal the first; nil for none.
func (r asked) takes(rules []any) map[string]any {
	var best map[string]any
	var most [5]int
	for _, x := range rules {
		rule := x.(map[string]any)
		for _, m := range share(0, 0).matchesOf(rule) {
			if !r.match(m) {
				continue
			}
			path, _ := m["path"].(map[string]any)
			says := [5]int{0, len(strings.TrimRight(text(path, "value", "/"), "/")), 0, len(list(m, "headers")), len(list(m, "queryParams"))}
			if text(path, "type", "PathPrefix") == "Exact" {
				says[0] = 1
			}
			if m["method"] != nil {
				says[2] = 1
			}
			if best == nil || slices.Compare(says[:], most[:]) > 0 {
				best, most = rule, says
			}
		}
	}
	return best
}

// Whatever rules and routes there are, each request is answered by who is meant to: that of the first route that means it,
// if a rule of the Service had it before, and else by whom it was answered before. What can't be so is refused.
func TestEachRequestGoesWhereItIsMeantTo(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	one := func(all ...string) string { return all[r.IntN(len(all))] }
	maybe := func(f func()) {
		if r.IntN(3) == 0 {
			f()
		}
	}
	paths, methods := []string{"/", "/a", "/a/b", "/c"}, []string{"GET", "POST"}
	match := func() map[string]any {
		m := map[string]any{}
		maybe(func() { m["path"] = map[string]any{"type": one("Exact", "PathPrefix"), "value": one(paths...)} })
		maybe(func() { m["method"] = one(methods...) })
		maybe(func() { m["headers"] = []any{map[string]any{"name": one("x", "y"), "value": one("1", "2")}} })
		maybe(func() { m["queryParams"] = []any{map[string]any{"name": one("p", "q"), "value": one("1", "2")}} })
		return m
	}
	values := func(names ...string) (all []v1alpha1.HeaderMatch) {
		for _, name := range names {
			maybe(func() { all = append(all, v1alpha1.HeaderMatch{Name: name, Value: one("1", "2")}) })
		}
		return all
	}
	led := func(rule map[string]any) string {
		if rule == nil {
			return "nobody"
		}
		// What else a rule says is what the ones have that are made of it.
		return text(rule, "timeouts", "") + " " + text(list(rule, "backendRefs")[0].(map[string]any), "name", "")
	}
	taken := 0
	for range 5_000 {
		var rules []any
		for i := range 1 + r.IntN(3) {
			var matches []any
			for range r.IntN(3) {
				matches = append(matches, match())
			}
			service := one("cart", "cart", "stock")
			if i == 0 {
				service = "cart"
			}
			rules = append(rules, map[string]any{"matches": matches, "timeouts": string(rune('1' + i)), "backendRefs": []any{map[string]any{"name": service}}})
		}
		var routes []v1alpha1.ReleaseRoute
		for range 1 + r.IntN(3) {
			route := v1alpha1.ReleaseRoute{To: one("canary", "stable"), Headers: values("x", "y"), Query: values("p", "q")}
			maybe(func() { route.Methods = methods[:1+r.IntN(2)] })
			maybe(func() { route.Path = one(paths...); route.Exact = r.IntN(2) == 0 })
			routes = append(routes, route)
		}
		made, _, err := Apply(rules, share(0, 0, routes...))
		if err != nil {
			continue
		}
		taken++
		for range 40 {
			req := asked{method: one("GET", "POST", "PUT"), path: one("/", "/a", "/a/b", "/a/b/c", "/ab", "/c", "/d"), headers: map[string]string{}, query: map[string]string{}}
			for name, of := range map[string]map[string]string{"x": req.headers, "y": req.headers, "p": req.query, "q": req.query} {
				of[name] = one("", "1", "2")
			}
			want := led(req.takes(rules))
			if i := slices.IndexFunc(routes, req.of); i >= 0 && strings.HasSuffix(want, " cart") && routes[i].To == v1alpha1.Canary {
				want += "-canary"
			}
			if got := led(req.takes(made)); got != want {
				t.Fatalf("%+v is answered by %s, want %s\nrules %v\nroutes %+v\nmade %v", req, got, want, rules, routes, made)
			}
		}
	}
	t.Logf("%d of 5000 can be said by routes", taken)
	if taken < 500 {
		t.Errorf("%d of 5000 are too few to tell anything", taken)
	}
}
