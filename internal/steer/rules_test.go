package steer

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// requestOf makes a request of a path and headers "name=value".
func requestOf(path string, headers ...string) Request {
	return Request{Path: path, Header: func(name string) (string, bool) {
		var all []string
		for _, h := range headers {
			if n, v, _ := strings.Cut(h, "="); strings.EqualFold(n, name) {
				all = append(all, v)
			}
		}
		return strings.Join(all, ", "), len(all) > 0
	}}
}

func match(path string, headers ...string) Match {
	m := Match{Path: path}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		value, prefix := strings.CutSuffix(value, "*")
		m.Headers = append(m.Headers, HeaderMatch{name, value, prefix})
	}
	return m
}

func TestPick(t *testing.T) {
	rules := []Rule{
		{ID: "all", Mode: Intercept},
		{ID: "api", Mode: Intercept, Match: match("/api")},
		{ID: "api/v1", Mode: Intercept, Match: match("/api/v1/")},
		{ID: "ann*", Mode: Intercept, Match: match("", "x-user=ann*")},
		{ID: "anna", Mode: Intercept, Match: match("", "x-user=anna")},
		{ID: "anna api", Mode: Intercept, Match: match("/api", "x-user=anna")},
		{ID: "copy", Mode: Mirror, Match: match("/api")},
		{ID: "copy all", Mode: Mirror},
		{ID: "host", Mode: Intercept, Match: match("", "HOST=shop.example", "x-user=cleo")},
	}
	for name, tt := range map[string]struct {
		r       Request
		want    string
		mirrors []int
	}{
		"anything":             {requestOf("/x"), "all", []int{7}},
		"no path":              {requestOf("*"), "all", []int{7}},
		"path":                 {requestOf("/api"), "api", []int{6, 7}},
		"below it":             {requestOf("/api/v2"), "api", []int{6, 7}},
		"not below it":         {requestOf("/apis"), "all", []int{7}},
		"longer path":          {requestOf("/api/v1"), "api/v1", []int{6, 7}},
		"header beats path":    {requestOf("/api/v1", "x-user=annabel"), "ann*", []int{6, 7}},
		"exact beats prefix":   {requestOf("/x", "X-User=anna"), "anna", []int{7}},
		"both beat one":        {requestOf("/api/v1", "X-User=anna"), "anna api", []int{6, 7}},
		"twice is another one": {requestOf("/x", "X-User=ben", "X-User=anna"), "all", []int{7}},
		"host":                 {requestOf("/", "Host=shop.example", "x-user=cleo"), "host", []int{7}},
	} {
		i, mirrors := Pick(rules, tt.r)
		if i < 0 || rules[i].ID != tt.want || !slices.Equal(mirrors, tt.mirrors) {
			t.Errorf("%s: got %d, %v; want %s, %v", name, i, mirrors, tt.want, tt.mirrors)
		}
	}
	if i, mirrors := Pick(rules[1:6], requestOf("/")); i != -1 || mirrors != nil {
		t.Errorf("nothing matches: got %d, %v", i, mirrors)
	}
	same := []Rule{{ID: "old", Mode: Intercept}, {ID: "new", Mode: Intercept}}
	if i, _ := Pick(same, requestOf("/")); i != 1 {
		t.Errorf("of two equal rules got %d, want the later", i)
	}
}

func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, b Match
		want bool
	}{
		{match(""), match(""), true},
		{match("/"), match("/api"), true},
		{match("/api"), match("/api/v1"), true},
		{match("/api"), match("/apis"), false},
		{match("/api/"), match("/api"), true},
		{match("/a"), match("/b"), false},
		{match("", "u=a"), match("", "U=a"), true},
		{match("", "u=a"), match("", "U=b"), false},
		{match("", "u=a"), match("", "v=b"), true},
		{match("/x", "u=a"), match("/x", "u=b"), false},
		{match("", "u=ann*"), match("", "u=anna"), true},
		{match("", "u=ann*"), match("", "u=ben"), false},
		{match("", "u=ann*"), match("", "u=anna*"), true},
		{match("", "u=ann*"), match("", "u=ben*"), false},
		{match("", "u=*"), match("", "u=ben"), true},
		{match("", "u=a", "v=1"), match("", "v=2", "w=3"), false},
	} {
		if got := Overlap(tt.a, tt.b); got != tt.want {
			t.Errorf("%s / %s: got %t", tt.a, tt.b, got)
		}
		if got := Overlap(tt.b, tt.a); got != tt.want {
			t.Errorf("%s / %s: got %t", tt.b, tt.a, got)
		}
	}
}

