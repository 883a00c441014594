package live

import (
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/bightdev/bight/internal/live/delta"
	"github.com/bightdev/bight/internal/tree"
)

// maxIndexes is how much memory the indexes of one Bases take, in bytes.
const maxIndexes = 32 << 20

// maxDelta is the largest file that is sent as a delta.
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
	m, err := mapFile(e.Local)
	if err != nil {
		return err
	}
	defer m.release()
	if m.stat.Size() != e.Size {
		return nil // another one by now
	}
	x := &base{local: e.Local, stat: m.stat}
	err = delta.Guard(func() error { x.index = delta.NewIndex(m.content); return nil })
	if err != nil {
		return err
	}
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

// pair is two versions of a file, ready to be compared.
type pair struct {
	old, new mapped
	index    *delta.Index
}

func (p *pair) release() {
	p.old.release()
	p.new.release()
}

// encode writes to w what makes the new version out of the old one.
func (p *pair) encode(w io.Writer) error {
	return delta.Guard(func() error { return p.index.Encode(w, p.old.content, p.new.content) })
}

// open opens the version h and the one in local, which has size bytes. It
// returns nil when there can't be a delta.
func (b *Bases) open(h tree.Hash, local string, size int64) *pair {
	b.mu.Lock()
	x := b.known[h]
	if x != nil {
		b.used++
		x.used = b.used
	}
	b.mu.Unlock()
	if x == nil || size > maxDelta {
		return nil
	}
	old, err := mapFile(x.local)
	if err != nil || !sameFile(old.stat, x.stat) {
		if err == nil {
			old.release()
		}
		b.forget(h) // somebody has written over it
		return nil
	}
	new, err := mapFile(local)
	if err != nil || new.stat.Size() != size {
		if err == nil {
			new.release()
		}
		old.release()
		return nil
	}
	return &pair{old, new, x.index}
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

// mapped is a file's content as memory.
type mapped struct {
	content []byte
	stat    fs.FileInfo
	release func()
}

func mapFile(name string) (mapped, error) {
	f, err := os.Open(name)
	if err != nil {
		return mapped{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return mapped{}, err
	}
	content, release, err := delta.Map(f, st.Size())
	return mapped{content, st, release}, err
}
