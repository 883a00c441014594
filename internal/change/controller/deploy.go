package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/session"
)

// environments brings changes to environments. In each, one goroutine works towards
// the newest target; an older one's wait ends when a newer comes. It is safe for
// concurrent use.
type environments struct {
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	client  client.Client
	live    client.Reader // past the cache
	log     *slog.Logger

	mu    sync.Mutex
	under map[place]*rollout
	then  map[place]func(context.Context) // heals, when what is under way has ended
	drift map[place]*drift
	have  []desired // that were read last
	life  context.Context
	tasks sync.WaitGroup
}

// place is one environment of one app.
type place struct {
	app       client.ObjectKey
	namespace string
}

// rollout is a target that is worked towards.
type rollout struct {
	target string
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

// errNewer is why a rollout ends early.
var errNewer = errors.New("a newer change takes its place")

// begin works towards a target, unless that is what is done already. The work of an
// older target has ended when that of the new one begins.
func (e *environments) begin(p place, target string, do func(context.Context)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.beginLocked(p, target, do)
}

func (e *environments) beginLocked(p place, target string, do func(context.Context)) {
	old := e.under[p]
	if e.life == nil || e.life.Err() != nil || old != nil && old.target == target {
		return
	}
	ctx, cancel := context.WithCancelCause(e.life)
	now := &rollout{target: target, cancel: cancel, ended: make(chan struct{})}
	if e.under == nil {
		e.under = map[place]*rollout{}
	}
	e.under[p] = now
	if old != nil {
		old.cancel(errNewer)
	}
	e.tasks.Go(func() {
		if old != nil {
			<-old.ended
		}
		do(ctx)
		cancel(nil)
		e.mu.Lock()
		var heal func(context.Context)
		if e.under[p] == now {
			heal = e.then[p]
			delete(e.under, p)
			delete(e.then, p)
		}
		e.mu.Unlock()
		close(now.ended)
		if heal != nil {
			e.heal(p, heal)
		}
	})
}

// healing is what an environment is a target of that is put back to its desired state.
const healing = "heal"

// heal begins to put an environment back, when what is under way there has ended.
func (e *environments) heal(p place, do func(context.Context)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.under[p] == nil {
		e.beginLocked(p, healing, do)
		return
	}
	if e.then == nil {
		e.then = map[place]func(context.Context){}
	}
	e.then[p] = do
}

// idle waits until nothing is under way in an environment.
func (e *environments) idle(ctx context.Context, p place) error {
	for {
		e.mu.Lock()
		r := e.under[p]
		e.mu.Unlock()
		if r == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ended:
		}
	}
}

// start lets work begin, which ends with ctx.
func (e *environments) start(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.life = ctx
}

// stop ends what is done for an app.
func (e *environments) stop(key client.ObjectKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p, r := range e.under {
		if p.app == key {
			r.cancel(errors.New("the app is deleted"))
		}
	}
}

// target is what is worked towards in an environment, "" for nothing.
func (e *environments) target(p place) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.under[p]; r != nil {
		return r.target
	}
	return ""
}

// artifacts is what a run's build has left.
type artifacts struct {
	app    *app.App
	images map[string]string
}

// built returns what a run's build has left.
func (c *Controller) built(run v1alpha1.Run) (artifacts, error) {
	s := change.StepOf(run.Steps, v1alpha1.BuildStep)
	if s == nil {
		return artifacts{}, errors.New("the build's result is not known")
	}
	b, err := c.files.get(s.Evidence[AppFile])
	if err != nil {
		return artifacts{}, fmt.Errorf("read what the build has left (%s): %w; bight change retry builds it anew", s.Evidence[AppFile], err)
	}
	a := artifacts{app: &app.App{}, images: run.Images}
	if err := json.Unmarshal(b, a.app); err != nil {
		return artifacts{}, fmt.Errorf("read the app: %w", err)
	}
	return a, nil
}

// AppFile is the name of the app model among the files that a build leaves.
const AppFile = "app.json"

// render returns the objects of an environment. Its pods have grace to end, 0 for as
// long as is usual, and doors if new versions are to take over from them.
func (a artifacts) render(namespace string, grace time.Duration, doors bool) ([]deploy.Object, error) {
	commands := map[string][]string{}
	for _, s := range a.app.Services {
		command, err := session.Command(s)
		if err != nil {
			return nil, err
		}
		commands[s.Name] = command
	}
	o := deploy.RenderOptions{Environment: namespace, Images: a.images, Commands: commands, Grace: grace}
	if doors {
		o.Annotations = map[string]string{v1alpha1.DoorsAnnotation: "true"}
	}
	return deploy.Render(a.app, o)
}

