package verdict

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// arrivals are single requests at their times, for how soon a verdict comes. What
// went well is told ten times a second, a tenth of a second late; errors at once.
type arrivals struct {
	rps, weight float64
	pc, pb      float64 // rates of errors
	canary      func(r *rand.Rand) time.Duration
	stable      func(r *rand.Rand) time.Duration // latencies, nil for none
	brokenFrom  float64                          // seconds; before that the canary is as good as stable
	outage      bool                             // for 30 s before that, half of all requests fail
	pods        int                              // of the canary, each request goes to one at random
	onePod      bool                             // only the first of them is broken
}

// found is when a verdict came and what it took, counted from when it broke.
type found struct {
	is               Kind
	after            float64
	errors, requests int64
	badPod           bool
}

func (a arrivals) run(j *Judge, r *rand.Rand, horizon float64, until Kind) found {
	s := j.Start(t0)
	for i := range a.pods {
		j.observe(&s.core, Observation{At: t0, Pod: &Pod{Name: strconv.Itoa(i), Canary: true, Event: PodReady}})
	}
	const flush = 0.1
	var open, closed Cell
	var out found
	next := flush
	for t := r.ExpFloat64() / a.rps; t < horizon+a.brokenFrom; t += r.ExpFloat64() / a.rps {
		for ; t > next; next += flush {
			closed.Weight = a.weight
			j.observe(&s.core, Observation{At: at(time.Duration(next * 1e9)), Counts: &Counts{Cells: []Cell{closed}}})
			closed, open = open, Cell{}
			if s.Is == until {
				out.is, out.after = s.Is, next-a.brokenFrom
				return out
			}
		}
		canary := r.Float64() < a.weight
		p, pod := a.pb, r.IntN(max(a.pods, 1))
		if canary && t >= a.brokenFrom {
			if !a.onePod || pod == 0 {
				p = a.pc
			}
			out.requests++
		}
		if a.outage && t >= a.brokenFrom-30 && t < a.brokenFrom {
			p = 0.5
		}
		req := Request{ID: "r", Canary: canary, Weight: a.weight, Answer: Answer{Status: 200}}
		if r.Float64() < p {
			req.Status = 500
			if canary && t >= a.brokenFrom {
				out.errors++
			}
		}
		if draw := a.latency(canary && t >= a.brokenFrom); draw != nil {
			req.Elapsed = draw(r)
		}
		if a.pods > 0 {
			req.Pod = strconv.Itoa(pod)
		}
		if !open.end(j, req) {
			continue
		}
		j.observe(&s.core, Observation{At: at(time.Duration(t * 1e9)), Request: &req})
		if s.Is == until {
			out.is, out.after = s.Is, t-a.brokenFrom
			return out
		}
	}
	out.is, out.after = s.Is, horizon
	out.badPod = s.badPod("0")
	return out
}

// end counts a request that went well, and says whether it is worth telling alone.
func (c *Cell) end(j *Judge, r Request) bool {
	tally, band := &c.Stable, 0
	if r.Canary {
		tally = &c.Canary
	}
	for k, q := range j.config.Quantiles {
		if j.config.latency() && r.Elapsed > q {
			band = k + 1
		}
	}
	if r.Status == 200 {
		tally.Closed[band]++
	}
	return r.Status != 200 || band > 0
}

func (a arrivals) latency(canary bool) func(*rand.Rand) time.Duration {
	if canary && a.canary != nil {
		return a.canary
	}
	return a.stable
}

// figures are the quantiles of what was found.
type figures struct{ p50, p99, errors50, errors99, requests50, found float64 }

func measure(n int, run func(r *rand.Rand) found, until Kind) figures {
	var after, errors, requests []float64
	hit := 0.0
	for _, f := range each(n, run) {
		after, errors, requests = append(after, f.after), append(errors, float64(f.errors)), append(requests, float64(f.requests))
		if f.is == until {
			hit++
		}
	}
	return figures{quantile(after, .5), quantile(after, .99), quantile(errors, .5), quantile(errors, .99), quantile(requests, .5), hit / float64(n)}
}

