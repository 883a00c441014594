package guard

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/release/verdict"
)

var about = About{Service: "cart", Namespace: "shop", Stable: "6d4cf56db6", Canary: "7b9f"}

func TestExpand(t *testing.T) {
	odd := About{Service: `a"b'c\d` + "\n", Canary: "back`tick"}
	for _, tt := range []struct {
		name, query string
		about       About
		want, err   string
	}{
		{"nothing", `up`, about, `up`, ""},
		{"a label", `sum(rate(errors{namespace="$NAMESPACE",pod=~"$SERVICE-$CANARY-.*"}[1m]))`, about, `sum(rate(errors{namespace="shop",pod=~"cart-7b9f-.*"}[1m]))`, ""},
		{"quotes of all kinds", "a{x='$STABLE',y=`$CANARY`}", about, "a{x='6d4cf56db6',y=`7b9f`}", ""},
		{"the end of a regular expression", `a{x=~"cart$", y=~"$SERVICE$"}`, about, `a{x=~"cart$", y=~"cart$"}`, ""},
		{"a quote in quotes", `a{x="\"$SERVICE\"", y='"', z="$CANARY"}`, about, `a{x="\"cart\"", y='"', z="7b9f"}`, ""},
		{"a comment", "up # don't\n+ a{x=\"$SERVICE\"} # $WHAT", about, "up \n+ a{x=\"cart\"} ", ""},
		{"what is hostile stays inside", `a{x="$SERVICE",y='$SERVICE'}`, odd, `a{x="a\"b'c\\d\n",y='a"b\'c\\d\n'}`, ""},
		{"what can't be written", "a{x=`$CANARY`}", odd, "", "backquotes"},
		{"outside of quotes", `a{x=$CANARY}`, about, "", "$CANARY is not inside of quotes"},
		{"outside, after quotes", `a{x="$CANARY"} > $STABLE`, about, "", "$STABLE is not inside of quotes"},
		{"no such name", `a{x="$SERVICES"}`, about, "", "there is no $SERVICES"},
		{"a quote that is open", `a{x="$CANARY}`, about, "", "not closed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Guard{Query: tt.query}.Expand(tt.about)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %s, %v\nwant %s, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

// Whatever the names are: what is between the quotes is exactly these.
func FuzzExpand(f *testing.F) {
	f.Add("cart", `"`)
	f.Add("ca\"rt", `'`)
	f.Add(`cart"`, `"`)
	f.Add(`cart\"`, `'`)
	f.Add("\x00\xff\\", "`")
	f.Fuzz(func(t *testing.T, name, quote string) {
		if quote != `"` && quote != `'` && quote != "`" {
			return
		}
		g := Guard{Query: "a{x=" + quote + "$SERVICE" + quote + "} > 1"}
		got, err := g.Expand(About{Service: name})
		if err != nil {
			return
		}
		inside, begins := strings.CutPrefix(got, "a{x="+quote)
		inside, ends := strings.CutSuffix(inside, quote+"} > 1")
		if !begins || !ends {
			t.Fatalf("%q", got)
		}
		for i := 0; i < len(inside); i++ {
			if inside[i] == '\\' && quote != "`" {
				i++
			} else if inside[i] == quote[0] || inside[i] == '\n' && quote != "`" {
				t.Fatalf("the name %q ends the quotes in %q", name, got)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	some := func(values ...float64) (all []Sample) {
		for i, v := range values {
			all = append(all, Sample{Of: `{pod="` + string(rune('a'+i)) + `"}`, Value: v})
		}
		return all
	}
	nan := math.NaN()
	upTo, from := Guard{Max: new(0.5)}, Guard{Min: new(10.0)}
	both := Guard{Min: new(1.0), Max: new(2.0)}
	for _, tt := range []struct {
		name string
		g    Guard
		all  []Sample
		want verdict.GuardAnswer
		text string
	}{
		{"within", upTo, some(0.25), verdict.GuardPass, "0.25"},
		{"the bound itself", upTo, some(0.5), verdict.GuardPass, "0.5"},
		{"beyond", upTo, some(0.51), verdict.GuardFail, "0.51, over 0.5"},
		{"one of many beyond", upTo, some(0.1, 0.75, 0.2), verdict.GuardFail, `0.75 of {pod="b"}, over 0.5`},
		{"all of many within", upTo, some(0.1, 0.2), verdict.GuardPass, `0.2 of {pod="b"}`},
		{"too few", from, some(12, 9), verdict.GuardFail, `9 of {pod="b"}, under 10`},
		{"below both", both, some(1.5, 0.2), verdict.GuardFail, `0.2 of {pod="b"}, under 1`},
		{"infinite", upTo, some(math.Inf(1)), verdict.GuardFail, "+Inf, over 0.5"},
		{"none", upTo, nil, verdict.GuardNoData, ""},
		{"no number", upTo, some(nan, nan), verdict.GuardNoData, ""},
		{"one that is no number", upTo, some(nan, 0.1), verdict.GuardPass, "0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, text := tt.g.Judge(tt.all); got != tt.want || text != tt.text {
				t.Errorf("got %s, %q, want %s, %q", got, text, tt.want, tt.text)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	good := Guard{Name: "queue", Query: "up", Max: new(1.0)}
	if err := Check([]Guard{good}, "guards"); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Guard){
		"guards[1].name: there is another guard":   func(*Guard) {},
		"guards[1].name \"\"":                      func(g *Guard) { g.Name = "" },
		"guards[1].query is empty":                 func(g *Guard) { g.Name, g.Query = "b", " \n" },
		"guards[1].query: $CANARY is not inside":   func(g *Guard) { g.Name, g.Query = "b", "$CANARY" },
		"guards[1] has no max and no min":          func(g *Guard) { g.Name, g.Max = "b", nil },
		"guards[1].min is 2 and max 1":             func(g *Guard) { g.Name, g.Min = "b", new(2.0) },
		"guards[1].max and min have to be numbers": func(g *Guard) { g.Name, g.Min = "b", new(math.NaN()) },
		"guards[1].every is 1ms: give 1s or more":  func(g *Guard) { g.Name, g.Every = "b", time.Millisecond },
	} {
		other := good
		change(&other)
		if err := Check([]Guard{good, other}, "guards"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := Check(make([]Guard, Most+1), "guards"); err == nil || !strings.Contains(err.Error(), "16 are the most") {
		t.Errorf("got %v", err)
	}
	if good.Pause() != 15*time.Second || (Guard{Every: time.Minute}).Pause() != time.Minute {
		t.Error("it is asked at another pace")
	}
}

func TestCheckURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://prometheus.monitoring:9090":  "",
		"https://metrics.example.com/prom":   "",
		"prometheus:9090":                    "no URL of HTTP",
		"http://":                            "no URL of HTTP",
		"file:///etc/passwd":                 "no URL of HTTP",
		"http://ada:secret@prometheus:9090":  "has a password",
		"http://prometheus:9090/graph?g0=up": "leave out what follows",
		"http://a b":                         "is no URL",
	} {
		err := CheckURL(text)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
