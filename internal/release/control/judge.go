package control

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// bench judges one release: by what node agents have counted, and by what happens to
// pods.
type bench struct {
	judge *verdict.Judge
	state verdict.State
	kept  notes
	// deadline is when there is no good verdict any more.
	deadline time.Time
	// dirty says that there is something to be kept.
	dirty bool
	// alone is why a node agent has convicted the version by what it has seen.
	alone string
}

// notes are kept with the judge's state, so that nothing counts twice.
type notes struct {
	Judge json.RawMessage `json:"judge,omitempty"`
	// Pods are those that were seen, by name.
	Pods map[string]seenPod `json:"pods,omitempty"`
	// Seqs are the last batches that count, by node and run of its agent.
	Seqs map[string]int64 `json:"seqs,omitempty"`
	// Path is what E has come to.
	Path []evidence.Point `json:"path,omitempty"`
}

type seenPod struct {
	Canary   bool  `json:"canary,omitempty"`
	Ready    bool  `json:"ready,omitempty"`
	Restarts int32 `json:"restarts,omitempty"`
}

// newBench goes on from what was kept.
func newBench(r *v1alpha1.Release, judges int32, at time.Time) (*bench, error) {
	c, err := spec.Judge(r.Spec.Plan.Judge, judges, false)
	if err != nil {
		return nil, err
	}
	b := &bench{}
	if b.judge, err = verdict.New(c); err != nil {
		return nil, err
	}
	b.state, b.deadline = b.judge.Start(at), at.Add(orElse(c.Deadline, 30*time.Minute)+time.Second)
	if e := r.Status.Evidence; e != nil && len(e.Raw) > 0 {
		// What can't be read, of another version of this program maybe, counts for nothing.
		state, err := verdict.State{}, json.Unmarshal(e.Raw, &b.kept)
		if err == nil {
			state, err = b.judge.Load(b.kept.Judge)
		}
		if err == nil {
			b.state = state
		} else {
			b.kept = notes{}
		}
	}
	if b.kept.Pods == nil {
		b.kept.Pods = map[string]seenPod{}
	}
	if b.kept.Seqs == nil {
		b.kept.Seqs = map[string]int64{}
	}
	return b, nil
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// keep is what is to be kept.
func (b *bench) keep() ([]byte, error) {
	var err error
	if b.kept.Judge, err = json.Marshal(b.state); err != nil {
		return nil, err
	}
	return json.Marshal(b.kept)
}

func (b *bench) observe(o verdict.Observation) {
	b.state, _ = b.judge.Next(b.state, o)
	b.dirty = true
}

// passes tells the judge that time has passed, which is nothing to be kept.
func (b *bench) passes(at time.Time) {
	b.state, _ = b.judge.Next(b.state, verdict.Observation{At: at})
}

// take counts a batch, unless it has counted before.
func (b *bench) take(batch spec.Batch, at time.Time) {
	key := batch.Node + "/" + batch.Boot
	if batch.Seq <= b.kept.Seqs[key] {
		return
	}
	b.kept.Seqs[key] = batch.Seq
	b.alone = cmp.Or(b.alone, batch.Convicted)
	counts := batch.Counts
	b.observe(verdict.Observation{At: at, Counts: &counts})
}

// named is a batch with the pods by name, which the doors know by address.
func named(b spec.Batch, s scene) spec.Batch {
	names := map[string]string{}
	for _, pods := range s.pods {
		for _, p := range pods {
			names[p.Status.PodIP] = p.Name
		}
	}
	name := func(address string) string { return cmp.Or(names[address], address) }
	b.Counts.Cells = slices.Clone(b.Counts.Cells)
	for i, c := range b.Counts.Cells {
		pods := slices.Clone(c.Pods)
		for j, p := range pods {
			pods[j].Pod = name(p.Pod)
		}
		b.Counts.Cells[i].Pods = pods
	}
	b.Counts.Moved = slices.Clone(b.Counts.Moved)
	for i, m := range b.Counts.Moved {
		b.Counts.Moved[i].Pod = name(m.Pod)
	}
	return b
}

// watch tells the judge what has happened to the pods of both versions.
func (b *bench) watch(s scene, stable, canary *appsv1.ReplicaSet, at time.Time) {
	here := map[string]bool{}
	for _, rs := range []*appsv1.ReplicaSet{stable, canary} {
		for _, p := range s.podsOf(rs) {
			here[p.Name] = true
			b.pod(p, rs == canary, at)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.kept.Pods)) {
		if !here[name] {
			b.observe(verdict.Observation{At: at, Pod: &verdict.Pod{Name: name, Canary: b.kept.Pods[name].Canary, Event: verdict.PodGone}})
			delete(b.kept.Pods, name)
		}
	}
}

// pod tells what has happened to a pod since it was seen last.
func (b *bench) pod(p *corev1.Pod, canary bool, at time.Time) {
	was, known := b.kept.Pods[p.Name]
	is := seenPod{Canary: canary, Ready: isReady(p)}
	killed := false
	for _, c := range p.Status.ContainerStatuses {
		is.Restarts += c.RestartCount
		if t := c.LastTerminationState.Terminated; t != nil && t.Reason == "OOMKilled" {
			killed = true
		}
	}
	tell := func(e verdict.PodEvent) {
		b.observe(verdict.Observation{At: at, Pod: &verdict.Pod{Name: p.Name, Canary: canary, Event: e}})
	}
	if !known && !canary {
		was.Restarts = is.Restarts // of before
	}
	// A pod that has crashed twice since has done so twice.
	for range min(is.Restarts-was.Restarts, 10) {
		if killed {
			tell(verdict.PodOOM)
		} else {
			tell(verdict.PodCrashed)
		}
	}
	switch {
	case is.Ready && !was.Ready:
		tell(verdict.PodReady)
	case was.Ready && !is.Ready && is.Restarts == was.Restarts:
		tell(verdict.PodFailing)
	}
	if is != was || !known {
		b.kept.Pods[p.Name] = is
		b.dirty = true
	}
}

// status is the verdict as it is shown.
func status(v verdict.Verdict) *v1alpha1.VerdictStatus {
	s := &v1alpha1.VerdictStatus{
		Is: string(v.Is), Why: v.Why, E: fmt.Sprintf("%.3g", v.E), AbortAt: fmt.Sprintf("%.3g", v.AbortAt), BadPods: v.BadPods,
	}
	for _, m := range v.Metrics {
		if m.Name == "errors" {
			s.Requests, s.Errors = m.N, m.Bad
		}
	}
	return s
}
