package steer

import "fmt"

// bodyKind is how the end of a body is known.
type bodyKind int

const (
	bodyNone    bodyKind = iota
	bodyLength           // by its length
	bodyChunked          // it says so
	bodyRest             // it has none: what follows is not read
)

// body follows a message's body as its bytes come by.
type body struct {
	kind   bodyKind
	left   int64 // of bodyLength
	chunks chunks
}

// done says whether all of the body has been taken.
func (b *body) done() bool {
	switch b.kind {
	case bodyNone:
		return true
	case bodyLength:
		return b.left == 0
	case bodyChunked:
		return b.chunks.at == chunksEnd
	}
	return false
}

// take returns how many bytes at the beginning of p belong to the body. After an
// error nothing is known of what follows those.
func (b *body) take(p []byte) (n int, err error) {
	switch b.kind {
	case bodyLength:
		n = int(min(int64(len(p)), b.left))
		b.left -= int64(n)
	case bodyChunked:
		return b.chunks.take(p)
	case bodyRest:
		n = len(p)
	}
	return n, nil
}

const (
	maxChunkDigits = 15
	maxChunkLine   = 4 << 10  // with its extensions
	maxTrailer     = 64 << 10 // all lines together
)

// chunksState is where in a chunked body one is.
type chunksState int

const (
	chunkSize   chunksState = iota
	chunkExt                // behind the size
	chunkSizeLF             // the line's last byte comes
	chunkData
	chunkCR
	chunkLF
	trailerStart // of a line
	trailerLine
	trailerLF
	lastLF
	chunksEnd
)

// chunks follows a chunked body: sizes, data, trailers.
type chunks struct {
	at     chunksState
	left   int64 // of the chunk
	digits int   // of the size
	line   int   // bytes of this line, or of all trailers
}

// take is [body.take].
func (c *chunks) take(p []byte) (n int, err error) {
	for n < len(p) && c.at != chunksEnd {
		if c.at == chunkData {
			k := min(int64(len(p)-n), c.left)
			n += int(k)
			if c.left -= k; c.left == 0 {
				c.at = chunkCR
			}
			continue
		}
		if !c.next(p[n]) {
			return n, fmt.Errorf("%w: byte %#02x in a chunked body", errOdd, p[n])
		}
		n++
	}
	return n, nil
}

// next takes a byte that is not data; ok is false if it can't be.
func (c *chunks) next(b byte) (ok bool) {
	switch c.at {
	case chunkSize:
		return c.size(b)
	case chunkExt:
		if c.line++; c.line > maxChunkLine {
			return false
		}
		if b == '\r' {
			c.at = chunkSizeLF
			return true
		}
		return b >= ' ' && b != 0x7f || b == '\t'
	case chunkSizeLF:
		c.at = chunkData
		if c.left == 0 {
			c.at, c.line = trailerStart, 0
		}
		return b == '\n'
	case chunkCR:
		c.at = chunkLF
		return b == '\r'
	case chunkLF:
		c.at, c.digits, c.line = chunkSize, 0, 0
		return b == '\n'
	case trailerStart, trailerLine:
		return c.trailer(b)
	case trailerLF:
		c.at = trailerStart
		return b == '\n'
	default: // lastLF
		c.at = chunksEnd
		return b == '\n'
	}
}

func (c *chunks) size(b byte) bool {
	var v int64
	switch {
	case b >= '0' && b <= '9':
		v = int64(b - '0')
	case b >= 'a' && b <= 'f':
		v = int64(b-'a') + 10
	case b >= 'A' && b <= 'F':
		v = int64(b-'A') + 10
	case c.digits > 0 && b == ';':
		c.at = chunkExt
		return true
	case c.digits > 0 && b == '\r':
		c.at = chunkSizeLF
		return true
	default:
		return false
	}
	if c.digits++; c.digits > maxChunkDigits {
		return false
	}
	c.left = c.left<<4 | v // it is 0 before the first digit
	return true
}

func (c *chunks) trailer(b byte) bool {
	if c.line++; c.line > maxTrailer {
		return false
	}
	switch {
	case b == '\r' && c.at == trailerStart:
		c.at = lastLF
	case b == '\r':
		c.at = trailerLF
	case c.at == trailerStart && !tokenByte(b):
		return false
	default:
		c.at = trailerLine
		return b >= ' ' && b != 0x7f || b == '\t'
	}
	return true
}
