package stream

import "time"

// Which stream sends next. Whatever is in the log already goes out in its order,
// so little is put there ahead of the transport, and a stream waits for its turn
// with what it has pending.

const (
	// sparseBurst is how much a stream may send in a round trip before it has to
	// stand behind those that sent less.
	sparseBurst = 16 << 10
	// sparseReserve is how much sparse streams together may have under way when
	// others have used up the allowance.
	sparseReserve = 64 << 10
	// sparseAhead is how much sparse streams send before one of the others has a
	// turn, so that many of them starve nobody.
	sparseAhead = 64 << 10
	// crowd is how many waiting streams make frames smaller.
	crowd = 8
)

// turns is the streams whose pending bytes wait. Those that have sent little
// since the last round began go before the others; within either kind each
// stream sends one frame at a time. A round is over when everything that was
// under way at its beginning is confirmed.
type turns struct {
	sparse, bulk fifo
	round        uint64 // from 2 on
	roundEnd     uint64 // position
	ahead        int    // bytes of sparse streams since one of the others had a turn
}

// fifo is a queue of streams.
type fifo struct {
	items []*Stream
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(st *Stream) {
	if q.head > 0 && q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	if q.head > 32 && 2*q.head > len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, st)
}

func (q *fifo) pop() *Stream {
	st := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	return st
}

func (q *turns) len() int { return q.sparse.len() + q.bulk.len() }

// add gives st a turn.
func (q *turns) add(st *Stream) {
	if st.queued {
		return
	}
	st.queued = true
	if q.isSparse(st) {
		q.sparse.push(st)
	} else {
		q.bulk.push(st)
	}
}

// next takes the stream whose turn it is, nil when there is none. Streams that
// sent much are left out unless bulk.
func (q *turns) next(bulk bool) *Stream {
	var st *Stream
	bulk = bulk && q.bulk.len() > 0
	switch {
	case q.sparse.len() > 0 && !(bulk && q.ahead >= sparseAhead):
		st = q.sparse.pop()
	case bulk:
		st = q.bulk.pop()
		q.ahead = 0
	default:
		return nil
	}
	st.queued = false
	return st
}

// isSparse tells whether st has sent little in this round.
func (q *turns) isSparse(st *Stream) bool { return st.round != q.round || st.burst < sparseBurst }

// charge counts n bytes that st sends.
func (q *turns) charge(st *Stream, n int) {
	if st.round != q.round {
		st.round, st.burst = q.round, 0
	}
	if st.burst < sparseBurst {
		q.ahead += n
	}
	st.burst += n
}

// confirm begins the next round when the present one is over: acked is confirmed,
// end was handed to the transport.
func (q *turns) confirm(acked, end uint64) {
	if acked >= q.roundEnd {
		q.round++
		q.roundEnd = end
	}
}

// mayAdd reports whether data may enter the log. These and the functions below
// want s.mu held.
func (s *Session) mayAdd(sparse bool) bool {
	limit := s.gov.limit()
	if sparse {
		limit = min(limit+sparseReserve, s.limits.Replay)
	}
	return s.out.unsent() < s.gov.batch() && s.out.kept() < limit
}

// sendOpen gives st its number and tells the peer of it.
func (s *Session) sendOpen(st *Stream) {
	s.lastID += 2
	st.id = s.lastID
	s.streams[st.id] = st
	copy(s.out.add(frame{typ: frameOpen, stream: st.id, length: len(st.header)}), st.header)
	s.turns.charge(st, headerSize+len(st.header))
	s.poke()
}

// mayPass reports whether nobody waits who would go before st.
func (s *Session) mayPass(st *Stream) bool {
	return s.turns.len() == 0 || s.turns.sparse.len() == 0 && s.turns.isSparse(st)
}

// wrote sees a Write of n bytes that did not have to wait. If it is a small one,
// of a stream that does not send all that it can, while another sends more than
// goes through, it is one that bulk must not hold up.
func (s *Session) wrote(st *Stream, n int) {
	if n >= sparseBurst || st.waited+1 >= s.turns.round || s.out.kept() <= leastCap {
		return
	}
	if now := s.now(); now-s.waited < bulkAge {
		s.gov.interact(now)
	}
}

// bulkAge is how long after a Write had to wait there is bulk.
const bulkAge = 100 * time.Millisecond

// sendFrame hands over one frame of what st has pending, if it may.
func (s *Session) sendFrame(st *Stream) bool {
	sparse := s.turns.isSparse(st)
	n := min(len(st.pending), st.credit, s.gov.frame())
	if sparse || s.turns.len() > crowd {
		n = min(n, sparseBurst)
	}
	if n == 0 || !s.mayAdd(sparse) {
		return false
	}
	if room := s.out.room() - headerSize; room < n && room >= smallChunk {
		n = room
	}
	copy(s.out.add(frame{typ: frameData, stream: st.id, length: n}), st.pending)
	st.pending = st.pending[n:]
	st.credit -= n
	s.turns.charge(st, headerSize+n)
	return true
}

// takeTurns lets the waiting streams send a frame each, again and again, as long
// as frames may be added. A stream without credit leaves the queue until it gets
// some.
func (s *Session) takeTurns() {
	for s.turns.len() > 0 && s.mayAdd(true) {
		st := s.turns.next(s.mayAdd(false))
		if st == nil {
			return
		}
		switch {
		case st.id != 0:
			s.sendFrame(st)
		case st.werr == nil:
			s.sendOpen(st)
		}
		if len(st.pending) == 0 {
			st.wcond.Broadcast()
		} else if st.credit > 0 {
			s.turns.add(st)
		}
	}
}
