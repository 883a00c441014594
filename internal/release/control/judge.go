package control

import (
	"cmp"
	"encoding/json"
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
	tape   verdict.Tape
	began  time.Time // when this process began to judge
	kept   notes
	// stable are the latencies that node agents have told, by node.
	stable map[string]told
	// dirty says that there is something to be kept.
	dirty bool
	// late are counts of the canary's requests that count later: see [bench.takeApart].
	late []later
	// alone is why a node agent has convicted the version by what it has seen.
	alone string
}

// told is what a node agent has told, and when.
type told struct {
	spec.Latencies
	at time.Time
}

// later are counts that count from a time on.
type later struct {
	At     time.Time      `json:"at"`
	Counts verdict.Counts `json:"counts"`
}

// lateness is by how much what one node has seen of the canary waits for what others have
// seen of stable.
const lateness = 1500 * time.Millisecond

// notes are kept with the judge's state, so that nothing counts twice.
type notes struct {
	Judge json.RawMessage `json:"judge,omitempty"`
	// Pods are those that were seen, by name.
	Pods map[string]seenPod `json:"pods,omitempty"`
	// Seqs are the last batches that count, by node and run of its agent.
	Seqs map[string]int64 `json:"seqs,omitempty"`
	// Late are counts that have not counted yet, of batches up to Seqs.
	Late []later `json:"late,omitempty"`
	// Taken is how many observations have made the judge's state.
	Taken int64 `json:"taken,omitempty"`
	// Path is what E has come to.
	Path []evidence.Point `json:"path,omitempty"`
}

type seenPod struct {
	Canary   bool  `json:"canary,omitempty"`
	Ready    bool  `json:"ready,omitempty"`
	Restarts int32 `json:"restarts,omitempty"`
}

// newBench goes on from what was kept, by a clock that was moved by so much.
func newBench(r *v1alpha1.Release, route *v1alpha1.Routing, at time.Time, moved time.Duration) (*bench, error) {
	c, err := spec.JudgeOf(r, route, false)
	if err != nil {
		return nil, err
	}
	b := &bench{began: time.Now(), config: c, stable: map[string]told{}, tape: verdict.Tape{Judge: theController}}
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
			b.state = state.Moved(moved)
			for _, l := range b.kept.Late {
				b.late = append(b.late, later{l.At.Add(moved), l.Counts})
			}
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
	b.tape.Begin(c, b.state, b.kept.Taken)
	return b, nil
}

// theController is the name of its judge in records.
const theController = "controller"

// rejudge has what was seen judged by what the plan says now.
func (b *bench) rejudge(r *v1alpha1.Release, route *v1alpha1.Routing) error {
	c, err := spec.JudgeOf(r, route, false)
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
	b.tape.Begin(c, state, b.tape.Taken())
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
	b.kept.Taken, b.kept.Late = b.tape.Taken(), b.late
	if b.kept.Judge, err = json.Marshal(b.state); err != nil {
		return nil, err
	}
	return json.Marshal(b.kept)
}

func (b *bench) observe(o verdict.Observation) {
	b.next(o)
	b.dirty = true
}

// next takes in an observation, at a time that does not jump where somebody sets the clock.
func (b *bench) next(o verdict.Observation) {
	o.At = b.began.Add(o.At.Sub(b.began)).Round(0)
	was := b.state
	b.state, _ = b.judge.Next(was, o)
	b.tape.Took(o, was, b.state)
}

// passes tells the judge that time has passed, and until when it may take: nothing that
// has to be kept.
func (b *bench) passes(at, deadline time.Time) {
	b.next(verdict.Observation{At: at, Extend: &deadline})
}

// quiet is for how long nothing may be heard of requests that come all the same: nodes tell
// of them twice a second.
const quiet = time.Second

// baseline is what is known of stable's latencies, and in which time that came.
func (b *bench) baseline(now time.Time) (all latency.Histogram, over time.Duration) {
	for _, t := range b.stable {
		all.Merge(t.Counts)
		over = max(over, t.Over+max(now.Sub(t.at)-quiet, 0))
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

// takeApart counts a batch of a node that does not see all requests, as none does where
// gateways share them: what it has seen of the canary waits for a moment for what others
// have seen of stable, so that an outage of both doesn't look like one of the canary.
func (b *bench) takeApart(batch spec.Batch, at time.Time) {
	if batch.Seq <= b.kept.Seqs[batch.Node+"/"+batch.Boot] {
		return
	}
	stable, canary := apart(batch.Counts)
	batch.Counts = stable
	b.take(batch, at)
	if len(canary.Cells) > 0 {
		b.late = append(b.late, later{at.Add(lateness).Round(0), canary})
		b.dirty = true
	}
}

// apart are what was counted of stable's requests, and of the canary's.
func apart(c verdict.Counts) (stable, canary verdict.Counts) {
	for _, cell := range c.Cells {
		a, b := cell, cell
		a.Canary, a.Pods, b.Stable = verdict.Tally{}, nil, verdict.Tally{}
		if a.Stable != (verdict.Tally{}) {
			stable.Cells = append(stable.Cells, a)
		}
		if b.Canary != (verdict.Tally{}) {
			canary.Cells = append(canary.Cells, b)
		}
	}
	canary.Moved = c.Moved
	return stable, canary
}

// catchUp counts what is due by now.
func (b *bench) catchUp(now time.Time) {
	for len(b.late) > 0 && !b.late[0].At.After(now) {
		b.observe(verdict.Observation{At: now, Counts: &b.late[0].Counts})
		b.late = b.late[1:]
	}
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

// counted is what became of the requests to both versions, as it is shown.
func counted(stable, canary verdict.Side) (a, b *v1alpha1.Counted) {
	show := func(s verdict.Side) *v1alpha1.Counted {
		if s.Requests == 0 {
			return nil
		}
		return &v1alpha1.Counted{Requests: s.Requests, Errors: s.Errors, Above: s.Above, Slow: s.Slow, Rated: s.Rated}
	}
	return show(stable), show(canary)
}

// copied is what became of the copies that the version has got, as it is shown.
func copied(s verdict.Side) *v1alpha1.Counted { _, c := counted(verdict.Side{}, s); return c }

// status is the verdict as it is shown.
func status(v verdict.Verdict) *v1alpha1.VerdictStatus {
	s := &v1alpha1.VerdictStatus{
		Is: string(v.Is), Why: v.Why, E: verdict.Number(v.E), AbortAt: verdict.Number(v.AbortAt), BadPods: v.BadPods,
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
