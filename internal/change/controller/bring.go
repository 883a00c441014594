package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// deployment is a desired state that is on an environment's branch.
type deployment struct {
	app    *v1alpha1.App
	repo   *repo.Repository
	to     v1alpha1.Environment
	change *v1alpha1.Change
	before string // what was on the branch, "" for nothing
	commit string
}

// fails says how the step of a deployment ends that has come to an error, and puts back
// what was there before: an environment is healed to what its branch names.
func (c *Controller) fails(ctx context.Context, d *deployment, services []string, err error) v1alpha1.Step {
	text, failed := failure(err)
	s := v1alpha1.Step{State: v1alpha1.StepErred, Message: text}
	if failed {
		s.State = v1alpha1.StepFailed
	}
	if _, never := errors.AsType[*convictedError](err); failed && !never {
		s.Evidence, s.Services = map[string]string{"commit": d.commit}, services
	}
	before := c.servedBefore(ctx, d.app, d.to.Name, d.before)
	_, runs := errors.AsType[*deploy.RolloutError](err)
	switch {
	case before == "" && !runs: // half of a first state is nothing to heal to
		if err := d.repo.UpdateRef(ctx, EnvironmentRef(d.to.Name), "", d.commit); err != nil {
			s.Message += "\nand branch bight/" + d.to.Name + " could not be removed, which was new: " + err.Error()
		}
		return s
	case before == "" || before == d.commit:
		return s
	}
	back, lost := c.restore(ctx, d, before, text)
	if lost != nil {
		s.Message += "\nand what was there before could not be put back: " + lost.Error()
		return s
	}
	s.Message += fmt.Sprintf("\nwhat was there before is back (%s)", short(back))
	if s.Evidence != nil {
		s.Evidence["back"] = back
	}
	return s
}

// restore commits the state before a deployment, and applies it. If it can't be applied
// now, that is tried until it can.
func (c *Controller) restore(ctx context.Context, d *deployment, before, why string) (back string, err error) {
	p := place{client.ObjectKeyFromObject(d.app), change.Namespace(d.app.Name, d.to)}
	if back, err = c.envs.putBack(ctx, d.repo, EnvironmentRef(d.to.Name), before, d.commit, d.change); err != nil {
		return "", err
	}
	how := releasing{plan: d.to.Release, undo: &failedChange{releaser(d.change), "its change failed: " + why}}
	err = insist(ctx, func() error {
		_, _, err := c.envs.apply(ctx, d.app.Name, p.namespace, d.repo, back, how)
		return err
	})
	if err != nil {
		c.heal(p, d.to.Name)
	}
	return back, err
}

// failure says why what was deployed is not what is to be, and whether that is by what the
// change is.
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
	// A namespace that is being deleted takes nothing from anybody.
	_, rule := errors.AsType[*deploy.RefusedError](err)
	if (rule || apierrors.IsInvalid(err)) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return err.Error(), true
	}
	return err.Error(), false
}
