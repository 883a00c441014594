// Package verdict says what the evidence of a release supports: [Good], [Bad],
// [Collecting], or [Inconclusive] when the time is over.
//
// Its main type is [Judge], which holds what does not change in a release. All else
// is a [State], and [Judge.Next] is a pure function from a State and an
// [Observation] to the next State and a [Verdict]: no clock, no reading, no writing,
// no goroutine. So a [Log] of observations gives the same verdict at each [Replay],
// byte for byte, and everything here is safe for concurrent use as long as no two
// callers share a State.
//
// A verdict rests on e-processes, which may be looked at all the time. For each
// signal some money is bet against "the canary is no worse than allowed"; E is what
// it has come to, on average over the signals. If the canary is no worse, E ever
// reaches 1/Alpha with probability at most Alpha, in the whole release, through all
// changes of weight. The same way round, money is bet for each metric against "the
// canary is worse than tolerated", and only when each of these has come to 1/Beta is
// the canary Good, which a canary that is worse in any of them reaches with
// probability at most Beta. No evidence moves neither.
//
// What is assumed. The weight of each request is the true probability that it went
// to the canary, drawn for that request, whatever is known of it: a fixed order of
// turns will do only if no client's requests come in step with it. "No worse" means
// no more errors by any age of a request, not only in the end. Good means that the
// rate was below the bound all along, so errors that come in storms are judged by
// the storm. At a weight of 0 or 1 there is nothing to compare with, and only pods
// and guards can convict; at 1 and with Config.Alone a rate of errors that is over a
// bound can, too. Requests that the canary gets a copy of are compared with their copies,
// whatever the weight is.
package verdict

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Kind is one of the values of a verdict.
type Kind string

const (
	Collecting   Kind = "collecting"
	Good         Kind = "good"
	Bad          Kind = "bad"
	Inconclusive Kind = "inconclusive" // the deadline passed without a verdict; it may still turn Bad
)

// Verdict is what the evidence supports.
type Verdict struct {
	Is  Kind   `json:"is"`
	Why string `json:"why"` // one line, for people
	// E is the evidence against the canary, AbortAt what convicts it; both to three
	// digits, and at most 1e300.
	E       float64 `json:"e"`
	AbortAt float64 `json:"abortAt"`
	// After is the time from the first request to the canary to now, or to the verdict.
	After   time.Duration `json:"afterNs"`
	Metrics []Metric      `json:"metrics"`
	Need    Need          `json:"need"`
	// BadPods are pods of the canary that are bad where the others are not: they need
	// to be replaced, and tell nothing about the version.
	BadPods []string `json:"badPods,omitempty"`
	// Moved are the requests that moved E, the newest last. Those of a Bad verdict
	// are the evidence that goes with it.
	Moved []Moved `json:"moved,omitempty"`
}

// Metric is how far it is shown that one metric is within its bound.
type Metric struct {
	Name  string  `json:"name"`
	Bound float64 `json:"bound"` // the rate that is tolerated
	Bad   int64   `json:"bad"`   // requests that count against it
	N     int64   `json:"n"`
	E     float64 `json:"e"`
	Shown bool    `json:"shown"` // E was 1/Beta or more
}

// Need is what Good still takes at the present traffic and rates.
type Need struct {
	Requests int64 `json:"requests,omitempty"` // to the canary
	// Time is known only if there is traffic, and if the rates are such that it is
	// within reach.
	Time  time.Duration `json:"timeNs,omitempty"`
	Known bool          `json:"known"`
}

