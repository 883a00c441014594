package control

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/gateway"
)

// ward is what is seen of one namespace with releases under way: the objects that they
// are about, which nobody may change.
type ward struct {
	namespace string
	life      context.Context
	end       context.CancelFunc

	mu          sync.Mutex
	unseen      map[string]bool // collections that were never listed
	deployments map[string]*appsv1.Deployment
	services    map[string]*corev1.Service
	sets        map[types.UID]*appsv1.ReplicaSet
	pods        map[types.UID]*corev1.Pod
	// routes of Gateway API are looked at only where a release needs them: many clusters
	// have no such kinds. blind says why those of a kind are not seen.
	routes map[v1alpha1.TrafficRoute]*unstructured.Unstructured
	blind  map[string]error
}

func newWard(namespace string) *ward {
	return &ward{
		namespace: namespace, unseen: map[string]bool{"deployments": true, "services": true, "replicasets": true, "pods": true},
		deployments: map[string]*appsv1.Deployment{}, services: map[string]*corev1.Service{},
		sets: map[types.UID]*appsv1.ReplicaSet{}, pods: map[types.UID]*corev1.Pod{},
		routes: map[v1alpha1.TrafficRoute]*unstructured.Unstructured{}, blind: map[string]error{},
	}
}

// follow begins to look, until ctx ends.
func (w *ward) follow(ctx context.Context, c *Controller) {
	core, apps := c.typed.CoreV1(), c.typed.AppsV1()
	for what, source := range map[string]follow.Source{
		"deployments": follow.Of(apps.Deployments(w.namespace), metav1.ListOptions{}),
		"replicasets": follow.Of(apps.ReplicaSets(w.namespace), metav1.ListOptions{}),
		"services":    follow.Of(core.Services(w.namespace), metav1.ListOptions{}),
		"pods":        follow.Of(core.Pods(w.namespace), metav1.ListOptions{LabelSelector: appsv1.DefaultDeploymentUniqueLabelKey}),
	} {
		c.tasks.Go(func() {
			source.Always(ctx, func(err error) {
				c.Log.Warn("objects are not seen", "namespace", w.namespace, "of", what, "err", err)
			}, func(change follow.Change) { w.take(c, what, change) })
		})
	}
}

// need begins to look at routes of Gateway API, if nobody does yet.
func (w *ward) need(c *Controller, routes []v1alpha1.TrafficRoute) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range routes {
		if _, known := w.blind[r.Kind]; known || w.life == nil {
			continue
		}
		w.blind[r.Kind], w.unseen[r.Kind] = nil, true
		source := follow.Of(c.dynamic.Resource(gateway.Resource(r.Kind)).Namespace(w.namespace), metav1.ListOptions{})
		c.tasks.Go(func() {
			source.Always(w.life, func(err error) { w.notSeen(c, r.Kind, err) }, func(change follow.Change) { w.take(c, r.Kind, change) })
		})
	}
}

// notSeen notes why routes of a kind are not.
func (w *ward) notSeen(c *Controller, kind string, err error) {
	w.mu.Lock()
	was := w.blind[kind]
	w.blind[kind] = err
	delete(w.unseen, kind)
	w.mu.Unlock()
	if was == nil || was.Error() != err.Error() {
		c.Log.Warn("objects are not seen", "namespace", w.namespace, "of", kind, "err", err)
		c.rouseAll(w.namespace)
	}
}

// take takes in a change, and rouses the desk that it is about.
func (w *ward) take(c *Controller, what string, change follow.Change) {
	for _, o := range append(change.All, change.Object) {
		if u, ok := o.(*unstructured.Unstructured); ok && c.strange(u) {
			c.strays.look(w.namespace)
		}
	}
	w.mu.Lock()
	if change.Event == "" {
		w.forget(what)
		delete(w.unseen, what)
		if _, route := w.blind[what]; route {
			w.blind[what] = nil
		}
		for _, o := range change.All {
			w.put(o, false)
		}
		w.mu.Unlock()
		c.rouseAll(w.namespace)
		return
	}
	about := w.put(change.Object, change.Event == watch.Deleted)
	w.mu.Unlock()
	if about == "" { // of a Service nobody knows whose it is
		c.rouseAll(w.namespace)
	} else {
		c.rouse(w.namespace, about)
	}
}

