package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/atomicfile"
)

// Cache remembers the hash of each file together with what the file system said
// about the file then: size, modification and change time, inode and device. As
// long as all of it is the same, the file is not read again.
//
// A file that was modified just before it was hashed is not remembered, because
// a second modification could leave the same times behind: time stamps have a
// granularity. Times are compared for equality only, so setting the clock does
// no harm. A nil Cache is valid and remembers nothing. Safe for concurrent use.
type Cache struct {
	file string
	now  func() time.Time

	mu      sync.Mutex
	records map[string]record
	dirty   bool
}

// record is what is known of one file.
type record struct {
	path string // its key, for others to share
	stat stat
	day  uint32 // when it was last asked for, in days since 1970
	hash Hash
}

// stat is what must be unchanged for a hash to stand.
type stat struct {
	size, mtime, ctime int64 // bytes; nanoseconds since 1970
	inode, device      uint64
}

const (
	// tick is more than the kernel's clock lags behind when it stamps a file.
	tick = 20 * time.Millisecond
	// coarseTick is the same for file systems that keep whole seconds (FAT: two).
	coarseTick = 2 * time.Second
	// keepDays is how long a file is remembered that nobody asks for.
	keepDays = 30
)

// OpenCache reads the cache that [Cache.Save] wrote to file. A file that is
// missing or damaged is an empty cache. With file "" the cache lives in memory
// only.
func OpenCache(file string) *Cache {
	c := &Cache{file: file, now: time.Now, records: map[string]record{}}
	if file == "" {
		return c
	}
	if b, err := os.ReadFile(file); err == nil {
		if records, err := decodeRecords(b); err == nil {
			c.records = records
		}
	}
	return c
}

// Save writes the cache to its file, if there is anything new to write.
func (c *Cache) Save() error {
	if c == nil || c.file == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty {
		return nil
	}
	if err := atomicfile.Write(c.file, c.encode()); err != nil {
		return fmt.Errorf("save the cache of file hashes: %w", err)
	}
	c.dirty = false
	return nil
}

// Stat returns the entry of one file, hashing it only when needed. The path is
// absolute; a symbolic link is an entry and not followed.
func (c *Cache) Stat(path string) (Entry, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Entry{}, err
	}
	switch info.Mode().Type() {
	case 0:
		if r, ok := c.lookup(path, info); ok {
			return Entry{Mode: fileMode(info), Size: info.Size(), Hash: r.hash, Local: r.path}, nil
		}
		return c.read(path, make([]byte, 64<<10))
	case fs.ModeSymlink:
		to, err := os.Readlink(path)
		return Entry{Mode: fs.ModeSymlink, Link: filepath.ToSlash(to)}, err
	case fs.ModeDir:
		return Entry{Mode: fs.ModeDir | 0o755}, nil
	}
	return Entry{}, &fs.PathError{Op: "read", Path: path, Err: ErrSpecial}
}

// Vouch remembers the hash of a file that its caller has just written and that
// nobody else writes, so that its youth does not matter.
func (c *Cache) Vouch(path string, h Hash) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records[path] = record{path: path, stat: statOf(info), hash: h, day: c.today()}
	c.dirty = true
	return nil
}

