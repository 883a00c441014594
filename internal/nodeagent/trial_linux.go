package nodeagent

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/nodeagent/tally"
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// countEvery is how often what has ended is let count, and tellEvery how often that is told
	// to the controller.
	countEvery, tellEvery = 125 * time.Millisecond, 250 * time.Millisecond
	// longestSilence is between attempts to reach it, and after it has said that it does
	// not judge the release.
	longestSilence = 5 * time.Second
	// taped is how many observations of the judge's are kept at least: what convicts is among
	// the last of them.
	taped = 2048
)

// trial is what this node knows of one release: it judges it by the requests that come
// to its pods of stable alone, and hands on what it has counted.
type trial struct {
	of      subject
	node    string
	log     *slog.Logger
	changed func() // the release was convicted here

	mu       sync.Mutex
	judge    *verdict.Judge // nil if the release can't be judged
	config   verdict.Config
	problem  string // why not
	state    verdict.State
	tape     verdict.Tape
	began    time.Time
	tally    *tally.Tally
	known    []netip.Addr // of the canary's pods
	shared   *shared      // by routes of Gateway API; nil where doors share the requests
	sinks    []*sink
	stable   baseline
	outbox   outbox
	recorder *recorder
	news     chan struct{} // there is something that can't wait; has room for one
	idle     bool          // nothing has come since the last tick
	totals   v1alpha1.NodeDoors
	verdicts string // why the release is convicted here, "" if it is not

	entry entry // of the agent's loop alone
}

// sink is one door of a pod of stable, whose outcomes are about the release.
type sink struct {
	t       *trial
	door    *tally.Door
	port    int
	decided func() uint64
	pod     netip.AddrPort // that the door is at
	closed  bool
	// Of the door's connections, as they were sampled last.
	old, unread, before int64
	underway            int64
	sampled             bool
}

// newTrial begins with what an earlier agent of this node has written of the release.
func newTrial(of subject, node, boot string, log *slog.Logger, changed func(), r *v1alpha1.Release, rec *recorder) *trial {
	t := &trial{of: of, node: node, log: log.With("release", of.String()), changed: changed, news: make(chan struct{}, 1), idle: true, recorder: rec}
	t.outbox.Namespace, t.outbox.Release, t.outbox.UID, t.outbox.Node, t.outbox.Boot = of.Namespace, of.Name, of.uid, node, boot
	for _, d := range r.Status.Doors {
		if d.Node == node {
			t.verdicts, t.outbox.Convicted = d.Convicted, d.Convicted
			t.totals = v1alpha1.NodeDoors{Decided: d.Decided, Carried: d.Carried, Fallback: d.Fallback, Lost: d.Lost, Unread: d.Unread, Copied: d.Copied}
		}
	}
	t.tally = tally.New(verdict.Config{}, v1alpha1.Canary)
	t.tape, t.began = verdict.Tape{Judge: "node " + node, Most: taped}, time.Now()
	return t
}

// effective is what doors of this node are to do with the release: what it says itself,
// unless it is convicted here, which its status need not say yet.
func (t *trial) effective(r *v1alpha1.Release) *v1alpha1.Routing {
	if why := t.convicted(); why != "" && spec.Convicted(r) == "" {
		r = r.DeepCopy()
		r.Status.Doors = append(r.Status.Doors, v1alpha1.NodeDoors{Node: t.node, Convicted: why})
	}
	return spec.Effective(r)
}

// convicted is why the release is convicted here, "" if it is not.
func (t *trial) convicted() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.verdicts
}

