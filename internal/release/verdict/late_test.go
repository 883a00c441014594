package verdict

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// lateWorld is a service whose version has all requests: how much longer they take than they did
// before the release, and how many of them there are. The logarithm of what they took is normal.
type lateWorld struct {
	measured int     // of stable's requests, before; 100 if 0
	sigma    float64 // 0.6 if 0
	rps      float64 // 100 if 0
	longer   func(t float64) float64
}

// over is the probability that a request takes longer than so much, where it takes so many times
// what it did before.
func (w lateWorld) over(d, longer float64) float64 {
	return 0.5 * math.Erfc(math.Log(d/longer)/w.sigma/math.Sqrt2)
}

// convicted is when it is, after how many seconds; -1 for never in ten minutes.
func (w lateWorld) convicted(j *Judge, r *rand.Rand) float64 {
	var before []float64
	for range w.measured {
		before = append(before, math.Exp(w.sigma*r.NormFloat64()))
	}
	slices.Sort(before)
	frozen := before[int(math.Ceil(0.99*float64(w.measured)))-1] // of whatever unit: the judge sees counts
	s := j.Start(t0)
	for t := 0.0; t < 600; t++ {
		n := poisson(r, w.rps)
		slow := choose(r, n, w.over(frozen, w.longer(t)))
		j.observe(&s.core, whole(time.Duration(t*float64(time.Second)), 0, 0).with(n-slow, slow))
		if s.Is == Bad {
			return t
		}
	}
	return -1
}

// with is an observation of answers that were not over the 99 % of stable's, and of such that were.
func (o Observation) with(quick, slow int64) Observation {
	o.Counts.Cells[0].Canary.Closed = [bands]int64{quick, 0, 0, slow, 0}
	return o
}

func (w lateWorld) withDefaults() lateWorld {
	orElse(&w.measured, enough)
	orElse(&w.sigma, 0.6)
	orElse(&w.rps, 100)
	return w
}

func lateConfig() Config {
	return Config{Alone: true, Hung: 30 * time.Second, Alpha: 0.0005, Quantiles: quantiles20(0.6), Settle: 10 * time.Second, Surge: 20}
}

// A version that is as quick as the one before is not convicted, whatever the time after brings
// that the time before did not have.
func TestHealthyVersionsWithAllRequestsAreNotConvictedForLatency(t *testing.T) {
	always := func(longer float64) func(float64) float64 { return func(float64) float64 { return longer } }
	for _, tt := range []struct {
		name string
		lateWorld
	}{
		{"as before", lateWorld{longer: always(1)}},
		{"as before, 5 a second", lateWorld{rps: 5, longer: always(1)}},
		{"as before, with a long tail", lateWorld{sigma: 1.5, longer: always(1)}},
		{"as before, 10000 measured", lateWorld{measured: 10000, longer: always(1)}},
		{"more load: all take half as long again", lateWorld{longer: always(1.5)}},
		{"more load: all take twice as long", lateWorld{measured: 1000, longer: always(2)}},
		{"load that goes up and down", lateWorld{measured: 1000, longer: func(t float64) float64 { return 1.5 + math.Sin(t/50) }}},
		{"caches are cold for half a minute", lateWorld{longer: between(0, 30, 50, 1)}},
		{"a neighbour takes the processors for 20 s", lateWorld{longer: between(200, 220, 50, 1)}},
		{"and for 30 s, again and again", lateWorld{longer: func(t float64) float64 { return between(100, 130, 50, 1)(math.Mod(t, 183)) }}}, // at 100, 283 and 466 s
		{"a collection of garbage, a second in ten", lateWorld{longer: func(t float64) float64 { return between(0, 1, 50, 1)(math.Mod(t, 10)) }}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j, n, k := judge(t, lateConfig()), runs(t, 1000), 0
			for _, at := range each(n, func(r *rand.Rand) float64 { return tt.withDefaults().convicted(j, r) }) {
				if at >= 0 {
					k++
				}
			}
			t.Logf("%d of %d are convicted, at most 0.1 %% may be", k, n)
			if float64(k) > most(0.001, n) {
				t.Errorf("%d of %d are convicted", k, n)
			}
		})
	}
}

// A version whose answers are right, and far too slow, is convicted though nothing is beside it.
func TestAVersionThatIsFarTooSlowAloneIsFound(t *testing.T) {
	for _, tt := range []struct {
		name string
		lateWorld
		within float64 // seconds, of 95 of 100
	}{
		{"ten times as slow, from the beginning", lateWorld{longer: between(0, 600, 10, 1)}, 70},
		{"ten times as slow, from the middle on", lateWorld{longer: between(300, 600, 10, 1)}, 90},
		{"ten times as slow, 5 a second", lateWorld{rps: 5, longer: between(300, 600, 10, 1)}, 90},
		{"six times as slow", lateWorld{measured: 1000, longer: between(300, 600, 6, 1)}, 90},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := judge(t, lateConfig())
			w := tt.withDefaults()
			var took []float64
			from := 0.0
			for w.longer(from) == 1 {
				from++
			}
			for _, at := range each(runs(t, 200), func(r *rand.Rand) float64 { return w.convicted(j, r) }) {
				if at < 0 {
					at = math.Inf(1)
				}
				took = append(took, at-from)
			}
			t.Logf("found in %.0f s, 95 of 100 in %.0f s", quantile(took, 0.5), quantile(took, 0.95))
			if got := quantile(took, 0.95); !(got <= tt.within) || slices.Min(took) <= 30 {
				t.Errorf("95 of 100 are found in %v s, want %v; the first in %v", got, tt.within, slices.Min(took))
			}
		})
	}
}

