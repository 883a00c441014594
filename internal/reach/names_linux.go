package reach

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// dialFrom connects from another network than this process's, to a name as a process
// there resolves it.
func (v *Server) dialFrom(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(v.DialTimeout, 30*time.Second))
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := v.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var first error
	for _, a := range addrs {
		conn, err := v.Network.Dial(ctx, network, netip.AddrPortFrom(a, uint16(n)))
		if err == nil {
			return conn, nil
		}
		if first = cmp.Or(first, err); ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// lookup finds the addresses of a host with the files and the nameservers that the
// process has: at least one, those of IPv4 first.
func (v *Server) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	p, err := v.process(ctx)
	if err != nil {
		return nil, err
	}
	hosts, _ := content(p, "/etc/hosts") // there need not be one
	if addrs := hostsOf(hosts, host); len(addrs) > 0 {
		return addrs, nil
	}
	f := v.forwarder(ctx)
	defer f.close()
	conf, _, err := f.settings()
	if err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, IsTemporary: true}
	}
	var failed error
	for _, name := range conf.candidates(host) {
		addrs, err := f.addresses(ctx, name)
		if len(addrs) > 0 {
			return addrs, nil
		}
		failed = cmp.Or(failed, err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if failed != nil {
		return nil, &net.DNSError{Err: failed.Error(), Name: host, IsTemporary: true}
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// hostsOf returns what a hosts(5) file says of a name.
func hostsOf(text, name string) []netip.Addr {
	var all []netip.Addr
	name = strings.TrimSuffix(name, ".")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, n := range f[1:] {
			if strings.EqualFold(strings.TrimSuffix(n, "."), name) {
				all = append(all, a)
				break
			}
		}
	}
	if len(all) == 0 && strings.EqualFold(name, "localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return all
}

// candidates are the names that a name may stand for, in the order to try them.
func (c resolvConf) candidates(host string) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	var all []string
	for _, domain := range c.search {
		all = append(all, host+"."+strings.Trim(domain, ".")+".")
	}
	if strings.Count(host, ".") >= c.ndots {
		return append([]string{host + "."}, all...)
	}
	return append(all, host+".")
}

// addresses asks for the addresses of a whole name. None, and no error, stands for a
// name without any.
func (f *forwarder) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	var found [2][]netip.Addr
	var errs [2]error
	var g sync.WaitGroup
	for i, kind := range []uint16{typeA, typeAAAA} {
		g.Go(func() {
			q, ok := questionFor(name, kind)
			if !ok {
				return // no name in DNS: nobody has it
			}
			a := f.answer(ctx, q)
			switch a.rcode() {
			case 0:
				found[i], errs[i] = a.addresses()
			case rcodeNoName:
			default:
				errs[i] = fmt.Errorf("the nameserver answers with code %d", a.rcode())
			}
		})
	}
	g.Wait()
	return append(found[0], found[1]...), errors.Join(errs[:]...)
}

const (
	typeA       = 1
	typeAAAA    = 28
	classIN     = 1
	rcodeNoName = 3
)

// questionFor makes a question about a name that ends with a dot.
func questionFor(name string, kind uint16) (message, bool) {
	m := make(message, dnsHeader, dnsHeader+len(name)+5)
	m.setID(uint16(rand.Uint32()))
	m[2], m[5] = 0x01, 1 // recursion is desired; one question
	if len(name) > 254 {
		return nil, false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil, false
		}
		m = append(append(m, byte(len(label))), label...)
	}
	m = append(m, 0)
	m = binary.BigEndian.AppendUint16(m, kind)
	return binary.BigEndian.AppendUint16(m, classIN), true
}

// addresses returns those of the answer's records. The nameserver has followed
// aliases.
func (m message) addresses() ([]netip.Addr, error) {
	var all []netip.Addr
	q, err := m.question()
	if err != nil {
		return nil, err
	}
	rest := m[dnsHeader+len(q):]
	const fixed = 10 // type, class, time to live, length
	for range int(binary.BigEndian.Uint16(m[6:])) {
		n := nameSize(rest)
		if n == 0 || len(rest) < n+fixed {
			return nil, errMessage
		}
		kind, class := binary.BigEndian.Uint16(rest[n:]), binary.BigEndian.Uint16(rest[n+2:])
		size := int(binary.BigEndian.Uint16(rest[n+8:]))
		if rest = rest[n+fixed:]; len(rest) < size {
			return nil, errMessage
		}
		if a, ok := netip.AddrFromSlice(rest[:size]); ok && class == classIN && (kind == typeA && a.Is4() || kind == typeAAAA && a.Is6()) {
			all = append(all, a)
		}
		rest = rest[size:]
	}
	return all, nil
}

// nameSize returns how many bytes a name at the beginning of b takes, 0 if none is
// there. A pointer ends a name.
func nameSize(b []byte) int {
	for i := 0; i < len(b); {
		switch n := int(b[i]); {
		case n == 0:
			return i + 1
		case n >= 0xc0 && i+2 <= len(b):
			return i + 2
		case n > 63:
			return 0
		default:
			i += 1 + n
		}
	}
	return 0
}
