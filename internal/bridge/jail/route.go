package jail

import (
	"net/netip"
	"slices"
)

// Addresses inside the namespace. 198.18.0.0/15 is for benchmarks (RFC 2544) and
// so in nobody's network; the IPv6 ones are unique local.
var (
	defaultOwn4 = netip.AddrFrom4([4]byte{198, 18, 0, 2})
	defaultOwn6 = netip.MustParseAddr("fd62:6967:6874::2")
	machine4    = netip.AddrFrom4([4]byte{198, 18, 0, 1}) // this machine's 127.0.0.1
	nameserver  = netip.AddrFrom4([4]byte{198, 18, 0, 53})
)

// side is where a flow goes.
type side string

const (
	toCluster side = "cluster"
	toMachine side = "machine" // its network, as any program's flow
	toNobody  side = "nobody"  // refused
)

// routes decides where flows go.
type routes struct {
	own     []netip.Addr
	machine []netip.AddrPort // Config.Machine
	ranges  []netip.Prefix
	local   func(netip.AddrPort) bool
}

// decide returns where a flow to dst goes and the address to dial there.
func (r *routes) decide(dst netip.AddrPort) (side, netip.AddrPort) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	a := dst.Addr()
	switch {
	case slices.Contains(r.machine, dst):
		return toMachine, dst
	case a == machine4:
		return toMachine, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dst.Port())
	case !a.IsValid(), a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast() && a.Is6(),
		a == nameserver, slices.Contains(r.own, a):
		return toNobody, dst
	case r.local != nil:
		if r.local(dst) {
			return toMachine, dst
		}
		return toCluster, dst
	case len(r.ranges) == 0:
		return toCluster, dst
	}
	for _, p := range r.ranges {
		if p.Contains(a) {
			return toCluster, dst
		}
	}
	return toMachine, dst
}

// ownAddresses completes the given addresses by the defaults.
func ownAddresses(given []netip.Addr) (own4, own6 netip.Addr) {
	own4, own6 = defaultOwn4, defaultOwn6
	for _, a := range given {
		if a = a.Unmap(); a.Is4() {
			own4 = a
		} else if a.Is6() {
			own6 = a
		}
	}
	return own4, own6
}