// Its mean is at most 1 for every rate that is allowed.
func TestNoLateBetGainsUnderTheNull(t *testing.T) {
	for _, bound := range []float64{lateBound, 0.7, 0.9} {
		for _, part := range lateBets {
			event, none := lateBet(bound, part)
			for q := 0.0; q <= bound; q += bound / 64 {
				if mean := q*math.Exp(event) + (1-q)*math.Exp(none); mean > 1+1e-9 {
					t.Errorf("bound %v, bet %v, rate %v: the mean is %v", bound, part, q, mean)
				}
			}
		}
	}
	for _, tt := range []struct {
		slow, quick int64
		want        float64
	}{{0, 0, 0.5}, {50, 49, 0.5}, {1, 99, 0.5}, {34, 66, 0.7}, {90, 10, 0.9}} {
		if got := lateTruth(Tally{Closed: [bands]int64{tt.quick, 0, 0, tt.slow, 0}}); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("stable had %d of %d over it: %v are allowed, want %v", tt.slow, tt.slow+tt.quick, got, tt.want)
		}
	}
}

// What is slow and what that is said to be: only answers of a version that has all requests, whose
// pods have settled, and where somebody minds.
func TestWhatIsLate(t *testing.T) {
	feed := func(c Config, cell Cell) State {
		j := judge(t, c)
		s := j.Start(t0)
		for d := range 120 {
			o := Observation{At: at(time.Duration(d) * time.Second), Counts: &Counts{Cells: []Cell{cell}}}
			s, _ = j.Next(s, o)
		}
		return s
	}
	slow := Tally{Closed: [bands]int64{3: 100}}
	unminded := lateConfig()
	unminded.Quantiles = [4]time.Duration{}
	shared := lateConfig()
	shared.Alone = false
	for _, tt := range []struct {
		name   string
		config Config
		cell   Cell
		is     Kind
	}{
		{"late", lateConfig(), Cell{Weight: 1, Canary: slow}, Bad},
		{"nobody minds latency", unminded, Cell{Weight: 1, Canary: slow}, Good},
		{"it is not judged while the pods of before are kept", shared, Cell{Weight: 1, Canary: slow}, Collecting},
		{"clients have chosen it", lateConfig(), Cell{Weight: 1, Chosen: true, Canary: slow}, Collecting},
		{"its pods settle", lateConfig(), Cell{Weight: 1, Canary: Tally{Unrated: 100}}, Collecting},
		{"it is slower than nine of ten", lateConfig(), Cell{Weight: 1, Canary: Tally{Closed: [bands]int64{2: 100}}}, Collecting},
	} {
		s := feed(tt.config, tt.cell)
		if s.Is != tt.is {
			t.Errorf("%s: %s, %+v", tt.name, s.Is, s.Late)
		}
		if why := judge(t, tt.config).Verdict(s).Why; s.Is == Bad && !strings.Contains(why, "answers took longer than 99 % of stable's did, since it has all requests; 50 % are allowed") {
			t.Errorf("%s: it says %q", tt.name, why)
		}
	}
}

// A state of before is judged by latency from now on, one that is kept goes on, and a record of it
// is computed again.
func TestLatenessIsKeptAndReplayed(t *testing.T) {
	without := lateConfig()
	without.Alone = false
	s, _ := judge(t, without).Next(judge(t, without).Start(t0), before(1000, 0))
	text, err := json.Marshal(s)
	if err != nil || strings.Contains(string(text), `"late"`) {
		t.Fatalf("%v: %s", err, text)
	}
	j := judge(t, lateConfig())
	for d := range 30 {
		if s, err = j.Load(text); err != nil || s.Late == nil {
			t.Fatal(err)
		}
		s, _ = j.Next(s, whole(time.Duration(d)*time.Second, 0, 0).with(80, 20))
		if text, err = json.Marshal(s); err != nil {
			t.Fatal(err)
		}
	}
	if s.Late.N != 2000 || s.Late.Slow != 400 || s.Late.From != 0 { // without the ten seconds in which it settled
		t.Errorf("%+v", s.Late)
	}
	l := some(1, 60)
	l.Config.Alone, l.Config.Quantiles = true, quantiles20(0.6)
	for d := range 90 {
		l.Observations = append(l.Observations, whole(time.Hour+time.Duration(d)*time.Second/3, 0, 0).with(10, int64(d%30)))
	}
	if text, err = (Record{l}).MarshalText(); err != nil {
		t.Fatal(err)
	}
	var read Record
	if err := read.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	if want, got := play(t, l), play(t, read[0]); got != want || !strings.Contains(got, `"late"`) {
		t.Errorf("%s\n%s", want, got)
	}
}
