package verdict

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

func fails(d time.Duration, canary bool, change ...func(*Request)) Observation {
	r := &Request{ID: fmt.Sprintf("req-%d", d/ms), Canary: canary, Weight: 0.05, Pod: "a", Answer: Answer{Status: 500}, Elapsed: 5 * ms}
	for _, f := range change {
		f(r)
	}
	return Observation{At: at(d), Request: r}
}

func onPod(name string) func(*Request)   { return func(r *Request) { r.Pod = name } }
func ofTrace(name string) func(*Request) { return func(r *Request) { r.Trace = name } }
func weighing(w float64) func(*Request)  { return func(r *Request) { r.Weight = w } }
func answered(a Answer) func(*Request)   { return func(r *Request) { r.Answer = a } }
func lasting(d, told time.Duration) func(*Request) {
	return func(r *Request) { r.Elapsed, r.Told = d, told }
}

func well(d time.Duration, canary, stable int64) Observation {
	return Observation{At: at(d), Counts: &Counts{Cells: []Cell{{Weight: 0.05, Canary: Tally{Closed: [5]int64{canary}}, Stable: Tally{Closed: [5]int64{stable}}}}}}
}

func podEvent(d time.Duration, name string, canary bool, e PodEvent) Observation {
	return Observation{At: at(d), Pod: &Pod{name, canary, e}}
}

func guardSays(d time.Duration, a GuardAnswer, value string) Observation {
	return Observation{At: at(d), Guard: &Guard{"p99 of the queue", a, value}}
}

func ready(names ...string) (out []Observation) {
	for _, n := range names {
		out = append(out, podEvent(0, n, !strings.HasPrefix(n, "stable"), PodReady))
	}
	return out
}

func seq(parts ...any) (out []Observation) {
	for _, p := range parts {
		switch p := p.(type) {
		case Observation:
			out = append(out, p)
		case []Observation:
			out = append(out, p...)
		}
	}
	return out
}

func times(n int, f func(i int) Observation) (out []Observation) {
	for i := range n {
		out = append(out, f(i))
	}
	return out
}

func every100ms(canary bool, change ...func(*Request)) func(int) Observation {
	return func(i int) Observation { return fails(time.Duration(i)*100*ms, canary, change...) }
}

