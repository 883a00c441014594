// Package policy has NetworkPolicies obeyed: who may connect to which pod, and where
// a pod may connect to.
//
// [World.Rules] is the whole decision: a pure function from the pods, namespaces and
// policies of a cluster to the nftables rules of one node. [Run] follows them and hands
// a node its rules whenever they are others.
//
// A pod has an address, and may run, up to a second before the API tells which. As long as a
// pod is awaited on a node that policies are about, addresses that nobody is known to have are
// cut off there: so none has a moment in which it may do what it may not.
//
// A connection that was open before a policy came stays open. What the node itself
// sends to its pods, as kubelet's probes, is always let through. A pod that may not
// connect anywhere does not reach its own node either, nor the API server there. The
// name server is a process of the first node, not a pod; to policies it is one, with
// the label k8s-app=kube-dns in namespace kube-system, as it is in other clusters.
package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// World is what decides who may connect to whom. Policies name pods by labels that the
// API server has checked.
type World struct {
	Namespaces []*core.Namespace
	Pods       []*core.Pod
	Policies   []*networking.NetworkPolicy
	DNS        string              // the address of the name server
	Ranges     map[string][]string // of the addresses of each node's pods, by its name: one of IPv4, and maybe one of IPv6
}

// table is ours alone: a script replaces it whole, at once.
const table = "bight-policy"

// direction is one of the two that a policy may be about.
type direction struct {
	kind        networking.PolicyType
	chain       string // the prefix of the chains of pods
	own, others string // whose address is a pod's own, and whose the others'
}

var (
	ingress = direction{networking.PolicyTypeIngress, "in", "daddr", "saddr"}
	egress  = direction{networking.PolicyTypeEgress, "out", "saddr", "daddr"}
)

// family is a family of addresses, as nft calls it: its rules are a table of their own.
type family string

const (
	ipv4 family = "ip"
	ipv6 family = "ip6"
)

func (f family) has(a netip.Addr) bool { return a.Is4() == (f == ipv4) }

// in is a direction where addresses are of a family.
func (d direction) in(f family) direction {
	d.own, d.others = string(f)+" "+d.own, string(f)+" "+d.others
	return d
}

// Rules are the rules of a node as a script for nft, which replaces those of before.
func (w World) Rules(node string) (script string) {
	for _, own := range w.Ranges[node] {
		p, err := netip.ParsePrefix(own)
		if err != nil {
			continue
		}
		f := ipv4
		if p.Addr().Is6() {
			f = ipv6
		}
		script += w.seen(f).rulesOf(node, own)
	}
	return script
}

// view is a world in which all have one address, of one family.
type view struct {
	World
	family family
}

// seen is the world as packets of a family see it.
func (w World) seen(f family) view {
	if dns, err := netip.ParseAddr(w.DNS); err != nil || !f.has(dns) {
		w.DNS = ""
	}
	pods := make([]*core.Pod, len(w.Pods))
	for i, p := range w.Pods {
		of := *p
		of.Status.PodIP = f.addressOf(p)
		pods[i] = &of
	}
	w.Pods = pods
	return view{w, f}
}

// addressOf is the pod's address of a family, "" if it is not known to have one.
func (f family) addressOf(p *core.Pod) string {
	for _, ip := range append([]core.PodIP{{IP: p.Status.PodIP}}, p.Status.PodIPs...) {
		if a, err := netip.ParseAddr(ip.IP); err == nil && f.has(a) {
			return ip.IP
		}
	}
	return ""
}

