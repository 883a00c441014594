package doors

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// Said is what becomes of a World: listeners with their rules, and what their owners
// are told.
type Said struct {
	Listeners []Listener
	why       map[string]string   // by listener, or Gateway, that is not served
	attached  map[string]int32    // by listener
	parents   map[string][]parent // by route
}

// Listener is a port that is to be served.
type Listener struct {
	Of    string // namespace/name/listener
	Port  int32
	Rules []Rule
}

// parent is what a route is told about one of the Gateways that it names.
type parent struct {
	ref            gatewayv1.ParentReference
	refused, lost  string // "" for nothing
	refusedBecause gatewayv1.RouteConditionReason
	lostBecause    string
}

// fail takes note that a listener could not be served.
func (s *Said) fail(l *Listener, err error) { s.why[l.Of] = err.Error() }

// route is what HTTPRoutes and GRPCRoutes have in common.
type route struct {
	id    string
	at    *metav1.ObjectMeta
	refs  []gatewayv1.ParentReference
	rules []Rule
	lost  error
	err   error
}

func routeOf(kind string, at *metav1.ObjectMeta) string {
	return kind + "/" + at.Namespace + "/" + at.Name
}

// routes reads all routes.
func (w *World) routes() (all []route) {
	for i := range w.HTTPRoutes {
		r := &w.HTTPRoutes[i]
		one := route{id: routeOf("http", &r.ObjectMeta), at: &r.ObjectMeta, refs: r.Spec.ParentRefs}
		one.err = w.httpRules(&one, r)
		all = append(all, one)
	}
	for i := range w.GRPCRoutes {
		r := &w.GRPCRoutes[i]
		one := route{id: routeOf("grpc", &r.ObjectMeta), at: &r.ObjectMeta, refs: r.Spec.ParentRefs}
		one.err = w.grpcRules(&one, r)
		all = append(all, one)
	}
	slices.SortStableFunc(all, func(a, b route) int { return orderOf(a.at, 0).compare(orderOf(b.at, 0)) })
	return all
}

// Assign gives routes to listeners. What of a Gateway is nothing for doors is not
// served, and said.
func (w *World) Assign() *Said {
	s := &Said{why: map[string]string{}, attached: map[string]int32{}, parents: map[string][]parent{}}
	taken := map[int32]string{}
	routes := w.routes()
	for i := range w.Gateways {
		g := &w.Gateways[i]
		if !w.ours(g) {
			continue
		}
		for _, l := range g.Spec.Listeners {
			one := Listener{Of: g.Namespace + "/" + g.Name + "/" + string(l.Name), Port: int32(l.Port)}
			switch from := fromOf(l); {
			case l.Protocol != gatewayv1.HTTPProtocolType:
				s.why[one.Of] = fmt.Sprintf("protocol %s is nothing that doors speak", l.Protocol)
			case l.Hostname != nil:
				s.why[one.Of] = "host names of listeners are not obeyed"
			case from != gatewayv1.NamespacesFromAll && from != gatewayv1.NamespacesFromSame:
				s.why[one.Of] = fmt.Sprintf("routes are taken from all namespaces or from the same, not from %s", from)
			case taken[one.Port] != "":
				s.why[one.Of] = fmt.Sprintf("port %d is that of %s, and there is one address for all", one.Port, taken[one.Port])
			default:
				taken[one.Port] = one.Of
				s.attach(&one, g, l, routes)
				s.Listeners = append(s.Listeners, one)
			}
		}
	}
	return s
}

func fromOf(l gatewayv1.Listener) gatewayv1.FromNamespaces {
	if l.AllowedRoutes == nil || l.AllowedRoutes.Namespaces == nil {
		return gatewayv1.NamespacesFromSame
	}
	return either(l.AllowedRoutes.Namespaces.From, gatewayv1.NamespacesFromSame)
}

// attach gives a listener the routes that name it.
func (s *Said) attach(to *Listener, g *gatewayv1.Gateway, l gatewayv1.Listener, routes []route) {
	for i := range routes {
		r := &routes[i]
		for _, ref := range r.refs {
			if !names(ref, r.at.Namespace, g, l) {
				continue
			}
			p := parent{ref: ref}
			var gone *missing
			switch {
			case fromOf(l) == gatewayv1.NamespacesFromSame && r.at.Namespace != g.Namespace:
				p.refused, p.refusedBecause = "it is in another namespace", gatewayv1.RouteReasonNotAllowedByListeners
			case r.err != nil:
				p.refused, p.refusedBecause = r.err.Error(), gatewayv1.RouteReasonUnsupportedValue
			case len(to.Rules)+len(r.rules) > maxRules:
				p.refused, p.refusedBecause = fmt.Sprintf("the listener would have more than %d rules", maxRules), gatewayv1.RouteReasonUnsupportedValue
			default:
				to.Rules = append(to.Rules, r.rules...)
				s.attached[to.Of]++
			}
			if errors.As(r.lost, &gone) {
				p.lost, p.lostBecause = r.lost.Error(), gone.reason
			}
			s.parents[r.id] = append(s.parents[r.id], p)
		}
	}
}

