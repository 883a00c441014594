package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/kube/follow"
)

// DownOptions say what Down removes besides what can be deployed again.
type DownOptions struct {
	Volumes bool // the volumes and what is in them, too
}

// DownResult is what Down did.
type DownResult struct {
	Removed []Ref
	Kept    []Ref // volumes, when they were not asked for

	// NamespaceRemoved tells that the namespace is gone. Left is why it is not,
	// where Bight had created it: what others have in it.
	NamespaceRemoved bool
	Left             []string
}

// Down removes exactly what was deployed of an app and returns when all of it,
// pods included, is gone. The namespace goes too if Bight created it and it
// holds nothing of anybody else. An app that is not deployed is no error.
func (a *Applier) Down(ctx context.Context, appName, namespace string, opts DownOptions) (*DownResult, error) {
	p, err := a.readParent(ctx, namespace, appName)
	if err != nil {
		return nil, a.explain(ctx, namespace, err)
	}
	there, err := a.members(ctx, namespace, appName)
	if err != nil {
		return nil, a.explain(ctx, namespace, err)
	}
	if unknown := unknownKinds(p.groupKinds); len(unknown) > 0 {
		return nil, fmt.Errorf("app %s in namespace %s has objects of kinds that this version of Bight does not know (%s): take it down with the newer version that deployed it",
			appName, namespace, strings.Join(unknown, ", "))
	}
	res := &DownResult{}
	byKind := map[string][]existing{}
	var remove []existing
	for _, e := range there {
		if k, ok := kindOf(e.groupKind()); ok && k.keep && !opts.Volumes {
			res.Kept = append(res.Kept, e.Ref)
			continue
		}
		remove = append(remove, e)
		byKind[e.groupKind().String()] = append(byKind[e.groupKind().String()], e)
		res.Removed = append(res.Removed, e.Ref)
	}
	slices.SortFunc(res.Removed, compareRefs)
	slices.SortFunc(res.Kept, compareRefs)
	// In the foreground: a Deployment is gone only when its pods are.
	if err := a.remove(ctx, remove, metav1.DeletePropagationForeground); err != nil {
		return nil, a.explain(ctx, namespace, err)
	}
	if err := a.allGone(ctx, namespace, appName, byKind); err != nil {
		return nil, err
	}
	if p.found {
		err := a.Client.CoreV1().ConfigMaps(namespace).Delete(ctx, parentName(appName), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, a.explain(ctx, namespace, &accessError{Right{Verb: "delete", Resource: "configmaps"}, fmt.Errorf("remove the record of app %s: %w", appName, err)})
		}
	}
	return res, a.downNamespace(ctx, namespace, res)
}

func (a *Applier) allGone(ctx context.Context, namespace, appName string, byKind map[string][]existing) error {
	g, ctx := errgroup.WithContext(ctx)
	for gk, objs := range byKind {
		k, _ := kindOf(schema.ParseGroupKind(gk))
		g.Go(func() error {
			return a.gone(ctx, k, namespace, labelSetMember+"="+setID(appName, namespace), objs)
		})
	}
	return g.Wait()
}

