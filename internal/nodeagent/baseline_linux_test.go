package nodeagent

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const ms = time.Millisecond

// beginning is a release whose canary has had no request.
func beginning(change ...func(*v1alpha1.Release)) *v1alpha1.Release {
	r := releaseOf("r", change...)
	r.Status.Route.Weight, r.Status.Route.Held = 0, 0
	return r
}

// lasting is a request to stable that has taken so long.
func lasting(id uint64, took time.Duration, change ...func(*steer.Outcome)) *steer.Outcome {
	o := outcome(id, false, 200)
	o.Latency = took
	for _, c := range change {
		c(o)
	}
	return o
}

// What stable took is told until the canary gets its first request, all of it each time.
func TestStableIsMeasuredBeforehand(t *testing.T) {
	r := beginning()
	tr := trialOf(r, func() {})
	last := uint64(0)
	before := &latency.Window{}
	before.Add(2*ms, time.Now().Add(-time.Minute))
	s := tr.open("a:8080", 8080, func() uint64 { return last }, before)
	now := time.Now()
	tell := func(all ...*steer.Outcome) *spec.Batch {
		for _, o := range all {
			last = o.ID
			s.add(o)
		}
		now = now.Add(time.Second)
		b := tr.batch(now)
		if b != nil {
			tr.outbox.answered()
		}
		return b
	}
	b := tell(lasting(1, 5*ms), lasting(2, 7*ms),
		lasting(3, time.Hour, func(o *steer.Outcome) { o.Status = 503 }),
		lasting(4, time.Hour, func(o *steer.Outcome) { o.Cancelled, o.Status = true, 0 }),
		lasting(5, time.Hour, func(o *steer.Outcome) { o.GRPC = 14 }),
		lasting(6, time.Hour, func(o *steer.Outcome) { o.Running, o.Status = true, 0 }))
	if b == nil || b.Stable == nil || b.Stable.Counts.N() != 3 || b.Stable.Counts.Quantile(1) > 8*ms || b.Stable.Over < time.Minute {
		t.Fatalf("told is %+v", b)
	}
	text, err := json.Marshal(b)
	if err != nil || len(text) > 1000 {
		t.Errorf("%d bytes, %v: %s", len(text), err, text)
	}
	told := 0
	for range 6 {
		if b := tell(); b != nil && b.Stable != nil && b.Stable.Counts.N() == 3 {
			told++
		}
	}
	if told != 2 { // for a controller that may know nothing yet
		t.Errorf("told again %d times in 6 s", told)
	}
	if b := tell(lasting(7, 9*ms)); b == nil || b.Stable.Counts.N() != 4 {
		t.Errorf("told is %+v", b)
	}
	r.Status.Route.Weight = 500
	tr.follow(r, tr.effective(r), now)
	for b := tell(lasting(8, 9*ms)); b != nil; b = tell() {
		if b.Stable != nil {
			t.Errorf("while the canary has requests, told is %+v", b.Stable)
		}
	}
}

func TestWhenStableIsMeasured(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*v1alpha1.Release)
		want   bool
	}{
		"before the first request": {func(*v1alpha1.Release) {}, true},
		"with a weight":            {func(r *v1alpha1.Release) { r.Status.Route.Weight = 1 }, false},
		"with copies":              {func(r *v1alpha1.Release) { r.Status.Route.Mirror = 1 }, false},
		"when it is undone":        {func(r *v1alpha1.Release) { r.Spec.Orders.Undo = true }, false},
		"when it is known":         {func(r *v1alpha1.Release) { r.Status.Route.Quantiles = make([]metav1.Duration, 4) }, false},
		"when nobody minds":        {func(r *v1alpha1.Release) { r.Spec.Plan.Judge.Latency = "off" }, false},
	} {
		r := beginning()
		tt.change(r)
		if tr := trialOf(r, func() {}); tr.stable.wanted != tt.want {
			t.Errorf("%s: %v", name, tr.stable.wanted)
		}
	}
}

