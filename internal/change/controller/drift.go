package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/release/spec"
)

// drift is what was put back in an environment since this process leads.
type drift struct {
	healed int64
	what   string
	failed string
}

// follow begins to watch the objects of environments, and has those put back that
// somebody else has changed, until ctx ends.
func (c *Controller) follow(ctx context.Context, informers cache.Cache) error {
	if _, err := informers.GetInformer(ctx, &corev1.Namespace{}); err != nil {
		return err
	}
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
	informer, err := informers.GetInformer(ctx, &v1alpha1.Release{})
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, now any) {
			if was, is := old.(*v1alpha1.Release), now.(*v1alpha1.Release); undone(is) && spec.Over(is) && !spec.Over(was) {
				c.revisit(ctx, is.Namespace) // what was left to it is not any more
			}
		},
	})
	return err
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
	c.revisit(ctx, was.Namespace)
}

// revisit has the environment looked at that is in a namespace, if any.
func (c *Controller) revisit(ctx context.Context, in string) {
	ns := &corev1.Namespace{}
	if err := c.caches.Get(ctx, client.ObjectKey{Name: in}, ns); err != nil || ns.DeletionTimestamp != nil {
		return
	}
	appName, namespace, environment := ns.Labels[v1alpha1.AppLabel], ns.Labels[v1alpha1.AppNamespaceLabel], ns.Labels[v1alpha1.EnvironmentLabel]
	if appName == "" || environment == "" || environment == previewName {
		return
	}
	c.heal(place{client.ObjectKey{Namespace: namespace, Name: appName}, in}, environment)
}

// heal puts an environment back to its desired state as soon as nothing else is under
// way there, and tries until that is done.
func (c *Controller) heal(p place, environment string) {
	c.envs.heal(p, func(ctx context.Context) {
		for pause := time.Second; ; pause = min(2*pause, time.Minute) {
			err := c.healOnce(ctx, p, environment)
			if err == nil {
				return
			}
			select {
			case <-ctx.Done():
				if errors.Is(context.Cause(ctx), errNewer) {
					c.heal(p, environment) // what came between may end before it applies anything
				}
				return
			case <-time.After(pause):
			}
		}
	})
}

// healAll looks at every environment once: what was changed while nobody led, nobody
// has seen. One after the other, so that many of them do not burden the API server.
func (c *Controller) healAll(ctx context.Context) {
	var all v1alpha1.AppList
	if err := c.client.List(ctx, &all); err != nil {
		c.Log.Warn("the environments are not looked at", "err", err)
		return
	}
	for _, a := range all.Items {
		for _, e := range a.Spec.Environments {
			p := place{client.ObjectKeyFromObject(&a), change.Namespace(a.Name, e)}
			if c.envs.target(p) != "" {
				continue
			}
			c.heal(p, e.Name)
			tried, cancel := context.WithTimeout(ctx, time.Minute)
			_ = c.envs.idle(tried, p) // if it takes long, it goes on beside the next ones
			cancel()
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// healOnce puts an environment back if it is there and something was deployed to it.
func (c *Controller) healOnce(ctx context.Context, p place, environment string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	app := &v1alpha1.App{}
	if err := c.client.Get(ctx, p.app, app); err != nil {
		return client.IgnoreNotFound(err)
	}
	at := slices.IndexFunc(app.Spec.Environments, func(e v1alpha1.Environment) bool {
		return e.Name == environment && change.Namespace(app.Name, e) == p.namespace
	})
	ns := &corev1.Namespace{}
	if err := c.caches.Get(ctx, client.ObjectKey{Name: p.namespace}, ns); err != nil || ns.DeletionTimestamp != nil || at < 0 {
		return client.IgnoreNotFound(err)
	}
	r, err := c.store.Open(p.app.Namespace, p.app.Name)
	var commit string
	if err == nil {
		commit, err = r.Resolve(ctx, EnvironmentRef(environment))
	}
	if _, ok := errors.AsType[*repo.NotFoundError](err); ok {
		return nil // nothing was deployed yet
	}
	if err != nil {
		return err
	}
	return c.putRight(ctx, p, r, commit, app.Spec.Environments[at].Release)
}

// putRight applies a desired state, and notes it if that changed anything.
func (c *Controller) putRight(ctx context.Context, p place, r *repo.Repository, commit string, plan *v1alpha1.ReleasePlan) error {
	result, _, err := c.envs.apply(ctx, p.app.Name, p.namespace, r, commit, releasing{plan: plan})
	if err == nil && !result.changed || context.Cause(ctx) != nil && errors.Is(context.Cause(ctx), errNewer) {
		return err
	}
	c.envs.healed(p, result.text, err)
	c.Log.Info("environment put back", "app", p.app, "namespace", p.namespace, "what", result.text, "err", err)
	c.wakeApp(p.app.Namespace, p.app.Name)
	return err
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