// rulesOf are those of a node whose pods have addresses of a range.
func (w view) rulesOf(node, own string) string {
	var chains strings.Builder
	var known []string
	jumps, awaited := map[string][]string{}, map[string]bool{}
	pods := slices.SortedFunc(slices.Values(w.Pods), func(a, b *core.Pod) int {
		return cmp.Or(strings.Compare(a.Status.PodIP, b.Status.PodIP), b.CreationTimestamp.Compare(a.CreationTimestamp.Time))
	})
	for _, p := range pods {
		if p.Spec.NodeName != node || p.Spec.HostNetwork || over(p) {
			continue
		}
		if present(p) {
			if slices.Contains(known, p.Status.PodIP) {
				continue // its address is a newer pod's, and nobody has said yet that it has ended
			}
			known = append(known, p.Status.PodIP)
		}
		for _, d := range []direction{egress.in(w.family), ingress.in(w.family)} {
			rules, isolated := w.rules(d, p)
			if !isolated {
				continue
			}
			if !present(p) {
				awaited[d.chain] = true
				continue
			}
			name := d.chain + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(p.Status.PodIP)
			jumps[d.chain] = append(jumps[d.chain], p.Status.PodIP+" : jump "+name)
			fmt.Fprintf(&chains, "\tchain %s {\n\t\t%s %s return\n", name, d.others, p.Status.PodIP) // itself
			for _, r := range rules {
				fmt.Fprintf(&chains, "\t\t%s\n", r)
			}
			chains.WriteString("\t\tdrop\n\t}\n")
		}
	}
	name := string(w.family) + " " + table
	script := "add table " + name + "\ndelete table " + name + "\n"
	if len(jumps) == 0 && len(awaited) == 0 {
		return script
	}
	script += "table " + name + " {\n" + chains.String()
	// What is for the node's own addresses takes another way than what is for pods.
	for _, hook := range []string{"forward", "input"} {
		script += "\tchain " + hook + " {\n\t\ttype filter hook " + hook + " priority filter;\n\t\tct state established,related accept\n"
		if hook == "input" {
			script += "\t\tiifname lo accept\n"
		}
		if w.family == ipv6 { // how a pod finds the way to anybody
			script += "\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept\n"
		}
		for _, d := range []direction{egress.in(w.family), ingress.in(w.family)} {
			if hook == "input" && d.kind == ingress.kind {
				continue // pods are not the node
			}
			if awaited[d.chain] {
				script += "\t\t" + d.own + " " + own
				if len(known) > 0 {
					script += " " + d.own + " != { " + strings.Join(known, ", ") + " }"
				}
				script += " drop\n"
			}
			if all := jumps[d.chain]; len(all) > 0 {
				script += "\t\t" + d.own + " vmap { " + strings.Join(all, ", ") + " }\n"
			}
		}
		script += "\t}\n"
	}
	return script + "}\n"
}

// present reports whether a pod has an address of its own, which is known.
func present(p *core.Pod) bool {
	return p.Status.PodIP != "" && !p.Spec.HostNetwork && !over(p)
}

// over reports whether a pod has ended: another may have its address.
func over(p *core.Pod) bool {
	return p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
}

// rules are what lets connections of a pod through, and whether any policy is about them: if so,
// all others are not let through.
func (w view) rules(d direction, p *core.Pod) (rules []string, isolated bool) {
	for _, np := range w.Policies {
		if np.Namespace != p.Namespace || !slices.Contains(np.Spec.PolicyTypes, d.kind) || !matches(&np.Spec.PodSelector, p.Labels) {
			continue
		}
		isolated = true
		if d.kind == networking.PolicyTypeIngress {
			for _, r := range np.Spec.Ingress {
				rules = append(rules, w.rule(d, np, p, r.From, r.Ports)...)
			}
			continue
		}
		for _, r := range np.Spec.Egress {
			rules = append(rules, w.rule(d, np, p, r.To, r.Ports)...)
		}
	}
	slices.Sort(rules) // so that the same policies are the same script
	return slices.Compact(rules), isolated
}

