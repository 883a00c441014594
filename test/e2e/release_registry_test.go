//go:build e2e

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// registryPort is where nodes find the embedded registry, on their loopback.
const registryPort = 5000

// testRegistryDownAtUndo undoes a release while the registry is away that its images are from, and
// every pod that starts has to ask it: the version waits for a second pod.
func testRegistryDownAtUndo(b *bay) {
	pull := func(policy core.PullPolicy) {
		b.Helper()
		patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":%q,"imagePullPolicy":%q}]}}}}`, tillNamed, policy)
		deployments := client.AppsV1().Deployments(b.namespace)
		if _, err := deployments.Patch(context(), tillNamed, types.StrategicMergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
		b.eventually("the Deployment's controller has seen it", func() error {
			d, err := deployments.Get(context(), tillNamed, meta.GetOptions{})
			if err == nil && d.Status.ObservedGeneration < d.Generation {
				err = fmt.Errorf("generation %d of %d", d.Status.ObservedGeneration, d.Generation)
			}
			return err
		})
		b.unreleased()
		b.allAnswer("app")
	}
	pull(core.PullAlways)
	b.release("pulled", fmt.Sprintf(hold, 20), "Held")
	b.pour()
	mend := b.noRegistry()
	_, errs, code := b.bight("release", "weight", tillNamed, "60", "-n", b.namespace, "--timeout", "3s")
	if code != 5 {
		b.Errorf("a second pod without the registry: exit code %d\n%s", code, errs)
	}
	b.eventually("a pod waits for its image", b.waitsForImage)
	b.soon("undone without the registry (target 250 ms)", b.ordered("undo", tillNamed), time.Second)
	if by := b.shares(100); by["app"] != 100 {
		b.Errorf("what is undone answers: %v", by)
	}
	b.reaches("Undone")
	b.unreleased()
	b.unharmed("the registry is away at an undo")
	mend()
	pull(core.PullIfNotPresent)
}

// waitsForImage is nil when the registry keeps a pod from starting.
func (b *bay) waitsForImage() error {
	all, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: "app=" + tillNamed})
	if err != nil {
		return err
	}
	var states []string
	for _, p := range all.Items {
		for _, s := range p.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil {
				states = append(states, w.Reason)
				if strings.Contains(w.Reason, "ImagePull") {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("pods wait for %q", states)
}

// noRegistry refuses every node's connections to the registry, until the function that it
// returns is called.
func (b *bay) noRegistry() (mend func()) {
	b.Helper()
	nodes, err := client.CoreV1().Nodes().List(context(), meta.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var undo []func() error
	for i := range nodes.Items {
		ns, err := netns.GetFromPid(b.component(fmt.Sprintf("kubelet-%d", i+1)))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = ns.Close() })
		c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
		if err != nil {
			b.Fatal(err)
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "bight_no_registry"})
		chain := c.AddChain(&nftables.Chain{
			Name: "output", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, registryPort)},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		}})
		if err := c.Flush(); err != nil {
			b.Fatal(err)
		}
		undo = append(undo, func() error {
			c.DelTable(table)
			return c.Flush()
		})
	}
	whole := false
	mend = func() {
		b.Helper()
		if whole {
			return
		}
		whole = true
		var errs []error
		for _, u := range undo {
			errs = append(errs, u())
		}
		if err := errors.Join(errs...); err != nil {
			b.Errorf("let nodes reach the registry again: %v", err)
		}
	}
	b.Cleanup(mend)
	return mend
}
