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
	DNS        string            // the address of the name server
	Ranges     map[string]string // of the addresses of each node's pods, by its name
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
	ingress = direction{networking.PolicyTypeIngress, "in", "ip daddr", "ip saddr"}
	egress  = direction{networking.PolicyTypeEgress, "out", "ip saddr", "ip daddr"}
)

// Rules are the rules of a node as a script for nft, which replaces those of before.
func (w World) Rules(node string) string {
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
		for _, d := range []direction{egress, ingress} {
			rules, isolated := w.rules(d, p)
			if !isolated {
				continue
			}
			if !present(p) {
				awaited[d.chain] = true
				continue
			}
			name := d.chain + "-" + strings.ReplaceAll(p.Status.PodIP, ".", "-")
			jumps[d.chain] = append(jumps[d.chain], p.Status.PodIP+" : jump "+name)
			fmt.Fprintf(&chains, "\tchain %s {\n\t\t%s %s return\n", name, d.others, p.Status.PodIP) // itself
			for _, r := range rules {
				fmt.Fprintf(&chains, "\t\t%s\n", r)
			}
			chains.WriteString("\t\tdrop\n\t}\n")
		}
	}
	script := "add table ip " + table + "\ndelete table ip " + table + "\n"
	if len(jumps) == 0 && len(awaited) == 0 {
		return script
	}
	script += "table ip " + table + " {\n" + chains.String()
	// What is for the node's own addresses takes another way than what is for pods.
	for _, hook := range []string{"forward", "input"} {
		script += "\tchain " + hook + " {\n\t\ttype filter hook " + hook + " priority filter;\n\t\tct state established,related accept\n"
		if hook == "input" {
			script += "\t\tiifname lo accept\n"
		}
		for _, d := range []direction{egress, ingress} {
			if hook == "input" && d == ingress {
				continue // pods are not the node
			}
			if awaited[d.chain] {
				script += "\t\t" + d.own + " " + w.Ranges[node]
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
	ip, err := netip.ParseAddr(p.Status.PodIP)
	return err == nil && ip.Is4() && !p.Spec.HostNetwork && !over(p)
}

// over reports whether a pod has ended: another may have its address.
func over(p *core.Pod) bool {
	return p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
}

// rules are what lets connections of a pod through, and whether any policy is about them: if so,
// all others are not let through.
func (w World) rules(d direction, p *core.Pod) (rules []string, isolated bool) {
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
func (w World) rule(d direction, np *networking.NetworkPolicy, own *core.Pod, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort) (rules []string) {
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
			if block := d.block(peer.IPBlock); block != "" {
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

// block is what matches a range of addresses, "" for those of IPv6, which no pod has.
func (d direction) block(b *networking.IPBlock) string {
	four := func(cidr string) bool {
		p, err := netip.ParsePrefix(cidr)
		return err == nil && p.Addr().Is4()
	}
	if !four(b.CIDR) {
		return ""
	}
	rule := d.others + " " + b.CIDR
	if except := slices.DeleteFunc(slices.Clone(b.Except), func(c string) bool { return !four(c) }); len(except) > 0 {
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