// Config is what a release is judged by. The zero value of each field but Hung means
// the default that is told.
type Config struct {
	// Alpha bounds the probability that a canary which is no worse than allowed is
	// judged Bad by requests. 0.001. See [Split] for more than one judge.
	Alpha float64 `json:"alpha,omitempty"`
	// Beta bounds the probability that a canary which is worse than tolerated is
	// judged Good. 0.01.
	Beta float64 `json:"beta,omitempty"`
	// Allowed is how many times as many errors as stable the canary may have. 1.
	Allowed float64 `json:"allowed,omitempty"`
	// MaxErrors is the rate of errors that must be excluded for Good. 0.01.
	MaxErrors float64 `json:"maxErrors,omitempty"`
	// Quantiles are the latencies that half, 90 %, 99 % and 99.9 % of stable's
	// requests stayed below, measured before the canary got any. All zero: latency is
	// not judged.
	Quantiles [bands - 1]time.Duration `json:"quantilesNs,omitzero"`
	// MaxSlow are the rates of requests slower than each of Quantiles that must be
	// excluded for Good; 1 or more says that it need not be. 0.75, 1, 0.05, 1.
	MaxSlow [bands - 1]float64 `json:"maxSlow,omitzero"`
	// Slack is how much longer than each of Quantiles a request to the canary may take
	// until it is slow: what the way to its pods may cost. None.
	Slack time.Duration `json:"slackNs,omitempty"`
	// Settle is for how long the latency of a canary's pod that came into service counts
	// for nothing: its caches are cold. None.
	Settle time.Duration `json:"settleNs,omitempty"`
	// Surge is how many times as large the slow requests of one second may make a bet on
	// them, at the most. A pod that stands still for a moment has many at once, of one
	// cause, and is no slow version yet. 0 is any.
	Surge float64 `json:"surge,omitempty"`
	// Hung is the time without an answer after which a request is an error. It has to
	// be given.
	Hung time.Duration `json:"hungNs"`
	// Once is for how long errors of one trace, client or connection count as one. 10 s.
	Once time.Duration `json:"onceNs,omitempty"`
	// WarmUp is for how long a pod that came into service counts for nothing. None.
	WarmUp time.Duration `json:"warmUpNs,omitempty"`
	// Deadline is the time after which there is no Good any more. 30 minutes.
	Deadline time.Duration `json:"deadlineNs,omitempty"`
	// Blocks says that there are cohorts which are judged by [Block].
	Blocks bool `json:"blocks,omitempty"`
	// Copies says that the canary gets copies of requests, which are judged by [Cell.Copies].
	Copies bool `json:"copies,omitempty"`
	// Weights say how much each signal counts. Errors 0.8, latency 0.2; with Blocks,
	// Alone or Copies errors 0.4, latency 0.2, and 0.4 for that, shared evenly where there
	// is more than one of them. Latency is shared by all that judges it. They are made to sum to 1,
	// without the latency if that is not judged.
	Weights Weights `json:"weights,omitzero"`
	// PodEvents is how many restarts, kills and failing probes of the canary's pods
	// convict it. 3. One pod of several gives at most one less than that.
	PodEvents int `json:"podEvents,omitempty"`
	// Guards are the names of the guards that must pass for Good.
	Guards []string `json:"guards,omitempty"`
	// GuardFails is how many times in a row a guard must fail to convict. 3.
	GuardFails int `json:"guardFails,omitempty"`
	// Epoch is how often a new slice of the reserve is bet. 10 s.
	Epoch time.Duration `json:"epochNs,omitempty"`
	// Alone judges errors, too, while the canary has all requests, by Tally.Settled: it must
	// not fail more often than MaxErrors, or than twice as often as stable did before. With
	// Quantiles it judges latency, too: see late.
	Alone bool `json:"alone,omitempty"`
	// Tells makes the State keep what [Judge.Drain] hands to a central judge.
	Tells bool `json:"tells,omitempty"`
	// Abstains is of a judge that only counts, for another one: it never says bad, and tells no
	// bad pod from the others.
	Abstains bool `json:"abstains,omitempty"`
}

// Weights of the signals of E.
type Weights struct {
	Errors  float64 `json:"errors,omitempty"`
	Latency float64 `json:"latency,omitempty"`
	Blocks  float64 `json:"blocks,omitempty"`
	Alone   float64 `json:"alone,omitempty"`
	Copies  float64 `json:"copies,omitempty"`
}

// Split is alpha for a central judge and for each of the proxies that convict on
// their own, so many as may come to do so in the release. The central one gets half,
// and the proxies share the rest, so a release that any of them may convict has
// alpha in all.
func Split(alpha float64, proxies int) (central, local float64) {
	return alpha / 2, alpha / 2 / float64(max(proxies, 1))
}

// Cold says whether a request that is sent now to a pod which came into service
// then counts for nothing. It depends on nothing that comes later. It is for the
// canary's pods only: to leave out stable's requests would make the canary's share
// larger than its weight.
func (c Config) Cold(ready, now time.Time) bool { return now.Sub(ready) < c.WarmUp }

