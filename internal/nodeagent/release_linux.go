package nodeagent

import (
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// namespace is the agent's.
func namespace() string {
	b, err := os.ReadFile(account + "namespace")
	if err != nil {
		return "bight-system" // where bight install puts it
	}
	return strings.TrimSpace(string(b))
}

// takeReleases takes in a change of the Releases. The lock is held.
func (a *Agent) takeReleases(c follow.Change) {
	if c.Event == "" {
		clear(a.releases)
		for _, o := range c.All {
			a.noteRelease(o)
		}
		return
	}
	if c.Event != watch.Deleted {
		a.noteRelease(c.Object)
	} else if u, ok := c.Object.(*unstructured.Unstructured); ok {
		delete(a.releases, types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()})
	}
}

// underWay says whether something of a Release may be left. One that can't be read is taken
// for such a one.
func underWay(o runtime.Object) bool {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return false
	}
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	_, routed, _ := unstructured.NestedFieldNoCopy(u.Object, "status", "route")
	return routed || !release.Phase(phase).Ended()
}

// noteRelease takes in a Release as it is now.
func (a *Agent) noteRelease(o runtime.Object) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	r := &v1alpha1.Release{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r); err != nil {
		// What it was counts on: whoever obeys nothing gives everything to stable.
		a.Log.Warn("a Release can't be read", "name", u.GetNamespace()+"/"+u.GetName(), "err", err)
		return
	}
	name := types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
	if spec.Over(r) {
		delete(a.releases, name)
		return
	}
	r.Spec.Plan = spec.Expand(r.Spec.Plan)
	// What doors have nothing to do with is not kept: there may be many.
	r.ManagedFields, r.Spec.Template, r.Status.State, r.Status.Evidence, r.Status.Events = nil, runtime.RawExtension{}, nil, nil, nil
	a.releases[name] = r
}

// onTrial is a trial that runs.
type onTrial struct {
	*trial
	end context.CancelFunc
}

// share adds to want what releases want, and begins and ends their trials. The lock is
// held.
func (a *Agent) share(ctx context.Context, running *sync.WaitGroup, want map[types.UID]*wanted, now time.Time) {
	var all []routing
	live := map[subject]bool{}
	for _, r := range a.releases {
		w := routing{release: r, route: spec.Effective(r)}
		if w.route == nil {
			continue
		}
		of := releaseSubject(r)
		t := a.trials[of]
		if t == nil && a.concerns(w) {
			rec := newRecorder(of, a.Node, a.Log.With("release", of.String()), a.courier.sendPairs)
			t = &onTrial{trial: newTrial(of, a.Node, a.boot, a.Log, a.rouse, r, rec)}
			var life context.Context
			life, t.end = context.WithCancel(ctx)
			running.Go(func() { t.run(life, a.courier.send) })
			a.trials[of] = t
		}
		if t != nil {
			live[of] = true
			w.route = t.effective(r)
			w.slow = t.follow(r, w.route, now)
			var hung time.Duration
			w.tail, hung = t.tail()
			if t.recorder.follow(r.Spec.Plan.Evidence, w.tail, hung); w.route.Shut {
				t.recorder.freeze(ctx, running, t.record)
			}
		}
		all = append(all, w)
	}
	a.dismiss(func(of subject) bool { return !live[of] })
	shares(want, all, a.pods)
	for _, w := range want {
		if w.share != nil && (w.share.local == v1alpha1.Stable || w.share.counts) {
			w.trial = a.trials[w.share.of].trial
		}
	}
	standing(want, a.pods)
}

// concerns says whether a release has pods here whose doors tell of requests, or this node
// has said something of it.
func (a *Agent) concerns(w routing) bool {
	for _, pod := range a.pods {
		if is := versionOf(pod, w); is == v1alpha1.Stable || is == v1alpha1.Canary && w.route.ByRoutes {
			return true
		}
	}
	return slices.ContainsFunc(w.release.Status.Doors, func(d v1alpha1.NodeDoors) bool { return d.Node == a.Node })
}

// dismiss ends trials.
func (a *Agent) dismiss(which func(subject) bool) {
	for of, t := range a.trials {
		if which(of) {
			t.end()
			delete(a.trials, of)
		}
	}
}

// doors is what there is to tell of each release that is on trial here.
func (a *Agent) doors(want map[types.UID]*wanted, now time.Time) map[subject]any {
	entries := map[subject]*v1alpha1.NodeDoors{}
	soon := map[subject]bool{}
	for of, t := range a.trials {
		n := t.counters()
		entries[of] = &n
	}
	for uid, w := range want {
		if w.trial == nil || w.pod.DeletionTimestamp != nil {
			continue // one that ends covers nothing
		}
		of := w.share.of
		n := entries[of]
		n.Generation = w.share.generation
		obeys, problem, waits := a.posts[uid].shared(w.share)
		soon[of] = soon[of] || waits
		switch {
		case obeys:
			n.Pods = append(n.Pods, w.pod.Name)
		case problem != "":
			n.Problems = append(n.Problems, v1alpha1.DoorProblem{Name: w.pod.Name, Why: problem})
		}
	}
	all := map[subject]any{}
	for of, n := range entries {
		slices.Sort(n.Pods)
		slices.SortFunc(n.Problems, func(a, b v1alpha1.DoorProblem) int { return strings.Compare(a.Name, b.Name) })
		all[of] = v1alpha1.ReleaseStatus{Doors: []v1alpha1.NodeDoors{a.trials[of].entry.next(*n, soon[of], now)}}
	}
	return all
}

// counted is how old the numbers in a Release's status may be.
const counted = 2 * time.Second

// entry is what was last told of a release. It keeps the telling slow: what has only
// counted on is told every few seconds.
type entry struct {
	at   time.Time
	told v1alpha1.NodeDoors
}

// next is what to tell now. soon says that some pods are about to obey: nobody waits for
// what is true of the others alone.
func (e *entry) next(n v1alpha1.NodeDoors, soon bool, now time.Time) v1alpha1.NodeDoors {
	if soon && !e.at.IsZero() {
		n.Generation, n.Pods, n.Problems = e.told.Generation, e.told.Pods, e.told.Problems
	}
	if !e.at.IsZero() && reflect.DeepEqual(essence(n), essence(e.told)) && now.Sub(e.at) < counted {
		return e.told
	}
	e.at, e.told = now, n
	return n
}

// essence is what of an entry is news when it changes.
func essence(n v1alpha1.NodeDoors) v1alpha1.NodeDoors {
	return v1alpha1.NodeDoors{Node: n.Node, Generation: n.Generation, Pods: n.Pods, Problems: n.Problems, Convicted: n.Convicted}
}
