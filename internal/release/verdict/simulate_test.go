package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// world is a service under a release, as the simulations have it.
type world struct {
	rps    float64
	weight func(t float64) float64 // of the canary; 5 % if nil
	base   func(t float64) float64 // rate of errors of both; 0.2 % if nil
	load   func(t float64) float64 // times rps; 1 if nil
	worse  float64                 // the canary has so many times the base, 1 at the most
	clump  int                     // each error comes so many times, all from one version and with one trace
	deaf   float64                 // share of the canary's successes that nobody counts
	slow   []float64               // how the shares of requests over each quantile differ for the canary, times stable's
	step   float64                 // seconds between two Counts
}

func (w world) at(t float64) (rps, weight, base float64) {
	rps, weight, base = w.rps, 0.05, 0.002
	if w.weight != nil {
		weight = w.weight(t)
	}
	if w.base != nil {
		base = w.base(t)
	}
	if w.load != nil {
		rps *= w.load(t)
	}
	return rps, weight, base
}

// tick is what happens in one step: the versions of the errors in their order, and
// how many requests went well.
type tick struct {
	t, weight          float64
	errors             []bool // of the canary
	canaryOK, stableOK int64
	canarySlow         [4]int64
	stableSlow         [4]int64
}

// run gives the ticks of a world until the horizon or until see says that it is
// enough. Whether a request is an error does not depend on where it went, and where
// it went is drawn for each.
func (w world) run(r *rand.Rand, horizon float64, see func(tick) bool) {
	step := w.step
	if step == 0 {
		step = 1
	}
	var k tick
	for n := 0; float64(n)*step < horizon; n++ {
		start := float64(n) * step
		rps, weight, base := w.at(start)
		pc := min(base*max(w.worse, 1), 1)
		k = tick{t: start + step, weight: weight, errors: k.errors[:0]}
		rate := weight*pc + (1-weight)*base
		clump := max(w.clump, 1)
		for range poisson(r, rps*step*rate/float64(clump)) {
			canary := r.Float64() < weight*pc/rate
			for range clump {
				k.errors = append(k.errors, canary)
			}
		}
		ok := poisson(r, rps*step*(1-rate))
		k.canaryOK = choose(r, ok, weight*(1-pc)/(1-rate))
		k.stableOK = ok - k.canaryOK
		if w.slow != nil {
			k.canarySlow = nested(r, k.canaryOK, w.slow)
			k.stableSlow = nested(r, k.stableOK, []float64{1, 1, 1, 1})
		}
		k.canaryOK -= choose(r, k.canaryOK, w.deaf)
		if !see(k) {
			return
		}
	}
}

// nested is how many of n requests are over each quantile.
func nested(r *rand.Rand, n int64, times []float64) (out [4]int64) {
	above := 1.0
	for k, q := range quantiles {
		p := min(q*times[k], above)
		n = choose(r, n, p/above)
		out[k], above = n, p
	}
	return out
}

// feed gives a tick to a judge, errors first, one by one, and calls look, if there
// is one, wherever E may have risen.
func (k tick) feed(j *Judge, s *core, clump, id int, look func()) {
	at := at(time.Duration(k.t * float64(time.Second)))
	for i, canary := range k.errors {
		r := Request{ID: strconv.Itoa(id), Canary: canary, Weight: k.weight, Answer: Answer{Status: 500}}
		if clump > 1 {
			r.Trace = strconv.Itoa(id*1_000_000 + i/clump)
		}
		j.observe(s, Observation{At: at, Request: &r})
		if canary && look != nil {
			look()
		}
	}
	c := Cell{Weight: k.weight, Canary: Tally{Closed: [5]int64{k.canaryOK}, Slow: k.canarySlow}, Stable: Tally{Closed: [5]int64{k.stableOK}, Slow: k.stableSlow}}
	j.observe(s, Observation{At: at, Counts: &Counts{Cells: []Cell{c}}})
	if look != nil {
		look()
	}
}

// poisson draws by multiplication, in pieces where the mean is large; above that a
// normal variable is as good, since nothing rests on how many requests there are.
func poisson(r *rand.Rand, mean float64) int64 {
	if mean > 50 {
		return max(int64(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())), 0)
	}
	var n int64
	for ; mean > 0; mean -= 20 {
		for p := r.Float64(); p > math.Exp(-min(mean, 20)); p *= r.Float64() {
			n++
		}
	}
	return n
}

// choose draws a binomial variable by the gaps between successes.
func choose(r *rand.Rand, n int64, p float64) int64 {
	switch {
	case p <= 0 || n == 0:
		return 0
	case p >= 1:
		return n
	case p > 0.5:
		return n - choose(r, n, 1-p)
	}
	var k int64
	log := math.Log1p(-p)
	for i := math.Floor(math.Log(1-r.Float64()) / log); i < float64(n); i += 1 + math.Floor(math.Log(1-r.Float64())/log) {
		k++
	}
	return k
}

// runs is how many runs a simulation makes: few by default, and as many as
// BIGHT_VERDICT_RUNS says where few is not what is wanted.
func runs(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("BIGHT_VERDICT_RUNS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("BIGHT_VERDICT_RUNS is %q: give a number of runs", text)
	}
	return n
}

// each makes n runs, each from a seed of its own, and gives what they returned.
func each[T any](n int, run func(r *rand.Rand) T) []T {
	out := make([]T, n)
	var wait sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wait.Go(func() {
			for i := w; i < n; i += workers {
				out[i] = run(rand.New(rand.NewPCG(uint64(i), 20)))
			}
		})
	}
	wait.Wait()
	return out
}

