package forward

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// key names a port of a service.
type key struct {
	environment string
	service     string
	port        int
}

// table is one state of the routes. It is read only.
type table struct {
	routes    []Route
	upstreams map[key]*upstream
}

// action is what is done with a request.
type action int

const (
	refuse   action = iota // the host is none of ours
	unknown                // nothing here has that name
	index                  // show what there is
	redirect               // add the slash that relative links need
	forward                // pass it on
)

// decision is what a request is meant for.
type decision struct {
	action action
	route  Route
	port   Port

	environment string // index: show this one only; "" shows all
	name        string // unknown: what was asked for
	prefix      string // forward by path: what was taken off, "/cart"
	path        string // forward by path: what is left, escaped, "/items"
}

// decide says what a request for host (as in the Host header) and path (escaped)
// is meant for. grpc is whether it is a gRPC call.
func (t *table) decide(host, path string, grpc bool) decision {
	name, ok := cleanHost(host)
	if !ok {
		return decision{action: refuse}
	}
	site, named := strings.CutSuffix(name, ".localhost")
	if !named {
		return t.byPath(path, grpc)
	}
	labels := strings.Split(site, ".")
	environment := labels[len(labels)-1]
	if len(labels) == 1 {
		if slices.ContainsFunc(t.routes, func(r Route) bool { return r.Environment == environment }) {
			return decision{action: index, environment: environment}
		}
		return decision{action: unknown, name: name}
	}
	// Further labels on the left are the service's own business: an app that
	// tells its customers apart by subdomain goes on doing so.
	d := t.find(labels[len(labels)-2], grpc, func(r Route) bool { return r.Environment == environment })
	if d.action == unknown {
		d.name = name
	}
	return d
}

// byPath decides by the path's first segment.
func (t *table) byPath(path string, grpc bool) decision {
	segment, rest, slash := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if segment == "" {
		if rest == "" {
			return decision{action: index}
		}
		return decision{action: unknown, name: path}
	}
	d := t.find(strings.ToLower(segment), grpc, func(Route) bool { return true })
	switch {
	case d.action == unknown:
		d.name = segment
	case !slash:
		d.action, d.path = redirect, "/"
		d.prefix = "/" + segment
	default:
		d.path = "/" + rest
		d.prefix = "/" + segment
	}
	return d
}

// find finds the route and port that a label names: "cart" is the main port,
// "cart--metrics" another.
func (t *table) find(label string, grpc bool, in func(Route) bool) decision {
	for _, r := range t.routes {
		if r.Service != label || !in(r) {
			continue
		}
		if port, ok := r.main(grpc); ok {
			return decision{action: forward, route: r, port: port}
		}
	}
	for _, r := range t.routes {
		name, ok := strings.CutPrefix(label, r.Service+"--")
		if !ok || !in(r) {
			continue
		}
		for _, port := range r.Ports {
			if port.Name == name && (port.Protocol == app.HTTP || port.Protocol == app.GRPC) {
				return decision{action: forward, route: r, port: port}
			}
		}
	}
	return decision{action: unknown}
}

// main returns the port that the service's own name means: the first HTTP port,
// or, for a gRPC call or without one, the first gRPC port.
func (r Route) main(grpc bool) (Port, bool) {
	first, second := app.HTTP, app.GRPC
	if grpc {
		first, second = second, first
	}
	for _, protocol := range []string{first, second} {
		for _, p := range r.Ports {
			if p.Protocol == protocol {
				return p, true
			}
		}
	}
	return Port{}, false
}

// cleanHost returns a Host header's name in lower case, without its port, and
// whether it is one that only this machine can mean. A page from elsewhere whose
// name was made to resolve to 127.0.0.1 sends its own name, and gets nothing.
func cleanHost(host string) (string, bool) {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		name = host[1 : len(host)-1]
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	switch {
	case name == "localhost", name == "127.0.0.1", name == "::1":
		return name, true
	case strings.HasSuffix(name, ".localhost"):
		return name, !strings.HasPrefix(name, ".") && !strings.Contains(name, "..")
	}
	return name, false
}

// label returns the host name's first label for a port of a route.
func label(r Route, p Port, main bool) string {
	if main {
		return r.Service
	}
	return r.Service + "--" + p.Name
}

func siteURL(r Route, p Port, main bool, local int) string {
	host := label(r, p, main) + "." + r.Environment + ".localhost"
	if local == 80 {
		return "http://" + host
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(local))
}

// nearest returns the candidate that was probably meant by name, or "".
func nearest(name string, candidates []string) string {
	best, bestAt := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		if d := distance(name, c); d < bestAt {
			best, bestAt = c, d
		}
	}
	return best
}

// distance is the number of letters to change, add, leave out or swap.
func distance(a, b string) int {
	var older []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], older[j-1]+1)
			}
		}
		older, row = row, next
	}
	return row[len(b)]
}
