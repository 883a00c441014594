package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Store is the directory of all repositories: Root/NAMESPACE/APP.git. The zero value keeps nothing.
type Store struct {
	Root string
}

// label is what namespaces and apps may be called, as Kubernetes has it.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// path returns where a repository is, if there may be one of that name.
func (s Store) path(namespace, app string) (string, error) {
	for _, name := range []string{namespace, app} {
		if !label.MatchString(name) {
			return "", fmt.Errorf("repository %q of namespace %q: %q is no name: lower-case letters, digits and '-', at most 63", app, namespace, name)
		}
	}
	return filepath.Join(s.Root, namespace, app+".git"), nil
}

// Create returns the repository of an app, made if need be. The branch is the App's: the one that its
// changes are merged into.
func (s Store) Create(ctx context.Context, namespace, app, branch string) (*Repository, error) {
	path, err := s.path(namespace, app)
	if err != nil {
		return nil, err
	}
	return Create(ctx, path, branch)
}

// Open returns the repository of an app, or a [NotFoundError].
func (s Store) Open(namespace, app string) (*Repository, error) {
	path, err := s.path(namespace, app)
	if err != nil {
		return nil, err
	}
	r, err := Open(path)
	if _, ok := errors.AsType[*NotFoundError](err); ok {
		return nil, &NotFoundError{What: fmt.Sprintf("repository of app %s in namespace %s", app, namespace)}
	}
	return r, err
}

// Unlock removes the locks on refs that were made before a time, of all repositories. Git leaves them when it
// is killed, and waits for nobody to take them away. No process that made one may still run.
func (s Store) Unlock(before time.Time) error {
	var errs []error
	for _, pattern := range []string{"HEAD.lock", "config.lock", "packed-refs.lock"} {
		names, err := filepath.Glob(filepath.Join(s.Root, "*", "*.git", pattern))
		errs = append(errs, err)
		for _, name := range names {
			errs = append(errs, unlock(name, before))
		}
	}
	dirs, err := filepath.Glob(filepath.Join(s.Root, "*", "*.git", "refs"))
	errs = append(errs, err)
	for _, dir := range dirs {
		errs = append(errs, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".lock") {
				return err
			}
			return unlock(name, before)
		}))
	}
	return errors.Join(errs...)
}

func unlock(name string, before time.Time) error {
	info, err := os.Lstat(name)
	if err == nil && info.ModTime().Before(before) {
		err = os.Remove(name)
	}
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// Remove deletes the repository of an app. One that does not exist is removed already.
func (s Store) Remove(namespace, app string) error {
	path, err := s.path(namespace, app)
	if err != nil {
		return err
	}
	gone, err := os.MkdirTemp(s.Root, ".removed-*")
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove repository %s/%s: %w", namespace, app, err)
	}
	// Renamed first: nobody ever sees half a repository.
	if err := os.Rename(path, filepath.Join(gone, "git")); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove repository %s/%s: %w", namespace, app, errors.Join(err, os.Remove(gone)))
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove repository %s/%s: %w", namespace, app, err)
	}
	return nil
}
