package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/kube/follow"
)

// Waiter waits for rollouts. It watches; it never polls.
type Waiter struct {
	Client   kubernetes.Interface
	Log      *slog.Logger // nil discards
	Patience Patience

	// Progress is told of each pod's steps, from one goroutine; nil is told nothing.
	Progress func(Progress)

	// Exits are the ends of processes whose agents outlive them, which kubelet
	// never sees. It may be nil and need not be closed.
	Exits <-chan Exit

	// Ask returns nil once a pod itself has said that it serves, or an error when nobody can
	// tell. Kubelet asks as a container starts, and then once a second: whoever asks more
	// often knows sooner. A pod that has said so counts as ready, whatever pods of older
	// revisions still serve. It is called once for each running pod; nil goes by kubelet.
	Ask func(context.Context, *app.Service, *corev1.Pod) error

	// KeepGoing returns only when every service is ready or failed. Otherwise the
	// first failure ends the wait.
	KeepGoing bool
}

// Rollout is what is waited for.
type Rollout struct {
	App       *app.App
	Namespace string
	Start     time.Time // when it began; Progress counts from here
}

// Phase is a step of a pod, or of a service, on its way.
type Phase string

// Phases of a [Progress], in order.
const (
	PhaseScheduled Phase = "scheduled"
	PhasePulling   Phase = "pulling"
	PhasePulled    Phase = "pulled"
	PhaseStarted   Phase = "started"
	PhaseReady     Phase = "ready"   // of a pod
	PhaseServing   Phase = "serving" // of a service: all its pods are ready, and no old one serves
	PhaseFailed    Phase = "failed"  // of a service
)

// Progress is one step. Since is what was measured here, from Rollout.Start to
// the moment at which the step was seen.
type Progress struct {
	Service string
	Pod     string // "" for steps of a service
	Phase   Phase
	Since   time.Duration
	Failure *Failure // with PhaseFailed
}

// Wait returns nil when the newest revision of every service is fully ready and
// no older pod serves. When that cannot come true it returns a *RolloutError
// that says why; when ctx ends, one that says what was still missing. Pods that
// an earlier attempt left waiting for their next try are replaced at once.
func (w *Waiter) Wait(ctx context.Context, r Rollout) error {
	f := &follower{
		Waiter: w, rollout: r, view: newView(), seen: Seen{},
		told: map[string]bool{}, logs: map[string][]string{}, retried: map[types.UID]bool{}, settled: map[types.UID]bool{},
		asked: map[types.UID]bool{}, says: make(chan types.UID),
	}
	versions, err := f.prime(ctx)
	if err != nil {
		return err
	}
	f.retryStuck(ctx)
	if done, err := f.judge(ctx); done {
		return err
	}
	return f.watch(ctx, versions)
}

// Look says once where a rollout stands. Since nobody knows for how long it has been
// so, whatever keeps a service from being ready is a failure at once. exits are the
// processes that have ended and do not run.
func (w *Waiter) Look(ctx context.Context, r Rollout, exits ...Exit) ([]Verdict, error) {
	f := &follower{Waiter: w, rollout: r, view: newView(), logs: map[string][]string{}, settled: map[types.UID]bool{}}
	if _, err := f.prime(ctx); err != nil {
		return nil, err
	}
	if events, _, err := f.sources()["events"].Snapshot(ctx); err == nil { // they only add words
		f.view.apply("events", follow.Change{All: events})
	}
	for _, e := range exits {
		e.Count = max(e.Count, crashesForgiven)
		f.view.exits[e.Pod] = e
	}
	const none = -time.Nanosecond
	verdicts, _ := Judge(time.Now(), Patience{Schedule: none, Refused: none, Start: none, Probe: none}, Seen{}, f.view.observations(r.App))
	for _, v := range verdicts {
		if v.Failure != nil {
			f.addLog(ctx, v.Failure)
			v.Failure.Log = lastRun(v.Failure.Log)
		}
	}
	return verdicts, nil
}