// TestBrokenCanariesAreFound measures the time to a conviction: at the median it is
// at most a tenth over the target, with all of alpha at one judge of errors alone.
// Beside it is what a central judge needs, which has half of alpha, and latency too.
func TestBrokenCanariesAreFound(t *testing.T) {
	for _, c := range []struct {
		name     string
		few      int
		a        arrivals
		horizon  float64
		median   float64 // seconds, the target
		errors99 float64 // at most, with the defaults; 0 for no bound
	}{
		{"all fail, 20 rps", 1000, arrivals{rps: 20, pc: 1}, 600, 2.8, 4},
		{"all fail, 200 rps", 1000, arrivals{rps: 200, pc: 1}, 60, 0.28, 4},
		{"10 % fail, 200 rps", 300, arrivals{rps: 200, pc: .1}, 600, 3.6, 0},
		{"2 % fail, 200 rps", 150, arrivals{rps: 200, pc: .02}, 1800, 33, 0},
		{"0.6 % fail, 2000 rps", 120, arrivals{rps: 2000, pc: .006}, 600, 34, 0},
	} {
		n := min(runs(t, c.few), 10*c.few)
		c.a.weight, c.a.pb = 0.05, 0.002
		plain := judge(t, Config{})
		got := measure(n, func(r *rand.Rand) found { return c.a.run(plain, r, c.horizon, Bad) }, Bad)
		central, _ := Split(0.001, 1)
		half := judge(t, Config{Alpha: central, Quantiles: [4]time.Duration{1, 2, 3, 4}})
		def := measure(n, func(r *rand.Rand) found { return c.a.run(half, r, c.horizon, Bad) }, Bad)
		t.Logf("%-22s %5d runs: %.2f s, %v errors (p99 %.2f s, %v); target %.2f s; central half with latency %.2f s, %v errors (p99 %.2f s, %v)",
			c.name, n, got.p50, got.errors50, got.p99, got.errors99, c.median, def.p50, def.errors50, def.p99, def.errors99)
		if got.p50 > 1.1*c.median {
			t.Errorf("%s: found in %.2f s at the median, want %.2f or less", c.name, got.p50, 1.1*c.median)
		}
		if c.errors99 > 0 && def.errors99 > c.errors99 {
			t.Errorf("%s: %v requests failed at the 99th percentile, want %v or fewer", c.name, def.errors99, c.errors99)
		}
		if got.found < 0.99 || def.found < 0.99 {
			t.Errorf("%s: found in %.3f and %.3f of the runs, want nearly all", c.name, got.found, def.found)
		}
	}
}

// TestABreakAfterAQuietTimeIsFound is what the reserve is for: the canary breaks
// after ten minutes, and after an outage of what it shares with stable.
func TestABreakAfterAQuietTimeIsFound(t *testing.T) {
	for _, outage := range []bool{false, true} {
		n := min(runs(t, 12), 400)
		a := arrivals{rps: 200, weight: 0.05, pc: 1, pb: 0.002, brokenFrom: 600, outage: outage}
		j := judge(t, Config{Alpha: 0.0005})
		got := measure(n, func(r *rand.Rand) found { return a.run(j, r, 60, Bad) }, Bad)
		t.Logf("after 10 minutes, outage %v: %d runs, %v errors (p99 %v)", outage, n, got.errors50, got.errors99)
		if got.errors99 > 12 {
			t.Errorf("outage %v: %v errors at the 99th percentile, want 12 or fewer", outage, got.errors99)
		}
	}
}

// TestABadPodIsNoBadVersion breaks one pod of the canary, or all.
func TestABadPodIsNoBadVersion(t *testing.T) {
	j := judge(t, Config{Alpha: 0.0005})
	for _, pods := range []int{2, 3, 10} {
		n := min(runs(t, 60), 2000)
		a := arrivals{rps: 200, weight: 0.05, pc: 1, pb: 0.002, brokenFrom: 30, pods: pods}
		all := measure(n, func(r *rand.Rand) found { return a.run(j, r, 60, Bad) }, Bad)
		a.brokenFrom = 0
		first := measure(n, func(r *rand.Rand) found { return a.run(j, r, 60, Bad) }, Bad)
		a.brokenFrom, a.onePod = 30, true
		convicted, named := 0, 0
		for _, f := range each(n, func(r *rand.Rand) found { return a.run(j, r, 60, Bad) }) {
			if f.is == Bad {
				convicted++
			} else if f.badPod {
				named++
			}
		}
		t.Logf("%2d pods, %d runs: all broken from the start: %v errors (p99 %v), after 30 s: %v (p99 %v); one broken: %.1f %% named, %.1f %% taken for the version",
			pods, n, first.errors50, first.errors99, all.errors50, all.errors99, 100*float64(named)/float64(n), 100*float64(convicted)/float64(n))
		if first.errors99 > 4 || all.found < 1 || all.errors99 > 14 || named*10 < 8*n {
			t.Errorf("%d pods: all broken: %v errors at the 99th percentile; later: found in %.3f, %v errors; one broken: %d of %d named", pods, first.errors99, all.found, all.errors99, named, n)
		}
	}
}

