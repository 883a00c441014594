package live

import (
	"io/fs"
	"os"
	"sync"

	"github.com/bightdev/bight/internal/live/delta"
	"github.com/bightdev/bight/internal/tree"
)

// maxIndexes is how much memory the indexes of one Bases take, in bytes.
const maxIndexes = 32 << 20

// maxDelta is the largest file that is sent as a delta: both of its versions are
// held in memory meanwhile.
const maxDelta = 256 << 20

// Bases knows versions of large files that pods have, so that the next version
// can be sent as a delta. Several targets share one: replicas have the same
// files. The zero value is ready; the methods may be called from any goroutine.
type Bases struct {
	mu    sync.Mutex
	known map[tree.Hash]*base
	used  uint64
	bytes int
}

// base is one version and where it can be read.
type base struct {
	local string
	stat  fs.FileInfo
	index *delta.Index
	used  uint64
}

// has reports whether a delta against this content is possible.
func (b *Bases) has(h tree.Hash) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known[h] != nil
}

// learn indexes the content of e, which is in e.Local. It takes a while.
func (b *Bases) learn(e tree.Entry) error {
	if e.Size < deltaSize || e.Size > maxDelta || e.Local == "" || b.has(e.Hash) {
		return nil
	}
	content, st, err := readAll(e.Local)
	if err != nil || int64(len(content)) != e.Size {
		return err
	}
	x := &base{local: e.Local, stat: st, index: delta.NewIndex(content)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[tree.Hash]*base{}
	}
	if b.known[e.Hash] == nil {
		b.bytes += x.index.Bytes()
	}
	b.used++
	x.used = b.used
	b.known[e.Hash] = x
	b.evict()
	return nil
}

// evict forgets what was not used for the longest time.
func (b *Bases) evict() {
	for b.bytes > maxIndexes && len(b.known) > 1 {
		var oldest tree.Hash
		for h, x := range b.known {
			if oldest.IsZero() || x.used < b.known[oldest].used {
				oldest = h
			}
		}
		b.bytes -= b.known[oldest].index.Bytes()
		delete(b.known, oldest)
	}
}

// encode returns what makes content out of the version h, or nil when that is
// not known any more or it does not pay.
func (b *Bases) encode(h tree.Hash, content []byte) []byte {
	b.mu.Lock()
	x := b.known[h]
	if x != nil {
		b.used++
		x.used = b.used
	}
	b.mu.Unlock()
	if x == nil {
		return nil
	}
	old, st, err := readAll(x.local)
	if err != nil || !sameFile(st, x.stat) {
		b.forget(h) // somebody has written over it
		return nil
	}
	d := x.index.Encode(make([]byte, 0, len(content)/16), old, content)
	if len(d) > len(content)-len(content)/8 {
		return nil
	}
	return d
}

func (b *Bases) forget(h tree.Hash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.known[h]; x != nil {
		b.bytes -= x.index.Bytes()
		delete(b.known, h)
	}
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// readAll reads a file and looks at it before.
func readAll(name string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], st, err
}
