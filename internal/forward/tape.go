package forward

import (
	"errors"
	"io"
	"sync"
)

// tapeLimit is how much of a request's body is kept so that it can be sent again.
const tapeLimit = 1 << 20

// errTapeOver is that a body cannot be sent again.
var errTapeOver = errors.New("its body is too large to be sent twice")

// tape reads a source that can be read once, and keeps what it read until it is
// sealed or too much, so that another reader can start over. Readers may overlap:
// a transport may still be in a Read of the body when it has already failed. What
// such a Read brings is kept for the reader that follows.
type tape struct {
	source io.Reader
	limit  int
	turn   chan struct{} // holds one token: the right to read source

	mu      sync.Mutex
	kept    []byte
	readers int   // the newest reader's number
	over    bool  // kept is not all that was read
	sealed  bool  // nobody will start over
	err     error // of source
}

func newTape(source io.Reader, limit int) *tape {
	t := &tape{source: source, limit: limit, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t
}

// next returns a reader from the start and cuts the one before off.
func (t *tape) next() (io.ReadCloser, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, errTapeOver
	}
	t.readers++
	return &tapeReader{tape: t, number: t.readers}, nil
}

// again reports whether there can be another reader. A request without a body has
// no tape, and can always be sent again.
func (t *tape) again() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.over
}

// seal stops keeping: the request was answered.
func (t *tape) seal() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sealed = true
}

type tapeReader struct {
	tape   *tape
	number int
	at     int // position in kept, while the tape is not over
}

// Close implements io.Closer. The source is its owner's to close.
func (r *tapeReader) Close() error {
	r.tape.mu.Lock()
	defer r.tape.mu.Unlock()
	r.number = 0
	return nil
}

// Read implements io.Reader.
func (r *tapeReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if n, done, err := r.replay(p); done {
		return n, err
	}
	t := r.tape
	<-t.turn
	defer func() { t.turn <- struct{}{} }()
	if n, done, err := r.replay(p); done { // another reader had the turn
		return n, err
	}
	n, err := t.source.Read(p)
	return r.record(p[:n], err)
}

// replay reads what is kept; done is false when the source has to be read.
func (r *tapeReader) replay(p []byte) (n int, done bool, err error) {
	t := r.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case r.number != t.readers:
		return 0, true, io.ErrClosedPipe
	case !t.over && r.at < len(t.kept):
		n = copy(p, t.kept[r.at:])
		r.at += n
		if t.sealed && r.at == len(t.kept) {
			t.kept, t.over = nil, true
		}
		return n, true, nil
	case t.err != nil:
		return 0, true, t.err
	}
	return 0, false, nil
}

// record keeps what the source gave.
func (r *tapeReader) record(p []byte, err error) (int, error) {
	t := r.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.err = err
	}
	current := r.number == t.readers
	switch {
	case t.over:
	case current && (t.sealed || len(t.kept)+len(p) > t.limit):
		t.kept, t.over = nil, true
	default:
		t.kept = append(t.kept, p...)
	}
	if !current {
		return 0, io.ErrClosedPipe
	}
	if !t.over {
		r.at = len(t.kept)
	}
	return len(p), err
}
