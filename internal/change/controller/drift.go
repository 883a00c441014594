package controller

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
)

// drift is what was put back in an environment since this process leads.
type drift struct {
	healed int64
	what   string
	failed string
}

// follow watches the objects of environments, and has those put back that somebody
// else has changed, until ctx ends. It returns when nothing is under way any more.
func (c *Controller) follow(ctx context.Context, informers cache.Cache) error {
	for _, kind := range []client.Object{&corev1.Service{}, &corev1.ConfigMap{}, &corev1.ServiceAccount{}, &appsv1.Deployment{}} {
		gvk, err := c.client.GroupVersionKindFor(kind)
		if err != nil {
			return err
		}
		meta := &metav1.PartialObjectMetadata{}
		meta.SetGroupVersionKind(gvk)
		informer, err := informers.GetInformer(ctx, meta)
		if err != nil {
			return err
		}
		_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, now any) { c.touched(ctx, old, now) },
			DeleteFunc: func(old any) { c.touched(ctx, old, nil) },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// touched has an environment looked at when something of it was changed.
func (c *Controller) touched(ctx context.Context, old, now any) {
	if d, ok := old.(toolscache.DeletedFinalStateUnknown); ok {
		old = d.Obj
	}
	was, ok := old.(*metav1.PartialObjectMetadata)
	if !ok || was.Labels["app.kubernetes.io/managed-by"] != "bight" {
		return
	}
	if is, ok := now.(*metav1.PartialObjectMetadata); ok && (is.ResourceVersion == was.ResourceVersion || is.Generation == was.Generation && is.Generation != 0) {
		return // its status
	}
	ns := &corev1.Namespace{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: was.Namespace}, ns); err != nil || ns.DeletionTimestamp != nil {
		return
	}
	appName, namespace, environment := ns.Labels[v1alpha1.AppLabel], ns.Labels[v1alpha1.AppNamespaceLabel], ns.Labels[v1alpha1.EnvironmentLabel]
	if appName == "" || environment == "" || environment == previewName {
		return
	}
	c.heal(place{client.ObjectKey{Namespace: namespace, Name: appName}, was.Namespace}, environment)
}

// heal puts an environment back to its desired state, unless something is under way
// there, which ends with that.
func (c *Controller) heal(p place, environment string) {
	if c.envs.busy(p) {
		return
	}
	c.envs.begin(p, "heal", func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		app := &v1alpha1.App{}
		if err := c.client.Get(ctx, p.app, app); err != nil {
			return
		}
		mine := false
		for _, e := range app.Spec.Environments {
			mine = mine || e.Name == environment && change.Namespace(app.Name, e) == p.namespace
		}
		r, err := c.store.Open(p.app.Namespace, p.app.Name)
		if err != nil || !mine {
			return
		}
		commit, err := r.Resolve(ctx, EnvironmentRef(environment))
		if err != nil {
			return // nothing was deployed yet
		}
		result, err := c.envs.apply(ctx, app.Name, p.namespace, r, commit)
		if err == nil && !result.changed {
			return
		}
		c.envs.healed(p, result.text, err)
		c.Log.Info("environment put back", "app", p.app, "namespace", p.namespace, "what", result.text, "err", err)
		c.wakeApp(p.app.Namespace, p.app.Name)
	})
}

func (e *environments) healed(p place, what string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.drift == nil {
		e.drift = map[place]*drift{}
	}
	d := e.drift[p]
	if d == nil {
		d = &drift{}
		e.drift[p] = d
	}
	d.failed = ""
	if err != nil {
		d.failed = err.Error()
		return
	}
	d.healed++
	d.what = what
}

// report returns the status of an app's environments.
func (e *environments) report(s *subject) []v1alpha1.EnvironmentStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []v1alpha1.EnvironmentStatus
	for _, env := range s.app.Spec.Environments {
		st := v1alpha1.EnvironmentStatus{Name: env.Name, Namespace: change.Namespace(s.app.Name, env)}
		for _, old := range s.app.Status.Environments {
			if old.Name == env.Name && old.Namespace == st.Namespace {
				st = old
			}
		}
		if m, step := change.Newest(s.view.Changes, env.Name); m != nil {
			st.Change = m.Name
			if commit := step.Evidence["commit"]; commit != "" {
				st.Commit = commit
			}
		}
		if d := e.drift[place{client.ObjectKeyFromObject(s.app), st.Namespace}]; d != nil {
			st.Healed, st.Drift, st.Message = st.Healed+d.healed, d.what, d.failed
			d.healed = 0
		}
		out = append(out, st)
	}
	return out
}
