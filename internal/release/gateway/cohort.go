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
	if len(r.Methods)+len(r.Query) > 0 || r.Exact {
		return errors.New("methods, parameters and exact paths are not written into routes of Gateway API: use headers or a path, or have doors share the requests (no --route)")
	}
	for i, h := range r.Headers {
		switch {
		case h.Prefix:
			return fmt.Errorf("header %s=%s*: a route of Gateway API knows whole values only: name one, or have doors share the requests (no --route)", h.Name, h.Value)
		case h.Value == "":
			return fmt.Errorf("header %s: a route of Gateway API knows no empty values: name one", h.Name)
		case slices.ContainsFunc(r.Headers[:i], func(o v1alpha1.HeaderMatch) bool { return strings.EqualFold(o.Name, h.Name) }):
			return fmt.Errorf("header %s is named twice, and a route of Gateway API takes each once", h.Name)
		}
	}
	if kind == v1alpha1.GRPCRoute && strings.Count(strings.Trim(r.Path, "/"), "/") > 1 {
		return fmt.Errorf("path %s: of a call it is /SERVICE or /SERVICE/METHOD", r.Path)
	}
	return nil
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
	keys []key // by the matches of the rule it is made of; not valid for those without
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
		both, err := s.join(m, r)
		if err != nil {
			return c, err
		}
		if both == nil {
			c.keys = append(c.keys, key{})
			continue
		}
		matches = append(matches, both)
		c.keys = append(c.keys, s.key(both))
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
// mean, nil if there is none.
func (s Share) join(match map[string]any, r v1alpha1.ReleaseRoute) (map[string]any, error) {
	out := runtime.DeepCopyJSON(match)
	headers := list(out, "headers")
	for _, h := range r.Headers {
		i := slices.IndexFunc(headers, func(x any) bool {
			has, _ := x.(map[string]any)
			return strings.EqualFold(text(has, "name", ""), h.Name)
		})
		switch {
		case i < 0:
			headers = append(headers, map[string]any{"type": "Exact", "name": h.Name, "value": h.Value})
		case text(headers[i].(map[string]any), "type", "Exact") != "Exact":
			return nil, fmt.Errorf("the rule asks header %s by a regular expression, and asks each once: use another header", h.Name)
		case text(headers[i].(map[string]any), "value", "") != h.Value:
			return nil, nil
		}
	}
	if len(headers) > 0 {
		out["headers"] = headers
	}
	if r.Path == "" || r.Path == "/" {
		return out, nil
	}
	if s.Kind == v1alpha1.GRPCRoute {
		return joinMethod(out, r.Path)
	}
	return joinPath(out, r.Path)
}

func joinPath(out map[string]any, below string) (map[string]any, error) {
	path, _ := out["path"].(map[string]any)
	value := text(path, "value", "/")
	switch text(path, "type", "PathPrefix") {
	case "PathPrefix":
		if under(value, below) {
			return out, nil
		}
		if !under(below, value) {
			return nil, nil
		}
		out["path"] = map[string]any{"type": "PathPrefix", "value": below}
		return out, nil
	case "Exact":
		if !under(value, below) {
			return nil, nil
		}
		return out, nil
	}
	return nil, fmt.Errorf("the rule asks the path by a regular expression, and asks it once: use a header")
}

// under says whether a path is a prefix, or below it by whole elements.
func under(path, prefix string) bool {
	prefix = strings.TrimRight(prefix, "/")
	return strings.TrimRight(path, "/") == prefix || strings.HasPrefix(path, prefix+"/")
}

func joinMethod(out map[string]any, path string) (map[string]any, error) {
	service, method, _ := strings.Cut(strings.Trim(path, "/"), "/")
	has, _ := out["method"].(map[string]any)
	if text(has, "type", "Exact") != "Exact" {
		return nil, fmt.Errorf("the rule asks the method by a regular expression, and asks it once: use a header")
	}
	is := text(has, "service", "")
	if is != "" && is != service {
		return nil, nil
	}
	is = text(has, "method", "")
	if is != "" && method != "" && is != method {
		return nil, nil
	}
	both := map[string]any{"type": "Exact", "service": service}
	if is != "" {
		method = is
	}
	if method != "" {
		both["method"] = method
	}
	out["method"] = both
	return out, nil
}

// told is how people know a route.
func told(r v1alpha1.ReleaseRoute) string {
	if r.Name != "" {
		return r.Name
	}
	var all []string
	for _, h := range r.Headers {
		all = append(all, h.Name+"="+h.Value)
	}
	if r.Path != "" {
		all = append(all, r.Path)
	}
	return strings.Join(all, " and ")
}
