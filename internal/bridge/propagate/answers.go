package propagate

import (
	"errors"

	"github.com/bightdev/bight/internal/steer"
)

// answers follows what a server says, to know which requests it has answered.
type answers struct {
	ended  func(stream uint32)
	frames bool // it speaks HTTP/2

	blind bool
	kept  []byte // of what is not complete
	skip  int    // bytes until the next frame

	asked []request // not answered yet
	body  *steer.Body
}

// expect is told that a request was sent.
func (a *answers) expect(r request) {
	if !a.frames && r.method != "" {
		a.asked = append(a.asked, r)
	}
}

// take is told what comes next.
func (a *answers) take(p []byte) {
	if a.blind || len(p) == 0 {
		return
	}
	if len(a.kept) > 0 {
		p = append(a.kept, p...)
		a.kept = nil
	}
	for len(p) > 0 && !a.blind {
		if a.frames {
			p = a.takeFrame(p)
		} else {
			p = a.takeAnswer(p)
		}
	}
}

// takeFrame reads what p has of a frame, and returns the rest.
func (a *answers) takeFrame(p []byte) []byte {
	if a.skip > 0 {
		n := min(a.skip, len(p))
		a.skip -= n
		return p[n:]
	}
	if len(p) < frameHead {
		a.kept = append([]byte{}, p...)
		return nil
	}
	f := readFrame(p)
	a.skip = f.length
	switch {
	case f.kind == frameReset, (f.kind == frameData || f.kind == frameHeaders) && f.flags&flagEndStream != 0:
		a.ended(f.stream)
	}
	return p[frameHead:]
}

// takeAnswer reads what p has of an answer of HTTP/1, and returns the rest. An answer
// that lasts as long as its connection is left to the end of that.
func (a *answers) takeAnswer(p []byte) []byte {
	if a.body == nil {
		if len(a.asked) == 0 {
			a.blind = true
			return nil
		}
		h, err := steer.ReadAnswer(p, a.asked[0].method)
		switch {
		case errors.Is(err, steer.ErrMore):
			a.kept = append([]byte{}, p...)
			return nil
		case err != nil:
			a.blind = true
			return nil
		case h.Status < 200 && h.Status != 101:
			return p[h.Size():]
		}
		a.body, p = h.Body(), p[h.Size():]
	}
	if a.body.Rest() {
		a.blind = true
		return nil
	}
	n, err := a.body.Take(p)
	switch {
	case err != nil:
		a.blind = true
	case a.body.Done():
		a.ended(a.asked[0].stream)
		a.asked, a.body = a.asked[1:], nil
	}
	return p[n:]
}
