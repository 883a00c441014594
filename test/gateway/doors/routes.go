package doors

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/bightdev/bight/internal/steer"
)

// maxRules is how many rules a listener can have: a split has 16 versions at most, and
// one of them is the gateway.
const maxRules = 15

// missing is the reference of a route to what is not there, or not allowed.
type missing struct{ text, reason string }

func (m *missing) Error() string { return m.text }

// httpRules reads the rules of a route. The error is of what doors can't do; what is lost
// besides are backends that are not there, which makes the rest no less good.
func (w *World) httpRules(to *route, r *gatewayv1.HTTPRoute) error {
	for i, from := range r.Spec.Rules {
		if from.Timeouts != nil || from.SessionPersistence != nil || from.Retry != nil {
			return fmt.Errorf("rules[%d]: timeouts, retries and sessions are nothing that doors do", i)
		}
		var filters []filter
		for _, f := range from.Filters {
			filters = append(filters, filter{f.Type, f.RequestHeaderModifier, f.RequestMirror})
		}
		var backends []backend
		for _, b := range from.BackendRefs {
			backends = append(backends, backend{b.BackendRef, len(b.Filters) > 0})
		}
		if err := addRule(w, to, r.Spec.Hostnames, from.Matches, httpCohort, filters, backends); err != nil {
			return fmt.Errorf("rules[%d]: %w", i, err)
		}
	}
	return nil
}

// grpcRules is httpRules for calls.
func (w *World) grpcRules(to *route, r *gatewayv1.GRPCRoute) error {
	for i, from := range r.Spec.Rules {
		var filters []filter
		for _, f := range from.Filters {
			filters = append(filters, filter{gatewayv1.HTTPRouteFilterType(f.Type), f.RequestHeaderModifier, f.RequestMirror})
		}
		var backends []backend
		for _, b := range from.BackendRefs {
			backends = append(backends, backend{b.BackendRef, len(b.Filters) > 0})
		}
		if err := addRule(w, to, r.Spec.Hostnames, from.Matches, grpcCohort, filters, backends); err != nil {
			return fmt.Errorf("rules[%d]: %w", i, err)
		}
	}
	return nil
}

// filter is what both kinds of routes may do to a request.
type filter struct {
	kind   gatewayv1.HTTPRouteFilterType
	header *gatewayv1.HTTPHeaderFilter
	mirror *gatewayv1.HTTPRequestMirrorFilter
}

// backend is who gets a rule's requests.
type backend struct {
	ref      gatewayv1.BackendRef
	filtered bool
}

// addRule adds a rule to a route, of whichever kind it is.
func addRule[M any](w *World, to *route, hosts []gatewayv1.Hostname, matches []M, cohort func(M) (steer.Cohort, error), filters []filter, backends []backend) error {
	i := len(to.rules)
	rule := Rule{Key: fmt.Sprint(to.id, "/", i), route: orderOf(to.at, i)}
	if len(matches) == 0 {
		matches = make([]M, 1)
	}
	for _, m := range matches {
		c, err := cohort(m)
		if err != nil {
			return err
		}
		asks, err := hosted(c, hosts)
		if err != nil {
			return err
		}
		rule.Asks = append(rule.Asks, asks...)
	}
	for _, f := range filters {
		if err := w.filter(&rule, to.at.Namespace, f); err != nil {
			return err
		}
	}
	for _, b := range backends {
		if b.filtered {
			return errors.New("filters of backends are nothing that doors do")
		}
		there, err := w.backend(to.at.Namespace, b.ref)
		to.lost = errors.Join(to.lost, err)
		rule.Backends = append(rule.Backends, there)
	}
	to.rules = append(to.rules, rule)
	return nil
}

func orderOf(m *metav1.ObjectMeta, rule int) order {
	return order{created: m.CreationTimestamp.Time, name: types.NamespacedName{Namespace: m.Namespace, Name: m.Name}, rule: rule}
}

// either is what p points to, or else what is usual.
func either[T any](p *T, usual T) T {
	if p != nil {
		return *p
	}
	return usual
}

func httpCohort(m gatewayv1.HTTPRouteMatch) (c steer.Cohort, err error) {
	if p := m.Path; p != nil {
		path := either(p.Value, "/")
		switch kind := either(p.Type, gatewayv1.PathMatchPathPrefix); kind {
		case gatewayv1.PathMatchExact:
			c.Match.Path, c.Exact = path, true
		case gatewayv1.PathMatchPathPrefix:
			c.Match.Path = strings.TrimRight(path, "/")
		default:
			return c, fmt.Errorf("paths are matched exactly or by their beginning, not by %s", kind)
		}
	}
	if m.Method != nil {
		c.Methods = []string{string(*m.Method)}
	}
	for _, h := range m.Headers {
		if kind := either(h.Type, gatewayv1.HeaderMatchExact); kind != gatewayv1.HeaderMatchExact {
			return c, fmt.Errorf("headers are matched exactly, not by %s", kind)
		}
		c.Match.Headers = append(c.Match.Headers, steer.HeaderMatch{Name: string(h.Name), Value: h.Value})
	}
	for _, q := range m.QueryParams {
		if kind := either(q.Type, gatewayv1.QueryParamMatchExact); kind != gatewayv1.QueryParamMatchExact {
			return c, fmt.Errorf("parameters are matched exactly, not by %s", kind)
		}
		c.Query = append(c.Query, steer.HeaderMatch{Name: string(q.Name), Value: q.Value})
	}
	return c, nil
}

