package jail

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network is the keeper's side of the namespace's network.
type network struct{ filter *filter }

// makeNetwork configures the new network namespace of this process.
func makeNetwork(s *setup) (*network, *problem) {
	own, err := parseAddrs(s.Own)
	if err != nil {
		return nil, problemOf("read the addresses", err)
	}
	ranges6, err := parsePrefixes(s.Ranges6)
	if err != nil {
		return nil, problemOf("read the ranges", err)
	}
	if err := makeRoutes(own, s.IPv6, ranges6); err != nil {
		return nil, problemOf(stepRoutes, err)
	}
	tune(s.Netfilter)
	n := &network{}
	if s.Netfilter {
		f, err := makeFilter(own)
		if err != nil {
			return nil, problemOf(stepFilter, err)
		}
		n.filter = f
		if err := n.know(&s.Services); err != nil {
			return nil, problemOf("fill in the known services", err)
		}
	}
	return n, nil
}

// Steps of SetupError that diagnose knows.
const (
	stepNamespaces = "create a user namespace"
	stepRoutes     = "configure the network namespace"
	stepFilter     = "install the nftables rules"
	stepListen     = "listen in the network namespace"
)

// know replaces the services that are known to exist.
func (n *network) know(s *Services) error {
	if n.filter == nil {
		return nil
	}
	return n.filter.know(s)
}

// makeRoutes makes every address a local one.
func makeRoutes(own []netip.Addr, all6 bool, ranges6 []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	with6 := false
	for _, a := range append(own, machine4, nameserver) {
		err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD})
		switch {
		case err == nil:
			with6 = with6 || a.Is6()
		case a.Is6() && noIPv6(err):
		default:
			return fmt.Errorf("give lo the address %s: %w", a, err)
		}
	}
	var dst []netip.Prefix
	if with6 {
		dst = ranges6
		if all6 {
			dst = []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		}
	}
	for _, p := range append(dst, netip.PrefixFrom(netip.IPv4Unspecified(), 0)) {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(p), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL}
		if p.Addr().Is6() {
			r.Scope = netlink.SCOPE_UNIVERSE
		}
		for _, a := range own {
			if a.Is4() == p.Addr().Is4() {
				r.Src = a.AsSlice()
			}
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("make %s local: %w", p, err)
		}
	}
	return nil
}

// noIPv6 says whether err means that the kernel has IPv6 switched off.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT)
}

// tune sets what the kernel has per network namespace, as container runtimes do:
// low ports and ping for everyone, though no false answers to it. None is vital.
func tune(netfilter bool) {
	settings := map[string]string{
		"net/ipv4/ip_unprivileged_port_start": "0",
		"net/ipv4/ping_group_range":           fmt.Sprintf("%d %d", os.Getegid(), os.Getegid()),
	}
	if !netfilter { // which would reject what must not be answered
		settings["net/ipv4/icmp_echo_ignore_all"] = "1"
		settings["net/ipv6/icmp/echo_ignore_all"] = "1"
	}
	for name, value := range settings {
		_ = os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func parseAddrs(texts []string) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Masked())
	}
	return all, nil
}
