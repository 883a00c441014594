package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// keptBody is how much of a body is kept, and keptEvery of how many requests that go
	// well one is.
	keptBody, keptEvery = 16 << 10, 20
	// keptRate is how many requests of one version are kept in a second: in a storm the
	// first tell what the others would. Copies are evidence a moment after they have failed,
	// and keptCopies is so few that they are there still.
	keptRate, keptCopies = 50, 10
	// mostAgain is how many requests stable is asked again, and longestAgain how long it
	// may take for one.
	mostAgain, longestAgain = 32, 3 * time.Second
	// deliverPairs is for how long the controller is tried.
	deliverPairs = 10 * time.Minute
)

// recording is what doors keep of the requests of a release. tail is the latency from
// which on a request counts as slow, 0 for none.
func recording(r *v1alpha1.Release, tail time.Duration) *steer.Record {
	if r.Spec.Plan.Evidence.Off {
		return nil
	}
	rec := &steer.Record{Body: keptBody, Every: keptEvery, Slow: tail}
	if r.Spec.Plan.Evidence.NoBodies {
		rec.Body = 0
	}
	return rec
}

// recorder keeps what this node has seen of the requests of a release, until the version
// is shut out; then it brings that to the controller. It may be used by several
// goroutines.
type recorder struct {
	of   subject
	node string
	log  *slog.Logger
	send func(context.Context, *spec.Pairs) error

	mu       sync.Mutex
	rules    *evidence.Rules
	off      bool          // nothing is kept
	again    bool          // stable may be asked
	slow     time.Duration // from when on a request is slow; 0 if that is not known
	hung     time.Duration
	ring     evidence.Ring
	queue    []queued       // what was handed over and not looked at yet
	second   time.Time      // the one that is counted
	counts   map[string]int // in it, by version, and of copies apart
	asked    int
	asking   sync.WaitGroup
	turn     sync.Mutex // of who asks stable
	settling sync.Mutex // is held until what was handed over is kept
	shut     bool
}

// queued is an outcome that was kept. Doors hand them over in the middle of their work, so
// nothing is done with them there.
type queued struct {
	steer.Outcome
	id   string
	port int
}

func newRecorder(of subject, node string, log *slog.Logger, send func(context.Context, *spec.Pairs) error) *recorder {
	return &recorder{
		of: of, node: node, log: log, send: send, rules: &evidence.Rules{}, counts: map[string]int{},
		ring: evidence.Ring{Most: 40, Bytes: 4 << 20, Age: 15 * time.Minute},
	}
}

// follow takes in what is to be kept.
func (r *recorder) follow(e v1alpha1.ReleaseEvidence, tail, hung time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.rules
	r.rules, r.off, r.again, r.slow, r.hung = spec.Evidence(e), e.Off, !e.NoAgain, tail, hung
	if e.Off {
		r.queue = nil
		r.ring.Drop()
	} else if !reflect.DeepEqual(was, r.rules) {
		r.ring.Each(r.rules.Redact)
	}
}

// add keeps what became of a request. id and pod are what it is known by.
func (r *recorder) add(o *steer.Outcome, id string, port int) {
	if o.Pair == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if second := time.Now().Truncate(time.Second); second.After(r.second) {
		r.second = second
		clear(r.counts)
	}
	what, most := o.Version, keptRate
	if o.Copy {
		what, most = what+", a copy", keptCopies
	}
	r.counts[what]++
	if r.shut || r.counts[what] > most || r.hung > 0 && o.Told >= r.hung { // it is kept already
		return
	}
	r.queue = append(r.queue, queued{*o, id, port})
}

// having are those of some requests that were kept, all if nobody keeps any: what has moved
// E is to be found in the evidence.
func (r *recorder) having(all []verdict.Moved) []verdict.Moved {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off || len(all) == 0 {
		return all
	}
	kept := map[string]bool{}
	for _, p := range r.ring.Pairs() {
		kept[p.ID] = true
	}
	return slices.DeleteFunc(all, func(m verdict.Moved) bool { return !kept[m.ID] })
}

// settle keeps what was handed over. When it returns, all of that is kept.
func (r *recorder) settle() {
	r.settling.Lock()
	defer r.settling.Unlock()
	r.mu.Lock()
	all := r.queue
	r.queue = nil
	r.mu.Unlock()
	for i := range all {
		r.keep(&all[i])
	}
}

