//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// TestThreeNodesBesideAnotherCluster: pods on all nodes reach each other and
// Kubernetes Services, while another cluster runs.
func TestThreeNodesBesideAnotherCluster(t *testing.T) {
	other := newCluster(t, "other")
	c := newCluster(t, "three")
	c.kubeconfig = other.kubeconfig // one file for both
	other.start()
	c.start("--nodes", "3")
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
