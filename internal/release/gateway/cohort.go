package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
)

// Sayable says what of a plan or an order no route of Gateway API can say, whatever its
// rules are.
func Sayable(kind string, routes []v1alpha1.ReleaseRoute, affinity *v1alpha1.Affinity) error {
	if affinity != nil {
		return fmt.Errorf("affinity: routes of Gateway API can't keep clients with their version in a way that every implementation has: leave it out, or have doors share the requests (no --route)")
	}
	for i, r := range routes {
		if err := sayable(kind, r); err != nil {
			return fmt.Errorf("routes[%d] %s: %w", i, r.Name, err)
		}
	}
	return nil
}

func sayable(kind string, r v1alpha1.ReleaseRoute) error {
	if len(r.Cookies) > 0 {
		return fmt.Errorf("cookie %s: a route of Gateway API knows no cookies: use a header, or have doors share the requests (no --route)", r.Cookies[0].Name)
	}
	if err := whole("header", r.Headers, strings.EqualFold); err != nil {
		return err
	}
	if err := whole("parameter", r.Query, func(a, b string) bool { return a == b }); err != nil {
		return err
	}
	if r.Exact && r.Path == "" {
		return errors.New("it asks for an exact path and names none: give it a path")
	}
	if kind != v1alpha1.GRPCRoute {
		i := slices.IndexFunc(r.Methods, func(m string) bool { return !slices.Contains(methods(), m) })
		if i >= 0 {
			return fmt.Errorf("method %s: a route of Gateway API knows %s only: name one of them, or have doors share the requests (no --route)", r.Methods[i], strings.Join(methods(), ", "))
		}
		return nil
	}
	switch parts := strings.Count(strings.Trim(r.Path, "/"), "/"); {
	case len(r.Methods)+len(r.Query) > 0:
		return errors.New("calls are told apart by neither methods of HTTP nor parameters: use a header or a path, /SERVICE or /SERVICE/METHOD")
	case parts > 1, r.Exact && parts != 1:
		return fmt.Errorf("path %s: of a call it is /SERVICE or /SERVICE/METHOD", r.Path)
	}
	return nil
}

// whole refuses headers or parameters that are asked for otherwise than by one whole value each.
func whole(what string, all []v1alpha1.HeaderMatch, same func(a, b string) bool) error {
	for i, h := range all {
		switch {
		case h.Prefix:
			return fmt.Errorf("%s %s=%s*: a route of Gateway API knows whole values only: name one, or have doors share the requests (no --route)", what, h.Name, h.Value)
		case h.Value == "":
			return fmt.Errorf("%s %s: a route of Gateway API knows no empty values: name one", what, h.Name)
		case slices.ContainsFunc(all[:i], func(o v1alpha1.HeaderMatch) bool { return same(o.Name, h.Name) }):
			return fmt.Errorf("%s %s is named twice, and a route of Gateway API takes each once", what, h.Name)
		}
	}
	return nil
}

// methods are those that an HTTPRoute may name.
func methods() []string {
	return []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
}

// family is a rule, and those that are made of it for the routes of a release.
type family struct {
	ours    bool
	matches []key
	cohorts []cohort // one for each route
}

// cohort is a rule for the requests of one route of a release, none if no request of the
// rule is among them.
type cohort struct {
	rule map[string]any
	keys [][]key // by the matches of the rule it is made of: several for methods, none for those without
}

// family makes the rules for the routes of a release.
func (s Share) family(rule map[string]any) (family, error) {
	raw := s.matchesOf(rule)
	f := family{ours: s.leads(rule)}
	for _, m := range raw {
		f.matches = append(f.matches, s.key(m))
	}
	if !f.ours {
		return f, nil
	}
	for i, r := range s.Routes {
		c, err := s.cohort(rule, raw, r)
		if err != nil {
			return f, fmt.Errorf("the route %d of the release, %s: %w", i+1, told(r), err)
		}
		f.cohorts = append(f.cohorts, c)
	}
	return f, nil
}