// startDeploy brings a merged change to an environment in the background.
func (c *Controller) startDeploy(s *subject, a change.Action) {
	m := s.change(a.Change)
	i := slices.IndexFunc(s.app.Spec.Environments, func(e v1alpha1.Environment) bool { return e.Name == a.Environment })
	lead := s.change(m.Status.MergedBy)
	if i < 0 || lead == nil {
		return
	}
	e := s.app.Spec.Environments[i]
	p := place{client.ObjectKeyFromObject(s.app), change.Namespace(s.app.Name, e)}
	run := passedRun(lead)
	key := client.ObjectKeyFromObject(m)
	appCopy, store := s.app.DeepCopy(), s.repo
	c.envs.begin(p, fmt.Sprintf("%s/%d", m.Name, m.Status.Attempt), func(ctx context.Context) {
		started := ptrNow()
		running := v1alpha1.Step{Name: a.Step, State: v1alpha1.StepRunning, Commit: m.Status.Merged, Started: started, Message: "applying to " + p.namespace}
		if !c.step(ctx, key, m.Status.Attempt, running) {
			return
		}
		done := c.deploy(ctx, appCopy, store, e, m, run)
		if cause := context.Cause(ctx); cause != nil && done.State != v1alpha1.StepPassed {
			if !errors.Is(cause, errNewer) {
				return // this process ends; the next one begins again
			}
			done = v1alpha1.Step{State: v1alpha1.StepWaiting, Message: cause.Error()}
		}
		done.Name, done.Started, done.Ended, done.Commit = a.Step, started, ptrNow(), m.Status.Merged
		c.step(context.WithoutCancel(ctx), key, m.Status.Attempt, done)
	})
}

// passedRun is the run that a change was merged on.
func passedRun(lead *v1alpha1.Change) v1alpha1.Run {
	for _, r := range slices.Backward(lead.Status.Runs) {
		if r.State == v1alpha1.RunPassed {
			return r
		}
	}
	return v1alpha1.Run{}
}

// step notes one of a change's own steps, and has the app looked at. It returns false,
// and notes nothing, if the step is to begin and is not to any more: what was decided
// some seconds ago may have been done since.
func (c *Controller) step(ctx context.Context, key client.ObjectKey, attempt int32, s v1alpha1.Step) bool {
	now, err := c.update(ctx, key, func(m *v1alpha1.Change) error {
		if s.State == v1alpha1.StepRunning && (m.Status.Attempt != attempt || over(m.Status.Steps, s.Name)) {
			return errNoMore
		}
		m.Status.Steps = change.SetStep(m.Status.Steps, s)
		return nil
	})
	switch {
	case errors.Is(err, errNoMore):
		return false
	case err != nil:
		c.Log.Warn("a step is not written down", "change", key.Name, "step", s.Name, "err", err)
	default:
		c.wakeApp(key.Namespace, now.Spec.App)
	}
	return true
}

// over reports whether a step has ended.
func over(steps []v1alpha1.Step, name string) bool {
	state := change.State(steps, name)
	return state != v1alpha1.StepWaiting && state != v1alpha1.StepRunning
}

func erred(err error) v1alpha1.Step {
	return v1alpha1.Step{State: v1alpha1.StepErred, Message: err.Error()}
}

func refused(format string, args ...any) v1alpha1.Step {
	return v1alpha1.Step{State: v1alpha1.StepFailed, Message: fmt.Sprintf(format, args...)}
}

// deploy writes an environment's desired state to its branch and applies it from
// there. When that fails or does not come to serve, the state before is put back.
func (c *Controller) deploy(ctx context.Context, a *v1alpha1.App, r *repo.Repository, e v1alpha1.Environment, m *v1alpha1.Change, run v1alpha1.Run) v1alpha1.Step {
	namespace := change.Namespace(a.Name, e)
	art, err := c.built(run)
	if err != nil {
		return erred(err)
	}
	if bad := c.verified(ctx, a, run); bad != nil {
		return *bad
	}
	objs, err := art.render(namespace, 0, e.Release != nil)
	if err != nil {
		return refused("%s", err)
	}
	err = insist(ctx, func() error { return c.envs.ensure(ctx, a, namespace, e.Name) })
	if err != nil {
		return erred(err)
	}
	err = insist(ctx, func() error { return c.envs.secrets(ctx, namespace, objs) })
	if err != nil {
		return refused("%s", err)
	}
	files, err := deploy.Desired(namespace, objs)
	if err != nil {
		return erred(err)
	}
	before, commit, err := c.envs.record(ctx, r, EnvironmentRef(e.Name), files, m)
	if err != nil {
		return erred(fmt.Errorf("write the desired state: %w", err))
	}
	result, err := c.bring(ctx, a, e, r, commit, art, m)
	if err == nil {
		s := v1alpha1.Step{
			State: v1alpha1.StepPassed, Evidence: map[string]string{"commit": commit}, Services: result.services, Message: result.String() + " in " + namespace,
		}
		if commit == before && !result.changed {
			s.Cached = "the environment is so already, by " + short(commit)
		}
		return s
	}
	if ctx.Err() != nil {
		return erred(err) // who goes on finds on the branch what was begun
	}
	return c.fails(ctx, &deployment{a, r, e, m, before, commit}, result.services, err)
}

