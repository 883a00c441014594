package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Observation is what was seen of one service.
type Observation struct {
	Service     string
	Links       []string           // the services that it needs
	Deployment  *appsv1.Deployment // nil: not there
	ReplicaSets []*appsv1.ReplicaSet
	Pods        []*corev1.Pod
	Events      []*corev1.Event // about any of these
	Exits       []Exit          // of the process, where an agent outlives it
	Serving     []string        // the pods that have said themselves that they serve
}

// Exit is an end of a service's process under the agent, in a pod that lives.
type Exit struct {
	Pod   string
	Code  int
	At    time.Time
	Count int      // how often it has ended in this pod
	Tail  []string // its last lines
}

// State is where a service's rollout stands.
type State string

// States of a [Verdict].
const (
	Waiting State = "waiting"
	Ready   State = "ready"
	Failed  State = "failed"
)

// Verdict is what the observations say about one service.
type Verdict struct {
	Service string
	State   State
	Why     string   // what it waits for
	Failure *Failure // set when Failed

	// Recheck is when time alone changes the verdict; zero means never.
	Recheck time.Time
}

// Patience is how long a state that may heal is given.
type Patience struct {
	Schedule time.Duration // no node takes the pod; default 5 s
	Refused  time.Duration // pods cannot be created for a reason that may pass; default 5 s
	Start    time.Duration // a volume or a network is missing; default 60 s
	Probe    time.Duration // runs, but does not say that it is ready; default 30 s
}

func (p Patience) withDefaults() Patience {
	p.Schedule = cmp.Or(p.Schedule, 5*time.Second)
	p.Refused = cmp.Or(p.Refused, 5*time.Second)
	p.Start = cmp.Or(p.Start, time.Minute)
	p.Probe = cmp.Or(p.Probe, 30*time.Second)
	return p
}

// crashesForgiven is how often a process may end while a service that it needs
// is not ready yet.
const crashesForgiven = 4

// Seen is when each passing state was first observed. Judge's own clock is used,
// not the cluster's, since the two may differ.
type Seen map[string]time.Time

// Judge decides where each service stands. It returns the verdicts in the
// order of the observations, and the memory to hand to the next call. It reads
// its arguments only.
func Judge(now time.Time, patience Patience, seen Seen, all []Observation) ([]Verdict, Seen) {
	j := judge{now: now, patience: patience.withDefaults(), before: seen, seen: Seen{}, readySince: map[string]time.Time{}}
	verdicts := make([]Verdict, len(all))
	for i, o := range all {
		verdicts[i] = j.ready(o)
	}
	for i, o := range all {
		if verdicts[i].State != Ready {
			verdicts[i] = j.explain(o, verdicts[i])
		}
	}
	return verdicts, j.seen
}

type judge struct {
	now          time.Time
	patience     Patience
	before, seen Seen
	readySince   map[string]time.Time // of the services that are ready
}

// PodsOf sorts the pods of a Deployment into those of its newest revision, as
// it is written now, and all others. Pods that have ended are in neither.
func PodsOf(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, pods []*corev1.Pod) (newest, older []*corev1.Pod) {
	var current types.UID
	if rs := newestSet(d, sets); rs != nil {
		current = rs.UID
	}
	mine := map[types.UID]bool{}
	for _, rs := range sets {
		mine[rs.UID] = metav1.IsControlledBy(rs, d)
	}
	for _, p := range pods {
		owner := metav1.GetControllerOf(p)
		if owner == nil || !mine[owner.UID] || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if owner.UID == current {
			newest = append(newest, p)
		} else {
			older = append(older, p)
		}
	}
	byAge := func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	}
	slices.SortFunc(newest, byAge)
	slices.SortFunc(older, byAge)
	return newest, older
}

