package verdict

import (
	"math"
	"slices"
	"time"
)

// copies judges a canary by the requests of stable that it gets a copy of. Each is a pair,
// and pairs in which one of the two fails are evidence: if the canary is no worse, it is the
// copy at most as often as the original, whatever both depend on and however that makes them
// fail together, or the one instead of the other, as where what may be done once is done
// twice. So successes tell nothing here, and a canary that is down is found after some 15
// copies and not after three; no client has met them.
//
// Slow copies are taken likewise, for the quantiles of the tail. But a copy has a longer way
// than its original, with a connection of its own, and where processors are busy each part of
// it is late now and then, which a pair shows where nothing else would. So it may be slow
// slowAllowed times as often, and it takes a version that is slow as a rule to be convicted.
//
// Where a ratio rho of the errors is allowed, P(copy fails) <= rho * P(original fails) for a
// pair, and there are more of them for each that fail as one. The bet that the canary fails r
// times as often as is allowed pays, with relative's terms for a weight of a half,
//
//	r*(rho+1)/(rho*r+1)   for a copy that fails alone
//	  (rho+1)/(rho*r+1)   for an original that does
//	  (rho+r)/(rho*r+1)   for both, which is 1 where rho is
//
// whose mean is 1 if P(copy alone) = rho*P(original alone) + (rho-1)*P(both), and less if the
// copy fails less often.
//
// The originals count as stable's requests, too, in the other signals: these are two bets on
// one thing, and not one bet made twice, since E is their average. Which pair counts when must
// not depend on how it ended: a pair counts at an age that was fixed before, by what is known
// of both then. Else those that end quickly would tell more than the others. Nor must whether
// it counts: a copy has no client who leaves, so an original whose client has left counts as
// one that failed, or was slow, and a copy that was cut does not hide that its original failed.
// Both can only lower E.
type copies struct {
	Errors wealth        `json:"errors"`
	Slow   [tails]wealth `json:"slow"` // over the last quantiles, from firstTail on
	Surges [tails]surge  `json:"surges,omitzero"`
	Canary Tally         `json:"canary,omitzero"` // the copies
	Stable Tally         `json:"stable,omitzero"` // the originals that failed or were slow
	Took   int64         `json:"took,omitempty"`  // copies until the verdict
}

const (
	firstTail = 2
	tails     = bands - 1 - firstTail
	// slowAllowed is how many times as often as originals copies may be slow.
	slowAllowed = 10
)

// copiesBets are the bets on pairs, of errors and of each quantile.
type copiesBets struct {
	errors bettor
	slow   [tails]bettor
	ofErr  []pairStep
	ofSlow [tails][]pairStep
}

// pairStep is by how much the logarithm of one bet moves for a pair.
type pairStep struct{ canary, stable, both float64 }

func pairBet(rho, r float64) pairStep {
	st := relative(0.5, rho, r)
	return pairStep{canary: st.canaryFail, stable: st.stableFail, both: math.Log((rho + r) / (rho*r + 1))}
}

func (j *Judge) betsOnCopies() (b copiesBets) {
	rho := j.config.Allowed
	b.errors.share = aloneShare()
	for _, r := range ratios {
		b.ofErr = append(b.ofErr, pairBet(rho, r.ratio))
	}
	for k := range b.slow {
		var bets []float64
		bets, b.slow[k].share = slowBets(slowAllowed * quantiles[firstTail+k])
		for _, r := range bets {
			b.ofSlow[k] = append(b.ofSlow[k], pairBet(slowAllowed*rho, r))
		}
	}
	return b
}

func (b *copiesBets) start() *copies {
	c := &copies{Errors: b.errors.start()}
	for k := range c.Slow {
		c.Slow[k] = b.slow[k].start()
	}
	return c
}

func (b *copiesBets) stake(c *copies, epoch int64) {
	if c == nil {
		return
	}
	b.errors.stake(&c.Errors, epoch)
	for k := range c.Slow {
		b.slow[k].stake(&c.Slow[k], epoch)
	}
}