// insistence is how long an API server may take until it is there and knows our rights.
const insistence = 30 * time.Second

// insist tries again for a while when an API server goes away, or says that we have no
// right: one that has just started does not know yet who has which.
func insist(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, insistence)
	defer cancel()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := do()
		if !withoutRight(err) && !away(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// away reports whether an error is for want of an API server.
func away(err error) bool {
	return err != nil && (utilnet.IsConnectionReset(err) || utilnet.IsConnectionRefused(err) || utilnet.IsProbableEOF(err) || utilnet.IsHTTP2ConnectionLost(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err))
}

// withoutRight reports whether an error is for want of a right, and not of a quota's or
// a policy's making, which time does not mend.
func withoutRight(err error) bool {
	if _, ok := errors.AsType[*deploy.RefusedError](err); ok {
		return false
	}
	_, ok := errors.AsType[*deploy.RightsError](err)
	return ok || apierrors.IsForbidden(err)
}

// EnvironmentRef is the branch with an environment's desired state.
func EnvironmentRef(environment string) string { return "refs/heads/bight/" + environment }

// record commits a desired state to a branch, and returns the commit before and the
// one that has it. They are the same where nothing differs.
func (e *environments) record(ctx context.Context, r *repo.Repository, ref string, files map[string][]byte, m *v1alpha1.Change) (before, commit string, err error) {
	var none *repo.NotFoundError
	before, err = r.Resolve(ctx, ref)
	if err != nil && !errors.As(err, &none) {
		return "", "", err
	}
	if before != "" {
		have, err := e.desiredAt(ctx, r, before)
		if err != nil {
			return "", "", err
		}
		if deploy.Same(have, files) {
			return before, before, nil
		}
	}
	by := repo.Signature{Name: "Bight", Email: "bight@bight.dev", When: time.Now()}
	commit, err = r.WriteCommit(ctx, repo.Writing{
		Parent: before, Files: files, Whole: true, Author: by, Committer: by,
		Message: fmt.Sprintf("Deploy %s: %s\n\nChange: %s\nCommit: %s\n", m.Name, m.Spec.Title, m.Name, m.Status.Merged),
	})
	if err != nil {
		return "", "", err
	}
	e.knows(desired{commit, files})
	return before, commit, r.UpdateRef(ctx, ref, commit, before)
}

// putBack commits the state before as the newest.
func (e *environments) putBack(ctx context.Context, r *repo.Repository, ref, before, failed string, m *v1alpha1.Change) (string, error) {
	files, err := e.desiredAt(ctx, r, before)
	if err != nil {
		return "", err
	}
	by := repo.Signature{Name: "Bight", Email: "bight@bight.dev", When: time.Now()}
	commit, err := r.WriteCommit(ctx, repo.Writing{
		Parent: failed, Files: files, Whole: true, Author: by, Committer: by,
		Message: fmt.Sprintf("Put back what was before %s\n\nIt did not come to serve.\nChange: %s\n", m.Name, m.Name),
	})
	if err != nil {
		return "", err
	}
	return commit, r.UpdateRef(ctx, ref, commit, failed)
}

// maxDesired is the largest file of a desired state.
const maxDesired = 4 << 20

// desired is what a commit has, which never changes.
type desired struct {
	commit string
	files  map[string][]byte
}

// keepDesired is how many desired states are kept.
const keepDesired = 32

// desiredAt returns the files of a desired state, which are not to be changed.
func (e *environments) desiredAt(ctx context.Context, r *repo.Repository, commit string) (map[string][]byte, error) {
	e.mu.Lock()
	i := slices.IndexFunc(e.have, func(d desired) bool { return d.commit == commit })
	if i >= 0 {
		defer e.mu.Unlock()
		return e.have[i].files, nil
	}
	e.mu.Unlock()
	files, err := r.Files(ctx, commit, maxDesired)
	if err == nil {
		e.knows(desired{commit, files})
	}
	return files, err
}

func (e *environments) knows(d desired) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.have) >= keepDesired {
		e.have = e.have[1:]
	}
	e.have = append(e.have, d)
}

