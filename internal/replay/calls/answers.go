package calls

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/release/evidence"
)

// key is what calls have in common that are the same.
type key struct {
	method, url string
	digest      [sha256.Size]byte // of the body
	unread      bool
}

func keyOf(c *Call) key {
	k := key{method: c.Method, url: c.URL, unread: c.Unread}
	if !c.Unread {
		k.digest = sha256.Sum256(plain(c.Body))
	}
	return k
}

// plain is a body in which the order of fields says nothing: some programs write them in
// another one each time.
func plain(body []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return body
	}
	if text, err := json.Marshal(v); err == nil {
		return text
	}
	return body
}

// Miss is a call to which the recording has no answer.
type Miss struct {
	For   string `json:"for,omitempty"` // the replayed request, by its ID
	Call  string `json:"call"`
	Why   string `json:"why,omitempty"`
	Times int    `json:"times"`
}

// Text says that the recording has no answer.
func (m Miss) Text() string {
	text := "the recording has no answer for " + m.Call
	if m.Times > 1 {
		text += fmt.Sprintf(" (%d times)", m.Times)
	}
	if m.Why != "" {
		text += ": " + m.Why
	}
	return text
}

// Answers finds answers in a recording, for one round. NewAnswers makes it.
type Answers struct {
	causes
	recording *Recording
	of        map[key][]*Call
	turn      map[turn]int // how many answers were given
	misses    []Miss       // in the order of the first of each
	hidden    []Miss       // calls whose answers had hidden values, likewise
}

// turn is whose turn it is among calls that are the same.
type turn struct {
	key
	cause string
}

// NewAnswers returns what finds answers in a recording.
func NewAnswers(r *Recording) *Answers {
	a := &Answers{recording: r, of: map[key][]*Call{}, turn: map[turn]int{}}
	for i := range r.Calls {
		c := &r.Calls[i]
		a.of[keyOf(c)] = append(a.of[keyOf(c)], c)
	}
	return a
}

// Find finds the answer to a call, whose Host is a place, or says why there is none. Among
// calls that are the same the order counts: first those that the same request has caused,
// one after the other and then the last again; where there is none of these, those of others.
func (a *Answers) Find(q evidence.Request, traces []string) (*Answer, *Miss) {
	c := called(evidence.Rules{Fields: a.recording.Hides}, q)
	k, cause := keyOf(&c), a.causes.of(traces)
	same := a.of[k]
	own := slices.DeleteFunc(slices.Clone(same), func(o *Call) bool { return o.For != cause })
	if len(own) > 0 {
		same = own
	}
	why := ""
	if len(same) > 0 {
		t := turn{k, cause}
		found := same[min(a.turn[t], len(same)-1)]
		a.turn[t]++
		if found.Answer != nil {
			if found.Answer.Hidden {
				note(&a.hidden, Miss{For: cause, Call: c.Name()})
			}
			return found.Answer, nil
		}
		why = cmp.Or(found.Lacks, "it has none of it")
	} else {
		why = a.near(&c)
	}
	m := Miss{For: cause, Call: c.Name(), Why: why}
	note(&a.misses, m)
	m.Times = 1
	return nil, &m
}

// Refuse takes note of a connection that was not made, since what goes over it is no HTTP.
func (a *Answers) Refuse(to, why string) {
	note(&a.misses, Miss{For: a.causes.of(nil), Call: to, Why: why})
}

// note counts a call.
func note(all *[]Miss, m Miss) {
	i := slices.IndexFunc(*all, func(o Miss) bool { return o.For == m.For && o.Call == m.Call && o.Why == m.Why })
	if i < 0 {
		m.Times = max(1, m.Times)
		*all = append(*all, m)
		return
	}
	(*all)[i].Times += max(1, m.Times)
}

// near says what the recording has that is nearly the call, "" for nothing.
func (a *Answers) near(c *Call) string {
	path, _, _ := strings.Cut(c.URL, "?")
	var bodies, queries, methods int
	for i := range a.recording.Calls {
		o := &a.recording.Calls[i]
		other, _, _ := strings.Cut(o.URL, "?")
		switch {
		case o.URL == c.URL && o.Method == c.Method:
			bodies++
		case other == path && o.Method == c.Method:
			queries++
		case o.URL == c.URL:
			methods++
		}
	}
	switch {
	case bodies > 0:
		return "it has one with another body"
	case queries > 0:
		return "it has one with another query"
	case methods > 0:
		return "it has one with another method"
	}
	return ""
}

// Misses are the calls without an answer, whoever has caused them.
func (a *Answers) Misses() []Miss {
	var all []Miss
	for _, m := range a.misses {
		m.For = ""
		note(&all, m)
	}
	return all
}

// Of are the calls that a request has caused: those without an answer, and those whose
// answers had values that were hidden.
func (a *Answers) Of(cause string) (misses, hidden []Miss) {
	other := func(m Miss) bool { return m.For != cause }
	return slices.DeleteFunc(slices.Clone(a.misses), other), slices.DeleteFunc(slices.Clone(a.hidden), other)
}
