package stream

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// The log is compared with the plainest thing that has its meaning: one slice of
// all bytes ever added.
func TestReplayKeepsWhatIsNotConfirmed(t *testing.T) {
	noise := make([]byte, 2*maxPayload)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var r replay
		var all []byte
		var ends []uint64 // frame boundaries
		boundary := func(from uint64) uint64 {
			for _, e := range ends {
				if e >= from && rnd.IntN(4) == 0 {
					return min(e, r.sent)
				}
			}
			return r.sent
		}
		for range 200 {
			switch rnd.IntN(6) {
			case 0, 1, 2:
				if r.kept() > 4<<20 {
					break
				}
				f := frame{typ: frameData, stream: 2, length: rnd.IntN(maxPayload + 1)}
				p := r.add(f)
				copy(p, noise[rnd.IntN(maxPayload):])
				var h [headerSize]byte
				f.put(h[:])
				all = append(append(all, h[:]...), p...)
				ends = append(ends, r.end)
			case 3:
				from := r.sent
				var got []byte
				for _, b := range r.next(nil, 1+rnd.IntN(300<<10)) {
					got = append(got, b...)
				}
				if want := all[from:r.sent]; !bytes.Equal(got, want) {
					t.Fatalf("seed %d: bytes from %d differ", seed, from)
				}
				r.written()
			case 4:
				if !r.ack(boundary(r.acked)) {
					t.Fatalf("seed %d: ack refused", seed)
				}
			case 5:
				if !r.rewind(boundary(r.acked)) {
					t.Fatalf("seed %d: rewind refused", seed)
				}
			}
		}
		if r.ack(r.sent + 1) {
			t.Errorf("seed %d: confirmed what was not sent", seed)
		}
		if r.acked > 0 && r.rewind(r.acked-1) {
			t.Errorf("seed %d: went back behind what was confirmed", seed)
		}
	}
}

func TestReplayGoesBackToFramesAlone(t *testing.T) {
	var r replay
	starts := map[uint64]bool{}
	for range 10 { // in several segments
		for _, length := range []int{4, maxPayload, 0} {
			starts[r.end] = true
			clear(r.add(frame{typ: frameData, stream: 0x00fff000, length: length}))
		}
	}
	starts[r.end] = true
	r.next(nil, int(r.end))
	r.written()
	if !r.ack(1) { // which harms the peer alone
		t.Error("ack refused")
	}
	for pos := range r.end + 2 {
		if pos < 1 || !starts[pos] {
			if r.rewind(pos) {
				t.Fatalf("went back to %d, where no frame begins", pos)
			}
		}
	}
	for pos := range r.end + 1 {
		if pos > 0 && starts[pos] && !r.rewind(pos) {
			t.Errorf("did not go back to %d", pos)
		}
	}
}

func TestReplayDoesNotReuseWhatIsBeingWritten(t *testing.T) {
	var r replay
	for range 10 {
		r.add(frame{typ: frameData, stream: 2, length: maxPayload})
	}
	bufs := r.next(nil, 1<<20)
	if !r.ack(r.sent) {
		t.Fatal("ack refused")
	}
	p := r.add(frame{typ: frameData, stream: 2, length: maxPayload})
	for i := range p {
		p[i] = 1
	}
	for _, b := range bufs {
		if bytes.IndexByte(b[headerSize:100], 1) >= 0 {
			t.Fatal("a segment was used again while it was being written")
		}
	}
	r.written()
	if len(r.segs) != 1 {
		t.Errorf("%d segments are held, want 1", len(r.segs))
	}
}

// A segment is a quarter of a megabyte: one for each that is sent would keep the
// garbage collector busy.
func TestReplayUsesItsSegmentsAgain(t *testing.T) {
	var r replay
	send := func() {
		for range 8 {
			for range 4 {
				r.add(frame{typ: frameData, stream: 2, length: fullPayload})
			}
			_ = r.next(nil, segmentSize)
			r.written()
		}
		if !r.ack(r.sent) {
			t.Fatal("the end is no position")
		}
	}
	send()
	had := map[*segment]bool{}
	for _, g := range append(r.free, r.segs...) {
		had[g] = true
	}
	send()
	for _, g := range append(r.free, r.segs...) {
		if !had[g] {
			t.Error("a segment is new")
		}
	}
}