// lastRun returns what the last of several processes wrote that all wrote the same but
// for numbers, as the agent's container has it when it starts one after the other.
func lastRun(log []string) []string {
	same := func(a, b string) bool { return withoutDigits(a) == withoutDigits(b) }
	for n := 1; 2*n <= len(log); n++ {
		if slices.EqualFunc(log[len(log)-n:], log[len(log)-2*n:len(log)-n], same) {
			return log[len(log)-n:]
		}
	}
	return log
}

func withoutDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// follower is one call of Wait.
type follower struct {
	*Waiter
	rollout Rollout
	view    *view
	seen    Seen
	told    map[string]bool     // steps that Progress has heard of
	logs    map[string][]string // last lines of failed pods
	settled map[types.UID]bool  // pods that were ready before the wait
	retried map[types.UID]bool  // pods that were deleted for another attempt
	asked   map[types.UID]bool  // pods that Ask was called for
	says    chan types.UID      // pods that have said that they serve
	recheck time.Time
	failed  []*Failure
}

// sources are the collections that decide about a rollout. Events only add
// words: without the right to see them the rest still works.
func (f *follower) sources() map[string]follow.Source {
	ns := f.rollout.Namespace
	apps, core := f.Client.AppsV1(), f.Client.CoreV1()
	mine := metav1.ListOptions{LabelSelector: labelInstance + "=" + f.rollout.App.Name + "," + labelManagedBy + "=" + FieldManager}
	return map[string]follow.Source{
		"deployments": follow.Of(apps.Deployments(ns), mine),
		"replicasets": follow.Of(apps.ReplicaSets(ns), mine),
		"pods":        follow.Of(core.Pods(ns), mine),
		"events":      follow.Of(core.Events(ns), metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod"}),
	}
}

// prime reads the present state once, which is all there is to do when nothing
// has changed. It returns from which version to watch each source.
func (f *follower) prime(ctx context.Context) (map[string]string, error) {
	type answer struct {
		name, version string
		objs          []runtime.Object
	}
	answers := make(chan answer, 3)
	var g errgroup.Group
	for name, src := range f.sources() {
		if name == "events" {
			continue
		}
		g.Go(func() error {
			objs, version, err := src.Snapshot(ctx)
			if err != nil {
				return fmt.Errorf("list %s in namespace %s: %w", name, f.rollout.Namespace, err)
			}
			answers <- answer{name, version, objs}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	close(answers)
	versions := map[string]string{"events": ""}
	for a := range answers {
		versions[a.name] = a.version
		f.view.apply(a.name, follow.Change{All: a.objs})
	}
	for uid, p := range f.view.pods {
		if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
			f.settled[uid] = true
		}
	}
	return versions, nil
}

// news is one change of one source.
type news struct {
	source string
	change follow.Change
}

// listen follows all sources, each in a goroutine of g, and sends what changes.
func (f *follower) listen(ctx context.Context, g *errgroup.Group, versions map[string]string) <-chan news {
	in := make(chan news)
	for name, src := range f.sources() {
		g.Go(func() error {
			err := src.Changes(ctx, versions[name], func(c follow.Change) error {
				select {
				case in <- news{name, c}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case name == "events" && apierrors.IsForbidden(err):
				return nil // events only add words
			}
			return fmt.Errorf("watch %s in namespace %s: %w", name, f.rollout.Namespace, err)
		})
	}
	return in
}

// watch follows all sources until the rollout is decided.
func (f *follower) watch(parent context.Context, versions map[string]string) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	in, exits := f.listen(ctx, g, versions), f.Exits
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		f.ask(ctx, g)
		timer.Stop()
		if !f.recheck.IsZero() {
			timer.Reset(time.Until(f.recheck))
		}
		select {
		case n := <-in:
			f.view.apply(n.source, n.change)
			maps.DeleteFunc(f.view.pods, func(uid types.UID, _ *corev1.Pod) bool { return f.retried[uid] })
		case e, ok := <-exits:
			if !ok {
				exits = nil
				break
			}
			f.view.exits[e.Pod] = e
		case uid := <-f.says:
			f.view.serving[uid] = true
		case <-timer.C:
		case <-ctx.Done():
			broken := g.Wait()
			if parent.Err() == nil {
				return broken // a source broke
			}
			return &RolloutError{Failures: f.failed, Waiting: f.waiting(), Err: context.Cause(parent)}
		}
		if done, err := f.judge(parent); done {
			cancel()
			if broken := g.Wait(); broken != nil && !errors.Is(broken, context.Canceled) {
				f.log().Debug("watch ended with the rollout", "err", broken)
			}
			return err
		}
	}
}

// ask begins to ask the pods that run by now, each in a goroutine of g.
func (f *follower) ask(ctx context.Context, g *errgroup.Group) {
	if f.Ask == nil {
		return
	}
	for uid, p := range f.view.pods {
		s := f.rollout.App.Service(p.Labels[labelName])
		if s == nil || f.asked[uid] || p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" {
			continue
		}
		f.asked[uid] = true
		g.Go(func() error {
			if err := f.Ask(ctx, s, p); err != nil {
				f.log().Debug("a pod was not asked whether it serves", "pod", p.Name, "err", err)
				return nil // kubelet's word is waited for
			}
			select {
			case f.says <- uid:
			case <-ctx.Done():
			}
			return nil
		})
	}
}

func (w *Waiter) log() *slog.Logger {
	if w.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return w.Log
}

// judge looks at the view, tells of what is new, and reports whether the
// rollout is decided.
func (f *follower) judge(ctx context.Context) (bool, error) {
	obs := f.view.observations(f.rollout.App)
	verdicts, seen := Judge(time.Now(), f.Patience, f.seen, obs)
	f.seen, f.recheck, f.failed = seen, time.Time{}, nil
	settled := true
	for i, v := range verdicts {
		f.tellPods(obs[i])
		switch v.State {
		case Ready:
			f.tell(v.Service+"/"+v.Service, Progress{Service: v.Service, Phase: PhaseServing})
		case Failed:
			f.failed = append(f.failed, v.Failure)
		case Waiting:
			settled = false
			if !v.Recheck.IsZero() && (f.recheck.IsZero() || v.Recheck.Before(f.recheck)) {
				f.recheck = v.Recheck
			}
		}
	}
	for _, fail := range f.failed {
		f.addLog(ctx, fail)
		f.tell(fail.Service+"/"+fail.Pod, Progress{Service: fail.Service, Phase: PhaseFailed, Failure: fail})
	}
	if !settled && (f.KeepGoing || len(f.failed) == 0) {
		return false, nil
	}
	if len(f.failed) > 0 {
		return true, &RolloutError{Failures: f.failed}
	}
	return true, nil
}

func (f *follower) waiting() []Verdict {
	verdicts, _ := Judge(time.Now(), f.Patience, f.seen, f.view.observations(f.rollout.App))
	return slices.DeleteFunc(verdicts, func(v Verdict) bool { return v.State != Waiting })
}

func (f *follower) tell(key string, p Progress) {
	key += "/" + string(p.Phase)
	if f.told[key] || f.Progress == nil {
		return
	}
	f.told[key] = true
	p.Since = time.Since(f.rollout.Start)
	f.Progress(p)
}

// tellPods tells of the steps of pods that are on their way. Of a service that
// was ready from the start there is nothing to tell.
func (f *follower) tellPods(o Observation) {
	if o.Deployment == nil {
		return
	}
	newest, _ := PodsOf(o.Deployment, o.ReplicaSets, o.Pods)
	for _, p := range newest {
		if f.settled[p.UID] {
			continue
		}
		for _, phase := range phasesOf(p, o.Events) {
			f.tell(string(p.UID), Progress{Service: o.Service, Pod: p.Name, Phase: phase})
		}
	}
}

// phasesOf lists the steps that a pod has behind it.
func phasesOf(p *corev1.Pod, events []*corev1.Event) []Phase {
	var phases []Phase
	if c := condition(p, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue {
		phases = append(phases, PhaseScheduled)
	}
	for _, e := range eventsOf(events, p.UID) {
		switch e.Reason {
		case "Pulling":
			phases = append(phases, PhasePulling)
		case "Pulled":
			phases = append(phases, PhasePulled)
		}
	}
	started := func(cs corev1.ContainerStatus) bool { return cs.State.Running != nil || lastEnd(cs) != nil }
	if len(p.Status.ContainerStatuses) > 0 && !slices.ContainsFunc(p.Status.ContainerStatuses, func(cs corev1.ContainerStatus) bool { return !started(cs) }) {
		phases = append(phases, PhaseStarted)
	}
	if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		phases = append(phases, PhaseReady)
	}
	return phases
}

// retryStuck replaces the pods that wait for kubelet's next attempt since before
// this wait began: what hindered them may be gone, and the pause before the
// attempt can be minutes. A pod that may not be deleted is judged as it is.
func (f *follower) retryStuck(ctx context.Context) {
	for _, o := range f.view.observations(f.rollout.App) {
		for _, p := range backingOff(o) {
			err := f.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
			if err != nil && !apierrors.IsNotFound(err) {
				f.log().Info("left a pod to kubelet's next attempt", "pod", p.Name, "err", err)
				continue
			}
			// Its deletion is still to be observed; it must not be judged until then.
			delete(f.view.pods, p.UID)
			f.retried[p.UID] = true
		}
	}
}

// backingOff are the newest pods that wait for kubelet's next attempt.
func backingOff(o Observation) []*corev1.Pod {
	if o.Deployment == nil {
		return nil
	}
	newest, _ := PodsOf(o.Deployment, o.ReplicaSets, o.Pods)
	return slices.DeleteFunc(newest, func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil || !slices.ContainsFunc(p.Status.ContainerStatuses, func(cs corev1.ContainerStatus) bool {
			return cs.State.Waiting != nil && (cs.State.Waiting.Reason == "ImagePullBackOff" || cs.State.Waiting.Reason == "CrashLoopBackOff")
		})
	})
}

// addLog adds the process's last lines to a failure that has a process. What
// is known already is kept when the cluster has none; what an agent told is of
// this one process, where the container's log has all before it too.
func (f *follower) addLog(ctx context.Context, fail *Failure) {
	if fail.Cause != CauseCrash && fail.Cause != CauseProbe {
		return
	}
	if e, ok := f.view.exits[fail.Pod]; ok && fail.Cause == CauseCrash && len(lines(strings.Join(e.Tail, "\n"))) > 0 {
		return
	}
	key := fail.Service + "/" + fail.Pod
	if _, ok := f.logs[key]; !ok {
		got, err := f.lastLines(ctx, fail)
		if err != nil {
			f.log().Debug("no log of a failed pod", "pod", fail.Pod, "err", err)
		}
		f.logs[key] = got
	}
	if len(f.logs[key]) > 0 {
		fail.Log = f.logs[key]
	}
}

func (f *follower) lastLines(ctx context.Context, fail *Failure) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tail, limit := int64(20), int64(64<<10)
	out, err := f.Client.CoreV1().Pods(f.rollout.Namespace).GetLogs(fail.Pod, &corev1.PodLogOptions{
		Container: fail.Container, Previous: fail.Previous, TailLines: &tail, LimitBytes: &limit,
	}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // read only: nothing can be lost
	b, err := io.ReadAll(io.LimitReader(out, limit))
	return lines(string(b)), err
}
