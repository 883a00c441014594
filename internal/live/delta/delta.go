// Package delta says one version of a file in terms of another: which stretches
// of the old one to copy, and the bytes between them.
//
// The main type is [Index], which finds stretches of an old version. Making one
// costs a pass over the file and is done while nobody waits; [Index.Encode] then
// costs little more than comparing the two versions, because it follows the
// old version as long as that agrees and looks for a new place only where it
// does not. Two builds of a program differ in many small places (addresses) and
// have long shifted stretches; both cost a few bytes each.
//
// An Index is read only and may be shared; the functions keep no state. A delta
// is no proof of anything: who applies one checks the hash of what comes out.
package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime/debug"
)

const (
	word = 8 // bytes that are compared and hashed at a time

	// anchorBits selects which positions are anchors, places that are found
	// again wherever they have moved to: on average one of 2^anchorBits. Content
	// selects them, not distance, so a shift does not hide them.
	anchorBits = 6

	// minFollow and minMove are the shortest stretches worth an instruction: at
	// the place that is followed already, and at a new place.
	minFollow = 12
	minMove   = 32

	multiplier = 0x9E3779B97F4A7C15 // spreads a word over all bits
)

// MaxSize is the size of the largest file that an [Index] is made for.
const MaxSize = math.MaxUint32 - 1

// Index finds anchors of an old version.
type Index struct {
	size  int
	shift uint
	table []uint32 // hash of an anchor -> its position + 1
}

// NewIndex indexes old. It takes about a twelfth of its size in memory at most.
func NewIndex(old []byte) *Index {
	n := max(1, bits.Len(uint(len(old)>>anchorBits)))
	x := &Index{size: len(old), shift: uint(64 - n), table: make([]uint32, 1<<n)}
	if len(old) > MaxSize {
		return x
	}
	var last uint64
	for p := 0; p+word <= len(old); p++ {
		v := binary.LittleEndian.Uint64(old[p:])
		h := v * multiplier
		// In a run of one byte only the first place is an anchor.
		if !anchor(h) || v == last {
			continue
		}
		last = v
		x.table[x.slot(h)] = uint32(p) + 1
	}
	return x
}

// Size is the size of the version that x was made from.
func (x *Index) Size() int { return x.size }

// Bytes is how much memory x takes, about.
func (x *Index) Bytes() int { return 4 * len(x.table) }

func anchor(h uint64) bool { return h>>(64-anchorBits) == 0 }

// slot uses the bits below those that made h an anchor.
func (x *Index) slot(h uint64) uint64 { return h << anchorBits >> x.shift }

// bufferSize is how much is written at a time.
const bufferSize = 64 << 10

// encoder is the state of one [Index.Encode].
type encoder struct {
	w        io.Writer
	err      error  // of w
	out      []byte // not yet written
	old, new []byte
	done     int // what of new is encoded
	offset   int // old position - new position of the last copy
}

// Encode writes to w what makes new out of old, the version that x was made
// from, as it finds it: who reads can begin to apply it.
//
// The form is a sequence of: the number of literal bytes, these bytes, the
// number of bytes to copy, and by how much the distance between the old and the
// new position differs from that of the copy before. Numbers are varints. It
// ends when new is complete.
func (x *Index) Encode(w io.Writer, old, new []byte) error {
	e := &encoder{w: w, out: make([]byte, 0, bufferSize+3*binary.MaxVarintLen64), old: old, new: new}
	if len(old) == x.size {
		x.encode(e)
	}
	if e.done < len(new) {
		e.emit(len(new), 0, e.offset)
	}
	e.flush()
	return e.err
}

func (x *Index) encode(e *encoder) {
	new, offset := e.new, 0
	for p := 0; p+word <= len(new) && e.err == nil; {
		v := binary.LittleEndian.Uint64(new[p:])
		if n := e.match(p, offset, v); n >= minFollow {
			e.copy(p, n, offset)
			p += n
			continue
		}
		if h := v * multiplier; anchor(h) {
			if c := x.table[x.slot(h)]; c != 0 {
				at := int(c) - 1 - p
				n := e.match(p, at, v)
				if n > 0 && at != offset && n+e.before(p, at) >= minMove {
					e.copy(p, n, at)
					offset = at
					p += n
					continue
				}
			}
		}
		p++
	}
}

// match returns how far new from p on agrees with old at p+offset; v is the word
// at p. Less than a word is 0.
func (e *encoder) match(p, offset int, v uint64) int {
	q := p + offset
	if q < 0 || q+word > len(e.old) || binary.LittleEndian.Uint64(e.old[q:]) != v {
		return 0
	}
	return word + common(e.old[q+word:], e.new[p+word:])
}

