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

// Most is how many calls are told one by one.
const Most = 20

// Some are the first of texts, and how many more there are.
func Some(all []string) []string {
	if len(all) <= Most {
		return all
	}
	return append(slices.Clone(all[:Most]), fmt.Sprintf("and %d more", len(all)-Most))
}

// Answers finds answers in a recording, for one round. NewAnswers makes it.
type Answers struct {
	causes
	rules  evidence.Rules
	of     map[key][]*Call
	own    map[turn][]*Call // of one cause
	has    map[near]bool
	turn   map[turn]int // how many answers were given
	misses notes
	hidden notes // calls whose answers had hidden values
}

// near is what a call has in common with one that is nearly the same. What does not count
// is "".
type near struct{ method, url, path string }

// turn is whose turn it is among calls that are the same.
type turn struct {
	key
	cause string
}

// NewAnswers returns what finds answers in a recording.
func NewAnswers(r *Recording) *Answers {
	a := &Answers{
		rules: evidence.Rules{Fields: r.Hides}, of: map[key][]*Call{}, own: map[turn][]*Call{}, has: map[near]bool{}, turn: map[turn]int{},
	}
	for i := range r.Calls {
		c := &r.Calls[i]
		k := keyOf(c)
		a.of[k] = append(a.of[k], c)
		own := turn{k, c.For}
		a.own[own] = append(a.own[own], c)
		path, _, _ := strings.Cut(c.URL, "?")
		for _, n := range []near{{method: c.Method, url: c.URL}, {method: c.Method, path: path}, {url: c.URL}} {
			a.has[n] = true
		}
	}
	return a
}

// Find finds the answer to a call, whose Host is a place, or says why there is none. Among
// calls that are the same the order counts: first those that the same request has caused,
// one after the other and then the last again; where there is none of these, those of others.
func (a *Answers) Find(q evidence.Request, traces []string) (*Answer, *Miss) {
	c := called(a.rules, q)
	t := turn{keyOf(&c), a.causes.of(traces)}
	cause, same := t.cause, a.own[t]
	if len(same) == 0 {
		same = a.of[t.key]
	}
	why := ""
	if len(same) > 0 {
		found := same[min(a.turn[t], len(same)-1)]
		a.turn[t]++
		if found.Answer != nil {
			if found.Answer.Hidden {
				a.hidden.add(Miss{For: cause, Call: c.Name()})
			}
			return found.Answer, nil
		}
		why = cmp.Or(found.Lacks, "it has none of it")
	} else {
		why = a.near(&c)
	}
	m := Miss{For: cause, Call: c.Name(), Why: why}
	a.misses.add(m)
	m.Times = 1
	return nil, &m
}

// Refuse takes note of what was not to be had: a connection over which goes what is no HTTP,
// or a name.
func (a *Answers) Refuse(what, why string) {
	a.misses.add(Miss{For: a.causes.of(nil), Call: what, Why: why})
}

// mostNotes is how many calls are told apart. Those besides are counted for each cause.
const mostNotes = 1000

// notes counts calls. Its zero value has none.
type notes struct {
	all []Miss       // in the order of the first of each
	at  map[Miss]int // where in all they are, by what they are without Times
}

// add counts a call.
func (n *notes) add(m Miss) {
	times := max(1, m.Times)
	m.Times = 0
	if n.at == nil {
		n.at = map[Miss]int{}
	}
	i, has := n.at[m]
	if !has && len(n.all) >= mostNotes {
		m = Miss{For: m.For, Call: "other calls"}
		i, has = n.at[m]
	}
	if !has {
		i = len(n.all)
		n.at[m], n.all = i, append(n.all, m)
	}
	n.all[i].Times += times
}

// near says what the recording has that is nearly the call, "" for nothing.
func (a *Answers) near(c *Call) string {
	path, _, _ := strings.Cut(c.URL, "?")
	switch {
	case a.has[near{method: c.Method, url: c.URL}]:
		return "it has one with another body"
	case a.has[near{method: c.Method, path: path}]:
		return "it has one with another query"
	case a.has[near{url: c.URL}]:
		return "it has one with another method"
	}
	return ""
}

// Misses are the calls without an answer, whoever has caused them.
func (a *Answers) Misses() []Miss {
	var sum notes
	for _, m := range a.misses.all {
		m.For = ""
		sum.add(m)
	}
	return sum.all
}

// Of are the calls that a request has caused: those without an answer, and those whose
// answers had values that were hidden.
func (a *Answers) Of(cause string) (misses, hidden []Miss) {
	other := func(m Miss) bool { return m.For != cause }
	return slices.DeleteFunc(slices.Clone(a.misses.all), other), slices.DeleteFunc(slices.Clone(a.hidden.all), other)
}
