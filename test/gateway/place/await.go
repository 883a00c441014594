package place

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/internal/kube/follow"
)

// allowance is how long a cluster may take for what it does by itself.
const allowance = 3 * time.Minute

var errSeen = errors.New("seen")

// await follows one object until seen is true of it.
func (p *Place) await(ctx context.Context, client dynamic.ResourceInterface, name string, seen func(*unstructured.Unstructured) bool) error {
	ctx, cancel := context.WithTimeout(ctx, allowance)
	defer cancel()
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	err := follow.Of(client, only).Changes(ctx, "", func(c follow.Change) error {
		var now *unstructured.Unstructured
		switch {
		case c.Event == "" && len(c.All) > 0:
			now = c.All[0].(*unstructured.Unstructured)
		case c.Event != "" && c.Event != watch.Deleted:
			now = c.Object.(*unstructured.Unstructured)
		}
		if now != nil && seen(now) {
			return errSeen
		}
		return nil
	})
	switch {
	case errors.Is(err, errSeen):
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it is not ready after %s: kubectl describe tells why", allowance)
	}
	return err
}

// Ready waits until the objects of a manifest do what they are there for: Deployments
// have their pods, Gateways an address.
func (p *Place) Ready(ctx context.Context, manifest []byte, values map[string]string) error {
	objects, err := Objects(manifest, values)
	if err != nil {
		return err
	}
	for _, u := range objects {
		seen := map[string]func(*unstructured.Unstructured) bool{
			"Deployment": rolledOut,
			"Gateway":    func(u *unstructured.Unstructured) bool { return condition(u, "Programmed") },
		}[u.GetKind()]
		if seen == nil {
			continue
		}
		client, err := p.client(u)
		if err != nil {
			return err
		}
		if err := p.await(ctx, client, u.GetName(), seen); err != nil {
			return fmt.Errorf("wait for %s %s in namespace %s: %w", u.GetKind(), u.GetName(), u.GetNamespace(), p.Cluster.Explain(err))
		}
	}
	return nil
}
