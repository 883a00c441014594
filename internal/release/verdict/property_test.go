package verdict

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// TestNoBetGainsUnderTheNull computes the mean of each bet exactly, for many true
// rates that the null hypothesis allows. It is never above 1, so what is owned is a
// supermartingale: the bounds rest on this, the simulations only show it.
func TestNoBetGainsUnderTheNull(t *testing.T) {
	weights := []float64{1e-9, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.99, 1 - 1e-9}
	truth := []float64{0, 1e-6, 0.002, 0.05, 0.3, 0.7, 0.999, 1}
	checked, worst := 0, 0.0
	for _, w := range weights {
		for _, rho := range []float64{1, 1.2, 3, 50} {
			var steps []step
			for _, b := range ratios {
				steps = append(steps, relative(w, rho, b.ratio))
			}
			for _, pb := range []float64{1e-5, downStable, 0.2, 0.75} {
				for _, pc := range []float64{1e-4, 0.02, 0.5, downCanary, 0.95} {
					steps = append(steps, exposed(w, rho, pc, pb))
				}
			}
			for _, st := range steps {
				for _, qb := range truth {
					for _, part := range truth {
						qc := min(1, rho*qb) * part
						mean := w*(qc*math.Exp(st.canaryFail)+(1-qc)*math.Exp(st.canaryOK)) +
							(1-w)*(qb*math.Exp(st.stableFail)+(1-qb)*math.Exp(st.stableOK))
						checked, worst = checked+1, max(worst, mean)
					}
				}
			}
		}
	}
	for _, bound := range []float64{0.001, 0.01, 0.05, 0.75} {
		for _, b := range rates {
			event, none := below(bound, bound*b.ratio)
			for _, part := range truth {
				q := bound + part*(1-bound)
				checked, worst = checked+1, max(worst, q*math.Exp(event)+(1-q)*math.Exp(none))
			}
		}
	}
	t.Logf("%d exact means, the largest is 1%+.1e", checked, worst-1)
	if worst > 1+1e-9 {
		t.Errorf("a bet has mean %v under the null, want at most 1", worst)
	}
}

// TestNoBlockGainsUnderTheNull sums over all outcomes of a block in which the arms
// are fixed and only the errors are random.
func TestNoBlockGainsUnderTheNull(t *testing.T) {
	worst := 0.0
	for _, n := range []Block{{Canary: Arm{N: 1}, Stable: Arm{N: 9}}, {Canary: Arm{N: 5}, Stable: Arm{N: 5}}, {Canary: Arm{N: 12}, Stable: Arm{N: 3}}} {
		for _, rho := range []float64{1, 1.5} {
			st := exposed(float64(n.Canary.N)/float64(n.Canary.N+n.Stable.N), rho, 0.4, 0.1)
			for _, qb := range []float64{0, 0.01, 0.1, 0.3, 0.5, 0.66} {
				mean, qc := 0.0, rho*qb
				for c := range n.Canary.N + 1 {
					for b := range n.Stable.N + 1 {
						mean += binomial(n.Canary.N, c, qc) * binomial(n.Stable.N, b, qb) * math.Exp(st.of(c, n.Canary.N-c, b, n.Stable.N-b))
					}
				}
				worst = max(worst, mean)
			}
		}
	}
	t.Logf("the largest mean of a block is 1%+.1e", worst-1)
	if worst > 1+1e-9 {
		t.Errorf("a block has mean %v under the null, want at most 1", worst)
	}
}

func binomial(n, k int64, p float64) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return math.Exp(a-b-c) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
}