// newestSet is the ReplicaSet that has the Deployment's template. Comparing the
// templates needs no status, so it is right before any controller has acted. Of
// several the controller uses the oldest.
func newestSet(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	var found *appsv1.ReplicaSet
	for _, rs := range sets {
		if !metav1.IsControlledBy(rs, d) {
			continue
		}
		t := rs.Spec.Template.DeepCopy()
		delete(t.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		if apiequality.Semantic.DeepEqual(*t, d.Spec.Template) && (found == nil || rs.CreationTimestamp.Before(&found.CreationTimestamp)) {
			found = rs
		}
	}
	return found
}

// ready says Ready when the newest revision has all its pods ready and no older
// pod serves, else Waiting. Of older pods nothing is said where a pod is ready by its
// own word: they go when kubelet has heard it, too.
func (j *judge) ready(o Observation) Verdict {
	v := Verdict{Service: o.Service, State: Waiting}
	d := o.Deployment
	if d == nil {
		return v
	}
	want := 1
	if d.Spec.Replicas != nil {
		want = int(*d.Spec.Replicas)
	}
	newest, older := PodsOf(d, o.ReplicaSets, o.Pods)
	ready, byItself := 0, 0
	var since time.Time
	for _, p := range newest {
		c := condition(p, corev1.PodReady)
		switch {
		case p.DeletionTimestamp != nil:
		case c != nil && c.Status == corev1.ConditionTrue:
			ready++
			if c.LastTransitionTime.After(since) {
				since = c.LastTransitionTime.Time
			}
		case slices.Contains(o.Serving, p.Name):
			ready++
			byItself++
			since = j.now
		}
	}
	serving := slices.DeleteFunc(older, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	switch {
	case want > 0 && newestSet(d, o.ReplicaSets) == nil:
		v.Why = "the new revision has no pods yet"
	case ready < want:
		v.Why = fmt.Sprintf("%d of %d pods ready", ready, want)
	case len(serving) > 0 && byItself == 0:
		v.Why = fmt.Sprintf("%d pods of the previous revision still serve", len(serving))
	default:
		v.State = Ready
		j.readySince[o.Service] = since
	}
	return v
}

// explain looks for a reason why a service that is not ready never will be.
func (j *judge) explain(o Observation, v Verdict) Verdict {
	if o.Deployment == nil || o.Deployment.DeletionTimestamp != nil {
		return j.fail(v, &Failure{Cause: CauseGone, Message: "its Deployment does not exist or is being deleted"})
	}
	if c := refused(o.Deployment); c != nil {
		f := &Failure{Cause: CauseRefused, Message: c.Message}
		if lasting(c.Message) {
			return j.fail(v, f)
		}
		return j.after(v, o.Service+"/refused", j.patience.Refused, f)
	}
	newest, _ := PodsOf(o.Deployment, o.ReplicaSets, o.Pods)
	for _, p := range newest {
		if p.DeletionTimestamp != nil {
			continue
		}
		if v = j.pod(o, p, v); v.State == Failed {
			return v
		}
	}
	return v
}

func (j *judge) fail(v Verdict, f *Failure) Verdict {
	f.Service = v.Service
	v.State, v.Failure, v.Recheck = Failed, f, time.Time{}
	return v
}

// after fails v if the state named by key has lasted for d, and else says when
// it will have.
func (j *judge) after(v Verdict, key string, d time.Duration, f *Failure) Verdict {
	first, ok := j.before[key]
	if !ok {
		first = j.now
	}
	j.seen[key] = first
	due := first.Add(d)
	if !j.now.Before(due) {
		f.After = j.now.Sub(first)
		return j.fail(v, f)
	}
	v.Why = strings.TrimSpace(f.Pod + " " + f.Message)
	if v.Recheck.IsZero() || due.Before(v.Recheck) {
		v.Recheck = due
	}
	return v
}

// pod judges one pod of the newest revision.
func (j *judge) pod(o Observation, p *corev1.Pod, v Verdict) Verdict {
	events := eventsOf(o.Events, p.UID)
	key := string(p.UID)
	if c := condition(p, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		f := &Failure{Cause: CauseUnschedulable, Pod: p.Name, Message: c.Message}
		if scalingUp(events) {
			v.Why = p.Name + " waits for a node that is being added"
			return v
		}
		return j.after(v, key+"/unscheduled", j.patience.Schedule, f)
	}
	if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return v
	}
	for _, e := range o.Exits {
		if e.Pod != p.Name {
			continue
		}
		f := &Failure{Cause: CauseCrash, Pod: p.Name, Container: o.Service, ExitCode: e.Code, Message: exitWords(int32(e.Code), ""), Log: lines(strings.Join(e.Tail, "\n"))}
		if j.crashed(o, e.Count, e.At) {
			return j.fail(v, f)
		}
		v.Why = p.Name + " " + f.Message
	}
	for _, cs := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if v = j.container(o, p, cs, events, v); v.State == Failed {
			return v
		}
	}
	return v
}

