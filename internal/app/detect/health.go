package detect

import (
	pathpkg "path"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
)

// healthPaths are the last parts of the paths that tell whether a service can
// serve, the most telling first.
var healthPaths = []string{
	"readyz", "ready", "-/ready", "readiness", "health/ready", "healthz", "_healthz", "health", "_health", "-/healthy", "healthcheck", "health-check",
	"livez", "live", "liveness", "health/live", "alive", "ping", "_ah/health", "heartbeat",
}

// registrars are the methods that register a handler for a path.
var registrars = map[string]bool{
	"Handle": true, "HandleFunc": true, "Handler": true, "HandlerFunc": true, "Get": true, "GET": true, "Any": true,
	"All": true, "Path": true, "Add": true, "Method": true, "MethodFunc": true, "Match": true, "Head": true, "HEAD": true,
}

// health decides how to ask the service whether it can serve.
func (b *builder) health() {
	main := b.svc.Port()
	if main == nil || b.facts[0].loopback {
		return // the kubelet could not ask
	}
	if path, site, ok := b.healthRoute(); ok {
		if port := b.portOfRoute(site); port != nil {
			b.svc.Health = &app.Health{
				Kind: app.HealthHTTP, Port: port.Number, Path: path, From: b.from(site.Pos(), app.Likely, "the code serves %s", path),
			}
			if main.Protocol == app.HTTP || !b.grpcHealth(main) {
				return
			}
		}
	}
	if b.grpcHealth(main) {
		return
	}
	if b.svc.Health == nil {
		h := &app.Health{Kind: app.HealthTCP, Port: main.Number, From: main.From}
		h.From.Why, h.From.Confidence = "no health route was found: a connection will do", app.Likely
		if main.Protocol != app.UDP {
			b.svc.Health = h
		}
	}
}

// grpcHealth uses the gRPC health service when the program registers it.
func (b *builder) grpcHealth(main *app.Port) bool {
	port := main
	for i := range b.svc.Ports {
		if port.Protocol != app.GRPC && b.svc.Ports[i].Protocol == app.GRPC {
			port = &b.svc.Ports[i]
		}
	}
	if port.Protocol != app.GRPC {
		return false
	}
	for _, s := range b.p.Sites {
		if c := b.p.Callee(s); c.Name == "RegisterHealthServer" {
			b.svc.Health = &app.Health{
				Kind: app.HealthGRPC, Port: port.Number, From: b.from(s.Pos(), app.Certain, "the code registers the gRPC health service"),
			}
			return true
		}
	}
	return false
}

// healthRoute finds the best path among the routes that the program registers.
func (b *builder) healthRoute() (path string, site *flow.Site, ok bool) {
	best := len(healthPaths) * 4
	for _, s := range b.p.Sites {
		c := b.p.Callee(s)
		if c.Local || !registrars[c.Name] || len(s.Call.Args) == 0 {
			continue
		}
		prefix, known := "", false
		for i, e := range s.Call.Args {
			if i > 1 {
				break
			}
			for _, cs := range b.p.Expand(e, s) {
				for _, a := range cs.Value.Consts() {
					p, rank, isHealth := healthRank(a.Text)
					if !isHealth || rank >= best || !b.answersGet(s) {
						continue
					}
					if !known {
						if prefix, known = b.p.RoutePrefix(s); !known {
							continue
						}
					}
					if prefix != "" {
						rank++
					}
					if rank < best {
						path, site, ok, best = pathpkg.Clean(prefix+p), s, true, rank
					}
				}
			}
		}
	}
	return path, site, ok
}

func healthRank(pattern string) (path string, rank int, ok bool) {
	if method, rest, found := strings.Cut(pattern, " "); found {
		if method != "GET" && method != "HEAD" {
			return "", 0, false
		}
		pattern = strings.TrimSpace(rest)
	}
	pattern = strings.TrimSuffix(pattern, "{$}")
	if !strings.HasPrefix(pattern, "/") || strings.ContainsAny(pattern, "{}*:") {
		return "", 0, false
	}
	tail := strings.Trim(pattern, "/")
	for i, h := range healthPaths {
		if tail == h {
			return pattern, i * 3, true
		}
		if strings.HasSuffix(tail, "/"+h) && strings.Count(tail, "/") <= 3 {
			return pattern, i*3 + 2, true
		}
	}
	return "", 0, false
}

// answersGet reports whether a route is not limited to other methods.
func (b *builder) answersGet(s *flow.Site) bool {
	m := b.p.Chained(s, "Methods")
	if m == nil {
		return true
	}
	for _, e := range m.Call.Args {
		for _, cs := range b.p.Expand(e, m) {
			for _, a := range cs.Value.Consts() {
				if a.Text == "GET" {
					return true
				}
			}
		}
	}
	return false
}

// portOfRoute is the port that a route is served on: the one that the same
// function listens on, or the main HTTP port.
func (b *builder) portOfRoute(s *flow.Site) *app.Port {
	var here []*app.Port
	for i, f := range b.facts {
		same := f.site != nil && f.site.SameFunc(s) || f.literal != nil && s.Within(f.literal)
		if same && b.svc.Ports[i].Protocol == app.HTTP {
			here = append(here, &b.svc.Ports[i])
		}
	}
	if len(here) == 1 {
		return here[0]
	}
	for i := range b.svc.Ports {
		if b.svc.Ports[i].Protocol == app.HTTP {
			return &b.svc.Ports[i]
		}
	}
	return nil
}