// TestDirichlet compares the mixture over a fine grid with the exact formula of
// Lindon and Malek (2022) for a continuous one: E = B(a+S)/B(a) / prod theta0^S.
func TestDirichlet(t *testing.T) {
	const w, a, b, points = 0.2, 2.0, 3.0, 40_000
	var bets bettor
	var steps []step
	norm := lbeta(a, b)
	for i := range points {
		theta := (float64(i) + 0.5) / points
		bets.share = append(bets.share, (a-1)*math.Log(theta)+(b-1)*math.Log1p(-theta)-norm-math.Log(points))
		steps = append(steps, relative(w, 1, theta*(1-w)/(w*(1-theta))))
	}
	own := bets.start()
	r := rand.New(rand.NewPCG(1, 2))
	var canary, stable float64
	for n := range 600 {
		fail := step.stable
		if r.Float64() < 0.26 {
			fail = step.canary
			canary++
		} else {
			stable++
		}
		for i := range steps {
			own.move(i, fail(steps[i]))
		}
		if n%50 != 49 {
			continue
		}
		exact := lbeta(a+canary, b+stable) - norm - canary*math.Log(w) - stable*math.Log1p(-w)
		want := math.Log(reserve + (1-reserve)*math.Exp(exact))
		if got := own.log(); math.Abs(got-want) > 1e-6*max(1, math.Abs(want)) {
			t.Errorf("after %v errors of the canary and %v of stable: got ln E %v, want %v", canary, stable, got, want)
		}
	}
	t.Logf("ln E = %.6f after %v and %v errors, as the formula gives", own.log(), canary, stable)
}

func (st step) canary() float64 { return st.canaryFail }
func (st step) stable() float64 { return st.stableFail }

func lbeta(a, b float64) float64 {
	x, _ := math.Lgamma(a)
	y, _ := math.Lgamma(b)
	z, _ := math.Lgamma(a + b)
	return x + y - z
}

// some is a log of all kinds of observations.
func some(seed uint64, n int) Log {
	r := rand.New(rand.NewPCG(seed, 3))
	l := Log{Start: t0, Config: Config{
		Hung: 5 * time.Second, Blocks: true, Guards: []string{"cpu"}, WarmUp: time.Second, Tells: true,
		Quantiles: [4]time.Duration{20 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, time.Second},
	}}
	now := time.Duration(0)
	for i := range n {
		now += time.Duration(r.IntN(1000)) * time.Millisecond
		o := Observation{At: at(now)}
		w := []float64{0.05, 0.2, 0.5}[i*3/n]
		switch canary := r.Float64() < w; r.IntN(8) {
		case 0, 1, 2:
			o.Request = &Request{
				ID: fmt.Sprintf("r%d", i), Canary: canary, Weight: w, Pod: fmt.Sprintf("pod-%d", r.IntN(3)),
				Answer: Answer{Status: 200 + 100*r.IntN(4)}, Elapsed: time.Duration(r.IntN(2000)) * time.Millisecond,
				Client: []string{"", "ann", "bob"}[r.IntN(3)],
			}
		case 3, 4, 5:
			o.Counts = &Counts{Cells: []Cell{{Weight: w, Canary: Tally{Closed: [5]int64{int64(r.IntN(9)), 3, 1}}, Stable: Tally{Closed: [5]int64{100, 9}, Failed: 1, Slow: [4]int64{9, 2}}}}}
		case 6:
			o.Block = &Block{Canary: Arm{9, int64(r.IntN(2))}, Stable: Arm{70, int64(r.IntN(3))}}
		default:
			o.Pod = &Pod{Name: fmt.Sprintf("pod-%d", r.IntN(3)), Canary: true, Event: PodReady}
			o.Guard = &Guard{Name: "cpu", Answer: []GuardAnswer{GuardPass, GuardFail, GuardNoData}[r.IntN(3)]}
		}
		l.Observations = append(l.Observations, o)
	}
	return l
}

func TestReplayGivesTheSameBytes(t *testing.T) {
	for seed := range uint64(20) {
		l := some(seed, 120)
		text, err := Record{l}.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var read Record
		if err := read.UnmarshalText(append(text, `{"at":"cut off`...)); err != nil {
			t.Fatal(err)
		}
		want := play(t, l)
		if got := play(t, read[0]); got != want {
			t.Errorf("seed %d: the log replayed differs:\n%s", seed, cmp.Diff(want, got))
		}
	}
}

