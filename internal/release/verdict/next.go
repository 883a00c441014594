package verdict

import (
	"math"
	"slices"
	"time"
)

// Next is what an observation makes of a state, and the verdict then. A state that
// is [Bad] stays as it is: that is final.
func (j *Judge) Next(s State, o Observation) (State, Verdict) {
	s = s.clone()
	j.observe(&s.core, o)
	return s, j.Verdict(s)
}

// Drain takes out of a state all that was counted since the last time, for a
// central judge, which gives it to Next as an observation. Only with Config.Tells.
func (j *Judge) Drain(s State) (State, Counts) {
	s = s.clone()
	told := Merge(s.Untold, Counts{})
	s.Untold = Counts{}
	return s, told
}

func (j *Judge) observe(s *core, o Observation) {
	if s.Is == Bad {
		return
	}
	s.Now = max(s.Now, o.At.Sub(s.Start))
	j.stake(s)
	if o.Extend != nil {
		s.Deadline = max(s.Deadline, o.Extend.Sub(s.Start))
	}
	if o.Request != nil {
		j.request(s, o.Request)
	}
	if o.Counts != nil {
		j.counts(s, o.Counts)
	}
	if o.Block != nil {
		j.block(s, *o.Block)
	}
	if o.Pod != nil {
		j.pod(s, *o.Pod)
	}
	if o.Guard != nil {
		j.guard(s, *o.Guard)
	}
	if !j.config.Abstains {
		j.decide(s)
	}
}

// stake bets what is due by now, before anything is learnt from the observation.
func (j *Judge) stake(s *core) {
	epoch := int64(s.Now / j.config.Epoch)
	j.errors.stake(&s.Errors, epoch)
	if j.config.Blocks {
		j.blocks.stake(&s.Blocks, epoch)
	}
	if j.config.latency() {
		for k := range s.Slow {
			j.slow[k].stake(&s.Slow[k], epoch)
		}
	}
	if s.Alone != nil {
		j.alone.stake(&s.Alone.Wealth, epoch)
	}
	if s.Late != nil {
		j.late.stake(&s.Late.Wealth, int64(s.Now/lateFor))
	}
	j.copies.stake(s.Copies, epoch)
	for i := range s.Good {
		j.metrics[i].stake(&s.Good[i].Wealth, epoch)
	}
}

func (j *Judge) request(s *core, r *Request) {
	if !(r.Weight >= 0 && r.Weight <= 1) || r.Elapsed < 0 {
		s.Lost++
		return
	}
	if r.Cold || r.Canary && s.warming(r, j.config) {
		return
	}
	t, why := j.tally(s, r)
	c := Cell{Weight: r.Weight, Chosen: r.Chosen}
	if !r.Canary {
		c.Stable = t
		j.fold(s, c)
		return
	}
	c.Canary = t
	if t.Failed > 0 && r.Pod != "" {
		c.Pods = []PodErrors{{name(r.Pod), 1}}
	}
	j.fold(s, c)
	if why == "" || r.Chosen {
		return
	}
	m := Moved{ID: name(r.ID), Pod: name(r.Pod), Why: why, Elapsed: r.Elapsed}
	s.Moved = newest(append(s.Moved, m))
	if j.config.Tells {
		s.Untold.Moved = newest(append(s.Untold.Moved, m))
	}
}

// tally is what a request counts as, and why it is evidence, empty if it is none.
func (j *Judge) tally(s *core, r *Request) (t Tally, why string) {
	once, hung := j.config.Once, j.config.Hung
	crossed := func(d time.Duration) bool { return r.Told <= d && r.Elapsed > d }
	if j.config.latency() {
		for k, d := range j.config.Quantiles {
			if r.Canary {
				d += j.config.Slack
			}
			switch {
			case r.Unrated || !crossed(d):
			case s.repeated(r, k+1, once):
				t.SlowRepeated[k] = 1
			default:
				t.Slow[k] = 1
				if k >= 2 {
					why = "slower than " + []string{"99", "99.9"}[k-2] + " % of stable's"
				}
			}
		}
	}
	switch {
	case crossed(hung):
		t.Failed = 1
	case Classify(r.Answer) == Failed && r.Told <= hung:
		t.Failed = 1
	default:
		return t, why
	}
	if s.repeated(r, 0, once) || r.Canary && s.badPod(name(r.Pod)) {
		t.Failed, t.Repeated = 0, 1
		return t, why
	}
	if crossed(hung) {
		return t, "no answer in " + hung.String()
	}
	return t, r.Answer.String()
}

func (j *Judge) counts(s *core, c *Counts) {
	for _, cell := range c.Cells[:min(len(c.Cells), maxCells)] {
		if !(cell.Weight >= 0 && cell.Weight <= 1) {
			s.Lost++
			continue
		}
		j.fold(s, cell)
	}
	for _, m := range newest(c.Moved) {
		m.ID, m.Pod, m.Why = name(m.ID), name(m.Pod), name(m.Why)
		s.Moved = newest(append(s.Moved, m))
		if j.config.Tells {
			s.Untold.Moved = newest(append(s.Untold.Moved, m))
		}
	}
}

