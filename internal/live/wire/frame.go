// Package wire is the protocol between a session and an agent: what is said on
// the one stream on which they agree about files and the process.
//
// The main types are [Reader] and [Writer], which move frames (a kind, a length
// and a body), and the message types that a body holds. Every length is checked
// before it is believed; paths are any bytes. Requests are answered in their
// order; events of the process come in between. docs/architecture.md says how
// the two sides converge with it.
//
// A Reader belongs to one goroutine, a Writer to one at a time. The package
// imports the standard library and package tree only (it is part of the agent).
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol. Both sides name theirs in their first
// message and a difference is refused, since the agent is of the same release as
// the session that put it there.
const Version = 1

// Stream headers tell the agent what a stream is for.
const (
	HeaderLive = "live"  // messages of this package
	HeaderDial = "dial " // followed by a port: bytes to and from that port
)

// Kind is the kind of a frame.
type Kind byte

// What a session says. Each is answered once, except Data and Abort or End,
// which belong to the Patch before them.
const (
	KindHello   Kind = 1 + iota // Hello -> State
	KindState                   // nothing -> State
	KindTree                    // nothing -> Entries..., TreeEnd
	KindVerify                  // the same, after reading every file again
	KindPatch                   // PatchHeader, then Data..., End -> Applied or Refused
	KindData                    // some bytes of a patch's content
	KindEnd                     // the content is complete
	KindAbort                   // forget the patch -> Refused
	KindRestart                 // nothing -> State
	KindTail                    // nothing -> Output
)

// What an agent says.
const (
	KindStateIs Kind = 65 + iota // State
	KindEntries                  // some entries of the tree
	KindTreeEnd                  // TreeEnd
	KindApplied                  // Applied
	KindRefused                  // Refused
	KindOutput                   // what the process has printed last
	KindEvent                    // Event, at any time after the Hello
)

// MaxFrame is the largest body.
const MaxFrame = 1 << 20

// DataSize is how much of a patch's content goes into a frame.
const DataSize = 128 << 10

// ErrFrame is what a frame that can't be right fails with.
var ErrFrame = errors.New("malformed message")

// Reader reads frames.
type Reader struct {
	r    *bufio.Reader
	body []byte
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 32<<10)} }

// Next returns the next frame. The body is valid until the next call. The error
// is io.EOF only between frames.
func (r *Reader) Next() (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r.r, head[:1]); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(r.r, head[1:]); err != nil {
		return 0, nil, noEOF(err)
	}
	n := binary.LittleEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: frame %d of %d bytes", ErrFrame, head[0], n)
	}
	// The body grows as bytes come, so a length that lies costs nothing.
	r.body = r.body[:0]
	for len(r.body) < int(n) {
		step := min(int(n)-len(r.body), DataSize)
		at := len(r.body)
		r.body = append(r.body, make([]byte, step)...)
		if _, err := io.ReadFull(r.r, r.body[at:]); err != nil {
			return 0, nil, noEOF(err)
		}
	}
	return Kind(head[0]), r.body, nil
}

// Shrink lets go of a large body that is no longer needed.
func (r *Reader) Shrink() {
	if cap(r.body) > 4<<10 {
		r.body = nil
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes frames.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes a frame in one Write.
func (w *Writer) Send(k Kind, body []byte) error {
	if len(body) > MaxFrame {
		return fmt.Errorf("%w: frame %d of %d bytes", ErrFrame, k, len(body))
	}
	w.buf = append(w.buf[:0], byte(k))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(body)))
	w.buf = append(w.buf, body...)
	_, err := w.w.Write(w.buf)
	if cap(w.buf) > 2*DataSize {
		w.buf = nil
	}
	return err
}