func judge(t *testing.T, c Config) *Judge {
	t.Helper()
	if c.Hung == 0 {
		c.Hung = 10 * time.Second
	}
	j, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// most is the largest count out of n that a probability allows, three sigma above.
func most(p float64, n int) float64 { return float64(n)*p + 3*math.Sqrt(float64(n)*p*(1-p)) }

func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(int(math.Ceil(q*float64(len(v))))-1, len(v)-1)]
}

func between(a, b float64, inside, outside float64) func(float64) float64 {
	return func(t float64) float64 {
		if t >= a && t < b {
			return inside
		}
		return outside
	}
}

// ramp is a release as it is planned, with an abort of the weight and a resumption.
func ramp(t float64) float64 {
	for i, w := range []float64{0.01, 0.05, 0, 0.05, 0.2, 0.5, 0.8, 1} {
		if t < float64(i+1)*225 {
			return w
		}
	}
	return 1
}

// TestHealthyCanariesAreNotConvicted runs canaries that are exactly as good as
// stable, without a stop, and counts how often E ever reached 1/alpha.
func TestHealthyCanariesAreNotConvicted(t *testing.T) {
	quant := [4]time.Duration{20, 50, 200, 1000}
	for _, c := range []struct {
		name string
		few  int
		world
		config Config
	}{
		{name: "20 rps", few: 500, world: world{rps: 20}},
		{name: "200 rps", few: 250, world: world{rps: 200}},
		{name: "200 rps, 20 % weight", few: 150, world: world{rps: 200, weight: between(0, 0, 0, .2)}},
		{name: "ramp 1-5-0-5-20-50-80-100 %", few: 150, world: world{rps: 200, weight: ramp}},
		{name: "shared outage of 30 s, half fails", few: 150, world: world{rps: 200, base: between(600, 630, .5, .002)}},
		{name: "errors and traffic by the hour", few: 200, world: world{rps: 100,
			base: func(t float64) float64 { return 0.004 * (1 + math.Sin(t/200)) },
			load: func(t float64) float64 { return 1 + 0.9*math.Sin(t/300) }}},
		{name: "errors in threes, one trace each", few: 200, world: world{rps: 200, clump: 3}},
		{name: "9 of 10 successes of the canary unheard", few: 200, world: world{rps: 200, deaf: .9}},
		{name: "errors and latency, 200 rps", few: 150, world: world{rps: 200, slow: []float64{1, 1, 1, 1}}, config: Config{Quantiles: quant}},
		{name: "1.2 times the errors, which are allowed", few: 200, world: world{rps: 200, base: between(0, 0, 0, .005), worse: 1.2}, config: Config{Allowed: 1.2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := runs(t, c.few)
			c.config.Alpha = 1e-12
			c.world.step = 5
			tops, mean, spread := nullRuns(judge(t, c.config), c.world, n)
			line := fmt.Sprintf("%6d runs; E reached", n)
			for _, alpha := range []float64{0.1, 0.01, 0.001} {
				k := 0
				for _, top := range tops {
					if top >= -math.Log(alpha) {
						k++
					}
				}
				line += fmt.Sprintf("  1/%-5v in %.3f %%", alpha, 100*float64(k)/float64(n))
				if float64(k) > most(alpha, n) {
					t.Errorf("E reached %v in %d of %d runs, want at most %.1f", 1/alpha, k, n, most(alpha, n))
				}
			}
			t.Logf("%s; mean of E %.3f ± %.3f", line, mean, spread)
			if mean > 1+3*spread {
				t.Errorf("the mean of E is %.3f, want at most 1 (± %.3f)", mean, spread)
			}
		})
	}
}

// nullRuns gives the largest ln E of each run, and mean and standard error of E at
// the end.
func nullRuns(j *Judge, w world, n int) (tops []float64, mean, spread float64) {
	type end struct{ top, last float64 }
	for _, e := range each(n, func(r *rand.Rand) end {
		s := j.Start(t0)
		var e end
		id := 0
		w.run(r, 1800, func(k tick) bool {
			id++
			k.feed(j, &s.core, w.clump, id, func() {
				e.last = j.logE(&s.core)
				e.top = max(e.top, e.last)
			})
			return true
		})
		return e
	}) {
		tops = append(tops, e.top)
		x := math.Exp(e.last)
		mean += x / float64(n)
		spread += x * x / float64(n)
	}
	return tops, mean, math.Sqrt(max(spread-mean*mean, 0) / float64(n))
}

// TestClumpsNeedTheirTrace shows that what tells requests apart is needed: errors
// in threes that nobody can tell apart are taken for three pieces of evidence.
func TestClumpsNeedTheirTrace(t *testing.T) {
	n := runs(t, 150)
	j := judge(t, Config{})
	bad := 0
	for _, b := range each(n, func(r *rand.Rand) bool {
		s := j.Start(t0)
		world{rps: 200, clump: 3}.run(r, 1800, func(k tick) bool {
			k.feed(j, &s.core, 1, 1, nil)
			return s.Is != Bad
		})
		return s.Is == Bad
	}) {
		if b {
			bad++
		}
	}
	t.Logf("%d runs: %.1f %% of healthy canaries convicted without traces", n, 100*float64(bad)/float64(n))
	if bad*20 < n {
		t.Errorf("got %d of %d, want more than 5 %%: or the simulation shows nothing", bad, n)
	}
}
