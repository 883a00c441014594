package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Barred says that NetworkPolicies keep the pods of a Deployment, made by a template, from each
// other at ports of a Service that are shared: its doors can't carry a request then. It is ""
// where they don't, and where the policies alone don't tell: what they say of addresses and of
// other namespaces is taken for a yes. Whether the cluster obeys policies at all is not known.
func Barred(s *corev1.Service, t *corev1.PodTemplateSpec, policies []netv1.NetworkPolicy) string {
	pods := labels.Set(t.Labels)
	var in, out way
	for _, p := range policies {
		if !matches(&p.Spec.PodSelector, pods) {
			continue
		}
		if ruled(&p, netv1.PolicyTypeIngress) {
			in.policies = append(in.policies, p.Name)
			for _, r := range p.Spec.Ingress {
				in.rules = append(in.rules, rule{r.From, r.Ports})
			}
		}
		if ruled(&p, netv1.PolicyTypeEgress) {
			out.policies = append(out.policies, p.Name)
			for _, r := range p.Spec.Egress {
				out.rules = append(out.rules, rule{r.To, r.Ports})
			}
		}
	}
	ports, by := map[int32]bool{}, map[string]bool{}
	for _, p := range s.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP || Protocol(p) == "tcp" {
			continue
		}
		number, err := Target(p, t)
		if err != nil {
			continue // which is refused elsewhere
		}
		for _, w := range []way{in, out} {
			if len(w.policies) > 0 && !slices.ContainsFunc(w.rules, func(r rule) bool { return r.lets(pods, number, t) }) {
				ports[number] = true
				for _, name := range w.policies {
					by[name] = true
				}
			}
		}
	}
	if len(ports) == 0 {
		return ""
	}
	var at []string
	for _, p := range slices.Sorted(maps.Keys(ports)) {
		at = append(at, fmt.Sprint(p))
	}
	word, do := "NetworkPolicy", "does"
	if len(by) > 1 {
		word, do = "NetworkPolicies", "do"
	}
	return fmt.Sprintf("%s %s %s not let these pods connect to each other at port %s: if the cluster obeys that, stable answers all requests there, and the version gets none until it is promoted",
		word, strings.Join(slices.Sorted(maps.Keys(by)), ", "), do, strings.Join(at, ", "))
}

// way are the policies for what comes to pods, or goes from them, and all of their rules: what
// one of these lets pass, passes.
type way struct {
	policies []string
	rules    []rule
}

type rule struct {
	peers []netv1.NetworkPolicyPeer
	ports []netv1.NetworkPolicyPort
}

// ruled says whether a policy is about a direction.
func ruled(p *netv1.NetworkPolicy, way netv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return way == netv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, way)
}

// lets says whether a rule lets pods with labels, or what can't be told from them, connect at
// a port.
func (r rule) lets(pods labels.Set, port int32, t *corev1.PodTemplateSpec) bool {
	peer := len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p netv1.NetworkPolicyPeer) bool {
		return p.IPBlock != nil || p.PodSelector == nil || matches(p.PodSelector, pods)
	})
	return peer && (len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p netv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			return false
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			number, has := named(p.Port.StrVal, t)
			return has && number == port
		case p.EndPort != nil:
			return p.Port.IntVal <= port && port <= *p.EndPort
		}
		return p.Port.IntVal == port
	}))
}

func matches(selector *metav1.LabelSelector, pods labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(pods)
}
