package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/deploy"
)

// previewName is what the environments of previews are called.
const previewName = "preview"

// previewGrace is how long the pods of previews have to end: a namespace is looked at
// again after half of it when it is deleted.
const previewGrace = 4 * time.Second

// untilAnnotation is on a preview's namespace: when it is removed, in RFC 3339.
const untilAnnotation = "bight.dev/until"

// previewNamespace is where what is pushed to a branch runs before it is merged. The
// changes of one branch and author share it, one after the other, so that of an app
// of many services only those that differ start anew.
func previewNamespace(a *v1alpha1.App, m *v1alpha1.Change) string {
	sum := sha256.Sum256([]byte(a.Namespace + "\n" + m.Spec.Ref + "\n" + m.Spec.Author))
	branch := app.Label(strings.TrimPrefix(m.Spec.Ref, "refs/heads/"))
	return app.Label(fmt.Sprintf("%s-%s-%s-%s", a.Name, previewName, branch, hex.EncodeToString(sum[:3])))
}

// startPreview deploys a run's result to an environment of its own, in the
// background, and asks it whether it serves.
func (c *Controller) startPreview(s *subject, a change.Action) {
	m := s.change(a.Change)
	run := *m.Status.Runs[a.Run].DeepCopy()
	p := place{client.ObjectKeyFromObject(s.app), previewNamespace(s.app, m)}
	key, appCopy := client.ObjectKeyFromObject(m), s.app.DeepCopy()
	attempt := m.Status.Attempt
	if now := c.envs.target(p); now != "" && now != previewOf(m, run) && s.previews(now) {
		return // one after the other: when that has ended, this is looked at again
	}
	c.envs.begin(p, previewOf(m, run), func(ctx context.Context) {
		started := ptrNow()
		s := v1alpha1.Step{Name: v1alpha1.PreviewStep, State: v1alpha1.StepRunning, Commit: run.Commit, Started: started, Message: "deploying to " + p.namespace}
		if !c.runStep(ctx, key, run, attempt, appCopy, s, nil) {
			return
		}
		limited, cancel := context.WithTimeout(ctx, time.Duration(max(appCopy.Spec.Policy.StepMinutes, 1))*time.Minute)
		defer cancel()
		done, preview := c.preview(limited, appCopy, p.namespace, run)
		if cause := context.Cause(ctx); cause != nil {
			if !errors.Is(cause, errNewer) {
				return
			}
			done = v1alpha1.Step{State: v1alpha1.StepWaiting, Message: cause.Error()}
		}
		done.Name, done.Commit, done.Started, done.Ended = s.Name, s.Commit, started, ptrNow()
		c.runStep(context.WithoutCancel(ctx), key, run, attempt, appCopy, done, preview)
	})
}

// previewOf is what a preview of a run is a target of.
func previewOf(m *v1alpha1.Change, run v1alpha1.Run) string {
	return fmt.Sprintf("%s/%s/%d", m.Name, run.Commit, m.Status.Attempt)
}

// previews reports whether a target is a run that is still under way.
func (s *subject) previews(target string) bool {
	for _, m := range s.view.Changes {
		for _, r := range m.Status.Runs {
			if r.State == v1alpha1.RunRunning && previewOf(m, r) == target {
				return true
			}
		}
	}
	return false
}

// runStep notes a step of a run that the controller does itself. It returns false, and
// notes nothing, if the step is to begin and is not to any more.
func (c *Controller) runStep(ctx context.Context, key client.ObjectKey, run v1alpha1.Run, attempt int32, a *v1alpha1.App, s v1alpha1.Step, preview *v1alpha1.Preview) bool {
	_, err := c.update(ctx, key, func(m *v1alpha1.Change) error {
		i := slices.IndexFunc(m.Status.Runs, func(r v1alpha1.Run) bool {
			return r.Commit == run.Commit && r.Attempt == run.Attempt && r.State == v1alpha1.RunRunning
		})
		gone := i < 0 || m.Status.Attempt != attempt
		if s.State == v1alpha1.StepRunning && (gone || over(m.Status.Runs[i].Steps, s.Name)) {
			return errNoMore
		}
		if gone {
			return errUnchanged
		}
		r := &m.Status.Runs[i]
		r.Steps = change.SetStep(r.Steps, s)
		r.State = change.RunState(a.Spec.Policy, m, r.Steps)
		if preview != nil {
			m.Status.Preview = preview
		}
		return nil
	})
	switch {
	case errors.Is(err, errNoMore):
		return false
	case err != nil:
		c.Log.Warn("a step is not written down", "change", key.Name, "step", s.Name, "err", err)
	default:
		c.wakeApp(a.Namespace, a.Name)
	}
	return true
}