// applied is what applying did.
type appliedState struct {
	changed  bool
	text     string
	services []string // of which something was altered, sorted
}

func (a appliedState) String() string { return a.text }

// add is what is done after what was done.
func (a *appliedState) add(b appliedState) {
	switch {
	case a.text == "" || !a.changed:
		a.text = b.text
	case b.changed:
		a.text += ", " + b.text
	}
	a.changed = a.changed || b.changed
	a.services = slices.Compact(slices.Sorted(slices.Values(slices.Concat(a.services, b.services))))
}

// apply makes a namespace equal to the desired state that a commit has, but for what is
// left to releases. What others have changed of it is put back.
func (e *environments) apply(ctx context.Context, appName, namespace string, r *repo.Repository, commit string, how releasing) (appliedState, held, error) {
	files, err := e.desiredAt(ctx, r, commit)
	if err != nil {
		return appliedState{}, held{}, err
	}
	objs, err := deploy.ReadDesired(namespace, files)
	if err != nil {
		return appliedState{}, held{}, err
	}
	objs, h, err := e.hold(ctx, namespace, objs, how)
	if err != nil {
		return appliedState{}, h, err
	}
	applier := &deploy.Applier{Client: e.typed, Dynamic: e.dynamic, Log: e.log, TakeOver: true, Leave: h.leave}
	result, err := applier.Apply(ctx, appName, namespace, objs)
	if err != nil {
		return appliedState{}, h, err
	}
	count := map[deploy.Action]int{}
	var names, services []string
	for _, d := range result.Objects {
		count[d.Action]++
		if d.Action != deploy.Unchanged && d.Action != deploy.Kept {
			names = append(names, string(d.Action)+" "+d.Ref.String())
			if d.Service != "" {
				services = append(services, d.Service)
			}
		}
	}
	out := appliedState{changed: result.Changed(), services: slices.Compact(slices.Sorted(slices.Values(services))), text: fmt.Sprintf("%d objects as they were", count[deploy.Unchanged])}
	if out.changed {
		out.text = strings.Join(names, ", ")
		if len(names) > 6 {
			out.text = strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
		}
	}
	return out, h, nil
}

// served waits until the services of an app serve, or never will.
func (e *environments) served(ctx context.Context, a *app.App, namespace string) error {
	w := &deploy.Waiter{Client: e.typed, Log: e.log}
	return w.Wait(ctx, deploy.Rollout{App: a, Namespace: namespace, Start: time.Now()})
}

// ensure makes an environment's namespace, and refuses one that is not the app's.
func (e *environments) ensure(ctx context.Context, a *v1alpha1.App, namespace, name string) error {
	labels := map[string]string{v1alpha1.AppLabel: a.Name, v1alpha1.AppNamespaceLabel: a.Namespace, v1alpha1.EnvironmentLabel: name}
	applier := &deploy.Applier{Client: e.typed, Dynamic: e.dynamic, Log: e.log}
	if _, err := applier.EnsureNamespace(ctx, namespace, labels); err != nil {
		return err
	}
	ns := &corev1.Namespace{}
	if err := e.client.Get(ctx, client.ObjectKey{Name: namespace}, ns); err != nil {
		return err
	}
	if ns.Labels[v1alpha1.AppLabel] != a.Name || ns.Labels[v1alpha1.AppNamespaceLabel] != a.Namespace {
		return fmt.Errorf("namespace %s is not an environment of app %s: who administers it can make it one with kubectl label namespace %s %s=%s %s=%s",
			namespace, a.Name, namespace, v1alpha1.AppLabel, a.Name, v1alpha1.AppNamespaceLabel, a.Namespace)
	}
	return nil
}

// secrets checks that what the app wants to be told in secret is there: it is kept in
// no repository, so whoever owns the environment puts it there.
func (e *environments) secrets(ctx context.Context, namespace string, objs []deploy.Object) error {
	var missing []string
	for name, keys := range deploy.SecretsOf(objs) {
		s, err := e.typed.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		var lacks []string
		for _, k := range keys {
			if err != nil || s.Data[k] == nil {
				lacks = append(lacks, k)
			}
		}
		if len(lacks) > 0 {
			missing = append(missing, fmt.Sprintf("secret/%s (%s)", name, strings.Join(lacks, ", ")))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("namespace %s lacks %s: make it with kubectl create secret generic -n %s NAME --from-literal KEY=VALUE; values of secrets are not deployed from a repository",
		namespace, strings.Join(missing, ", "), namespace)
}
