package nodeagent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/intercept/podports"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/steer"
)

// hashLabel tells which ReplicaSet a pod is of.
const hashLabel = "pod-template-hash"

// routing is what one release wants of doors now.
type routing struct {
	release *v1alpha1.Release
	route   *v1alpha1.Routing // that is in effect
	slow    []time.Duration
	tail    time.Duration // from when on a request is slow; 0 if that is not known
}

// share is what a release wants in one pod. It is never changed.
type share struct {
	of         subject
	generation int64
	local      string         // the pod's version
	splits     []*steer.Split // one for each port that can be read
	problem    string         // why there are none
	counts     bool           // its outcomes are evidence though it is the canary's
}

// shares adds to all what releases want in which pods. A pod has one release: the
// newest that it is of.
func shares(all map[types.UID]*wanted, routings []routing, pods map[types.UID]*core.Pod) {
	routings = slices.Clone(routings)
	slices.SortFunc(routings, func(a, b routing) int { return -spec.Compare(a.release, b.release) })
	for _, r := range routings {
		var stable, canary *share // the same for every pod
		for uid, pod := range pods {
			w := all[uid]
			if w != nil && w.share != nil {
				continue
			}
			var s **share
			switch versionOf(pod, r) {
			case v1alpha1.Stable:
				s = &stable
			case v1alpha1.Canary:
				s = &canary
			default:
				continue
			}
			if *s == nil {
				*s = r.share(s == &stable)
			}
			of := *s
			if s == &stable && pod.DeletionTimestamp != nil {
				of = r.retired().share(true)
			}
			if w == nil {
				w = newWanted(pod)
				all[uid] = w
			}
			w.split(of, r.route.Ports)
		}
	}
}

// retired has clients leave a pod that is about to end.
func (r routing) retired() routing {
	r.route = r.route.DeepCopy()
	r.route.Retire = true
	return r
}

// standing adds to all the doors of pods that have them though no release is under way:
// what is shared one day comes on connections of today. Every request is the pod's own.
// One that ends is left to its app, which knows best how.
func standing(all map[types.UID]*wanted, pods map[types.UID]*core.Pod) {
	for uid, pod := range pods {
		w := all[uid]
		if pod.Annotations[v1alpha1.DoorsAnnotation] != "true" || pod.DeletionTimestamp != nil || pod.Status.Phase != core.PodRunning || w != nil && w.share != nil {
			continue
		}
		if w == nil {
			w = newWanted(pod)
			all[uid] = w
		}
		s := &share{local: v1alpha1.Stable, generation: 1}
		for _, p := range w.ports {
			if p.Protocol != steer.TCP {
				s.splits = append(s.splits, &steer.Split{
					Generation: 1, Of: idle, Service: pod.Name, Port: p.Number,
					Stable: v1alpha1.Stable, Versions: []steer.Version{{Name: v1alpha1.Stable, Weight: steer.All}},
				})
			}
		}
		w.share = s
	}
}

// versionOf names the version that a pod is of, "" if it is none of the release's.
func versionOf(pod *core.Pod, r routing) string {
	if pod.Namespace != r.release.Namespace || pod.Status.Phase != core.PodRunning || len(r.route.Selector) == 0 {
		return ""
	}
	for k, v := range r.route.Selector {
		if pod.Labels[k] != v {
			return ""
		}
	}
	switch hash := pod.Labels[hashLabel]; {
	case hash == "":
	case hash == r.route.Stable:
		return v1alpha1.Stable
	case hash == r.route.Canary:
		return v1alpha1.Canary
	}
	return ""
}

// split makes ports ones that can be steered, and shares their requests.
func (w *wanted) split(s *share, ports []v1alpha1.RoutingPort) {
	w.share = s
	for _, p := range ports {
		number := int(p.Stable)
		if s.local == v1alpha1.Canary {
			number = int(p.Canary)
		}
		for _, q := range podports.Of(w.pod, number) {
			if port := w.port(q); q.Number == number && port.Protocol == "" {
				port.Protocol = steer.Protocol(p.Protocol)
			}
		}
	}
}

// share is what is wanted in the pods of stable, or in those of the canary.
func (r routing) share(stable bool) *share {
	s := &share{of: releaseSubject(r.release), generation: r.route.Generation, local: v1alpha1.Canary, counts: r.route.ByRoutes}
	splitOf := r.whole
	switch {
	case r.route.ByRoutes && stable:
		s.local, splitOf = v1alpha1.Stable, func(p v1alpha1.RoutingPort) (*steer.Split, error) { return r.counted(p, v1alpha1.Stable), nil }
	case r.route.ByRoutes && r.route.Shut && len(r.route.Before) > 0:
		splitOf = r.returned
	case r.route.ByRoutes:
		splitOf = func(p v1alpha1.RoutingPort) (*steer.Split, error) { return r.counted(p, v1alpha1.Canary), nil }
	case stable:
		s.local, splitOf = v1alpha1.Stable, r.split
	}
	for _, p := range r.route.Ports {
		if steer.Protocol(p.Protocol) == steer.TCP {
			continue // which stays with the pod that it came to
		}
		split, err := splitOf(p)
		if err == nil {
			err = split.Check()
		}
		if err != nil {
			s.splits, s.problem = nil, err.Error()
			return s
		}
		s.splits = append(s.splits, split)
	}
	return s
}

