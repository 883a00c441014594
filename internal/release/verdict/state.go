package verdict

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"
)

// State is all that a release's observations have come to. It is a value: nothing
// that [Judge.Next] returns shares memory with what it was given. It does not grow
// with the number of observations.
type State struct{ core }

// core is the content of a State, as it is saved.
type core struct {
	Start    time.Time     `json:"start"`
	Now      time.Duration `json:"nowNs"` // since Start; never goes back
	Deadline time.Duration `json:"deadlineNs"`
	// First is when the first request to the canary was seen, and FirstBad the first
	// that is evidence against it; -1 for never.
	First    time.Duration `json:"firstNs"`
	FirstBad time.Duration `json:"firstBadNs"`

	Errors wealth            `json:"errors"`
	Blocks wealth            `json:"blocks"`
	Slow   [bands - 1]wealth `json:"slow"`
	Surges [bands - 1]surge  `json:"surges,omitzero"`
	Turn   turn              `json:"turn,omitzero"`
	Alone  *alone            `json:"alone,omitempty"`  // nil if nobody judges by it
	Late   *late             `json:"late,omitempty"`   // as well
	Copies *copies           `json:"copies,omitempty"` // as well
	Good   []certificate     `json:"good"`
	Block  Block             `json:"block"` // all blocks so far

	Canary  Tally   `json:"canary"` // all requests that counted, for the explanation
	Stable  Tally   `json:"stable"`
	Traffic traffic `json:"traffic"`
	Seen    []seen  `json:"seen,omitempty"`
	Pods    []pod   `json:"pods,omitempty"`
	Marks   []mark  `json:"marks,omitempty"` // the last errors of the canary
	Lost    int64   `json:"lost,omitempty"`  // observations that made no sense, or of more pods than are kept
	Guards  []guard `json:"guards,omitempty"`
	Moved   []Moved `json:"moved,omitempty"`
	Untold  Counts  `json:"untold,omitzero"`

	steps steps // for the last weight; derived

	Is    Kind          `json:"is"`
	Cause string        `json:"cause,omitempty"` // of Bad, if not E
	At    time.Duration `json:"atNs,omitempty"`  // of the verdict
	Took  int64         `json:"took,omitempty"`  // requests to the canary by then, without copies
}

// traffic is an estimate of the rate of the canary's requests, with a memory of
// half a minute.
type traffic struct {
	N    float64       `json:"n"` // requests, each worth exp(-age/memory)
	From time.Duration `json:"fromNs"`
	At   time.Duration `json:"atNs"`
}

const memory = 30 * time.Second

func (t *traffic) add(n int64, now time.Duration) {
	if n == 0 {
		return
	}
	if t.N == 0 {
		t.From = now
	}
	t.N = float64(t.N*math.Exp(-float64(now-t.At)/float64(memory))) + float64(n)
	t.At = now
}

// perSecond is the rate now, 0 if it cannot be told.
func (t traffic) perSecond(now time.Duration) float64 {
	age := float64(now-t.From) / float64(memory)
	if t.N == 0 || age <= 0 {
		return 0
	}
	n := t.N * math.Exp(-float64(now-t.At)/float64(memory))
	if n < 0.01 {
		return 0
	}
	return n / (-math.Expm1(-age) * memory.Seconds())
}

// Start is the state of a release of which nothing has been observed.
func (j *Judge) Start(at time.Time) State {
	c := core{
		Start: at.UTC().Round(0), Deadline: j.config.Deadline, First: -1, FirstBad: -1, Is: Collecting,
		Errors: j.errors.start(), Blocks: j.blocks.start(),
	}
	for k := range c.Slow {
		c.Slow[k] = j.slow[k].start()
	}
	if j.config.Alone {
		c.Alone = &alone{Wealth: j.alone.start()}
	}
	if j.config.late() {
		c.Late = j.late.startLate()
	}
	if j.config.Copies {
		c.Copies = j.copies.start()
	}
	for _, m := range j.metrics {
		c.Good = append(c.Good, certificate{Name: m.name, Bound: m.bound, Wealth: m.start()})
	}
	for _, name := range j.config.Guards {
		c.Guards = append(c.Guards, guard{Name: name, Needed: true})
	}
	return State{c}
}

// Moved is the state with its beginning moved, and all that is counted from there: as
// another machine's clock has it.
func (s State) Moved(by time.Duration) State {
	s.Start = s.Start.Add(by)
	return s
}

// MarshalJSON is for keeping a state; [Judge.Load] reads it.
func (s State) MarshalJSON() ([]byte, error) { return json.Marshal(s.core) }

