//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// testIPv6 has the pods reach each other and a Service by IPv6, on one node and across,
// unless a policy says that they must not.
func (c *cluster) testIPv6(names []string) {
	c.t.Helper()
	both := service("both")
	both.Spec.Selector, both.Spec.IPFamilyPolicy = map[string]string{"app": names[0]}, new(core.IPFamilyPolicyRequireDualStack)
	c.create(both)
	s, err := c.client.CoreV1().Services(namespace).Get(c.t.Context(), both.Name, meta.GetOptions{})
	if err != nil || len(s.Spec.ClusterIPs) != 2 {
		c.t.Fatalf("the Service is %+v, %v; want an address of each family", s, err)
	}
	p := c.running(names[0], time.Time{})
	if len(p.Status.PodIPs) != 2 {
		c.t.Fatalf("pod %s has the addresses %v, want one of each family", p.Name, p.Status.PodIPs)
	}
	six := "[" + p.Status.PodIPs[1].IP + "]:8080"
	urls := []string{"http://" + six, "http://[" + s.Spec.ClusterIPs[1] + "]:80"}
	hello := `{"value":"` + names[0] + `"}` + "\n"
	for _, from := range names {
		for _, url := range urls {
			c.wants(from, "/get?url="+url+"/name", hello)
		}
	}
	c.create(isolated(names[0], networking.PolicyTypeIngress))
	c.cut(names[1], six)
	c.lift(names[0])
	c.wants(names[1], "/get?url="+urls[0]+"/name", hello)
	c.create(isolated(names[1], networking.PolicyTypeEgress))
	c.cut(names[1], six)
	c.lift(names[1])
	c.wants(names[1], "/get?url="+urls[0]+"/name", hello)
}

// TestThreeNodesBesideAnotherCluster: pods on all nodes reach each other and
// Kubernetes Services, while another cluster runs.
func TestThreeNodesBesideAnotherCluster(t *testing.T) {
	other := newCluster(t, "other")
	c := newCluster(t, "three")
	c.kubeconfig = other.kubeconfig // one file for both
	other.start()
	c.start("--nodes", "3", "--dual-stack")
	if config, err := clientcmd.LoadFromFile(c.kubeconfig); err != nil || config.CurrentContext != other.context() {
		t.Errorf("the current context is %q, %v; want that it stays %s", config.CurrentContext, err, other.context())
	}
	c.pushProbe()

	nodes, err := c.client.CoreV1().Nodes().List(t.Context(), meta.ListOptions{})
	if err != nil || len(nodes.Items) != 3 {
		t.Fatalf("got %d nodes, %v; want 3", len(nodes.Items), err)
	}
	var names []string
	addresses := map[string]string{}
	for i, n := range nodes.Items {
		name := fmt.Sprintf("probe-%d", i+1)
		c.create(pod(name, probeImage, n.Name))
		c.create(service(name))
		names = append(names, name)
	}
	for _, name := range names {
		addresses[name] = c.running(name, time.Time{}).Status.PodIP
	}
	for _, from := range names {
		for _, to := range names {
			want := `{"value":"` + to + `"}` + "\n"
			c.wants(from, "/get?url=http://"+addresses[to]+":8080/name", want)
			c.wants(from, "/get?url=http://"+to+".default/name", want)
		}
	}

	c.testPoliciesAcross(names)
	c.testIPv6(names)

	if list, err := other.client.CoreV1().Nodes().List(t.Context(), meta.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("the other cluster has %d nodes, %v; want 1", len(list.Items), err)
	}
	c.must("delete")
	if s := other.status(); s.State != "running" {
		t.Errorf("the other cluster is %s after delete: %v", s.State, s.Problems)
	}
	if _, err := other.client.CoreV1().Nodes().List(t.Context(), meta.ListOptions{}); err != nil {
		t.Errorf("the other cluster: %v", err)
	}
}
