package deploy

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"
)

// Preflight finds out, without changing anything, whether the user may deploy
// objs (nil means one of every kind) into a namespace, which need not exist yet,
// and has the rights more there.
// If not it returns a *RightsError that names everything that is missing.
func (a *Applier) Preflight(ctx context.Context, namespace string, objs []Object, more ...Right) error {
	need := neededFor(objs)
	for _, k := range kinds() { // what is there is read, whatever it is
		need = append(need, Right{Verb: "list", Group: k.Group, Resource: k.resource})
	}
	need = append(need, more...)
	var absent bool
	var lacking []Right
	var g errgroup.Group // two short requests: one that fails need not stop the other
	g.Go(func() error {
		_, err := a.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		absent = apierrors.IsNotFound(err)
		if err == nil || absent || apierrors.IsForbidden(err) {
			return nil // whoever may not look may still use it
		}
		return fmt.Errorf("look for namespace %s: %w", namespace, err)
	})
	g.Go(func() (err error) {
		lacking, err = missing(ctx, a.Client, namespace, need)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if absent {
		ok, err := may(ctx, a.Client, "", createNamespaces())
		if err != nil {
			return err
		}
		if !ok {
			return a.noNamespace(ctx, namespace)
		}
	}
	if len(lacking) > 0 {
		return refusal(ctx, a.Client, namespace, compact(lacking)...)
	}
	return nil
}

// createNamespaces is the right that a namespace of one's own takes.
func createNamespaces() Right { return Right{Verb: "create", Resource: "namespaces"} }

// noNamespace says that a namespace does not exist and may not be made.
func (a *Applier) noNamespace(ctx context.Context, name string) *RightsError {
	return &RightsError{
		User: userName(ctx, a.Client), Missing: []Right{createNamespaces()},
		Advice: fmt.Sprintf("use a namespace that you may deploy to with -n NAMESPACE, or ask whoever runs the cluster to create %q and give you the role \"edit\" in it", name),
	}
}

// compact drops what is there twice and keeps the order.
func compact(rights []Right) []Right {
	var once []Right
	for _, r := range rights {
		if !slices.Contains(once, r) {
			once = append(once, r)
		}
	}
	return once
}

// SessionRights are the rights that a session takes besides those to deploy: to
// claim the environment, to reach the agents and to show logs.
func SessionRights() []Right {
	const leases = "coordination.k8s.io"
	return []Right{
		{Verb: "create", Group: leases, Resource: "leases"},
		{Verb: "get", Group: leases, Resource: "leases"},
		{Verb: "update", Group: leases, Resource: "leases"},
		{Verb: "patch", Group: leases, Resource: "leases"},
		{Verb: "delete", Group: leases, Resource: "leases"},
		{Verb: "create", Resource: "pods/portforward"},
		{Verb: "get", Resource: "pods/log"},
	}
}