func TestConflict(t *testing.T) {
	anna := Rule{ID: "1", Owner: "anna", Port: 1, Mode: Intercept, Match: match("", "u=anna")}
	mirror := Rule{ID: "2", Owner: "anna", Port: 1, Mode: Mirror}
	for name, tt := range map[string]struct {
		r    Rule
		want bool
	}{
		"everything":       {Rule{Owner: "ben", Port: 1, Mode: Intercept}, true},
		"another port":     {Rule{Owner: "ben", Port: 2, Mode: Intercept}, false},
		"a mirror":         {Rule{Owner: "ben", Port: 1, Mode: Mirror}, false},
		"another value":    {Rule{Owner: "ben", Port: 1, Mode: Intercept, Match: match("", "u=ben")}, false},
		"the same person":  {Rule{Owner: "anna", Port: 1, Mode: Intercept}, false},
		"replace":          {Rule{Owner: "ben", Port: 2, Mode: Replace}, true},
		"replace, no port": {Rule{Owner: "ben", Mode: Replace}, true},
	} {
		o, got := conflict([]Rule{mirror, anna}, tt.r)
		if got != tt.want || got && o.ID != "1" {
			t.Errorf("%s: got %t with %s", name, got, o.ID)
		}
	}
	replacing := Rule{ID: "3", Owner: "anna", Port: 1, Mode: Replace}
	for _, r := range []Rule{{Owner: "ben", Port: 2, Mode: Intercept, Match: match("", "u=ben")}, {Owner: "ben", Mode: Replace}} {
		if o, got := conflict([]Rule{replacing}, r); !got || o.ID != "3" {
			t.Errorf("beside a rule that replaces the app: %s of port %d: got %t", r.Mode, r.Port, got)
		}
	}
	if _, got := conflict([]Rule{replacing}, Rule{Owner: "ben", Port: 1, Mode: Mirror}); got {
		t.Error("a mirror is in the way of a rule that replaces the app")
	}
}

