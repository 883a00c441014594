package verdict

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Replay gives the state and the verdict that a log leads to.
func Replay(l Log) (State, Verdict, error) {
	j, s, err := l.begin(nil)
	if err != nil {
		return State{}, Verdict{}, err
	}
	for _, o := range l.Observations {
		j.observe(&s.core, o)
	}
	return s, j.Verdict(s), nil
}

// begin gives the judge of a log and the state that it begins with.
func (l Log) begin(vary func(*Config)) (*Judge, State, error) {
	c := l.Config
	if vary != nil {
		vary(&c)
	}
	j, err := New(c)
	if err != nil {
		return nil, State{}, fmt.Errorf("replay a log: %w", err)
	}
	if len(l.State) == 0 {
		return j, j.Start(l.Start), nil
	}
	s, err := j.Load(l.State)
	if err != nil {
		return nil, State{}, fmt.Errorf("replay a log: %w", err)
	}
	return j, s, nil
}

// Course is what a record leads to.
type Course struct {
	Verdict Verdict `json:"verdict"`
	// Observations is how many there are, and From after how many the record begins: what
	// was before is known by what it had come to.
	Observations int   `json:"observations"`
	From         int64 `json:"from,omitempty"`
	// Lost is how many observations in the middle are not in the record.
	Lost int64 `json:"lost,omitempty"`
	// Compared is how many verdicts of the judge's and states were compared with what they
	// are here, byte for byte, and Differs what was not the same.
	Compared int      `json:"compared"`
	Differs  []string `json:"differs,omitempty"`
	Points   []Point  `json:"points,omitempty"`
}

// Same says that all of it was computed again, and was the same.
func (c Course) Same() bool { return c.Compared > 0 && len(c.Differs) == 0 }

// Replay computes again what a judge has made of its record. If vary is not nil, it
// changes each config first: then it is another judge, whose verdicts are compared with
// nothing.
func (r Record) Replay(vary func(*Config)) (Course, error) {
	var c Course
	var j *Judge
	var s State
	var n int64 // observations so far, those before the record included
	for i, l := range r.counting() {
		next, kept, err := l.begin(vary)
		if err != nil {
			return c, err
		}
		switch {
		case i == 0:
			s, c.From = kept, l.After
		case n < l.After: // nothing is known of what was between
			c.Lost += l.After - n
			s = kept
		default:
			if s, err = next.again(s.Moved(kept.Start.Sub(s.Start))); err != nil { // by another clock
				return c, err
			}
			if vary == nil {
				c.compare(fmt.Sprintf("the state after %d observations", n), text(s), text(kept))
			}
		}
		j, n = next, l.After+int64(len(l.Observations))
		said := l.Said
		for k := range len(l.Observations) + 1 {
			for ; vary == nil && len(said) > 0 && said[0].After <= k; said = said[1:] {
				c.compare(fmt.Sprintf("the verdict after %d observations", l.After+int64(k)), text(j.Verdict(s)), said[0].Verdict)
			}
			if k < len(l.Observations) {
				s = c.take(j, s, l.Observations[k])
			}
		}
	}
	if j == nil {
		return c, fmt.Errorf("replay a record: there is no log in it")
	}
	c.Verdict = j.Verdict(s)
	return c, nil
}

// counting are the logs with those observations that count: without what was told to a
// process that was killed before it wrote down what that had come to.
func (r Record) counting() Record {
	var out Record
	limit := int64(-1) // where the next one goes on
	for i := len(r) - 1; i >= 0; i-- {
		l := r[i]
		if limit >= 0 && l.After >= limit {
			continue
		}
		if room := limit - l.After; limit >= 0 && int64(len(l.Observations)) > room {
			l.Observations = l.Observations[:room]
			for n := len(l.Said); n > 0 && l.Said[n-1].After > int(room); n-- {
				l.Said = l.Said[:n-1]
			}
		}
		limit, out = l.After, append(out, l)
	}
	for i, k := 0, len(out)-1; i < k; i, k = i+1, k-1 {
		out[i], out[k] = out[k], out[i]
	}
	return out
}

// again is a state as this judge goes on from it.
func (j *Judge) again(s State) (State, error) {
	s.Untold = Counts{}
	kept, err := json.Marshal(s)
	if err != nil {
		return s, fmt.Errorf("replay a log: %w", err)
	}
	if s, err = j.Load(kept); err != nil {
		return s, fmt.Errorf("replay a log: %w", err)
	}
	return s, nil
}

func text(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Append(nil, err) // which is the same as nothing
	}
	return b
}

func (c *Course) compare(what string, here, there []byte) {
	c.Compared++
	if !bytes.Equal(here, there) {
		c.Differs = append(c.Differs, fmt.Sprintf("%s is %s here, and was %s", what, cut(here), cut(there)))
	}
}

