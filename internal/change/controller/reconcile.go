package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/work"
)

// subject is an app that is looked at.
type subject struct {
	app  *v1alpha1.App
	repo *repo.Repository
	tip  string // the branch's newest commit, "" for none
	view change.View
	// again is when the app is to be looked at though nothing happens, 0 for never.
	again time.Duration
}

func (s *subject) change(name string) *v1alpha1.Change {
	i := slices.IndexFunc(s.view.Changes, func(c *v1alpha1.Change) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return s.view.Changes[i]
}

// rounds is how often an app is looked at in one go. More are left to the next event.
const rounds = 16

// reconcile does what is to be done for one app now.
func (c *Controller) reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	app := &v1alpha1.App{}
	err := c.client.Get(ctx, req.NamespacedName, app)
	if apierrors.IsNotFound(err) || err == nil && app.DeletionTimestamp != nil {
		return reconcile.Result{}, c.forget(ctx, req.NamespacedName)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	s, err := c.look(ctx, app)
	if err == nil {
		c.attend(app)
		err = c.completeMerges(ctx, s)
	}
	for range rounds {
		if err != nil {
			break
		}
		var wrote bool
		if wrote, err = c.act(ctx, s, change.Decide(s.view)); err != nil || !wrote {
			break
		}
		s, err = c.look(ctx, app)
	}
	if err != nil {
		return reconcile.Result{}, errors.Join(err, c.report(ctx, app, nil, err))
	}
	again, err := c.previews(ctx, s)
	c.inform(s)
	expired, ticketsErr := c.expire(ctx, app.Namespace)
	for _, d := range []time.Duration{s.again, expired} {
		if d > 0 && (again == 0 || d < again) {
			again = d
		}
	}
	return reconcile.Result{RequeueAfter: again}, errors.Join(c.compose(ctx, s), c.report(ctx, app, s, nil), c.tidy(ctx, s), err, ticketsErr)
}

// look makes a view of an app.
func (c *Controller) look(ctx context.Context, app *v1alpha1.App) (*subject, error) {
	r, err := c.repository(ctx, app)
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	s := &subject{app: app, repo: r, view: change.View{App: app, Tree: emptyTree, Trees: map[string]string{}, Now: time.Now()}}
	var all v1alpha1.ChangeList
	if err := c.client.List(ctx, &all, client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.AppLabel: app.Name}); err != nil {
		return nil, err
	}
	for i := range all.Items {
		s.view.Changes = append(s.view.Changes, c.newest.of(&all.Items[i]))
	}
	var none *repo.NotFoundError
	s.tip, err = r.Resolve(ctx, "refs/heads/"+app.Spec.Branch)
	switch {
	case errors.As(err, &none):
	case err != nil:
		return nil, err
	default:
		if s.view.Tree, err = c.apps.tree(ctx, r, s.tip); err != nil {
			return nil, err
		}
	}
	return s, c.findConflicts(ctx, s)
}

// repository opens or makes the repository of an app. One that was made for an App of
// that name which is no more has nothing to do with it.
func (c *Controller) repository(ctx context.Context, app *v1alpha1.App) (*repo.Repository, error) {
	const mark = "bight-app-uid"
	r, err := c.store.Create(ctx, app.Namespace, app.Name, app.Spec.Branch)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.Dir, mark)
	of, err := os.ReadFile(file)
	switch {
	case err == nil && string(of) == string(app.UID):
		return r, nil
	case errors.Is(err, fs.ErrNotExist):
		return r, os.WriteFile(file, []byte(app.UID), 0o600)
	case err != nil:
		return nil, err
	}
	c.Log.Info("the repository is of an App that was deleted; a new one is made", "app", app.Name, "namespace", app.Namespace)
	if err := c.store.Remove(app.Namespace, app.Name); err != nil {
		return nil, err
	}
	if r, err = c.store.Create(ctx, app.Namespace, app.Name, app.Spec.Branch); err != nil {
		return nil, err
	}
	return r, os.WriteFile(filepath.Join(r.Dir, mark), []byte(app.UID), 0o600)
}

