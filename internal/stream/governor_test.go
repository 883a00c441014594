package stream

import (
	"slices"
	"testing"
	"time"
)

// path is a simulated transport: one bottleneck, a way there and back, buffers
// without end.
type path struct {
	rate float64
	rtt  time.Duration

	gov  governor
	now  time.Duration
	free time.Duration // when the bottleneck is done with what it has
	sent uint64
	way  []event // answers on their way back, in order
	got  uint64

	queues []time.Duration // that stood before the bottleneck, at each step
}

type event struct {
	at  time.Duration
	pos uint64
	id  uint64 // of a question, 0 without
}

// run moves on to a time while the sender has rate bytes per second to send, all
// that may be under way if that is 0.
func (p *path) run(until time.Duration, offered float64) {
	budget, last := 0.0, p.now
	for p.now < until {
		for len(p.way) > 0 && p.way[0].at <= p.now {
			e := p.way[0]
			p.way = p.way[1:]
			p.got = e.pos
			p.gov.confirm(p.now, e.pos, int(p.sent-e.pos), offered == 0)
			if e.id != 0 {
				p.gov.answer(p.now, e.id)
			}
		}
		budget += offered * (p.now - last).Seconds()
		last = p.now
		for int(p.sent-p.got) < p.gov.limit() {
			n := p.gov.frame()
			if offered > 0 && budget < float64(n) {
				break
			}
			budget -= float64(n)
			p.send(n)
		}
		p.queues = append(p.queues, max(0, p.free-p.now))
		p.now += 20 * time.Microsecond
	}
}

func (p *path) send(n int) {
	p.free = max(p.free, p.now) + time.Duration(float64(n)/p.rate*float64(time.Second))
	p.sent += uint64(n)
	e := event{at: p.free + p.rtt, pos: p.sent}
	if k := len(p.way); k > 0 {
		e.at = max(e.at, p.way[k-1].at)
	}
	if p.gov.due(p.sent) {
		e.id = p.gov.ask(p.now, p.sent)
	}
	p.way = append(p.way, e)
}

// share runs for d and returns which part of what the path can carry was used.
func (p *path) share(d time.Duration) float64 {
	from := p.got
	p.queues = p.queues[:0]
	p.run(p.now+d, 0)
	return float64(p.got-from) / (p.rate * d.Seconds())
}

// interact sends small things beside the bulk.
func (p *path) interact() {
	for range busyAfter {
		p.gov.interact(p.now)
	}
}

// queued is the median queue of the last share.
func (p *path) queued() time.Duration {
	slices.Sort(p.queues)
	return p.queues[len(p.queues)/2]
}

func newPath(rate float64, rtt time.Duration) *path {
	p := &path{rate: rate, rtt: rtt, gov: newGovernor(16<<20, 0, 0)}
	p.send(100) // the first question finds the path empty
	p.gov.ask(0, p.sent)
	p.way[0].id = p.gov.marks[len(p.gov.marks)-1].id
	return p
}

func TestGovernorFillsThePathButNotItsBuffers(t *testing.T) {
	for _, test := range []struct {
		name  string
		rate  float64
		rtt   time.Duration
		start time.Duration // how long finding the rate may take
		queue time.Duration // beside small requests
	}{
		{"a machine of its own", 280e6, 200 * time.Microsecond, 50 * time.Millisecond, 2 * time.Millisecond},
		{"fast and far", 280e6, 20 * time.Millisecond, 400 * time.Millisecond, 15 * time.Millisecond},
		{"near", 50e6, 2 * time.Millisecond, 100 * time.Millisecond, 6 * time.Millisecond},
		{"far", 50e6, 20 * time.Millisecond, 400 * time.Millisecond, 15 * time.Millisecond},
		{"slow", 5e6, 40 * time.Millisecond, time.Second, 40 * time.Millisecond},
		{"very far", 20e6, 200 * time.Millisecond, 3 * time.Second, 120 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPath(test.rate, test.rtt)
			p.run(test.start, 0)
			if got := p.share(time.Second); got < 0.9 {
				t.Errorf("alone, bulk uses %.2f of the path", got)
			}
			if want := quietSlack + 2*test.queue; p.queued() > want {
				t.Errorf("alone, bulk makes a queue of %v, want at most %v", p.queued(), want)
			}
			p.interact()
			p.run(p.now+time.Second, 0)
			p.interact()
			if got := p.share(2 * time.Second); got < 0.9 {
				t.Errorf("beside small requests, bulk uses %.2f of the path", got)
			}
			if p.queued() > test.queue {
				t.Errorf("beside small requests, bulk makes a queue of %v, want at most %v", p.queued(), test.queue)
			}
		})
	}
}

