package deploy

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/kube/follow"
)

// view is what the watches have reported so far.
type view struct {
	deployments map[types.UID]*appsv1.Deployment
	sets        map[types.UID]*appsv1.ReplicaSet
	pods        map[types.UID]*corev1.Pod
	events      map[types.UID]*corev1.Event
	exits       map[string]Exit
	serving     map[types.UID]bool // pods that have said so themselves
}

func newView() *view {
	return &view{
		deployments: map[types.UID]*appsv1.Deployment{}, sets: map[types.UID]*appsv1.ReplicaSet{},
		pods: map[types.UID]*corev1.Pod{}, events: map[types.UID]*corev1.Event{}, exits: map[string]Exit{}, serving: map[types.UID]bool{},
	}
}

func (v *view) apply(source string, c follow.Change) {
	switch source {
	case "deployments":
		refresh(v.deployments, c)
	case "replicasets":
		refresh(v.sets, c)
	case "pods":
		refresh(v.pods, c)
	case "events":
		refresh(v.events, c)
	}
}

// refresh brings one collection up to date.
func refresh[T interface {
	runtime.Object
	metav1.Object
}](m map[types.UID]T, c follow.Change) {
	if c.Event == "" {
		clear(m)
		for _, o := range c.All {
			if t, ok := o.(T); ok {
				m[t.GetUID()] = t
			}
		}
		return
	}
	t, ok := c.Object.(T)
	switch {
	case !ok:
	case c.Event == watch.Deleted:
		delete(m, t.GetUID())
	default:
		m[t.GetUID()] = t
	}
}

// observations sorts what was seen by service, in the app's order.
func (v *view) observations(a *app.App) []Observation {
	obs := make([]Observation, 0, len(a.Services))
	for _, s := range a.Services {
		o := Observation{Service: s.Name}
		for _, l := range s.Links {
			o.Links = append(o.Links, l.To)
		}
		pods := map[types.UID]bool{}
		for _, d := range v.deployments {
			if d.Name == s.Name {
				o.Deployment = d
			}
		}
		for _, rs := range v.sets {
			if rs.Labels[labelName] == s.Name {
				o.ReplicaSets = append(o.ReplicaSets, rs)
			}
		}
		for _, p := range v.pods {
			if p.Labels[labelName] == s.Name {
				o.Pods = append(o.Pods, p)
				pods[p.UID] = true
				if v.serving[p.UID] {
					o.Serving = append(o.Serving, p.Name)
				}
				if e, ok := v.exits[p.Name]; ok {
					o.Exits = append(o.Exits, e)
				}
			}
		}
		for _, e := range v.events {
			if pods[e.InvolvedObject.UID] {
				o.Events = append(o.Events, e)
			}
		}
		obs = append(obs, o)
	}
	return obs
}