// follow takes in the release, and what is in effect of it, before any door obeys it.
// What it returns are the times at which doors report what is still under way.
func (t *trial) follow(r *v1alpha1.Release, route *v1alpha1.Routing, now time.Time) []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.judgeBy(r, route, now); err != nil {
		if t.problem != err.Error() {
			t.log.Warn("the release is not judged on this node", "err", err)
		}
		t.judge, t.problem = nil, err.Error()
	} else {
		t.problem = ""
	}
	t.stable.want(r.Spec.Plan.Judge, route)
	if route.ByRoutes {
		if t.shared == nil {
			t.shared = &shared{}
		}
		t.shared.follow(r, route, now)
	}
	pods := addresses(route)
	t.tally.Routed(route.Generation, pods, now)
	for _, p := range pods {
		if !slices.Contains(t.known, p) {
			t.observe(verdict.Observation{At: now, Pod: &verdict.Pod{Name: p.String(), Canary: true, Event: verdict.PodReady}})
		}
	}
	for _, p := range t.known {
		if !slices.Contains(pods, p) {
			t.observe(verdict.Observation{At: now, Pod: &verdict.Pod{Name: p.String(), Canary: true, Event: verdict.PodGone}})
		}
	}
	t.known = pods
	return tally.Slow(t.config)
}

// judgeBy makes the judge, or another one that goes on where the last one was if the
// release is to be judged otherwise now. The lock is held.
func (t *trial) judgeBy(r *v1alpha1.Release, route *v1alpha1.Routing, now time.Time) error {
	config, err := spec.JudgeOf(r, route, true)
	if err != nil {
		return err
	}
	same, err := equal(config, t.config)
	if err != nil || same && t.judge != nil {
		return err
	}
	judge, err := verdict.New(config)
	if err != nil {
		return err
	}
	state := judge.Start(now)
	if t.judge != nil {
		kept, err := json.Marshal(t.state)
		if err != nil {
			return err
		}
		if state, err = judge.Load(kept); err != nil {
			return err
		}
	}
	t.tape.Begin(config, state, t.tape.Taken())
	t.judge, t.config, t.state = judge, config, state
	t.tally.Judged(config)
	return nil
}

// equal compares what can't be compared by ==.
func equal(a, b verdict.Config) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return string(x) == string(y), err
}

// observe gives the judge an observation. The lock is held.
func (t *trial) observe(o verdict.Observation) {
	if t.judge == nil || t.verdicts != "" {
		return
	}
	o.At = t.began.Add(o.At.Sub(t.began)).Round(0) // wherever somebody sets the clock
	was := t.state
	var v verdict.Verdict
	t.state, v = t.judge.Next(was, o)
	t.tape.Took(o, was, t.state)
	if v.Is != verdict.Bad {
		return
	}
	t.tape.Say(v)
	t.verdicts = cmp.Or(v.Why, "the evidence is against the version")
	t.outbox.Convicted = t.verdicts
	t.log.Warn("the release is convicted by what this node has seen", "why", t.verdicts)
	t.rouse()
	t.changed()
}

// record is what this node's judge was told, compressed by gzip, if it has convicted the
// release; empty if it has not.
func (t *trial) record() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.judge == nil || t.judge.Verdict(t.state).Is != verdict.Bad {
		return nil, nil
	}
	r, err := t.tape.Record()
	if err != nil {
		return nil, err
	}
	text, err := r.MarshalText()
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(text)
	err = errors.Join(err, z.Close())
	return packed.Bytes(), err
}

// tail are the latency that one in a hundred of stable's requests exceeds, 0 if that is not
// known, and that after which a request hangs.
func (t *trial) tail() (slow, hung time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.config.Slow(true); len(s) > 2 {
		slow = s[2]
	}
	return slow, t.config.Hung
}

func (t *trial) rouse() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// open begins to listen to a door. decided is the number of the last request that it
// has decided about, and before are the latencies of those that were decided for nobody.
func (t *trial) open(name string, port int, decided func() uint64, before *latency.Window) *sink {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stable.window.Begin(time.Now())
	t.stable.window.Merge(before)
	s := &sink{t: t, decided: decided, port: port, door: t.tally.Door(name, decided())}
	t.sinks = append(t.sinks, s)
	return s
}

// close says that the door decides about no more requests of the release.
func (s *sink) close() {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.door.Close(s.decided(), time.Now())
	t.sinks = slices.DeleteFunc(t.sinks, func(o *sink) bool { return o == s })
	t.totals.Unread += s.unread
}

