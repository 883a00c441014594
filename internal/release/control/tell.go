package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// version tells of the pods of a version.
func (co *course) version(rs *appsv1.ReplicaSet) v1alpha1.VersionStatus {
	if rs == nil {
		return v1alpha1.VersionStatus{}
	}
	n := co.scene.count(rs, 0)
	v := v1alpha1.VersionStatus{Hash: rs.Labels[hashLabel], Ready: n.Ready, Pods: n.All}
	if rs.Spec.Replicas != nil {
		v.Want = *rs.Spec.Replicas
	}
	if cs := rs.Spec.Template.Spec.Containers; len(cs) > 0 {
		v.Image = cs[0].Image
	}
	return v
}

// say notes what has happened.
func (co *course) say(format string, args ...any) {
	co.events = append(co.events, v1alpha1.ReleaseEvent{Time: now(), Text: fmt.Sprintf(format, args...)})
	if n := len(co.events); n > maxEvents {
		co.events = co.events[n-maxEvents:]
	}
}

// note notes what is new since a state.
func (co *course) note(was release.State, v verdict.Verdict) {
	if said := digest(co.r.Spec.Orders); said != co.Said {
		switch o := co.r.Spec.Orders; {
		case o.By != "" && co.Said != "":
			co.say("%s", co.ordered(o))
		}
		co.Said = said
	}
	shown := status(v)
	if co.bench != nil {
		shown.Stable, shown.Canary = counted(co.bench.state.Sides())
		shown.Copies = copied(co.bench.state.Copied())
	} else if co.verdict != nil {
		shown.Stable, shown.Canary, shown.Copies = co.verdict.Stable, co.verdict.Canary, co.verdict.Copies
	}
	if co.verdict == nil || co.verdict.Is != shown.Is {
		co.say("verdict: %s (%s)", shown.Is, release.Plain(shown.Why))
		shown.Since = micro(time.Now())
	} else {
		shown.Since = co.verdict.Since
	}
	switch {
	case co.routing != nil && co.State.Opened:
		shown.Latency = co.latency()
	case co.verdict != nil:
		shown.Latency = co.verdict.Latency
	}
	co.verdict = shown
	co.times(was)
	s := co.State
	if s.Route.Weight != was.Route.Weight {
		co.say("%s of the requests", s.Route.Weight)
	}
	if s.Phase != was.Phase && s.Phase != release.Progressing {
		co.say("%s", turned(was, s))
	}
}

// turned says that a release has another phase, and why, if that was not said before.
func turned(was, is release.State) string {
	phase := strings.ToLower(string(is.Phase))
	if was.Phase == release.Undoing && is.Phase == release.Undone && was.Message == is.Message {
		return phase
	}
	return strings.TrimSuffix(phase+": "+is.Message, ": ")
}

// begins says that a release does, and by whom.
func begins(r *v1alpha1.Release) string {
	switch {
	case r.Spec.Orders.By != "":
		return r.Spec.Orders.By + " has begun it"
	case r.Spec.Change != "":
		return "change " + r.Spec.Change + " has begun it"
	}
	return "it begins"
}

// times notes when the version was given requests first, when it had all of them, and when
// it began to lose them.
func (co *course) times(was release.State) {
	s, now := co.State, time.Now().Truncate(time.Microsecond)
	if co.Exposed.IsZero() && (s.Route.Weight > 0 || s.Route.Mirror > 0) {
		co.Exposed = now
	}
	if co.Full.IsZero() && s.Phase == release.Promoted {
		co.Full = now
	}
	losing := func(p release.Phase) bool { return p == release.Undoing || p == release.Undone }
	if co.Undoing.IsZero() && losing(s.Phase) && !losing(was.Phase) {
		co.Undoing = now
	}
}

// due is when to look again though nothing changes: for the evidence's sake.
func (co *course) due() time.Time {
	if co.bench == nil || !co.judging() {
		return time.Time{}
	}
	var at time.Time
	if over := co.deadline(time.Now()).Add(time.Second); over.After(time.Now()) {
		at = over
	}
	if len(co.bench.late) > 0 {
		at = earlier(at, co.bench.late[0].At)
	}
	if co.late {
		at = earlier(at, co.wrote.Add(calm))
	}
	if co.bench.dirty {
		at = earlier(at, co.saved.Add(keepEvidence))
	}
	return at
}

// status is what there is to be told. The doors are the node agents' to tell.
func (co *course) status() (*v1alpha1.ReleaseStatus, error) {
	s := &v1alpha1.ReleaseStatus{
		Phase: string(co.State.Phase), Message: co.State.Message, Convicted: co.State.Convicted,
		Started: micro(co.State.Started), Route: co.routing.DeepCopy(), Stable: co.pods[0], Canary: co.pods[1],
		Exposed: micro(co.Exposed), Full: micro(co.Full), Undoing: micro(co.Undoing),
		Verdict: co.verdict, Gateways: co.gateways, Events: co.events, Refused: co.refused, Evidence: co.written.Evidence,
		Attempts: co.attempts,
	}
	if co.written.Started != nil { // by the clock of whoever began it
		s.Started = co.written.Started
	}
	if co.State.Phase.Ended() {
		if s.Ended = micro(co.State.Ended); co.written.Ended != nil {
			s.Ended = co.written.Ended
		}
	}
	s.Weight = co.State.Route.Weight.String()
	if plan, err := spec.Plan(co.r.Spec.Plan); err == nil {
		s.Steps = int32(len(plan.Steps))
		s.Step = min(int32(co.State.Step)+1, s.Steps)
	}
	raw, err := json.Marshal(co.memory)
	if err != nil {
		return nil, err
	}
	s.State = &runtime.RawExtension{Raw: raw}
	if b := co.bench; b != nil && b.dirty && (time.Since(co.saved) >= keepEvidence || co.State.Phase != release.Phase(co.written.Phase)) {
		raw, err := b.keep()
		if err != nil {
			return nil, err
		}
		s.Evidence = &runtime.RawExtension{Raw: raw}
	}
	s.Conditions = slices.Clone(co.written.Conditions)
	setCondition(s, co.r.Generation)
	return s, nil
}

func micro(t time.Time) *metav1.MicroTime {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewMicroTime(t.Truncate(time.Microsecond))
	return &m
}
