package stream

// segmentSize holds four of the largest frames.
const segmentSize = 4 * (headerSize + maxPayload)

// spareSegments is how many more unused segments a replay keeps for later than it
// uses: they come and go by many when much is confirmed at once, and few are needed
// when little is under way.
const spareSegments = 16

// replay is the log of the frames that were or will be sent and that the peer
// has not confirmed. Positions count the bytes of sequenced frames since the
// session began; acked <= sent <= end. A frame never spans two segments, so
// each can be written and read where it lies.
//
// It is not safe for concurrent use, but bytes that next returned may be read
// without the lock until written is called.
type replay struct {
	segs    []*segment // contiguous, oldest first; the last one is being filled
	free    []*segment
	acked   uint64
	sent    uint64
	end     uint64
	writing bool   // the bytes from pinned on are being read by a writer
	pinned  uint64 // meaningful while writing
}

type segment struct {
	start uint64 // position of buf[0]
	n     int    // bytes used
	buf   [segmentSize]byte
}

func (g *segment) end() uint64 { return g.start + uint64(g.n) }

// unsent is the number of bytes that wait for the transport.
func (r *replay) unsent() int { return int(r.end - r.sent) }

// kept is the number of bytes that the peer has not confirmed.
func (r *replay) kept() int { return int(r.end - r.acked) }

// room returns how large a frame fits the last segment.
func (r *replay) room() int {
	if len(r.segs) == 0 {
		return segmentSize
	}
	return segmentSize - r.segs[len(r.segs)-1].n
}

// add appends a frame with a payload of f.length bytes and returns the payload
// for the caller to fill in before it releases the lock.
func (r *replay) add(f frame) []byte {
	size := headerSize + f.length
	if len(r.segs) == 0 || r.room() < size {
		r.segs = append(r.segs, r.segment())
	}
	g := r.segs[len(r.segs)-1]
	b := g.buf[g.n : g.n+size]
	g.n += size
	r.end += uint64(size)
	f.put(b)
	return b[headerSize:]
}

func (r *replay) segment() *segment {
	var g *segment
	if n := len(r.free); n > 0 {
		g, r.free[n-1] = r.free[n-1], nil
		r.free = r.free[:n-1]
	} else {
		g = new(segment)
	}
	g.start, g.n = r.end, 0
	return g
}

// next appends to bufs the unsent bytes, whole frames of about limit bytes in
// all, and counts them as sent. They stay valid until written.
func (r *replay) next(bufs [][]byte, limit int) [][]byte {
	r.writing, r.pinned = true, r.sent
	for _, g := range r.segs {
		if g.end() <= r.sent || limit <= 0 {
			continue
		}
		from := int(r.sent - g.start)
		to := g.n
		if to-from > limit {
			for to = from; to-from < limit; {
				to += frameSize(g.buf[to:])
			}
		}
		bufs = append(bufs, g.buf[from:to:to])
		limit -= to - from
		r.sent += uint64(to - from)
	}
	return bufs
}

// frameSize is the size of the frame that b begins with.
func frameSize(b []byte) int { return headerSize + int(b[1])<<16 + int(b[2])<<8 + int(b[3]) }

// written says that what next returned is no longer being read.
func (r *replay) written() {
	r.writing = false
	r.trim()
}

// ack drops what the peer has confirmed. It reports false for a position that
// was never sent or that was confirmed before.
func (r *replay) ack(pos uint64) bool {
	if pos < r.acked || pos > r.sent {
		return false
	}
	r.acked = pos
	r.trim()
	return true
}

// rewind makes pos, up to which the peer has received everything, the next
// position to send. It reports false when that is not possible: peers receive whole
// frames.
func (r *replay) rewind(pos uint64) bool {
	if pos < r.acked || !r.begins(pos) {
		return false
	}
	r.sent, r.acked = pos, pos
	r.trim()
	return true
}

// begins reports whether a frame begins at pos, or will.
func (r *replay) begins(pos uint64) bool {
	for _, g := range r.segs {
		if pos >= g.end() {
			continue
		}
		at := g.start
		for at < pos {
			at += uint64(frameSize(g.buf[at-g.start:]))
		}
		return at == pos
	}
	return pos == r.end
}

func (r *replay) trim() {
	limit := r.acked
	if r.writing {
		limit = min(limit, r.pinned)
	}
	for len(r.segs) > 0 && r.segs[0].end() <= limit {
		g := r.segs[0]
		if len(r.segs) == 1 {
			g.start, g.n = r.end, 0
			return
		}
		r.segs[0] = nil
		r.segs = r.segs[1:]
		if len(r.free) < len(r.segs)+spareSegments {
			r.free = append(r.free, g)
		}
	}
}

// idle gives the memory back that is not needed while nothing is under way.
func (r *replay) idle() {
	if r.kept() == 0 && !r.writing {
		r.release()
	}
}

// release gives all memory back.
func (r *replay) release() { r.segs, r.free = nil, nil }
