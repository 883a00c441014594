// Package guard is about questions to a metrics store that a release must pass besides
// its own evidence: what is asked, and what an answer says.
//
// The main type is [Guard]. The package is pure, and safe for concurrent use; who asks is
// in package prometheus below it, which only the controller links.
package guard

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/release/verdict"
)

// Guard is a question, and what its answer has to be.
type Guard struct {
	Name, Query string
	Min, Max    *float64
	Every       time.Duration
}

const (
	// Most is how many guards a release may have.
	Most = 16
	// least is how often a guard is asked at the most.
	least = time.Second
	// usual is how often it is asked.
	usual = 15 * time.Second
)

// Pause is the time between two questions.
func (g Guard) Pause() time.Duration {
	if g.Every > 0 {
		return g.Every
	}
	return usual
}

// Check says what of the guards makes no sense. where is what they are called.
func Check(all []Guard, where string) error {
	if len(all) > Most {
		return fmt.Errorf("%s has %d guards: %d are the most", where, len(all), Most)
	}
	for i, g := range all {
		at := fmt.Sprintf("%s[%d]", where, i)
		if slices.ContainsFunc(all[:i], func(o Guard) bool { return o.Name == g.Name }) {
			return fmt.Errorf("%s.name: there is another guard %q: give each a name of its own", at, g.Name)
		}
		if err := g.check(); err != nil {
			return fmt.Errorf("%s%w", at, err)
		}
	}
	return nil
}

func (g Guard) check() error {
	finite := func(f *float64) bool { return f == nil || !math.IsNaN(*f) && !math.IsInf(*f, 0) }
	switch {
	case g.Name == "" || len(g.Name) > 64:
		return fmt.Errorf(".name %q: give it a name of 64 bytes at most", g.Name)
	case strings.TrimSpace(g.Query) == "":
		return fmt.Errorf(".query is empty: give PromQL")
	case len(g.Query) > 4096:
		return fmt.Errorf(".query has %d bytes: 4096 are the most", len(g.Query))
	case g.Min == nil && g.Max == nil:
		return fmt.Errorf(" has no max and no min: give one, which the answer has to be within")
	case !finite(g.Min) || !finite(g.Max):
		return fmt.Errorf(".max and min have to be numbers")
	case g.Min != nil && g.Max != nil && *g.Min > *g.Max:
		return fmt.Errorf(".min is %v and max %v: nothing is within that", *g.Min, *g.Max)
	case g.Every != 0 && g.Every < least:
		return fmt.Errorf(".every is %s: give %s or more", g.Every, least)
	}
	_, err := g.Expand(About{})
	return err
}

// About are the names that a query may use, inside of quotes.
type About struct{ Service, Namespace, Stable, Canary string }

func (a About) value(name string) (string, bool) {
	v, ok := map[string]string{"SERVICE": a.Service, "NAMESPACE": a.Namespace, "STABLE": a.Stable, "CANARY": a.Canary}[name]
	return v, ok
}

// Expand is the query with the names in place. Whatever these are, they stay inside of
// the quotes: a query never says anything else than who wrote it meant.
func (g Guard) Expand(about About) (string, error) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(g.Query); i++ {
		switch c := g.Query[i]; {
		case c == '$' && len(variable(g.Query[i+1:])) > 1:
			name := variable(g.Query[i+1:])
			value, known := about.value(name)
			switch {
			case !known:
				return "", fmt.Errorf(".query: there is no $%s: $SERVICE, $NAMESPACE, $STABLE and $CANARY there are", name)
			case quote == 0:
				return "", fmt.Errorf(".query: $%s is not inside of quotes, as in {pod=~\"cart-$CANARY-.*\"}", name)
			case quote == '`' && strings.ContainsAny(value, "`\\"):
				return "", fmt.Errorf(".query: $%s is inside of backquotes, where %q can't be written: use others", name, value)
			case quote != '`':
				value = strconv.Quote(value)
				value = value[1 : len(value)-1]
				if quote == '\'' {
					value = strings.ReplaceAll(strings.ReplaceAll(value, `\"`, `"`), `'`, `\'`)
				}
			}
			out.WriteString(value)
			i += len(name)
		case c == '\\' && (quote == '"' || quote == '\'') && i+1 < len(g.Query):
			out.WriteString(g.Query[i : i+2])
			i++
		case quote == 0 && c == '#': // to the end of the line
			end := strings.IndexByte(g.Query[i:], '\n')
			if end < 0 {
				end = len(g.Query) - i
			}
			i += end - 1
		default:
			switch {
			case quote == 0 && (c == '"' || c == '\'' || c == '`'):
				quote = c
			case quote == c:
				quote = 0
			}
			out.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf(".query: a quote (%c) is not closed", quote)
	}
	return out.String(), nil
}

// variable is the name of a variable that a text begins with.
func variable(s string) string {
	n := 0
	for n < len(s) && 'A' <= s[n] && s[n] <= 'Z' {
		n++
	}
	return s[:n]
}

// Sample is one value of an answer, and what it is of.
type Sample struct {
	Of    string
	Value float64
}

// Judge is what an answer says: pass if all values are within the bounds, fail if any is
// beyond, and no data if there is none that is a number. The text is for people: the
// value that decides.
func (g Guard) Judge(all []Sample) (verdict.GuardAnswer, string) {
	all = slices.DeleteFunc(slices.Clone(all), func(s Sample) bool { return math.IsNaN(s.Value) })
	if len(all) == 0 {
		return verdict.GuardNoData, ""
	}
	worst := slices.MaxFunc(all, func(a, b Sample) int {
		x, y := g.beyond(a.Value), g.beyond(b.Value)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	text := number(worst.Value)
	if worst.Of != "" && len(all) > 1 {
		text += " of " + worst.Of
	}
	if g.Max != nil && worst.Value > *g.Max {
		return verdict.GuardFail, text + ", over " + number(*g.Max)
	}
	if g.Min != nil && worst.Value < *g.Min {
		return verdict.GuardFail, text + ", under " + number(*g.Min)
	}
	return verdict.GuardPass, text
}

// beyond is how far a value is beyond the bounds, below 0 if it is within.
func (g Guard) beyond(v float64) float64 {
	out := math.Inf(-1)
	if g.Max != nil {
		out = max(out, v-*g.Max)
	}
	if g.Min != nil {
		out = max(out, *g.Min-v)
	}
	return out
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', 4, 64) }

// CheckURL says why a URL can't be that of a metrics store.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no URL: give one as http://prometheus.monitoring:9090", text)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q is no URL of HTTP: give one as http://prometheus.monitoring:9090", text)
	case u.User != nil:
		return fmt.Errorf("the URL of %s has a password, which everybody could read who sees the controller's pod: give an address that takes none", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q has more than an address and a path: leave out what follows", text)
	}
	return nil
}
