package tally

import (
	"slices"
	"time"

	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// firstLook is at which age a pair is looked at, and then at twice that, and so on.
	firstLook = time.Second
	// grace is how long after Config.Hung a pair is looked at last: by then it is told who
	// has no answer.
	grace = time.Second
	// mostPairs is how many of a door are waited for. A pair that comes when there are more
	// tells nothing, and nor do those with a lower number of which neither half has come yet.
	mostPairs = 8192
)

// pair is a request that the canary got a copy of, as far as both are known.
//
// It counts at ages that are fixed, by what is known then: at the first look at which one of
// them has failed, that one counts, or both do; and at the first at which both have ended, the
// copy counts for what it was. If pairs counted as soon as they ended, errors that come
// quickly would be seen before the successes that go with them, and a trouble of both versions
// would look like one of the version that is slower to answer well.
//
// An original may be ended by its client, and a copy has none: it runs on, and comes to the
// error, or to the delay, that its original was spared. A copy is cut where its original was
// answered before all of it was read, and an original is not where the copy was. So an
// original that was ended counts as one that may have failed, and been slow, and a copy that
// was ended as one that has not. Both can only lower E.
type pair struct {
	id               uint64
	at               time.Time     // it was sent off
	look             time.Duration // at this age it is looked at next
	copied, original half
	bet              bool // that one of them has failed has counted
	failed           bool // that the copy has, has counted
}

// half is what is known of one of the two.
type half struct {
	known   bool // it has ended, or is over Config.Hung
	void    bool // it tells nothing, which was decided when it was sent: its pod was cold, or there was none
	cut     bool // it was ended from outside: an original by its client, a copy by the door
	failed  bool
	why     string // it has
	latency time.Duration
	unrated bool
	pod     string
}

// pairs takes in an outcome of one of a pair.
func (d *Door) pairs(o *steer.Outcome) {
	p := d.pair(o)
	switch {
	case p == nil:
	case o.Copy:
		d.learn(&p.copied, o)
	default:
		d.learn(&p.original, o)
	}
}

// pair is the one that an outcome is of, nil if nobody waits for it, or need not yet.
func (d *Door) pair(o *steer.Outcome) *pair {
	i, known := slices.BinarySearchFunc(d.pairing, o.ID, func(p *pair, id uint64) int {
		switch {
		case p.id < id:
			return -1
		case p.id > id:
			return 1
		}
		return 0
	})
	if known {
		return d.pairing[i]
	}
	hung := d.t.config.Hung
	told := hung > 0 && o.Told > hung // that it is overdue: it has counted, or never will
	if told || o.Running && o.Latency <= hung || o.Took > d.t.lastLook() || o.ID <= d.skipped {
		return nil
	}
	if len(d.pairing) >= mostPairs {
		d.skipped = o.ID // and its other half
		return nil
	}
	p := &pair{id: o.ID, at: o.Time, look: d.t.nextLook(o.Took)}
	d.pairing = slices.Insert(d.pairing, i, p)
	return p
}

// learn takes in what became of a half.
func (d *Door) learn(h *half, o *steer.Outcome) {
	hung := d.t.config.Hung
	r := d.request(o)
	if r == nil || o.Copy && o.Cancelled && o.Tries == 0 {
		h.known, h.void = true, true
		return
	}
	class := verdict.Classify(r.Answer)
	overdue := hung > 0 && o.Latency > hung
	switch {
	case class == verdict.Running && !overdue, h.failed:
		return
	case overdue:
		h.failed, h.why = true, "no answer in "+hung.String()
	case class == verdict.Cancelled:
		h.cut = true
	case class == verdict.Failed:
		h.failed, h.why = true, r.Answer.String()
	}
	h.known, h.latency, h.unrated, h.pod = true, o.Latency, r.Unrated, r.Pod
}

// lastLook is the age at which nobody waits any more.
func (t *Tally) lastLook() time.Duration { return max(t.config.Hung, firstLook) + grace }

// nextLook is the first age from one on at which pairs are looked at.
func (t *Tally) nextLook(age time.Duration) time.Duration {
	look := firstLook
	for look < age {
		look *= 2
	}
	return min(look, t.lastLook())
}

// settle counts the pairs that are to be looked at by now.
func (d *Door) settle(out *verdict.Counts, now time.Time) {
	all := sums{Cell: verdict.Cell{Weight: 0.5, Copies: true}}
	d.pairing = slices.DeleteFunc(d.pairing, func(p *pair) bool {
		age := now.Sub(p.at)
		if age < p.look {
			return false
		}
		p.look = d.t.nextLook(age + 1)
		return all.count(p, d, age >= d.t.lastLook())
	})
	if all.Canary != (verdict.Tally{}) || all.Stable != (verdict.Tally{}) {
		*out = verdict.Merge(*out, verdict.Counts{Cells: []verdict.Cell{all.Cell}, Moved: all.moved})
	}
}

// sums are what pairs have come to.
type sums struct {
	verdict.Cell
	moved []verdict.Moved
}

// move notes that a copy is evidence against the canary.
func (c *sums) move(p *pair, d *Door, why string) {
	id := d.ID(&steer.Outcome{ID: p.id, Copy: true})
	c.moved = append(c.moved, verdict.Moved{ID: id, Pod: p.copied.pod, Why: "copy: " + why, Elapsed: p.copied.latency})
}

// count looks at a pair, and says whether that is over.
func (c *sums) count(p *pair, d *Door, last bool) (over bool) {
	a, b := &p.copied, &p.original
	other := b.failed || b.cut
	if (a.failed || other) && !a.void && !p.bet {
		p.bet, p.failed = true, a.failed
		switch {
		case a.failed && other:
			c.Canary.Repeated++
			c.Stable.Repeated++
		case a.failed:
			c.Canary.Failed++
			if a.pod != "" {
				c.Pods = append(c.Pods, verdict.PodErrors{Pod: a.pod, Errors: 1})
			}
			c.move(p, d, a.why)
		default:
			c.Stable.Failed++
		}
	}
	if over = last || a.known && b.known; over && a.known && !a.void && !a.cut {
		c.rate(p, d)
	}
	return over
}

// rate counts a copy for what it was, and which of the two were slow.
func (c *sums) rate(p *pair, d *Door) {
	a, b := &p.copied, &p.original
	band := over(d.t.slowOf(true), a.latency)
	switch {
	case a.failed && !p.failed:
		c.Canary.Repeated++
	case a.failed:
	case a.unrated:
		c.Canary.Unrated++
	default:
		c.Canary.Closed[band]++
	}
	if a.unrated {
		return
	}
	other, slowOf := 0, d.t.slowOf(false)
	switch {
	case b.cut:
		other = len(slowOf)
	case b.known:
		other = over(slowOf, b.latency)
	}
	for k := range max(band, other) {
		switch slow, too := k < band, k < other; {
		case slow && too:
			c.Canary.SlowRepeated[k]++
			c.Stable.SlowRepeated[k]++
		case slow && !b.known:
			c.Canary.SlowRepeated[k]++
		case slow:
			c.Canary.Slow[k]++
			if k == 2 {
				c.move(p, d, "slower than 99 % of stable's")
			}
		default:
			c.Stable.Slow[k]++
		}
	}
}

// over is how many of some latencies one exceeds.
func over(slow []time.Duration, latency time.Duration) (n int) {
	for _, d := range slow {
		if latency > d {
			n++
		}
	}
	return n
}