// before returns how far the versions agree before p, in what is not yet encoded.
func (e *encoder) before(p, offset int) int {
	n := 0
	for p-n > e.done && p+offset-n > 0 && e.new[p-n-1] == e.old[p+offset-n-1] {
		n++
	}
	return n
}

// copy encodes that new[p:p+n] is in old, and what is agreed on before it.
func (e *encoder) copy(p, n, offset int) {
	b := e.before(p, offset)
	e.emit(p-b, n+b, offset)
}

// emit encodes the literal bytes up to p and then a copy of n bytes.
func (e *encoder) emit(p, n, offset int) {
	lit := e.new[e.done:p]
	e.out = binary.AppendUvarint(e.out, uint64(len(lit)))
	for len(lit) > 0 && e.err == nil {
		k := min(len(lit), max(1, bufferSize-len(e.out)))
		e.out = append(e.out, lit[:k]...)
		lit = lit[k:]
		if len(e.out) >= bufferSize {
			e.flush()
		}
	}
	e.out = binary.AppendUvarint(e.out, uint64(n))
	e.out = binary.AppendVarint(e.out, int64(offset-e.offset))
	e.done, e.offset = p+n, offset
	if len(e.out) >= bufferSize {
		e.flush()
	}
}

func (e *encoder) flush() {
	if e.err == nil && len(e.out) > 0 {
		_, e.err = e.w.Write(e.out)
	}
	e.out = e.out[:0]
}

// common returns the length of the common start of a and b.
func common(a, b []byte) int {
	const block = 256
	n, i := min(len(a), len(b)), 0
	for i+block <= n && bytes.Equal(a[i:i+block], b[i:i+block]) {
		i += block
	}
	for i+word <= n {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
		i += word
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// ErrCorrupt is what a delta that can't be applied to its old version fails with.
var ErrCorrupt = errors.New("delta does not fit its base")

// Reader is where [Apply] reads a delta from.
type Reader interface {
	io.Reader
	io.ByteReader
}

// Apply reads one delta from r and writes the size bytes that it makes out of
// old to w, in larger pieces. It reads no byte behind the delta.
func Apply(w io.Writer, old []byte, r Reader, size int64) error {
	a := applier{w: w, buf: make([]byte, 0, bufferSize)}
	var offset, done int64
	for done < size {
		lit, err := binary.ReadUvarint(r)
		if err != nil {
			return corrupt("literal length", err)
		}
		if lit > uint64(size-done) {
			return fmt.Errorf("%w: literal of %d bytes at %d of %d", ErrCorrupt, lit, done, size)
		}
		if err := a.literal(r, int64(lit)); err != nil {
			return err
		}
		done += int64(lit)
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return corrupt("copy length", err)
		}
		d, err := binary.ReadVarint(r)
		if err != nil {
			return corrupt("copy offset", err)
		}
		if lit == 0 && n == 0 {
			return fmt.Errorf("%w: empty instruction at %d", ErrCorrupt, done)
		}
		offset += d
		q := done + offset
		if n > uint64(size-done) || n > 0 && (q < 0 || q > int64(len(old)) || n > uint64(int64(len(old))-q)) {
			return fmt.Errorf("%w: copy of %d bytes from %d at %d of %d", ErrCorrupt, n, q, done, size)
		}
		if n > 0 {
			if err := a.copy(old[q : q+int64(n)]); err != nil {
				return err
			}
		}
		done += int64(n)
	}
	return a.flush()
}

// applier collects what comes out, since instructions are mostly small.
type applier struct {
	w   io.Writer
	buf []byte
}

func (a *applier) literal(r io.Reader, n int64) error {
	for n > 0 {
		room := a.buf[len(a.buf):min(int64(cap(a.buf)), int64(len(a.buf))+n)]
		if _, err := io.ReadFull(r, room); err != nil {
			return corrupt("literal", err)
		}
		a.buf = a.buf[:len(a.buf)+len(room)]
		n -= int64(len(room))
		if err := a.full(); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) copy(p []byte) error {
	for len(p) > 0 {
		n := copy(a.buf[len(a.buf):cap(a.buf)], p)
		a.buf = a.buf[:len(a.buf)+n]
		p = p[n:]
		if err := a.full(); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) full() error {
	if len(a.buf) < cap(a.buf) {
		return nil
	}
	return a.flush()
}

func (a *applier) flush() error {
	_, err := a.w.Write(a.buf)
	a.buf = a.buf[:0]
	return err
}

func corrupt(what string, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("delta: read %s: %w", what, err)
}

// Guard runs f, which reads memory that [Map] has given. That the file was cut
// short under it is an ErrCorrupt, not the end of the program.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			fault, ok := r.(interface{ Addr() uintptr })
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%w: the base was cut short (fault at %#x)", ErrCorrupt, fault.Addr())
		}
	}()
	return f()
}
