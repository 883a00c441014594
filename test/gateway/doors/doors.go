// Package doors makes a Gateway of doors of package steer, so that the conformance
// tests of Gateway API can judge the data plane that releases have.
//
// The main type is [Controller]: it reads the Gateways of one class and their routes,
// says truthfully in their status what it does of them, and has doors obey. It neither
// matches nor shares requests itself. [Compile] writes the routes down as splits: one
// that gives each request to a rule, by cohorts, and for each rule those that share it
// between its backends, by weights, and copy it. It is a pure function, and [Front]
// has doors obey what comes of it. A Controller does one thing at a time; the doors
// serve many requests at once.
package doors

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/bightdev/bight/internal/steer"
)

// World is what a cluster has that a Gateway is made of.
type World struct {
	Classes    []gatewayv1.GatewayClass
	Gateways   []gatewayv1.Gateway
	HTTPRoutes []gatewayv1.HTTPRoute
	GRPCRoutes []gatewayv1.GRPCRoute
	Services   []corev1.Service
	Endpoints  []discoveryv1.EndpointSlice
}

// Rule is a rule of a route, as doors obey it.
type Rule struct {
	Key      string // the same for as long as the route is there
	Asks     []Ask
	Backends []Backend
	Mirrors  []Mirror
	Modify   Modify

	route order
}

// Ask is what a rule asks of a request. One of its Asks has to be true.
type Ask struct {
	Cohort steer.Cohort // without its version
	Host   string       // "" for any
}

// Backend is what gets some of a rule's requests.
type Backend struct {
	Name      string // namespace/service:port; "" for one that is not there
	Weight    int32
	Addresses []netip.AddrPort
}

// Mirror is what gets copies of a rule's requests.
type Mirror struct {
	Backend
	Share steer.Weight
}

// Modify is how a rule changes the headers of requests.
type Modify struct {
	Set, Add []gatewayv1.HTTPHeader
	Remove   []string
}

// order is what decides between rules that ask for as much: the older route, then its
// name, then the earlier rule.
type order struct {
	created time.Time
	name    types.NamespacedName
	rule    int
}

func (o order) compare(p order) int {
	return cmp.Or(o.created.Compare(p.created), cmp.Compare(o.name.String(), p.name.String()), cmp.Compare(o.rule, p.rule))
}

// Plan is what the doors of one listener do.
type Plan struct {
	// Router gives each request to a rule: its versions are the rules, by their keys, and
	// "gateway", which says that there is none. Its addresses are filled in by Front.
	Router steer.Split
	Rules  []Stages // those that can get a request
}

// Stages are the splits that a request passes, one after the other. All but the last
// copy it and hand it on, to version "next", whose address Front fills in.
type Stages struct {
	Key    string
	Modify Modify
	Splits []steer.Split
	// Missing tells that a backend is not there, so that the gateway itself answers for it.
	Missing bool
}

const (
	itself = "gateway" // the version that answers what no backend does
	next   = "next"
	copied = "copy"
)

// anyPort stands for the app's port in splits: the gateway has none.
const anyPort = 1