// certain is how near a weight must be to 0 or 1 to leave nothing to chance: then the
// versions cannot be compared.
const certain = 1e-9

// fold moves all bets by what a cell says.
func (j *Judge) fold(s *core, c Cell) {
	var canary, stable Tally // as given, but with no count out of range
	canary.add(c.Canary)
	stable.add(c.Stable)
	switch {
	case c.Copies:
		j.betCopies(s, canary, stable, c.Pods)
	case !c.Chosen && c.Weight > certain && c.Weight < 1-certain:
		j.betErrors(s, c.Weight, canary, stable)
		s.blame(c.Pods, canary.Failed)
		j.betLatency(s, c.Weight, canary, stable)
	case !c.Chosen && c.Weight >= 1-certain && j.config.Alone:
		j.betAlone(s, canary)
		j.betLate(s, canary)
		s.blameFor(c.Pods, canary.Failed, func(*pod, int64) {}) // no bet is a pod's
	}
	for i := range s.Good {
		j.metrics[i].fold(&s.Good[i], canary, j.goodAt)
	}
	if c.Copies {
		s.Copies.count(canary, stable)
	} else {
		s.Canary.add(canary)
		s.Stable.add(stable)
	}
	s.Traffic.add(total(canary), s.Now)
	s.date(canary != Tally{}, canary.Failed+canary.Slow[2] > 0)
	if j.config.Tells {
		s.Untold.add(c)
	}
}

// date notes when the canary had its first request, and its first bad one.
func (s *core) date(some, bad bool) {
	if some && s.First < 0 {
		s.First = s.Now
	}
	if bad && s.FirstBad < 0 {
		s.FirstBad = s.Now
	}
}

// steps are those of the bets on errors for one weight. They are kept because most
// requests of a release come at the same few weights.
type steps struct {
	weight float64
	of     []step
}

func (j *Judge) betErrors(s *core, w float64, canary, stable Tally) {
	if s.steps.weight != w || s.steps.of == nil {
		s.steps = steps{w, make([]step, 0, len(ratios)+1)}
		for _, b := range ratios {
			s.steps.of = append(s.steps.of, relative(w, j.config.Allowed, b.ratio))
		}
		s.steps.of = append(s.steps.of, exposed(w, j.config.Allowed, downCanary, downStable))
	}
	if canary.Failed > 0 || stable.Failed > 0 {
		for i, st := range s.steps.of {
			s.Errors.move(i, st.of(canary.Failed, 0, stable.Failed, 0))
		}
	}
	down := len(ratios)
	st := s.steps.of[down]
	s.Errors.move(down, float64(float64(canary.ok())*st.canaryOK)+float64(s.Turn.pay(w, total(canary), stable.ok())*st.stableOK))
}

// turn keeps the requests of stable that went well until as many of the canary's
// are known as belong to them. It is what makes the bet on a canary that is down
// safe where requests to the canary are left out, cold ones or those that their
// clients gave up: without it, a canary of which nothing is heard would look down.
// To leave out a success of stable, which pays more than 1, can only make E smaller.
type turn struct {
	Weight float64 `json:"weight,omitempty"`
	Due    float64 `json:"due,omitempty"` // successes of stable that the canary's requests stand for
	Kept   float64 `json:"kept,omitempty"`
}

// pay is how many successes of stable may be bet on now.
func (t *turn) pay(w float64, canary, stableOK int64) float64 {
	if t.Weight != w {
		*t = turn{Weight: w}
	}
	each := (1 - w) / w
	most := 20 * each
	t.Due = min(t.Due+float64(float64(canary)*each), max(most, float64(float64(canary)*each)))
	t.Kept = min(t.Kept+float64(stableOK), max(most, float64(stableOK)))
	n := min(t.Due, t.Kept)
	t.Due, t.Kept = min(t.Due-n, most), min(t.Kept-n, most)
	return n
}

func (j *Judge) betLatency(s *core, w float64, canary, stable Tally) {
	for k := range s.Slow {
		if canary.Slow[k] == 0 && stable.Slow[k] == 0 {
			continue
		}
		if j.config.Surge > 0 {
			s.Surges[k].begin(int64(s.Now/time.Second), &s.Slow[k])
		}
		for i, r := range j.slowBets[k] {
			by := relative(w, j.config.Allowed, r).of(canary.Slow[k], 0, stable.Slow[k], 0)
			if j.config.Surge > 0 {
				by = s.Surges[k].hold(i, by, math.Log(j.config.Surge))
			}
			s.Slow[k].move(i, by)
		}
	}
}

// surge is what one second has moved the bets on one quantile by.
type surge struct {
	Second int64     `json:"second,omitempty"`
	Moved  []float64 `json:"moved,omitempty"` // each bet, in logarithms, without regard to the limit
}

func (u *surge) begin(second int64, w *wealth) {
	if u.Second != second || len(u.Moved) != len(w.Logs) {
		*u = surge{Second: second, Moved: make([]float64, len(w.Logs))}
	}
}

