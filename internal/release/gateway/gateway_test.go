package gateway

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/bightdev/bight/api/v1alpha1"
)

// rulesOf reads YAML as the API's objects are read.
func rulesOf(t testing.TB, text string) []any {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := utiljson.Unmarshal([]byte(`{"rules":`+string(b)+`}`), &all); err != nil {
		t.Fatal(err)
	}
	return list(all, "rules")
}

// share is one of an HTTPRoute to cart.
func share(weight, mirror int64, routes ...v1alpha1.ReleaseRoute) Share {
	return Share{Kind: v1alpha1.HTTPRoute, Namespace: "shop", Service: "cart", Canary: "cart-canary", Weight: weight, Mirror: mirror, Routes: routes}
}

// to gives requests with a header to a version.
func to(version string, headers ...string) v1alpha1.ReleaseRoute {
	r := v1alpha1.ReleaseRoute{To: version}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		r.Headers = append(r.Headers, v1alpha1.HeaderMatch{Name: name, Value: value})
	}
	return r
}

func below(path string, r v1alpha1.ReleaseRoute) v1alpha1.ReleaseRoute {
	r.Path = path
	return r
}

// with gives the requests of a route to the canary.
func with(r v1alpha1.ReleaseRoute) v1alpha1.ReleaseRoute {
	r.To = v1alpha1.Canary
	return r
}

// asking gives requests with parameters to the canary.
func asking(query ...string) v1alpha1.ReleaseRoute {
	return with(v1alpha1.ReleaseRoute{Query: to("", query...).Headers})
}

const plain = `
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{group: "", kind: Service, name: cart, port: 80, weight: 1}]
`

