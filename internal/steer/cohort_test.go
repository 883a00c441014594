package steer

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestWhatACohortAsksFor(t *testing.T) {
	query := func(name, value string) []HeaderMatch {
		value, prefix := strings.CutSuffix(value, "*")
		return []HeaderMatch{{Name: name, Value: value, Prefix: prefix}}
	}
	ask := func(method, target string) Request {
		r := requestOf(pathOf(target), "x=1")
		r.Method, r.Query = method, queryOf(target)
		return r
	}
	exactly := func(path string) Cohort { return Cohort{Match: match(path), Exact: true} }
	for name, tt := range map[string]struct {
		c    Cohort
		r    Request
		want bool
	}{
		"a method":                    {Cohort{Methods: []string{"GET", "HEAD"}}, ask("HEAD", "/"), true},
		"another method":              {Cohort{Methods: []string{"GET"}}, ask("POST", "/"), false},
		"a method in other letters":   {Cohort{Methods: []string{"GET"}}, ask("get", "/"), false},
		"method and header":           {Cohort{Methods: []string{"GET"}, Match: match("", "x=1")}, ask("GET", "/"), true},
		"method without the header":   {Cohort{Methods: []string{"GET"}, Match: match("", "y=1")}, ask("GET", "/"), false},
		"exactly":                     {exactly("/a"), ask("GET", "/a?b"), true},
		"exactly, and something else": {exactly("/a"), ask("GET", "/a/b"), false},
		"exactly, and a slash":        {exactly("/a"), ask("GET", "/a/"), false},
		"exactly, with a slash":       {exactly("/a/"), ask("GET", "/a/"), true},
		"exactly nothing":             {exactly("/"), ask("GET", "/"), true},
		"exactly nothing, and more":   {exactly("/"), ask("GET", "/a"), false},
		"a parameter":                 {Cohort{Query: query("look", "new")}, ask("GET", "/?a=b&look=new&c"), true},
		"another value":               {Cohort{Query: query("look", "new")}, ask("GET", "/?look=newer"), false},
		"the beginning of a value":    {Cohort{Query: query("look", "new*")}, ask("GET", "/?look=newer"), true},
		"a parameter in the path":     {Cohort{Query: query("look", "new")}, ask("GET", "/look=new"), false},
		"the first of two":            {Cohort{Query: query("look", "new")}, ask("GET", "/?look=old&look=new"), false},
		"what is encoded":             {Cohort{Query: query("a b", "ü")}, ask("GET", "/?a+b=%C3%BC"), true},
		"what is encoded wrongly":     {Cohort{Query: query("a", "*")}, ask("GET", "/?a=%zz"), false},
		"wrongly, then rightly":       {Cohort{Query: query("a", "b")}, ask("GET", "/?a=%zz&a=b"), true},
		"without a value":             {Cohort{Query: query("a", "*")}, ask("GET", "/?a"), true},
		"a fragment":                  {Cohort{Query: query("a", "*")}, ask("GET", "/#?a=b"), false},
		"parameter and method":        {Cohort{Query: query("a", "*"), Methods: []string{"PUT"}}, ask("GET", "/?a=b"), false},
	} {
		tt.c.Version = "canary"
		if err := two(500, func(s *Split) { s.Cohorts = []Cohort{tt.c} }).Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := tt.c.matches(tt.r); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestACohortThatMakesNoSenseIsRefused(t *testing.T) {
	many := make([]string, maxAsked+1)
	for want, c := range map[string]Cohort{
		"it has every request":                 {Match: match("/")},
		"it asks for an exact path":            {Exact: true},
		"16 headers, cookies, parameters and":  {Methods: many},
		`"" can't be a method`:                 {Methods: []string{""}},
		`"GET POST" can't be a method`:         {Methods: []string{"GET POST"}},
		"the method get is written in capital": {Methods: []string{"get"}},
		"the parameter has no name":            {Query: []HeaderMatch{{Value: "x"}}},
		"the parameter look has no value":      {Query: []HeaderMatch{{Name: "look"}}},
		"is too long: 256 bytes of name":       {Query: []HeaderMatch{{Name: strings.Repeat("a", 257), Value: "x"}}},
		"queries and fragments can't be":       {Match: match("/a?b"), Exact: true},
	} {
		c.Version = "canary"
		err := two(500, func(s *Split) { s.Cohorts = []Cohort{c} }).Check()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// What a cohort asks for is read of a request in either protocol.
func TestMethodAndQueryAtTheDoor(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
			v.set(t, v.split(0, func(s *Split) {
				s.Cohorts = []Cohort{
					{Match: match("/items"), Exact: true, Methods: []string{"PUT", "DELETE"}, Version: "canary"},
					{Query: []HeaderMatch{{Name: "look", Value: "new"}}, Version: "canary"},
				}
			}))
			hc := &http.Client{Transport: &http.Transport{}}
			if name == "HTTP2" {
				hc.Transport = newTransportTo()
			}
			defer hc.CloseIdleConnections()
			for request, by := range map[string]string{
				"GET /items": "stable", "PUT /items": "canary", "DELETE /items?a=b": "canary", "PUT /items/1": "stable",
				"GET /?look=new": "canary", "GET /?look=old": "stable", "POST /x?a&look=new": "canary",
			} {
				method, target, _ := strings.Cut(request, " ")
				req, err := http.NewRequest(method, "http://"+v.stable.addr+target, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := hc.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				want(t, request, resp.Header.Get("X-Served-By"), by)
			}
		})
	}
}
