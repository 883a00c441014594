package stream

import "time"

const (
	firstCap = 256 << 10 // under way at most before anything is known
	leastCap = 64 << 10  // and always

	// The queue that is allowed for: quietSlack while only bulk is sent, because
	// relays that always find something to do work with fewer system calls, else
	// slackRounds idle round trips, within bounds.
	quietSlack  = 40 * time.Millisecond
	minSlack    = time.Millisecond
	maxSlack    = 4 * time.Millisecond
	slackRounds = 6
	// quietAfter is how long nothing small must have been sent beside bulk for
	// that, and busyAfter how many small things in busyWithin end it.
	quietAfter = 5 * time.Second
	busyAfter  = 3
	busyWithin = 3 * time.Second

	// An epoch, over which a rate is taken, is a round trip but not less than
	// this, because bytes come in bursts.
	minEpoch  = 10 * time.Millisecond
	riseShare = 4 // the part of a new rate in the average when it is higher
	fallShare = 8 // and when it is lower

	// drainEvery is how often the chain is drained to see its base round trip,
	// or drainRounds of these if that is longer.
	drainEvery   = time.Second
	drainRounds  = 64
	drainSamples = 4
	// quietDrains is how much less often that is done while only bulk is sent: what
	// the base may be wrong by is little beside quietSlack then, and a chain that was
	// drained takes a while to work with few system calls again.
	quietDrains = 4
	clipRounds  = 4 // of the least round trip; more is a hiccup

	minRTTAge = 10 * time.Second
	maxMarks  = 64
)

type phase uint8

const (
	startUp  phase = iota // the rate still grows with what is under way
	steady                // keep the chain just full
	draining              // let the chain run nearly empty
)

// governor decides how many bytes a session keeps under way on one transport.
//
// Between laptop and pod there are relays that buffer tens of megabytes. Who
// fills them gets no more through, but whatever is sent next waits behind it.
// So the governor measures how fast bytes are confirmed and how long a round
// trip takes while the chain holds little, and allows their product, a quarter
// more, and a few milliseconds' worth on top. That is self-correcting: a chain
// that got faster confirms the surplus at once, which raises the rate. Rates of
// times in which there was not enough to send only count when they are higher.
// The base round trip is an average under load, not a minimum, because on busy
// machines the two differ by more than any queue, and too little under way
// would keep the rate, and with it the allowance, down for good.
//
// It reads no clock: now is the time since any fixed moment. Positions are those
// of the replay log.
type governor struct {
	most  int // never more under way
	phase phase
	cap   int

	acked   uint64
	epoch   time.Duration // since when acked has moved on from epochAt
	epochAt uint64
	starved bool    // there was not enough to send in this epoch
	rate    float64 // bytes per second, an average
	best    float64 // in start-up
	flat    int     // epochs in which best did not grow

	base    time.Duration // round trip of the chain while it holds little
	min     [2]time.Duration
	minAt   time.Duration // when min[0] was begun
	lastLow time.Duration // when base was last measured
	samples int           // of this draining

	busy    bool // small things are sent beside bulk
	smalls  int  // of them since smallAt
	smallAt time.Duration
	until   time.Duration // when busy ends

	marks []mark // questions without an answer yet, oldest first
	asked uint64 // position up to which the peer was asked
}

// mark is a question: has everything up to pos arrived?
type mark struct {
	id       uint64
	pos      uint64
	at       time.Duration
	underWay int
}

// newGovernor starts at position pos of the log.
func newGovernor(most int, now time.Duration, pos uint64) governor {
	return governor{
		most: most, cap: min(firstCap, most), starved: true,
		acked: pos, asked: pos, epoch: now, epochAt: pos, minAt: now, lastLow: now,
	}
}

// limit is how many bytes may be under way.
func (g *governor) limit() int {
	if g.phase == draining {
		return min(g.cap, g.low())
	}
	return g.cap
}

// low is so little that it can't make a queue.
func (g *governor) low() int { return max(leastCap, g.product()/8) }

// product is how much the chain holds while no queue is in it.
func (g *governor) product() int { return int(g.rate * g.base.Seconds()) }

// frame is how large the frames of a stream may be, so that none is long before
// the next.
func (g *governor) frame() int {
	const unit = 4 << 10
	return min(max(g.limit()/8/unit*unit, 2*unit), maxPayload) - headerSize
}

// batch is about how much is handed to the transport at once, and how much may
// wait for that.
func (g *governor) batch() int { return min(max(g.limit()/8, maxPayload), 4*maxPayload) }

// due tells whether it is time to ask the peer how far it is, with pos the end
// of what was sent.
func (g *governor) due(pos uint64) bool {
	return pos-g.asked >= uint64(min(max(g.limit()/8, leastCap/8), 16*maxPayload))
}

