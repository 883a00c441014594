package verdict

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// quantiles20 are those of latencies about 20 ms, of which the logarithm is normal.
func quantiles20(sigma float64) (q [4]time.Duration) {
	for k, z := range []float64{0, 1.2816, 2.3263, 3.0902} {
		q[k] = time.Duration(20e6 * math.Exp(sigma*z))
	}
	return q
}

func slow(d time.Duration, change ...func(*Request)) []Observation {
	return times(9, func(i int) Observation {
		o := fails(time.Second+time.Duration(i)*50*ms, true, answered(Answer{Status: 200}), lasting(d, 0))
		for _, c := range change {
			c(o.Request)
		}
		return o
	})
}

// The way to the canary's pods is not held against it, nor is a cold cache.
func TestWhatIsNotSlow(t *testing.T) {
	quick := Config{Quantiles: [4]time.Duration{1 * ms, 2 * ms, 4 * ms, 8 * ms}, Slack: 3 * ms}
	unrated := func(r *Request) { r.Unrated = true }
	for _, c := range []struct {
		name string
		seen []Observation
		is   Kind
	}{
		{"within the slack", slow(4 * ms), Collecting},
		{"beyond it", slow(30 * ms), Bad},
		{"settling", slow(30*ms, unrated), Collecting},
		{"settling, and without an answer", slow(11*time.Second, unrated), Bad},
	} {
		s := judge(t, quick).Start(t0)
		var v Verdict
		for _, o := range c.seen {
			s, v = judge(t, quick).Next(s, o)
		}
		if v.Is != c.is {
			t.Errorf("%s: %s (%s), want %s", c.name, v.Is, v.Why, c.is)
		}
	}
	// What settles counts as a success, and not as quick.
	j := judge(t, quick)
	s, v := j.Next(j.Start(t0), Observation{At: at(time.Second), Counts: &Counts{Cells: []Cell{{Weight: 0.05, Canary: Tally{Unrated: 90, Closed: [5]int64{10}}}}}})
	if n := map[string]int64{v.Metrics[0].Name: v.Metrics[0].N, v.Metrics[2].Name: v.Metrics[2].N}; n["errors"] != 100 || n["over p99"] != 10 || total(s.Canary) != 100 {
		t.Errorf("counted are %v", n)
	}
	from := time.Unix(1000, 0)
	if c := (Config{Settle: 10 * time.Second}); !c.Settling(from, from.Add(9*time.Second)) || c.Settling(from, from.Add(10*time.Second)) {
		t.Error("a pod settles for another time than it is told")
	}
}