// play replays a log and gives state and verdict as text.
func play(t *testing.T, l Log) string {
	t.Helper()
	s, v, err := Replay(l)
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal([]any{s, v})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestTheFutureIsNotUsed compares each verdict on the way with that of a log which
// ends there, and goes on from a saved state as from one that was not.
func TestTheFutureIsNotUsed(t *testing.T) {
	l := some(7, 80)
	j, err := New(l.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := j.Start(l.Start)
	for i, o := range l.Observations {
		before, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		next, v := j.Next(s, o)
		after, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if string(before) != string(after) {
			t.Fatalf("observation %d changed the state that it was given", i)
		}
		if s, err = j.Load(before); err != nil {
			t.Fatal(err)
		}
		again, w := j.Next(s, o)
		part := l
		part.Observations = l.Observations[:i+1]
		_, alone, err := Replay(part)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, alone); diff != "" {
			t.Errorf("verdict %d depends on what came later: %s", i, diff)
		}
		if diff := cmp.Diff(v, w); diff != "" {
			t.Errorf("verdict %d differs after a saved state: %s", i, diff)
		}
		s = again
		_ = next
	}
}

// TestNamesDoNotMatter gives all requests, pods and clients other names.
func TestNamesDoNotMatter(t *testing.T) {
	l := some(11, 100)
	other := l
	other.Observations = slices.Clone(l.Observations)
	for i, o := range l.Observations {
		if o.Request != nil {
			r := *o.Request
			r.ID, r.Pod = "x"+r.ID, "x"+r.Pod
			if r.Client != "" {
				r.Client = "x" + r.Client
			}
			other.Observations[i].Request = &r
		}
		if o.Pod != nil {
			p := *o.Pod
			p.Name = "x" + p.Name
			other.Observations[i].Pod = &p
		}
	}
	_, v, err := Replay(l)
	if err != nil {
		t.Fatal(err)
	}
	_, w, err := Replay(other)
	if err != nil {
		t.Fatal(err)
	}
	if v.E != w.E || v.Is != w.Is || v.Why != w.Why {
		t.Errorf("got %+v, with other names %+v", v, w)
	}
}

// TestCountsAreAsGoodAsRequests gives the same errors one by one, as counts, and as
// the counts that two proxies drained, merged either way round.
func TestCountsAreAsGoodAsRequests(t *testing.T) {
	j, err := New(Config{Hung: time.Second, Tells: true, Alpha: 1e-300})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 5))
	one := j.Start(t0)
	proxies := []State{j.Start(t0), j.Start(t0)}
	for i := range 300 {
		w := []float64{0.05, 0.3}[i/150]
		o := Observation{At: at(time.Second), Request: &Request{ID: fmt.Sprint(i), Weight: w, Canary: r.Float64() < w*1.3, Answer: Answer{Status: 500}, Pod: fmt.Sprint("p", i%3)}}
		if i%2 == 0 {
			o = Observation{At: at(time.Second), Counts: &Counts{Cells: []Cell{{Weight: w, Canary: Tally{Closed: [5]int64{int64(r.IntN(4))}}, Stable: Tally{Closed: [5]int64{int64(r.IntN(60))}}}}}}
		}
		one, _ = j.Next(one, o)
		p := r.IntN(2)
		proxies[p], _ = j.Next(proxies[p], o)
	}
	_, a := j.Drain(proxies[0])
	rest, b := j.Drain(proxies[1])
	if _, none := j.Drain(rest); len(none.Cells) != 0 || len(none.Moved) != 0 {
		t.Errorf("drained twice: %+v", none)
	}
	ab, ba := Merge(a, b), Merge(b, a)
	if diff := cmp.Diff(ab.Cells, ba.Cells); diff != "" {
		t.Errorf("the order of merging matters: %s", diff)
	}
	s, v := j.Next(j.Start(t0), Observation{At: at(time.Second), Counts: &ab})
	want := j.Verdict(one)
	if diff := cmp.Diff([]any{want.E, want.Is, want.Why, want.Metrics}, []any{v.E, v.Is, v.Why, v.Metrics}); diff != "" {
		t.Errorf("counts differ from requests: %s", diff)
	}
	if diff := cmp.Diff(one.Canary, s.Canary); diff != "" {
		t.Error(diff)
	}
}

