package agent

import (
	"hash"
	"io"

	"github.com/bightdev/bight/internal/tree"
)

// parallelSize is from which size on it pays to hash on another processor than
// the one that writes.
const parallelSize = 1 << 20

// hashing writes to w and hashes what it writes. Large files are hashed by a
// goroutine of their own; close waits for it.
type hashing struct {
	w    io.Writer
	h    hash.Hash
	n    int64
	sum  tree.Hash
	full chan []byte // nil: no goroutine
	free chan []byte
	end  chan struct{}
}

func newHashing(w io.Writer, h hash.Hash, size int64) *hashing {
	h.Reset()
	x := &hashing{w: w, h: h}
	if size >= parallelSize {
		const buffers = 4
		x.full, x.free, x.end = make(chan []byte, buffers), make(chan []byte, buffers), make(chan struct{})
		for range buffers {
			x.free <- nil
		}
		go x.run()
	}
	return x
}

func (x *hashing) run() {
	defer close(x.end)
	for b := range x.full {
		x.h.Write(b)
		x.free <- b
	}
}

func (x *hashing) Write(p []byte) (int, error) {
	if x.full == nil {
		x.h.Write(p)
	} else {
		x.full <- append((<-x.free)[:0], p...)
	}
	n, err := x.w.Write(p)
	x.n += int64(n)
	return n, err
}

// close ends the hashing and sets sum.
func (x *hashing) close() error {
	if x.full != nil {
		close(x.full)
		<-x.end
	}
	x.h.Sum(x.sum[:0])
	return nil
}
