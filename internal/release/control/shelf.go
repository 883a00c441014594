package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
)

// shelf keeps the evidence of releases as files, NAMESPACE/RELEASE/UID/: what the
// controller knows in facts.json, what each node has seen in node-NAME.json. A file is
// there whole or not at all.
type shelf struct {
	dir string // "" keeps nothing
	// hide takes out of a text what is secret.
	hide func([]byte) ([]byte, error)
}

const factsFile = "facts.json"

func nodeFile(node string) string { return "node-" + node + ".json" }

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
func (s *shelf) put(namespace, release string, uid types.UID, file string, what any) error {
	if s.dir == "" {
		return nil
	}
	name, err := s.path(namespace, release, uid, file)
	if err != nil {
		return err
	}
	text, err := json.Marshal(what)
	if err == nil && s.hide != nil {
		text, err = s.hide(text)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o700)
	}
	if err == nil {
		err = writeWhole(name, text)
	}
	if err != nil {
		return fmt.Errorf("keep the evidence of release %s/%s: %w", namespace, release, err)
	}
	return nil
}

func writeWhole(name string, text []byte) error {
	w, err := os.CreateTemp(filepath.Dir(name), ".put-*")
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	if err = errors.Join(err, w.Sync(), w.Close()); err == nil {
		err = os.Rename(w.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(w.Name()))
	}
	return nil
}

// bundle is all that is kept of the newest release of a name, or evidence.ErrNone.
func (s *shelf) bundle(namespace, release string) (*evidence.Bundle, error) {
	dir, err := s.newest(namespace, release)
	if err != nil {
		return nil, err
	}
	b := &evidence.Bundle{Format: evidence.Format, Release: release, Namespace: namespace, UID: filepath.Base(dir)}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var pairs []evidence.Pair
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		switch {
		case err != nil:
			return nil, err
		case f.Name() == factsFile:
			if err := json.Unmarshal(text, b); err != nil {
				return nil, fmt.Errorf("read %s of release %s/%s: %w", f.Name(), namespace, release, err)
			}
		case strings.HasPrefix(f.Name(), "node-"):
			var p spec.Pairs
			if err := json.Unmarshal(text, &p); err != nil {
				return nil, fmt.Errorf("read %s of release %s/%s: %w", f.Name(), namespace, release, err)
			}
			pairs = append(pairs, p.Pairs...)
		}
	}
	b.Pairs = pairs
	b.Sort()
	return b, nil
}

// newest is the directory of the release that was written to last.
func (s *shelf) newest(namespace, release string) (string, error) {
	at, err := s.path(namespace, release, "x", "x")
	if s.dir == "" || err != nil {
		return "", evidence.ErrNone
	}
	at = filepath.Dir(filepath.Dir(at))
	dirs, err := os.ReadDir(at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	newest, when := "", time.Time{}
	for _, d := range dirs {
		if info, err := d.Info(); err == nil && !info.ModTime().Before(when) {
			newest, when = filepath.Join(at, d.Name()), info.ModTime()
		}
	}
	if newest == "" {
		return "", evidence.ErrNone
	}
	return newest, nil
}

// sweep removes what was written before a time.
func (s *shelf) sweep(before time.Time) error {
	if s.dir == "" {
		return nil
	}
	all, err := filepath.Glob(filepath.Join(s.dir, "*", "*", "*"))
	errs := []error{err}
	for _, dir := range all {
		if info, err := os.Stat(dir); err == nil && info.ModTime().Before(before) {
			errs = append(errs, os.RemoveAll(dir))
			_ = os.Remove(filepath.Dir(dir))               // if that was the last
			_ = os.Remove(filepath.Dir(filepath.Dir(dir))) // and this, too
		}
	}
	return errors.Join(errs...)
}