// emptyTree is git's name of a tree without files.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// findConflicts fills in what can't be merged, and the trees of what was.
func (c *Controller) findConflicts(ctx context.Context, s *subject) error {
	s.view.Unmergeable = map[string]string{}
	for _, m := range s.view.Changes {
		if m.Status.Merged != "" {
			tree, err := c.apps.tree(ctx, s.repo, m.Status.Merged)
			if err != nil {
				c.Log.Warn("the commit of a merged change is not in the repository", "change", m.Name, "err", err)
				continue
			}
			s.view.Trees[m.Status.Merged] = tree
			continue
		}
		if change.Ended(m) || m.Spec.Untrusted && !change.MayRun(s.app.Spec.Policy, m) {
			continue
		}
		err := c.apps.applies(ctx, s, m)
		switch {
		case unmergeable(err):
			s.view.Unmergeable[m.Name] = err.Error()
		case err != nil:
			return err
		}
	}
	s.view.Conflicts = c.apps.conflicts(s)
	return nil
}

// act carries actions out, and says whether any of them changed what a view is made
// from.
func (c *Controller) act(ctx context.Context, s *subject, actions []change.Action) (wrote bool, err error) {
	wanted, apart := map[string]bool{}, map[string]bool{}
	merging := false
	for _, a := range actions {
		var did bool
		switch a.Kind {
		case change.Reset:
			did, err = true, c.reset(ctx, s, a)
		case change.End:
			did, err = true, c.end(ctx, s, a)
		case change.Order:
			wanted[c.order(ctx, s, a)] = true
		case change.Start:
			did, err = c.start(ctx, s, a)
		case change.Later:
			s.again = max(time.Until(a.At), time.Millisecond)
		case change.Abandon:
			did, err = true, c.abandon(ctx, s, a)
		case change.Merge:
			merging = true
			did, err = c.merge(ctx, s, a)
		case change.Along:
			did, err = true, c.along(ctx, s, a)
		case change.Apart:
			apart[c.startApart(s, a)] = true
		case change.Preview:
			c.startPreview(s, a)
		case change.Deploy:
			c.startDeploy(s, a)
		}
		if err != nil {
			return wrote, fmt.Errorf("%s change %s: %w", a.Kind, a.Change, err)
		}
		wrote = wrote || did
	}
	if !merging {
		c.withdraw(client.ObjectKeyFromObject(s.app))
	}
	if !wrote {
		c.strangers.only(client.ObjectKeyFromObject(s.app), apart)
		c.hub.Withdraw("nobody wants it any more", func(o work.Order) bool {
			return o.Namespace != s.app.Namespace || o.App != s.app.Name || wanted[o.ID()]
		})
	}
	return wrote, nil
}

func (c *Controller) key(s *subject, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: s.app.Namespace, Name: name}
}

func (c *Controller) reset(ctx context.Context, s *subject, a change.Action) error {
	_, err := c.update(ctx, c.key(s, a.Change), func(m *v1alpha1.Change) error {
		m.Status = change.Again(m.Status, a.Attempt)
		return nil
	})
	return err
}

func (c *Controller) end(ctx context.Context, s *subject, a change.Action) error {
	_, err := c.update(ctx, c.key(s, a.Change), func(m *v1alpha1.Change) error {
		if change.Ended(m) {
			return errUnchanged
		}
		m.Status.Phase, m.Status.Message, m.Status.Current = a.Phase, a.Message, ""
		m.Status.Steps = change.Compose(s.view, m)
		status := metav1.ConditionFalse
		if a.Phase == v1alpha1.Deployed {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
			Type: v1alpha1.Succeeded, Status: status, Reason: cmp.Or(a.Reason, a.Phase), Message: a.Message, ObservedGeneration: m.Generation,
		})
		return nil
	})
	return err
}

