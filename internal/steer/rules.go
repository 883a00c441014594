package steer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mode is what happens to the requests that a rule matches.
type Mode string

// Modes.
const (
	Intercept Mode = "intercept" // the laptop answers
	Mirror    Mode = "mirror"    // the app answers, the laptop gets a copy
	Replace   Mode = "replace"   // the laptop answers, on every port, and the app's process is stopped
)

// modes are those that this program knows.
func modes() []Mode { return []Mode{Intercept, Mirror, Replace} }

// Rule steers some or all requests for a port of a service to a laptop.
type Rule struct {
	ID      string `json:"id"`    // chosen by the laptop; the same again replaces the rule
	Owner   string `json:"owner"` // "anna@laptop"
	Service string `json:"service"`
	Port    int    `json:"port"` // the app's; of Replace its main one, or 0
	Mode    Mode   `json:"mode"`
	Match   Match  `json:"match,omitzero"`
	// Strict makes requests fail that the laptop can't answer, instead of giving
	// them to the app.
	Strict bool `json:"strict,omitempty"`
}

// Match says which requests a rule is about. All of it has to be true; the zero
// Match is true of every request, and of connections that are not HTTP.
type Match struct {
	Headers []HeaderMatch `json:"headers,omitempty"`
	Path    string        `json:"path,omitempty"` // a prefix of whole elements
}

// HeaderMatch is true of requests with this header. A header that is given more
// than once has the value "a, b".
type HeaderMatch struct {
	Name   string `json:"name"` // case does not matter; "host" is the request's host
	Value  string `json:"value"`
	Prefix bool   `json:"prefix,omitempty"` // the value may go on
}

// Request is what rules see of a request.
type Request struct {
	Method string
	Path   string // without query, not decoded
	Query  string // what follows the ?, not decoded
	Header func(name string) (value string, has bool)

	carried bool // another door has decided about it
}

// Everything says whether the match is true of every request.
func (m Match) Everything() bool { return len(m.Headers) == 0 && elements(m.Path) == "" }

// String tells a person what is matched.
func (m Match) String() string {
	if m.Everything() {
		return "every request"
	}
	var parts []string
	for _, h := range m.Headers {
		parts = append(parts, "header "+h.String())
	}
	if p := elements(m.Path); p != "" {
		parts = append(parts, "path "+p)
	}
	return "requests with " + strings.Join(parts, " and ")
}

// String gives the header as it is written after --header.
func (h HeaderMatch) String() string {
	if h.Prefix {
		return h.Name + "=" + h.Value + "*"
	}
	return h.Name + "=" + h.Value
}

// matches says whether the match is true of r.
func (m Match) matches(r Request) bool {
	if !under(r.Path, m.Path) {
		return false
	}
	for _, h := range m.Headers {
		v, has := r.Header(h.Name)
		if !has || !h.matches(v) {
			return false
		}
	}
	return true
}

func (h HeaderMatch) matches(value string) bool {
	if h.Prefix {
		return strings.HasPrefix(value, h.Value)
	}
	return value == h.Value
}

// elements returns a path prefix without its last slash; that of all paths is "".
func elements(path string) string { return strings.TrimRight(path, "/") }

// under says whether path is prefix or something below it.
func under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, elements(prefix))
	return ok && (prefix == "" || rest == "" || rest[0] == '/' || elements(prefix) == "")
}

// Pick returns the index of the rule that r goes to, -1 for the app, and those of
// the rules that get a copy. The more specific rule comes first: the one with more
// exact headers, then more headers, then a longer path, then the later one.
func Pick(rules []Rule, r Request) (intercept int, mirrors []int) {
	intercept = -1
	for i, rule := range rules {
		if !rule.Match.matches(r) {
			continue
		}
		if rule.Mode == Mirror {
			mirrors = append(mirrors, i)
		} else if intercept < 0 || moreSpecific(rule.Match, rules[intercept].Match) >= 0 {
			intercept = i
		}
	}
	return intercept, mirrors
}

func moreSpecific(a, b Match) int {
	exact := func(m Match) (n int) {
		for _, h := range m.Headers {
			if !h.Prefix {
				n++
			}
		}
		return n
	}
	return cmp.Or(
		cmp.Compare(exact(a), exact(b)),
		cmp.Compare(len(a.Headers), len(b.Headers)),
		cmp.Compare(len(elements(a.Path)), len(elements(b.Path))),
	)
}

// Overlap says whether one request could match both. That none can is proven by a
// header that would need two values, or by paths of which none is below the other.
func Overlap(a, b Match) bool {
	if !under(elements(a.Path), b.Path) && !under(elements(b.Path), a.Path) {
		return false
	}
	for _, x := range a.Headers {
		for _, y := range b.Headers {
			if strings.EqualFold(x.Name, y.Name) && x.excludes(y) {
				return false
			}
		}
	}
	return true
}

// excludes says whether no value matches both.
func (h HeaderMatch) excludes(o HeaderMatch) bool {
	switch {
	case h.Prefix && o.Prefix:
		return !strings.HasPrefix(h.Value, o.Value) && !strings.HasPrefix(o.Value, h.Value)
	case h.Prefix:
		return !h.matches(o.Value)
	default:
		return !o.matches(h.Value)
	}
}

// conflict returns the rule of another owner that can't be beside r: mirrors never
// are in the way, intercepts are when one request could match both, and one that
// replaces the app is whatever the port.
func conflict(rules []Rule, r Rule) (Rule, bool) {
	if r.Mode == Mirror {
		return Rule{}, false
	}
	i := slices.IndexFunc(rules, func(o Rule) bool {
		if o.Mode == Mirror || o.Owner == r.Owner {
			return false
		}
		return o.Mode == Replace || r.Mode == Replace || o.Port == r.Port && Overlap(o.Match, r.Match)
	})
	if i < 0 {
		return Rule{}, false
	}
	return rules[i], true
}

// Protocol is what is known of what a port speaks; "" is nothing.
type Protocol string

// Protocols.
const (
	HTTP Protocol = "http"
	GRPC Protocol = "grpc"
	TCP  Protocol = "tcp" // known not to be HTTP
)

// Check refuses a rule that makes no sense on a port that speaks p.
func (r Rule) Check(p Protocol) error {
	switch {
	case r.ID == "" || len(r.ID) > 128:
		return errors.New("the rule has no id of 1 to 128 bytes")
	case r.Owner == "" || len(r.Owner) > 256:
		return errors.New("the rule has no owner of 1 to 256 bytes")
	case !slices.Contains(modes(), r.Mode):
		return fmt.Errorf("the rule's mode is %q: it must be one of %q", r.Mode, modes())
	case r.Mode == Replace && !r.Match.Everything():
		return fmt.Errorf("whoever replaces %s has all of its requests, because its process is stopped and could not answer the others: leave out --header and --path", r.Service)
	case p == TCP && !r.Match.Everything():
		return fmt.Errorf("port %d of %s speaks plain TCP, which has neither headers nor paths: leave out --header and --path to have all of its connections", r.Port, r.Service)
	case len(r.Match.Headers) > 16:
		return fmt.Errorf("the rule has %d headers: 16 are the most", len(r.Match.Headers))
	}
	for i, h := range r.Match.Headers {
		if err := h.check(); err != nil {
			return err
		}
		for _, o := range r.Match.Headers[:i] {
			if strings.EqualFold(o.Name, h.Name) && o.excludes(h) {
				return fmt.Errorf("no request can have both %s and %s: leave one out", o, h)
			}
		}
	}
	return checkPath(r.Match.Path)
}
