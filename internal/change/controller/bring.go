package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/deploy"
)

// bring makes an environment equal to a desired state, by Releases where it has them,
// and waits until it serves.
func (c *Controller) bring(ctx context.Context, a *v1alpha1.App, e v1alpha1.Environment, r *repo.Repository, commit string, art artifacts, m *v1alpha1.Change) (result appliedState, err error) {
	namespace := change.Namespace(a.Name, e)
	key := client.ObjectKeyFromObject(m)
	how := releasing{plan: e.Release}
	if e.Release != nil {
		how.make = &maker{change: releaser(m), version: short(m.Status.Merged) + " " + m.Spec.Title, risk: m.Status.Risk}
	}
	var came []string // that releases have brought
	for {
		var h held
		err = insist(ctx, func() (err error) {
			var did appliedState
			if did, h, err = c.envs.apply(ctx, a.Name, namespace, r, commit, how); err == nil {
				result.add(did)
				err = c.envs.served(ctx, without(art.app, h.services), namespace)
			}
			return err
		})
		if err != nil || len(h.waits)+len(h.ends) == 0 {
			return result, err
		}
		result.add(appliedState{text: result.text, services: slices.Collect(maps.Keys(h.waits))})
		told := ""
		err = c.envs.released(ctx, namespace, h, func(text string) {
			if text != told && text != "" {
				told = text
				c.tell(ctx, key, change.DeployStep(e.Name), text)
			}
		})
		if err != nil {
			return result, err
		}
		for _, service := range arrived(came, h.waits) {
			came = append(came, service)
			result.add(appliedState{changed: true, text: "released " + service})
		}
	}
}

// releaser is what Releases say of the change that they come with: which attempt, too.
func releaser(m *v1alpha1.Change) string {
	return fmt.Sprintf("%s/%s#%d", m.Namespace, m.Name, m.Status.Attempt)
}

// arrived is of the Deployments whose releases were waited for those that had not come
// before: what has not been wound up when it is promoted is waited for twice.
func arrived(before []string, waits map[string]string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(waits)), func(name string) bool { return slices.Contains(before, name) })
}

// servedBefore is the desired state that an environment served last, which is put back:
// the newest on its branch may be one that never came to serve, of a change whose place
// another has taken, or which a controller was at that is gone. Where no change tells, it
// is the one before on the branch.
func (c *Controller) servedBefore(ctx context.Context, a *v1alpha1.App, environment, before string) string {
	var all v1alpha1.ChangeList
	if err := c.client.List(ctx, &all, client.InNamespace(a.Namespace), client.MatchingLabels{v1alpha1.AppLabel: a.Name}); err != nil {
		c.Log.Warn("which changes an environment has is not known", "app", a.Name, "err", err)
		return before
	}
	var of []*v1alpha1.Change
	for i := range all.Items {
		of = append(of, c.newest.of(&all.Items[i]))
	}
	_, step := change.Newest(of, environment)
	if step == nil {
		return before
	}
	return cmp.Or(step.Evidence["commit"], before)
}

// without is an app without some services.
func without(a *app.App, services map[string]bool) *app.App {
	if len(services) == 0 {
		return a
	}
	out := *a
	out.Services = slices.DeleteFunc(slices.Clone(a.Services), func(s *app.Service) bool { return services[s.Name] })
	return &out
}

// tell says what a step that runs is at.
func (c *Controller) tell(ctx context.Context, key client.ObjectKey, step, text string) {
	_, err := c.update(ctx, key, func(m *v1alpha1.Change) error {
		if s := change.StepOf(m.Status.Steps, step); s != nil {
			now := *s
			now.Message = text
			m.Status.Steps = change.SetStep(m.Status.Steps, now)
		}
		return nil
	})
	if err != nil {
		c.Log.Warn("what a step is at is not written down", "change", key.Name, "step", step, "err", err)
	}
}

// failure says why what was deployed is not what is to be, false if it can't be known.
func failure(err error) (string, bool) {
	if undone, ok := errors.AsType[*undoneError](err); ok {
		return undone.Error(), true
	}
	if convicted, ok := errors.AsType[*convictedError](err); ok {
		return convicted.Error(), true
	}
	if failed, ok := errors.AsType[*deploy.RolloutError](err); ok && len(failed.Failures) > 0 {
		return failed.Failures[0].Error(), true
	}
	return "", false
}