func cut(b []byte) string {
	if len(b) > 1000 {
		return string(b[:1000]) + "..."
	}
	return string(b)
}

// take takes in an observation, and notes what it has moved.
func (c *Course) take(j *Judge, s State, o Observation) State {
	c.Observations++
	if s.Is == Bad {
		return s
	}
	was := s.clone()
	j.observe(&s.core, o)
	p := j.point(was, s, o)
	if n := len(c.Points); n > 0 && p.Is == c.Points[n-1].Is && p.idle(c.Points[n-1]) {
		c.Points[n-1].At, c.Points[n-1].After = p.At, p.After
	} else {
		c.Points = append(c.Points, p)
	}
	return s
}

// Point is what E was at one moment, and what had moved it since the point before.
type Point struct {
	At    time.Time     `json:"at"`
	After time.Duration `json:"afterNs"` // since the judging began
	Is    Kind          `json:"is"`
	// E is the evidence against the canary, and Good the least of what there is for it.
	E      float64 `json:"e"`
	Good   float64 `json:"good"`
	Canary Side    `json:"canary"`
	Stable Side    `json:"stable"`
	// Copies are those of stable's requests that the canary has got.
	Copies Side `json:"copies,omitzero"`
	// Moves are what has moved E, in logarithms.
	Moves []Move `json:"moves,omitempty"`
}

// Move is how far one thing has moved the logarithm of E.
type Move struct {
	What string  `json:"what"`
	N    int64   `json:"n,omitempty"`
	By   float64 `json:"by"`
}

const podEvents, failedGuards = "events of pods", "failed guards"

func (p Point) idle(before Point) bool {
	return len(p.Moves) == 0 && p.E == before.E && p.Good == before.Good && p.Canary == before.Canary && p.Stable == before.Stable && p.Copies == before.Copies
}

// point is where an observation has led.
func (j *Judge) point(was, is State, o Observation) Point {
	p := Point{At: o.At, After: is.Now, Is: is.Is, E: rounded(j.logE(&is.core)), Canary: side(is.Canary), Stable: side(is.Stable), Copies: is.Copied()}
	for i, g := range is.Good {
		if e := rounded(g.Wealth.log()); i == 0 || e < p.Good {
			p.Good = e
		}
	}
	move := func(n int64, by float64, what string) {
		if math.Abs(by) > 1e-9 || what == podEvents || what == failedGuards {
			p.Moves = append(p.Moves, Move{what, n, by})
		}
	}
	if o.Pod != nil && o.Pod.Event != PodReady && o.Pod.Event != PodGone {
		move(1, 0, podEvents)
	}
	if o.Guard != nil && o.Guard.Answer == GuardFail {
		move(1, 0, failedGuards)
	}
	j.moves(was, is, o, move)
	return p
}

// moves tells how far errors and latencies have moved E: each by what it would have been
// moved alone.
func (j *Judge) moves(was, is State, o Observation, move func(n int64, by float64, what string)) {
	before := was.core
	if o.empty() {
		move(0, j.logE(&is.core)-j.logE(&before), "fresh stakes")
		return
	}
	canary, stable := is.Canary, is.Stable
	failed, others := canary.Failed-was.Canary.Failed, stable.Failed-was.Stable.Failed
	part := func(with func(*core)) float64 {
		c := was.core
		with(&c)
		return j.logE(&c) - j.logE(&before)
	}
	byErrors := part(func(c *core) { c.Errors = is.Errors })
	switch {
	case badPods(is) > badPods(was):
		move(0, byErrors, "a bad pod, whose errors are its own")
	case failed > 0 && byErrors > 0:
		move(failed, byErrors, "errors of the canary")
	case others > 0 && byErrors < 0:
		move(others, byErrors, "errors of stable")
	default:
		move(total(canary)+total(stable)-total(was.Canary)-total(was.Stable), byErrors, "requests that went well")
	}
	bySlow := part(func(c *core) { c.Slow = is.Slow })
	n, of := canary.Slow[2]-was.Canary.Slow[2], "slow requests of the canary"
	if bySlow < 0 {
		n, of = stable.Slow[2]-was.Stable.Slow[2], "slow requests of stable"
	}
	move(n, bySlow, of)
	if is.Copies != nil && was.Copies != nil {
		n, of = is.Copies.movedBy(was.Copies)
		move(n, part(func(c *core) { c.Copies = is.Copies }), of)
	}
	n = o.blocks()
	move(n, part(func(c *core) { c.Blocks = is.Blocks }), "clients of a cohort")
}

func (o Observation) blocks() int64 {
	if o.Block == nil {
		return 0
	}
	return sane(o.Block.Canary.N) + sane(o.Block.Stable.N)
}

func badPods(s State) (n int) {
	for _, p := range s.Pods {
		if p.Canary && p.Bad {
			n++
		}
	}
	return n
}
