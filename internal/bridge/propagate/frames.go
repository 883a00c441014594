package propagate

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/net/http2/hpack"
)

const (
	frameHead = 9
	// plainFrame is the longest frame that everybody takes.
	plainFrame = 16 << 10
	// maxHead is the longest head that is read.
	maxHead = 256 << 10
	// maxTable bounds what a client's compression may make us remember.
	maxTable = 64 << 10
)

// Types and flags of frames that matter.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameContinuation = 9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// frame is the head of a frame.
type frame struct {
	length      int
	kind, flags byte
	stream      uint32
}

// readFrame reads a frame's head; p has all of it.
func readFrame(p []byte) frame {
	return frame{
		length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		kind:   p[3], flags: p[4],
		stream: binary.BigEndian.Uint32(p[5:]) &^ (1 << 31),
	}
}

// append adds the frame's head to p.
func (f frame) append(p []byte) []byte {
	p = append(p, byte(f.length>>16), byte(f.length>>8), byte(f.length), f.kind, f.flags)
	return binary.BigEndian.AppendUint32(p, f.stream)
}

// frames is what a client's HTTP/2 connection has come to.
type frames struct {
	skip  int // bytes until the next frame
	hpack *hpack.Decoder
	open  *frame              // a head that goes on in the next frame
	head  map[string][]string // of that
	size  int                 // of that, up to here
}

// takeFrame reads what e.text[i:] has of a frame. Heads are read as a whole. A field
// is added to the end of one, in a form that leaves alone what the compression of
// later ones rests on; so all other bytes stay what they are.
func (r *requests) takeFrame(e *edit, i int) int {
	s := &r.frames
	if s.skip > 0 {
		n := min(s.skip, len(e.text)-i)
		s.skip -= n
		return i + n
	}
	p := e.text[i:]
	if len(p) < frameHead {
		return r.hold(e, i)
	}
	f := readFrame(p)
	switch {
	case (s.open != nil) != (f.kind == frameContinuation) || s.open != nil && s.open.stream != f.stream:
		return r.giveUp(i)
	case f.kind == frameReset:
		r.given(f.stream)
	case f.kind == frameHeaders, f.kind == frameContinuation:
		switch {
		case s.size+f.length > maxHead:
			return r.giveUp(i)
		case len(p) < frameHead+f.length:
			return r.hold(e, i)
		case !r.readHead(e, i, f):
			return r.giveUp(i)
		}
		return i + frameHead + f.length
	}
	s.skip = f.length
	return i + frameHead
}

// hold keeps what there is of a frame until there is more.
func (r *requests) hold(e *edit, i int) int {
	r.held = e.text[i:]
	if !e.ours {
		r.held = bytes.Clone(r.held)
	}
	return len(e.text)
}

// readHead reads one frame of a head, at e.text[i:].
func (r *requests) readHead(e *edit, i int, f frame) (ok bool) {
	s := &r.frames
	start, end, ok := fragment(e.text[i:], f)
	if !ok {
		return false
	}
	if s.hpack == nil {
		s.hpack = hpack.NewDecoder(4<<10, func(h hpack.HeaderField) {
			s.head[h.Name] = append(s.head[h.Name], h.Value)
		})
		s.hpack.SetAllowedMaxDynamicTableSize(maxTable)
		s.hpack.SetMaxStringLength(maxTable)
	}
	if s.open == nil {
		s.head = map[string][]string{}
	}
	if _, err := s.hpack.Write(e.text[i+start : i+end]); err != nil {
		return false
	}
	if f.flags&flagEndHeaders == 0 {
		s.open = &f
		s.size += f.length
		return true
	}
	s.open, s.size = nil, 0
	if s.hpack.Close() != nil {
		return false
	}
	head := s.head
	s.head = nil
	if f.stream <= r.last {
		return true // trailers
	}
	r.last = f.stream
	add := r.seen(request{f.stream, "", func(name string) (string, bool) {
		v := head[name]
		return strings.Join(v, ", "), len(v) > 0
	}})
	if add != nil && !slices.Equal(head[":method"], []string{"CONNECT"}) {
		extend(e, i, end, f, *add)
	}
	return true
}

// fragment returns where in a frame with its head the compressed fields are.
func fragment(p []byte, f frame) (start, end int, ok bool) {
	start, end = frameHead, frameHead+f.length
	if f.kind == frameHeaders && f.flags&flagPadded != 0 {
		if f.length == 0 {
			return 0, 0, false
		}
		end -= int(p[start])
		start++
	}
	if f.kind == frameHeaders && f.flags&flagPriority != 0 {
		start += 5
	}
	return start, end, start <= end
}

// extend adds a field to a head that ends in the frame at e.text[i:], where its own
// fields end at end: in the frame, or if that gets too long in one more.
func extend(e *edit, i, end int, f frame, add field) {
	var block bytes.Buffer
	// Sensitive fields are never put into the table that both sides keep. Writing to
	// a buffer does not fail.
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: add.name, Value: add.value, Sensitive: true})
	after := i + frameHead + f.length
	if f.length+block.Len() <= plainFrame {
		f.length += block.Len()
		e.replace(i, i+frameHead, f.append(nil))
		e.replace(i+end, i+end, block.Bytes())
		return
	}
	more := frame{block.Len(), frameContinuation, flagEndHeaders, f.stream}
	f.flags &^= flagEndHeaders
	e.replace(i, i+frameHead, f.append(nil))
	e.replace(after, after, append(more.append(nil), block.Bytes()...))
}
