package tally

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

// copyOf is the outcome of a copy that went well, and original of the request.
func copyOf(id uint64, change ...func(*steer.Outcome)) *steer.Outcome {
	return went(id, "canary", append([]func(*steer.Outcome){func(o *steer.Outcome) { o.Copy = true }}, change...)...)
}

func original(id uint64, change ...func(*steer.Outcome)) *steer.Outcome {
	return went(id, "stable", append([]func(*steer.Outcome){func(o *steer.Outcome) { o.Copied = true }}, change...)...)
}

func cancelled(o *steer.Outcome) { o.Cancelled, o.Status = true, 0 }

// lasts is how long an answer took, with its head at the end.
func lasts(d time.Duration) func(*steer.Outcome) {
	return func(o *steer.Outcome) { o.Latency, o.Took = d, d }
}

func running(o *steer.Outcome) {
	o.Running, o.Status, o.Latency, o.Took = true, 0, hung+time.Millisecond, hung+time.Millisecond
}

func late(o *steer.Outcome) { // the end of one that was running
	o.Latency, o.Took, o.Told = hung+3*time.Millisecond, hung+3*time.Millisecond, hung+time.Millisecond
}

// pairsIn is the cell of pairs in counts, nil if there is none.
func pairsIn(c verdict.Counts) *verdict.Cell {
	for _, cell := range c.Cells {
		if cell.Copies {
			return &cell
		}
	}
	return nil
}