// lookup returns what is known of a file that is as info says.
func (c *Cache) lookup(path string, info fs.FileInfo) (record, bool) {
	if c == nil {
		return record{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.records[path]
	if !ok || r.stat != statOf(info) {
		return record{}, false
	}
	if today := c.today(); r.day != today {
		r.day = today
		c.records[path], c.dirty = r, true
	}
	return r, true
}

func (c *Cache) today() uint32 { return uint32(c.now().Unix() / (24 * 60 * 60)) }

// read hashes the file at path and remembers it. A file that is being written
// is read again, a few times.
func (c *Cache) read(path string, buf []byte) (Entry, error) {
	for try := 0; ; try++ {
		start := time.Now()
		if c != nil {
			start = c.now()
		}
		before, after, n, sum, err := hashFile(path, buf)
		if err != nil {
			return Entry{}, err
		}
		still := statOf(before) == statOf(after) && n == after.Size()
		if !still && try < 3 {
			continue
		}
		if still {
			c.remember(path, after, sum, start)
		}
		return Entry{Mode: fileMode(after), Size: n, Hash: sum, Local: path}, nil
	}
}

func hashFile(path string, buf []byte) (before, after fs.FileInfo, n int64, sum Hash, err error) {
	f, err := openFile(path)
	if err != nil {
		return nil, nil, 0, Hash{}, err
	}
	defer f.Close()
	if before, err = f.Stat(); err != nil {
		return nil, nil, 0, Hash{}, err
	}
	if !before.Mode().IsRegular() {
		return nil, nil, 0, Hash{}, &fs.PathError{Op: "read", Path: path, Err: ErrSpecial}
	}
	h := sha256.New()
	if n, err = io.CopyBuffer(onlyWriter{h}, onlyReader{f}, buf); err != nil {
		return nil, nil, 0, Hash{}, err
	}
	if after, err = f.Stat(); err != nil {
		return nil, nil, 0, Hash{}, err
	}
	return before, after, n, Hash(h.Sum(nil)), nil
}

// onlyReader and onlyWriter keep io.CopyBuffer from going round the buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ hash.Hash }
)

// remember keeps what was read from start on, unless the file is so young that
// a change after the reading could bear the same time.
func (c *Cache) remember(path string, info fs.FileInfo, sum Hash, start time.Time) {
	if c == nil {
		return
	}
	s := statOf(info)
	lag := tick
	if s.mtime%int64(time.Second) == 0 && s.ctime%int64(time.Second) == 0 {
		lag = coarseTick
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if max(s.mtime, s.ctime) >= start.Add(-lag).UnixNano() {
		delete(c.records, path)
		return
	}
	c.records[path] = record{path: path, stat: s, hash: sum, day: c.today()}
	c.dirty = true
}

// The file is a magic line, the records one after the other, and a checksum of
// all that.
const (
	cacheMagic  = "bight file hashes 1\n"
	recordFixed = 5*8 + 4 + sha256.Size
)

func (c *Cache) encode() []byte {
	oldest := c.today() - keepDays
	b := make([]byte, 0, len(c.records)*(recordFixed+80))
	b = append(b, cacheMagic...)
	for path, r := range c.records {
		if r.day < oldest {
			delete(c.records, path)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(path)))
		b = append(b, path...)
		for _, v := range []uint64{uint64(r.stat.size), uint64(r.stat.mtime), uint64(r.stat.ctime), r.stat.inode, r.stat.device} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		b = binary.LittleEndian.AppendUint32(b, r.day)
		b = append(b, r.hash[:]...)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

var errDamaged = errors.New("the cache of file hashes is damaged")

func decodeRecords(b []byte) (map[string]record, error) {
	if len(b) < len(cacheMagic)+4 || !bytes.HasPrefix(b, []byte(cacheMagic)) {
		return nil, errDamaged
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return nil, errDamaged
	}
	records := make(map[string]record, len(body)/(recordFixed+40))
	for body = body[len(cacheMagic):]; len(body) > 0; {
		n, w := binary.Uvarint(body)
		if w <= 0 || n > uint64(len(body)-w) || uint64(len(body)-w)-n < recordFixed {
			return nil, errDamaged
		}
		path := string(body[w : w+int(n)])
		body = body[w+int(n):]
		var v [5]uint64
		for i := range v {
			v[i] = binary.LittleEndian.Uint64(body[8*i:])
		}
		records[path] = record{
			path: path,
			stat: stat{int64(v[0]), int64(v[1]), int64(v[2]), v[3], v[4]},
			day:  binary.LittleEndian.Uint32(body[40:]),
			hash: Hash(body[44:recordFixed]),
		}
		body = body[recordFixed:]
	}
	return records, nil
}