// matchesOf are the matches of a rule: one of everything if it has none.
func (s Share) matchesOf(rule map[string]any) (all []map[string]any) {
	for _, m := range list(rule, "matches") {
		match, _ := m.(map[string]any)
		all = append(all, match)
	}
	if len(all) == 0 {
		all = append(all, map[string]any{})
	}
	return all
}

// cohort is the rule for those requests of a rule that a route of the release means.
func (s Share) cohort(rule map[string]any, raw []map[string]any, r v1alpha1.ReleaseRoute) (c cohort, err error) {
	if err := sayable(s.Kind, r); err != nil {
		return c, err
	}
	if err := lost(rule, r); err != nil {
		return c, err
	}
	var matches []any
	for _, m := range raw {
		all, err := s.join(m, r)
		if err != nil {
			return c, err
		}
		var keys []key
		for _, both := range all {
			matches, keys = append(matches, both), append(keys, s.key(both))
		}
		c.keys = append(c.keys, keys)
	}
	if len(matches) == 0 {
		return c, nil
	}
	c.rule = runtime.DeepCopyJSON(rule)
	delete(c.rule, "name") // each is unique
	c.rule["matches"] = matches
	if r.To == v1alpha1.Canary {
		for _, b := range list(c.rule, "backendRefs") {
			if s.names(b, s.Service) {
				b.(map[string]any)["name"] = s.Canary
			}
		}
		return c, nil
	}
	return c, s.mirror(c.rule)
}

// lost refuses a rule that takes away by what the version's pods would know the requests
// of a route: who judges it would take them for drawn ones.
func lost(rule map[string]any, r v1alpha1.ReleaseRoute) error {
	filters := list(rule, "filters")
	for _, b := range list(rule, "backendRefs") {
		ref, _ := b.(map[string]any)
		filters = append(slices.Clone(filters), list(ref, "filters")...)
	}
	for _, f := range filters {
		filter, _ := f.(map[string]any)
		if m, _ := filter["requestHeaderModifier"].(map[string]any); m != nil {
			for _, h := range r.Headers {
				if touches(m, h.Name) {
					return fmt.Errorf("the rule changes header %s before the pods get it: use another", h.Name)
				}
			}
		}
		if m, _ := filter["urlRewrite"].(map[string]any); m != nil && m["path"] != nil && r.Path != "" {
			return fmt.Errorf("the rule rewrites the path before the pods get it: use a header")
		}
	}
	return nil
}

func touches(modifier map[string]any, header string) bool {
	for _, how := range []string{"set", "add", "remove"} {
		for _, x := range list(modifier, how) {
			name, _ := x.(string)
			if m, ok := x.(map[string]any); ok {
				name = text(m, "name", "")
			}
			if strings.EqualFold(name, header) {
				return true
			}
		}
	}
	return false
}

// join is what is true of a request that both a match of a rule and a route of the release
// mean: one match for each method that the route names, none if there is no such request.
func (s Share) join(match map[string]any, r v1alpha1.ReleaseRoute) ([]map[string]any, error) {
	out := runtime.DeepCopyJSON(match)
	if is, err := joinValues(out, "headers", "header", r.Headers, strings.EqualFold); err != nil || !is {
		return nil, err
	}
	if is, err := joinValues(out, "queryParams", "parameter", r.Query, func(a, b string) bool { return a == b }); err != nil || !is {
		return nil, err
	}
	switch {
	case r.Path == "" || r.Path == "/" && !r.Exact:
	case s.Kind == v1alpha1.GRPCRoute:
		if is, err := joinMethod(out, r.Path); err != nil || !is {
			return nil, err
		}
	default:
		if is, err := joinPath(out, r.Path, r.Exact); err != nil || !is {
			return nil, err
		}
	}
	if len(r.Methods) == 0 {
		return []map[string]any{out}, nil
	}
	has := text(out, "method", "")
	if has != "" && slices.Contains(r.Methods, has) {
		return []map[string]any{out}, nil
	}
	var all []map[string]any
	for i, m := range r.Methods {
		if has != "" || slices.Contains(r.Methods[:i], m) {
			continue
		}
		one := runtime.DeepCopyJSON(out)
		one["method"] = m
		all = append(all, one)
	}
	return all, nil
}

