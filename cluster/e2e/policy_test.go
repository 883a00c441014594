//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// isolated is a policy that lets nothing through in one direction, at pods with a label.
func isolated(app string, kind networking.PolicyType) *networking.NetworkPolicy {
	return &networking.NetworkPolicy{
		ObjectMeta: meta.ObjectMeta{Name: app},
		Spec: networking.NetworkPolicySpec{
			PodSelector: meta.LabelSelector{MatchLabels: map[string]string{"app": app}},
			PolicyTypes: []networking.PolicyType{kind},
		},
	}
}

// lift deletes a policy.
func (c *cluster) lift(name string) {
	c.t.Helper()
	if err := c.client.NetworkingV1().NetworkPolicies(namespace).Delete(c.t.Context(), name, meta.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// cut waits until a probe can't connect any more.
func (c *cluster) cut(pod, address string) {
	c.t.Helper()
	eventually(c.t, pod+" can't connect to "+address, func() error {
		a, err := c.ask(pod, "/dial?address="+address)
		if err == nil && a.Error == "" {
			err = fmt.Errorf("it can")
		}
		return err
	})
}

// testPolicies is about two pods of one node, whose packets pass over a bridge.
func (c *cluster) testPolicies(t *testing.T) {
	const hello = `{"value":"server"}` + "\n"
	s, err := c.client.CoreV1().Services(namespace).Get(t.Context(), "server", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server := s.Spec.ClusterIP + ":80"
	c.create(isolated("server", networking.PolicyTypeIngress))
	c.cut("asker", server)
	if a, err := c.ask("server", "/name"); err != nil || a.Value != "server" {
		t.Errorf("from its node: got %+v, %v", a, err)
	}
	c.wants("server", "/get?url=http://server.default/name", hello) // from itself
	c.lift("server")
	c.wants("asker", "/get?url=http://"+server+"/name", hello)

	c.create(isolated("asker", networking.PolicyTypeEgress))
	c.cut("asker", server)
	c.cut("asker", spec.ServiceAPI+":443")
	c.cut("asker", spec.ServiceDNS+":53")
	c.lift("asker")

	names := isolated("asker", networking.PolicyTypeEgress)
	names.Spec.Egress = []networking.NetworkPolicyEgressRule{{To: []networking.NetworkPolicyPeer{{
		NamespaceSelector: &meta.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}},
		PodSelector:       &meta.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
	}}}}
	c.create(names)
	eventually(t, "only names are let through", func() error {
		a, err := c.ask("asker", "/lookup?name=server.default.svc.cluster.local.")
		if err == nil && len(a.Values) != 1 {
			err = fmt.Errorf("got %+v", a)
		}
		return err
	})
	c.cut("asker", server)
	c.lift("asker")
	c.wants("asker", "/get?url=http://"+server+"/name", hello)
}

// testPoliciesAcross is about pods of several nodes: one port of the first is for the second alone.
func (c *cluster) testPoliciesAcross(names []string) {
	only := isolated(names[0], networking.PolicyTypeIngress)
	port := intstr.FromInt32(8080)
	only.Spec.Ingress = []networking.NetworkPolicyIngressRule{{
		From:  []networking.NetworkPolicyPeer{{PodSelector: &meta.LabelSelector{MatchLabels: map[string]string{"app": names[1]}}}},
		Ports: []networking.NetworkPolicyPort{{Port: &port}},
	}}
	c.create(only)
	url := "/get?url=http://" + names[0] + ".default/name"
	c.cut(names[2], names[0]+".default:80")
	c.wants(names[1], url, `{"value":"`+names[0]+`"}`+"\n")
	c.lift(names[0])
	c.wants(names[2], url, `{"value":"`+names[0]+`"}`+"\n")
}