func (j *judge) container(o Observation, p *corev1.Pod, cs corev1.ContainerStatus, events []*corev1.Event, v Verdict) Verdict {
	f := &Failure{Pod: p.Name, Container: cs.Name}
	if w := cs.State.Waiting; w != nil {
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError", "SignatureValidationFailed":
			f.Cause, f.Message = CauseImage, pullWords(cs.Image, w, events)
			return j.fail(v, f)
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError", "PostStartHookError":
			f.Cause, f.Message = CauseContainer, w.Message
			if passing(w.Message) {
				return j.after(v, string(p.UID)+"/create", j.patience.Start, f)
			}
			return j.fail(v, f)
		}
	}
	if t := lastEnd(cs); t != nil && cs.State.Running == nil {
		f.Cause, f.ExitCode, f.OOM, f.Previous = CauseCrash, int(t.ExitCode), t.Reason == "OOMKilled", cs.State.Terminated == nil
		f.Message, f.Log = exitWords(t.ExitCode, t.Reason), lines(t.Message)
		if t.Reason == "StartError" || t.Reason == "ContainerCannotRun" {
			f.Cause, f.Message, f.Log = CauseContainer, t.Message, nil
			return j.fail(v, f)
		}
		if j.crashed(o, int(cs.RestartCount)+1, t.FinishedAt.Time) {
			return j.fail(v, f)
		}
		v.Why = p.Name + " " + f.Message
		return v
	}
	if cs.State.Running != nil {
		f.Cause, f.Message = CauseProbe, notReady(p, events)
		if slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Name == o.Service && c.State.Running != nil && !c.Ready }) {
			f.Container = o.Service // whose lines tell why, whatever runs beside it
		}
		return j.after(v, fmt.Sprintf("%s/%s/%d/running", p.UID, cs.Name, cs.RestartCount), j.patience.Probe, f)
	}
	// It waits for its volumes or network. Without a complaint, it just takes time.
	if e := lastWarning(events); e != nil {
		f.Cause, f.Message = CauseStart, e.Reason+": "+e.Message
		return j.after(v, string(p.UID)+"/start", j.patience.Start, f)
	}
	return v
}

// crashed decides whether a process that has ended count times, the last time
// at end, is beyond healing. Ending once is forgiven, and so is ending while
// something that it needs was not ready, a few times.
func (j *judge) crashed(o Observation, count int, end time.Time) bool {
	if count < 2 {
		return false
	}
	if count >= crashesForgiven {
		return true
	}
	for _, link := range o.Links {
		if since, ok := j.readySince[link]; link != o.Service && (!ok || !end.After(since)) {
			return false
		}
	}
	return true
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// refused is the Deployment's word that pods cannot be created, if it is about
// the newest revision.
func refused(d *appsv1.Deployment) *appsv1.DeploymentCondition {
	if d.Status.ObservedGeneration < d.Generation {
		return nil
	}
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// lasting tells refusals of a pod that trying again does not heal.
func lasting(message string) bool {
	if strings.Contains(message, "not found") || strings.Contains(message, "failed calling webhook") {
		return false
	}
	return slices.ContainsFunc([]string{"exceeded quota", "is forbidden", "denied", "is invalid"}, func(s string) bool { return strings.Contains(message, s) })
}

// passing tells failures to create a container that kubelet itself gets over.
func passing(message string) bool {
	return slices.ContainsFunc([]string{"failed to sync", "deadline exceeded", "is reserved for"}, func(s string) bool { return strings.Contains(message, s) })
}

func scalingUp(events []*corev1.Event) bool {
	return slices.ContainsFunc(events, func(e *corev1.Event) bool { return e.Reason == "TriggeredScaleUp" })
}

func eventsOf(events []*corev1.Event, uid types.UID) []*corev1.Event {
	var mine []*corev1.Event
	for _, e := range events {
		if e.InvolvedObject.UID == uid {
			mine = append(mine, e)
		}
	}
	slices.SortFunc(mine, func(a, b *corev1.Event) int {
		return cmp.Or(eventTime(a).Compare(eventTime(b)), cmp.Compare(a.Name, b.Name))
	})
	return mine
}

func eventTime(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	default:
		return e.EventTime.Time
	}
}

func lastWarning(events []*corev1.Event) *corev1.Event {
	for _, e := range slices.Backward(events) {
		if e.Type == corev1.EventTypeWarning {
			return e
		}
	}
	return nil
}

// lastEnd is the container's latest end, if it has had one.
func lastEnd(cs corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if cs.State.Terminated != nil {
		return cs.State.Terminated
	}
	return cs.LastTerminationState.Terminated
}
