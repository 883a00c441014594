package verdict

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// A bet on pairs gains nothing on average, however the two of a pair depend on each other,
// as long as the copy fails at most rho times as often.
func TestNoBetOnPairsGains(t *testing.T) {
	for _, rho := range []float64{1, 1.2, 2, 10} {
		for _, r := range ratios {
			st := pairBet(rho, r.ratio)
			for both := 0.0; both <= 0.5; both += 0.02 {
				for stable := 0.0; both+stable <= 1; stable += 0.02 {
					copied := rho*(stable+both) - both // fails alone as often as is allowed
					if copied < 0 || copied+stable+both > 1 {
						continue
					}
					mean := copied*math.Exp(st.canary) + stable*math.Exp(st.stable) + both*math.Exp(st.both) + 1 - copied - stable - both
					if mean > 1+1e-9 {
						t.Fatalf("rho %v, r %v, both fail %v, the original alone %v: the mean is %v", rho, r.ratio, both, stable, mean)
					}
				}
			}
		}
	}
}

// pairs are requests and their copies, in a simulation.
type pairs struct {
	perSecond float64
	// ends is how one ends: whether the copy fails, and the original.
	ends func(r *rand.Rand, t float64) (copied, original bool)
}

// independent fail at a rate that both share, the copy so many times as often.
func independent(base func(float64) float64, worse float64) func(*rand.Rand, float64) (bool, bool) {
	return func(r *rand.Rand, t float64) (bool, bool) {
		return r.Float64() < base(t)*worse, r.Float64() < base(t)
	}
}

func always(p float64) func(float64) float64 { return func(float64) float64 { return p } }

// run gives a cell for each second until see says that it is enough.
func (p pairs) run(r *rand.Rand, horizon float64, see func(at time.Time, c Cell) bool) {
	for second := 1.0; second <= horizon; second++ {
		c := Cell{Weight: 0.5, Copies: true}
		for range poisson(r, p.perSecond) {
			switch copied, original := p.ends(r, second); {
			case copied && original:
				c.Canary.Repeated++
				c.Stable.Repeated++
			case copied:
				c.Canary.Failed++
			case original:
				c.Stable.Failed++
				c.Canary.Closed[0]++
			default:
				c.Canary.Closed[0]++
			}
		}
		if !see(at(time.Duration(second*float64(time.Second))), c) {
			return
		}
	}
}

