package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/bightdev/bight/internal/tree"
)

const (
	maxPath = 4096
	maxText = 64 << 10
)

// encoder appends values to b.
type encoder struct{ b []byte }

func (e *encoder) byte(v byte)              { e.b = append(e.b, v) }
func (e *encoder) uint(v uint64)            { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int)                { e.uint(uint64(max(v, 0))) }
func (e *encoder) duration(v time.Duration) { e.uint(uint64(max(v, 0))) }
func (e *encoder) hash(v tree.Hash)         { e.b = append(e.b, v[:]...) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func (e *encoder) string(v string) {
	e.uint(uint64(len(v)))
	e.b = append(e.b, v...)
}

// decoder takes values off b. The first thing that is wrong stays in err, and
// everything after it is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrFrame}, args...)...)
	}
	d.b = nil
}

// end reports what was wrong with the message, be it too short or too long.
func (d *decoder) end(what string) error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("%s: %w", what, d.err)
	}
	return nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("too short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("boolean %d", v)
	}
	return v == 1
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int64() int64 {
	v := d.uint()
	if v > math.MaxInt64 {
		d.fail("number %d", v)
		return 0
	}
	return int64(v)
}

func (d *decoder) int() int {
	v := d.uint()
	if v > math.MaxInt32 {
		d.fail("number %d", v)
		return 0
	}
	return int(v)
}

func (d *decoder) duration() time.Duration { return time.Duration(d.int64()) }

// count is a number of things that take at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.int()
	if n > len(d.b)/size {
		d.fail("%d things in %d bytes", n, len(d.b))
		return 0
	}
	return n
}

func (d *decoder) hash() tree.Hash {
	var h tree.Hash
	if len(d.b) < len(h) {
		d.fail("too short")
		return h
	}
	d.b = d.b[copy(h[:], d.b):]
	return h
}

func (d *decoder) bytes(limit int) []byte {
	n := d.uint()
	if n > uint64(len(d.b)) || n > uint64(limit) {
		d.fail("text of %d bytes", n)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	if n == 0 {
		return nil
	}
	return append([]byte(nil), v...)
}

func (d *decoder) string(limit int) string { return string(d.bytes(limit)) }