func (w *ward) forget(what string) {
	switch what {
	case "deployments":
		clear(w.deployments)
	case "services":
		clear(w.services)
	case "replicasets":
		clear(w.sets)
	case "pods":
		clear(w.pods)
	default:
		maps.DeleteFunc(w.routes, func(r v1alpha1.TrafficRoute, _ *unstructured.Unstructured) bool { return r.Kind == what })
	}
}

// put keeps or removes an object, and returns the Deployment that it belongs to.
func (w *ward) put(o runtime.Object, gone bool) (deployment string) {
	switch o := o.(type) {
	case *appsv1.Deployment:
		o.ManagedFields = nil
		keep(w.deployments, o.Name, o, gone)
		return o.Name
	case *corev1.Service:
		o.ManagedFields = nil
		keep(w.services, o.Name, o, gone)
	case *unstructured.Unstructured:
		o.SetManagedFields(nil)
		keep(w.routes, v1alpha1.TrafficRoute{Kind: o.GetKind(), Name: o.GetName()}, o, gone)
	case *appsv1.ReplicaSet:
		o.ManagedFields = nil
		keep(w.sets, o.UID, o, gone)
		return ownerOf(o, "Deployment")
	case *corev1.Pod:
		o.ManagedFields = nil
		keep(w.pods, o.UID, o, gone)
		// A ReplicaSet is called as its Deployment and its hash.
		return strings.TrimSuffix(ownerOf(o, "ReplicaSet"), "-"+o.Labels[appsv1.DefaultDeploymentUniqueLabelKey])
	}
	return ""
}

func keep[K comparable, T any](in map[K]T, key K, o T, gone bool) {
	if gone {
		delete(in, key)
	} else {
		in[key] = o
	}
}

func ownerOf(o metav1.Object, kind string) string {
	if c := metav1.GetControllerOf(o); c != nil && c.Kind == kind {
		return c.Name
	}
	return ""
}

// scene is what a desk sees at one moment.
type scene struct {
	deployment *appsv1.Deployment // nil: there is none
	service    *corev1.Service    // nil: there is none
	services   []*corev1.Service  // all of the namespace
	sets       []*appsv1.ReplicaSet
	pods       map[types.UID][]*corev1.Pod // by ReplicaSet, those that end included, by name
	strays     map[string]bool             // hashes of pods that serve, and belong to nobody
	routes     map[v1alpha1.TrafficRoute]*unstructured.Unstructured
	blind      map[string]error // why routes of a kind are not seen
}

// look returns the scene of a Deployment and a Service, false while not all is seen.
func (w *ward) look(deployment, service string) (scene, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := scene{deployment: w.deployments[deployment], service: w.services[service], pods: map[types.UID][]*corev1.Pod{}, strays: map[string]bool{}}
	if len(w.unseen) > 0 {
		return s, false
	}
	s.routes, s.blind = maps.Clone(w.routes), maps.Clone(w.blind)
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		s.services = append(s.services, w.services[name])
	}
	if s.deployment == nil {
		return s, true
	}
	for _, rs := range w.sets {
		if metav1.IsControlledBy(rs, s.deployment) {
			s.sets = append(s.sets, rs)
			s.pods[rs.UID] = nil
		}
	}
	slices.SortFunc(s.sets, func(a, b *appsv1.ReplicaSet) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range w.pods {
		owner := metav1.GetControllerOf(p)
		if owner == nil {
			if isReady(p) && p.DeletionTimestamp == nil {
				s.strays[p.Labels[hashLabel]] = true
			}
			continue
		}
		if list, ours := s.pods[owner.UID]; ours {
			s.pods[owner.UID] = append(list, p)
		}
	}
	for _, list := range s.pods {
		slices.SortFunc(list, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	}
	return s, true
}
