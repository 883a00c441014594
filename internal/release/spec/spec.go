// Package spec reads a Release of the API: what it says in terms of packages release,
// verdict and steer. The controller, the node agents and the command line share it, so
// that all of them understand the same by the same words.
//
// Everything here is a pure function. [Effective] is what matters most: what a door is
// to do, which a node agent finds out by itself.
package spec

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/evidence"
)

// Plan reads a plan, and says what makes no sense in it. Without steps it is the usual
// one, or that of its strategy.
func Plan(p v1alpha1.ReleasePlan) (release.Plan, error) {
	if err := checkStrategy(p); err != nil {
		return release.Plan{}, err
	}
	p = Expand(p)
	out := release.Plan{
		Ready: duration(p.Ready), Keep: duration(p.Keep), AtOnce: p.Strategy == v1alpha1.BlueGreen, Undo: p.Then == v1alpha1.ThenUndo,
	}
	if p.Doubt == "undo" {
		out.Doubt = release.UndoInDoubt
	}
	for i, s := range p.Steps {
		at := fmt.Sprintf("plan.steps[%d]", i)
		weight, err := Weight(&s.Weight, at+".weight")
		if err != nil {
			return out, err
		}
		mirror, err := Weight(s.Mirror, at+".mirror")
		if err != nil {
			return out, err
		}
		n, part, err := pods(s.Pods, at+".pods")
		if err != nil {
			return out, err
		}
		out.Steps = append(out.Steps, release.Step{
			Weight: weight, Mirror: mirror, For: duration(s.For), Hold: s.Hold, Proven: s.Proven, Pods: n, Part: part,
		})
	}
	if len(out.Steps) == 0 {
		out.Steps = Usual()
	}
	out.ByOrder = p.Strategy == v1alpha1.ABTest && p.Then != v1alpha1.ThenUndo
	if p.Then == v1alpha1.ThenHold {
		out.Steps[len(out.Steps)-1].Hold = true
	}
	return out, out.Check()
}

// Usual are the steps of a plan that has none: a twentieth until the evidence shows that
// the version is good, half for half a minute, and everything.
func Usual() []release.Step {
	return []release.Step{{Weight: release.All / 20, Proven: true}, {Weight: release.All / 2, For: 30 * time.Second}}
}

// Written are steps as the API has them.
func Written(steps []release.Step) (out []v1alpha1.ReleaseStep) {
	share := func(w release.Weight) intstr.IntOrString {
		return intstr.FromString(strings.ReplaceAll(w.String(), " ", ""))
	}
	for _, s := range steps {
		x := v1alpha1.ReleaseStep{Weight: share(s.Weight), Hold: s.Hold, Proven: s.Proven}
		if s.Mirror > 0 {
			x.Mirror = ptr.To(share(s.Mirror))
		}
		if s.For > 0 {
			x.For = &metav1.Duration{Duration: s.For}
		}
		switch {
		case s.Part > 0:
			x.Pods = ptr.To(share(s.Part))
		case s.Pods > 0:
			x.Pods = ptr.To(intstr.FromInt32(s.Pods))
		}
		out = append(out, x)
	}
	return out
}

// ByRisk is a plan for a change of some risk, of 100, nil for one that is not known: a
// plan with steps, or with a strategy that makes them, as it is, and one without with steps
// that are the smaller and the longer the greater the risk.
func ByRisk(p v1alpha1.ReleasePlan, risk *int32) v1alpha1.ReleasePlan {
	if len(p.Steps) > 0 || risk == nil || p.Strategy != "" && p.Strategy != v1alpha1.CanaryStrategy {
		return p
	}
	step := func(percent int32, proven bool, lasts time.Duration) v1alpha1.ReleaseStep {
		return v1alpha1.ReleaseStep{Weight: intstr.FromInt32(percent), Proven: proven, For: &metav1.Duration{Duration: lasts}}
	}
	switch {
	case *risk <= 20:
		p.Steps = []v1alpha1.ReleaseStep{step(10, true, 0), step(50, false, 10*time.Second)}
	case *risk <= 60:
		p.Steps = []v1alpha1.ReleaseStep{step(5, true, 0), step(50, false, 30*time.Second)}
	default:
		p.Steps = []v1alpha1.ReleaseStep{step(1, false, 30*time.Second), step(5, true, 0), step(25, false, time.Minute), step(50, false, time.Minute)}
	}
	return p
}

// Weight reads a share: 5, "5%" and "0.25" are percent. nil is 0. where is its name.
func Weight(v *intstr.IntOrString, where string) (release.Weight, error) {
	if v == nil {
		return 0, nil
	}
	w, err := release.ParseWeight(v.String())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", where, err)
	}
	return w, nil
}

func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}