func lognormal(median time.Duration, sigma float64) func(r *rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		return time.Duration(float64(median) * math.Exp(sigma*r.NormFloat64()))
	}
}

// TestSlowCanariesAreFound judges latency alone.
func TestSlowCanariesAreFound(t *testing.T) {
	const sigma = 0.6
	usual := lognormal(20*time.Millisecond, sigma)
	z := []float64{0, 1.2816, 2.3263, 3.0902}
	var quant [4]time.Duration
	for k := range quant {
		quant[k] = time.Duration(20e6 * math.Exp(sigma*z[k]))
	}
	j := judge(t, Config{Quantiles: quant, Weights: Weights{Latency: 1}})
	for _, c := range []struct {
		name   string
		few    int
		canary func(r *rand.Rand) time.Duration
		most   float64 // requests to the canary at the median, the target
	}{
		{"all hang", 500, func(*rand.Rand) time.Duration { return time.Hour }, 5},
		{"twice as slow", 300, lognormal(40*time.Millisecond, sigma), 30},
		{"3 % of requests +1 s", 150, func(r *rand.Rand) time.Duration {
			if r.Float64() < 0.03 {
				return usual(r) + time.Second
			}
			return usual(r)
		}, 160},
	} {
		n := min(runs(t, c.few), 10*c.few)
		a := arrivals{rps: 200, weight: .05, stable: usual, canary: c.canary}
		got := measure(n, func(r *rand.Rand) found { return a.run(j, r, 600, Bad) }, Bad)
		t.Logf("%-22s %5d runs: %.2f s, %v requests to the canary (p99 %.2f s); target %v requests", c.name, n, got.p50, got.requests50, got.p99, c.most)
		if got.requests50 > 1.1*c.most {
			t.Errorf("%s: found after %v requests, want %v or fewer", c.name, got.requests50, 1.1*c.most)
		}
	}
}

// TestCertification promotes on the absolute rate of errors.
func TestCertification(t *testing.T) {
	j := judge(t, Config{Alpha: 1e-12})
	for _, c := range []struct {
		name      string
		few       int
		pb, pc    float64
		promoted  float64 // probability at most
		requests  float64 // at the median at most, 0 for no bound
		certainly bool
	}{
		{"no errors", 200, 0, 0, 1, 1.1 * 510, true},
		{"0.2 % fail, as of stable", 200, .002, .002, 1, 1.1 * 870, true},
		{"2 % fail, 10 times stable's", 200, .002, .02, .01, 0, false},
		{"1 % fail, the bound itself", 200, .01, .01, .01, 0, false},
	} {
		n := min(runs(t, c.few), 20_000)
		w := world{rps: 200, step: 1, weight: between(0, 0, 0, .05), base: between(0, 0, 0, c.pb), worse: c.pc / max(c.pb, 1e-9)}
		got := measure(n, func(r *rand.Rand) found {
			s := j.Start(t0)
			var f found
			w.run(r, 1800, func(k tick) bool {
				k.feed(j, &s.core, 1, 1, nil)
				f.after = k.t
				return s.Is == Collecting
			})
			f.is, f.requests = s.Is, total(s.Canary)
			return f
		}, Good)
		t.Logf("%-28s %5d runs: %.2f %% promoted, %v requests, %.0f s at 10 a second", c.name, n, 100*got.found, got.requests50, got.p50)
		if got.found*float64(n) > most(c.promoted, n) || c.certainly && got.found < 0.99 {
			t.Errorf("%s: promoted in %.2f %% of the runs, want at most %v %%", c.name, 100*got.found, 100*c.promoted)
		}
		if c.requests > 0 && got.requests50 > c.requests {
			t.Errorf("%s: promoted after %v requests, want %v or fewer", c.name, got.requests50, c.requests)
		}
	}
}