// Doors that are open before a release measure for it.
func TestDoorsOfNoReleaseMeasure(t *testing.T) {
	var s sinks
	o := lasting(1, 3*ms, func(o *steer.Outcome) { o.Of = idle })
	s.add(8080, o)
	if h, _ := s.before.of(8080).Sum(time.Now()); h.N() != 0 {
		t.Error("a door that is not there measures")
	}
	s.before.begin(8080, time.Now().Add(-time.Hour))
	for range 10 {
		s.add(8080, o)
		s.add(9090, o)
	}
	s.add(8080, lasting(2, time.Hour, func(o *steer.Outcome) { o.Of, o.Status = idle, 500 }))
	if h, over := s.before.of(8080).Sum(time.Now()); h.N() != 10 || h.Quantile(1) > 4*ms || over < 4*time.Minute {
		t.Errorf("measured are %d in %s", h.N(), over)
	}
	if h, _ := s.before.of(9090).Sum(time.Now()); h.N() != 0 {
		t.Errorf("of another port %d", h.N())
	}
}

// known is a release whose stable's latencies are frozen, and whose canary gets a
// twentieth of the requests.
func known() *v1alpha1.Release {
	return releaseOf("r", func(r *v1alpha1.Release) {
		for _, q := range []time.Duration{5 * ms, 8 * ms, 20 * ms, 50 * ms} {
			r.Status.Route.Quantiles = append(r.Status.Route.Quantiles, metav1.Duration{Duration: q})
		}
	})
}

// A version that is ten times as slow is convicted by one node, and one that never answers
// by its requests in flight; one that is as quick is left alone.
func TestANodeConvictsWhatIsSlow(t *testing.T) {
	for _, tt := range []struct {
		name   string
		took   time.Duration
		flight bool
		most   int // requests to the canary, 0 if it is not to be convicted
	}{
		{"as quick, and the way there", 6 * ms, false, 0},
		{"ten times as slow", 50 * ms, false, 60},
		{"no answer at all", 0, true, 60},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := known()
			tr := trialOf(r, func() {})
			tr.tally.Routed(7, addresses(r.Status.Route), time.Now().Add(-time.Minute))
			last := uint64(0)
			s := tr.open("a:8080", 8080, func() uint64 { return last }, &latency.Window{})
			canary := 0
			for tr.convicted() == "" && last < 3000 {
				last++
				o := lasting(last, 4*ms)
				if last%2 == 0 {
					o.Latency = 6 * ms // half are over the median
				}
				if last%20 == 0 {
					canary++
					o = outcome(last, true, 200)
					if o.Latency = tt.took; tt.flight {
						o.Running, o.Status, o.Latency = true, 0, 303*ms // of which a quarter of a second may be the way
					}
				}
				o.Time = time.Now().Add(time.Minute) // the pod has settled
				s.add(o)
				if last%100 == 0 { // half a second's
					tr.mu.Lock()
					tr.observe(verdict.Observation{At: time.Now().Add(time.Duration(last) * 5 * ms)})
					tr.mu.Unlock()
				}
			}
			t.Logf("after %d requests to the canary: %q", canary, tr.convicted())
			if got := tr.convicted() != ""; got != (tt.most > 0) || got && canary > tt.most {
				t.Errorf("after %d requests to the canary: %q", canary, tr.convicted())
			}
		})
	}
}

func BenchmarkLatency(b *testing.B) {
	r := known()
	tr := trialOf(r, func() {})
	for name, took := range map[string]time.Duration{"quick": 4 * ms, "over the median": 6 * ms, "over all": 60 * ms} {
		b.Run(name, func(b *testing.B) {
			last := uint64(0)
			s := tr.open(name, 8080, func() uint64 { return last }, &latency.Window{})
			defer s.close()
			for b.Loop() {
				last++
				s.add(lasting(last, took))
			}
		})
	}
}

// Quantiles come in the middle of a trial, and nothing that is known is lost.
func TestAJudgeLearnsTheLatenciesOfStable(t *testing.T) {
	r := beginning()
	tr := trialOf(r, func() {})
	last := uint64(0)
	s := tr.open("a:8080", 8080, func() uint64 { return last }, &latency.Window{})
	for range 50 {
		last++
		s.add(lasting(last, 4*ms))
	}
	slow := tr.follow(known(), known().Status.Route, time.Now())
	want := fmt.Sprint([]time.Duration{5 * ms, 7 * ms, 8 * ms, 10 * ms, 20 * ms, 22 * ms, 50 * ms, 52 * ms, 257 * ms, 260 * ms, 272 * ms, 302 * ms, 30 * time.Second})
	if got := fmt.Sprint(slow); got != want || tr.judge == nil {
		t.Errorf("doors report at %s, want %s", got, want)
	}
	last++
	s.add(lasting(last, 30*ms))
	if n := tr.state.Stable.Slow; n != [4]int64{1, 1, 1, 0} {
		t.Errorf("slow were %v", n)
	}
}