// Healthy versions that get copies, and how often E ever reached 1/alpha.
func TestCopiesOfHealthyVersionsConvictNobody(t *testing.T) {
	outage := between(300, 330, 0.5, 0.002)
	for _, c := range []struct {
		name    string
		allowed float64
		few     int
		pairs
	}{
		{"20 copies a second", 1, 300, pairs{20, independent(always(0.002), 1)}},
		{"200 copies a second, 2 % errors", 1, 150, pairs{200, independent(always(0.02), 1)}},
		{"a shared outage of 30 s, half fails", 1, 150, pairs{100, independent(outage, 1)}},
		{"requests that both fail, and a few others", 1, 150, pairs{100, func(r *rand.Rand, _ float64) (bool, bool) {
			if r.Float64() < 0.1 {
				return true, true
			}
			return r.Float64() < 0.01, r.Float64() < 0.01
		}}},
		{"what may be done once: one of the two fails", 1, 150, pairs{20, func(r *rand.Rand, _ float64) (bool, bool) {
			first := r.Float64() < 0.5
			return first, !first
		}}},
		{"twice the errors, which are allowed, all shared", 2, 150, pairs{50, func(r *rand.Rand, _ float64) (bool, bool) {
			original := r.Float64() < 0.05
			return original || r.Float64() < 0.05/0.95, original
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := runs(t, c.few)
			j := judge(t, Config{Copies: true, Allowed: c.allowed, Alpha: 1e-12, Weights: Weights{Copies: 1}})
			type end struct{ top, last float64 }
			ends := each(n, func(r *rand.Rand) (e end) {
				s := j.Start(t0)
				c.run(r, 600, func(at time.Time, c Cell) bool {
					j.observe(&s.core, Observation{At: at, Counts: &Counts{Cells: []Cell{c}}})
					e.last = j.logE(&s.core)
					e.top = max(e.top, e.last)
					return true
				})
				return e
			})
			line, mean, spread := fmt.Sprintf("%6d runs; E reached", n), 0.0, 0.0
			for _, e := range ends {
				mean += math.Exp(e.last) / float64(n)
				spread += math.Exp(2*e.last) / float64(n)
			}
			spread = math.Sqrt(max(spread-mean*mean, 0) / float64(n))
			for _, alpha := range []float64{0.1, 0.01, 0.001} {
				k := 0
				for _, e := range ends {
					if e.top >= -math.Log(alpha) {
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

// How many copies it takes to convict a version by them alone, with the alpha of a
// controller's judge and all other signals beside them.
func TestCopiesFindBrokenVersions(t *testing.T) {
	quant := [4]time.Duration{20, 50, 200, 1000}
	for _, c := range []struct {
		name    string
		config  Config
		median  float64 // of the copies until the conviction, at the most
		ends    func(*rand.Rand, float64) (bool, bool)
		perhaps float64 // of runs may find nothing in ten minutes
	}{
		{"it is down", Config{}, 16, independent(always(1), 1), 0},
		{"it is down, and latency is judged", Config{Quantiles: quant}, 17, independent(always(1), 1), 0},
		{"and all requests are judged alone later", Config{Alone: true}, 17, independent(always(1), 1), 0},
		{"one of ten fails", Config{}, 180, independent(always(0.002), 50), 0},
		{"one of 50 fails, where one of 500 did", Config{}, 1600, independent(always(0.002), 10), 0.05},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasPrefix(c.name, "it is down") || c.config.Alone {
				c.ends = func(*rand.Rand, float64) (bool, bool) { return true, false }
			}
			c.config.Copies, c.config.Alpha = true, 0.0005
			j := judge(t, c.config)
			n := runs(t, 100)
			missed := 0
			var took []float64
			for _, copies := range each(n, func(r *rand.Rand) float64 {
				s := j.Start(t0)
				copies := 0.0
				pairs{10, c.ends}.run(r, 600, func(at time.Time, c Cell) bool {
					for _, one := range apart(c) {
						copies++
						j.observe(&s.core, Observation{At: at, Counts: &Counts{Cells: []Cell{one}}})
						if s.Is == Bad {
							return false
						}
					}
					return true
				})
				if s.Is != Bad {
					return math.Inf(1)
				}
				return copies
			}) {
				if math.IsInf(copies, 1) {
					missed++
				}
				took = append(took, copies)
			}
			t.Logf("%d runs: convicted after %.0f copies at the median, %.0f at the 99th percentile; never in %d", n, quantile(took, 0.5), quantile(took, 0.99), missed)
			if m := quantile(took, 0.5); m > c.median || float64(missed) > c.perhaps*float64(n) {
				t.Errorf("it took %.0f copies at the median, and %d of %d were not convicted", m, missed, n)
			}
		})
	}
}

// apart is a cell for each pair of one.
func apart(c Cell) (all []Cell) {
	add := func(n int64, change func(*Cell)) {
		for range n {
			one := Cell{Weight: 0.5, Copies: true}
			change(&one)
			all = append(all, one)
		}
	}
	add(c.Canary.Closed[0]-c.Stable.Failed, func(c *Cell) { c.Canary.Closed[0] = 1 })
	add(c.Canary.Failed, func(c *Cell) { c.Canary.Failed = 1 })
	add(c.Stable.Failed, func(c *Cell) { c.Stable.Failed, c.Canary.Closed[0] = 1, 1 })
	add(c.Canary.Repeated, func(c *Cell) { c.Canary.Repeated, c.Stable.Repeated = 1, 1 })
	return all
}

// copied is an observation of pairs alone.
func copied(seconds float64, canary, stable Tally, pods ...PodErrors) Observation {
	return Observation{At: at(time.Duration(seconds * float64(time.Second))), Counts: &Counts{Cells: []Cell{
		{Weight: 0.5, Copies: true, Canary: canary, Stable: stable, Pods: pods},
	}}}
}

func see(j *Judge, s State, all ...Observation) (State, Verdict) {
	v := j.Verdict(s)
	for _, o := range all {
		s, v = j.Next(s, o)
	}
	return s, v
}

func TestCopiesAreExplained(t *testing.T) {
	q := [4]time.Duration{20 * ms, 50 * ms, 200 * ms, time.Second}
	for name, tt := range map[string]struct {
		config Config
		all    []Observation
		is     Kind
		why    string // with it
	}{
		"it fails": {Config{}, []Observation{copied(1, Tally{Closed: [5]int64{20}}, Tally{Failed: 1}), copied(2, Tally{Failed: 1}, Tally{}), copied(5, Tally{Failed: 29}, Tally{})},
			Bad, "after 30 errors of copies in 3 s, whose requests had none; 1 the other way round"},
		"it is slow": {Config{Quantiles: q, Surge: 0}, []Observation{copied(1, Tally{Closed: [5]int64{3, 2, 1, 200}, Slow: [4]int64{203, 201, 200}}, Tally{Slow: [4]int64{140, 20, 1}})},
			Bad, "after 200 slow answers of copies in 0 s, whose requests had none; 1 the other way round"},
		"it is slow now and then, as its way is": {Config{Quantiles: q, Surge: 20}, []Observation{
			copied(1, Tally{Closed: [5]int64{1700, 1100, 100, 69}, Slow: [4]int64{1300, 171, 69, 20}}, Tally{Slow: [4]int64{1000, 43, 23, 3}})},
			Good, "over p99 under 5 % in 2969 copies"},
		"it is good": {Config{}, []Observation{copied(0, Tally{Closed: [5]int64{1}}, Tally{}), copied(10, Tally{Closed: [5]int64{600}}, Tally{})},
			Good, "errors under 1 % in 601 copies of requests in 10 s"},
		"it is good, by both": {Config{}, []Observation{copied(0, Tally{Closed: [5]int64{1}}, Tally{}),
			{At: at(10 * time.Second), Counts: &Counts{Cells: []Cell{{Weight: 0.05, Canary: Tally{Closed: [5]int64{300}}}, {Weight: 0.5, Copies: true, Canary: Tally{Closed: [5]int64{300}}}}}}},
			Good, "errors under 1 % in 300 requests to the canary and 301 copies in 10 s"},
		"it takes more": {Config{}, []Observation{copied(0, Tally{Closed: [5]int64{1}}, Tally{}), copied(10, Tally{Closed: [5]int64{100}}, Tally{})}, Collecting, "more copies of requests,"},
		"all of both fail": {Config{}, []Observation{copied(0, Tally{Repeated: 500}, Tally{Repeated: 500})}, Collecting,
			"E = 1, abort at 1000; 500 errors in 500 copies of requests, too many for good"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.config.Copies = true
			j := judge(t, tt.config)
			if _, v := see(j, j.Start(t0), tt.all...); v.Is != tt.is || !strings.Contains(v.Why, tt.why) {
				t.Errorf("it is %s: %s\nwant %s: %s", v.Is, v.Why, tt.is, tt.why)
			}
		})
	}
}

// Without Config.Copies, pairs count for good and not for bad.
func TestPairsThatNobodyJudgesBy(t *testing.T) {
	j := judge(t, Config{})
	s, v := see(j, j.Start(t0), copied(1, Tally{Failed: 100}, Tally{}, PodErrors{"a", 100}))
	if v.Is != Collecting || v.E != 1 || v.Metrics[0].Bad != 100 || s.Copied() != (Side{}) {
		t.Errorf("%+v", v)
	}
}

// A pod of several that fails what is copied to it is told from the version, and what it
// fails afterwards is its own.
func TestABadPodAmongThoseThatGetCopies(t *testing.T) {
	j := judge(t, Config{Copies: true, PodEvents: 3})
	s := j.Start(t0)
	for _, p := range []string{"a", "b", "c"} {
		s, _ = j.Next(s, Observation{At: at(0), Pod: &Pod{p, true, PodReady}})
	}
	var v Verdict
	for i := range 200 {
		s, v = see(j, s, copied(float64(i), Tally{Closed: [5]int64{2}, Failed: 1}, Tally{}, PodErrors{"a", 1}))
	}
	if v.Is == Bad || len(v.BadPods) != 1 || v.BadPods[0] != "a" || v.E > 100 {
		t.Errorf("%s, bad pods %v, E %v", v.Why, v.BadPods, v.E)
	}
	// Two are not one.
	for i := range 30 {
		s, v = see(j, s, copied(float64(200+i), Tally{Closed: [5]int64{1}, Failed: 2}, Tally{}, PodErrors{"b", 1}, PodErrors{"c", 1}))
	}
	if v.Is != Bad {
		t.Errorf("with two more bad ones it is %s: %s", v.Is, v.Why)
	}
}

// A record with copies leads to the same again, and so does one of before there were any.
func TestReplayWithCopiesGivesTheSameBytes(t *testing.T) {
	for _, tells := range []bool{false, true} {
		k := newCourt(t, Config{Hung: time.Second, Copies: true, Tells: tells, Quantiles: [4]time.Duration{1, 2, 3, 4}, Surge: 20}, 0)
		k.see(failing(0, 10, 0)...)
		for i := range 20 {
			k.see(copied(10+float64(i), Tally{Closed: [5]int64{11, 1}, Slow: [4]int64{1}}, Tally{Failed: int64(i % 2), Slow: [4]int64{1}}))
		}
		kept, n := k.save()
		k.write()
		k.restart(kept, n)
		k.see(copied(40, Tally{Closed: [5]int64{1}, Repeated: 2}, Tally{Repeated: 2}), copied(41, Tally{Failed: 40}, Tally{}, PodErrors{"a", 40}))
		if k.s.Is != Bad {
			t.Fatalf("it is %s", k.s.Is)
		}
		c := k.replay()
		k.same(c)
		last := c.Points[len(c.Points)-1]
		if len(last.Moves) == 0 || last.Moves[0].What != "errors of copies" || last.Moves[0].N != 40 || last.Copies.Errors != 42 {
			t.Errorf("the last point is %+v", last)
		}
	}
}

func TestARecordOfBeforeCopiesIsReplayed(t *testing.T) {
	text, err := os.ReadFile("testdata/record-without-copies.log")
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := r.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	names, of := r.Judges()
	for _, name := range names {
		c, err := of[name].Replay(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Same() || c.Compared < 2 || c.Verdict.Is != Bad {
			t.Errorf("%s: %s, %d compared, these differ: %s", name, c.Verdict.Is, c.Compared, strings.Join(c.Differs, "\n"))
		}
	}
	if len(names) != 2 {
		t.Errorf("there are judges %v", names)
	}
}

// What copies have told is kept with the state, and a state without begins anew.
func TestAStateIsJudgedByCopiesFromNowOn(t *testing.T) {
	plain, judging := judge(t, Config{}), judge(t, Config{Copies: true})
	kept, err := json.Marshal(plain.Start(t0))
	if err != nil {
		t.Fatal(err)
	}
	s, err := judging.Load(kept)
	if err != nil || s.Copies == nil {
		t.Fatalf("%v: %+v", err, s.Copies)
	}
	s, _ = judging.Next(s, copied(1, Tally{Failed: 5}, Tally{}))
	kept, err = json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := judging.Load(kept)
	if err != nil || judging.Verdict(again).E != judging.Verdict(s).E || again.Copied().Errors != 5 {
		t.Errorf("%v: E was %v and is %v", err, judging.Verdict(s).E, judging.Verdict(again).E)
	}
	if s, err = plain.Load(kept); err != nil || s.Copies != nil {
		t.Errorf("%v: %+v", err, s.Copies)
	}
	if a, _ := judging.Next(again, copied(2, Tally{Failed: 5}, Tally{})); again.Copied().Errors != 5 || a.Copied().Errors != 10 {
		t.Error("an observation has changed the state that it was given to")
	}
}

// What a node hands on of pairs is what the central judge makes the same of.
func TestPairsAreHandedOn(t *testing.T) {
	local, central := judge(t, Config{Copies: true, Tells: true, Alpha: 1e-9}), judge(t, Config{Copies: true, Alpha: 1e-9})
	a, b := local.Start(t0), central.Start(t0)
	o := copied(1, Tally{Closed: [5]int64{7}, Failed: 3}, Tally{Failed: 2, Repeated: 1}, PodErrors{"a", 3})
	o.Counts.Moved = []Moved{{ID: "x", Pod: "a", Why: "HTTP 500, a copy"}}
	o.Counts.Cells = append(o.Counts.Cells, Cell{Weight: 0.5, Canary: Tally{Failed: 1}}) // which is another cell
	a, v := see(local, a, o)
	a, told := local.Drain(a)
	_, w := see(central, b, Observation{At: o.At, Counts: &told})
	if len(told.Cells) != 2 || len(told.Moved) != 1 || v.E != w.E || v.E == 1 {
		t.Errorf("E is %v at the node and %v after %+v", v.E, w.E, told)
	}
	if _, more := local.Drain(a); len(more.Cells)+len(more.Moved) > 0 {
		t.Errorf("it is handed on twice: %+v", more)
	}
}

// A version all of whose copies are slow is convicted by them, but not by one second of it.
func TestCopiesFindSlowVersions(t *testing.T) {
	j := judge(t, Config{Copies: true, Alpha: 0.0005, Surge: 20, Quantiles: [4]time.Duration{20 * ms, 50 * ms, 200 * ms, time.Second}})
	s := j.Start(t0)
	second := 0.0
	for ; s.Is == Collecting && second < 60; second++ {
		s, _ = j.Next(s, copied(second, Tally{Closed: [5]int64{3: 40}, Slow: [4]int64{40, 40, 40}}, Tally{Slow: [4]int64{20, 4}}))
	}
	t.Logf("it is %s after %v seconds of 40 copies", s.Is, second)
	if s.Is != Bad || second < 3 || second > 12 {
		t.Errorf("it is %s after %v s", s.Is, second)
	}
}