// A judge of latency goes on from the state of one that had no quantiles yet, and the
// other way round; what both judge loses nothing.
func TestAStateGoesOnWhenLatencyIsJudged(t *testing.T) {
	before, after := judge(t, Config{}), judge(t, Config{Quantiles: quantiles20(0.6), Guards: []string{"queue"}})
	s := before.Start(t0)
	for _, o := range seq(ready("a", "stable-1"), well(time.Second, 60, 1000), fails(2*time.Second, true)) {
		s, _ = before.Next(s, o)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	next, err := after.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.Verdict(s), after.Verdict(next)
	if len(is.Metrics) != 3 || is.Metrics[0] != was.Metrics[0] || is.Metrics[1].N != 0 || len(next.Pods) != 2 || total(next.Canary) != total(s.Canary) {
		t.Errorf("it was %+v and is %+v", was, is)
	}
	for i := range 40 {
		next, is = after.Next(next, well(time.Duration(3+i)*time.Second, 30, 570))
	}
	if is.Is != Collecting || !strings.Contains(is.Why, `guard "queue" has no data`) {
		t.Errorf("without the guard's word it is %s: %s", is.Is, is.Why)
	}
	if next, is = after.Next(next, Observation{At: at(time.Minute), Guard: &Guard{"queue", GuardPass, "7"}}); is.Is != Good {
		t.Errorf("it is %s: %s", is.Is, is.Why)
	}
	if text, err = json.Marshal(next); err != nil {
		t.Fatal(err)
	}
	back, err := before.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	if is := before.Verdict(back); len(is.Metrics) != 1 || is.Metrics[0].N != 1261 || len(back.Guards) != 0 {
		t.Errorf("without latency again: %+v, guards %+v", is, back.Guards)
	}
}

// In whatever order the requests of a second come, and in however many parts, a bet
// moves by the same, and by no more than is allowed.
func TestASurge(t *testing.T) {
	j := judge(t, Config{Quantiles: quantiles20(0.6), Surge: 20})
	tell := func(s State, second int, canary, stable int64) State {
		c := Cell{Weight: 0.05, Canary: Tally{Slow: [4]int64{canary, canary, canary, canary}}, Stable: Tally{Slow: [4]int64{stable, stable, stable, stable}}}
		s, _ = j.Next(s, Observation{At: at(time.Duration(second) * time.Second), Counts: &Counts{Cells: []Cell{c}}})
		return s
	}
	a, b := tell(tell(j.Start(t0), 1, 9, 0), 1, 0, 30), tell(tell(j.Start(t0), 1, 0, 30), 1, 9, 0)
	for k := range a.Slow {
		for i := range a.Slow[k].Logs {
			if x, y := a.Slow[k].Logs[i], b.Slow[k].Logs[i]; math.Abs(x-y) > 1e-9 {
				t.Errorf("bet %d on quantile %d came to %v, and the other way round to %v", i, k, x, y)
			}
		}
	}
	start := j.Start(t0)
	if s := tell(start, 1, 1000, 0); s.Is == Bad || s.Slow[3].Logs[5]-start.Slow[3].Logs[5] > math.Log(20)+1e-9 {
		t.Errorf("a thousand slow requests in one second: %s, a bet moved by %v", s.Is, s.Slow[3].Logs[5]-start.Slow[3].Logs[5])
	}
	s, n := start, 0
	for ; s.Is != Bad && n < 60; n++ {
		s = tell(s, n, 50, 10)
	}
	if n > 6 {
		t.Errorf("slow for good is convicted after %d s", n)
	}
}

// A healthy canary is not convicted because its pod stands still now and then, as
// stable's do: for garbage collection, or for its share of a processor.
func TestPodsThatStandStill(t *testing.T) {
	const pods, sigma = 3, 0.6
	q := quantiles20(sigma)
	for k := range q[2:] { // as stable has them, which stands still, too
		q[2+k] += 100 * ms
	}
	usual := lognormal(20*time.Millisecond, sigma)
	for _, rps := range []float64{200, 2000} {
		for _, surge := range []float64{0, 20} {
			j := judge(t, Config{Alpha: 0.0005, Quantiles: q, Surge: surge})
			n := min(runs(t, 25), 2000)
			bad := 0
			for _, f := range each(n, func(r *rand.Rand) found {
				var until [pods + 1]float64 // each pod stands still for 0.15 s each 10 s; the last is the canary's
				next := [pods + 1]float64{}
				for i := range next {
					next[i] = 10 * r.ExpFloat64()
				}
				s := j.Start(t0)
				for now := 0.0; now < 60 && s.Is != Bad; now += r.ExpFloat64() / rps {
					for i := range next {
						if now >= next[i] {
							until[i], next[i] = next[i]+0.15, next[i]+0.15+10*r.ExpFloat64()
						}
					}
					canary := r.Float64() < 0.05
					pod := r.IntN(pods)
					if canary {
						pod = pods
					}
					took := usual(r)
					if still := until[pod] - now; still > 0 {
						took += time.Duration(still * 1e9)
					}
					if took > q[0] {
						j.observe(&s.core, Observation{At: at(time.Duration(now * 1e9)), Request: &Request{ID: "r", Canary: canary, Weight: 0.05, Answer: Answer{Status: 200}, Elapsed: took}})
					}
				}
				return found{is: s.Is}
			}) {
				if f.is == Bad {
					bad++
				}
			}
			t.Logf("%4.0f rps, surge %2v: %d of %d healthy canaries convicted in a minute", rps, surge, bad, n)
			if surge > 0 && float64(bad) > most(0.001, n) {
				t.Errorf("%d of %d healthy canaries are convicted at %v rps", bad, n, rps)
			}
		}
	}
}

// TestSlowCanariesAreFoundAsReleased measures with all that a release is judged by: half of
// alpha, errors beside, and the limit of a second.
func TestSlowCanariesAreFoundAsReleased(t *testing.T) {
	const sigma = 0.6
	usual := lognormal(20*time.Millisecond, sigma)
	j := judge(t, Config{Alpha: 0.0005, Quantiles: quantiles20(sigma), Slack: 2 * ms, Surge: 20})
	for _, c := range []struct {
		name    string
		few     int
		canary  func(r *rand.Rand) time.Duration
		seconds float64 // at the median, at most; 0 for never
	}{
		{"no answer for 5 s", 200, func(*rand.Rand) time.Duration { return 5 * time.Second }, 5},
		{"ten times as slow", 200, lognormal(200*time.Millisecond, sigma), 5},
		{"twice as slow", 100, lognormal(40*time.Millisecond, sigma), 12},
		{"3 % of requests +1 s", 60, func(r *rand.Rand) time.Duration {
			if r.Float64() < 0.03 {
				return usual(r) + time.Second
			}
			return usual(r)
		}, 45},
		{"2 ms slower", 40, func(r *rand.Rand) time.Duration { return usual(r) + 2*ms }, 0},
	} {
		n := min(runs(t, c.few), 10*c.few)
		a := arrivals{rps: 200, weight: .05, stable: usual, canary: c.canary}
		got := measure(n, func(r *rand.Rand) found { return a.run(j, r, 300, Bad) }, Bad)
		t.Logf("%-22s %5d runs: %.0f %% found, after %.1f s and %v requests to the canary (p99 %.1f s)", c.name, n, 100*got.found, got.p50, got.requests50, got.p99)
		if c.seconds > 0 && got.p50 > c.seconds || (got.found > 0) != (c.seconds > 0) {
			t.Errorf("%s: found in %.2f of the runs, after %.1f s, want %v s or less", c.name, got.found, got.p50, c.seconds)
		}
	}
}
