package verdict

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// late judges, as alone does, a canary that has all requests: by how long its answers take.
// What they are compared with is of another time. With a third more requests than before, a
// healthy service may easily have ten times as many over its 99 %, and so it has while all its
// caches meet the load at once; and nothing that is beside it tells why. So what is bet against
// is not that the canary is no slower than stable was, of which E would tell nothing sound, but
// that no more than half of its answers take longer than 99 % of stable's did, or twice as many
// as stable had over that since then, if that is more.
//
// No service that is as quick as before comes near that, however badly 100 requests tell the
// 99 %: that half of all are over the largest but one of a hundred has a probability of 1e-28.
// One that is in trouble does, be the trouble its own or not, as with errors; so the first
// Config.Settle after it got all requests counts for nothing, and each stretch of lateFor may make
// a bet lateMost times as large at the most, which takes six of them with the usual weights: a
// trouble of half a minute convicts nobody. Fresh money is bet from the beginning of a stretch, since
// what the stretch has lost before would let it gain as much. A canary
// that is a little slower is found by comparing it with stable while both have requests, or not
// at all.
type late struct {
	From   time.Duration `json:"fromNs"` // when the canary had all requests first; -1 for never
	Wealth wealth        `json:"wealth"`
	Surge  surge         `json:"surge"`
	Bound  float64       `json:"bound,omitempty"` // 0 until the first request that is judged
	Slow   int64         `json:"slow,omitempty"`
	N      int64         `json:"n,omitempty"`
}

const (
	lateBound = 0.5
	// lateOver is the quantile of stable's over which an answer is late.
	lateOver = 2
	lateFor  = 10 * time.Second
	lateMost = 10
)

// lateBets are how much of what is left above the bound the canary has: a part of its answers
// more than is allowed, most of them, all.
var lateBets = []float64{0.3, 0.6, 0.95}

func lateShare() (share []float64) {
	for range lateBets {
		share = append(share, -math.Log(float64(len(lateBets))))
	}
	return share
}

func (b bettor) startLate() *late { return &late{From: -1, Wealth: b.start()} }

// overdue is how many of the requests that are known, and went well, were over the quantile, and
// how many were not.
func (t Tally) overdue() (slow, quick int64) {
	for band, n := range t.Closed {
		if band > lateOver {
			slow += sane(n)
		} else {
			quick += sane(n)
		}
	}
	return slow, quick
}

// lateTruth is the bound: for a canary beside which stable has had these.
func lateTruth(stable Tally) float64 {
	slow, quick := stable.overdue()
	if slow+quick < enough {
		return lateBound
	}
	return min(max(lateBound, 2*float64(slow+1)/float64(slow+quick)), 0.9)
}

func (j *Judge) betLate(s *core, canary Tally) {
	if s.Late == nil {
		return
	}
	l := s.Late
	if l.From < 0 {
		l.From = s.Now
	}
	slow, quick := canary.overdue()
	if slow+quick == 0 || s.Now-l.From < j.config.Settle {
		return
	}
	if l.Bound == 0 { // by what was known before
		l.Bound = lateTruth(s.Stable)
	}
	l.Slow, l.N = sane(l.Slow+slow), sane(l.N+slow+quick)
	l.Surge.begin(int64(s.Now/lateFor), &l.Wealth)
	for i, part := range lateBets {
		event, none := lateBet(l.Bound, part)
		by := float64(float64(slow)*event) + float64(float64(quick)*none)
		l.Wealth.move(i, l.Surge.hold(i, by, math.Log(lateMost)))
	}
}

// lateBet is by how much the logarithm of a bet moves for an answer that is late, and for one
// that is not. Its mean is 1 where the bound is the rate, and less below it.
func lateBet(bound, part float64) (event, none float64) {
	p := bound + float64((1-bound)*part)
	return math.Log(p / bound), math.Log1p(-p) - math.Log1p(-bound)
}

func (l *late) clone() *late {
	if l == nil {
		return nil
	}
	out := *l
	out.Wealth.Logs, out.Surge.Moved = slices.Clone(l.Wealth.Logs), slices.Clone(l.Surge.Moved)
	return &out
}

// top is not less than the largest part of what is owned.
func (l *late) top() float64 {
	if l == nil {
		return 0
	}
	return l.Wealth.top()
}

// most says whether a canary that is convicted is so by this more than by anything else.
func (l *late) most(s *core) bool {
	if l == nil {
		return false
	}
	mine := l.Wealth.log()
	return mine > s.Errors.log() && (s.Alone == nil || mine > s.Alone.Wealth.log()) &&
		!slices.ContainsFunc(s.Slow[:], func(w wealth) bool { return len(w.Logs) > 0 && w.log() >= mine })
}

func (l *late) String() string {
	return fmt.Sprintf("%d of %d answers took longer than 99 %% of stable's did, since it has all requests; %s %% are allowed", l.Slow, l.N, Number(100*l.Bound))
}
