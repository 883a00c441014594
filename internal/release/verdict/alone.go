package verdict

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// alone judges a canary that has all requests: with none of stable's beside them there is
// nothing to compare. What is bet against is that it fails no more often than a bound,
// which is Config.MaxErrors, or twice the rate at which stable failed before if that is
// more. So a trouble that is not the version's own tells against it, too; that a second's
// errors say no more than so much keeps a short one from convicting it.
//
// Both kinds of requests count when all that were sent off in the same interval have
// ended: an error that counted before the successes beside it would look like more.
type alone struct {
	Wealth wealth  `json:"wealth"`
	Surge  surge   `json:"surge"`
	Bound  float64 `json:"bound,omitempty"` // 0 until the first request that is judged
	Bad    int64   `json:"bad,omitempty"`
	N      int64   `json:"n,omitempty"`
}

// atMost is how many times as large the requests of one second may make a bet on them.
const atMost = 20

// enough is how many of stable's requests tell how often it fails.
const enough = 100

func (j *Judge) betAlone(s *core, canary Tally) {
	if !j.config.Alone || s.Alone == nil {
		return
	}
	bad, well := sane(canary.Settled), canary.ok()
	if bad == 0 && well == 0 {
		return
	}
	a := s.Alone
	if a.Bound == 0 { // by what was known before
		a.Bound = min(max(j.config.MaxErrors, 2*rate(s.Stable)), 0.5)
	}
	a.Bad, a.N = sane(a.Bad+bad), sane(a.N+bad+well)
	a.Surge.begin(int64(s.Now/time.Second), &a.Wealth)
	for i, b := range ratios {
		p := min(a.Bound*b.ratio, 0.95)
		by := float64(float64(bad)*math.Log(p/a.Bound)) + float64(float64(well)*(math.Log1p(-p)-math.Log1p(-a.Bound)))
		a.Wealth.move(i, a.Surge.hold(i, by, math.Log(atMost)))
	}
}

// rate is how often a version has failed, and rather more than that; 0 if too little is
// known.
func rate(t Tally) float64 {
	n := total(t)
	if n < enough {
		return 0
	}
	return float64(t.Failed+t.Repeated+1) / float64(n)
}

// aloneShare spreads the stake over the bets.
func aloneShare() []float64 {
	sum := 0.0
	for _, b := range ratios {
		sum += b.share
	}
	var out []float64
	for _, b := range ratios {
		out = append(out, math.Log(b.share/sum))
	}
	return out
}

func (a alone) clone() alone {
	a.Wealth.Logs, a.Surge.Moved = slices.Clone(a.Wealth.Logs), slices.Clone(a.Surge.Moved)
	return a
}

// top is not less than the largest part of what is owned.
func (a *alone) top() float64 {
	if a == nil {
		return 0
	}
	return a.Wealth.top()
}

// most says whether a canary that is convicted is so by this more than by anything else.
func (a *alone) most(s *core) bool {
	if a == nil {
		return false
	}
	mine := a.Wealth.log()
	return mine > s.Errors.log() && !slices.ContainsFunc(s.Slow[:], func(w wealth) bool { return len(w.Logs) > 0 && w.log() >= mine })
}

func (a alone) String() string {
	return fmt.Sprintf("%s in %d requests since it has all of them, where %s %% are allowed", count(a.Bad, "error"), a.N, Number(100*a.Bound))
}

// Side is what became of the requests to one version.
type Side struct {
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors,omitempty"`
	// Above and Slow are those of Rated that took longer than half of stable's did before
	// the canary got any, and than 99 % of them.
	Above int64 `json:"above,omitempty"`
	Slow  int64 `json:"slow,omitempty"`
	Rated int64 `json:"rated,omitempty"`
}

// Sides are what became of all requests that were counted.
func (s State) Sides() (stable, canary Side) { return side(s.Stable), side(s.Canary) }

func side(t Tally) Side {
	out := Side{Requests: total(t), Errors: t.Failed + t.Repeated, Above: t.Slow[0] + t.SlowRepeated[0], Slow: t.Slow[2] + t.SlowRepeated[2]}
	for _, n := range t.Closed {
		out.Rated += n
	}
	// What is slow is counted at once, and what is closed when all beside it are.
	out.Above = min(out.Above, out.Rated)
	out.Slow = min(out.Slow, out.Rated)
	return out
}
