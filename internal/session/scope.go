package session

import (
	"maps"
	"path"
	"path/filepath"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/image"
)

// scope says of which paths a session has to hear. It is made anew when something
// that it depends on has changed, and never changed itself: the watcher reads it in a
// goroutine of its own. Paths are relative to the app's directory.
type scope struct {
	rules *ignore.Rules // of the app's directory
	dirs  map[string]place
}

// place is a directory that a program is built from, or one above such.
type place struct {
	input  bool // a file that comes to be in it may become an input
	others bool // and need not be Go code for that
}

// newScope returns the scope of an app that is built from those inputs. What was
// built from before, as old says where it is not nil, stays in it: it may come back,
// as what another build tool has made does.
func newScope(old *scope, rules *ignore.Rules, a *app.App, inputs map[string]*image.Inputs) *scope {
	s := &scope{rules: rules, dirs: map[string]place{}}
	if old != nil {
		maps.Copy(s.dirs, old.dirs)
	}
	for _, service := range a.Services {
		if in := inputs[service.Name]; in != nil {
			s.take(in)
		}
	}
	return s
}

// take adds what a program is built from.
func (s *scope) take(in *image.Inputs) {
	files, others := map[string]bool{}, map[string]bool{}
	for file := range in.Files {
		dir := path.Dir(file)
		files[dir] = true
		if !isGo(file) {
			others[dir] = true
		}
	}
	for _, dir := range in.Dirs {
		p := s.dirs[dir]
		s.add(dir, place{input: true, others: p.others || others[dir] || !files[dir]})
	}
}

// add adds a directory and those above it, but for the ones that the app's own is in.
func (s *scope) add(dir string, p place) {
	s.dirs[dir] = p
	for up := path.Dir(dir); up != "." && up != "/" && path.Base(up) != ".."; up = path.Dir(up) {
		if _, known := s.dirs[up]; known {
			return // and so are those above it
		}
		s.dirs[up] = place{}
	}
}

// ignores reports whether nobody has to hear of a path. It is called for each event,
// and for each path of the app when a session begins.
func (s *scope) ignores(rel string, dir bool) bool {
	if ignoredAlways(rel) {
		return true
	}
	if rel == "." {
		return false
	}
	if !isOutside(rel) {
		return s.rules.Ignored(rel, dir)
	}
	if _, known := s.dirs[rel]; known {
		return false
	}
	// A new directory may belong to what is embedded, or copied as it is.
	in := s.dirs[path.Dir(rel)]
	return !in.input || dir && !in.others
}

// opened returns the directories that have to be watched and were not so far.
func (s *scope) opened(old *scope) []string {
	var dirs []string
	for dir := range s.dirs {
		if _, known := old.dirs[dir]; !known && old.ignores(dir, true) && !s.ignores(dir, true) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// outside returns the directories outside of the app's that have inputs.
func (s *scope) outside() []string {
	var dirs []string
	for dir, p := range s.dirs {
		if p.input && isOutside(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// isOutside reports whether a path is not in the app's directory.
func isOutside(rel string) bool {
	return rel == ".." || strings.HasPrefix(rel, "../") || path.IsAbs(rel) || filepath.IsAbs(rel)
}

// ignoredAlways reports directories that never hold source.
func ignoredAlways(rel string) bool {
	switch path.Base(rel) {
	case ".git", ".hg", ".svn", "node_modules":
		return true
	}
	return false
}
