package bridge

import (
	"fmt"
	"strings"

	"github.com/bightdev/bight/internal/steer"
)

// OverlapError is that two rules of one user would have an equal right to a request.
type OverlapError struct {
	ID    string // of the rule that is in force
	What  string // it has, in words
	Where string // "cart:8080", or "cart"
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("%s, another intercept of yours, has %s for %s, and neither rule says more about a request that matches both: end that one with bight intercept leave %s, or tell them apart with --header or --path",
		e.ID, e.What, e.Where, e.ID)
}

// beside says how a rule goes with another one of the same user: which of them has the
// requests that match both, "" if there are none. Where that would be only a matter of
// which came last, the error is an *OverlapError.
func beside(r, other steer.Rule) (string, error) {
	replaces := r.Mode == steer.Replace || other.Mode == steer.Replace
	if r.ID == other.ID || r.Owner != other.Owner || r.Mode == steer.Mirror || other.Mode == steer.Mirror ||
		r.Port != other.Port && !replaces || !steer.Overlap(r.Match, other.Match) {
		return "", nil
	}
	where := other.Service
	if other.Port != 0 { // as one has that replaces a service without ports
		where += fmt.Sprintf(":%d", other.Port)
	}
	request := matching(r.Match, other.Match)
	first, _ := steer.Pick([]steer.Rule{r, other}, request)
	second, _ := steer.Pick([]steer.Rule{other, r}, request)
	if first == second { // the later one, whichever that is
		return "", &OverlapError{ID: other.ID, What: other.Match.String(), Where: where}
	}
	goes := "come here"
	if first == 1 {
		goes = "go there, for it says more about them"
	}
	return fmt.Sprintf("%s, another intercept of yours, has %s for %s: requests that match both %s", other.ID, other.Match, where, goes), nil
}

// matching is a request that two overlapping matches are true of.
func matching(a, b steer.Match) steer.Request {
	request := steer.Request{Path: a.Path}
	if len(b.Path) > len(a.Path) {
		request.Path = b.Path
	}
	if request.Path == "" {
		request.Path = "/"
	}
	values := map[string]steer.HeaderMatch{}
	for _, headers := range [][]steer.HeaderMatch{a.Headers, b.Headers} {
		for _, h := range headers {
			name := strings.ToLower(h.Name)
			had, has := values[name]
			if !has || had.Prefix && (!h.Prefix || len(h.Value) > len(had.Value)) {
				values[name] = h
			}
		}
	}
	request.Header = func(name string) (string, bool) {
		h, has := values[strings.ToLower(name)]
		return h.Value, has
	}
	return request
}
