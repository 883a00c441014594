package propagate

import (
	"bytes"
	"errors"
	"strings"

	"github.com/bightdev/bight/internal/steer"
)

// field is a line of a head.
type field struct{ name, value string }

// request is what matters of a request.
type request struct {
	stream uint32 // its number on the connection: of the stream, or from 1 on
	method string // of HTTP/1
	value  func(name string) (value string, has bool)
}

// where is what the next byte of a client belongs to.
type where int

const (
	atHead  where = iota // of HTTP/1, or the first word
	atBody               // of HTTP/1
	atFrame              // of HTTP/2
	blind                // nobody knows, or wants to
)

// requests follows what a client says.
type requests struct {
	// seen is told of each request when its head is complete; the field that it
	// returns is added. given is told of one that the client has given up.
	seen  func(request) (add *field)
	given func(stream uint32)

	at   where
	held []byte // of what was said, not passed on yet
	last uint32 // stream

	passed  []byte // of a head that is not complete: passed on already
	body    *steer.Body
	after   where // the body: where the connection goes on
	upgrade bool  // to HTTP/2 was asked for by the last request
	frames  frames
}

// take is told what comes next and returns what is to be passed on. Both may be the
// same bytes.
func (r *requests) take(p []byte) (out []byte) {
	e := edit{text: p}
	if len(r.held) > 0 {
		p = append(r.held, p...)
		e, r.held = edit{text: p, ours: true}, nil
	}
	for i := 0; i < len(p) && r.at != blind; {
		switch r.at {
		case atHead:
			i = r.takeHead(&e, i)
		case atBody:
			i = r.takeBody(p, i)
		case atFrame:
			i = r.takeFrame(&e, i)
		}
	}
	return e.result(len(p) - len(r.held))
}

// rest returns what was held back; nothing is read after it.
func (r *requests) rest() []byte {
	held := r.held
	r.at, r.held, r.passed = blind, nil, nil
	return held
}

// takeHead reads a head from e.text[i:] and returns where it ends. What is there of
// one that is not complete is passed on, since others than HTTP/1 may begin the same
// way, but for the beginning of the empty line: a field is added in front of that.
func (r *requests) takeHead(e *edit, i int) int {
	all := e.text[i:]
	if len(r.passed) > 0 {
		all = append(r.passed, all...)
	}
	kind, known := steer.Sniff(all)
	switch {
	case !known:
		r.pass(all)
		return len(e.text)
	case kind == steer.KindHTTP2 && (r.last == 0 || r.upgrade):
		i += len(steer.Preface) - len(r.passed)
		r.at, r.passed = atFrame, nil
		return i
	case kind != steer.KindHTTP1:
		return r.giveUp(i)
	}
	h, err := steer.ReadRequest(all)
	switch {
	case errors.Is(err, steer.ErrMore):
		if bytes.HasSuffix(all, []byte("\r\n\r")) {
			r.held = []byte("\r")
		}
		r.pass(all[:len(all)-len(r.held)])
		return len(e.text)
	case err != nil || h.Method == "CONNECT":
		return r.giveUp(i)
	}
	end := i + h.Size() - len(r.passed)
	r.passed = nil
	r.last++
	add := r.seen(request{r.last, h.Method, h.Value})
	if add != nil && strings.HasPrefix(h.Target, "/") { // else a proxy is asked, for anything
		e.replace(end-2, end-2, []byte(add.name+": "+add.value+"\r\n"))
	}
	r.body, r.at, r.after = h.Body(), atBody, atHead
	r.upgrade = h.Says("upgrade", "h2c")
	if _, upgrade := h.Value("upgrade"); upgrade && !r.upgrade {
		r.after = blind
	}
	return r.takeBody(e.text, end)
}

// pass keeps what there is of a head. If some was kept before, the bytes are ours.
func (r *requests) pass(p []byte) {
	if len(r.passed) == 0 {
		p = bytes.Clone(p)
	}
	r.passed = p
}

// takeBody skips what text[i:] has of a body.
func (r *requests) takeBody(text []byte, i int) int {
	n, err := r.body.Take(text[i:])
	switch i += n; {
	case err != nil:
		return r.giveUp(i)
	case r.body.Done():
		r.at, r.body = r.after, nil
	}
	return i
}

func (r *requests) giveUp(i int) int {
	r.at, r.passed, r.body = blind, nil, nil
	return i
}

// edit is a text of which parts are replaced from its beginning to its end.
type edit struct {
	text []byte
	ours bool // nobody else has text
	done int  // up to there it is in out
	out  []byte
}

// replace puts other bytes in the place of text[i:j].
func (e *edit) replace(i, j int, by []byte) {
	if e.out == nil {
		e.out = make([]byte, 0, len(e.text)+len(by)+64)
	}
	e.out = append(append(e.out, e.text[e.done:i]...), by...)
	e.done = j
}

// result returns the text up to end, which is at least where replacing has got to.
func (e *edit) result(end int) []byte {
	if e.out == nil {
		return e.text[:end]
	}
	return append(e.out, e.text[e.done:end]...)
}