// betCopies moves the bets by what a cell says of pairs. What a pod does that is known to
// be bad is its own.
func (j *Judge) betCopies(s *core, canary, stable Tally, pods []PodErrors) {
	c := s.Copies
	if c == nil {
		return
	}
	failed := canary.Failed
	pods = slices.Clone(pods[:min(len(pods), maxPods)])
	for i, p := range pods {
		if s.badPod(name(p.Pod)) {
			failed -= min(sane(p.Errors), failed)
			pods[i].Errors = 0
		}
	}
	for i, st := range j.copies.ofErr {
		c.Errors.move(i, st.of(failed, stable.Failed, stable.Repeated))
	}
	s.blameFor(pods, failed, func(p *pod, n int64) {
		if p.PaidCopies == nil {
			p.PaidCopies = make([]float64, len(j.copies.ofErr))
		}
		for i, st := range j.copies.ofErr {
			p.PaidCopies[i] += float64(float64(n) * st.canary)
		}
	})
	for k := range c.Slow {
		at := firstTail + k
		a, b, both := canary.Slow[at], stable.Slow[at], stable.SlowRepeated[at]
		if !j.config.latency() || a == 0 && b == 0 && both == 0 {
			continue
		}
		if j.config.Surge > 0 {
			c.Surges[k].begin(int64(s.Now/time.Second), &c.Slow[k])
		}
		for i, st := range j.copies.ofSlow[k] {
			by := st.of(a, b, both)
			if j.config.Surge > 0 {
				by = c.Surges[k].hold(i, by, math.Log(j.config.Surge))
			}
			c.Slow[k].move(i, by)
		}
	}
}

// of is the sum of a step over many pairs; see step.of.
func (st pairStep) of(canary, stable, both int64) float64 {
	return float64(float64(canary)*st.canary) + float64(float64(stable)*st.stable) + float64(float64(both)*st.both)
}

func (c *copies) count(canary, stable Tally) {
	if c != nil {
		c.Canary.add(canary)
		c.Stable.add(stable)
	}
}

// end notes how many copies a verdict took.
func (c *copies) end() {
	if c != nil {
		c.Took = total(c.Canary)
	}
}

// like says whether two have the same bets.
func (c *copies) like(o *copies) bool {
	same := len(c.Errors.Logs) == len(o.Errors.Logs)
	for k := range c.Slow {
		same = same && len(c.Slow[k].Logs) == len(o.Slow[k].Logs)
	}
	return same
}

func (c *copies) clone() *copies {
	if c == nil {
		return nil
	}
	out := *c
	out.Errors.Logs = slices.Clone(c.Errors.Logs)
	for k := range out.Slow {
		out.Slow[k].Logs, out.Surges[k].Moved = slices.Clone(c.Slow[k].Logs), slices.Clone(c.Surges[k].Moved)
	}
	return &out
}

// top is not less than the largest part of what is owned.
func (c *copies) top() float64 {
	if c == nil {
		return 0
	}
	top := c.Errors.top()
	for k := range c.Slow {
		top = max(top, c.Slow[k].top())
	}
	return top
}

// most says whether copies tell more against the canary than anything else does.
func (c *copies) most(s *core) bool {
	if c == nil {
		return false
	}
	of := func(errors wealth, slow []wealth) float64 {
		most := errors.log()
		for _, w := range slow {
			most = max(most, w.log())
		}
		return most
	}
	others := max(of(s.Errors, s.Slow[:]), s.Blocks.log())
	if s.Alone != nil {
		others = max(others, s.Alone.Wealth.log())
	}
	if s.Late != nil {
		others = max(others, s.Late.Wealth.log())
	}
	return of(c.Errors, c.Slow[:]) > others
}

// Copied is what became of the copies of requests that the canary has got.
func (s State) Copied() Side {
	if s.Copies == nil {
		return Side{}
	}
	return side(s.Copies.Canary)
}

// movedBy says what has moved the bets on pairs since a state: mostly that of which there is
// more evidence.
func (c *copies) movedBy(was *copies) (n int64, what string) {
	failed, slow := c.Canary.Failed-was.Canary.Failed, c.Canary.Slow[2]-was.Canary.Slow[2]
	others := c.Stable.Failed - was.Stable.Failed
	switch {
	case failed > 0 && c.Errors.log() > was.Errors.log():
		return failed, "errors of copies"
	case others > 0:
		return others, "errors of originals"
	}
	return slow, "slow copies"
}
