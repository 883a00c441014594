// Package propagate gives the requests that a command sends on the header of the
// intercepted request that caused them, so that a session's requests stay its own
// beyond the service under work.
//
// The main type is [Propagator]. [Propagator.Serving] watches a connection by which
// intercepted requests reach the command, [Propagator.Calling] adds the header on a
// connection that the command has opened. What cannot be read in one way only, TLS
// among it, passes as it is, and so does all that follows it. The reading of HTTP/1
// and HTTP/2 is pure code that is told bytes; no byte waits for others unless nobody
// could make use of it yet. The package starts no goroutines, and all its exported
// methods are safe for concurrent use.
package propagate

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/bridge/splice"
	"github.com/bightdev/bight/internal/steer"
)

// Key is the header that marks a session's requests.
type Key struct {
	Name  string // in lower case
	Value string // "" for that of the request which came
}

// String tells a person what is added.
func (k Key) String() string {
	if k.Value == "" {
		return k.Name
	}
	return k.Name + "=" + k.Value
}

// private are headers about a message itself or about who may do what: none of them
// belongs into another request.
var private = []string{
	"host", "connection", "keep-alive", "upgrade", "te", "trailer", "transfer-encoding", "expect",
	"authorization", "cookie", "traceparent", "b3", "x-b3-traceid",
}

// KeyOf returns the key of a rule: the first header that it wants exactly, or else
// the first of which it wants the beginning. A rule without a header has none, nor
// has one whose headers must not be in another request.
func KeyOf(m steer.Match) (k Key, ok bool) {
	for _, h := range m.Headers {
		name := strings.ToLower(h.Name)
		if slices.Contains(private, name) || strings.HasPrefix(name, "content-") || strings.HasPrefix(name, "proxy-") {
			continue
		}
		if !h.Prefix {
			return Key{name, h.Value}, true
		}
		if !ok {
			k, ok = Key{Name: name}, true
		}
	}
	return k, ok
}

// Propagator adds a key to the requests that intercepted ones cause. Its fields are
// set before it is used.
type Propagator struct {
	Key Key
	// Inside says whether an address is one of the cluster's. Requests to others are
	// left alone.
	Inside func(netip.AddrPort) bool

	causes causes
}

// Serving returns nc, a connection to the command, such that the requests written to
// it count as under way until they are answered. No byte is changed.
func (p *Propagator) Serving(nc net.Conn, kind steer.Kind) net.Conn {
	if kind == steer.KindRaw {
		return nc
	}
	s := &serving{End: splice.End{Conn: nc}, p: p, under: map[uint32]*cause{}}
	s.requests.seen = s.begin
	s.requests.given = s.finish
	s.answers.ended = s.finish
	s.answers.frames = kind == steer.KindHTTP2 // a server may speak first
	return s
}

// Calling returns nc, a connection from the command to an address, such that the key
// is added to the requests written to it.
func (p *Propagator) Calling(nc net.Conn, to netip.AddrPort) net.Conn {
	if !p.Inside(to) {
		return nc
	}
	c := &calling{End: splice.End{Conn: nc}}
	c.requests.seen = p.decide
	c.requests.given = func(uint32) {}
	return c
}

// decide says what is added to a request of the command.
func (p *Propagator) decide(r request) (add *field) {
	if _, has := r.value(p.Key.Name); has {
		return nil
	}
	value, ok := p.causes.of(Traces(r.value), time.Now())
	if !ok {
		return nil
	}
	return &field{p.Key.Name, value}
}
