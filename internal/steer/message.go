package steer

// What another package needs in order to read HTTP/1 as strictly as doors do.
var (
	// ErrMore says that a head is not complete.
	ErrMore = errMore
	// ErrOdd says that a message is not one that everybody reads the same way. It is
	// to be passed on as it is, and so is all that follows it.
	ErrOdd = errOdd
)

// Preface is what an HTTP/2 client says first.
const Preface = preface

// Sniff says what a client speaks, from the first bytes that it sent; known is false
// while they could be the beginning of several things.
func Sniff(p []byte) (k Kind, known bool) {
	switch sniff(p) {
	case unknown:
		return "", false
	case http1:
		return KindHTTP1, true
	case http2:
		return KindHTTP2, true
	}
	return KindRaw, true
}

// Head is the head of an HTTP/1 request or answer that can be read in one way only.
type Head struct {
	Method, Target string // of a request
	Status         int    // of an answer

	head head
}

// ReadRequest reads the head of a request at the beginning of p. The error is ErrMore
// or ErrOdd.
func ReadRequest(p []byte) (*Head, error) {
	r, err := parseRequest(p)
	if err != nil {
		return nil, err
	}
	return &Head{Method: r.method, Target: r.target, head: r.head}, nil
}

// ReadAnswer reads the head at the beginning of p of the answer to a request with the
// method. The error is ErrMore or ErrOdd.
func ReadAnswer(p []byte, method string) (*Head, error) {
	a, err := parseAnswer(p, method)
	if err != nil {
		return nil, err
	}
	return &Head{Status: a.status, head: a.head}, nil
}

// Size is how long the head is, with the empty line at its end.
func (h *Head) Size() int { return h.head.size }

// Value returns the value of a header, and whether it is there. One that is given
// more than once has the value "a, b".
func (h *Head) Value(name string) (value string, has bool) { return h.head.value(name) }

// Says looks for a word in a header that is a list of words.
func (h *Head) Says(name, word string) bool { return h.head.says(name, word) }

// Body returns what follows the message's body.
func (h *Head) Body() *Body { return &Body{h.head.body} }

// Body follows the body of a message as its bytes come by.
type Body struct{ body body }

// Take returns how many bytes at the beginning of p belong to the body. After an
// error nothing is known of what follows those.
func (b *Body) Take(p []byte) (n int, err error) { return b.body.take(p) }

// Done says whether all of the body has been taken.
func (b *Body) Done() bool { return b.body.done() }

// Rest says that only the end of the connection ends the body.
func (b *Body) Rest() bool { return b.body.kind == bodyRest }