func TestBillionsOfRequests(t *testing.T) {
	j, err := New(Config{Hung: time.Second, Blocks: true, Alpha: 1e-300, Quantiles: [4]time.Duration{1, 2, 3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []bool{false, true} {
		s := j.Start(t0)
		var v Verdict
		for i := range 2000 {
			few, many := Tally{Closed: [5]int64{1e9}, Failed: 1e6, Slow: [4]int64{5e8, 1e8, 1e7, 1e6}}, Tally{Closed: [5]int64{1e10}, Failed: 1e9, Slow: [4]int64{1e9, 1e9, 1e9, 1e9}}
			c := Cell{Weight: 0.5, Canary: few, Stable: many}
			if bad {
				c.Canary, c.Stable = many, few
			}
			s, v = j.Next(s, Observation{At: at(time.Duration(i) * time.Hour), Counts: &Counts{Cells: []Cell{c, {Weight: 0}, {Weight: 1}}}, Block: &Block{Arm{1e9, c.Canary.Failed}, Arm{1e9, c.Stable.Failed}}})
		}
		if want := map[bool]Kind{false: Good, true: Bad}[bad]; v.Is != want {
			t.Errorf("bad canary %v: got %s, want %s", bad, v.Is, want)
		}
		if _, err := json.Marshal([]any{s, v}); err != nil {
			t.Errorf("bad canary %v: %v", bad, err)
		}
	}
}

// TestStateIsSmall measures a release that is idle, and one that has seen the worst.
func TestStateIsSmall(t *testing.T) {
	l := some(3, 10)
	l.Config.Tells = false
	j, err := New(l.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := j.Start(t0)
	for i := range 6 {
		s, _ = j.Next(s, Observation{At: t0, Pod: &Pod{Name: fmt.Sprintf("cart-7d9f8b6c5-abcd%d", i), Canary: i < 3, Event: PodReady}})
	}
	idle, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 500)
	for i := range long {
		long[i] = 'x'
	}
	for i := range 3000 {
		r := &Request{ID: string(long) + fmt.Sprint(i), Canary: true, Weight: 0.5, Pod: fmt.Sprint("p", i), Trace: fmt.Sprint(i), Answer: Answer{Status: 500}}
		s, _ = j.Next(s, Observation{At: at(time.Duration(i) * time.Microsecond), Request: r, Guard: &Guard{Name: fmt.Sprint(i), Answer: GuardPass, Value: string(long)}, Pod: &Pod{Name: fmt.Sprint(i), Event: PodCrashed}})
	}
	full, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("idle %d bytes, after the worst %d", len(idle), len(full))
	if len(idle) > 10_000 || len(full) > 100_000 {
		t.Errorf("got %d bytes idle and %d at the most, want 10000 and 100000", len(idle), len(full))
	}
}

// FuzzLog reads hostile logs.
func FuzzLog(f *testing.F) {
	for seed := range uint64(3) {
		text, err := Record{some(seed, 30)}.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Record
		if r.UnmarshalText(text) != nil {
			return
		}
		for _, l := range r {
			if l.State == nil { // a hostile one may say anything
				hold(t, l)
			}
		}
		_, _ = r.Replay(nil)
	})
}

// FuzzNext makes observations of any numbers.
func FuzzNext(f *testing.F) {
	f.Add([]byte("any bytes will do, the longer the better, because each makes a number"))
	for seed := range uint64(20) {
		data := make([]byte, 3000)
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range data {
			data[i] = byte(r.UintN(256))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h := hostile(data)
		l := Log{Start: t0, Config: Config{
			Hung: max(h.time(), 1), Blocks: h.next()%2 == 0, Allowed: h.number(), Alpha: h.number(), Epoch: h.time(), Once: h.time(), WarmUp: h.time(),
			Tells: h.next()%2 == 0, Alone: h.next()%2 == 0, Copies: h.next()%2 == 0, Quantiles: [4]time.Duration{h.time(), h.time(), h.time(), h.time()},
		}}
		slices.Sort(l.Config.Quantiles[:])
		for len(h) > 0 && len(l.Observations) < 200 {
			l.Observations = append(l.Observations, h.observation())
		}
		hold(t, l)
	})
}

// hostile gives numbers from bytes, the extreme ones often.
type hostile []byte

func (h *hostile) next() byte {
	if len(*h) == 0 {
		return 0
	}
	b := (*h)[0]
	*h = (*h)[1:]
	return b
}

func (h *hostile) count() int64 {
	return [...]int64{0, 0, 1, 3, 1e6, 1e9, 1e12, 1e15, math.MaxInt64, math.MinInt64, -1}[h.next()%11]
}

func (h *hostile) number() float64 {
	return [...]float64{0, 0, 1e-320, 1e-12, 0.001, 0.05, 0.5, 0.999, 1 - 1e-16, 1, 1.5, 1000, -1, math.NaN(), math.Inf(1), math.MaxFloat64}[h.next()%16]
}

func (h *hostile) time() time.Duration {
	return [...]time.Duration{0, 1, time.Millisecond, time.Second, time.Hour, math.MaxInt64, math.MinInt64, -1}[h.next()%8]
}

func (h *hostile) tally() Tally {
	return Tally{
		Closed: [5]int64{h.count(), h.count(), 0, 0, h.count()}, Failed: h.count(), Repeated: h.count(), Settled: h.count(),
		Slow: [4]int64{h.count(), 0, h.count(), h.count()}, SlowRepeated: [4]int64{h.count()},
	}
}

func (h *hostile) name() string {
	return []string{"", "a", "b", "c", "\xff\x00", string(*h)}[h.next()%6]
}

func (h *hostile) observation() Observation {
	o := Observation{At: at(time.Duration(h.next()) * time.Second)}
	switch h.next() % 7 {
	case 0, 1:
		o.Request = &Request{
			ID: h.name(), Canary: h.next()%2 == 0, Weight: h.number(), Pod: h.name(), Answer: Answer{Status: 100 * int(h.next()%7), Running: h.next()%9 == 0},
			Elapsed: h.time(), Told: h.time(), Trace: h.name(), Client: h.name(), Chosen: h.next()%5 == 0,
		}
	case 2, 3:
		o.Counts = &Counts{Cells: []Cell{{Weight: h.number(), Copies: h.next()%3 == 0, Canary: h.tally(), Stable: h.tally(), Pods: []PodErrors{{h.name(), h.count()}, {h.name(), h.count()}}}}, Moved: []Moved{{ID: h.name()}}}
	case 4:
		o.Block = &Block{Arm{h.count(), h.count()}, Arm{h.count(), h.count()}}
	case 5:
		o.Pod = &Pod{h.name(), h.next()%2 == 0, []PodEvent{PodReady, PodGone, PodCrashed, PodNever, "?"}[h.next()%5]}
	default:
		o.Guard = &Guard{h.name(), []GuardAnswer{GuardPass, GuardFail, GuardNoData, "?"}[h.next()%4], h.name()}
		o.Extend = new(at(h.time()))
	}
	return o
}

// hold checks what must be true whatever is observed.
func hold(t *testing.T, l Log) {
	t.Helper()
	j, err := New(l.Config)
	if err != nil {
		return
	}
	s := j.Start(l.Start)
	for _, o := range l.Observations {
		was := s.Is
		var v Verdict
		s, v = j.Next(s, o)
		if e := j.logE(&s.core); math.IsNaN(e) || math.IsInf(e, 0) {
			t.Fatalf("ln E is %v after %+v", e, o)
		}
		if was == Bad && v.Is != Bad {
			t.Fatalf("a conviction became %s", v.Is)
		}
		if v.Is == Good && !slices.ContainsFunc(v.Metrics, func(m Metric) bool { return m.N > 0 }) {
			t.Fatal("good without a request")
		}
		if v.Why == "" || v.Need.Time < 0 || v.Need.Requests < 0 {
			t.Fatalf("got %+v", v)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(v); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Load(data); err != nil {
			t.Fatal(err)
		}
		if len(data) > 200_000 {
			t.Fatalf("the state has %d bytes", len(data))
		}
	}
}
