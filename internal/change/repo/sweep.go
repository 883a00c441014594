package repo

import (
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// sweep removes from dir what is none of the entries or not of their kind, without following any link. What
// stays is directories, files and links that the entries have, of whatever content.
func sweep(ctx context.Context, dir string, entries []Entry) error {
	kinds := make(map[string]fs.FileMode, len(entries)*2)
	for _, e := range entries {
		switch e.Mode {
		case ModeSymlink:
			kinds[e.Path] = fs.ModeSymlink
		case ModeSubmodule:
			kinds[e.Path] = fs.ModeDir
		default:
			kinds[e.Path] = 0
		}
		for parent := path.Dir(e.Path); parent != "."; parent = path.Dir(parent) {
			if _, known := kinds[parent]; known {
				break
			}
			kinds[parent] = fs.ModeDir
		}
	}
	submodules := map[string]bool{}
	for _, e := range entries {
		if e.Mode == ModeSubmodule {
			submodules[e.Path] = true
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&0o700 != 0o700 {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if name == dir {
			return nil
		}
		relative := filepath.ToSlash(strings.TrimPrefix(name, dir+string(filepath.Separator)))
		kind, wanted := kinds[relative]
		if wanted && d.Type() == kind && !submodules[path.Dir(relative)] {
			if d.IsDir() {
				return readable(name, d)
			}
			return nil
		}
		if err := removeAll(name); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// readable gives a directory the rights that a walk through it needs; a test may have taken them away.
func readable(name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil || info.Mode()&0o700 == 0o700 {
		return err
	}
	return os.Chmod(name, 0o755)
}

// removeAll removes name and all below it, also from directories that nobody may write to, as Go's module
// cache has them.
func removeAll(name string) error {
	err := os.RemoveAll(name)
	if err == nil {
		return nil
	}
	if walkErr := filepath.WalkDir(name, func(below string, d fs.DirEntry, err error) error {
		if d == nil {
			return err
		}
		if d.IsDir() {
			return readable(below, d)
		}
		return nil
	}); walkErr != nil {
		return err
	}
	return os.RemoveAll(name)
}