// order has a worker do a step and returns the order's id.
func (c *Controller) order(ctx context.Context, s *subject, a change.Action) string {
	m := s.change(a.Change)
	policy := s.app.Spec.Policy
	o := work.Order{
		Namespace: s.app.Namespace, App: s.app.Name, Change: m.Name, Step: a.Step, Attempt: m.Status.Attempt,
		Commit: m.Spec.Commit, Base: s.tip, Directory: s.app.Spec.Directory, Untrusted: m.Spec.Untrusted,
		Timeout: time.Duration(max(policy.StepMinutes, 1)) * time.Minute,
		Policy:  work.Policy{RefuseAt: strings.ToLower(policy.RefuseAt), Quarantine: policy.Flakes == "Quarantine", Tests: testLimits(policy)},
	}
	steps := m.Status.Steps
	if a.Run >= 0 {
		o.Commit, steps = m.Status.Runs[a.Run].Commit, m.Status.Runs[a.Run].Steps
	}
	if s.tip != "" {
		if base, err := c.apps.mergeBase(ctx, s.repo, s.tip, o.Commit); err == nil {
			o.Base = base
		}
	}
	if a.Split && !o.Untrusted {
		o.Workers = len(c.hub.Free(o))
	}
	if st := change.StepOf(steps, a.Step); st != nil && a.Part > 0 {
		orderPart(&o, a.Part, st)
	} else if st != nil && st.State == v1alpha1.StepRunning {
		o.Lease = st.Lease + 1 // its lease was given by a controller that is no more, or it is still held
	}
	if a.Step == v1alpha1.ReviewStep {
		o.Base = reviewBase(ctx, s, m, o.Base)
	}
	c.hub.Offer(o)
	return o.ID()
}

// start begins a run, also of what was abandoned before.
func (c *Controller) start(ctx context.Context, s *subject, a change.Action) (bool, error) {
	var members []*v1alpha1.Change
	run := v1alpha1.Run{Base: s.view.Tree, Changes: a.Changes, State: v1alpha1.RunRunning, Attempt: a.Attempt}
	for _, name := range a.Changes {
		m := s.change(name)
		members, run.Heads = append(members, m), append(run.Heads, m.Spec.Commit)
	}
	combined, err := c.apps.combine(ctx, s, members)
	if unmergeable(err) {
		return true, nil // the next view knows of it
	}
	if err != nil {
		return false, err
	}
	run.Commit = combined[len(combined)-1]
	_, err = c.update(ctx, c.key(s, a.Change), func(m *v1alpha1.Change) error {
		if m.Status.Merged != "" || change.Ended(m) || slices.ContainsFunc(m.Status.Runs, func(r v1alpha1.Run) bool {
			return r.Base == run.Base && slices.Equal(r.Changes, run.Changes) && r.Attempt == run.Attempt && r.State != v1alpha1.RunCancelled
		}) {
			return errUnchanged
		}
		m.Status.Runs = append(m.Status.Runs, run)
		return nil
	})
	return true, err
}

func (c *Controller) abandon(ctx context.Context, s *subject, a change.Action) error {
	_, err := c.update(ctx, c.key(s, a.Change), func(m *v1alpha1.Change) error {
		if a.Run >= len(m.Status.Runs) || m.Status.Runs[a.Run].State != v1alpha1.RunRunning {
			return errUnchanged
		}
		r := &m.Status.Runs[a.Run]
		r.State = v1alpha1.RunCancelled
		for i := range r.Steps {
			if st := &r.Steps[i]; st.State == v1alpha1.StepRunning || st.State == v1alpha1.StepWaiting {
				st.State, st.Ended, st.Message = v1alpha1.StepCancelled, ptrNow(), a.Message
			}
		}
		return nil
	})
	return err
}

// along notes that a later change brought this one to an environment.
func (c *Controller) along(ctx context.Context, s *subject, a change.Action) error {
	_, err := c.update(ctx, c.key(s, a.Change), func(m *v1alpha1.Change) error {
		m.Status.Steps = change.SetStep(m.Status.Steps, v1alpha1.Step{
			Name: a.Step, State: v1alpha1.StepPassed, Started: ptrNow(), Ended: ptrNow(), Message: "went along with " + a.By,
			Evidence: map[string]string{"with": a.By},
		})
		return nil
	})
	return err
}

