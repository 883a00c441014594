package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
)

// strays are the namespaces where routes and Deployments may say that they are a release's that is no more: somebody has
// taken its finalizer away, or brought back an old copy of a route. Nobody else would put these back, and with the Release
// the Service of its version goes, so that what still leads there is lost. The zero value is ready for use.
type strays struct {
	mu   sync.Mutex
	in   map[string]bool // "" is every namespace
	news chan struct{}   // has room for one
}

// look has a namespace looked at.
func (s *strays) look(namespace string) {
	news := s.add(namespace)
	select {
	case news <- struct{}{}:
	default:
	}
}

// add has a namespace looked at with the next one.
func (s *strays) add(namespace string) (news chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		s.in = map[string]bool{}
	}
	s.in[namespace] = true
	return s.channel()
}

// channel is news. The lock is held.
func (s *strays) channel() chan struct{} {
	if s.news == nil {
		s.news = make(chan struct{}, 1)
	}
	return s.news
}

func (s *strays) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Sorted(maps.Keys(s.in))
	s.in = nil
	return all
}

// free puts back what releases have left that are no more, until ctx ends: all that there are, and then wherever
// something tells of one.
func (c *Controller) free(ctx context.Context) {
	c.strays.look("")
	c.strays.mu.Lock()
	news := c.strays.channel()
	c.strays.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	timer.Stop()
	pause := again
	for {
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-timer.C:
		}
		failed := false
		for _, namespace := range c.strays.take() {
			for where, err := range c.freeIn(ctx, namespace) {
				if ctx.Err() == nil && !errors.Is(err, errSettles) {
					c.Log.Warn("what a release has left that is no more is not put back", "namespace", where, "err", err)
				}
				c.strays.add(where) // which is no news
				failed = true
			}
		}
		if !failed {
			pause = again
			continue
		}
		timer.Reset(pause)
		pause = min(2*pause, longest)
	}
}

// errSettles says that a Deployment still makes the pods of the version before.
var errSettles = errors.New("its pods are not all those of the version before yet")

// freeIn puts back the routes and Deployments of a namespace, of all with "", whose releases are no more. It returns why
// not, by the namespaces that are to be looked at again.
func (c *Controller) freeIn(ctx context.Context, namespace string) map[string]error {
	failed := map[string]error{}
	c.freeRoutes(ctx, namespace, failed) // first: their gateways lead to pods that end with the rest
	c.freeDeployments(ctx, namespace, failed)
	return failed
}

// freeRoutes puts back the routes of a namespace, of all with "", whose releases are no more.
func (c *Controller) freeRoutes(ctx context.Context, namespace string, failed map[string]error) {
	for _, kind := range []string{v1alpha1.HTTPRoute, v1alpha1.GRPCRoute} {
		routes := follow.Of(c.dynamic.Resource(gateway.Resource(kind)).Namespace(namespace), metav1.ListOptions{Limit: spec.Page})
		routes.Only = func(o runtime.Object) bool {
			u, ok := o.(*unstructured.Unstructured)
			return ok && recordOf(u) != nil
		}
		all, _, err := routes.Snapshot(ctx)
		if apierrors.IsNotFound(err) {
			continue // the cluster knows no such kind
		}
		if err != nil {
			failed[namespace] = errors.Join(failed[namespace], fmt.Errorf("list the %ss: %w", kind, err))
			continue
		}
		under := alive{}
		for _, o := range all {
			u := o.(*unstructured.Unstructured)
			if err := c.freeOne(ctx, u, under); err != nil {
				failed[u.GetNamespace()] = errors.Join(failed[u.GetNamespace()], err)
			}
		}
	}
}

// alive are the Releases with something left to be done, and their Deployments, by namespace.
type alive map[string]*living

type living struct {
	releases    map[types.UID]bool
	deployments map[string]bool
}

// underIn looks for those of a namespace, once. Whoever asks about an object has read that before: a release that has
// written it since can't be missed.
func (c *Controller) underIn(ctx context.Context, namespace string, under alive) error {
	if under[namespace] != nil {
		return nil
	}
	releases := follow.Of(c.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace), metav1.ListOptions{Limit: spec.Page})
	all, _, err := releases.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("list the Releases of namespace %s: %w", namespace, err)
	}
	in := &living{map[types.UID]bool{}, map[string]bool{}}
	for _, o := range all {
		// One that can't be read may be under way.
		if r := c.read(o); r != nil && !done(r) {
			in.releases[r.UID], in.deployments[r.Spec.Deployment] = true, true
		} else if a, ok := o.(metav1.Object); ok && r == nil {
			in.releases[a.GetUID()] = true
		}
	}
	under[namespace] = in
	return nil
}

