package journal

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// file is one of the files. Its name has its number and the month in which it is written.
type file struct {
	name   string
	number int
	month  time.Time
	size   int64
}

const layout = "2006-01"

// list finds the files.
func (j *Journal) list() error {
	entries, err := os.ReadDir(j.Dir)
	if err != nil {
		return err
	}
	j.files = nil
	for _, e := range entries {
		f := file{name: e.Name()}
		var month string
		if _, err := fmt.Sscanf(e.Name(), "events-%08d-%7s.jsonl", &f.number, &month); err != nil {
			continue
		}
		if f.month, err = time.Parse(layout, month); err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f.size = info.Size()
		j.files = append(j.files, f)
	}
	slices.SortFunc(j.files, func(a, b file) int { return cmp.Compare(a.number, b.number) })
	return nil
}

// whole cuts off what a process that was killed has not written to its end.
func (j *Journal) whole(f *file) error {
	name := filepath.Join(j.Dir, f.name)
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if n := int64(bytes.LastIndexByte(b, '\n') + 1); n < f.size {
		f.size = n
		return os.Truncate(name, n)
	}
	return nil
}

// open returns the file that is written to.
func (j *Journal) open() (*file, error) {
	month := j.now().Format(layout)
	n := len(j.files)
	if n > 0 && j.files[n-1].month.Format(layout) == month && j.files[n-1].size < cmp.Or(j.FileBytes, 4<<20) {
		if j.w != nil {
			return &j.files[n-1], nil
		}
	} else {
		f := file{number: 1}
		if n > 0 {
			f.number = j.files[n-1].number + 1
		}
		f.name = fmt.Sprintf("events-%08d-%s.jsonl", f.number, month)
		f.month, _ = time.Parse(layout, month) // as it was written
		if err := j.closeFile(); err != nil {
			return nil, err
		}
		j.files = append(j.files, f)
		n++
	}
	var err error
	j.w, err = os.OpenFile(filepath.Join(j.Dir, j.files[n-1].name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return &j.files[n-1], err
}

// drop removes the oldest files that are too old, or too much.
func (j *Journal) drop() error {
	size := int64(0)
	for _, f := range j.files {
		size += f.size
	}
	today := j.now().Format(time.DateOnly)
	if size <= cmp.Or(j.MaxBytes, 256<<20) && j.checked == today {
		return nil
	}
	j.checked = today
	dropped := false
	for len(j.files) > 1 {
		f := j.files[0]
		tooOld := f.month.AddDate(0, 1, 0).Add(j.maxAge()).Before(j.now())
		if !tooOld && size <= cmp.Or(j.MaxBytes, 256<<20) {
			break
		}
		if !tooOld {
			if err := j.forget(f); err != nil {
				return err
			}
		}
		if err := os.Remove(filepath.Join(j.Dir, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		size -= f.size
		j.files, dropped = j.files[1:], true
	}
	if oldest := j.now().Add(-j.maxAge()); j.head.Begun.Before(oldest) {
		j.head.Begun = oldest
	}
	if !dropped {
		return nil
	}
	return errors.Join(j.writeHead(), j.readIDs())
}

// forget notes that what a file tells of is not known any more.
func (j *Journal) forget(f file) error {
	err := lines(filepath.Join(j.Dir, f.name), func(b []byte) error {
		var e struct{ Ended time.Time }
		if json.Unmarshal(b, &e) == nil && e.Ended.After(j.head.Dropped) {
			j.head.Dropped = e.Ended
		}
		return nil
	})
	if j.head.Begun.Before(j.head.Dropped) {
		j.head.Begun = j.head.Dropped
	}
	if err != nil {
		return err
	}
	return j.writeHead()
}

// field is the text of a field of a line, as it stands there; nil for none. Reading whole
// lines takes ten times as long.
func field(line []byte, name string) []byte {
	_, rest, found := bytes.Cut(line, []byte(`"`+name+`":"`))
	if !found {
		return nil
	}
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return value
}

// maxLine is more than a line has.
const maxLine = 1 << 20

// lines calls do with each whole line of a file, which is good until do returns. One that
// is gone has none.
func lines(name string, do func([]byte) error) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	for whole := true; ; {
		b, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF:
			return nil
		case err == bufio.ErrBufferFull: // none of ours
			whole = false
			continue
		case err != nil:
			return err
		}
		if !whole {
			whole = true
			continue
		}
		if err := do(b); err != nil {
			return err
		}
	}
}
