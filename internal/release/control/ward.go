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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/kube/follow"
)

// ward is what is seen of one namespace with releases under way: the objects that they
// are about, which nobody may change.
type ward struct {
	namespace string
	end       context.CancelFunc

	mu          sync.Mutex
	unseen      map[string]bool // collections that were never listed
	deployments map[string]*appsv1.Deployment
	services    map[string]*corev1.Service
	sets        map[types.UID]*appsv1.ReplicaSet
	pods        map[types.UID]*corev1.Pod
}

func newWard(namespace string) *ward {
	return &ward{
		namespace: namespace, unseen: map[string]bool{"deployments": true, "services": true, "replicasets": true, "pods": true},
		deployments: map[string]*appsv1.Deployment{}, services: map[string]*corev1.Service{},
		sets: map[types.UID]*appsv1.ReplicaSet{}, pods: map[types.UID]*corev1.Pod{},
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

// take takes in a change, and rouses the desk that it is about.
func (w *ward) take(c *Controller, what string, change follow.Change) {
	w.mu.Lock()
	if change.Event == "" {
		w.forget(what)
		delete(w.unseen, what)
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
}

// look returns the scene of a Deployment and a Service, false while not all is seen.
func (w *ward) look(deployment, service string) (scene, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := scene{deployment: w.deployments[deployment], service: w.services[service], pods: map[types.UID][]*corev1.Pod{}, strays: map[string]bool{}}
	if len(w.unseen) > 0 {
		return s, false
	}
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
