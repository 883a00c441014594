package supervisor

import (
	"fmt"
	"strconv"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// lan is the bridge in node 1 that joins the nodes.
const lan = "lan0"

// connectNodes joins the nodes' namespaces and tells each the way to the pods of
// the others.
func (s *Supervisor) connectNodes() error {
	hub := s.nodes[0]
	if err := hub.ns.Bridge(lan, hub.Address+"/24"); err != nil {
		return err
	}
	for _, n := range s.nodes[1:] {
		if err := n.ns.Join(hub.ns, lan, "node"+strconv.Itoa(n.Index), n.Address+"/24"); err != nil {
			return err
		}
	}
	if s.Cluster.DualStack {
		if err := s.connectNodes6(); err != nil {
			return fmt.Errorf("IPv6: %w", err)
		}
	}
	for _, n := range s.nodes {
		for setting, value := range map[string]string{
			"net/ipv4/ip_forward": "1",
			// By default the kernel says only once a second that there is no way.
			"net/ipv4/icmp_ratelimit": "0",
		} {
			if err := n.ns.Sysctl(setting, value); err != nil {
				return err
			}
		}
		// Before the network plugin makes it, which takes it as it is.
		if err := n.ns.Bridge(spec.PodBridge, n.PodGate); err != nil {
			return err
		}
		if err := n.ns.Doubt(spec.PodBridge); err != nil {
			return err
		}
		for _, other := range s.nodes {
			if n.Index == other.Index {
				continue
			}
			if err := n.ns.Route(other.PodCIDR, other.Address); err != nil {
				return err
			}
		}
	}
	return s.routeServices()
}

// connectNodes6 does the same for IPv6.
func (s *Supervisor) connectNodes6() error {
	hub := s.nodes[0]
	for _, n := range s.nodes {
		device := "eth0"
		if n.Index == hub.Index {
			device = lan
		}
		if err := n.ns.Address(device, n.Address6+"/64"); err != nil {
			return err
		}
		for setting, value := range map[string]string{"net/ipv6/conf/all/forwarding": "1", "net/ipv6/icmp/ratelimit": "0"} {
			if err := n.ns.Sysctl(setting, value); err != nil {
				return err
			}
		}
		for _, other := range s.nodes {
			if n.Index == other.Index {
				continue
			}
			if err := n.ns.Route(other.PodCIDR6, other.Address6); err != nil {
				return err
			}
		}
		if n.Index != hub.Index {
			if err := n.ns.Route("::/0", hub.Address6); err != nil {
				return err
			}
		}
	}
	return hub.ns.RouteDevice(spec.ServiceNetwork6, lan)
}

// routeServices gives the nodes a way for Service addresses. The kernel looks for
// a route first and asks kube-proxy's rules, which change the address, after
// that. No route leads anywhere else: without a way out, a connection to the
// outside fails at once.
func (s *Supervisor) routeServices() error {
	hub := s.nodes[0]
	if err := hub.ns.RouteDevice(spec.ServiceNetwork, lan); err != nil {
		return err
	}
	for _, n := range s.nodes[1:] {
		if err := n.ns.Route("", hub.Address); err != nil {
			return err
		}
	}
	return nil
}