func TestApply(t *testing.T) {
	tests := []struct {
		name  string
		share Share
		rules string
		want  string // "" is what it was
	}{
		{"nothing of it", share(0, 0), plain, ""},
		{"a twentieth", share(500, 0), plain, `
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{group: "", kind: Service, name: cart, port: 80, weight: 95}, {group: "", kind: Service, name: cart-canary, port: 80, weight: 5}]`},
		{"all", share(10_000, 0), plain, `
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{group: "", kind: Service, name: cart, port: 80, weight: 0}, {group: "", kind: Service, name: cart-canary, port: 80, weight: 100}]`},
		{"a hundredth of a percent", share(1, 0), plain, `
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{group: "", kind: Service, name: cart, port: 80, weight: 9999}, {group: "", kind: Service, name: cart-canary, port: 80, weight: 1}]`},
		{"beside others, with what nobody here has heard of", share(2500, 0), `
- name: one
  timeouts: {request: 3s}
  novelty: {a: [1, {b: null}]}
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: "1"}]}}]
  backendRefs:
  - {name: cart, port: 80, weight: 3, novelty: yes, filters: [{type: Odd}]}
  - {name: legacy, port: 80, weight: 1}
  - {name: cart, namespace: other, port: 80}
  - {name: cart, kind: Bucket, port: 80, weight: 7}
- backendRefs: [{name: stock, port: 80}, {name: cart, port: 80, weight: 0}]
`, `
- name: one
  timeouts: {request: 3s}
  novelty: {a: [1, {b: null}]}
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: "1"}]}}]
  backendRefs:
  - {name: cart, port: 80, weight: 225, novelty: yes, filters: [{type: Odd}]}
  - {name: cart-canary, port: 80, weight: 75, novelty: yes, filters: [{type: Odd}]}
  - {name: legacy, port: 80, weight: 100}
  - {name: cart, namespace: other, port: 80, weight: 100}
  - {name: cart, kind: Bucket, port: 80, weight: 700}
- backendRefs: [{name: stock, port: 80}, {name: cart, port: 80, weight: 0}]`},
		{"large weights", share(1, 0), `[{backendRefs: [{name: cart, weight: 1000000}, {name: legacy, weight: 999999}]}]`,
			`[{backendRefs: [{name: cart, weight: 999900}, {name: cart-canary, weight: 100}, {name: legacy, weight: 999999}]}]`},
		{"copies", share(0, 1000), plain, `
- matches: [{path: {type: PathPrefix, value: /}}]
  filters: [{type: RequestMirror, requestMirror: {backendRef: {group: "", kind: Service, name: cart-canary, port: 80}, percent: 10}}]
  backendRefs: [{group: "", kind: Service, name: cart, port: 80, weight: 1}]`},
		{"few copies", share(0, 25), plain, `
- matches: [{path: {type: PathPrefix, value: /}}]
  filters: [{type: RequestMirror, requestMirror: {backendRef: {group: "", kind: Service, name: cart-canary, port: 80}, fraction: {numerator: 25, denominator: 10000}}}]
  backendRefs: [{group: "", kind: Service, name: cart, port: 80, weight: 1}]`},
		{"testers", share(0, 0, to("canary", "x-tester=ja")), `
- name: admin
  matches: [{path: {type: PathPrefix, value: /admin}}]
  backendRefs: [{name: admin, port: 80}]
- name: cart
  matches:
  - {path: {type: PathPrefix, value: /cart}, method: GET, headers: [{name: x-lang, value: de}]}
  - {path: {type: Exact, value: /}, queryParams: [{name: q, value: cart}]}
  timeouts: {request: 3s}
  backendRefs: [{name: cart, port: 80, weight: 3}, {name: legacy, port: 80, weight: 1}]
`, `
- name: admin
  matches: [{path: {type: PathPrefix, value: /admin}}]
  backendRefs: [{name: admin, port: 80}]
- matches:
  - {path: {type: PathPrefix, value: /cart}, method: GET, headers: [{name: x-lang, value: de}, {type: Exact, name: x-tester, value: ja}]}
  - {path: {type: Exact, value: /}, queryParams: [{name: q, value: cart}], headers: [{type: Exact, name: x-tester, value: ja}]}
  timeouts: {request: 3s}
  backendRefs: [{name: cart-canary, port: 80, weight: 3}, {name: legacy, port: 80, weight: 1}]
- name: cart
  matches:
  - {path: {type: PathPrefix, value: /cart}, method: GET, headers: [{name: x-lang, value: de}]}
  - {path: {type: Exact, value: /}, queryParams: [{name: q, value: cart}]}
  timeouts: {request: 3s}
  backendRefs: [{name: cart, port: 80, weight: 3}, {name: legacy, port: 80, weight: 1}]`},
		{"below a path, and not at all", share(0, 0, below("/cart/new", to("canary")), below("/else", to("stable", "x=1"))), `
- matches: [{path: {type: PathPrefix, value: /cart}}, {path: {type: Exact, value: /cart/new/one}}, {path: {type: Exact, value: /cart/newest}}]
  backendRefs: [{name: cart}]
`, `
- matches: [{path: {type: PathPrefix, value: /cart/new}}, {path: {type: Exact, value: /cart/new/one}}]
  backendRefs: [{name: cart-canary}]
- matches: [{path: {type: PathPrefix, value: /cart}}, {path: {type: Exact, value: /cart/new/one}}, {path: {type: Exact, value: /cart/newest}}]
  backendRefs: [{name: cart}]`},
		{"methods", share(0, 0, with(v1alpha1.ReleaseRoute{Methods: []string{"GET", "HEAD", "GET"}, Path: "/cart"})), `
- matches: [{path: {type: PathPrefix, value: /}}, {path: {type: PathPrefix, value: /cart/a}, method: HEAD}, {method: POST}]
  backendRefs: [{name: cart}]
`, `
- matches:
  - {path: {type: PathPrefix, value: /cart}, method: GET}
  - {path: {type: PathPrefix, value: /cart}, method: HEAD}
  - {path: {type: PathPrefix, value: /cart/a}, method: HEAD}
  backendRefs: [{name: cart-canary}]
- matches: [{path: {type: PathPrefix, value: /}}, {path: {type: PathPrefix, value: /cart/a}, method: HEAD}, {method: POST}]
  backendRefs: [{name: cart}]`},
		{"parameters", share(500, 0, asking("look=new", "Q=cart")), `
- matches: [{queryParams: [{name: q, value: cart}]}, {queryParams: [{name: look, value: old}]}, {queryParams: [{type: Exact, name: look, value: new}]}]
  backendRefs: [{name: cart}]
`, `
- matches:
  - queryParams: [{name: q, value: cart}, {type: Exact, name: look, value: new}, {type: Exact, name: Q, value: cart}]
  - queryParams: [{type: Exact, name: look, value: new}, {type: Exact, name: Q, value: cart}]
  backendRefs: [{name: cart-canary}]
- matches: [{queryParams: [{name: q, value: cart}]}, {queryParams: [{name: look, value: old}]}, {queryParams: [{type: Exact, name: look, value: new}]}]
  backendRefs: [{name: cart, weight: 95}, {name: cart-canary, weight: 5}]`},
		{"exact paths", share(0, 0, with(v1alpha1.ReleaseRoute{Path: "/", Exact: true}), with(v1alpha1.ReleaseRoute{Path: "/cart", Exact: true})), `
- matches: [{path: {type: PathPrefix, value: /}}, {path: {type: PathPrefix, value: /cart/a}}, {path: {type: Exact, value: /cart}}, {path: {type: Exact, value: /cart/a}}]
  backendRefs: [{name: cart}]
`, `
- {matches: [{path: {type: Exact, value: /}}], backendRefs: [{name: cart-canary}]}
- {matches: [{path: {type: Exact, value: /cart}}, {path: {type: Exact, value: /cart}}], backendRefs: [{name: cart-canary}]}
- matches: [{path: {type: PathPrefix, value: /}}, {path: {type: PathPrefix, value: /cart/a}}, {path: {type: Exact, value: /cart}}, {path: {type: Exact, value: /cart/a}}]
  backendRefs: [{name: cart}]`},
		{"a rule without matches", share(0, 0, to("stable", "x=1")), `[{backendRefs: [{name: cart}]}]`, `
- {matches: [{headers: [{type: Exact, name: x, value: "1"}]}], backendRefs: [{name: cart}]}
- {backendRefs: [{name: cart}]}`},
		{"a header that the rule asks already", share(0, 0, to("canary", "X-Lang=de"), to("canary", "x-lang=fr")), `
- {matches: [{headers: [{name: x-lang, value: de}]}], backendRefs: [{name: cart}]}`, `
- {matches: [{headers: [{name: x-lang, value: de}]}], backendRefs: [{name: cart-canary}]}
- {matches: [{headers: [{name: x-lang, value: de}]}], backendRefs: [{name: cart}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules := rulesOf(t, tt.rules)
			got, _, err := Apply(rules, tt.share)
			if err != nil {
				t.Fatal(err)
			}
			want := rulesOf(t, tt.want)
			if tt.want == "" {
				want = rulesOf(t, tt.rules)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(rulesOf(t, tt.rules), rules); diff != "" {
				t.Errorf("what was given is changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCallsAreSharedByMethod(t *testing.T) {
	s := share(0, 0, below("/shop.Cart/Add", to("canary")))
	s.Kind = v1alpha1.GRPCRoute
	got, _, err := Apply(rulesOf(t, `
- {matches: [{method: {type: Exact, service: shop.Cart}}], backendRefs: [{name: cart}]}
- {matches: [{method: {service: shop.Stock}}, {method: {method: Add}}], backendRefs: [{name: cart}]}`), s)
	if err != nil {
		t.Fatal(err)
	}
	want := rulesOf(t, `
- {matches: [{method: {type: Exact, service: shop.Cart, method: Add}}], backendRefs: [{name: cart-canary}]}
- {matches: [{method: {type: Exact, service: shop.Cart}}], backendRefs: [{name: cart}]}
- {matches: [{method: {type: Exact, service: shop.Cart, method: Add}}], backendRefs: [{name: cart-canary}]}
- {matches: [{method: {service: shop.Stock}}, {method: {method: Add}}], backendRefs: [{name: cart}]}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatARouteCannotSayIsRefused(t *testing.T) {
	cookie := v1alpha1.ReleaseRoute{Cookies: []v1alpha1.HeaderMatch{{Name: "plan", Value: "gold"}}, To: "canary"}
	prefix := v1alpha1.ReleaseRoute{Headers: []v1alpha1.HeaderMatch{{Name: "x", Value: "a", Prefix: true}}, To: "canary"}
	var many []v1alpha1.ReleaseRoute
	for i := range 20 {
		many = append(many, to("canary", fmt.Sprintf("x=%d", i)))
	}
	tests := []struct {
		name  string
		share Share
		rules string
		want  string
	}{
		{"a cookie", share(0, 0, cookie), plain, "knows no cookies"},
		{"the beginning of a header", share(0, 0, prefix), plain, "knows whole values only"},
		{"a method of its own", share(0, 0, with(v1alpha1.ReleaseRoute{Methods: []string{"GET", "PURGE"}})), plain, "method PURGE: a route of Gateway API knows GET, "},
		{"the beginning of a parameter", share(0, 0, with(v1alpha1.ReleaseRoute{Query: []v1alpha1.HeaderMatch{{Name: "q", Value: "a", Prefix: true}}})), plain, "parameter q=a*: a route of Gateway API knows whole values only"},
		{"a parameter twice", share(0, 0, asking("q=1", "q=2")), plain, "parameter q is named twice"},
		{"a parameter by a regular expression", share(0, 0, asking("q=1")),
			`[{matches: [{queryParams: [{name: q, type: RegularExpression, value: "1.*"}]}], backendRefs: [{name: cart}]}]`, "asks parameter q by a regular expression"},
		{"no exact path", share(0, 0, with(v1alpha1.ReleaseRoute{Exact: true})), plain, "names none"},
		{"an exact path by a regular expression", share(0, 0, with(v1alpha1.ReleaseRoute{Path: "/a", Exact: true})),
			`[{matches: [{path: {type: RegularExpression, value: "/[ab]"}}], backendRefs: [{name: cart}]}]`, "by a regular expression"},
		{"an exact path that the pods don't get", share(0, 0, with(v1alpha1.ReleaseRoute{Path: "/a/b", Exact: true})),
			`[{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: cart}]}]`, "rewrites the path"},
		{"a header twice", share(0, 0, to("canary", "x=1", "X=2")), plain, "is named twice"},
		{"no value", share(0, 0, to("canary", "x=")), plain, "knows no empty values"},
		{"another Service", share(500, 0), `[{backendRefs: [{name: stock}]}]`, "no rule of it leads to Service cart"},
		{"no rules", share(500, 0), `[]`, "no rule of it leads to Service cart"},
		{"a header by a regular expression", share(0, 0, to("canary", "x=1")),
			`[{matches: [{headers: [{name: X, type: RegularExpression, value: "1.*"}]}], backendRefs: [{name: cart}]}]`, "by a regular expression"},
		{"a path by a regular expression", share(0, 0, below("/a", to("canary"))),
			`[{matches: [{path: {type: RegularExpression, value: "/[ab]"}}], backendRefs: [{name: cart}]}]`, "by a regular expression"},
		{"copies of what is others'", share(0, 100), `[{backendRefs: [{name: cart}, {name: legacy}]}]`, "leave out mirror"},
		{"copies at two ports", share(0, 100), `[{backendRefs: [{name: cart, port: 80}, {name: cart, port: 81}]}]`, "leave out mirror"},
		{"too many rules", share(0, 0, many...), plain, "it would have 21 rules"},
		{"weights that lie far apart", share(1, 0), `[{backendRefs: [{name: cart, weight: 1}, {name: legacy, weight: 1000000}]}]`, "lie so far apart"},
		{"a header that the pods don't get", share(0, 0, to("canary", "x-tester=1")),
			`[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Tester]}}], backendRefs: [{name: cart}]}]`, "changes header x-tester"},
		{"a path that the pods don't get", share(0, 0, below("/a/b", to("canary"))),
			`[{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: cart}]}]`, "rewrites the path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := Apply(rulesOf(t, tt.rules), tt.share)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q\n%v", err, tt.want, got)
			}
		})
	}
}

