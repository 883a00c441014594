package steer

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// maxAsked is how many headers, cookies, parameters and methods a cohort may ask for.
const maxAsked = 16

func (c *Cohort) matches(r Request) bool {
	switch {
	case len(c.Methods) > 0 && !slices.Contains(c.Methods, r.Method),
		c.Exact && r.Path != c.Match.Path,
		!c.Match.matches(r):
		return false
	}
	for _, want := range c.Cookies {
		if v, has := cookie(r, want.Name); !has || !want.matches(v) {
			return false
		}
	}
	for _, want := range c.Query {
		if v, has := parameter(r.Query, want.Name); !has || !want.matches(v) {
			return false
		}
	}
	return true
}

// everything says whether the cohort asks for nothing.
func (c *Cohort) everything() bool {
	return c.Match.Everything() && !c.Exact && len(c.Methods)+len(c.Cookies)+len(c.Query) == 0
}

// parameter returns the value of a parameter of a query, the first of its name. What is
// encoded wrongly is nobody's.
func parameter(query, name string) (value string, has bool) {
	for query != "" {
		var one string
		one, query, _ = strings.Cut(query, "&")
		n, v, _ := strings.Cut(one, "=")
		if n, err := url.QueryUnescape(n); err != nil || n != name {
			continue
		}
		if v, err := url.QueryUnescape(v); err == nil {
			return v, true
		}
	}
	return "", false
}

func (c *Cohort) check(s *Split) error {
	switch {
	case s.Find(c.Version) < 0:
		return fmt.Errorf("its version %q is none of the split", c.Version)
	case c.everything():
		return errors.New("it has every request, so no weight would count: give the version a weight of 100% instead")
	case c.Exact && c.Match.Path == "":
		return errors.New("it asks for an exact path and names none: give it a path")
	case len(c.Match.Headers)+len(c.Cookies)+len(c.Query)+len(c.Methods) > maxAsked:
		return fmt.Errorf("%d headers, cookies, parameters and methods are the most", maxAsked)
	}
	for _, m := range c.Methods {
		if err := checkMethod(m); err != nil {
			return err
		}
	}
	for _, h := range slices.Concat(c.Match.Headers, c.Cookies) {
		if err := h.check(); err != nil {
			return err
		}
	}
	for _, q := range c.Query {
		if err := q.checkParameter(); err != nil {
			return err
		}
	}
	return checkPath(c.Match.Path)
}

// checkMethod refuses what no request has as its method, which is written in capitals
// wherever it is a usual one.
func checkMethod(m string) error {
	switch {
	case !isToken(m) || len(m) > 32:
		return fmt.Errorf("%q can't be a method: write it as in a request, GET say", m)
	case slices.Contains(methods(), strings.ToUpper(m)) && m != strings.ToUpper(m):
		return fmt.Errorf("the method %s is written in capitals: %s", m, strings.ToUpper(m))
	}
	return nil
}

// methods are the usual ones.
func methods() []string {
	return []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}
}

func (h HeaderMatch) checkParameter() error {
	switch {
	case h.Name == "":
		return errors.New("the parameter has no name: write NAME=VALUE, as in preview=yes")
	case h.Value == "" && !h.Prefix:
		return fmt.Errorf("the parameter %s has no value: write %[1]s=VALUE, or %[1]s=* for any value", h.Name)
	case len(h.Name) > 256 || len(h.Value) > 4096:
		return fmt.Errorf("the parameter %.40s is too long: 256 bytes of name and 4096 of value are the most", h.Name)
	}
	return nil
}