// freeDeployments puts back the Deployments of a namespace, of all with "", whose releases are no more.
func (c *Controller) freeDeployments(ctx context.Context, namespace string, failed map[string]error) {
	deployments := follow.Of(c.typed.AppsV1().Deployments(namespace), metav1.ListOptions{Limit: spec.Page})
	deployments.Only = func(o runtime.Object) bool {
		d, ok := o.(*appsv1.Deployment)
		return ok && beforeOf(d) != nil
	}
	all, _, err := deployments.Snapshot(ctx)
	if err != nil {
		failed[namespace] = errors.Join(failed[namespace], fmt.Errorf("list the Deployments: %w", err))
		return
	}
	under := alive{}
	for _, o := range all {
		d := o.(*appsv1.Deployment)
		if err := c.freeDeployment(ctx, d, under); err != nil {
			failed[d.Namespace] = errors.Join(failed[d.Namespace], err)
		}
	}
}

// freeDeployment gives a Deployment the pods of the version before, which is what nobody has said anything against, and then
// its Services back, unless it is another release's.
func (c *Controller) freeDeployment(ctx context.Context, d *appsv1.Deployment, under alive) error {
	if err := c.underIn(ctx, d.Namespace, under); err != nil {
		return err
	}
	b := beforeOf(d)
	if in := under[d.Namespace]; in.releases[b.Release] || in.deployments[d.Name] || d.DeletionTimestamp != nil {
		return nil
	}
	s := scene{deployment: d}
	sets, err := c.typed.AppsV1().ReplicaSets(d.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the ReplicaSets of namespace %s: %w", d.Namespace, err)
	}
	for i := range sets.Items {
		if metav1.IsControlledBy(&sets.Items[i], d) {
			s.sets = append(s.sets, &sets.Items[i])
		}
	}
	services, err := c.typed.CoreV1().Services(d.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the Services of namespace %s: %w", d.Namespace, err)
	}
	for i := range services.Items {
		s.services = append(s.services, &services.Items[i])
	}
	next, settled := putBack(s)
	for _, service := range s.services {
		has := service.Spec.Selector[hashLabel]
		ours := slices.Contains(s.leading(), service) || slices.Contains(s.pinned(b.Stable), service)
		// Until no pod is another version's it leads to the version before alone; where it leads to another one, that
		// is about to end.
		if has == "" || !ours || has == b.Stable && !settled {
			continue
		}
		if err := c.selectHash(ctx, service, ""); err != nil {
			return err
		}
	}
	if settled {
		delete(next.Annotations, v1alpha1.ReleasedAnnotation)
	}
	if !apiequality.Semantic.DeepEqual(d, next) {
		if _, err := c.typed.AppsV1().Deployments(d.Namespace).Update(ctx, next, metav1.UpdateOptions{FieldManager: manager}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("put Deployment %s/%s back: %w", d.Namespace, d.Name, err)
		}
	}
	if !settled {
		return errSettles
	}
	c.Log.Info("a Deployment is put back whose release is no more", "namespace", d.Namespace, "deployment", d.Name, "release", b.Release)
	return nil
}

// putBack is what a Deployment of a release that is no more is to be, but for the annotation that says what it was. settled says
// that it is so, and has no other pods. Where the ReplicaSet of the version before is gone, or somebody has changed the
// Deployment since, its pods stay those that they are.
func putBack(s scene) (next *appsv1.Deployment, settled bool) {
	d, b := s.deployment, beforeOf(s.deployment)
	note := d.Annotations[v1alpha1.ReleasedAnnotation]
	next = d.DeepCopy()
	b.restore(next)
	next.Annotations[v1alpha1.ReleasedAnnotation] = note
	stable := s.setWith(b.Stable)
	if stable == nil || !b.has(d) && !sameTemplate(&d.Spec.Template, &stable.Spec.Template) {
		return next, true
	}
	if !sameTemplate(&next.Spec.Template, &stable.Spec.Template) {
		next.Spec.Template = *plain(&stable.Spec.Template)
		return next, false
	}
	return next, d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == s.want() && d.Status.Replicas == s.want()
}

// freeOne puts a route back, unless its release is under way.
func (c *Controller) freeOne(ctx context.Context, u *unstructured.Unstructured, under alive) error {
	record, namespace := recordOf(u), u.GetNamespace()
	if err := c.underIn(ctx, namespace, under); err != nil {
		return err
	}
	if under[namespace].releases[record.Release] {
		return nil
	}
	_, err := c.writeRoute(ctx, u, restored(u, record), nil)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("put %s %s/%s back: %w", u.GetKind(), namespace, u.GetName(), err)
	}
	c.Log.Info("a route is put back whose release is no more", "namespace", namespace, "kind", u.GetKind(), "route", u.GetName(), "release", record.Release)
	return nil
}

// strange says whether the record of a route is of a release that no desk has.
func (c *Controller) strange(u *unstructured.Unstructured) bool {
	record := recordOf(u)
	if record == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, d := range c.desks {
		if key.Namespace == u.GetNamespace() && d.has(record.Release) {
			return false
		}
	}
	return c.seen
}