// hold returns by how much a bet moves, if it moves by at most so much in a second. The
// smaller of a supermartingale and a constant is a supermartingale, and so is a product
// of such, so E keeps its bound. The order inside of a second does not matter.
func (u *surge) hold(bet int, by, most float64) float64 {
	was := min(u.Moved[bet], most)
	if math.IsNaN(by) || math.IsInf(by, 0) {
		return by // which is no bet
	}
	u.Moved[bet] += by
	return min(u.Moved[bet], most) - was
}

// of is the sum of a step over many requests. The conversions keep a compiler from
// fusing operations, so that a log gives the same bits everywhere.
func (st step) of(canaryFail, canaryOK, stableFail, stableOK int64) float64 {
	return float64(float64(canaryFail)*st.canaryFail) + float64(float64(canaryOK)*st.canaryOK) +
		float64(float64(stableFail)*st.stableFail) + float64(float64(stableOK)*st.stableOK)
}

// block bets on one block of a cohort. What is bet on comes from earlier blocks.
func (j *Judge) block(s *core, b Block) {
	b.Canary.N, b.Stable.N = sane(b.Canary.N), sane(b.Stable.N)
	b.Canary.Failed = min(sane(b.Canary.Failed), b.Canary.N)
	b.Stable.Failed = min(sane(b.Stable.Failed), b.Stable.N)
	if !j.config.Blocks || b.Canary.N == 0 || b.Stable.N == 0 {
		return
	}
	w := float64(b.Canary.N) / float64(b.Canary.N+b.Stable.N)
	pb := s.Block.Stable.mean()
	move := func(bet int, pc float64) {
		st := exposed(w, j.config.Allowed, pc, pb)
		s.Blocks.move(bet, st.of(b.Canary.Failed, b.Canary.N-b.Canary.Failed, b.Stable.Failed, b.Stable.N-b.Stable.Failed))
	}
	for i, r := range ratios {
		move(i, min(pb*j.config.Allowed*r.ratio, 0.95))
	}
	move(len(ratios), min(max(s.Block.Canary.mean(), pb*j.config.Allowed*1.2), 0.95))
	s.date(true, b.Canary.Failed > 0)
	s.Block.Canary.add(b.Canary)
	s.Block.Stable.add(b.Stable)
}

func (a *Arm) add(b Arm) { a.N, a.Failed = sane(a.N+b.N), sane(a.Failed+b.Failed) }

// mean of the Beta posterior of an arm's rate, from a prior worth five units with a
// rate of 1 %. It is a guess to bet on; no bound depends on it.
func (a Arm) mean() float64 { return min((float64(a.Failed)+0.05)/(float64(a.N)+5), 0.75) }

// logE is the logarithm of the evidence against the canary.
func (j *Judge) logE(s *core) float64 {
	signals := [2 + bands - 1 + 2 + 1 + tails]*wealth{&s.Errors, &s.Blocks}
	for k := range s.Slow {
		signals[2+k] = &s.Slow[k]
	}
	n := 2 + len(s.Slow)
	if s.Alone != nil {
		signals[n] = &s.Alone.Wealth
	}
	if s.Late != nil {
		signals[n+1] = &s.Late.Wealth
	}
	if c := s.Copies; c != nil {
		signals[n+2] = &c.Errors
		for k := range c.Slow {
			signals[n+3+k] = &c.Slow[k]
		}
	}
	return average(j.weights, signals[:])
}

// mayAbort is a quick look whether logE can be as large as what convicts: no sum is
// larger than its largest part times the number of parts.
func (j *Judge) mayAbort(s *core) bool {
	top := max(s.Errors.top(), s.Blocks.top(), s.Alone.top(), s.Late.top())
	for k := range s.Slow {
		top = max(top, s.Slow[k].top())
	}
	top = max(top, s.Copies.top())
	return top+math.Log(float64(len(ratios)+2)) >= j.abortAt
}

// suspicion is the logarithm of the E at which there is no Good, whatever else.
var suspicion = math.Log(20)

// decide brings Is up to date. What convicts comes first.
func (j *Judge) decide(s *core) {
	cause := s.podsConvict(j.config.PodEvents)
	if cause == "" {
		cause = s.guardsConvict(j.config.GuardFails)
	}
	if cause != "" || j.mayAbort(s) && j.logE(s) >= j.abortAt && !s.onePod() {
		s.Is, s.Cause, s.At, s.Took = Bad, cause, s.Now, total(s.Canary)
		s.Copies.end()
		return
	}
	if s.Is == Good {
		return
	}
	s.Is = Collecting
	switch {
	case s.Now > s.Deadline:
		s.Is = Inconclusive
	case j.shown(s) && j.logE(s) < suspicion && s.holds() == "":
		s.Is, s.At, s.Took = Good, s.Now, total(s.Canary)
		s.Copies.end()
	}
}

func (j *Judge) shown(s *core) bool {
	return !slices.ContainsFunc(s.Good, func(c certificate) bool { return !c.Shown })
}