// preview deploys and asks.
func (c *Controller) preview(ctx context.Context, a *v1alpha1.App, namespace string, run v1alpha1.Run) (v1alpha1.Step, *v1alpha1.Preview) {
	art, err := c.built(run)
	if err != nil {
		return erred(err), nil
	}
	if bad := c.verified(ctx, a, run); bad != nil {
		return *bad, nil
	}
	objs, err := art.render(namespace, previewGrace, false)
	if err != nil {
		return refused("%s", err), nil
	}
	err = insist(ctx, func() error { return c.envs.ensure(ctx, a, namespace, previewName) })
	if err != nil {
		return erred(err), nil
	}
	until := metav1.NewTime(time.Now().Add(time.Duration(max(a.Spec.Policy.PreviewMinutes, 1)) * time.Minute).Truncate(time.Second))
	ns := &corev1.Namespace{}
	ns.Name = namespace
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, untilAnnotation, until.UTC().Format(time.RFC3339))
	if err := c.client.Patch(ctx, ns, client.RawPatch("application/merge-patch+json", patch)); err != nil {
		return erred(err), nil
	}
	if err := c.envs.lend(ctx, a.Namespace, namespace, objs); err != nil {
		return erred(err), nil
	}
	err = insist(ctx, func() error { return c.envs.secrets(ctx, namespace, objs) })
	if err != nil {
		return refused("%s; or label the Secret in namespace %s with %s=true, and previews get a copy; or switch previews off with policy.preview: false in the App",
			err, a.Namespace, v1alpha1.PreviewsLabel), nil
	}
	applier := &deploy.Applier{Client: c.envs.typed, Dynamic: c.envs.dynamic, Log: c.envs.log, TakeOver: true}
	var result *deploy.Result
	var said ownWords
	err = insist(ctx, func() (err error) {
		if result, err = applier.Apply(ctx, a.Name, namespace, deploy.WithoutSecrets(objs)); err == nil {
			said, err = c.envs.answered(ctx, art.app, namespace)
		}
		return err
	})
	var failed *deploy.RolloutError
	switch {
	case errors.As(err, &failed) && len(failed.Failures) > 0:
		return refused("%s", failed.Failures[0]), nil
	case err != nil:
		return erred(err), nil
	}
	if err := c.envs.smoke(ctx, art.app, namespace, said); err != nil {
		return refused("%s", err), nil
	}
	replayed, err := c.replays(ctx, a, run.Commit, art.app, namespace)
	switch {
	case ctx.Err() != nil:
		return erred(err), nil
	case err != nil:
		return refused("%s", err), nil
	}
	links := 0
	urls := map[string]string{}
	for _, s := range art.app.Services {
		links += len(s.Links)
		if len(s.Ports) > 0 && s.Ports[0].Protocol == app.HTTP {
			urls[s.Name] = fmt.Sprintf("http://%s.%s.svc:%d", s.Name, namespace, s.Ports[0].Number)
		}
	}
	done := v1alpha1.Step{State: v1alpha1.StepPassed, Message: withReplays(answering(len(art.app.Services), links, namespace), replayed)}
	if !result.Changed() {
		done.Cached = "the preview runs these very images already"
	}
	return done, &v1alpha1.Preview{Namespace: namespace, URLs: urls, Until: &until}
}

// answering says what of a preview answers: "2 services and 1 link answer in shop-preview".
func answering(services, links int, namespace string) string {
	text := fmt.Sprintf("%d services and %d links answer in %s", services, links, namespace)
	if services == 1 {
		text = strings.Replace(text, "services", "service", 1)
	}
	if links == 1 {
		text = strings.Replace(text, "links", "link", 1)
	}
	return text
}

// lend copies the Secrets that a preview wants and that its owner has set apart for
// that.
func (e *environments) lend(ctx context.Context, from, to string, objs []deploy.Object) error {
	for name := range deploy.SecretsOf(objs) {
		s, err := e.typed.CoreV1().Secrets(from).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && s.Labels[v1alpha1.PreviewsLabel] != "true" {
			continue
		}
		if err != nil {
			return err
		}
		lent := coreac.Secret(name, to).WithType(s.Type).WithData(s.Data)
		if _, err := e.typed.CoreV1().Secrets(to).Apply(ctx, lent, metav1.ApplyOptions{FieldManager: deploy.FieldManager, Force: true}); err != nil {
			return fmt.Errorf("copy secret %s of namespace %s to %s: %w", name, from, to, err)
		}
	}
	return nil
}

// previews removes the app's previews whose time is over, and says when the next one's
// is: 0 for none.
func (c *Controller) previews(ctx context.Context, s *subject) (time.Duration, error) {
	var next time.Duration
	err := c.eachPreview(ctx, client.ObjectKeyFromObject(s.app), func(ns *corev1.Namespace) error {
		until, err := time.Parse(time.RFC3339, ns.Annotations[untilAnnotation])
		if err != nil {
			return nil // it is being made
		}
		left := time.Until(until)
		if left > 0 {
			if next == 0 || left < next {
				next = left
			}
			return nil
		}
		// It may have been given more time by now: then this is refused, and looked at again.
		return client.IgnoreNotFound(c.client.Delete(ctx, ns, client.Preconditions{UID: &ns.UID, ResourceVersion: &ns.ResourceVersion}))
	})
	return next, err
}

func (c *Controller) removePreviews(ctx context.Context, key client.ObjectKey) error {
	return c.eachPreview(ctx, key, func(ns *corev1.Namespace) error {
		return client.IgnoreNotFound(c.client.Delete(ctx, ns, client.Preconditions{UID: &ns.UID}))
	})
}

func (c *Controller) eachPreview(ctx context.Context, key client.ObjectKey, do func(*corev1.Namespace) error) error {
	var all corev1.NamespaceList
	err := c.caches.List(ctx, &all, client.MatchingLabels{v1alpha1.AppLabel: key.Name, v1alpha1.AppNamespaceLabel: key.Namespace, v1alpha1.EnvironmentLabel: previewName})
	if err != nil {
		return err
	}
	var errs []error
	for i := range all.Items {
		if all.Items[i].DeletionTimestamp == nil {
			errs = append(errs, do(&all.Items[i]))
		}
	}
	return errors.Join(errs...)
}