func TestVerdicts(t *testing.T) {
	enough := times(60, func(i int) Observation { return well(time.Duration(i)*time.Second, 10, 190) })
	guarded := Config{Guards: []string{"p99 of the queue"}}
	quick := Config{Quantiles: [4]time.Duration{20 * ms, 50 * ms, 200 * ms, time.Second}}
	for _, c := range []struct {
		name   string
		config Config
		seen   []Observation
		is     Kind
		why    string
	}{
		{"nothing seen", Config{}, nil, Collecting, "E = 1, abort at 1000; no requests to the canary yet"},
		{"nothing seen till the deadline", Config{}, seq(Observation{At: at(31 * time.Minute)}), Inconclusive, "no verdict in 30m: no requests to the canary yet"},
		{"only stable is seen", Config{}, times(999, func(i int) Observation { return well(time.Duration(i)*time.Second, 0, 1000) }), Collecting, "no requests to the canary yet"},
		{"all fail", Config{}, seq(well(0, 0, 10), times(4, func(i int) Observation {
			return fails(time.Duration(i)*1033*ms, true)
		})), Bad, "E = 2110, abort at 1000, after 3 errors in 2.1 s; stable had 0 errors"},
		{"both fail", Config{}, times(2000, func(i int) Observation { return fails(time.Duration(i)*ms, i%20 == 0) }), Collecting, "100 errors in 100 requests to the canary, too many for good"},
		{"bad is final", Config{}, seq(times(9, every100ms(true)), enough, enough), Bad, "after 3 errors"},
		{"some went well", Config{}, enough[:20], Collecting, "good needs about 450 more requests to the canary, 42.7 s at 10.5 a second"},
		{"traffic ended", Config{}, seq(enough[:20], Observation{At: at(20 * time.Minute)}), Collecting, "good needs about 449 more requests to the canary, and there are none now"},
		{"enough went well", Config{}, enough, Good, "errors under 1 % in 540 requests to the canary in 53 s; E = 0.855, abort at 1000"},
		{"good turns bad", Config{}, seq(enough, times(9, func(i int) Observation { return fails(time.Hour+time.Duration(i)*ms, true) })), Bad, "after 3 errors in 0 s; stable had 0 errors"},
		{"good only before the deadline", Config{Deadline: 30 * time.Second}, enough, Inconclusive, "no verdict in 30 s: "},
		{"more time is given", Config{Deadline: 30 * time.Second}, seq(enough[:40], Observation{At: at(40 * time.Second), Extend: new(at(time.Hour))}, enough), Good, ""},
		{"bad after the deadline", Config{Deadline: time.Second}, seq(well(time.Minute, 1, 1), times(4, func(i int) Observation { return fails(time.Hour+time.Duration(i)*ms, true) })), Bad, ""},

		{"retries of one trace", Config{}, times(50, every100ms(true, ofTrace("x"))), Collecting, ""},
		{"retries after the time", Config{Once: 50 * ms}, times(50, every100ms(true, ofTrace("x"))), Bad, ""},
		{"cancelled by clients", Config{}, times(50, every100ms(true, answered(Answer{Cancelled: true}))), Collecting, ""},
		{"gRPC says internal", Config{}, times(4, every100ms(true, answered(Answer{Status: 200, GRPC: new(13)}))), Bad, ""},
		{"chosen, not drawn", Config{}, times(50, every100ms(true, func(r *Request) { r.Chosen = true })), Collecting, ""},
		{"weight 1", Config{}, times(50, every100ms(true, weighing(1))), Collecting, "50 errors in 50 requests"},
		{"weight 0", Config{}, times(50, every100ms(true, weighing(0))), Collecting, ""},
		{"a weight that is none", Config{}, times(50, every100ms(true, weighing(-1))), Collecting, "no requests"},
		{"cold", Config{}, times(50, every100ms(true, func(r *Request) { r.Cold = true })), Collecting, "no requests"},
		{"in the warm-up", Config{WarmUp: time.Minute}, seq(ready("a"), times(50, every100ms(true))), Collecting, "no requests"},
		{"after the warm-up", Config{WarmUp: time.Second}, seq(ready("a"), times(50, every100ms(true))), Bad, ""},

		{"all hang", Config{Hung: time.Second}, times(4, func(i int) Observation {
			return fails(time.Second+time.Duration(i)*100*ms, true, answered(Answer{Running: true}), lasting(1001*ms, 0))
		}), Bad, "after 3 errors"},
		{"a request that hangs counts once", Config{Hung: time.Second}, times(40, func(i int) Observation {
			return fails(2*time.Second+time.Duration(i)*100*ms, true, lasting(1100*ms+time.Duration(i)*ms, 1100*ms+time.Duration(i-1)*ms))
		}), Collecting, "no requests"},
		{"in flight is no answer", Config{}, times(40, every100ms(true, answered(Answer{Running: true}))), Collecting, ""},
		{"all slow", quick, times(12, every100ms(true, answered(Answer{Status: 200}), lasting(3*time.Second, 0))), Bad, "after 4 slow requests in 0.3 s; stable had 0 errors"},
		{"slow as stable", quick, times(400, func(i int) Observation {
			return fails(time.Duration(i)*100*ms, i%20 == 0, answered(Answer{Status: 200}), lasting(3*time.Second, 0))
		}), Collecting, ""},
		{"slow and well", quick, times(90, func(i int) Observation {
			slow := Tally{Closed: [5]int64{1, 8, 1}, Slow: [4]int64{9, 1}}
			return Observation{At: at(time.Duration(i) * time.Second), Counts: &Counts{Cells: []Cell{{Weight: .05, Chosen: true, Canary: slow}}}}
		}), Collecting, "too many for good"},
		{"slow, and under way still", quick, []Observation{well(0, 0, 90), {At: at(time.Second), Counts: &Counts{Cells: []Cell{{Weight: .05, Canary: Tally{Slow: [4]int64{6, 6, 6}}, Stable: Tally{Closed: [5]int64{3: 114}, Slow: [4]int64{114, 114, 114}}}}}}},
			Collecting, "6 of 6 requests to the canary over stable's p50, too many for good"},

		{"one pod crashes", Config{}, seq(ready("a", "b"), times(9, func(i int) Observation { return podEvent(time.Second, "a", true, PodCrashed) })), Collecting, ""},
		{"two pods crash", Config{}, seq(ready("a", "b", "stable-1"), times(4, func(i int) Observation { return podEvent(time.Second, []string{"a", "b"}[i%2], true, PodCrashed) })),
			Bad, "pods crash: 2 of the canary's 2 (b), 0 of stable's 1"},
		{"the only pod crashes", Config{}, seq(ready("a", "stable-1", "stable-2"), times(3, func(i int) Observation { return podEvent(time.Second, "a", true, PodOOM) })),
			Bad, "pods were killed for their memory: 1 of the canary's 1 (a), 0 of stable's 2"},
		{"all pods crash", Config{}, seq(ready("a", "stable-1"), times(8, func(i int) Observation {
			return podEvent(time.Second, []string{"a", "stable-1"}[i%2], i%2 == 0, PodCrashed)
		})), Collecting, ""},
		{"never ready", Config{}, seq(ready("stable-1"), podEvent(time.Minute, "a", true, PodNever)), Bad, "pods do not get ready: 1 of the canary's 1 (a), 0 of stable's 1"},
		{"a crash keeps from good", Config{}, seq(ready("a", "b"), podEvent(time.Second, "a", true, PodCrashed), enough), Collecting, "pod a of the canary crashed: look at it, or replace it"},
		{"a crashed pod was replaced", Config{}, seq(ready("a", "b"), podEvent(time.Second, "a", true, PodCrashed), podEvent(time.Second, "a", true, PodGone), enough), Good, ""},
		{"one pod of two fails", Config{}, seq(ready("a", "b"), times(40, func(i int) Observation {
			if i%2 == 0 {
				return well(time.Duration(i)*100*ms, 1, 38)
			}
			return fails(time.Duration(i)*100*ms, true, onPod("a"))
		})), Collecting, ""},
		{"the other pod fails too", Config{}, seq(ready("a", "b"), times(40, func(i int) Observation {
			if i%2 == 0 {
				return well(time.Duration(i)*100*ms, 1, 38)
			}
			return fails(time.Duration(i)*100*ms, true, onPod("a"))
		}), times(5, func(i int) Observation { return fails(time.Minute+time.Duration(i)*ms, true, onPod("b")) })), Bad, ""},
		{"one pod of two fails and nothing goes well", Config{}, seq(ready("a", "b"), times(4, every100ms(true))), Bad, ""},
		{"both pods fail", Config{}, seq(ready("a", "b"), times(8, func(i int) Observation {
			if i%4 == 0 {
				return well(time.Duration(i)*100*ms, 1, 38)
			}
			return fails(time.Duration(i)*100*ms, true, onPod([]string{"a", "b"}[i%2]))
		})), Bad, ""},

		{"a guard without data", guarded, seq(enough, guardSays(time.Minute, GuardNoData, "")), Collecting, `guard "p99 of the queue" has no data`},
		{"a guard that never answered", guarded, enough, Collecting, "has no data"},
		{"a guard passes", guarded, seq(enough, guardSays(time.Minute, GuardPass, "3")), Good, ""},
		{"a guard fails once", guarded, seq(enough, guardSays(time.Minute, GuardFail, "9")), Collecting, `guard "p99 of the queue" fails`},
		{"a guard fails", guarded, seq(times(2, func(int) Observation { return guardSays(0, GuardFail, "9") }), guardSays(0, GuardNoData, ""), guardSays(0, GuardFail, "9.5")),
			Bad, `guard "p99 of the queue" failed 3 times in a row, last with 9.5`},
		{"a guard fails and passes", guarded, times(9, func(i int) Observation { return guardSays(0, []GuardAnswer{GuardFail, GuardFail, GuardPass}[i%3], "9") }), Collecting, ""},

		{"a cohort fails", Config{Blocks: true}, times(40, func(i int) Observation {
			return Observation{At: at(time.Duration(i) * time.Second), Block: &Block{Arm{10, 2}, Arm{200, 1}}}
		}), Bad, "E = "},
		{"a cohort fails as it does on stable", Config{Blocks: true}, times(400, func(i int) Observation {
			return Observation{At: at(time.Duration(i) * time.Second), Block: &Block{Arm{10, 1}, Arm{200, 20}}}
		}), Collecting, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.config.Hung == 0 {
				c.config.Hung = 10 * time.Second
			}
			_, v, err := Replay(Log{Config: c.config, Start: t0, Observations: c.seen})
			if err != nil {
				t.Fatal(err)
			}
			if v.Is != c.is || !strings.Contains(v.Why, c.why) {
				t.Errorf("got  %s: %s\nwant %s: %s", v.Is, v.Why, c.is, c.why)
			}
			if strings.Contains(v.Why, "\n") || v.Why == "" {
				t.Errorf("why is not one line: %q", v.Why)
			}
		})
	}
}

