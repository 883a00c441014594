package tally

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const ms = time.Millisecond

func withLatency(c *verdict.Config) {
	c.Quantiles = [4]time.Duration{1 * ms, 2 * ms, 5 * ms, 10 * ms}
	c.Slack, c.Settle = 2*ms, 10*time.Second
}

func took(latency, told time.Duration) func(*steer.Outcome) {
	return func(o *steer.Outcome) { o.Latency, o.Told, o.Time = latency, told, t0.Add(time.Minute) }
}

func flying(o *steer.Outcome) { o.Running, o.Status = true, 0 }

// here is of a request to the pod whose door tells of it.
func here(o *steer.Outcome) { o.Pod, o.Carried = netip.AddrPort{}, false }

// What crosses nothing new is not worth telling; the canary's way costs it nothing.
func TestWhatIsSlowIsToldOnce(t *testing.T) {
	d := newTally(withLatency).Door("a", 0)
	for i, tt := range []struct {
		what string
		o    *steer.Outcome
		told bool
	}{
		{"stable, quick", went(1, "stable", took(1*ms, 0)), false},
		{"stable, over the median", went(2, "stable", took(2*ms, 0)), true},
		{"the canary, by its way", went(3, "canary", took(3*ms, 0)), false},
		{"the canary, over that", went(4, "canary", took(4*ms, 0)), true},
		{"in flight, over the first", went(5, "canary", took(3*ms+1, 0), here, flying), true},
		{"in flight, over stable's", went(5, "canary", took(4*ms, 3*ms+1), here, flying), false},
		{"in flight, over the next", went(5, "canary", took(4*ms+1, 4*ms), here, flying), true},
		{"its end, over no more", went(5, "canary", took(5*ms, 4*ms+1), here), false},
		{"on its way, over the first", went(7, "canary", took(3*ms+1, 0), flying), false},
		{"on its way for longer than that takes", went(7, "canary", took(way+3*ms+1, 3*ms+1), flying), true},
		{"on its way, over stable's", went(7, "canary", took(way+4*ms, way+3*ms+1), flying), false},
		{"its end, by what its app took", went(7, "canary", took(4*ms, way+4*ms)), false},
		{"its end, over the next", went(8, "canary", took(4*ms+1, way+4*ms)), true},
		{"nobody was asked yet", went(9, "canary", took(way+3*ms, 0), flying, func(o *steer.Outcome) { o.Carried, o.Tries = false, 0 }), false},
		{"on its way and overdue", went(10, "canary", took(hung+1, way+4*ms), flying), true},
		{"its end as an error", went(6, "canary", took(5*ms, 4*ms+1), status(500)), true},
	} {
		if got := d.Add(tt.o); (got != nil) != tt.told {
			t.Errorf("%d, %s: %+v", i, tt.what, got)
		}
	}
	want := []time.Duration{1 * ms, 2 * ms, 3 * ms, 4 * ms, 5 * ms, 7 * ms, 10 * ms, 12 * ms,
		way + 3*ms, way + 4*ms, way + 7*ms, way + 12*ms, hung}
	c := verdict.Config{Hung: hung}
	withLatency(&c)
	if d := cmp.Diff(want, Slow(c)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The latency of a pod whose caches are cold counts for nothing; its errors do, and that it
// never answers.
func TestAPodSettles(t *testing.T) {
	ta := newTally(withLatency)
	late := netip.MustParseAddrPort("10.0.0.3:8080")
	ta.Routed(2, []netip.Addr{pod.Addr(), late.Addr()}, t0.Add(time.Minute))
	at := func(at netip.AddrPort, after, latency time.Duration) func(*steer.Outcome) {
		return func(o *steer.Outcome) { o.Pod, o.Time, o.Latency = at, t0.Add(after), latency }
	}
	d := ta.Door("a", 0)
	for i, tt := range []struct {
		what string
		o    *steer.Outcome
		told bool
	}{
		{"cold", went(1, "canary", at(pod, 9*time.Second, time.Second)), false},
		{"warm", went(2, "canary", at(pod, 10*time.Second, time.Second)), true},
		{"the other pod, cold", went(3, "canary", at(late, 69*time.Second, time.Second)), false},
		{"cold, an error", went(4, "canary", at(late, 61*time.Second, ms), status(500)), true},
		{"cold, without an answer", went(5, "canary", at(late, 61*time.Second, hung+1), flying), true},
		{"stable does not settle", went(6, "stable", at(netip.AddrPort{}, 0, time.Second)), true},
	} {
		if got := d.Add(tt.o); (got != nil) != tt.told {
			t.Errorf("%d, %s: %+v", i, tt.what, got)
		}
	}
	d.Mark(6, t0)
	want := verdict.Counts{Cells: []verdict.Cell{{
		Weight: 0.05, Canary: verdict.Tally{Unrated: 2, Closed: [5]int64{0, 0, 0, 0, 1}}, Stable: verdict.Tally{Closed: [5]int64{0, 0, 0, 0, 1}},
	}}}
	if d := cmp.Diff(want, ta.Take(t0)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
