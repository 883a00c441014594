// Package rewrite makes the variables of a pod's process mean something to a program
// that does not have the cluster's network: where a value names a port of a service,
// it names a port of this machine's loopback instead.
//
// The main type is [Service]; [Apply] rewrites an environment. It is pure but for the
// function that opens loopback ports, and safe for concurrent use.
package rewrite

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/reach"
)

// Service is a Kubernetes Service as values name it.
type Service struct {
	Hosts []string // names and addresses; the first is the one to dial
	Ports []int    // TCP
}

// Port is a port of a service.
type Port struct {
	Host   string // the service's first
	Number int
}

// String is what the agent is asked to dial.
func (p Port) String() string { return fmt.Sprintf("%s:%d", p.Host, p.Number) }

// Open opens a loopback port that leads to a service's. exactly wants it to have the
// same number, because a program that is told a host only chooses the port itself.
type Open func(p Port, exactly bool) (netip.AddrPort, error)

// Change is a value that was replaced.
type Change struct {
	Name, From, To string
}

// Apply returns the environment with every mention of a service's port replaced by
// the loopback port that open gives for it:
//
//   - HOST:PORT anywhere in a value, and HOST after SCHEME:// of a scheme whose port is
//     known. Not https://, where the name is checked.
//   - X_HOST=HOST or X_ADDR=HOST beside X_PORT=PORT, both; beside X_SERVICE_HOST also
//     X_SERVICE_PORT_NAME=PORT, as Kubernetes names each port.
//   - X_HOST=HOST alone, when the service has one port.
//
// What could not be opened stays as it was, and is told by why.
func Apply(env []reach.Variable, services []Service, open Open) (out []reach.Variable, changes []Change, why []error) {
	r := &rewriter{byHost: map[string]*Service{}, open: open}
	for i := range services {
		for _, h := range services[i].Hosts {
			r.byHost[strings.ToLower(h)] = &services[i]
		}
	}
	out = slices.Clone(env)
	paired := map[int]bool{}
	for i, v := range out {
		if j := slices.IndexFunc(out, func(o reach.Variable) bool { return o.Name == portOf(v.Name) }); j >= 0 && r.pair(&out[i], &out[j]) {
			paired[i], paired[j] = true, true
			for _, k := range named(out, v.Name) {
				paired[k] = r.number(r.byHost[strings.ToLower(v.Value)], &out[k])
			}
		}
	}
	for i := range out {
		if !paired[i] {
			out[i].Value = r.value(out[i].Value, portOf(out[i].Name) != "")
		}
	}
	for i, v := range env {
		if out[i].Value != v.Value {
			changes = append(changes, Change{v.Name, v.Value, out[i].Value})
		}
	}
	return out, changes, r.why
}

type rewriter struct {
	byHost map[string]*Service
	open   Open
	why    []error
}

// portOf is the name of the variable that has the port where name has the host, ""
// for none.
func portOf(name string) string {
	for _, end := range []string{"HOST", "HOSTNAME", "ADDR", "ADDRESS"} {
		if before, ok := strings.CutSuffix(name, end); ok {
			return before + "PORT"
		}
	}
	return ""
}

// named are the variables, by their index, that have the ports by name of a service whose
// host is in a variable of Kubernetes: X_SERVICE_PORT_NAME beside X_SERVICE_HOST. What
// ends with _PORT is that of a service X-service.
func named(env []reach.Variable, host string) []int {
	before, ok := strings.CutSuffix(host, "_SERVICE_HOST")
	if !ok {
		return nil
	}
	var all []int
	for i, v := range env {
		if strings.HasPrefix(v.Name, before+"_SERVICE_PORT_") && !strings.HasSuffix(v.Name, "_PORT") {
			all = append(all, i)
		}
	}
	return all
}