func TestPairsCount(t *testing.T) {
	const ms = time.Millisecond
	fails, q := status(500), [4]time.Duration{10 * ms, 20 * ms, 40 * ms, 80 * ms}
	well := verdict.Tally{Closed: [5]int64{1}}
	for name, tt := range map[string]struct {
		config         func(*verdict.Config)
		all            []*steer.Outcome
		canary, stable verdict.Tally // after the first look
		then, later    verdict.Tally // what comes of the canary and of stable after the last
		moved          string
	}{
		"both go well":                 {all: []*steer.Outcome{original(1), copyOf(1)}, canary: well},
		"the copy is the first to end": {all: []*steer.Outcome{copyOf(1), original(1)}, canary: well},
		"the copy fails":               {all: []*steer.Outcome{original(1), copyOf(1, fails)}, canary: verdict.Tally{Failed: 1}, moved: "copy: HTTP 500"},
		"the original fails":           {all: []*steer.Outcome{original(1, fails), copyOf(1)}, canary: well, stable: verdict.Tally{Failed: 1}},
		"both fail":                    {all: []*steer.Outcome{original(1, fails), copyOf(1, fails)}, canary: verdict.Tally{Repeated: 1}, stable: verdict.Tally{Repeated: 1}},
		"what was done already is no error": {
			all: []*steer.Outcome{original(1, status(201)), copyOf(1, status(409))}, canary: well},
		"the copy fails, and its original is not known yet": {all: []*steer.Outcome{copyOf(1, fails)}, canary: verdict.Tally{Failed: 1}, moved: "copy: HTTP 500"},
		"the original fails, and its copy is not known yet": {all: []*steer.Outcome{original(1, fails)}, stable: verdict.Tally{Failed: 1}},
		"the copy never answers": {all: []*steer.Outcome{original(1), copyOf(1, running), copyOf(1, late, cancelled)},
			canary: verdict.Tally{Failed: 1}, moved: "copy: no answer in 30s"},
		"neither answers":                         {all: []*steer.Outcome{original(1, running), copyOf(1, running)}, canary: verdict.Tally{Repeated: 1}, stable: verdict.Tally{Repeated: 1}},
		"the client left":                         {all: []*steer.Outcome{original(1, cancelled), copyOf(1)}, canary: well, stable: verdict.Tally{Failed: 1}},
		"the client left, and the copy fails":     {all: []*steer.Outcome{original(1, cancelled), copyOf(1, fails)}, canary: verdict.Tally{Repeated: 1}, stable: verdict.Tally{Repeated: 1}},
		"the copy was cut":                        {all: []*steer.Outcome{original(1), copyOf(1, cancelled)}},
		"it was cut where the original fails":     {all: []*steer.Outcome{original(1, fails), copyOf(1, cancelled)}, stable: verdict.Tally{Failed: 1}},
		"it was cut where the client left":        {all: []*steer.Outcome{original(1, cancelled), copyOf(1, cancelled)}, stable: verdict.Tally{Failed: 1}},
		"nobody was there to get it":              {all: []*steer.Outcome{original(1, fails), copyOf(1, cancelled, func(o *steer.Outcome) { o.Tries, o.Pod = 0, netip.AddrPort{} })}},
		"only the original is known":              {all: []*steer.Outcome{original(1)}},
		"the copy is of a stream":                 {all: []*steer.Outcome{copyOf(1)}, then: well},
		"its pod is cold, and the original fails": {config: func(c *verdict.Config) { c.WarmUp = time.Hour }, all: []*steer.Outcome{original(1, fails), copyOf(1)}},
		"its pod is cold":                         {config: func(c *verdict.Config) { c.WarmUp = time.Hour }, all: []*steer.Outcome{original(1), copyOf(1, fails)}},
		"it is slow": {config: func(c *verdict.Config) { c.Quantiles = q }, all: []*steer.Outcome{original(1, lasts(15*ms)), copyOf(1, lasts(50*ms))},
			canary: verdict.Tally{Closed: [5]int64{3: 1}, Slow: [4]int64{1: 1, 2: 1}, SlowRepeated: [4]int64{1}}, stable: verdict.Tally{SlowRepeated: [4]int64{1}}, moved: "copy: slower than 99 % of stable's"},
		"the original is slow": {config: func(c *verdict.Config) { c.Quantiles = q }, all: []*steer.Outcome{original(1, lasts(30*ms)), copyOf(1)},
			canary: well, stable: verdict.Tally{Slow: [4]int64{1, 1}}},
		"it may be slower by the way to it": {config: func(c *verdict.Config) { c.Quantiles, c.Slack = q, 10*ms }, all: []*steer.Outcome{original(1), copyOf(1, lasts(15*ms))}, canary: well},
		"it is slow, and its client has left": {config: func(c *verdict.Config) { c.Quantiles = q }, all: []*steer.Outcome{original(1, cancelled), copyOf(1, lasts(15*ms))},
			canary: verdict.Tally{Closed: [5]int64{1: 1}, SlowRepeated: [4]int64{1}}, stable: verdict.Tally{Failed: 1, SlowRepeated: [4]int64{1}, Slow: [4]int64{1: 1, 2: 1, 3: 1}}},
		"its pod has just come": {config: func(c *verdict.Config) { c.Quantiles, c.Settle = q, time.Hour }, all: []*steer.Outcome{original(1), copyOf(1, lasts(50*ms))},
			canary: verdict.Tally{Unrated: 1}},
		"the copy is of a stream that ends": {all: []*steer.Outcome{copyOf(1, func(o *steer.Outcome) { o.Took = time.Hour })}},
	} {
		t.Run(name, func(t *testing.T) {
			change := []func(*verdict.Config){}
			if tt.config != nil {
				change = append(change, tt.config)
			}
			ta := newTally(change...)
			d := ta.Door("a", 0)
			first := t0.Add(firstLook)
			for _, o := range tt.all {
				if o.Took > hung {
					first = t0.Add(ta.lastLook())
				} else {
					d.Add(o)
				}
			}
			d.Mark(1, t0)
			if c := pairsIn(ta.Take(first.Add(-1))); c != nil {
				t.Errorf("before its time this counts: %+v", c)
			}
			for _, o := range tt.all {
				if o.Took > hung { // it is told of after those looks
					d.Add(o)
				}
			}
			check := func(what string, got verdict.Counts, canary, stable verdict.Tally) {
				t.Helper()
				c := pairsIn(got)
				if c == nil {
					c = &verdict.Cell{}
				}
				if diff := cmp.Diff([]verdict.Tally{canary, stable}, []verdict.Tally{c.Canary, c.Stable}); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
				if c.Canary.Failed > 0 && (len(c.Pods) != 1 || c.Pods[0] != verdict.PodErrors{Pod: "10.0.0.2", Errors: 1}) {
					t.Errorf("%s: the pods are %+v", what, c.Pods)
				}
			}
			got := ta.Take(first)
			check("at the first look", got, tt.canary, tt.stable)
			if why := (append(got.Moved, verdict.Moved{})[0]).Why; why != tt.moved {
				t.Errorf("moved by %q, want %q", why, tt.moved)
			}
			if len(got.Moved) > 0 && got.Moved[0].ID != "a/1/copy" {
				t.Errorf("it is called %s", got.Moved[0].ID)
			}
			check("at the last", ta.Take(t0.Add(ta.lastLook())), tt.then, tt.later)
			if len(d.pairing) > 0 {
				t.Errorf("this is waited for still: %+v", d.pairing[0])
			}
		})
	}
}

