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
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// bench judges one release: by what node agents have counted, and by what happens to
// pods.
type bench struct {
	judge  *verdict.Judge
	config verdict.Config
	state  verdict.State
	kept   notes
	// stable are the latencies that node agents have told, by node.
	stable map[string]told
	// dirty says that there is something to be kept.
	dirty bool
	// alone is why a node agent has convicted the version by what it has seen.
	alone string
}

// told is what a node agent has told, and when.
type told struct {
	spec.Latencies
	at time.Time
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
func newBench(r *v1alpha1.Release, route *v1alpha1.Routing, at time.Time) (*bench, error) {
	c, err := spec.Judge(r.Spec.Plan.Judge, route.Quantiles, route.Judges, false)
	if err != nil {
		return nil, err
	}
	b := &bench{config: c, stable: map[string]told{}}
	if b.judge, err = verdict.New(c); err != nil {
		return nil, err
	}
	b.state = b.judge.Start(at)
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

// rejudge has what was seen judged by what the plan says now.
func (b *bench) rejudge(r *v1alpha1.Release, route *v1alpha1.Routing) error {
	c, err := spec.Judge(r.Spec.Plan.Judge, route.Quantiles, route.Judges, false)
	if err != nil || digest(c) == digest(b.config) {
		return err
	}
	judge, err := verdict.New(c)
	if err != nil {
		return err
	}
	kept, err := json.Marshal(b.state)
	if err != nil {
		return err
	}
	state, err := judge.Load(kept)
	if err != nil {
		return err
	}
	b.judge, b.config, b.state, b.dirty = judge, c, state, true
	return nil
}

// patience is how long a verdict may take.
func (b *bench) patience() time.Duration {
	if b.config.Deadline > 0 {
		return b.config.Deadline
	}
	return 30 * time.Minute
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

// passes tells the judge that time has passed, and until when it may take: nothing that
// has to be kept.
func (b *bench) passes(at, deadline time.Time) {
	b.state, _ = b.judge.Next(b.state, verdict.Observation{At: at, Extend: &deadline})
}

// baseline is what is known of stable's latencies.
func (b *bench) baseline(now time.Time) (all latency.Histogram, over time.Duration) {
	for _, t := range b.stable {
		all.Merge(t.Counts)
		over = max(over, t.Over+now.Sub(t.at))
	}
	return all, over
}

// take counts a batch, unless it has counted before.
func (b *bench) take(batch spec.Batch, at time.Time) {
	key := batch.Node + "/" + batch.Boot
	if batch.Seq <= b.kept.Seqs[key] {
		return
	}
	b.kept.Seqs[key] = batch.Seq
	b.alone = cmp.Or(b.alone, batch.Convicted)
	if batch.Stable != nil {
		b.stable[batch.Node] = told{*batch.Stable, at}
	}
	if len(batch.Counts.Cells) == 0 && len(batch.Counts.Moved) == 0 && batch.Convicted == "" {
		return
	}
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
		switch m.Name {
		case "errors":
			s.Requests, s.Errors = m.N, m.Bad
		case "over p99":
			s.Slow = m.Bad
		}
	}
	return s
}