func TestGovernorFollowsThePath(t *testing.T) {
	p := newPath(280e6, 500*time.Microsecond)
	p.run(time.Second, 0)
	p.interact()
	for _, step := range []struct {
		rate   float64
		rtt    time.Duration
		settle time.Duration
	}{
		{50e6, 500 * time.Microsecond, 500 * time.Millisecond},
		{280e6, 500 * time.Microsecond, 500 * time.Millisecond},
		{280e6, 5 * time.Millisecond, 12 * time.Second}, // another way: the old least round trip has to age
		{20e6, 5 * time.Millisecond, time.Second},
		{200e6, time.Millisecond, 2 * time.Second},
	} {
		p.rate, p.rtt = step.rate, step.rtt
		p.run(p.now+step.settle, 0)
		p.interact()
		if got := p.share(time.Second); got < 0.85 || p.queued() > 12*time.Millisecond {
			t.Errorf("%.0f MB/s, %v: %.2f of the path is used, with a queue of %v", step.rate/1e6, step.rtt, got, p.queued())
		}
	}
}

func TestGovernorDoesNotTakeLackOfDataForASlowPath(t *testing.T) {
	p := newPath(280e6, 500*time.Microsecond)
	p.run(time.Second, 0)
	p.interact()
	p.run(2*time.Second, 0)
	before := p.gov.rate
	p.run(15*time.Second, 2e6)
	if p.gov.rate < before*0.9 {
		t.Errorf("rate fell from %.0f to %.0f MB/s while little was sent", before/1e6, p.gov.rate/1e6)
	}
	if got := p.share(100 * time.Millisecond); got < 0.9 {
		t.Errorf("bulk that follows uses %.2f of the path", got)
	}
}

// A peer may answer what was never asked, in any order.
func TestGovernorIgnoresAnswersWithoutAQuestion(t *testing.T) {
	g := newGovernor(16<<20, 0, 0)
	for i := range 3 * maxMarks {
		g.ask(time.Duration(i), uint64(i))
	}
	if len(g.marks) > maxMarks {
		t.Errorf("%d questions are kept", len(g.marks))
	}
	last := g.marks[len(g.marks)-1].id
	for _, id := range []uint64{0, 1, last + 1, 1 << 63} {
		if _, ok := g.answer(time.Second, id); ok {
			t.Errorf("answer to %d was taken", id)
		}
	}
	if rtt, ok := g.answer(time.Second, last); !ok || rtt <= 0 {
		t.Errorf("answer to the last question: %v, %v", rtt, ok)
	}
	if _, ok := g.answer(time.Second, last); ok {
		t.Error("the same answer was taken twice")
	}
}

// Relays read 32 KiB at a time: what a frame of 64 KiB and its header have more goes
// through all of them as a piece of its own.
func TestFramesAreRoundWithTheirHeaders(t *testing.T) {
	for _, under := range []int{leastCap, 100_000, 256 << 10, 3 << 20, 16 << 20} {
		g := newGovernor(16<<20, 0, 0)
		g.cap = under
		if n := headerSize + g.frame(); n%(4<<10) != 0 || n > maxPayload {
			t.Errorf("%d under way: frames of %d bytes in all", under, n)
		}
	}
	if n := BulkWrite + 4*headerSize; n != 256<<10 || n > segmentSize {
		t.Errorf("a write of many bytes takes %d", n)
	}
}