// What comes after a look counts at the next, and nothing counts twice.
func TestPairsAreLookedAtAgain(t *testing.T) {
	ta := newTally()
	d := ta.Door("a", 0)
	d.Add(copyOf(1, status(500)))
	if c := pairsIn(ta.Take(t0.Add(time.Second))); c == nil || c.Canary.Failed != 1 {
		t.Fatalf("got %+v", c)
	}
	d.Add(original(1, status(500), lasts(1500*time.Millisecond))) // too late for what has counted
	for _, after := range []time.Duration{1500 * time.Millisecond, 2 * time.Second, 4 * time.Second} {
		if c := pairsIn(ta.Take(t0.Add(after))); c != nil {
			t.Errorf("after %s this counts, too: %+v", after, c)
		}
	}
	d.Add(original(2, status(500)))
	if c := pairsIn(ta.Take(t0.Add(time.Second))); c == nil || c.Stable.Failed != 1 {
		t.Fatalf("got %+v", c)
	}
	d.Add(copyOf(2, status(500), lasts(3*time.Second)))
	if c := pairsIn(ta.Take(t0.Add(4 * time.Second))); c == nil || c.Canary.Failed != 0 || c.Canary.Repeated != 1 {
		t.Errorf("the copy is an error still, if no evidence: %+v", c)
	}
	// A door that is closed has its pairs counted, and is forgotten.
	d.Add(original(3))
	d.Close(3, t0)
	d.Add(copyOf(3))
	if c := pairsIn(ta.Take(t0.Add(time.Second))); c == nil || c.Canary.Closed[0] != 1 || len(ta.doors) != 0 {
		t.Errorf("%+v counts, %d doors are left", c, len(ta.doors))
	}
}

// What is overdue counts when that is told, and not once more when it ends.
func TestOverduePairsCountOnce(t *testing.T) {
	const hung = 2 * time.Second
	ta := newTally(func(c *verdict.Config) { c.Hung = hung })
	d := ta.Door("a", 0)
	const told = hung + time.Millisecond
	d.Add(original(1))
	d.Add(copyOf(1, running, lasts(told)))
	d.Add(copyOf(2))
	d.Add(original(2, running, lasts(told)))
	c := pairsIn(ta.Take(t0.Add(told)))
	if c == nil || c.Canary.Failed != 1 || c.Stable.Failed != 1 {
		t.Fatalf("got %+v", c)
	}
	late := func(o *steer.Outcome) { o.Told = told }
	d.Add(copyOf(1, status(504), lasts(hung+500*time.Millisecond), late))
	d.Add(original(2, status(504), lasts(hung+500*time.Millisecond), late))
	if c := pairsIn(ta.Take(t0.Add(ta.lastLook()))); c != nil || len(d.pairing) > 0 {
		t.Errorf("this counts, too: %+v, and %d pairs are waited for", c, len(d.pairing))
	}
}