// whole gives a pod of the canary all requests that come to it: its door takes off
// what other doors have added.
func (r routing) whole(p v1alpha1.RoutingPort) (*steer.Split, error) {
	return &steer.Split{
		Generation: r.route.Generation, Of: string(r.release.UID), Service: r.release.Spec.Service, Port: int(p.Canary),
		Stable: v1alpha1.Canary, Versions: []steer.Version{{Name: v1alpha1.Canary, Weight: steer.All}},
	}, nil
}

// counted gives a pod all requests that gateways have sent there, and has them told of. Of
// those that a route of the release has chosen, that is seen.
func (r routing) counted(p v1alpha1.RoutingPort, version string) *steer.Split {
	port := p.Stable
	if version == v1alpha1.Canary {
		port = p.Canary
	}
	s := &steer.Split{
		Generation: r.route.Generation, Of: string(r.release.UID), Service: r.release.Spec.Service, Port: int(port), Slow: r.slow,
		Record: recording(r.release, r.tail), Stable: version, Versions: []steer.Version{{Name: version, Weight: steer.All}},
		Retire: r.route.Retire && version == v1alpha1.Stable,
	}
	for _, c := range r.route.Routes {
		if c.To == version && gateway.Sayable(v1alpha1.HTTPRoute, []v1alpha1.ReleaseRoute{c}, nil) == nil { // no gateway has another
			s.Cohorts = append(s.Cohorts, cohort(c))
		}
	}
	return s
}

// returned gives what still comes to a pod of the canary, whose version is shut, to the pods
// of stable: so nobody has to wait for a gateway.
func (r routing) returned(p v1alpha1.RoutingPort) (*steer.Split, error) {
	stable := steer.Version{Name: v1alpha1.Stable, Weight: steer.All}
	var err error
	if stable.Addresses, err = peers(r.route.Before, p.Stable); err != nil {
		return nil, fmt.Errorf("status.route.before of Release %s: %w", r.release.Name, err)
	}
	return &steer.Split{
		Generation: r.route.Generation, Of: string(r.release.UID), Service: r.release.Spec.Service, Port: int(p.Canary), Slow: r.slow,
		Stable: v1alpha1.Stable, Versions: []steer.Version{stable, {Name: v1alpha1.Canary, Shut: true}}, Retire: true,
	}, nil
}

// peers are pods, by their IPs.
func peers(ips []string, port int32) (all []netip.AddrPort, err error) {
	for _, text := range slices.Compact(slices.Sorted(slices.Values(ips))) {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		all = append(all, netip.AddrPortFrom(a, uint16(port)))
	}
	return all, nil
}

// split shares the requests for a port of stable.
func (r routing) split(p v1alpha1.RoutingPort) (*steer.Split, error) {
	route := r.route
	canary := steer.Version{Name: v1alpha1.Canary, Weight: steer.Weight(route.Weight), Shut: route.Shut}
	if route.Shut {
		canary.Weight = 0
	} else if route.Held > 0 {
		canary.Held = steer.Weight(max(route.Held, route.Weight))
	}
	var err error
	if canary.Addresses, err = peers(route.Addresses, p.Canary); err != nil {
		return nil, fmt.Errorf("status.route.addresses of Release %s: %w", r.release.Name, err)
	}
	s := &steer.Split{
		Generation: route.Generation, Of: string(r.release.UID), Service: r.release.Spec.Service, Port: int(p.Stable), Slow: r.slow,
		Record: recording(r.release, r.tail),
		Stable: v1alpha1.Stable, Versions: []steer.Version{{Name: v1alpha1.Stable, Weight: steer.All - canary.Weight}, canary},
	}
	for _, c := range route.Routes {
		s.Cohorts = append(s.Cohorts, cohort(c))
	}
	s.Retire = route.Retire
	if a := route.Affinity; a != nil {
		s.Affinity = &steer.Affinity{Header: a.Header, Cookie: a.Cookie, Give: a.Give}
	}
	if route.Mirror > 0 && !route.Shut {
		s.Mirror = &steer.Copies{Version: v1alpha1.Canary, Weight: steer.Weight(route.Mirror)}
	}
	return s, nil
}

// cohort are the requests that a route of a release is about.
func cohort(r v1alpha1.ReleaseRoute) steer.Cohort {
	return steer.Cohort{
		Name: r.Name, Match: steer.Match{Headers: matches(r.Headers), Path: r.Path}, Exact: r.Exact, Methods: r.Methods,
		Cookies: matches(r.Cookies), Query: matches(r.Query), Version: r.To,
	}
}

func matches(all []v1alpha1.HeaderMatch) (out []steer.HeaderMatch) {
	for _, h := range all {
		out = append(out, steer.HeaderMatch{Name: h.Name, Value: h.Value, Prefix: h.Prefix})
	}
	return out
}

// addresses are those of the canary's pods, as far as they can be read.
func addresses(route *v1alpha1.Routing) []netip.Addr {
	all := map[netip.Addr]bool{}
	for _, text := range route.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			all[a.Unmap()] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), netip.Addr.Compare)
}