// names says whether a reference is to a listener of a Gateway.
func names(ref gatewayv1.ParentReference, namespace string, g *gatewayv1.Gateway, l gatewayv1.Listener) bool {
	return either(ref.Group, gatewayv1.GroupName) == gatewayv1.GroupName && either(ref.Kind, "Gateway") == "Gateway" &&
		string(ref.Name) == g.Name && string(either(ref.Namespace, gatewayv1.Namespace(namespace))) == g.Namespace &&
		either(ref.SectionName, l.Name) == l.Name && either(ref.Port, l.Port) == l.Port
}

// setClass writes the status of a class. It returns whether that has changed, as all
// of these do.
func setClass(c *gatewayv1.GatewayClass) bool {
	before := c.Status.DeepCopy()
	set(&c.Status.Conditions, c.Generation, string(gatewayv1.GatewayClassConditionStatusAccepted), "", string(gatewayv1.GatewayClassReasonAccepted), "")
	c.Status.SupportedFeatures = nil
	for _, f := range can() {
		c.Status.SupportedFeatures = append(c.Status.SupportedFeatures, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(f)})
	}
	return !equality.Semantic.DeepEqual(before, &c.Status)
}

// can is what doors can do besides what each implementation can, by its names and in their order. Those of whole kinds
// are not among it: there are filters and matches that doors have not.
func can() []features.FeatureName {
	return []features.FeatureName{
		features.SupportHTTPRouteMethodMatching, features.SupportHTTPRouteQueryParamMatching, features.SupportHTTPRouteRequestMirror,
		features.SupportHTTPRouteRequestMultipleMirrors, features.SupportHTTPRouteRequestPercentageMirror,
	}
}

func (s *Said) setGateway(g *gatewayv1.Gateway, at netip.Addr) bool {
	before := g.Status.DeepCopy()
	var listeners []gatewayv1.ListenerStatus
	bad := ""
	for _, l := range g.Spec.Listeners {
		of := g.Namespace + "/" + g.Name + "/" + string(l.Name)
		one := gatewayv1.ListenerStatus{Name: l.Name, AttachedRoutes: s.attached[of], SupportedKinds: kinds()}
		if i := slices.IndexFunc(g.Status.Listeners, func(b gatewayv1.ListenerStatus) bool { return b.Name == l.Name }); i >= 0 {
			one.Conditions = g.Status.Listeners[i].DeepCopy().Conditions
		}
		why := s.why[of]
		if why != "" {
			bad = why
		}
		set(&one.Conditions, g.Generation, string(gatewayv1.ListenerConditionAccepted), why, string(gatewayv1.ListenerReasonAccepted), string(gatewayv1.ListenerReasonUnsupportedProtocol))
		set(&one.Conditions, g.Generation, string(gatewayv1.ListenerConditionProgrammed), why, string(gatewayv1.ListenerReasonProgrammed), string(gatewayv1.ListenerReasonInvalid))
		set(&one.Conditions, g.Generation, string(gatewayv1.ListenerConditionResolvedRefs), "", string(gatewayv1.ListenerReasonResolvedRefs), "")
		listeners = append(listeners, one)
	}
	g.Status.Listeners = listeners
	g.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Type: new(gatewayv1.IPAddressType), Value: at.String()}}
	set(&g.Status.Conditions, g.Generation, string(gatewayv1.GatewayConditionAccepted), bad, string(gatewayv1.GatewayReasonAccepted), string(gatewayv1.GatewayReasonListenersNotValid))
	set(&g.Status.Conditions, g.Generation, string(gatewayv1.GatewayConditionProgrammed), bad, string(gatewayv1.GatewayReasonProgrammed), string(gatewayv1.GatewayReasonInvalid))
	return !equality.Semantic.DeepEqual(before, &g.Status)
}

func kinds() []gatewayv1.RouteGroupKind {
	group := gatewayv1.Group(gatewayv1.GroupName)
	return []gatewayv1.RouteGroupKind{{Group: &group, Kind: "HTTPRoute"}, {Group: &group, Kind: "GRPCRoute"}}
}

// setRoute writes what a route is told of the Gateways of this controller, and leaves
// what others have written.
func (s *Said) setRoute(status *gatewayv1.RouteStatus, generation int64, id string) bool {
	before := status.DeepCopy()
	parents := slices.DeleteFunc(slices.Clone(status.Parents), func(p gatewayv1.RouteParentStatus) bool { return p.ControllerName == Name })
	for _, p := range s.parents[id] {
		one := gatewayv1.RouteParentStatus{ParentRef: p.ref, ControllerName: Name}
		if i := slices.IndexFunc(before.Parents, func(b gatewayv1.RouteParentStatus) bool {
			return b.ControllerName == Name && equality.Semantic.DeepEqual(b.ParentRef, p.ref)
		}); i >= 0 {
			one.Conditions = before.Parents[i].DeepCopy().Conditions
		}
		set(&one.Conditions, generation, string(gatewayv1.RouteConditionAccepted), p.refused, string(gatewayv1.RouteReasonAccepted), string(p.refusedBecause))
		set(&one.Conditions, generation, string(gatewayv1.RouteConditionResolvedRefs), p.lost, string(gatewayv1.RouteReasonResolvedRefs), p.lostBecause)
		parents = append(parents, one)
	}
	status.Parents = parents
	return !equality.Semantic.DeepEqual(before, status)
}

// set writes a condition: true where nothing speaks against it.
func set(all *[]metav1.Condition, generation int64, kind, why, good, bad string) {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: good, ObservedGeneration: generation}
	if why != "" {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, bad, why
	}
	meta.SetStatusCondition(all, c)
}
