package tally

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const hung = 30 * time.Second

var (
	t0  = time.Unix(1000, 0)
	pod = netip.MustParseAddrPort("10.0.0.2:8080")
)

func newTally(change ...func(*verdict.Config)) *Tally {
	c := verdict.Config{Hung: hung}
	for _, f := range change {
		f(&c)
	}
	t := New(c, "canary")
	t.Routed(1, []netip.Addr{pod.Addr()}, t0)
	return t
}

// went is the outcome of a request that went well.
func went(id uint64, version string, change ...func(*steer.Outcome)) *steer.Outcome {
	o := &steer.Outcome{
		ID: id, Generation: 1, Time: t0, Version: version, By: version, Weight: 9500, Status: 200, GRPC: -1, Latency: time.Millisecond,
		Took: time.Millisecond, Tries: 1, Key: "10.0.0.9", Client: "10.0.0.9:1234",
	}
	if version == "canary" {
		o.Weight, o.Pod, o.Carried = 500, pod, true
	}
	for _, f := range change {
		f(o)
	}
	return o
}

func status(n int) func(*steer.Outcome) { return func(o *steer.Outcome) { o.Status = n } }

func fallback(o *steer.Outcome) {
	o.By, o.Fallback, o.Carried, o.Pod, o.Tries = "stable", true, false, netip.AddrPort{}, 2
}