// compose brings the timelines of the changes up to date.
func (c *Controller) compose(ctx context.Context, s *subject) error {
	for _, m := range s.view.Changes {
		steps := change.Compose(s.view, m)
		phase, current, message := m.Status.Phase, m.Status.Current, m.Status.Message
		if !change.Ended(m) {
			if !c.hub.Takes(s.app.Namespace+"/"+s.app.Name, m.Spec.Untrusted) {
				steps = waiting(steps, m.Spec.Untrusted)
			}
			composed := m.DeepCopy()
			composed.Status.Steps = steps
			phase, current, message = change.Describe(s.view, composed)
		}
		if reflect.DeepEqual(steps, m.Status.Steps) && phase == m.Status.Phase && current == m.Status.Current && message == m.Status.Message {
			continue
		}
		_, err := c.update(ctx, client.ObjectKeyFromObject(m), func(now *v1alpha1.Change) error {
			if version(now) != version(m) {
				return errUnchanged // it has changed meanwhile, and is looked at again
			}
			now.Status.Steps, now.Status.Phase, now.Status.Current, now.Status.Message = steps, phase, current, message
			return nil
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// waiting adds the steps that nobody is there to do.
func waiting(steps []v1alpha1.Step, untrusted bool) []v1alpha1.Step {
	message := "waits for a worker: run bight worker, or bight ship, which is one"
	if untrusted {
		message = "waits for a worker that takes what strangers have made: run bight worker --untrusted"
	}
	if s := change.StepOf(steps, v1alpha1.ReviewStep); s == nil {
		return append(steps, v1alpha1.Step{Name: v1alpha1.ReviewStep, State: v1alpha1.StepWaiting, Message: message})
	}
	return steps
}

// report writes the status of the app.
func (c *Controller) report(ctx context.Context, app *v1alpha1.App, s *subject, failed error) error {
	was := app.DeepCopy()
	st := &app.Status
	st.ObservedGeneration = app.Generation
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Serving", Message: "its repository is served", ObservedGeneration: app.Generation}
	if failed != nil {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "Error", failed.Error()
	}
	if failed == nil {
		c.sources.report(client.ObjectKeyFromObject(app), app.Generation, &ready, &st.Conditions)
	}
	meta.SetStatusCondition(&st.Conditions, ready)
	if s != nil {
		st.Head = s.tip
		st.Environments = c.envs.report(s)
	}
	if reflect.DeepEqual(was.Status, app.Status) {
		return nil
	}
	return client.IgnoreNotFound(c.client.Status().Patch(ctx, app, client.MergeFrom(was)))
}

// keepEnded is how many changes of an app that have ended are kept.
const keepEnded = 200

// expire removes the tickets of a namespace that are good for nothing, and says when
// the next one will be: 0 for none. Their owners give them back unless they are killed.
func (c *Controller) expire(ctx context.Context, namespace string) (next time.Duration, err error) {
	var tickets v1alpha1.TicketList
	if err := c.client.List(ctx, &tickets, client.InNamespace(namespace)); err != nil {
		return 0, err
	}
	for i := range tickets.Items {
		t := &tickets.Items[i]
		left := v1alpha1.TicketSeconds*time.Second - time.Since(t.CreationTimestamp.Time)
		switch {
		case left <= 0:
			err = errors.Join(err, client.IgnoreNotFound(c.client.Delete(ctx, t)))
		case next == 0 || left < next:
			next = left
		}
	}
	return next, err
}

// tidy removes the oldest changes that have ended.
func (c *Controller) tidy(ctx context.Context, s *subject) error {
	var ended []*v1alpha1.Change
	for _, m := range s.view.Changes {
		if change.Ended(m) {
			ended = append(ended, m)
		}
	}
	if len(ended) <= keepEnded {
		return nil
	}
	slices.SortFunc(ended, func(a, b *v1alpha1.Change) int { return int(min(max(a.Spec.Order-b.Spec.Order, -1), 1)) })
	for _, m := range ended[:len(ended)-keepEnded] {
		if err := c.client.Delete(ctx, m); client.IgnoreNotFound(err) != nil {
			return err
		}
		if err := c.files.remove(m.Namespace, m.Name); err != nil {
			return err
		}
	}
	return nil
}

// forget ends what is done for an app that is no more, and removes its repository. Its
// environments stay.
func (c *Controller) forget(ctx context.Context, key client.ObjectKey) error {
	c.hub.Withdraw("the app is deleted", func(o work.Order) bool { return o.Namespace != key.Namespace || o.App != key.Name })
	c.envs.stop(key)
	c.sources.stop(key)
	c.apps.forget(key)
	return errors.Join(c.store.Remove(key.Namespace, key.Name), c.results.remove(key), c.removePreviews(ctx, key))
}