// Compile writes rules down as splits. Those that can't get a request any more, because
// others come first, are left out.
func Compile(rules []Rule) Plan {
	type entry struct {
		ask  Ask
		rule *Rule
	}
	var all []entry
	for i := range rules {
		for _, a := range rules[i].Asks {
			all = append(all, entry{a, &rules[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int {
		return cmp.Or(moreSpecific(b.ask, a.ask), a.rule.route.compare(b.rule.route))
	})
	p := Plan{Router: steer.Split{Service: "router", Port: anyPort, Stable: itself}}
	rest := itself // who gets what no cohort asks for
	var used []*Rule
	for _, e := range all {
		if !slices.Contains(used, e.rule) {
			used = append(used, e.rule)
		}
		cohorts, everything := cohorts(e.ask, e.rule.Key)
		if everything {
			rest = e.rule.Key
			break
		}
		p.Router.Cohorts = append(p.Router.Cohorts, cohorts...)
	}
	share := func(version string) steer.Weight {
		if version == rest {
			return steer.All
		}
		return 0
	}
	p.Router.Versions = []steer.Version{{Name: itself, Weight: share(itself)}}
	for _, r := range used {
		p.Router.Versions = append(p.Router.Versions, steer.Version{Name: r.Key, Weight: share(r.Key)})
		p.Rules = append(p.Rules, stages(r))
	}
	return p
}

// cohorts are those that give to a version what an Ask is about. everything tells that
// it is about every request.
func cohorts(a Ask, version string) (all []steer.Cohort, everything bool) {
	c := a.Cohort
	c.Name, c.Version = version, version
	if a.Host == "" {
		m := c.Match
		if m.Everything() && !c.Exact && len(c.Methods)+len(c.Query) == 0 {
			return nil, true
		}
		return []steer.Cohort{c}, false
	}
	for _, host := range []steer.HeaderMatch{{Name: "host", Value: a.Host}, {Name: "host", Value: a.Host + ":", Prefix: true}} {
		one := c
		one.Match.Headers = append(slices.Clone(c.Match.Headers), host)
		all = append(all, one)
	}
	return all, false
}

// moreSpecific compares by what Gateway API says: whoever asks for more comes first.
func moreSpecific(a, b Ask) int {
	count := func(is bool) int {
		if is {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(len(a.Host), len(b.Host)),
		cmp.Compare(count(a.Cohort.Exact), count(b.Cohort.Exact)),
		cmp.Compare(len(a.Cohort.Match.Path), len(b.Cohort.Match.Path)),
		cmp.Compare(len(a.Cohort.Methods), len(b.Cohort.Methods)),
		cmp.Compare(len(a.Cohort.Match.Headers), len(b.Cohort.Match.Headers)),
		cmp.Compare(len(a.Cohort.Query), len(b.Cohort.Query)),
	)
}

// stages are those of one rule.
func stages(r *Rule) Stages {
	s := Stages{Key: r.Key, Modify: r.Modify}
	for _, m := range r.Mirrors {
		s.Splits = append(s.Splits, steer.Split{
			Service: r.Key, Port: anyPort, Stable: itself,
			Versions: []steer.Version{{Name: itself}, {Name: next, Weight: steer.All}, {Name: copied, Addresses: m.Addresses}},
			Mirror:   &steer.Copies{Version: copied, Weight: m.Share},
		})
	}
	last := steer.Split{Service: r.Key, Port: anyPort, Stable: itself, Versions: []steer.Version{{Name: itself}}}
	var weights []int32
	for _, b := range r.Backends {
		name := b.Name
		if name == "" {
			name, s.Missing = itself, true
		}
		i := last.Find(name)
		if i < 0 {
			i = len(last.Versions)
			last.Versions = append(last.Versions, steer.Version{Name: name, Addresses: b.Addresses})
		}
		weights = append(weights, make([]int32, len(last.Versions)-len(weights))...)
		weights[i] += b.Weight
	}
	if len(weights) == 0 {
		weights = []int32{0}
	}
	if slices.Max(weights) == 0 { // nobody gets a request
		weights[0], s.Missing = 1, true
	}
	for i, w := range Shares(weights) {
		last.Versions[i].Weight = w
	}
	s.Splits = append(s.Splits, last)
	return s
}

// Shares are weights of which one at least is over 0, as shares that come to all: each
// is rounded down, and what is left goes to those that have lost most by that.
func Shares(weights []int32) []steer.Weight {
	sum := int64(0)
	for _, w := range weights {
		sum += int64(w)
	}
	out := make([]steer.Weight, len(weights))
	left := steer.All
	var places []int
	for i, w := range weights {
		out[i] = steer.Weight(int64(w) * int64(steer.All) / sum)
		left -= out[i]
		places = append(places, i)
	}
	lost := func(i int) int64 { return int64(weights[i]) * int64(steer.All) % sum }
	slices.SortStableFunc(places, func(a, b int) int { return cmp.Compare(lost(b), lost(a)) })
	for _, i := range places[:left] {
		out[i]++
	}
	return out
}