// Orders reads what people want now.
func Orders(o v1alpha1.ReleaseOrders) (release.Orders, error) {
	out := release.Orders{Paused: o.Paused, Go: o.Go, Promote: o.Promote, Undo: o.Undo, Why: o.Why}
	if o.By != "" && (o.Undo || o.Promote) {
		out.Why = "by " + o.By
		if o.Why != "" {
			out.Why += ": " + o.Why
		}
	}
	if o.Weight != nil {
		w, err := Weight(o.Weight, "orders.weight")
		if err != nil {
			return out, err
		}
		out.Weight = &w
	}
	return out, nil
}

// Evidence reads what is to be hidden of requests.
func Evidence(e v1alpha1.ReleaseEvidence) *evidence.Rules {
	return &evidence.Rules{Headers: e.Headers, Fields: e.Hide, NoBodies: e.NoBodies}
}

// Effective is what a door is to do with a release: what its routing says, unless
// somebody has ordered that it be undone, or an agent has convicted the version. Whoever
// obeys it waits neither for the controller nor for anything else. nil is nothing: every
// request is stable's, and nothing is to be told.
//
// A version that is promoted can be undone so, but by no agent's word, as long as its
// routing does not say that the pods of before are about to end.
//
// What is undone here has the generation that the controller will give to it.
func Effective(r *v1alpha1.Release) *v1alpha1.Routing {
	if r.Status.Route == nil || Over(r) {
		return nil
	}
	e := r.Status.Route.DeepCopy()
	undone := r.Spec.Orders.Undo || Convicted(r) != ""
	if r.Status.Phase == string(release.Promoted) {
		undone = r.Spec.Orders.Undo && !e.Retire
	}
	if undone && !e.Shut {
		e.Generation++
		e.Weight, e.Mirror, e.Held, e.Shut = 0, 0, 0, true
	}
	return e
}

// Convicted is why a node agent keeps requests from a version by itself, "" if none does.
func Convicted(r *v1alpha1.Release) string {
	for _, d := range r.Status.Doors {
		if d.Convicted != "" {
			return d.Convicted + " (node " + d.Node + ")"
		}
	}
	return ""
}

// Over says that nothing of a release is left: no pods that have no more requests, and no
// routing.
func Over(r *v1alpha1.Release) bool {
	return release.Phase(r.Status.Phase).Ended() && r.Status.Route == nil
}

// Page is by how many Releases are listed: each may have a long template and a long history.
const Page = 100

// Compare orders the Releases of a Deployment by when they were made: the one that counts
// is the last. The API server tells that to a second only: of two that were made in the
// same one, that counts which has not ended or, where both have, which has ended later.
func Compare(a, b *v1alpha1.Release) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), compareEnds(a, b), strings.Compare(a.Name, b.Name))
}

func compareEnds(a, b *v1alpha1.Release) int {
	first, second := release.Phase(a.Status.Phase).Ended(), release.Phase(b.Status.Phase).Ended()
	switch {
	case first && !second:
		return -1
	case second && !first:
		return 1
	case first && second && a.Status.Ended != nil && b.Status.Ended != nil:
		return a.Status.Ended.Compare(b.Status.Ended.Time)
	}
	return 0
}

// Tell says what somebody has ordered.
func Tell(o v1alpha1.ReleaseOrders) string {
	var all []string
	switch {
	case o.Undo:
		return because("undo", o.Why)
	case o.Promote:
		all = append(all, "promote")
	}
	if o.Weight != nil {
		if w, err := Weight(o.Weight, ""); err == nil {
			all = append(all, w.String()+" of the requests")
		}
	}
	if o.Paused {
		all = append(all, "pause")
	}
	for _, r := range o.Routes {
		all = append(all, Route(r)+" to "+r.To)
	}
	if len(all) == 0 {
		all = append(all, "go on by the plan")
	}
	return because(strings.Join(all, ", "), o.Why)
}

func because(text, why string) string {
	if why != "" {
		text += " (" + why + ")"
	}
	return text
}

// Route says which requests a route is about.
func Route(r v1alpha1.ReleaseRoute) string {
	var all []string
	for _, h := range r.Headers {
		all = append(all, match(h))
	}
	for _, c := range r.Cookies {
		all = append(all, "cookie "+match(c))
	}
	for _, q := range r.Query {
		all = append(all, "parameter "+match(q))
	}
	switch {
	case r.Exact:
		all = append(all, "exactly "+r.Path)
	case r.Path != "":
		all = append(all, r.Path)
	}
	text := "requests"
	if len(r.Methods) > 0 {
		text = strings.Join(r.Methods, " or ") + " requests"
	}
	if len(all) == 0 {
		return text
	}
	return text + " with " + strings.Join(all, " and ")
}

func match(h v1alpha1.HeaderMatch) string {
	if h.Prefix {
		return h.Name + "=" + h.Value + "*"
	}
	return h.Name + "=" + h.Value
}