// ask notes a question that is sent after everything up to pos.
func (g *governor) ask(now time.Duration, pos uint64) (id uint64) {
	if len(g.marks) == maxMarks {
		g.marks = append(g.marks[:0], g.marks[1:]...)
	}
	id = uint64(now) + 1
	if n := len(g.marks); n > 0 && g.marks[n-1].id >= id {
		id = g.marks[n-1].id + 1
	}
	g.marks = append(g.marks, mark{id: id, pos: pos, at: now, underWay: int(pos - g.acked)})
	g.asked = pos
	return id
}

// answer takes the answer to a question and returns the round trip time. It
// reports false for one that it did not ask, or that a later one has overtaken.
func (g *governor) answer(now time.Duration, id uint64) (rtt time.Duration, ok bool) {
	for i, m := range g.marks {
		if m.id == id {
			g.marks = append(g.marks[:0], g.marks[i+1:]...)
			g.sample(now, m)
			return now - m.at, true
		}
	}
	return 0, false
}

func (g *governor) sample(now time.Duration, m mark) {
	rtt := now - m.at
	least := g.leastRTT(now, rtt)
	low := g.low()
	if m.underWay > low+low/4 {
		if g.phase == startUp && g.base > 0 && rtt > 4*g.base+2*g.slack(now) {
			g.drain(now)
		}
		return
	}
	g.lastLow = now
	rtt = min(rtt, clipRounds*least)
	if g.base == 0 {
		g.base = rtt
	} else {
		g.base += (rtt - g.base) / drainSamples
	}
	if g.phase == draining {
		if g.samples++; g.samples >= drainSamples || g.base > minEpoch {
			g.phase = steady
		}
	}
}

// leastRTT returns the least round trip of the last ten to twenty seconds.
func (g *governor) leastRTT(now, rtt time.Duration) time.Duration {
	if now-g.minAt > minRTTAge {
		g.min[0], g.min[1], g.minAt = 0, g.min[0], now
	}
	if g.min[0] == 0 || rtt < g.min[0] {
		g.min[0] = rtt
	}
	if g.min[1] == 0 {
		return g.min[0]
	}
	return min(g.min[0], g.min[1])
}

// confirm takes the position up to which the peer has everything. underWay is
// what is left of what was sent, waiting that there is more to send.
func (g *governor) confirm(now time.Duration, pos uint64, underWay int, waiting bool) {
	n := int(pos - g.acked)
	g.acked = pos
	if !waiting && underWay < g.limit()/2 || g.phase == draining {
		g.starved = true
	}
	if g.phase == startUp && !g.starved {
		g.cap = min(g.cap+n, g.most)
	}
	if now-g.epoch >= max(minEpoch, g.base) {
		g.endEpoch(now)
	}
}

func (g *governor) endEpoch(now time.Duration) {
	rate := float64(g.acked-g.epochAt) / (now - g.epoch).Seconds()
	starved := g.starved
	g.epoch, g.epochAt, g.starved = now, g.acked, false
	switch {
	case starved && rate <= g.rate:
		return
	case g.phase == startUp:
		g.rate = max(g.rate, rate)
	case rate > g.rate:
		g.rate += (rate - g.rate) / riseShare
	default:
		g.rate += (rate - g.rate) / fallShare
	}
	switch {
	case g.phase == startUp && !starved:
		g.grow(now, rate)
	case g.phase == steady:
		g.cap = g.allowance(now)
		interval := max(drainEvery, drainRounds*g.base)
		if g.quiet(now) {
			interval *= quietDrains
		}
		if !starved && now-g.lastLow > interval {
			g.drain(now)
		}
	}
}

// grow ends start-up when more under way does not bring more through.
func (g *governor) grow(now time.Duration, rate float64) {
	if rate > g.best*1.25 {
		g.best, g.flat = rate, 0
		return
	}
	if g.flat++; g.flat >= 3 {
		g.drain(now)
	}
}

func (g *governor) drain(now time.Duration) {
	g.phase, g.samples = draining, 0
	g.cap = g.allowance(now)
}

// interact notes that something small was sent, which must not wait behind bulk.
func (g *governor) interact(now time.Duration) {
	if g.smalls++; now-g.smallAt > busyWithin {
		g.smalls, g.smallAt = 1, now
	}
	quiet := g.quiet(now)
	if quiet && g.smalls < busyAfter {
		return
	}
	g.busy, g.until = true, now+quietAfter
	if quiet && g.phase == steady {
		g.cap = g.allowance(now)
	}
}

func (g *governor) quiet(now time.Duration) bool { return !g.busy || now > g.until }

// slack is the queue that is allowed for, so that a hiccup of one relay does not
// leave the next without work.
func (g *governor) slack(now time.Duration) time.Duration {
	if g.quiet(now) {
		return quietSlack
	}
	least := g.min[0]
	if g.min[1] > 0 {
		least = min(least, g.min[1])
	}
	return min(max(slackRounds*least, minSlack), maxSlack)
}

func (g *governor) allowance(now time.Duration) int {
	want := g.rate * (g.base + g.base/4 + g.slack(now)).Seconds()
	return int(min(max(want, leastCap), float64(g.most)))
}
