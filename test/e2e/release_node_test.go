//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testNodeCutOff undoes a release while one of two nodes can't be reached, with pods of both
// versions on it: the other obeys at once, and the one that comes back does.
func testNodeCutOff(b *bay) {
	_, far := b.twoNodes()
	b.spread(4, everyNode)
	b.allAnswer("app")

	b.pour()
	b.release("far", fmt.Sprintf(hold, 50), "Held")
	if by := b.shares(200); by["far"] < 60 || by["far"] > 140 || by["nobody"] > 0 {
		b.Errorf("50 %% on two nodes is %v", by)
	}
	b.unharmed("on two nodes")
	here, there := map[string][]core.Pod{}, map[string]bool{}
	for _, p := range b.tillPods() {
		if p.Spec.NodeName == far {
			there[p.Labels["pod-template-hash"]] = true
		} else {
			here[p.Labels["pod-template-hash"]] = append(here[p.Labels["pod-template-hash"]], p)
		}
	}
	stable := b.current().Status.Stable.Hash
	if len(there) != 2 || len(here) != 2 {
		b.Fatalf("on node %s are pods of %v, on the other of %d versions", far, there, len(here))
	}

	mend := b.cutOff(far)
	began := time.Now()
	_, errs, code := b.bight("release", "undo", tillNamed, "-n", b.namespace, "--timeout", "5s")
	if code != 5 || !strings.Contains(errs, far) {
		b.Errorf("undone while node %s is cut off: exit code %d after %s\n%s", far, code, time.Since(began), errs)
	}
	b.Logf("undone while node %s is cut off:\n%s", far, errs)
	for _, p := range here[stable] {
		for range 50 {
			if a, err := b.ask(b.client(false, false), "http://"+p.Status.PodIP+":8080/"); err != nil || a.who != "app" {
				b.Fatalf("%s, which can be reached, has it answered by %q, %v", p.Name, a.who, err)
			}
		}
	}
	mend()
	back := time.Now()
	b.allAnswer("app")
	b.Logf("undone everywhere %s after the node is back", time.Since(back).Round(time.Millisecond))
	b.reaches("Undone")
	b.unreleased()
	if err := schedulable(far, false); err != nil {
		b.Fatal(err)
	}
	b.spread(3, "null")
	b.allAnswer("app")
}

// twoNodes are the names of the two that it takes, which both may have new pods until the test ends.
func (b *bay) twoNodes() (near, far string) {
	b.Helper()
	nodes, err := client.CoreV1().Nodes().List(context(), meta.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	if len(nodes.Items) != 2 {
		b.Fatalf("it takes two nodes, and there are %d: run with NODES=2", len(nodes.Items))
	}
	near, far = nodes.Items[0].Name, nodes.Items[1].Name
	b.Cleanup(func() {
		if err := errors.Join(schedulable(near, true), schedulable(far, false)); err != nil {
			b.Error(err)
		}
	})
	if err := schedulable(far, true); err != nil {
		b.Fatal(err)
	}
	return near, far
}

// everyNode has each version of a Deployment have pods on all nodes.
const everyNode = `[{"maxSkew":1,"topologyKey":"kubernetes.io/hostname","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app":"till"}},"matchLabelKeys":["pod-template-hash"]}]`

// spread gives till so many pods, on nodes as constraints say.
func (b *bay) spread(n int, constraints string) {
	b.Helper()
	b.patchTill(fmt.Sprintf(`{"spec":{"replicas":%d,"template":{"spec":{"topologySpreadConstraints":%s}}}}`, n, constraints))
	b.unreleased()
}

// cutOff takes a node, which is not the first, off the cluster's network, until the function
// that it returns is called.
func (b *bay) cutOff(node string) (mend func()) {
	b.Helper()
	hub, err := netns.GetFromPid(b.component("kube-apiserver"))
	if err != nil {
		b.Fatal(err)
	}
	h, err := netlink.NewHandleAt(hub)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		h.Close()
		_ = hub.Close()
	})
	link, err := h.LinkByName("node" + node[strings.LastIndex(node, "-")+1:])
	if err != nil {
		b.Fatal(err)
	}
	if err := h.LinkSetDown(link); err != nil {
		b.Fatal(err)
	}
	mend = func() {
		b.Helper()
		if err := h.LinkSetUp(link); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() { _ = h.LinkSetUp(link) })
	return mend
}