// joinValues has a match ask for headers or parameters, too. It returns false if no request has them and what the
// match asks already.
func joinValues(out map[string]any, field, what string, all []v1alpha1.HeaderMatch, same func(a, b string) bool) (bool, error) {
	asked := list(out, field)
	for _, h := range all {
		i := slices.IndexFunc(asked, func(x any) bool {
			has, _ := x.(map[string]any)
			return same(text(has, "name", ""), h.Name)
		})
		switch {
		case i < 0:
			asked = append(asked, map[string]any{"type": "Exact", "name": h.Name, "value": h.Value})
		case text(asked[i].(map[string]any), "type", "Exact") != "Exact":
			return false, fmt.Errorf("the rule asks %s %s by a regular expression, and asks each once: use another %[1]s", what, h.Name)
		case text(asked[i].(map[string]any), "value", "") != h.Value:
			return false, nil
		}
	}
	if len(asked) > 0 {
		out[field] = asked
	}
	return true, nil
}

// joinPath has a match ask for a path, and what is below it unless it is exact. It returns false if no request has
// that and what the match asks already.
func joinPath(out map[string]any, asked string, exact bool) (bool, error) {
	path, _ := out["path"].(map[string]any)
	value := text(path, "value", "/")
	switch kind := text(path, "type", "PathPrefix"); {
	case kind != "PathPrefix" && kind != "Exact":
		return false, fmt.Errorf("the rule asks the path by a regular expression, and asks it once: use a header")
	case kind == "Exact" && exact:
		return value == asked, nil
	case kind == "Exact":
		return under(value, asked), nil
	case exact:
		out["path"] = map[string]any{"type": "Exact", "value": asked}
		return under(asked, value), nil
	case under(value, asked):
		return true, nil
	}
	out["path"] = map[string]any{"type": "PathPrefix", "value": asked}
	return under(asked, value), nil
}

// under says whether a path is a prefix, or below it by whole elements.
func under(path, prefix string) bool {
	prefix = strings.TrimRight(prefix, "/")
	return strings.TrimRight(path, "/") == prefix || strings.HasPrefix(path, prefix+"/")
}

// joinMethod is joinPath for calls.
func joinMethod(out map[string]any, path string) (bool, error) {
	service, method, _ := strings.Cut(strings.Trim(path, "/"), "/")
	has, _ := out["method"].(map[string]any)
	if text(has, "type", "Exact") != "Exact" {
		return false, fmt.Errorf("the rule asks the method by a regular expression, and asks it once: use a header")
	}
	is := text(has, "service", "")
	if is != "" && is != service {
		return false, nil
	}
	is = text(has, "method", "")
	if is != "" && method != "" && is != method {
		return false, nil
	}
	both := map[string]any{"type": "Exact", "service": service}
	if is != "" {
		method = is
	}
	if method != "" {
		both["method"] = method
	}
	out["method"] = both
	return true, nil
}

// told is how people know a route.
func told(r v1alpha1.ReleaseRoute) string {
	if r.Name != "" {
		return r.Name
	}
	var all []string
	if len(r.Methods) > 0 {
		all = append(all, strings.Join(r.Methods, " or "))
	}
	for _, h := range slices.Concat(r.Headers, r.Query) {
		all = append(all, h.Name+"="+h.Value)
	}
	if r.Path != "" {
		all = append(all, r.Path)
	}
	return strings.Join(all, " and ")
}