func (r *recorder) keep(o *queued) {
	r.mu.Lock()
	rules, slow := r.rules, r.slow
	r.mu.Unlock()
	p := pairOf(&o.Outcome, o.id, r.node, o.port)
	if p == nil {
		return
	}
	if p.Class == evidence.Sample && slow > 0 && o.Latency >= slow {
		p.Class, p.Why = evidence.Slow, fmt.Sprintf("%s until it answered", o.Latency.Round(time.Millisecond))
	}
	rules.Redact(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring.Add(p)
	if again := o.Pair.Again; again != nil && r.again && p.Class != evidence.Sample && p.Version == v1alpha1.Canary && len(p.Stable) == 0 && r.asked < mostAgain {
		r.asked++
		r.asking.Go(func() { r.ask(p, again, rules) })
	}
}

// ask asks stable the same thing, twice, one request at a time.
func (r *recorder) ask(p *evidence.Pair, again func(context.Context) (*steer.PairAnswer, error), rules *evidence.Rules) {
	r.turn.Lock()
	defer r.turn.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), longestAgain)
	defer cancel()
	for range 2 {
		got, err := again(ctx)
		if err != nil {
			return // there is nothing to compare with
		}
		a := answerOf(got)
		rules.Answer(a)
		r.mu.Lock()
		before := p.Size()
		p.Stable = append(p.Stable, *a)
		r.ring.Grown(p.Size() - before)
		r.mu.Unlock()
	}
}

// freeze brings what was kept to the controller, once, in the background. record is what
// this node's judge was told.
func (r *recorder) freeze(ctx context.Context, running *sync.WaitGroup, record func() ([]byte, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		return
	}
	r.shut = true
	off := r.off
	running.Go(func() {
		var text []byte
		if !off {
			var err error
			if text, err = record(); err != nil {
				r.log.Warn("what this node has convicted the release by is not kept", "err", err)
			}
		}
		r.deliver(ctx, text)
	})
}

func (r *recorder) deliver(ctx context.Context, record []byte) {
	r.settle()
	r.asking.Wait()
	r.mu.Lock()
	all := spec.Pairs{Namespace: r.of.Namespace, Release: r.of.Name, UID: r.of.uid, Node: r.node, Record: record}
	for _, p := range r.ring.Pairs() {
		all.Pairs = append(all.Pairs, *p)
	}
	r.ring = evidence.Ring{}
	r.mu.Unlock()
	if len(all.Pairs) == 0 && len(all.Record) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, deliverPairs)
	defer cancel()
	for pause := tellEvery; ; pause = min(2*pause, longestSilence) {
		err := r.send(ctx, &all)
		if err == nil || isUnjudged(err) {
			return
		}
		select {
		case <-ctx.Done():
			r.log.Warn("the evidence of this node is lost", "requests", len(all.Pairs), "err", err)
			return
		case <-time.After(pause):
		}
	}
}

// pairOf is what a door has kept, in terms of evidence, nil if it is nothing that could be
// asked again.
func pairOf(o *steer.Outcome, id, node string, port int) *evidence.Pair {
	q := o.Pair
	target := q.Target
	if u, err := url.Parse(target); err == nil && u.IsAbs() { // as clients of proxies write it
		target = u.RequestURI()
	}
	if !strings.HasPrefix(target, "/") && target != "*" || o.Unheard { // by the version it was asked of
		return nil
	}
	p := &evidence.Pair{
		ID: id, Class: evidence.Sample, Version: o.Version, Node: node, Time: o.Time, Elapsed: o.Latency,
		Request: evidence.Request{
			Method: q.Method, Target: target, Host: q.Host, HTTP2: q.HTTP2, Header: q.Header,
			Body: evidence.Body{Bytes: q.Body.Bytes, Cut: q.Body.Cut}, Port: port,
		},
		Answer: answerOf(q.Answer),
	}
	if o.Pod.IsValid() {
		p.Pod = o.Pod.Addr().Unmap().String()
	}
	a := verdict.Answer{Status: o.Status, Broken: o.Broken, Cancelled: o.Cancelled}
	if o.GRPC >= 0 {
		a.GRPC = &o.GRPC
	}
	switch {
	case o.Running:
		p.Class, p.Why = evidence.Failed, fmt.Sprintf("no answer for %s", o.Latency.Round(time.Millisecond))
	case o.Fallback:
		// What has come is stable's.
		p.Class, p.Why = evidence.Failed, "no pod of the version has answered"
		if p.Answer != nil {
			p.Stable, p.Answer = []evidence.Answer{*p.Answer}, nil
		}
	case verdict.Classify(a) == verdict.Failed:
		p.Class, p.Why = evidence.Failed, why(o)
	}
	return p
}

func why(o *steer.Outcome) string {
	switch {
	case o.Err != "":
		return o.Err
	case o.GRPC > 0:
		return fmt.Sprintf("gRPC status %d", o.GRPC)
	}
	return fmt.Sprintf("status %d", o.Status)
}

func answerOf(a *steer.PairAnswer) *evidence.Answer {
	if a == nil {
		return nil
	}
	return &evidence.Answer{Status: a.Status, Header: a.Header, Trailer: a.Trailer, Body: evidence.Body{Bytes: a.Body.Bytes, Cut: a.Body.Cut}}
}
