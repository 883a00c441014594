package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
)

// shelf keeps the evidence of releases as files, NAMESPACE/RELEASE/UID/: what the
// controller knows in facts.json, what each node has seen in node-NAME.json. A file is
// there whole or not at all.
type shelf struct {
	dir string // "" keeps nothing
	// hide takes out of a text what is secret.
	hide func(context.Context, []byte) ([]byte, error)
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
func (s *shelf) put(ctx context.Context, namespace, release string, uid types.UID, file string, what any) error {
	if s.dir == "" {
		return nil
	}
	name, err := s.path(namespace, release, uid, file)
	if err != nil {
		return err
	}
	text, err := json.Marshal(what)
	if err == nil && s.hide != nil {
		text, err = s.hide(ctx, text)
	}
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
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(files) == 0 {
		return nil, evidence.ErrNone
	}
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
			if facts := *b; json.Unmarshal(text, &facts) == nil {
				b = &facts
			}
		case strings.HasPrefix(f.Name(), "node-"):
			var p spec.Pairs
			if json.Unmarshal(text, &p) == nil {
				pairs = append(pairs, p.Pairs...)
			}
		}
	}
	b.Pairs = pairs
	b.Sort()
	return b, nil
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