func (s *sink) isClosed() bool {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	return s.closed
}

// add takes in an outcome. It may be called by many goroutines at once.
func (s *sink) add(o *steer.Outcome) {
	t := s.t
	t.recorder.add(o, s.door.ID(o), s.port)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = false
	if t.shared != nil {
		o = t.shared.outcome(o, s.pod)
	}
	if !o.Running {
		t.count(o)
	}
	if !o.Running && !o.Copy {
		t.stable.add(o, time.Now())
	}
	if r := s.door.Add(o); r != nil {
		t.observe(verdict.Observation{At: time.Now(), Request: r})
	}
}

// count counts a request for people. The lock is held.
func (t *trial) count(o *steer.Outcome) {
	n := &t.totals
	if o.Copy && !o.Cancelled {
		n.Copied++
	}
	if o.Copy {
		return
	}
	n.Decided++
	if o.Version == v1alpha1.Canary {
		n.Carried++
	}
	if o.Fallback {
		n.Fallback++
	}
	if o.Broken && o.Status == 0 {
		n.Lost++
	}
}

// sample takes in what the door says of its connections.
func (s *sink) sample(now steer.SplitStatus) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if !s.sampled {
		s.sampled, s.before = true, now.Unread
	}
	s.old, s.unread, s.underway = now.Old, now.Unread-s.before, now.Underway
}

// counters are what there is to tell of requests and connections.
func (t *trial) counters() v1alpha1.NodeDoors {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.totals
	n.Node, n.Convicted = t.node, t.verdicts
	for _, s := range t.sinks {
		n.Old += s.old
		n.Unread += s.unread
		n.Underway += s.underway
	}
	return n
}

// tick lets count what may count by now.
func (t *trial) tick(now time.Time) {
	t.recorder.settle()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sinks {
		s.door.Mark(s.decided(), now)
	}
	counts := t.tally.Take(now)
	counts.Moved = t.recorder.having(counts.Moved)
	if told := t.stable.tell(now); told != nil {
		t.outbox.Stable = told
	}
	if t.judge == nil {
		return
	}
	if len(counts.Cells) > 0 || !t.idle {
		t.observe(verdict.Observation{At: now, Counts: &counts})
	}
	t.idle = true
	var told verdict.Counts
	t.state, told = t.judge.Drain(t.state)
	t.outbox.put(told)
}

// next is what is to be sent, nil for nothing.
func (t *trial) next() *spec.Batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outbox.next()
}

// run tells the controller until ctx ends.
func (t *trial) run(ctx context.Context, send func(context.Context, *spec.Batch) error) {
	ticker := time.NewTicker(countEvery)
	defer ticker.Stop()
	answers := make(chan error, 1)
	under := false // one is on its way
	urgent := false
	var sent, quiet time.Time
	pause := tellEvery
	for {
		select {
		case <-ticker.C:
		case <-t.news:
			urgent = true
		case err := <-answers:
			under = false
			quiet, pause = t.answered(err, pause)
			continue
		case <-ctx.Done():
			if under {
				<-answers
			}
			return
		}
		now := time.Now()
		t.tick(now)
		if under || now.Before(quiet) || !urgent && now.Sub(sent) < tellEvery {
			continue
		}
		urgent = false
		if b := t.next(); b != nil {
			under, sent = true, now
			go func() { answers <- send(ctx, b) }()
		}
	}
}

// answered takes in what has become of a batch. It returns until when to be quiet, and
// how long to be so the next time.
func (t *trial) answered(err error, pause time.Duration) (until time.Time, next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.outbox.answered()
		return until, tellEvery
	case errors.Is(err, errUnjudged):
		t.outbox.answered()
		return time.Now().Add(longestSilence), tellEvery
	}
	if pause == tellEvery {
		t.log.Warn("the controller does not know what this node has counted", "err", err)
	}
	return time.Now().Add(pause), min(2*pause, longestSilence)
}