// Settling says whether the latency of a request that is sent now to a pod of the
// canary which came into service then counts for nothing. It is as predictable as Cold.
func (c Config) Settling(ready, now time.Time) bool { return now.Sub(ready) < c.Settle }

// Slow are the latencies over which a request is slow, none if latency is not judged.
func (c Config) Slow(canary bool) []time.Duration {
	if !c.latency() {
		return nil
	}
	all := slices.Clone(c.Quantiles[:])
	for k := range all {
		if canary {
			all[k] += c.Slack
		}
	}
	return all
}

// Judge judges the observations of one release. It does not change.
type Judge struct {
	config   Config
	abortAt  float64 // in logarithms, as is goodAt
	goodAt   float64
	errors   bettor
	slow     [bands - 1]bettor
	slowBets [bands - 1][]float64
	blocks   bettor
	alone    bettor
	late     bettor
	copies   copiesBets
	weights  []float64 // of errors, blocks, each quantile, alone, late, and copies: errors, each quantile of the tail
	metrics  []metric
}

// bet is a hypothesis about how many times worse the canary is, and its share.
type bet struct{ ratio, share float64 }

// ratios are what is bet on. The last bet on errors is on a canary that is down,
// see below; its share is what is missing to 1.
var ratios = []bet{{1.5, .05}, {2, .1}, {3, .1}, {5, .1}, {10, .15}, {30, .15}, {100, .1}, {1000, .1}}

// A canary that is down fails with probability downCanary where stable fails with
// downStable. This bet alone counts successes: that many requests of stable went
// well while each of the canary's failed is most of the evidence there is then, and
// it finds a canary that is down after three errors even if stable has some too.
const downCanary, downStable = 0.9, 0.01

// New gives a judge, or says what in the config makes no sense.
func New(c Config) (*Judge, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	j := &Judge{config: c, abortAt: -math.Log(c.Alpha), goodAt: -math.Log(c.Beta)}
	left := 1.0
	for _, b := range ratios {
		j.errors.share = append(j.errors.share, math.Log(b.share))
		left -= b.share
	}
	j.errors.share = append(j.errors.share, math.Log(left))
	j.blocks = j.errors
	j.alone.share, j.late.share = aloneShare(), lateShare()
	for k, q := range quantiles {
		j.slowBets[k], j.slow[k].share = slowBets(q)
	}
	j.copies = j.betsOnCopies()
	j.weights = c.weights()
	j.metrics = metrics(c)
	return j, nil
}

// quantiles are the shares of stable's requests that are slower than each quantile.
var quantiles = [bands - 1]float64{0.5, 0.1, 0.01, 0.001}

// slowBets are bets for a quantile that stable exceeds with a known probability: up
// to all requests of the canary being slower, and none beyond.
func slowBets(q float64) (bets, share []float64) {
	sum := 0.0
	for _, b := range ratios {
		if r := min(b.ratio, 1/q); !slices.Contains(bets, r) {
			bets, share = append(bets, r), append(share, b.share)
			sum += b.share
		}
	}
	for i := range share {
		share[i] = math.Log(share[i] / sum)
	}
	return bets, share
}

func orElse[T comparable](v *T, otherwise T) {
	var none T
	if *v == none {
		*v = otherwise
	}
}

func (c Config) withDefaults() Config {
	orElse(&c.Alpha, 0.001)
	orElse(&c.Beta, 0.01)
	orElse(&c.Allowed, 1)
	orElse(&c.MaxErrors, 0.01)
	orElse(&c.MaxSlow, [...]float64{0.75, 1, 0.05, 1})
	orElse(&c.Once, 10*time.Second)
	orElse(&c.Deadline, 30*time.Minute)
	orElse(&c.PodEvents, 3)
	orElse(&c.GuardFails, 3)
	orElse(&c.Epoch, 10*time.Second)
	orElse(&c.Weights, c.usual())
	c.Guards = slices.Clone(c.Guards)
	return c
}

// usual are the weights if none are given.
func (c Config) usual() Weights {
	n := 0.0
	for _, judged := range []bool{c.Blocks, c.Alone, c.Copies} {
		if judged {
			n++
		}
	}
	if n == 0 {
		return Weights{Errors: 0.8, Latency: 0.2}
	}
	w := Weights{Errors: 0.4, Latency: 0.2}
	if c.Blocks {
		w.Blocks = 0.4 / n
	}
	if c.Alone {
		w.Alone = 0.4 / n
	}
	if c.Copies {
		w.Copies = 0.4 / n
	}
	return w
}

