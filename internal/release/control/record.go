package control

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

const (
	// maxRecord is how large a file of a release's record becomes, compressed, and
	// maxRecords what all of them may take: then the oldest goes. 2,000 requests a second
	// for half an hour, seen by ten nodes, take less.
	maxRecord, maxRecords = 4 << 20, 8 << 20
	// maxRecordFiles is how many there are at the most: each process begins one.
	maxRecordFiles = 64
	// maxUnwritten is what waits for a disk that does not answer.
	maxUnwritten = 4 << 20
	// maxNodeRecord is more than the record of a node agent's judge takes.
	maxNodeRecord = 2 << 20
)

// scribe keeps the record of one release's judge in files of its shelf, of which each
// process begins one: what another has left half written is never gone on with. It writes
// in the background, so that no decision waits for a disk.
type scribe struct {
	shelf              *shelf
	namespace, release string
	uid                types.UID

	mu     sync.Mutex
	due    []chunk // to be appended, in this order
	busy   bool
	size   int64  // of the file
	file   string // "" if there is none yet
	broken error  // why it could not go on
}

// chunk is what is appended at once.
type chunk struct {
	text  []byte
	fresh bool // to another file than the one before
}

// full says that the record has to begin anew, with a state, in another file: because this
// one is large enough, or lacks something, and why.
func (s *scribe) full() (full bool, broken error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size >= maxRecord || s.broken != nil, s.broken
}

// put has a text written, by run, which is given a function that does so.
func (s *scribe) put(c chunk, run func(func())) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.fresh {
		s.size, s.broken = 0, nil
	}
	if s.broken != nil || len(c.text) == 0 {
		return
	}
	waiting := len(c.text)
	for _, d := range s.due {
		waiting += len(d.text)
	}
	if waiting > maxUnwritten {
		s.broken, s.due = errors.New("the disk does not keep up"), nil
		return
	}
	if s.due = append(s.due, c); !s.busy {
		s.busy = true
		run(s.write)
	}
}

func (s *scribe) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.due) > 0 {
		c, file := s.due[0], s.file
		if s.due = s.due[1:]; c.fresh {
			file = ""
		}
		s.mu.Unlock()
		n, file, err := s.shelf.note(s.namespace, s.release, s.uid, file, c.text)
		s.mu.Lock()
		s.file, s.size = file, s.size+n
		if err != nil { // what follows needs this
			s.broken = err
			s.due = slices.DeleteFunc(s.due, func(c chunk) bool { return !c.fresh })
		}
	}
	s.busy = false
}

const recordFiles, nodeRecords, recordEnds = "record-", "judge-", ".jsonl.gz"

// note appends a text to a file of a record, "" for a new one, and returns its name and
// how many bytes that took.
func (s *shelf) note(namespace, release string, uid types.UID, file string, text []byte) (int64, string, error) {
	any, err := s.path(namespace, release, uid, "x")
	if err != nil {
		return 0, "", err
	}
	dir, was := filepath.Dir(any), file
	if file == "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return 0, "", err
		}
		if file, err = tidy(dir); err != nil {
			return 0, "", err
		}
	}
	var packed bytes.Buffer
	if err := pack(&packed, text); err != nil {
		return 0, "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, "", err
	}
	n, err := f.Write(packed.Bytes())
	err = errors.Join(err, f.Close())
	if begun := file != was; err != nil && begun { // nothing of use is in it
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return int64(n), file, err
}

func pack(to io.Writer, text []byte) error {
	z := gzip.NewWriter(to)
	_, err := z.Write(text)
	return errors.Join(err, z.Close())
}

// tidy removes the oldest files of a record if they are too large together, and names the
// next.
func tidy(dir string) (next string, err error) {
	names, err := filepath.Glob(filepath.Join(dir, recordFiles+"*"+recordEnds))
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	var size int64
	last := 0
	for i, name := range slices.Backward(names) {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		if size += info.Size(); size > maxRecords-maxRecord || len(names)-i >= maxRecordFiles {
			if err := os.Remove(name); err != nil {
				return "", err
			}
		}
		if i == len(names)-1 {
			if _, err := fmt.Sscanf(filepath.Base(name), recordFiles+"%d", &last); err != nil {
				return "", fmt.Errorf("read the name of %s: %w", name, err)
			}
		}
	}
	return fmt.Sprintf("%s%06d%s", recordFiles, last+1, recordEnds), nil
}