// rule is one rule of a policy: any of the peers at any of the ports. None of either is all of them.
func (w view) rule(d direction, np *networking.NetworkPolicy, own *core.Pod, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort) (rules []string) {
	allow := func(peer, port string) {
		rules = append(rules, strings.TrimSpace(peer+" "+strings.TrimSpace(port+" return")))
	}
	anyPort := len(ports) == 0
	// The ports are those of whoever is connected to: its names may be different at each.
	numbered, named := split(ports)
	if d.kind == networking.PolicyTypeIngress {
		for _, n := range named {
			numbered = append(numbered, resolve(n, own)...)
		}
		named = nil
	}
	at := func(addresses string) {
		if anyPort {
			allow(addresses, "")
		}
		for _, port := range numbered {
			allow(addresses, port)
		}
	}
	if len(peers) == 0 {
		at("")
		for _, to := range w.Pods {
			for _, n := range named {
				for _, port := range resolve(n, to) {
					if present(to) {
						allow(d.others+" "+to.Status.PodIP, port)
					}
				}
			}
		}
		return rules
	}
	var addresses []string
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if block := w.block(d, peer.IPBlock); block != "" {
				at(block)
			}
			continue
		}
		for _, other := range w.selected(np.Namespace, peer) {
			addresses = append(addresses, other.Status.PodIP)
			for _, n := range named {
				for _, port := range resolve(n, other) {
					allow(d.others+" "+other.Status.PodIP, port)
				}
			}
		}
		if w.isDNS(np.Namespace, peer) {
			addresses = append(addresses, w.DNS)
		}
	}
	if len(addresses) > 0 {
		slices.Sort(addresses)
		at(d.others + " { " + strings.Join(slices.Compact(addresses), ", ") + " }")
	}
	return rules
}

// block is what matches a range of addresses, "" for those of the other family.
func (w view) block(d direction, b *networking.IPBlock) string {
	other := func(cidr string) bool {
		p, err := netip.ParsePrefix(cidr)
		return err != nil || !w.family.has(p.Addr())
	}
	if other(b.CIDR) {
		return ""
	}
	rule := d.others + " " + b.CIDR
	if except := slices.DeleteFunc(slices.Clone(b.Except), other); len(except) > 0 {
		rule += " " + d.others + " != { " + strings.Join(except, ", ") + " }"
	}
	return rule
}

// selected are the pods that a peer of a policy names.
func (w World) selected(namespace string, peer networking.NetworkPolicyPeer) []*core.Pod {
	var all []*core.Pod
	for _, p := range w.Pods {
		if present(p) && w.inside(namespace, peer, p.Namespace) && (peer.PodSelector == nil || matches(peer.PodSelector, p.Labels)) {
			all = append(all, p)
		}
	}
	return all
}

// inside reports whether a peer is about pods of a namespace: without a selector, of the policy's own.
func (w World) inside(own string, peer networking.NetworkPolicyPeer, namespace string) bool {
	if peer.NamespaceSelector == nil {
		return namespace == own
	}
	i := slices.IndexFunc(w.Namespaces, func(ns *core.Namespace) bool { return ns.Name == namespace })
	return i >= 0 && matches(peer.NamespaceSelector, w.Namespaces[i].Labels)
}

func (w World) isDNS(own string, peer networking.NetworkPolicyPeer) bool {
	return w.DNS != "" && w.inside(own, peer, meta.NamespaceSystem) &&
		(peer.PodSelector == nil || matches(peer.PodSelector, map[string]string{"k8s-app": "kube-dns"}))
}

func matches(s *meta.LabelSelector, has map[string]string) bool {
	selector, err := meta.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(has))
}

// name is a port that a policy calls by its name.
type name struct{ protocol, name string }

// split sorts ports into rules, and those that have names.
func split(ports []networking.NetworkPolicyPort) (rules []string, named []name) {
	for _, p := range ports {
		protocol := "tcp"
		if p.Protocol != nil {
			protocol = strings.ToLower(string(*p.Protocol))
		}
		switch {
		case p.Port == nil:
			rules = append(rules, "meta l4proto "+protocol)
		case p.Port.StrVal != "":
			named = append(named, name{protocol, p.Port.StrVal})
		case p.EndPort != nil && *p.EndPort > p.Port.IntVal:
			rules = append(rules, fmt.Sprintf("%s dport %d-%d", protocol, p.Port.IntVal, *p.EndPort))
		default:
			rules = append(rules, protocol+" dport "+strconv.Itoa(int(p.Port.IntVal)))
		}
	}
	return rules, named
}

// resolve is the port that a pod calls so.
func resolve(n name, p *core.Pod) (rules []string) {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == n.name && strings.EqualFold(string(port.Protocol), n.protocol) {
				rules = append(rules, n.protocol+" dport "+strconv.Itoa(int(port.ContainerPort)))
			}
		}
	}
	return rules
}