func grpcCohort(m gatewayv1.GRPCRouteMatch) (c steer.Cohort, err error) {
	if call := m.Method; call != nil {
		service, method := either(call.Service, ""), either(call.Method, "")
		switch kind := either(call.Type, gatewayv1.GRPCMethodMatchExact); {
		case kind != gatewayv1.GRPCMethodMatchExact:
			return c, fmt.Errorf("calls are matched exactly, not by %s", kind)
		case service == "":
			return c, errors.New("a method without its service is nothing that doors match")
		case method == "":
			c.Match.Path = "/" + service
		default:
			c.Match.Path, c.Exact = "/"+service+"/"+method, true
		}
	}
	for _, h := range m.Headers {
		if kind := either(h.Type, gatewayv1.GRPCHeaderMatchExact); kind != gatewayv1.GRPCHeaderMatchExact {
			return c, fmt.Errorf("headers are matched exactly, not by %s", kind)
		}
		c.Match.Headers = append(c.Match.Headers, steer.HeaderMatch{Name: string(h.Name), Value: h.Value})
	}
	return c, nil
}

// hosted are a cohort for each host name.
func hosted(c steer.Cohort, names []gatewayv1.Hostname) (all []Ask, err error) {
	if len(names) == 0 {
		return []Ask{{Cohort: c}}, nil
	}
	for _, n := range names {
		if strings.HasPrefix(string(n), "*") {
			return nil, fmt.Errorf("hosts are matched by their whole names, not by %s", n)
		}
		all = append(all, Ask{Cohort: c, Host: string(n)})
	}
	return all, nil
}

// filter takes a filter into a rule.
func (w *World) filter(rule *Rule, namespace string, f filter) error {
	switch {
	case f.kind == gatewayv1.HTTPRouteFilterRequestHeaderModifier && f.header != nil:
		rule.Modify = Modify{Set: f.header.Set, Add: f.header.Add, Remove: f.header.Remove}
	case f.kind == gatewayv1.HTTPRouteFilterRequestMirror && f.mirror != nil:
		b, err := w.backend(namespace, gatewayv1.BackendRef{BackendObjectReference: f.mirror.BackendRef})
		if err != nil {
			return nil // it gets no copies, and nobody misses an answer
		}
		share := steer.All
		if f.mirror.Percent != nil {
			share = steer.All / 100 * steer.Weight(*f.mirror.Percent)
		}
		if of := f.mirror.Fraction; of != nil {
			share = steer.Weight(int64(steer.All) * int64(of.Numerator) / int64(either(of.Denominator, 100)))
		}
		if share > 0 {
			rule.Mirrors = append(rule.Mirrors, Mirror{Backend: b, Share: share})
		}
	default:
		return fmt.Errorf("the filter %s is nothing that doors do", f.kind)
	}
	return nil
}

// backend finds what a reference leads to. One that leads nowhere keeps its weight.
func (w *World) backend(namespace string, ref gatewayv1.BackendRef) (Backend, error) {
	b := Backend{Weight: either(ref.Weight, 1)}
	group, kind := either(ref.Group, ""), either(ref.Kind, "Service")
	at := string(either(ref.Namespace, gatewayv1.Namespace(namespace)))
	switch {
	case group != "" || kind != "Service":
		return b, &missing{fmt.Sprintf("backend %s is a %s, and only Services are backends here", ref.Name, kind), string(gatewayv1.RouteReasonInvalidKind)}
	case at != namespace:
		return b, &missing{fmt.Sprintf("backend %s is in namespace %s, and grants are not read", ref.Name, at), string(gatewayv1.RouteReasonRefNotPermitted)}
	}
	for i := range w.Services {
		s := &w.Services[i]
		if s.Namespace != at || s.Name != string(ref.Name) {
			continue
		}
		for _, p := range s.Spec.Ports {
			if ref.Port != nil && p.Port == int32(*ref.Port) {
				b.Name = fmt.Sprintf("%s/%s:%d", at, s.Name, p.Port)
				b.Addresses = w.addresses(s, p)
				return b, nil
			}
		}
	}
	return b, &missing{fmt.Sprintf("backend %s, port %d, is not there", ref.Name, either(ref.Port, 0)), string(gatewayv1.RouteReasonBackendNotFound)}
}

// addresses are those of the ready pods behind a port of a Service.
func (w *World) addresses(s *corev1.Service, port corev1.ServicePort) (all []netip.AddrPort) {
	for _, e := range w.Endpoints {
		if e.Namespace != s.Namespace || e.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		for _, p := range e.Ports {
			if either(p.Name, "") != port.Name || p.Port == nil {
				continue
			}
			for _, one := range e.Endpoints {
				if !either(one.Conditions.Ready, true) {
					continue
				}
				for _, text := range one.Addresses {
					if a, err := netip.ParseAddr(text); err == nil {
						all = append(all, netip.AddrPortFrom(a, uint16(*p.Port)))
					}
				}
			}
		}
	}
	return all
}