func TestABadPodIsNamed(t *testing.T) {
	_, v, err := Replay(Log{Config: Config{Hung: time.Second}, Start: t0, Observations: seq(ready("a", "b", "c"), times(40, func(i int) Observation {
		if i%2 == 0 {
			return well(time.Duration(i)*100*ms, 2, 38)
		}
		return fails(time.Duration(i)*100*ms, true, onPod("b"))
	}))})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b"}, v.BadPods); diff != "" || v.Is != Collecting {
		t.Errorf("got %s, bad pods %v, want collecting and b", v.Is, v.BadPods)
	}
}

func TestTheRequestsThatMovedEAreKept(t *testing.T) {
	_, v, err := Replay(Log{Config: Config{Hung: time.Second}, Start: t0, Observations: seq(fails(0, false), fails(1*ms, true, ofTrace("x")), fails(2*ms, true, ofTrace("x")),
		fails(30*ms, true, answered(Answer{Broken: true})), fails(40*ms, true, answered(Answer{Running: true}), lasting(1001*ms, 0)), fails(50*ms, true))})
	if err != nil {
		t.Fatal(err)
	}
	want := []Moved{{"req-1", "a", "HTTP 500", 5 * ms}, {"req-30", "a", "connection broken", 5 * ms}, {"req-40", "a", "no answer in 1s", 1001 * ms}, {"req-50", "a", "HTTP 500", 5 * ms}}
	if diff := cmp.Diff(want, v.Moved); diff != "" || v.Is != Bad {
		t.Errorf("got %s (%s) and other requests: %s", v.Is, v.Why, diff)
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		a    Answer
		want Outcome
	}{
		{Answer{Status: 200}, Succeeded}, {Answer{Status: 101}, Succeeded}, {Answer{Status: 304}, Succeeded},
		{Answer{Status: 404}, Succeeded}, {Answer{Status: 429}, Succeeded}, {Answer{Status: 500}, Failed},
		{Answer{Status: 503, GRPC: new(0)}, Failed}, {Answer{Status: 599}, Failed}, {Answer{Status: 600}, Failed},
		{Answer{}, Failed}, {Answer{Status: -5}, Failed}, {Answer{Status: 200, Broken: true}, Failed},
		{Answer{Status: 499}, Cancelled}, {Answer{Cancelled: true, Broken: true}, Cancelled}, {Answer{Cancelled: true, Status: 500}, Cancelled},
		{Answer{Status: 200, GRPC: new(1)}, Cancelled}, {Answer{Status: 200, GRPC: new(5)}, Succeeded},
		{Answer{Status: 200, GRPC: new(2)}, Failed}, {Answer{Status: 200, GRPC: new(4)}, Failed},
		{Answer{Status: 200, GRPC: new(12)}, Failed}, {Answer{Status: 200, GRPC: new(14)}, Failed},
		{Answer{Status: 200, GRPC: new(15)}, Failed}, {Answer{Status: 200, GRPC: new(16)}, Succeeded},
		{Answer{Status: 200, GRPC: new(99)}, Failed}, {Answer{Status: 200, GRPC: new(-1)}, Failed},
		{Answer{Running: true, Broken: true}, Running},
	} {
		if got := Classify(c.a); got != c.want {
			t.Errorf("%+v (%s): got %v, want %v", c.a, c.a, got, c.want)
		}
	}
}