func TestWhatIsToldAlone(t *testing.T) {
	call := func(grpc int) func(*steer.Outcome) { return func(o *steer.Outcome) { o.GRPC = grpc } }
	for _, tt := range []struct {
		name string
		o    *steer.Outcome
		want *verdict.Request // without the ID and what is always there
	}{
		{"a success", went(1, "canary"), nil},
		{"an answer about the caller", went(1, "canary", status(404)), nil},
		{"an error of the canary", went(1, "canary", status(500)), &verdict.Request{Canary: true, Weight: 0.05, Pod: "10.0.0.2", Answer: verdict.Answer{Status: 500}}},
		{"an error of stable", went(1, "stable", status(503)), &verdict.Request{Weight: 0.05, Answer: verdict.Answer{Status: 503}}},
		{"a call that failed", went(1, "canary", call(13)), &verdict.Request{Canary: true, Weight: 0.05, Pod: "10.0.0.2", Answer: verdict.Answer{Status: 200, GRPC: new(13)}}},
		{"a call that went well", went(1, "canary", call(5)), nil},
		{"a client that went away", went(1, "canary", status(0), func(o *steer.Outcome) { o.Cancelled = true }), nil},
		{"an answer that broke off", went(1, "stable", func(o *steer.Outcome) { o.Broken = true }), &verdict.Request{Weight: 0.05, Answer: verdict.Answer{Status: 200, Broken: true}}},
		{"stable answered in the canary's place", went(1, "canary", fallback), &verdict.Request{Canary: true, Weight: 0.05, Answer: verdict.Answer{Broken: true}}},
		{"or would have, if the client had waited", went(1, "canary", fallback, func(o *steer.Outcome) { o.Cancelled = true }),
			&verdict.Request{Canary: true, Weight: 0.05, Answer: verdict.Answer{Broken: true}}},
		{"no way to the canary for a moment", went(1, "canary", fallback, func(o *steer.Outcome) { o.Unheard = true }), nil},
		{"the canary had no pod then", went(1, "canary", fallback, func(o *steer.Outcome) { o.Generation = 2 }), nil},
		{"it was chosen, by affinity", went(1, "canary", status(500), func(o *steer.Outcome) { o.Affinity = true }),
			&verdict.Request{Canary: true, Weight: 0.05, Pod: "10.0.0.2", Chosen: true, Client: "10.0.0.9", Answer: verdict.Answer{Status: 500}}},
		{"it was chosen, by a cohort", went(1, "stable", status(500), func(o *steer.Outcome) { o.Cohort = "staff" }),
			&verdict.Request{Weight: 0.05, Chosen: true, Client: "10.0.0.9", Answer: verdict.Answer{Status: 500}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ta := newTally()
			ta.Routed(2, nil, t0)
			got := ta.Door("cart-1:8080", 0).Add(tt.o)
			if tt.want != nil {
				tt.want.ID, tt.want.Elapsed = "cart-1:8080/1", time.Millisecond
				tt.want.Client = ta.alias(tt.want.Client) // nobody's address is kept
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// closed are the requests that went well in counts, of stable and of the canary.
func closed(c verdict.Counts) (stable, canary int64) {
	for _, cell := range c.Cells {
		for band := range cell.Stable.Closed {
			stable, canary = stable+cell.Stable.Closed[band], canary+cell.Canary.Closed[band]
		}
	}
	return stable, canary
}

func wantClosed(t *testing.T, what string, c verdict.Counts, stable, canary int64) {
	t.Helper()
	if s, n := closed(c); s != stable || n != canary {
		t.Errorf("%s: %d of stable and %d of the canary count, want %d and %d", what, s, n, stable, canary)
	}
}

// What went well counts when all of the same stretch is known.
func TestQuickAnswersWaitForTheOthers(t *testing.T) {
	ta := newTally()
	d := ta.Door("a", 7) // the first seven are not of this release
	d.Add(went(8, "stable"))
	d.Add(went(10, "canary"))
	wantClosed(t, "no stretch has ended", ta.Take(t0), 0, 0)
	d.Mark(11, t0)
	d.Add(went(12, "stable")) // of the next
	wantClosed(t, "two are out", ta.Take(t0), 0, 0)
	d.Add(went(9, "stable"))
	wantClosed(t, "one is out", ta.Take(t0.Add(time.Second)), 0, 0)
	d.Add(went(11, "canary", status(500)))
	wantClosed(t, "all are known", ta.Take(t0.Add(time.Second)), 2, 1)
	wantClosed(t, "nothing twice", ta.Take(t0.Add(time.Second)), 0, 0)

	d.Mark(14, t0)
	d.Add(went(13, "stable", func(o *steer.Outcome) { o.Status, o.Running, o.Latency = 0, true, hung+1 })) // overdue
	wantClosed(t, "one is out", ta.Take(t0), 0, 0)
	d.Add(went(14, "stable"))
	wantClosed(t, "who is overdue holds up nobody", ta.Take(t0), 2, 0)
	if r := d.Add(went(13, "stable", func(o *steer.Outcome) { o.Latency, o.Told = hung+2, hung+1 })); r == nil || r.Told != hung+1 {
		t.Errorf("the end of what was overdue is told as %+v", r)
	}
	wantClosed(t, "and does not count as well", ta.Take(t0), 0, 0)

	d.Mark(16, t0)
	d.Add(went(15, "canary")) // 16 streams on
	wantClosed(t, "a stream is open", ta.Take(t0.Add(hung)), 0, 0)
	wantClosed(t, "for too long", ta.Take(t0.Add(hung+1)), 0, 1)
	d.Add(went(16, "canary"))
	wantClosed(t, "the stream's end", ta.Take(t0.Add(hung+1)), 0, 1)
	if ta.Waiting() {
		t.Error("it waits for something")
	}
}

func TestAWarmUpCountsForNothing(t *testing.T) {
	ta := newTally(func(c *verdict.Config) { c.WarmUp = 10 * time.Second })
	late := netip.MustParseAddrPort("10.0.0.3:8080")
	ta.Routed(2, []netip.Addr{pod.Addr(), late.Addr()}, t0.Add(20*time.Second))
	d := ta.Door("a", 0)
	for i, tt := range []struct {
		pod   netip.AddrPort
		after time.Duration
		cold  bool
	}{{pod, 9 * time.Second, true}, {pod, 10 * time.Second, false}, {late, 29 * time.Second, true}, {late, 30 * time.Second, false}, {netip.AddrPort{}, 25 * time.Second, false}} {
		o := went(uint64(i+1), "canary", status(500), func(o *steer.Outcome) { o.Pod, o.Time = tt.pod, t0.Add(tt.after) })
		if got := d.Add(o); (got == nil) != tt.cold {
			t.Errorf("pod %v after %v: %+v", tt.pod, tt.after, got)
		}
	}
	d.Mark(5, t0)
	if ta.Take(t0); ta.Waiting() {
		t.Error("what counts for nothing holds up the others")
	}
	if r := d.Add(went(6, "stable", status(500))); r == nil {
		t.Error("stable has no warm-up")
	}
}

func TestLatencyIsToldInBands(t *testing.T) {
	quantiles := [...]time.Duration{time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond}
	ta := newTally(func(c *verdict.Config) { c.Quantiles = quantiles })
	if d := cmp.Diff(quantiles[:], Slow(verdict.Config{Quantiles: quantiles, Hung: 10 * time.Millisecond})); d != "" {
		t.Error(d)
	}
	d := ta.Door("a", 0)
	for i, latency := range []time.Duration{time.Millisecond, 3 * time.Millisecond, 11 * time.Millisecond} {
		r := d.Add(went(uint64(i+1), "canary", func(o *steer.Outcome) { o.Latency = latency }))
		if (r != nil) != (i > 0) {
			t.Errorf("latency %v is told as %+v", latency, r)
		}
	}
	// In flight, it is told, and does not count yet.
	if r := d.Add(went(4, "canary", func(o *steer.Outcome) { o.Running, o.Latency = true, way+6*time.Millisecond })); r == nil || !r.Running {
		t.Errorf("in flight: %+v", r)
	}
	d.Mark(4, t0)
	wantClosed(t, "one is in flight", ta.Take(t0), 0, 0)
	d.Add(went(4, "canary", func(o *steer.Outcome) { o.Latency, o.Told = 7*time.Millisecond, way+6*time.Millisecond }))
	want := verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Closed: [...]int64{1, 0, 1, 1, 1}}}}}
	if d := cmp.Diff(want, ta.Take(t0)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Whatever the order in which requests end: each counts once, and none before all that
// were sent off with it are known.
func TestEachRequestCountsOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		ta := newTally()
		doors := []*Door{ta.Door("a", 0), ta.Door("b", 0)}
		type request struct {
			door    int
			o       *steer.Outcome
			stretch [2]int
		}
		var out []request
		open := map[[2]int]int{} // requests that are out, by door and stretch
		waits := map[[2]int]int64{}
		decided, stretch := [2]uint64{}, [2]int{}
		var may, sent, counted int64
		end := func(i int) {
			q := out[i]
			out = append(out[:i], out[i+1:]...)
			doors[q.door].Add(q.o)
			open[q.stretch]--
			waits[q.stretch]++
		}
		take := func() {
			for s := range waits {
				if open[s] == 0 && s[1] < stretch[s[0]] {
					may += waits[s]
					delete(waits, s)
				}
			}
			s, c := closed(ta.Take(t0))
			if counted += s + c; counted != may {
				t.Fatalf("%d count, %d may", counted, may)
			}
		}
		for range 300 {
			switch d := r.IntN(2); r.IntN(8) {
			case 0:
				doors[d].Mark(decided[d], t0)
				stretch[d]++
			case 1:
				take()
			case 2, 3, 4:
				if len(out) > 0 {
					end(r.IntN(len(out)))
				}
			default:
				decided[d]++
				sent++
				at := [2]int{d, stretch[d]}
				open[at]++
				out = append(out, request{d, went(decided[d], []string{"stable", "canary"}[r.IntN(2)]), at})
			}
		}
		for d := range doors {
			doors[d].Close(decided[d], t0)
			stretch[d]++
		}
		for len(out) > 0 {
			end(r.IntN(len(out)))
		}
		if take(); counted != sent || ta.Waiting() || len(ta.doors) != 0 {
			t.Fatalf("%d of %d count; %d doors are left", counted, sent, len(ta.doors))
		}
	}
}

// Memory is bounded, however long a release takes.
func TestWhatIsOverIsForgotten(t *testing.T) {
	ta := newTally()
	for g := range int64(10 * most) {
		a := netip.AddrFrom4([4]byte{10, 1, byte(g >> 8), byte(g)})
		ta.Routed(2*g, []netip.Addr{a}, t0)
		ta.Routed(2*g+1, nil, t0)
		if len(ta.seen) > most+1 || len(ta.bare) > most || !ta.bare[2*g+1] {
			t.Fatalf("%d pods and %d routings are remembered", len(ta.seen), len(ta.bare))
		}
	}
}

func TestErrorsOfAVersionWithAllRequestsAreToldWithTheSuccessesBesideThem(t *testing.T) {
	all := func(o *steer.Outcome) { o.Weight = steer.All }
	ta := newTally()
	d := ta.Door("door", 0)
	if d.Add(went(1, "canary", all, status(500))) == nil {
		t.Error("an error is not told at once")
	}
	d.Add(went(2, "canary", all))
	d.Mark(3, t0)
	d.Add(went(4, "canary", all, status(500)))
	if c := ta.Take(t0.Add(time.Second)); len(c.Cells) > 0 {
		t.Errorf("told while request 3 is under way: %+v", c)
	}
	d.Add(went(3, "canary", all))
	c := ta.Take(t0.Add(time.Second))
	if len(c.Cells) != 1 || c.Cells[0].Canary.Settled != 1 || c.Cells[0].Canary.Closed[0] != 2 || c.Cells[0].Canary.Failed != 0 {
		t.Errorf("%+v", c)
	}
	part := newTally()
	d = part.Door("door", 0)
	d.Add(went(1, "canary", status(500)))
	d.Mark(1, t0)
	if c := part.Take(t0.Add(time.Second)); len(c.Cells) > 0 {
		t.Errorf("of a part of the requests is told %+v", c)
	}
}
