package policy

import (
	"context"
	"log/slog"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// together is how long news is waited for, so that what comes at once is one script;
// again is when what has failed is tried again.
const (
	together = 5 * time.Millisecond
	again    = time.Second
)

// Nodes carry out scripts.
type Nodes struct {
	Ranges map[string][]string // of the addresses of their pods, by their names
	DNS    string              // the name server's address
	Apply  func(node, script string) error
	Log    *slog.Logger
}

// Run has the policies of a cluster obeyed until ctx ends. The connection to the API
// server may break: then they are as they were last.
func (n Nodes) Run(ctx context.Context, client kubernetes.Interface) {
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces, policies := factory.Core().V1().Pods(), factory.Core().V1().Namespaces(), factory.Networking().V1().NetworkPolicies()
	news := make(chan struct{}, 1)
	tell := func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { tell() }, UpdateFunc: func(any, any) { tell() }, DeleteFunc: func(any) { tell() }}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		_ = informer.SetTransform(slim) // an error says that it runs already
		if _, err := informer.AddEventHandler(handler); err != nil {
			n.Log.Error("NetworkPolicies are not obeyed", "error", err)
			return
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := map[string]string{}
	for ctx.Err() == nil {
		w := World{DNS: n.DNS, Ranges: n.Ranges}
		w.Pods, _ = pods.Lister().List(labels.Everything()) // a cache has no errors
		w.Namespaces, _ = namespaces.Lister().List(labels.Everything())
		w.Policies, _ = policies.Lister().List(labels.Everything())
		wait, retry := (<-chan time.Time)(nil), false
		for node := range n.Ranges {
			script := w.Rules(node)
			if done[node] == script {
				continue
			}
			if err := n.Apply(node, script); err != nil {
				n.Log.Error("NetworkPolicies are obeyed as they were, and not as they are", "node", node, "error", err)
				retry = true
				continue
			}
			done[node] = script
		}
		if retry {
			wait = time.After(again)
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		case <-news:
			select { // what comes at once is one change of the rules
			case <-ctx.Done():
			case <-time.After(together):
			}
		}
	}
}

// slim leaves of an object what [World] looks at.
func slim(object any) (any, error) {
	m, ok := object.(meta.Object)
	if !ok {
		return object, nil
	}
	m.SetManagedFields(nil)
	m.SetAnnotations(nil)
	if p, ok := object.(*core.Pod); ok {
		containers := make([]core.Container, len(p.Spec.Containers))
		for i, c := range p.Spec.Containers {
			containers[i].Ports = c.Ports
		}
		p.Spec = core.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, Containers: containers}
		p.Status = core.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs}
	}
	return object, nil
}