// record writes the records of all judges of a release, as lines, or returns
// evidence.ErrNone. What can't be read, of a file that was cut, is left out.
func (s *shelf) record(namespace, release string, uid types.UID, to io.Writer) error {
	any, err := s.path(namespace, release, uid, "x")
	if s.dir == "" || err != nil {
		return evidence.ErrNone
	}
	var names []string
	for _, prefix := range []string{recordFiles, nodeRecords} {
		some, err := filepath.Glob(filepath.Join(filepath.Dir(any), prefix+"*"+recordEnds))
		if err != nil {
			return err
		}
		slices.Sort(some)
		names = append(names, some...)
	}
	if len(names) == 0 {
		return evidence.ErrNone
	}
	for _, name := range names {
		if err := unpack(name, to); err != nil {
			return err
		}
	}
	return nil
}

// unpack writes the lines of a file, as far as they are whole.
func unpack(name string, to io.Writer) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) { // it has just gone
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil // it was cut before anything was in it
	}
	lines := bufio.NewReader(z)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the end, or that of what can be read
			return nil
		}
		if _, err := to.Write(line); err != nil {
			return err
		}
	}
}

// keepNode keeps the record of a node agent's judge, as it came.
func (s *shelf) keepNode(p *spec.Pairs) error {
	if s.dir == "" || len(p.Record) == 0 {
		return nil
	}
	if len(p.Record) > maxNodeRecord {
		return fmt.Errorf("the record of node %s takes %d bytes, more than %d", p.Node, len(p.Record), maxNodeRecord)
	}
	return s.write(p.Namespace, p.Release, p.UID, nodeRecords+p.Node+recordEnds, p.Record)
}

// GiveRecord serves the record of a release: see [spec.RecordPath].
func (c *Controller) GiveRecord(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	uid, err := c.uidOf(r.Context(), namespace, name)
	z := &late{w: w}
	if err == nil {
		err = c.shelf().record(namespace, name, uid, z)
	}
	switch {
	case z.z != nil:
		_ = z.z.Close() // who asked is gone if it fails
	case err == nil, errors.Is(err, evidence.ErrNone):
		http.Error(w, evidence.ErrNone.Error(), http.StatusNotFound)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// late compresses an answer that begins with the first that is written.
type late struct {
	w http.ResponseWriter
	z *gzip.Writer
}

func (l *late) Write(p []byte) (int, error) {
	if l.z == nil {
		l.w.Header().Set("Content-Type", "application/gzip")
		l.w.Header().Set("Cache-Control", "no-store")
		l.z = gzip.NewWriter(l.w)
	}
	return l.z.Write(p)
}

// record has what the judge was told written down, every few seconds, whenever its state is,
// and whenever it says something else.
func (d *desk) record(co *course, v verdict.Kind) {
	b := co.bench
	if b == nil || d.c.Dir == "" || time.Since(co.noted) < keepEvidence && !co.saved.After(co.noted) && v == co.notedAt && !co.State.Phase.Ended() {
		return
	}
	co.noted, co.notedAt = time.Now(), v
	if co.scribe == nil {
		co.scribe = &scribe{shelf: d.c.shelf(), namespace: co.r.Namespace, release: co.r.Name, uid: co.r.UID}
	}
	full, broken := co.scribe.full()
	if broken != nil {
		d.log.Warn("a part of what a verdict comes from is not kept", "release", co.r.Name, "err", broken)
	}
	co.append(d, false)
	if full {
		b.tape.Begin(b.config, b.state, b.tape.Taken())
		co.append(d, true)
	}
}

// append has what is new of the record written down, unless the plan says that nothing is
// kept.
func (co *course) append(d *desk, fresh bool) {
	text, err := co.bench.tape.Drain()
	if err != nil {
		d.log.Warn("what a verdict comes from is not kept", "release", co.r.Name, "err", err)
	}
	if !co.r.Spec.Plan.Evidence.Off {
		co.scribe.put(chunk{text, fresh}, d.c.tasks.Go)
	}
}
