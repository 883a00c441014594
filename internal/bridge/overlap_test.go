package bridge

import (
	"errors"
	"strings"
	"testing"

	"github.com/bightdev/bight/internal/steer"
)

func TestTwoRulesOfOneUser(t *testing.T) {
	rule := func(mode steer.Mode, port int, path string, headers ...steer.HeaderMatch) steer.Rule {
		return steer.Rule{ID: "cart-2", Owner: "ada@laptop", Service: "cart", Port: port, Mode: mode, Match: steer.Match{Path: path, Headers: headers}}
	}
	dev := func(value string) steer.HeaderMatch { return steer.HeaderMatch{Name: "x-dev", Value: value} }
	prefix := func(value string) steer.HeaderMatch {
		return steer.HeaderMatch{Name: "X-Dev", Value: value, Prefix: true}
	}
	foreign := rule(steer.Intercept, 8080, "")
	foreign.Owner = "bob@laptop"
	const equal = "end that one with bight intercept leave cart-1"
	for _, tt := range []struct {
		name         string
		there, asked steer.Rule
		want         string // in what is said, or in the error
		refused      bool
	}{
		{"everything twice", rule(steer.Intercept, 8080, ""), rule(steer.Intercept, 8080, ""), equal, true},
		{"one header twice", rule(steer.Intercept, 8080, "", dev("ada")), rule(steer.Intercept, 8080, "", dev("ada")), equal, true},
		{"two headers that one request may have", rule(steer.Intercept, 8080, "", dev("ada")), rule(steer.Intercept, 8080, "", steer.HeaderMatch{Name: "x-team", Value: "a"}), equal, true},
		{"a header within everything", rule(steer.Intercept, 8080, ""), rule(steer.Intercept, 8080, "", dev("ada")), "match both come here", false},
		{"everything around a header", rule(steer.Intercept, 8080, "", dev("ada")), rule(steer.Intercept, 8080, ""), "match both go there", false},
		{"a path within a path", rule(steer.Intercept, 8080, "/a"), rule(steer.Intercept, 8080, "/a/b"), "match both come here", false},
		{"a value and its beginning", rule(steer.Intercept, 8080, "", dev("ada")), rule(steer.Intercept, 8080, "", prefix("a")), "match both go there", false},
		{"a replaced service", rule(steer.Replace, 8080, ""), rule(steer.Intercept, 9090, "", dev("ada")), "match both come here", false},
		{"replaced twice", rule(steer.Replace, 8080, ""), rule(steer.Replace, 8080, ""), equal, true},
		{"other values", rule(steer.Intercept, 8080, "", dev("ada")), rule(steer.Intercept, 8080, "", dev("eve")), "", false},
		{"other paths", rule(steer.Intercept, 8080, "/a"), rule(steer.Intercept, 8080, "/b"), "", false},
		{"other ports", rule(steer.Intercept, 8080, ""), rule(steer.Intercept, 9090, ""), "", false},
		{"a mirror", rule(steer.Mirror, 8080, ""), rule(steer.Intercept, 8080, ""), "", false},
		{"somebody else's, which the agents refuse", foreign, rule(steer.Intercept, 8080, ""), "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.there.ID = "cart-1"
			said, err := beside(tt.asked, tt.there)
			if refused := errors.As(err, new(*OverlapError)); refused != tt.refused {
				t.Fatalf("refused: %t (%v), want %t", refused, err, tt.refused)
			}
			if err != nil {
				said = err.Error()
			}
			if tt.want == "" && said != "" || !strings.Contains(said, tt.want) {
				t.Errorf("got %q, want %q in it", said, tt.want)
			}
		})
	}
}
