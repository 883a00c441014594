package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
)

// shelf keeps the evidence of releases as files, NAMESPACE/RELEASE/UID/: what the
// controller knows in facts.json and path.json, what each node has seen in node-NAME.json, both there
// whole or not at all; what its judge was told in record-N.jsonl.gz, and that of a node
// which has convicted the version in judge-NAME.jsonl.gz.
type shelf struct {
	dir string // "" keeps nothing
	// hide takes out of a text what is secret.
	hide func(context.Context, []byte) ([]byte, error)
}

const factsFile, nodeFiles, pathFile = "facts.json", "node-", "path.json"

// heardLater is what pathFile has, in place of what the facts say.
type heardLater struct {
	Path  []evidence.Point `json:"path"`
	Moved []string         `json:"moved"`
}

func nodeFile(node string) string { return nodeFiles + node + ".json" }

func (s *shelf) path(namespace, release string, uid types.UID, file string) (string, error) {
	for _, part := range []string{namespace, release, string(uid), file} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, `/\`) {
			return "", fmt.Errorf("%q can't be part of a file's name", part)
		}
	}
	return filepath.Join(s.dir, namespace, release, string(uid), file), nil
}

func (s *shelf) has(namespace, release string, uid types.UID, file string) bool {
	name, err := s.path(namespace, release, uid, file)
	if err != nil {
		return false
	}
	_, err = os.Stat(name)
	return err == nil
}

// put keeps a file, without what is secret in it.
func (s *shelf) put(ctx context.Context, namespace, release string, uid types.UID, file string, what any) error {
	if s.dir == "" {
		return nil
	}
	text, err := json.Marshal(what)
	if err == nil && s.hide != nil {
		text, err = s.hide(ctx, text)
	}
	if err != nil {
		return fmt.Errorf("keep the evidence of release %s/%s: %w", namespace, release, err)
	}
	return s.write(namespace, release, uid, file, text)
}

// write keeps a file as it is.
func (s *shelf) write(namespace, release string, uid types.UID, file string, text []byte) error {
	name, err := s.path(namespace, release, uid, file)
	if err == nil {
		err = atomicfile.Write(name, text)
	}
	if err != nil {
		return fmt.Errorf("keep the evidence of release %s/%s: %w", namespace, release, err)
	}
	return nil
}

// bundle is all that is kept of a release, or evidence.ErrNone. A file that can't be read
// is left out.
func (s *shelf) bundle(namespace, release string, uid types.UID) (*evidence.Bundle, error) {
	any, err := s.path(namespace, release, uid, "x")
	if s.dir == "" || err != nil {
		return nil, evidence.ErrNone
	}
	dir := filepath.Dir(any)
	b := &evidence.Bundle{Format: evidence.Format, Release: release, Namespace: namespace, UID: filepath.Base(dir)}
	files, err := os.ReadDir(dir)
	files = slices.DeleteFunc(files, func(f fs.DirEntry) bool {
		return f.Name() != factsFile && f.Name() != pathFile && !strings.HasPrefix(f.Name(), nodeFiles)
	})
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(files) == 0 {
		return nil, evidence.ErrNone
	}
	if err != nil {
		return nil, err
	}
	var pairs []evidence.Pair
	var after *heardLater
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		switch {
		case err != nil:
			return nil, err
		case f.Name() == factsFile:
			if facts := *b; json.Unmarshal(text, &facts) == nil {
				b = &facts
			}
		case f.Name() == pathFile:
			if l := (&heardLater{}); json.Unmarshal(text, l) == nil {
				after = l
			}
		default:
			var p spec.Pairs
			if json.Unmarshal(text, &p) == nil {
				pairs = append(pairs, p.Pairs...)
			}
		}
	}
	b.Pairs = pairs
	if after != nil {
		b.Path, b.Moved = after.Path, after.Moved
	}
	b.Sort()
	return b, nil
}

// kept is what is kept of one release.
type kept struct {
	dir  string
	at   time.Time // when something of it was written last
	size int64
}

// sweep removes what was written before a time, and then what is oldest until no more than
// so many bytes are left: of each namespace, so that none has what others keep removed, and of
// all. What was written after young stays, however large it is.
func (s *shelf) sweep(before, young time.Time, each, most int64) error {
	if s.dir == "" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(s.dir, "*", "*", "*"))
	errs := []error{err}
	var all []kept
	var size int64
	of := map[string]int64{} // by the directory of a namespace
	for _, dir := range dirs {
		if k, there := weigh(dir); there {
			all = append(all, k)
			size += k.size
			of[k.namespace()] += k.size
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return a.at.Compare(b.at) })
	remove := func(which func(kept) bool) {
		all = slices.DeleteFunc(all, func(k kept) bool {
			if !which(k) {
				return false
			}
			size -= k.size
			of[k.namespace()] -= k.size
			errs = append(errs, os.RemoveAll(k.dir))
			_ = os.Remove(filepath.Dir(k.dir)) // if that was the last
			_ = os.Remove(k.namespace())       // and this, too
			return true
		})
	}
	remove(func(k kept) bool { return k.at.Before(before) })
	remove(func(k kept) bool { return of[k.namespace()] > each && !k.at.After(young) })
	remove(func(k kept) bool { return size > most && !k.at.After(young) })
	return errors.Join(errs...)
}

// namespace is the directory of all that is kept of its namespace.
func (k kept) namespace() string { return filepath.Dir(filepath.Dir(k.dir)) }

// weigh looks at a directory, if it is there.
func weigh(dir string) (k kept, there bool) {
	info, err := os.Stat(dir)
	if err != nil {
		return k, false
	}
	k = kept{dir: dir, at: info.ModTime()}
	files, _ := os.ReadDir(dir) // what can't be read has no size
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			k.size += info.Size()
			if info.ModTime().After(k.at) {
				k.at = info.ModTime()
			}
		}
	}
	return k, true
}
