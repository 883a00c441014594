package verdict

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Tape keeps the record of a judge while it judges. Its exported fields are set before
// [Tape.Begin]. It is not safe for concurrent use.
//
// What tells only that time has passed, and changes nothing, is left out: what comes
// after it tells the same.
type Tape struct {
	// Judge names the judge.
	Judge string
	// Most is how many observations are kept at least; those before twice as many go, and
	// what they had come to is kept in their place. 0 keeps all until [Tape.Drain].
	Most int

	record Record
	taken  int64
	last   State        // what has come of all that was taken
	idle   *Observation // of which nothing was told yet
	is     Kind         // that was said last
	headed bool         // the first log's head was drained
	err    error
}

// Begin has the judge go on from a state by a config. after is how many observations have
// led there; with 0, and a state in which nothing was seen, that is the beginning.
func (t *Tape) Begin(c Config, s State, after int64) {
	t.settle()
	s.Untold = Counts{}
	l := Log{Judge: t.Judge, Config: c, Start: s.Start, After: after}
	if after > 0 || s.Now > 0 {
		if l.State, t.err = json.Marshal(s); t.err != nil {
			t.err = fmt.Errorf("write the state of a log: %w", t.err)
		}
	}
	if t.headed && len(t.record) == 1 && len(t.record[0].Observations)+len(t.record[0].Said) == 0 {
		t.record = nil
	}
	if len(t.record) == 0 {
		t.headed = false
	}
	t.record, t.taken, t.last = append(t.record, l), after, s
}

// Taken is how many observations there are in the record, those that are kept no more
// included.
func (t *Tape) Taken() int64 {
	t.settle()
	return t.taken
}

// Took tells what has made one state another.
func (t *Tape) Took(o Observation, before, after State) {
	if len(t.record) == 0 || before.Is == Bad {
		return
	}
	if o.empty() && before.onlyLater(after) {
		t.idle, t.last = &o, after
		return
	}
	if t.idle != nil && o.At.Round(0).Before(t.idle.At.Round(0)) { // by a clock that was put back
		t.settle()
	}
	t.idle, t.last = nil, after
	t.add(o)
}

// Say tells what the judge says. What it has said before is not told again.
func (t *Tape) Say(v Verdict) {
	if len(t.record) == 0 || v.Is == t.is {
		return
	}
	t.settle()
	text, err := json.Marshal(v)
	if err != nil {
		t.err = fmt.Errorf("write a verdict of a log: %w", err)
		return
	}
	t.is = v.Is
	l := &t.record[len(t.record)-1]
	l.Said = append(l.Said, Said{len(l.Observations), text})
}

func (t *Tape) settle() {
	if o := t.idle; o != nil {
		t.idle = nil
		t.add(*o)
	}
}

func (t *Tape) add(o Observation) {
	l := &t.record[len(t.record)-1]
	l.Observations = append(l.Observations, o)
	t.taken++
	if t.Most > 0 && len(l.Observations) >= t.Most {
		t.idle = nil
		t.record = t.record[len(t.record)-1:] // the one before it has had its time
		t.Begin(l.Config, t.last, t.taken)
	}
}

// empty says that there is nothing in it but the time.
func (o Observation) empty() bool {
	return o.Request == nil && o.Block == nil && o.Pod == nil && o.Guard == nil && (o.Counts == nil || len(o.Counts.Cells)+len(o.Counts.Moved) == 0)
}

// onlyLater says that a state differs from another one by its time alone.
func (s State) onlyLater(than State) bool {
	s.Now = than.Now
	return reflect.DeepEqual(s, than)
}

// Record is what is kept.
func (t *Tape) Record() (Record, error) {
	t.settle()
	return t.record, t.err
}

// Drain returns what has come since the last time, as text that is to be appended to what
// it was then, and forgets it.
func (t *Tape) Drain() ([]byte, error) {
	t.settle()
	var out []byte
	for i, l := range t.record {
		text, err := l.text(i > 0 || !t.headed)
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
	if n := len(t.record); n > 0 {
		t.record = t.record[n-1:]
		t.record[0].Observations, t.record[0].Said = nil, nil
		t.headed = true
	}
	return out, t.err
}