func (c Config) latency() bool { return c.Quantiles != [bands - 1]time.Duration{} }

// late says whether a canary that has all requests is judged by their latency.
func (c Config) late() bool { return c.Alone && c.latency() }

// weights are those of Judge.weights, as parts of 1.
func (c Config) weights() []float64 {
	w := c.Weights
	if !c.latency() {
		w.Latency = 0
	}
	if !c.Blocks {
		w.Blocks = 0
	}
	if !c.Alone {
		w.Alone = 0
	}
	latencies := float64(len(quantiles))
	late := 0.0
	if c.late() {
		latencies++
	}
	if c.Copies {
		latencies += tails
	} else {
		w.Copies = 0
	}
	sum := w.Errors + w.Blocks + w.Latency + w.Alone + w.Copies
	out := []float64{w.Errors / sum, w.Blocks / sum}
	for range quantiles {
		out = append(out, w.Latency/sum/latencies)
	}
	if c.late() {
		late = w.Latency / sum / latencies
	}
	out = append(out, w.Alone/sum, late)
	if c.Copies {
		out = append(out, w.Copies/sum)
		for range tails {
			out = append(out, w.Latency/sum/latencies)
		}
	}
	return out
}

func (c Config) check() error {
	probability := func(name string, p float64) error {
		if !(p > 0 && p < 1) {
			return fmt.Errorf("%s is %v: give a number between 0 and 1, without either", name, p)
		}
		return nil
	}
	for _, p := range []struct {
		name string
		p    float64
	}{{"alpha", c.Alpha}, {"beta", c.Beta}, {"maxErrors", c.MaxErrors}} {
		if err := probability(p.name, p.p); err != nil {
			return err
		}
	}
	if !(c.Allowed >= 1 && c.Allowed <= 1000) {
		return fmt.Errorf("allowed is %v: give a ratio from 1 (no more errors than stable) to 1000", c.Allowed)
	}
	if c.Hung <= 0 {
		return fmt.Errorf("hung is %v: give the time without an answer after which a request is an error", c.Hung)
	}
	for _, d := range []time.Duration{c.Once, c.WarmUp, c.Deadline, c.Epoch, c.Slack, c.Settle} {
		if d < 0 {
			return fmt.Errorf("a time of %v is negative: times are zero, for the default, or more", d)
		}
	}
	if c.Epoch < time.Millisecond {
		return fmt.Errorf("epoch is %v: give a millisecond or more", c.Epoch)
	}
	w := c.Weights
	if sum := w.Errors + w.Latency + w.Blocks + w.Alone + w.Copies; !(w.Errors >= 0 && w.Latency >= 0 && w.Blocks >= 0 && w.Alone >= 0 && w.Copies >= 0 && sum < 1e9) || !(c.weights()[0] >= 0) {
		return fmt.Errorf("weights are %+v: give none below 0, and one above it to a signal that is judged", w)
	}
	if c.PodEvents < 1 || c.GuardFails < 1 {
		return fmt.Errorf("podEvents is %d and guardFails %d: give 1 or more", c.PodEvents, c.GuardFails)
	}
	return c.checkLatency()
}

func (c Config) checkLatency() error {
	for k, slow := range c.MaxSlow {
		if !(slow > 0) {
			return fmt.Errorf("maxSlow[%d] is %v: give a rate above 0, or 1 for none", k, slow)
		}
	}
	if c.Surge != 0 && !(c.Surge > 1) {
		return fmt.Errorf("surge is %v: give a factor above 1, or 0 for any", c.Surge)
	}
	if c.Slack > time.Hour || c.Settle > 1000*time.Hour {
		return fmt.Errorf("slack is %v and settle %v: give an hour at most, and a thousand", c.Slack, c.Settle)
	}
	if c.latency() && (c.Quantiles[0] <= 0 || !slices.IsSorted(c.Quantiles[:])) {
		return fmt.Errorf("quantiles are %v: give four latencies above 0, none below the one before", c.Quantiles)
	}
	return nil
}