// number rewrites a variable that has the number of a service's port.
func (r *rewriter) number(s *Service, port *reach.Variable) bool {
	number, err := strconv.Atoi(port.Value)
	if err != nil || !slices.Contains(s.Ports, number) {
		return false
	}
	at, ok := r.opened(s, number, false)
	if ok {
		port.Value = strconv.Itoa(int(at.Port()))
	}
	return ok
}

// pair rewrites a host and the variable with its port.
func (r *rewriter) pair(host, port *reach.Variable) bool {
	s := r.byHost[strings.ToLower(host.Value)]
	number, err := strconv.Atoi(port.Value)
	if s == nil || err != nil || !slices.Contains(s.Ports, number) {
		return false
	}
	at, ok := r.opened(s, number, false)
	if ok {
		host.Value, port.Value = at.Addr().String(), strconv.Itoa(int(at.Port()))
	}
	return ok
}

func (r *rewriter) opened(s *Service, number int, exactly bool) (netip.AddrPort, bool) {
	at, err := r.open(Port{s.Hosts[0], number}, exactly)
	if err != nil {
		r.why = append(r.why, fmt.Errorf("port %d of %s has no port here: %w", number, s.Hosts[0], err))
		return at, false
	}
	return at, true
}

// value rewrites all mentions in a value; isHost says that it may be a host alone.
func (r *rewriter) value(text string, isHost bool) string {
	if s := r.byHost[strings.ToLower(text)]; isHost && s != nil && len(s.Ports) == 1 {
		if at, ok := r.opened(s, s.Ports[0], true); ok {
			return at.Addr().String()
		}
		return text
	}
	var out strings.Builder
	for rest := text; rest != ""; {
		host := hostAt(rest)
		if host == "" {
			out.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		mention, to := r.mention(text[:len(text)-len(rest)], host, rest[len(host):])
		if mention == 0 {
			mention, to = len(host), host
		}
		out.WriteString(to)
		rest = rest[mention:]
	}
	return out.String()
}

// hostAt is the longest name or address that text begins with.
func hostAt(text string) string {
	end := strings.IndexFunc(text, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_')
	})
	if end < 0 {
		end = len(text)
	}
	return text[:end]
}

// mention returns how much of host+after is a service's port, and what takes its place.
func (r *rewriter) mention(before, host, after string) (size int, to string) {
	s := r.byHost[strings.ToLower(strings.TrimSuffix(host, "."))]
	if s == nil {
		return 0, ""
	}
	scheme := schemeOf(before)
	if scheme == "https" || scheme == "wss" {
		return 0, ""
	}
	number, size := 0, len(host)
	if digits, ok := strings.CutPrefix(after, ":"); ok {
		end := strings.IndexFunc(digits, func(c rune) bool { return c < '0' || c > '9' })
		if end < 0 {
			end = len(digits)
		}
		number, _ = strconv.Atoi(digits[:end])
		size += 1 + end
	} else {
		number = defaultPorts()[scheme]
	}
	if !slices.Contains(s.Ports, number) {
		return 0, ""
	}
	at, ok := r.opened(s, number, false)
	if !ok {
		return 0, ""
	}
	return size, at.String()
}

// schemeOf is the scheme of a URL whose host comes next, "" for none.
func schemeOf(before string) string {
	if at := strings.LastIndexByte(before, '@'); at >= 0 && strings.Contains(before[:at], "://") {
		before = before[:strings.Index(before, "://")+len("://")] // user:password@
	}
	before, ok := strings.CutSuffix(before, "://")
	if !ok {
		return ""
	}
	start := strings.LastIndexFunc(before, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+')
	})
	return strings.ToLower(before[start+1:])
}

// defaultPorts are the ports that URLs without one mean.
func defaultPorts() map[string]int {
	return map[string]int{
		"http": 80, "ws": 80, "redis": 6379, "postgres": 5432, "postgresql": 5432, "mysql": 3306,
		"amqp": 5672, "nats": 4222, "mongodb": 27017, "memcached": 11211,
	}
}
