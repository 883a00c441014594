package golang

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// embedded returns the files that a //go:embed pattern of the package in dir
// stands for, and the directories in which new ones may appear. A pattern that
// matches nothing is an error that the compiler reports.
func embedded(dir, pattern string) (files, dirs []string) {
	pattern, all := strings.CutPrefix(pattern, "all:")
	matches, err := fs.Glob(os.DirFS(dir), pattern)
	if err != nil {
		return nil, nil
	}
	// The directory that the fixed part of the pattern names is where other
	// matches may appear.
	fixed := path.Dir(pattern)
	for strings.ContainsAny(fixed, `*?[\`) {
		fixed = path.Dir(fixed)
	}
	if fixed := filepath.Join(dir, filepath.FromSlash(fixed)); isDir(fixed) {
		dirs = append(dirs, fixed)
	}
	for _, match := range matches {
		match = filepath.Join(dir, filepath.FromSlash(match))
		info, err := os.Lstat(match)
		if err != nil || crossesModule(dir, match) {
			continue
		}
		if !info.IsDir() {
			if info.Mode().IsRegular() {
				files = append(files, match)
			}
			continue
		}
		below, inner := embeddedDir(match, all)
		files, dirs = append(files, below...), append(dirs, inner...)
	}
	return files, dirs
}

// embeddedDir lists a directory as the go command embeds it: without names that
// begin with a dot or an underscore unless all are wanted, without other
// modules, and without what is no regular file.
func embeddedDir(root string, all bool) (files, dirs []string) {
	// What can't be read is left for the compiler to report.
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		name := d.Name()
		hidden := path != root && !all && (name[0] == '.' || name[0] == '_')
		if d.IsDir() {
			if hidden || versionControl(name) {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
				return filepath.SkipDir
			}
			dirs = append(dirs, path)
			return nil
		}
		if !hidden && d.Type().IsRegular() && !versionControl(name) {
			files = append(files, path)
		}
		return nil
	})
	return files, dirs
}

func versionControl(name string) bool {
	switch name {
	case ".bzr", ".hg", ".git", ".svn":
		return true
	}
	return false
}
