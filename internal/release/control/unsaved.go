package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/release/spec"
)

// unsaved keeps the batches that were answered for until the judge's state that they have made
// is written down: the node agents have them no more then, and a controller that is killed meanwhile
// would not either. Where gateways share the requests nobody else judges by them. Each release has
// a file, UID.jsonl, with a batch a line; the next process counts what of it the state that it
// finds lacks. One process at a time uses the directory. It may be used by many goroutines.
type unsaved struct {
	dir string // "" keeps nothing

	mu sync.Mutex // over the files

	noting sync.Mutex
	due    map[types.UID]map[string]int64 // what is to be forgotten
	busy   bool
}

// maxUnsaved is how large a file becomes. What comes when nothing can be written down for so long is
// lost with the process.
const maxUnsaved = 8 << 20

func (u *unsaved) file(uid types.UID) (string, error) {
	if uid == "" || strings.ContainsAny(string(uid), `/\.`) {
		return "", fmt.Errorf("%q can't be part of a file's name", uid)
	}
	return filepath.Join(u.dir, string(uid)+".jsonl"), nil
}

// add keeps a batch.
func (u *unsaved) add(b spec.Batch) error {
	if u.dir == "" {
		return nil
	}
	text, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("keep a batch of evidence: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	// What a process that was killed has half written is a line of its own.
	if err := u.append(b.UID, slices.Concat([]byte("\n"), text, []byte("\n"))); err != nil {
		return fmt.Errorf("keep a batch of evidence: %w", err)
	}
	return nil
}

// append adds a line. The lock is held.
func (u *unsaved) append(uid types.UID, line []byte) error {
	name, err := u.file(uid)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size()+int64(len(line)) > maxUnsaved {
		err = fmt.Errorf("%s has %d MiB already", name, maxUnsaved>>20)
	}
	if err == nil {
		_, err = f.Write(line)
	}
	return errors.Join(err, f.Close())
}

// of are the batches that are kept of a release, in the order in which they came. What a
// process that was killed has half written was answered by nobody.
func (u *unsaved) of(uid types.UID) ([]spec.Batch, error) {
	if u.dir == "" {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.read(uid)
}

// read reads a file. The lock is held.
func (u *unsaved) read(uid types.UID) (all []spec.Batch, err error) {
	name, err := u.file(uid)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read batches of evidence: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxUnsaved)
	for lines.Scan() {
		var b spec.Batch
		if json.Unmarshal(lines.Bytes(), &b) == nil && b.UID == uid {
			all = append(all, b)
		}
	}
	return all, nil
}

// saved has the batches of a release forgotten that are in what was written down: up to these, by
// node and run of its agent. That is done by run, which is given a function that does so, since no
// decision waits for a disk.
func (u *unsaved) saved(uid types.UID, seqs map[string]int64, run func(func()), fails func(error)) {
	if u.dir == "" {
		return
	}
	u.noting.Lock()
	defer u.noting.Unlock()
	if u.due == nil {
		u.due = map[types.UID]map[string]int64{}
	}
	if u.due[uid] = maps.Clone(seqs); !u.busy {
		u.busy = true
		run(func() { u.forgetAll(fails) })
	}
}

func (u *unsaved) forgetAll(fails func(error)) {
	u.noting.Lock()
	defer u.noting.Unlock()
	for len(u.due) > 0 {
		due := u.due
		u.due = nil
		u.noting.Unlock()
		for uid, seqs := range due {
			if err := u.forget(uid, seqs); err != nil {
				fails(err)
			}
		}
		u.noting.Lock()
	}
	u.busy = false
}

// forget takes batches out of the file of a release.
func (u *unsaved) forget(uid types.UID, seqs map[string]int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	all, err := u.read(uid)
	if err != nil || len(all) == 0 {
		return err
	}
	var left bytes.Buffer
	lines := json.NewEncoder(&left)
	for _, b := range all {
		if b.Seq > seqs[b.Node+"/"+b.Boot] {
			if err := lines.Encode(b); err != nil {
				return fmt.Errorf("forget batches of evidence: %w", err)
			}
		}
	}
	name, err := u.file(uid)
	if err == nil && left.Len() == 0 {
		err = os.Remove(name)
	} else if err == nil {
		err = atomicfile.Write(name, left.Bytes())
	}
	if err != nil {
		return fmt.Errorf("forget batches of evidence: %w", err)
	}
	return nil
}

// sweep removes what was written before a time, of releases that are no more.
func (u *unsaved) sweep(before time.Time) error {
	if u.dir == "" {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	names, err := filepath.Glob(filepath.Join(u.dir, "*.jsonl"))
	errs := []error{err}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.ModTime().Before(before) {
			errs = append(errs, os.Remove(name))
		}
	}
	return errors.Join(errs...)
}