// Load reads a state that was saved. If that was for a judge with another config, what
// this one judges besides begins anew: latency, when its quantiles are known, a metric
// whose bound is another, a guard. What it does not judge any more is forgotten.
func (j *Judge) Load(data []byte) (State, error) {
	var c core
	if err := json.Unmarshal(data, &c); err != nil {
		return State{}, fmt.Errorf("read the state of a verdict: %w", err)
	}
	fresh := j.Start(c.Start)
	same := len(c.Errors.Logs) == len(fresh.Errors.Logs) && len(c.Blocks.Logs) == len(fresh.Blocks.Logs)
	for k := range c.Slow {
		same = same && len(c.Slow[k].Logs) == len(fresh.Slow[k].Logs)
	}
	for i, of := range fresh.Good {
		at := slices.IndexFunc(c.Good, func(g certificate) bool { return g.Name == of.Name && g.Bound == of.Bound })
		if at < 0 {
			continue
		}
		same = same && len(c.Good[at].Wealth.Logs) == len(of.Wealth.Logs)
		fresh.Good[i] = c.Good[at]
	}
	if !same {
		return State{}, fmt.Errorf("the state of a verdict was saved by another version of this program: replay its log")
	}
	c.Good = fresh.Good
	if c.Alone == nil || fresh.Alone == nil || len(c.Alone.Wealth.Logs) != len(fresh.Alone.Wealth.Logs) {
		c.Alone = fresh.Alone
	}
	if c.Late == nil || fresh.Late == nil || len(c.Late.Wealth.Logs) != len(fresh.Late.Wealth.Logs) {
		c.Late = fresh.Late
	}
	if c.Copies == nil || fresh.Copies == nil || !c.Copies.like(fresh.Copies) {
		c.Copies = fresh.Copies
	}
	c.Guards = goOn(c.Guards, fresh.Guards)
	return State{c}, nil
}

// goOn are the guards of a config with what is known of them, and those that somebody
// else speaks for.
func goOn(was, wanted []guard) []guard {
	out := slices.Clone(wanted)
	for i := range out {
		if at := slices.IndexFunc(was, func(g guard) bool { return g.Name == out[i].Name }); at >= 0 {
			out[i] = was[at]
			out[i].Needed = true
		}
	}
	for _, g := range was {
		if !g.Needed && !slices.ContainsFunc(out, func(o guard) bool { return o.Name == g.Name }) {
			out = append(out, g)
		}
	}
	return out
}

// clone is a copy that shares nothing that is changed in place.
func (s State) clone() State {
	c := s.core
	c.Errors.Logs = slices.Clone(c.Errors.Logs)
	c.Blocks.Logs = slices.Clone(c.Blocks.Logs)
	for k := range c.Slow {
		c.Slow[k].Logs = slices.Clone(c.Slow[k].Logs)
		c.Surges[k].Moved = slices.Clone(c.Surges[k].Moved)
	}
	if c.Alone != nil {
		a := c.Alone.clone()
		c.Alone = &a
	}
	c.Late = c.Late.clone()
	c.Copies = c.Copies.clone()
	c.Good = slices.Clone(c.Good)
	for i := range c.Good {
		c.Good[i].Wealth.Logs = slices.Clone(c.Good[i].Wealth.Logs)
	}
	c.Seen = slices.Clone(c.Seen)
	c.Pods = slices.Clone(c.Pods)
	for i := range c.Pods {
		c.Pods[i].Paid, c.Pods[i].PaidCopies = slices.Clone(c.Pods[i].Paid), slices.Clone(c.Pods[i].PaidCopies)
	}
	c.Marks = slices.Clone(c.Marks)
	c.Guards = slices.Clone(c.Guards)
	c.Moved = slices.Clone(c.Moved)
	c.Untold = c.Untold.clone()
	return State{c}
}

// seen is an error that was counted, by a hash of its trace, client or connection.
type seen struct {
	Key  uint64        `json:"key"`
	Till time.Duration `json:"tillNs"`
}

// maxSeen is how many of them are remembered. When more come in Config.Once, the
// oldest are forgotten.
const maxSeen = 256

// repeated says whether an error belongs to one that was counted, and remembers it.
// It depends only on what came before, so to leave such errors out is a bet of zero.
// Errors and each quantile of latency are told apart by what.
func (s *core) repeated(r *Request, what int, once time.Duration) bool {
	key, some := r.key(what)
	if !some {
		return false
	}
	s.Seen = slices.DeleteFunc(s.Seen, func(e seen) bool { return e.Till <= s.Now })
	if slices.ContainsFunc(s.Seen, func(e seen) bool { return e.Key == key }) {
		return true
	}
	if len(s.Seen) == maxSeen {
		s.Seen = slices.Delete(s.Seen, 0, 1)
	}
	s.Seen = append(s.Seen, seen{key, s.Now + once})
	return false
}

// key is a hash (FNV-1a) of what the request belongs to.
func (r *Request) key(what int) (uint64, bool) {
	for kind, name := range []string{r.Trace, r.Client, r.Connection} {
		if name == "" {
			continue
		}
		h := uint64(14695981039346656037) ^ uint64(kind+4*what)
		for i := range len(name) {
			h = (h ^ uint64(name[i])) * 1099511628211
		}
		return h, true
	}
	return 0, false
}
