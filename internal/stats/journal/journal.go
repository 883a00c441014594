// Package journal keeps events in a directory for about a year: objects of the API that
// have ended are removed long before that.
//
// The main type is [Journal]: files of lines, each an event in JSON, that are only ever
// appended to. A line that was not written whole is dropped; its event is still seen in
// its object, and written again. An event is written once. What is too old, or too much,
// goes by whole files. One process writes at a time; a Journal is safe for concurrent
// use.
package journal

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stats"
)

// Journal keeps events in Dir. Its exported fields are set before Open.
type Journal struct {
	Dir string
	// MaxAge is how long events are kept, at least, and a month more at most; 0 is a year.
	MaxAge time.Duration
	// MaxBytes is what all files may have, 0 is 256 MiB, and FileBytes what one may until
	// another is begun, 0 is 4 MiB.
	MaxBytes, FileBytes int64
	// Now is the clock; nil is the time.
	Now func() time.Time

	mu      sync.Mutex
	head    head
	ids     map[uint64]struct{}
	files   []file // the oldest first; the last one is written to
	w       *os.File
	checked string // the day on which it was last looked at what is too old
}

// head is what is known of the journal as a whole.
type head struct {
	// Begun is since when everything is known.
	Begun time.Time `json:"begun"`
	// Dropped is the end of what was dropped: nothing of before is taken in again.
	Dropped time.Time `json:"dropped,omitzero"`
}

// headFile is its name.
const headFile = "journal.json"

func (j *Journal) now() time.Time {
	if j.Now != nil {
		return j.Now().UTC()
	}
	return time.Now().UTC()
}

func (j *Journal) maxAge() time.Duration { return cmp.Or(j.MaxAge, 365*24*time.Hour) }

// Open reads what is there, and makes it writable.
func (j *Journal) Open() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return err
	}
	if err := j.readHead(); err != nil {
		return err
	}
	if err := j.list(); err != nil {
		return err
	}
	if n := len(j.files); n > 0 {
		if err := j.whole(&j.files[n-1]); err != nil {
			return err
		}
	}
	if err := j.readIDs(); err != nil {
		return err
	}
	return j.drop()
}

// Close closes the file that is written to.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.closeFile()
}

func (j *Journal) closeFile() error {
	if j.w == nil {
		return nil
	}
	err := j.w.Close()
	j.w = nil
	return err
}

// Begun is since when everything is known.
func (j *Journal) Begun() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head.Begun
}

func (j *Journal) readHead() error {
	j.head = head{}
	b, err := os.ReadFile(filepath.Join(j.Dir, headFile))
	if err == nil && json.Unmarshal(b, &j.head) == nil && !j.head.Begun.IsZero() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.head = head{Begun: j.now()}
	return j.writeHead()
}

func (j *Journal) writeHead() error {
	b, err := json.Marshal(j.head)
	if err != nil {
		return err
	}
	name := filepath.Join(j.Dir, headFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func hash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64()
}

func (j *Journal) readIDs() error {
	j.ids = map[uint64]struct{}{}
	for _, f := range j.files {
		err := lines(filepath.Join(j.Dir, f.name), func(b []byte) error {
			if id := field(b, "id"); len(id) > 0 {
				j.ids[hash(string(id))] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Has says that an event is written down.
func (j *Journal) Has(id string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, known := j.ids[hash(id)]
	return known
}

// Append writes an event down, unless that was done before, or it is too old. It reports
// whether it did.
func (j *Journal) Append(e stats.Event) (fresh bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, known := j.ids[hash(e.ID)]; known || e.Ended.Before(j.head.Dropped) || j.now().Sub(e.Ended) > j.maxAge() {
		return false, nil
	}
	e.Began, e.Ended = e.Began.UTC(), e.Ended.UTC() // so that they are compared as they are written
	b, err := json.Marshal(e)
	if err != nil {
		return false, err
	}
	if err := j.drop(); err != nil {
		return false, err
	}
	f, err := j.open()
	if err != nil {
		return false, err
	}
	n, err := j.w.Write(append(b, '\n'))
	f.size += int64(n)
	if err != nil {
		// The rest of a line must not become a part of the next.
		err = errors.Join(err, j.closeFile(), j.whole(f))
		return false, fmt.Errorf("write down event %s: %w", e.ID, err)
	}
	j.ids[hash(e.ID)] = struct{}{}
	return true, nil
}

// Read calls take with each event that ended at since or later, in the order in which they
// were written down. mine says of a line whether it may be one of those that are wanted,
// which saves reading the others.
func (j *Journal) Read(since time.Time, mine func(line []byte) bool, take func(stats.Event) error) error {
	j.mu.Lock()
	files := slices.Clone(j.files)
	j.mu.Unlock()
	if oldest := j.now().Add(-j.maxAge()); since.Before(oldest) {
		since = oldest
	}
	from := since.UTC().Format("2006-01-02T15:04:05") // less than any time of that second
	for _, f := range files {
		if !f.month.AddDate(0, 1, 0).After(since) {
			continue // all of it had ended when it was written
		}
		err := lines(filepath.Join(j.Dir, f.name), func(b []byte) error {
			var e stats.Event
			if string(field(b, "ended")) < from || mine != nil && !mine(b) || json.Unmarshal(b, &e) != nil || e.ID == "" || e.Ended.Before(since) {
				return nil
			}
			return take(e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