func TestARefusalSaysHowToBeApart(t *testing.T) {
	ada, team := Match{Headers: []HeaderMatch{{Name: "x-dev", Value: "ada"}}}, Match{Headers: []HeaderMatch{{Name: "x-team", Value: "a"}}}
	for _, test := range []struct {
		there, refused Match
		want           string
	}{
		{ada, Match{}, "wait until they leave, or take --header x-dev=VALUE with a value of your own"},
		{ada, ada, "wait until they leave, or take --header x-dev=VALUE with a value of your own"},
		{ada, team, "wait until they leave, or take --header x-dev=VALUE with a value of your own"},
		{Match{}, ada, "wait until they leave, or have them take --header x-dev=VALUE with a value of their own"},
		{Match{}, Match{Path: "/cart"}, "wait until they leave, or both take a --header NAME=VALUE with a value of your own"},
	} {
		h := &Host{Service: "cart"}
		err := h.inTheWay(Rule{Owner: "ada", Port: 8080, Match: test.there}, Rule{Owner: "bob", Port: 8080, Match: test.refused})
		if want := "ada already intercepts " + test.there.String() + " of cart, port 8080: " + test.want; !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v beside %v: %v, want %s", test.refused, test.there, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	ok := Rule{ID: "1", Owner: "anna", Service: "cart", Port: 5432, Mode: Intercept}
	for name, tt := range map[string]struct {
		change func(*Rule)
		p      Protocol
		want   string
	}{
		"fine":            {func(*Rule) {}, TCP, ""},
		"header on HTTP":  {func(r *Rule) { r.Match = match("/x", "u=a") }, GRPC, ""},
		"header unknown":  {func(r *Rule) { r.Match = match("/x", "u=a") }, "", ""},
		"header on TCP":   {func(r *Rule) { r.Match = match("", "u=a") }, TCP, "port 5432 of cart speaks plain TCP"},
		"path on TCP":     {func(r *Rule) { r.Match = match("/x") }, TCP, "leave out --header and --path"},
		"mode":            {func(r *Rule) { r.Mode = "steal" }, HTTP, `one of ["intercept" "mirror" "replace"]`},
		"replace":         {func(r *Rule) { r.Mode = Replace }, TCP, ""},
		"replace some":    {func(r *Rule) { r.Mode, r.Match = Replace, match("", "u=a") }, HTTP, "whoever replaces cart has all of its requests"},
		"replace below":   {func(r *Rule) { r.Mode, r.Match = Replace, match("/x") }, HTTP, "leave out --header and --path"},
		"no id":           {func(r *Rule) { r.ID = "" }, HTTP, "no id"},
		"no owner":        {func(r *Rule) { r.Owner = "" }, HTTP, "no owner"},
		"impossible":      {func(r *Rule) { r.Match = match("", "u=a", "U=b") }, HTTP, "no request can have both u=a and U=b"},
		"relative path":   {func(r *Rule) { r.Match = match("x") }, HTTP, "write /x"},
		"no header name":  {func(r *Rule) { r.Match = match("", "=a") }, HTTP, "has no name"},
		"too many header": {func(r *Rule) { r.Match.Headers = make([]HeaderMatch, 17) }, HTTP, "16 are the most"},
	} {
		r := ok
		tt.change(&r)
		err := r.Check(tt.p)
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestParseHeader(t *testing.T) {
	for flag, want := range map[string]HeaderMatch{
		"x-user=anna":           {"x-user", "anna", false},
		"X-User= anna ":         {"x-user", "anna", false},
		"x-user=ann*":           {"x-user", "ann", true},
		"x-user=*":              {"x-user", "", true},
		"cookie=a=b; c=d":       {"cookie", "a=b; c=d", false},
		"baggage=bight=anna,x*": {"baggage", "bight=anna,x", true},
	} {
		got, err := ParseHeader(flag)
		if err != nil {
			t.Errorf("%s: %v", flag, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", flag, d)
		}
	}
	for flag, want := range map[string]string{
		"":             "NAME=VALUE",
		"x-user":       "for example --header x-user=anna",
		"x-user: anna": "write --header x-user=anna",
		"=anna":        "no name",
		"x user=anna":  "can't be a header's name",
		":path=/x":     "use --path",
		"x-user=":      "x-user=* for any value",
		"x=a\nb":       "the byte 0x0a",
	} {
		if h, err := ParseHeader(flag); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v", flag, h, err)
		}
	}
}

func TestParsePath(t *testing.T) {
	for flag, want := range map[string]string{"/api": "/api", "/api/": "/api", "/": "", "/%20": "/%20"} {
		if got, err := ParsePath(flag); err != nil || got != want {
			t.Errorf("%s: got %q, %v", flag, got, err)
		}
	}
	for flag, want := range map[string]string{
		"":       "for example --path /api",
		"api":    "write /api",
		"/api/*": "write /api/",
		"/a?b=c": "queries",
		"/a b":   "%20",
		"/ü":     "as in a URL",
	} {
		if p, err := ParsePath(flag); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v", flag, p, err)
		}
	}
}

// What Overlap denies, no request does.
func FuzzOverlap(f *testing.F) {
	f.Add("/a", "u", "x", false, "/a/b", "u", "y", false, "/a/b/c", "u", "x")
	f.Add("/", "u", "x", true, "", "U", "xy", false, "/", "u", "xyz")
	f.Add("/a/", "", "", true, "/ab", "v", "", true, "/ab", "v", "")
	f.Fuzz(func(t *testing.T, pathA, nameA, valueA string, prefixA bool, pathB, nameB, valueB string, prefixB bool, path, name, value string) {
		a := Match{Path: pathA, Headers: []HeaderMatch{{nameA, valueA, prefixA}}}
		b := Match{Path: pathB, Headers: []HeaderMatch{{nameB, valueB, prefixB}}}
		for _, m := range []Match{a, b} {
			if (Rule{ID: "1", Owner: "o", Mode: Intercept, Match: m}).Check("") != nil {
				return // refused before
			}
		}
		overlap := Overlap(a, b)
		if overlap != Overlap(b, a) {
			t.Error("depends on the order")
		}
		for _, p := range []string{path, pathA, pathB, pathA + path, pathB + path} {
			for _, v := range []string{value, valueA, valueB, valueA + value, valueB + value} {
				for _, n := range []string{name, nameA, nameB} {
					r := requestOf(p, n+"="+v)
					if !overlap && a.matches(r) && b.matches(r) {
						t.Errorf("%s and %s both match %q %q=%q", a, b, p, n, v)
					}
				}
			}
		}
	})
}