// What was sent off before a door was opened makes no pairs: the other half may have come
// before it.
func TestPairsBeforeTheDoorCountForNothing(t *testing.T) {
	ta := newTally()
	d := ta.Door("a", 2)
	for id := range uint64(3) {
		d.Add(copyOf(id+1, status(500)))
	}
	if c := pairsIn(ta.Take(t0.Add(time.Second))); c == nil || c.Canary.Failed != 1 {
		t.Errorf("got %+v, want that of the third alone", c)
	}
}

// Where there are too many to wait for, neither half of the others counts.
func TestPairsAreBounded(t *testing.T) {
	ta := newTally()
	d := ta.Door("a", 0)
	for id := range uint64(mostPairs + 100) {
		d.Add(original(id + 1))
	}
	for id := range uint64(mostPairs + 100) {
		d.Add(copyOf(id+1, status(500)))
	}
	if c := pairsIn(ta.Take(t0.Add(time.Second))); c == nil || c.Canary.Failed != mostPairs {
		t.Errorf("got %+v", c)
	}
	d.Add(original(mostPairs + 101))
	d.Add(copyOf(mostPairs+101, status(500)))
	if c := pairsIn(ta.Take(t0.Add(time.Second))); c == nil || c.Canary.Failed != 1 {
		t.Errorf("got %+v", c)
	}
}

// Originals and copies are counted as requests as if there were no copies.
func TestOriginalsCountAsRequests(t *testing.T) {
	ta := newTally()
	d := ta.Door("a", 0)
	for id := range uint64(3) {
		d.Add(copyOf(id + 1))
	}
	if r := d.Add(original(1, status(500))); r == nil || r.Canary || r.Weight != 0.05 {
		t.Errorf("an error of an original is told as %+v", r)
	}
	d.Add(original(2))
	d.Mark(3, t0)
	wantClosed(t, "one is out", ta.Take(t0), 0, 0)
	d.Add(original(3))
	wantClosed(t, "all are known", ta.Take(t0), 2, 0)
}

// arrival is an outcome that a door tells at a time.
type arrival struct {
	at time.Duration
	o  *steer.Outcome
}

type arrivals []arrival

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].at < a[j].at }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)        { *a = append(*a, x.(arrival)) }
func (a *arrivals) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// simulation is a release in which both versions are as good, and all is copied.
type simulation struct {
	config verdict.Config
	lasts  time.Duration
	// half gives one of a pair: when it ends, and how. Time is set.
	half   func(r *rand.Rand, o *steer.Outcome)
	before func(*Door) // what is done before counts are taken, nil for nothing
}

// convicted is in how many of some runs the version is.
func (m *simulation) convicted(t *testing.T, runs int) (n int) {
	t.Helper()
	const doors, perSecond, tick = 4, 20, 250 * time.Millisecond
	j, err := verdict.New(m.config)
	if err != nil {
		t.Fatal(err)
	}
	for run := range runs {
		r := rand.New(rand.NewPCG(uint64(run), 7))
		ta := newTally(func(c *verdict.Config) { *c = m.config })
		var all []*Door
		var coming arrivals
		for range doors {
			all = append(all, ta.Door("a", 0))
		}
		s, bad, id := j.Start(t0), false, uint64(0)
		for now := time.Duration(0); now < m.lasts && !bad; now += tick {
			for range doors * int(perSecond*tick/time.Second) {
				sent := now + time.Duration(r.Int64N(int64(tick)))
				id++
				for _, o := range []*steer.Outcome{original(id), copyOf(id)} {
					o.Time = t0.Add(sent)
					m.half(r, o)
					heap.Push(&coming, arrival{sent + o.Took, o})
				}
			}
			for len(coming) > 0 && coming[0].at <= now+tick {
				o := heap.Pop(&coming).(arrival).o
				all[o.ID%doors].Add(o)
			}
			if m.before != nil {
				for _, d := range all {
					m.before(d)
				}
			}
			at := t0.Add(now + tick)
			counts := ta.Take(at)
			var v verdict.Verdict
			s, v = j.Next(s, verdict.Observation{At: at, Counts: &counts})
			bad = v.Is == verdict.Bad
		}
		if bad {
			n++
		}
	}
	return n
}

