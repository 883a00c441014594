package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/tree"
)

const (
	appName   = "app"    // the live tree
	stageName = "stage-" // a tree that is being made
	oldName   = "old-"   // a tree that was replaced
	putName   = "put-"   // a file that is being made
)

// store owns the service's files: the image's own at root, and below live, once
// there was a patch, the tree that replaced them. Its methods may be called from
// any goroutine. Patches are staged side by side, each against the tree that it
// found; of two that started from the same tree, the second one to be finished
// is refused.
type store struct {
	root string // of the image's files
	live string // a directory to write to
	log  *slog.Logger
	// exchange swaps two names of the live directory; nil: (*dir).exchange.
	exchange func(d *dir, a, b string) error

	mu     sync.Mutex
	dir    *dir // live, nil as long as it can't be opened
	isLive bool
	known  bool // have is
	stale  bool // the disk was seen to differ from have
	have   manifest
	digest tree.Hash
	serial int // of stages

	changes uint64 // of have that somebody was told of

	saves sync.WaitGroup // one at a time
}

// open looks at what an earlier agent left in live. Without a usable live
// directory the process still runs from the image's files; changing them is what
// fails then.
func (s *store) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := openRoot(s.live)
	if err != nil {
		return fmt.Errorf("open the directory for live files: %w", err)
	}
	s.dir = d
	if err := s.recover(); err != nil {
		return fmt.Errorf("clean up %s: %w", s.live, err)
	}
	_, err = d.stat(appName)
	s.isLive = err == nil
	return nil
}

// recover finishes or undoes what an agent that died was doing.
func (s *store) recover() error {
	names, err := s.dir.names()
	if err != nil {
		return err
	}
	_, missing := s.dir.stat(appName)
	for _, n := range names {
		// Between two renames, where one exchange was not possible.
		if strings.HasPrefix(n, oldName) && missing != nil {
			if err := s.dir.move(n, appName); err != nil {
				return err
			}
			missing = nil
			continue
		}
		for _, prefix := range []string{stageName, oldName, putName, manifestName + "-"} {
			if strings.HasPrefix(n, prefix) {
				if err := s.dir.remove(n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// close waits for what is being written in the background.
func (s *store) close() {
	s.saves.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != nil {
		_ = s.dir.close()
		s.dir = nil
	}
}

// current is the directory that the process runs from, and the digest of the
// tree in it if that is known.
func (s *store) current() (string, tree.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.currentLocked(), s.digest
}

func (s *store) currentLocked() string {
	if s.isLive {
		return filepath.Join(s.live, appName)
	}
	return s.root
}

// summary is what there is to know about the present tree.
type summary struct {
	change uint64
	files  int
	tree   tree.Tree // read only
	digest tree.Hash
	source tree.Hash
	by     string
	live   bool
}

// now returns the present tree, which is read from disk the first time.
func (s *store) now() (summary, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return summary{}, err
	}
	return s.summary(), nil
}

func (s *store) summary() summary {
	return summary{change: s.changes, files: len(s.have.meta), tree: s.have.tree, digest: s.digest, source: s.have.source, by: s.have.by, live: s.isLive}
}

// verify reads every file of the tree again.
func (s *store) verify() (summary, error) {
	s.mu.Lock()
	err := s.load()
	have, name, digest := s.have, s.currentLocked(), s.digest
	s.mu.Unlock()
	if err != nil {
		return summary{}, err
	}
	d, err := openRoot(name)
	if err != nil {
		return summary{}, err
	}
	defer d.close()
	l, err := have.reread(d, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.digest == digest && !s.stale { // else a patch came, and hashed what it wrote
		if err != nil {
			return summary{}, fmt.Errorf("verify %s: %w", name, err)
		}
		s.setLocked(manifest{l, have.source, have.by})
	}
	return s.summary(), nil
}

// rereadLocked makes have what is in d, which is the present tree.
func (s *store) rereadLocked(d *dir) error {
	l, err := s.have.reread(d, true)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.currentLocked(), err)
	}
	s.setLocked(manifest{l, s.have.source, s.have.by})
	return nil
}

// load finds out what the present tree is, if that is not known.
func (s *store) load() error {
	if s.known && !s.stale {
		return nil
	}
	name := s.currentLocked()
	d, err := openRoot(name)
	if err != nil {
		return err
	}
	defer d.close()
	if s.known {
		return s.rereadLocked(d)
	}
	var m manifest
	if s.isLive {
		m, err = s.readManifest()
		if err == nil {
			m.listing, err = m.reread(d, false)
		}
	}
	if !s.isLive || err != nil {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("manifest of the live files not used; reading them all", "err", err)
		}
		m.listing, err = scan(d, listing{})
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	s.setLocked(m)
	return nil
}

func (s *store) setLocked(m manifest) {
	digest := m.tree.Digest()
	if s.known && digest != s.digest {
		s.changes++
	}
	s.have, s.known, s.stale, s.digest = m, true, false, digest
}

func (s *store) readManifest() (manifest, error) {
	b, err := os.ReadFile(filepath.Join(s.live, manifestName))
	if err != nil {
		return manifest{}, err
	}
	return decodeManifest(b)
}

// save writes the manifest in the background, after the one before. When that
// fails, or the agent dies before, a later agent reads the files instead.
func (s *store) save() {
	m, d := s.have, s.dir
	s.saves.Wait()
	s.saves.Go(func() {
		const next = manifestName + "-new"
		err := d.remove(next)
		if err == nil {
			err = writeFile(d, next, m.encode())
		}
		if err == nil {
			err = d.move(next, manifestName)
		}
		if err != nil {
			s.log.Warn("manifest of the live files not written", "err", err)
			_ = d.remove(next) // so that it takes no space
		}
	})
}

func writeFile(d *dir, name string, b []byte) error {
	f, err := d.create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// SpaceError says that a patch does not fit on the disk.
type SpaceError struct {
	Dir               string
	Need, Free, Total int64
	Path              string // what was being written, if anything
}

func (e *SpaceError) Error() string {
	what := "the change"
	if e.Path != "" {
		what = fmt.Sprintf("the change (stopped at %q)", e.Path)
	}
	return fmt.Sprintf("no space left in %s: %s needs %s, %s of %s are free; the files are as they were: give the volume at %s a larger sizeLimit, or leave large files out",
		e.Dir, what, size(e.Need), size(e.Free), size(e.Total), e.Dir)
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
