package steer

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// upload is a request's body that can be sent once more as long as no answer has come: a server
// that says farewell, as each one does that ends in order, leaves the requests that came too late
// to the next connection, and whoever asks without a door between sends them there.
type upload struct {
	in *incoming

	mu      sync.Mutex
	more    sync.Cond
	begun   []byte // its beginning
	err     error  // after that
	reading bool   // more of it is on its way
	direct  bool   // the rest is read by the attempt itself: nothing is sent again
	settled bool
	counted int64 // of the door's keeping
}

// maxKeeping is how many bytes of all requests a door keeps at a time. What comes beyond
// that is passed on, and not sent again.
const maxKeeping = 16 << 20

var errBegun = errors.New("the request was sent in part, and there is too much of it to send it again")

func newUpload(in *incoming) *upload {
	b := &upload{in: in}
	b.more.L = &b.mu
	return b
}

// attempt is a body on one connection.
type attempt struct {
	*upload
	at     int
	closed bool
}

// attempt returns the body for one more connection, or errBegun.
func (b *upload) attempt() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.direct {
		return nil, errBegun
	}
	return &attempt{upload: b}, nil
}

// again says whether attempt still gives the body.
func (b *upload) again() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.direct
}

// settle says that the request is not sent again.
func (b *upload) settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.direct, b.settled = true, true
	b.in.d.keeping.Add(-b.counted)
	b.counted = 0
}

// Read implements io.Reader.
func (a *attempt) Read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		switch {
		case a.closed:
			return 0, http.ErrBodyReadAfterClose
		case a.at < len(a.begun):
			n := copy(p, a.begun[a.at:])
			a.at += n
			return n, nil
		case a.err != nil:
			return 0, a.err
		case a.reading:
			a.more.Wait()
		case a.direct || len(a.begun) >= maxKept:
			a.direct, a.begun, a.at = true, nil, 0
			a.mu.Unlock()
			n, err := a.in.body.Read(p)
			a.mu.Lock()
			return n, err
		default:
			a.reading = true
			go a.read()
		}
	}
}

// read reads a piece of the body. It is on its own, so that an attempt can be given up in the
// middle of it without ending the body.
func (b *upload) read() {
	d := b.in.d
	buf := d.buffer()
	defer d.buffers.Put(buf)
	n, err := b.in.body.Read(buf[:])
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun = append(b.begun, buf[:n]...)
	b.err, b.reading = err, false
	if !b.settled {
		b.counted += int64(n)
		b.direct = b.in.d.keeping.Add(int64(n)) > maxKeeping
	}
	b.more.Broadcast()
}

// Close implements io.Closer. It ends a Read that is under way, and the body with it if that
// can't be sent again.
func (a *attempt) Close() error {
	a.mu.Lock()
	a.closed = true
	a.more.Broadcast()
	direct := a.direct
	a.mu.Unlock()
	if direct {
		return a.in.close()
	}
	return nil
}
