package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/tree"
)

// Store keeps what builds gave: files by the hash of their content, and records
// (what an artifact consists of, what a layer's digest is) that name such files.
// It lies in the user's cache and may be deleted at any time. When it grows
// beyond MaxBytes, the records that were not used for longest go, and the files
// that no record names.
//
// A Store is safe for concurrent use, also by several processes: whatever it
// holds appears by a rename, and whatever is damaged or gone counts as never
// stored.
type Store struct {
	// MaxBytes is how large the stored files may grow in all; 0 means 4 GiB.
	MaxBytes int64

	dir    string
	hashes *tree.Cache
	now    func() time.Time

	mu   sync.Mutex
	size int64 // bytes of all files, -1 while unknown
}

const (
	defaultMaxBytes = 4 << 30
	// grace is how long a file is kept that no record names (yet).
	grace = time.Hour
)

// OpenStore returns the store in dir, which is made when something is stored.
func OpenStore(dir string) *Store {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return &Store{
		dir: dir, size: -1, now: time.Now,
		hashes: tree.OpenCache(filepath.Join(dir, "hashes")),
	}
}

// Temp makes a directory for work in progress on the store's file system.
// The caller removes it.
func (s *Store) Temp() (string, error) {
	tmp := filepath.Join(s.dir, "tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", fmt.Errorf("make room for a build: %w", err)
	}
	dir, err := os.MkdirTemp(tmp, "build-*")
	if err != nil {
		return "", fmt.Errorf("make room for a build: %w", err)
	}
	return dir, nil
}

// Put moves a finished file, which must come from a directory of [Store.Temp],
// into the store and returns its entry.
func (s *Store) Put(file string) (tree.Entry, error) {
	var none *tree.Cache
	e, err := none.Stat(file)
	if err != nil {
		return tree.Entry{}, fmt.Errorf("store a build result: %w", err)
	}
	to := s.path(e)
	err = os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		err = os.Chmod(file, e.Mode.Perm()&^0o222)
	}
	if err == nil {
		err = os.Rename(file, to)
	}
	if err == nil {
		err = s.hashes.Vouch(to, e.Hash)
	}
	if err != nil {
		return tree.Entry{}, fmt.Errorf("store a build result: %w", err)
	}
	s.mu.Lock()
	if s.size >= 0 {
		s.size += e.Size
	}
	s.mu.Unlock()
	e.Local = to
	return e, nil
}

// name is what a file is called in the store: its hash, and an x where it is a
// program.
func name(e tree.Entry) string {
	if e.Mode&0o111 != 0 {
		return e.Hash.String() + "x"
	}
	return e.Hash.String()
}

func (s *Store) path(e tree.Entry) string {
	n := name(e)
	return filepath.Join(s.dir, "files", n[:2], n)
}

// Holds reports whether the store has e unharmed and sets e.Local.
func (s *Store) Holds(e *tree.Entry) bool {
	have, err := s.hashes.Stat(s.path(*e))
	if err != nil || have.Hash != e.Hash || have.Size != e.Size {
		return false
	}
	e.Local = have.Local
	return true
}

// within reports whether e's content lies in the store.
func (s *Store) within(e tree.Entry) bool { return e.Local == s.path(e) }

// record is a record's file. Store names the files that must not go before it.
type record struct {
	Store []string        `json:"store"`
	Value json.RawMessage `json:"value"`
}

func (s *Store) recordFile(kind string, key tree.Hash) string {
	return filepath.Join(s.dir, "records", kind+"-"+key.String())
}

// Recall reads a record into v and reports whether there is one. Using a record
// makes it young.
func (s *Store) Recall(kind string, key tree.Hash, v any) bool {
	file := s.recordFile(kind, key)
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	var r record
	if json.Unmarshal(b, &r) != nil || json.Unmarshal(r.Value, v) != nil {
		return false
	}
	now := s.now()
	// A record whose age can't be set is still good; it only goes earlier.
	_ = os.Chtimes(file, now, now)
	return true
}

// Remember writes a record and makes room if the store has grown too large.
func (s *Store) Remember(kind string, key tree.Hash, v any, files []string) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b, err := json.Marshal(record{Store: files, Value: value})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.recordFile(kind, key), b); err != nil {
		return err
	}
	return errors.Join(s.hashes.Save(), s.makeRoom())
}

// stored is a record or a file as the pruning sees it.
type stored struct {
	name string // of a file as in name; of a record its path
	size int64
	used time.Time
	refs []string // of a record: the files that it names
}

// prune returns the records and files to delete so that what stays fits into
// limit. The most recently used record stays whatever its size.
func prune(records, files []stored, limit int64, now time.Time) (drop []stored) {
	slices.SortFunc(records, func(a, b stored) int { return b.used.Compare(a.used) })
	size := map[string]int64{}
	for _, f := range files {
		size[f.name] = f.size
	}
	keep := map[string]bool{}
	var total int64
	full := false
	for i, r := range records {
		var more int64
		for _, ref := range r.refs {
			if !keep[ref] {
				more += size[ref]
			}
		}
		full = full || i > 0 && total+more > limit
		if full {
			drop = append(drop, r)
			continue
		}
		total += more
		for _, ref := range r.refs {
			keep[ref] = true
		}
	}
	for _, f := range files {
		if !keep[f.name] && now.Sub(f.used) > grace {
			drop = append(drop, f)
		}
	}
	return drop
}

// makeRoom prunes when the store is larger than it may be, down to four fifths
// so that it is not needed again at once.
func (s *Store) makeRoom() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := cmp.Or(s.MaxBytes, defaultMaxBytes)
	if s.size >= 0 && s.size <= limit {
		return nil
	}
	files, err := s.listFiles()
	if err != nil {
		return err
	}
	s.size = 0
	for _, f := range files {
		s.size += f.size
	}
	if s.size <= limit {
		return nil
	}
	records, err := s.listRecords()
	if err != nil {
		return err
	}
	for _, d := range prune(records, files, limit/5*4, s.now()) {
		file := d.name
		if !filepath.IsAbs(file) {
			file = filepath.Join(s.dir, "files", file[:2], file)
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.size -= d.size
	}
	return s.dropOldTemps()
}

func (s *Store) listFiles() ([]stored, error) {
	var files []stored
	err := filepath.WalkDir(filepath.Join(s.dir, "files"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		files = append(files, stored{name: d.Name(), size: info.Size(), used: info.ModTime()})
		return nil
	})
	return files, err
}

func (s *Store) listRecords() ([]stored, error) {
	dir := filepath.Join(s.dir, "records")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var records []stored
	for _, d := range entries {
		info, err := d.Info()
		if err != nil || strings.HasPrefix(d.Name(), ".") {
			continue
		}
		file := filepath.Join(dir, d.Name())
		var r record
		if b, err := os.ReadFile(file); err != nil || json.Unmarshal(b, &r) != nil {
			r.Store = nil
		}
		records = append(records, stored{name: file, used: info.ModTime(), refs: r.Store})
	}
	return records, nil
}

// dropOldTemps removes what killed builds left behind.
func (s *Store) dropOldTemps() error {
	dir := filepath.Join(s.dir, "tmp")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, d := range entries {
		info, err := d.Info()
		if err != nil || s.now().Sub(info.ModTime()) < 24*time.Hour {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func hashOf(b []byte) tree.Hash { return sha256.Sum256(b) }