// Gateways take the match that says most, of all rules: those that are added must not have
// what is another's.
func TestPrecedence(t *testing.T) {
	mobile := `
- {matches: [{path: {type: PathPrefix, value: /}, headers: [{name: x-mobile, value: "1"}]}], backendRefs: [{name: mobile}]}`
	web := `
- {matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: cart}]}`
	admin := `
- {matches: [{path: {type: PathPrefix, value: /admin}}], backendRefs: [{name: admin}]}`
	tests := []struct {
		name   string
		rules  string
		routes []v1alpha1.ReleaseRoute
		want   string // in the error, "" for none
	}{
		{"a longer path stays before more headers", web + admin, []v1alpha1.ReleaseRoute{to("canary", "a=1", "b=1")}, ""},
		{"of as many headers the first counts", mobile + web, []v1alpha1.ReleaseRoute{to("canary", "a=1")}, ""},
		{"and that would be the new one", web + mobile, []v1alpha1.ReleaseRoute{to("canary", "a=1")}, "rules[1] comes before rules[0], and would not for a=1"},
		{"more headers than another rule", mobile + web, []v1alpha1.ReleaseRoute{to("canary", "a=1", "b=1")}, "would not for a=1 and b=1"},
		{"which no request has at once", mobile + web, []v1alpha1.ReleaseRoute{to("canary", "x-mobile=0", "b=1")}, ""},
		{"a path of another rule's", web + admin, []v1alpha1.ReleaseRoute{below("/admin/x", to("canary"))}, "would not for /admin/x"},
		{"a path beside it", web + admin, []v1alpha1.ReleaseRoute{below("/administration", to("canary"))}, ""},
		{"the second says more", web, []v1alpha1.ReleaseRoute{to("canary", "a=1"), to("stable", "b=1", "c=1")}, "put it first"},
		{"the first says more", web, []v1alpha1.ReleaseRoute{to("stable", "b=1", "c=1"), to("canary", "a=1")}, ""},
		{"both to one version", web, []v1alpha1.ReleaseRoute{to("canary", "a=1"), to("canary", "b=1", "c=1")}, ""},
		{"a method takes another rule's requests", mobile + web, []v1alpha1.ReleaseRoute{with(v1alpha1.ReleaseRoute{Methods: []string{"GET"}})}, "rules[0] comes before rules[1], and would not for GET"},
		{"a method that the other rule does not have", web + `
- {matches: [{method: POST, headers: [{name: x-mobile, value: "1"}]}], backendRefs: [{name: mobile}]}`,
			[]v1alpha1.ReleaseRoute{with(v1alpha1.ReleaseRoute{Methods: []string{"GET", "HEAD"}})}, ""},
		{"one of several methods that it has", web + `
- {matches: [{method: POST}], backendRefs: [{name: mobile}]}`,
			[]v1alpha1.ReleaseRoute{with(v1alpha1.ReleaseRoute{Methods: []string{"GET", "POST"}, Headers: to("", "a=1").Headers})}, "would not for GET or POST and a=1"},
		{"a parameter beside another rule's header", mobile + web, []v1alpha1.ReleaseRoute{asking("look=new", "q=1")}, ""},
		{"an exact path of another rule's", web + admin, []v1alpha1.ReleaseRoute{with(v1alpha1.ReleaseRoute{Path: "/admin", Exact: true})}, "would not for /admin"},
		{"an exact path that is nobody's", web + admin, []v1alpha1.ReleaseRoute{with(v1alpha1.ReleaseRoute{Path: "/", Exact: true})}, ""},
		{"an exact path and then a header", web, []v1alpha1.ReleaseRoute{with(v1alpha1.ReleaseRoute{Path: "/a", Exact: true}), to("stable", "b=1")}, ""},
		{"a header and then a method", web, []v1alpha1.ReleaseRoute{to("stable", "b=1"), with(v1alpha1.ReleaseRoute{Methods: []string{"GET", "PUT"}})}, "put it first"},
		{"two rules of ours", web + `
- {matches: [{path: {type: PathPrefix, value: /api}}], backendRefs: [{name: cart}]}`, []v1alpha1.ReleaseRoute{to("canary", "a=1")}, ""},
		{"two rules of ours, and a path of both", web + `
- {matches: [{path: {type: PathPrefix, value: /api}}], backendRefs: [{name: cart}]}`, []v1alpha1.ReleaseRoute{below("/api/v2", to("canary"))}, "rules[1] comes before rules[0]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Apply(rulesOf(t, tt.rules), share(500, 0, tt.routes...))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// Whatever the weights are, others keep their exact proportion, to each other and to the
// Service, and the canary has its part of the Service's.
func TestAnyWeightsKeepProportions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var refs []any
		most := []int64{1, 5, 100, 100_000, maxWeight}[r.IntN(5)]
		n := 1 + r.IntN(4)
		for i := range n {
			name := []string{"cart", "legacy", "other"}[r.IntN(3)]
			if i == 0 {
				name = "cart"
			}
			refs = append(refs, map[string]any{"name": name, "port": int64(i), "weight": r.Int64N(most + 1)})
		}
		refs[0].(map[string]any)["weight"] = 1 + r.Int64N(most)
		s := share(1+r.Int64N(all), 0)
		got, _, err := Apply([]any{map[string]any{"backendRefs": refs}}, s)
		if err != nil {
			if !strings.Contains(err.Error(), "lie so far apart") {
				t.Fatal(err)
			}
			continue
		}
		sums, canary, total := make([]int64, n), make([]int64, n), int64(0)
		for _, x := range list(got[0].(map[string]any), "backendRefs") {
			ref := x.(map[string]any)
			w := weightOf(ref)
			if w < 0 || w > maxWeight {
				t.Fatalf("a weight of %d", w)
			}
			sums[number(ref["port"])] += w
			if ref["name"] == "cart-canary" {
				canary[number(ref["port"])] = w
			}
			total += w
		}
		for i := range refs {
			if sums[i]*weightOf(refs[0]) != sums[0]*weightOf(refs[i]) {
				t.Fatalf("%v is %v", refs, got)
			}
			own := refs[i].(map[string]any)["name"] == "cart"
			if !own && canary[i] > 0 || own && abs(canary[i]*all-sums[i]*s.Weight)*2 > max(sums[i], all) {
				t.Fatalf("%d of 10000, %v is %v", s.Weight, refs, got)
			}
		}
		if total == 0 {
			t.Fatal("nobody has anything")
		}
	}
}

func abs(n int64) int64 { return max(n, -n) }