func TestConfigsThatMakeNoSense(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Hung = 0 }, "hung is 0s: give"},
		{func(c *Config) { c.Alpha = 1 }, "alpha is 1: give"},
		{func(c *Config) { c.Beta = -1 }, "beta is -1: give"},
		{func(c *Config) { c.MaxErrors = 2 }, "maxErrors is 2: give"},
		{func(c *Config) { c.Allowed = 0.5 }, "allowed is 0.5: give"},
		{func(c *Config) { c.Once = -1 }, "negative"},
		{func(c *Config) { c.Epoch = 1 }, "epoch is 1ns: give"},
		{func(c *Config) { c.Weights = Weights{Latency: 1} }, "above it to a signal that is judged"},
		{func(c *Config) { c.Weights = Weights{Errors: -1, Latency: 3} }, "none below 0"},
		{func(c *Config) { c.PodEvents = -1 }, "give 1 or more"},
		{func(c *Config) { c.MaxSlow[2] = -1 }, "maxSlow[0]"},
		{func(c *Config) { c.Quantiles = [4]time.Duration{4, 3, 2, 1} }, "quantiles are"},
		{func(c *Config) { c.Slack = -1 }, "negative"},
		{func(c *Config) { c.Surge = 1 }, "surge is 1: give"},
	} {
		config := Config{Hung: time.Second}
		c.change(&config)
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	if _, err := judge(t, Config{}).Load([]byte(`{"errors":{"logs":[1]}}`)); err == nil || !strings.Contains(err.Error(), "another version of this program") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// TestHealthyCohortsAreNotConvicted has blocks of clients whose rate of errors
// changes from block to block, with arms of any size.
func TestHealthyCohortsAreNotConvicted(t *testing.T) {
	n := runs(t, 800)
	for _, c := range []struct {
		worse float64
		least float64
	}{{1, 0}, {10, 0.95}} {
		j := judge(t, Config{Blocks: true})
		bad := 0
		for _, is := range each(n, func(r *rand.Rand) Kind {
			s := j.Start(t0)
			for i := range 360 {
				rate := 0.02 * r.Float64()
				if r.IntN(50) == 0 {
					rate = 0.6
				}
				b := Block{Canary: Arm{N: int64(1 + r.IntN(20))}, Stable: Arm{N: int64(1 + r.IntN(200))}}
				b.Canary.Failed, b.Stable.Failed = choose(r, b.Canary.N, min(c.worse*rate, 1)), choose(r, b.Stable.N, rate)
				j.observe(&s.core, Observation{At: at(time.Duration(i) * 5 * time.Second), Block: &b})
			}
			return s.Is
		}) {
			if is == Bad {
				bad++
			}
		}
		t.Logf("%d runs: %.3f %% of cohorts with %v times the errors convicted", n, 100*float64(bad)/float64(n), c.worse)
		if c.worse == 1 && float64(bad) > most(0.001, n) || float64(bad) < c.least*float64(n) {
			t.Errorf("%v times the errors: %d of %d convicted", c.worse, bad, n)
		}
	}
}

// TestProxiesAndTheCentre has each of five proxies convict on its own evidence, and
// a central judge on what they drain.
func TestProxiesAndTheCentre(t *testing.T) {
	const proxies = 5
	n := min(runs(t, 60), 20_000)
	half, part := Split(0.001, proxies)
	centre, local := judge(t, Config{Alpha: half}), judge(t, Config{Alpha: part, Tells: true})
	for _, worse := range []float64{1, 500} {
		bad, early := 0, 0
		for _, f := range each(n, func(r *rand.Rand) found {
			main := centre.Start(t0)
			var own [proxies]State
			for i := range own {
				own[i] = local.Start(t0)
			}
			var f found
			world{rps: 100, worse: worse, step: 1}.run(r, 900, func(k tick) bool {
				for _, canary := range k.errors {
					p := &own[r.IntN(proxies)]
					local.observe(&p.core, Observation{At: at(time.Duration(k.t * 1e9)), Request: &Request{ID: "r", Canary: canary, Weight: k.weight, Answer: Answer{Status: 500}}})
				}
				for i := range own {
					cell := Cell{Weight: k.weight, Canary: Tally{Closed: [5]int64{k.canaryOK / proxies}}, Stable: Tally{Closed: [5]int64{k.stableOK / proxies}}}
					local.observe(&own[i].core, Observation{At: at(time.Duration(k.t * 1e9)), Counts: &Counts{Cells: []Cell{cell}}})
					var told Counts
					own[i], told = local.Drain(own[i])
					centre.observe(&main.core, Observation{At: at(time.Duration(k.t * 1e9)), Counts: &told})
					if own[i].Is == Bad && f.is == "" {
						f = found{is: Bad, after: k.t, requests: 1}
					}
				}
				if main.Is == Bad && f.is == "" {
					f = found{is: Bad, after: k.t}
				}
				return f.is != Bad
			})
			return f
		}) {
			if f.is == Bad {
				bad++
				early += int(f.requests)
			}
		}
		t.Logf("%d runs, %v times the errors: %.2f %% convicted, %d of %d by a proxy first", n, worse, 100*float64(bad)/float64(n), early, bad)
		if worse == 1 && float64(bad) > most(0.001, n) || worse > 1 && bad < n {
			t.Errorf("%v times the errors: %d of %d convicted", worse, bad, n)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	j, err := New(Config{Hung: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	s := j.Start(t0)
	o := well(time.Second, 10, 190)
	b.ReportAllocs()
	for b.Loop() {
		s, _ = j.Next(s, o)
	}
}

// Every signal that is judged has a share, whatever else is judged besides.
func TestUsualWeights(t *testing.T) {
	const third = 0.4 / 3
	for _, tt := range []struct {
		config Config
		want   Weights
	}{
		{Config{}, Weights{Errors: 0.8, Latency: 0.2}},
		{Config{Blocks: true}, Weights{Errors: 0.4, Latency: 0.2, Blocks: 0.4}},
		{Config{Alone: true}, Weights{Errors: 0.4, Latency: 0.2, Alone: 0.4}},
		{Config{Copies: true}, Weights{Errors: 0.4, Latency: 0.2, Copies: 0.4}},
		{Config{Alone: true, Copies: true}, Weights{Errors: 0.4, Latency: 0.2, Alone: 0.2, Copies: 0.2}},
		{Config{Blocks: true, Copies: true}, Weights{Errors: 0.4, Latency: 0.2, Blocks: 0.2, Copies: 0.2}},
		{Config{Blocks: true, Alone: true, Copies: true}, Weights{Errors: 0.4, Latency: 0.2, Blocks: third, Alone: third, Copies: third}},
		{Config{Copies: true, Weights: Weights{Errors: 1}}, Weights{Errors: 1}},
	} {
		if got := tt.config.withDefaults().Weights; got != tt.want {
			t.Errorf("%+v: got %+v, want %+v", tt.config, got, tt.want)
		}
	}
}