// onlyCopies is a config in which nothing but pairs is judged.
var onlyCopies = verdict.Config{Hung: hung, Copies: true, Weights: verdict.Weights{Copies: 1}, Alpha: 0.01}

// In an outage half of the requests to both versions fails, at once, and the version that
// gets copies takes seconds for the others: what goes well is known later than what fails.
// Counted as it comes that would convict it.
func TestSlowSuccessesConvictNobody(t *testing.T) {
	const runs = 200
	m := simulation{config: onlyCopies, lasts: 12 * time.Second, half: func(r *rand.Rand, o *steer.Outcome) {
		switch fails := r.Float64() < 0.5; {
		case fails:
			o.Status = 500
		case o.Copy:
			lasts(1700 * time.Millisecond)(o)
		}
	}}
	healthy := m.convicted(t, runs)
	m.before = func(d *Door) { // as soon as one of a pair has failed, or both have ended
		for _, p := range d.pairing {
			if p.copied.known && p.original.known {
				p.look = 0
			}
		}
	}
	atOnce := m.convicted(t, runs)
	t.Logf("of %d healthy versions %d are convicted, and %d if pairs count as they come", runs, healthy, atOnce)
	if healthy > 8 { // 1 %, and three sigma more
		t.Errorf("%d of %d healthy versions are convicted, with alpha 0.01", healthy, runs)
	}
	if atOnce < runs/10 {
		t.Errorf("counted as they come only %d are: the simulation shows nothing", atOnce)
	}
}

// Something that both versions depend on hangs for 5 s in 2 % of the calls, and then fails.
// Clients wait for 2 s, so the originals are ended before that, and nobody ends the copies.
func TestClientsWhoLeaveConvictNobody(t *testing.T) {
	const runs = 200
	quantiles := onlyCopies
	quantiles.Quantiles = [4]time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond}
	quantiles.Weights.Latency = 1
	for name, tt := range map[string]struct {
		config verdict.Config
		rate   float64
		ends   func(*steer.Outcome) // how it ends after 5 s
	}{
		"it fails":              {onlyCopies, 0.02, status(504)},
		"it is a call":          {onlyCopies, 0.02, func(o *steer.Outcome) { o.GRPC = 4 }},
		"it goes well":          {quantiles, 0.3, func(*steer.Outcome) {}},
		"it fails and was slow": {quantiles, 0.02, status(504)},
	} {
		t.Run(name, func(t *testing.T) {
			m := simulation{config: tt.config, lasts: 40 * time.Second, half: func(r *rand.Rand, o *steer.Outcome) {
				switch hangs := r.Float64() < tt.rate; {
				case hangs && o.Copy:
					lasts(5 * time.Second)(o)
					tt.ends(o)
				case hangs:
					lasts(2 * time.Second)(o)
					cancelled(o)
				}
			}}
			if n := m.convicted(t, runs); n > 8 { // 1 %, and three sigma more
				t.Errorf("%d of %d healthy versions are convicted, with alpha 0.01", n, runs)
			}
			leaves := m.half
			m.half = func(r *rand.Rand, o *steer.Outcome) {
				if leaves(r, o); o.Cancelled && r.Float64() < 0.95 { // stable hangs less often
					*o = *original(o.ID, func(n *steer.Outcome) { n.Time = o.Time })
				}
			}
			n := m.convicted(t, runs/10)
			t.Logf("of %d worse versions %d are convicted", runs/10, n)
			if n < runs/20 {
				t.Errorf("of %d worse versions only %d are convicted", runs/10, n)
			}
		})
	}
}
