package flow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// load makes a Program of one file, with the function sink(any) to look at
// values with.
func load(t testing.TB, src string) *Program {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &Loader{Root: dir, Resolve: func(string, string) (string, bool) { return "", false }}
	p, err := l.Load(t.Context(), ".")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExpandFollowsValues(t *testing.T) {
	for _, c := range []struct{ what, body, want string }{
		{"literal", `sink("a" + "b")`, "ab"},
		{"number", `sink(8_080)`, "8080"},
		{"sum", `sink(8000 + 80)`, "8080"},
		{"variable", `x := os.Getenv("A"); if x == "" { x = "d" }; sink(x)`, "${A} d"},
		{"shadowed", `x := "outer"; { x := "inner"; _ = x }; sink(x)`, "outer"},
		{"reused", `var x string; if v := os.Getenv("A"); v != "" { x = v }; if v := os.Getenv("B"); v != "" { _ = v }; sink(x)`, "${A}"},
		{"format", `sink(fmt.Sprintf("%s:%d/%v", os.Getenv("H"), 80, "x"))`, "${H}:80/x"},
		{"join", `sink(net.JoinHostPort("", strconv.Itoa(port)))`, ":7070"},
		{"through a helper", `sink(get("A", get("B", "d")))`, "${A} ${B} d"},
		{"through a literal", `f := func(s string) string { return "<" + s + ">" }; sink(f("a"))`, "<a>"},
		{"by pointer", `var s string; must(&s, "A"); sink(s)`, "${A}"},
		{"field", `c := conf{addr: "a"}; c.addr = os.Getenv("A"); sink(c.addr)`, "a ${A}"},
		{"field by position", `c := conf{"a", 1}; sink(c.addr)`, "a"},
		{"field of a parameter", `show(&conf{addr: "p"})`, "p"},
		{"flag", `x := flag.String("addr", ":80", ""); sink(*x)`, "{--addr} :80"},
		{"flag variable", `var x string; flag.StringVar(&x, "addr", os.Getenv("A"), ""); sink(x)`, "{--addr} ${A}"},
		{"second result", `a, b := two(); _ = a; sink(b)`, "second"},
		{"recursion", `sink(again("a"))`, "a {?}a"},
		{"variable of itself", `x := "a"; x = x + "b"; sink(x)`, "a"},
		{"unknown", `sink(os.Args[1])`, "{?}"},
		{"loop", `for _, s := range []string{"a", "b"} { sink(s) }`, "a b"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := load(t, `package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
)

const port = 7070

type conf struct {
	addr string
	n    int
}

func main() { `+c.body+` }

func sink(v any) {}

func show(c *conf) { sink(c.addr) }

func two() (string, string) { return "first", "second" }

func again(s string) string {
	if s == "" {
		return again(s) + "x"
	}
	if len(s) > 9 {
		return again(s + "y")
	}
	return s
}

func get(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

func must(to *string, key string) {
	v := os.Getenv(key)
	if v == "" {
		panic(key)
	}
	*to = v
}

var _ = fmt.Sprint(net.IPv4len, strconv.Itoa(1), flag.Args())
`)
			var got []string
			for _, s := range p.Sites {
				if p.Callee(s).Name != "sink" || s.FuncName() == "show" && c.what != "field of a parameter" {
					continue
				}
				for _, cs := range p.Expand(s.Call.Args[0], s) {
					for _, a := range cs.Value {
						got = append(got, a.String())
					}
				}
			}
			if c.what == "recursion" { // what matters is that it ends, and what is known
				got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, "?") })
				c.want = "ax ay a"
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCallersAreKeptApart(t *testing.T) {
	p := load(t, `package main

import "os"

func main() {
	serve(":" + env("A", "1"))
	serve(":" + env("B", "2"))
}

func env(k, d string) string {
	if v := os.Getenv(k); v != "" {
		return v
	}
	return d
}

func serve(addr string) { sink(addr) }

func sink(string) {}
`)
	var got []string
	for _, s := range p.Sites {
		if p.Callee(s).Name == "sink" {
			for _, cs := range p.Expand(s.Call.Args[0], s) {
				var alts []string
				for _, a := range cs.Value {
					alts = append(alts, a.String())
				}
				got = append(got, strings.Join(alts, " or "))
			}
		}
	}
	if diff := cmp.Diff([]string{":${A} or :1", ":${B} or :2"}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("func main() { x := f(g); x.y(); for _, a := range x { a.b(x) } }\nfunc f(h func() int) T { return f(h) }\nfunc g() int { return h() }\nvar h = g\ntype T struct{ T2 }\ntype T2 struct{ *T }")
	f.Add("var a, b = b, a\nvar c = func() int { return c() }()\nfunc main() { var p *string; p = &*p; k(p, p) }\nfunc k(a, b *string) { *a = *b; k(b, a) }")
	f.Add("func main() { r := New(); r = r.With(r).With(r); r.Run(a()) }\nfunc a() string { return b() }\nfunc b() string { return a() }")
	f.Add("func main() { if os.Getenv(\"A\") == \"\" { log.Fatal() } else if x := os.Getenv(\"B\"); x == \"\" { return } }")
	f.Fuzz(func(t *testing.T, body string) {
		p := load(t, "package main\n\nimport (\n\t\"flag\"\n\t\"log\"\n\t\"net\"\n\t\"net/http\"\n\t\"os\"\n\t\"github.com/spf13/cobra\"\n\t\"github.com/spf13/viper\"\n)\n\n"+body)
		p.Reads()
		p.Needs()
		p.Flags()
		for _, s := range p.Sites {
			for _, e := range s.Call.Args {
				p.Expand(e, s)
			}
			p.Servers(s)
			p.Accepts(s)
			p.RoutePrefix(s)
		}
		reaches := p.Reaching(p.Sites, p.Literals)
		for _, l := range p.Literals {
			p.Parent(l)
			for _, e := range Fields(l.Lit) {
				reaches(e, l)
			}
		}
	})
}