// gone returns when none of objs, all of kind k, exists any more.
func (a *Applier) gone(ctx context.Context, k kind, namespace, selector string, objs []existing) error {
	left := map[types.UID]string{}
	for _, e := range objs {
		left[types.UID(e.uid)] = e.Ref.String()
	}
	api := a.Dynamic.Resource(k.gvr()).Namespace(namespace)
	src := follow.Of(api, metav1.ListOptions{LabelSelector: selector})
	err := src.Changes(ctx, "", func(c follow.Change) error {
		switch c.Event {
		case "":
			have := map[types.UID]bool{}
			for _, o := range c.All {
				have[o.(*unstructured.Unstructured).GetUID()] = true
			}
			for uid := range left {
				if !have[uid] {
					delete(left, uid)
				}
			}
		case watch.Deleted:
			delete(left, c.Object.(*unstructured.Unstructured).GetUID())
		}
		if len(left) == 0 {
			return errDone
		}
		return nil
	})
	if errors.Is(err, errDone) {
		return nil
	}
	var names []string
	for _, name := range left {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Errorf("wait until %s in namespace %s is gone: %w", strings.Join(names, ", "), namespace, err)
}

// downNamespace removes a namespace that Bight created and nobody else uses.
func (a *Applier) downNamespace(ctx context.Context, name string, res *DownResult) error {
	ns, err := a.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil // not ours to remove
	case err != nil:
		return fmt.Errorf("look for namespace %s: %w", name, err)
	case ns.Labels[labelManagedBy] != FieldManager:
		return nil
	case ns.DeletionTimestamp != nil:
	default:
		if res.Left, err = a.leftovers(ctx, name); err != nil || len(res.Left) > 0 {
			return err
		}
		err := a.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &ns.UID}})
		switch {
		case apierrors.IsForbidden(err):
			res.Left = []string{"nothing, but you may not delete namespaces"}
			return nil
		case err != nil && !apierrors.IsNotFound(err):
			return fmt.Errorf("remove namespace %s: %w", name, err)
		}
	}
	if err := a.namespaceGone(ctx, name, ns.UID, ""); err != nil {
		return err
	}
	res.NamespaceRemoved = true
	return nil
}

// leftovers lists what is in a namespace and did not come with it. A kind that
// cannot be looked at counts as left: whoever cannot see must not delete.
func (a *Applier) leftovers(ctx context.Context, namespace string) ([]string, error) {
	lists, err := a.Client.Discovery().ServerPreferredNamespacedResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("list the kinds of objects in the cluster: %w", err)
	}
	var left []string
	if err != nil {
		left = append(left, "objects of an API that does not answer: "+err.Error())
	}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("list the kinds of objects in the cluster: %w", err)
		}
		for _, res := range l.APIResources {
			if !slices.Contains(res.Verbs, "list") || !slices.Contains(res.Verbs, "create") || derived(res.Kind) {
				continue
			}
			g.Go(func() error {
				found, err := a.leftOf(ctx, namespace, gv.WithResource(res.Name), res.Kind)
				mu.Lock()
				defer mu.Unlock()
				left = append(left, found...)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(left)
	return left, nil
}

func (a *Applier) leftOf(ctx context.Context, namespace string, gvr schema.GroupVersionResource, kind string) ([]string, error) {
	l, err := a.Dynamic.Resource(gvr).Namespace(namespace).List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsMethodNotSupported(err):
		return nil, nil
	case apierrors.IsForbidden(err):
		return []string{"perhaps " + gvr.GroupResource().String() + ", which you may not list"}, nil
	case err != nil:
		return nil, fmt.Errorf("list %s in namespace %s: %w", gvr.GroupResource(), namespace, err)
	}
	var left []string
	for i := range l.Items {
		if u := &l.Items[i]; !incidental(kind, u) {
			left = append(left, strings.ToLower(kind)+"/"+u.GetName())
		}
	}
	return left, nil
}

// derived tells kinds whose objects are about others. Those that cannot be
// created are computed from something else anyway.
func derived(kind string) bool {
	return kind == "Event" || kind == "Endpoints" || kind == "EndpointSlice"
}

// incidental tells objects that come with a namespace, belong to another object
// that is counted itself, or are on their way out.
func incidental(kind string, u *unstructured.Unstructured) bool {
	switch {
	case u.GetDeletionTimestamp() != nil, metav1.GetControllerOf(u) != nil:
		return true
	case kind == "ConfigMap" && u.GetName() == "kube-root-ca.crt":
		return true
	case kind == "ServiceAccount" && u.GetName() == "default":
		return true
	case kind == "Secret" && u.GetAnnotations()[corev1.ServiceAccountNameKey] == "default":
		return true
	}
	return false
}
