package reach

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
)

// Of DNS messages no more is understood than what is here (RFC 1035, 4.1).
const (
	dnsHeader    = 12
	maxQuestions = 1 << 15 // under way at a time, of one asks

	rcodeFormat         = 1
	rcodeServer         = 2
	rcodeNotImplemented = 4
	rcodeRefused        = 5
)

var errMessage = errors.New("not a DNS message with one question")

// message is a DNS message with a whole header.
type message []byte

func parseMessage(b []byte) (message, error) {
	if len(b) < dnsHeader {
		return nil, fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	return message(b), nil
}

func (m message) id() uint16      { return binary.BigEndian.Uint16(m) }
func (m message) setID(id uint16) { binary.BigEndian.PutUint16(m, id) }
func (m message) response() bool  { return m[2]&0x80 != 0 }
func (m message) truncated() bool { return m[2]&0x02 != 0 }
func (m message) rcode() int      { return int(m[3] & 0x0f) }
func (m message) questions() int  { return int(binary.BigEndian.Uint16(m[4:])) }

// question returns the bytes of the only question: a name without pointers, a
// type and a class.
func (m message) question() ([]byte, error) {
	if m.questions() != 1 {
		return nil, fmt.Errorf("%w: it has %d", errMessage, m.questions())
	}
	for i := dnsHeader; i < len(m) && i-dnsHeader < 255; {
		n := int(m[i])
		if n > 63 {
			break
		}
		i += 1 + n
		if n == 0 {
			if i+4 > len(m) {
				break
			}
			return m[dnsHeader : i+4], nil
		}
	}
	return nil, fmt.Errorf("%w: its name is damaged", errMessage)
}

// name returns the name that is asked for, for people.
func (m message) name() string {
	q, err := m.question()
	if err != nil {
		return "?"
	}
	var b strings.Builder
	for q[0] != 0 {
		n := int(q[0])
		fmt.Fprintf(&b, "%s.", strings.ToValidUTF8(string(q[1:1+n]), "?"))
		q = q[1+n:]
	}
	return b.String()
}

// failure is the answer to m that says nothing but a code.
func (m message) failure(rcode int) message {
	b := append(message(nil), m[:dnsHeader]...)
	b[2] = 0x80 | m[2]&0x79 // a response; its opcode and wish for recursion stay
	b[3] = 0x80 | byte(rcode)
	clear(b[4:])
	if q, err := m.question(); err == nil {
		b[5] = 1
		b = append(b, q...)
	}
	return b
}

// answers reports whether m is a response to question, whatever its ID. One that
// says nothing but that it failed need not repeat the question.
func (m message) answers(question []byte) bool {
	if !m.response() {
		return false
	}
	if m.questions() == 0 {
		return m.rcode() != 0
	}
	q, err := m.question()
	return err == nil && bytes.EqualFold(q, question)
}

// asks are the questions under way on one connection.
type asks struct {
	mu      sync.Mutex
	waiting map[uint16]*ask
	err     error  // why there are no answers any more
	retired bool   // no question is added
	onIdle  func() // called once when it is retired and nothing waits
}

// ask is one question under way. Its answer has the ID of the connection; the
// channel is closed without one when the connection fails.
type ask struct {
	id       uint16
	question []byte
	answer   chan message
}

var (
	errTooMany = errors.New("too many questions are under way")
	errRetired = errors.New("the connection takes no more questions")
)

// add gives a question an ID of its own.
func (t *asks) add(q message) (*ask, error) {
	question, err := q.question()
	if err != nil {
		return nil, err
	}
	a := &ask{question: question, answer: make(chan message, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.err != nil:
		return nil, t.err
	case t.retired:
		return nil, errRetired
	case len(t.waiting) >= maxQuestions:
		return nil, errTooMany
	}
	if t.waiting == nil {
		t.waiting = map[uint16]*ask{}
	}
	for {
		a.id = uint16(rand.Uint32())
		if t.waiting[a.id] == nil {
			t.waiting[a.id] = a
			return a, nil
		}
	}
}

// drop forgets a question.
func (t *asks) drop(a *ask) {
	t.mu.Lock()
	if t.waiting[a.id] == a {
		delete(t.waiting, a.id)
	}
	t.unlockIdle()
}

// deliver gives m, which the caller keeps, to who waits for it. An answer to
// another question is that to an earlier one, and too late.
func (t *asks) deliver(m message) {
	t.mu.Lock()
	if a := t.waiting[m.id()]; a != nil && m.answers(a.question) {
		delete(t.waiting, a.id)
		a.answer <- append(message(nil), m...)
	}
	t.unlockIdle()
}

// fail ends all questions.
func (t *asks) fail(err error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	for id, a := range t.waiting {
		delete(t.waiting, id)
		close(a.answer)
	}
	t.unlockIdle()
}

// retire lets no question be added, and calls onIdle when none waits any more.
func (t *asks) retire() {
	t.mu.Lock()
	t.retired = true
	t.unlockIdle()
}

func (t *asks) unlockIdle() {
	var call func()
	if t.retired && len(t.waiting) == 0 {
		call, t.onIdle = t.onIdle, nil
	}
	t.mu.Unlock()
	if call != nil {
		call()
	}
}

// why returns the reason of fail.
func (t *asks) why() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
