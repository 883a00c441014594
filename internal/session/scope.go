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
	rules rules
	sites map[string]*ignore.Rules // by directory of a static service, which goes by its own
	dirs  map[string]place
	kinds map[string]bool // of input files that are no Go code, as kind has it
}

// rules are those of the app's directory. What they ignore is of no interest, but
// for what is read by other rules, or by none.
type rules struct {
	all *ignore.Rules
	git *ignore.Rules // by which the plan is read
}

// readRules returns rules that know of the files as they are now.
func readRules(dir string) rules { return rules{ignore.In(dir, "."), ignore.Git(dir)} }

// place is a directory that a service is built from, or one above such.
type place struct {
	input  bool // a file that comes to be in it may become an input
	others bool // and need not be Go code for that
	loose  bool // nobody's rules are for it: it is ignored itself, or outside of the app
}

// newScope returns the scope of an app of which some programs are built from inputs.
// What was built from before, as old says where it is not nil, stays in it: for others
// it still counts, and it may come back, as what another build tool has made does.
func newScope(old *scope, rules rules, a *app.App, inputs ...*image.Inputs) *scope {
	s := &scope{rules: rules, sites: map[string]*ignore.Rules{}, dirs: map[string]place{}, kinds: map[string]bool{}}
	if old == nil {
		old = &scope{}
	}
	maps.Copy(s.dirs, old.dirs)
	maps.Copy(s.kinds, old.kinds)
	for _, service := range a.Services {
		if service.Build.Kind != app.BuildStatic {
			continue
		}
		root := path.Clean(service.Build.Root)
		s.add(root, s.dirs[root])
		if s.sites[root] = old.sites[root]; s.sites[root] == nil || rules != old.rules {
			s.sites[root] = ignore.In(a.Dir, root)
		}
	}
	for _, in := range inputs {
		s.take(in)
	}
	for dir, p := range s.dirs {
		if _, known := old.dirs[dir]; !known || rules != old.rules {
			p.loose = isOutside(dir) || rules.all.Ignored(dir, true)
			s.dirs[dir] = p
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
			s.kinds[kind(file)] = true
		}
	}
	for _, dir := range in.Dirs {
		p := s.dirs[dir]
		p.input, p.others = true, p.others || others[dir] || !files[dir]
		s.add(dir, p)
	}
}

// kind is what files in the same directory that end the same have in common.
func kind(file string) string { return path.Join(path.Dir(file), "*"+path.Ext(file)) }

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
	outside := isOutside(rel)
	if rel == "." || !outside && (ignore.IsRules(rel) || !s.rules.all.Ignored(rel, dir)) {
		return false
	}
	if _, known := s.dirs[rel]; known || !outside && s.plans(rel, dir) {
		return false
	}
	for root, rules := range s.sites {
		if below := image.Place(rel, root, "."); !outside && below != "" && !rules.Ignored(below, dir) {
			return false
		}
	}
	in := s.dirs[path.Dir(rel)]
	if dir { // a new one may belong to what is embedded
		return !(in.loose && in.others)
	}
	return !in.input || !in.loose && !isGo(rel) && !s.kinds[kind(rel)]
}

// plans reports whether the plan may be read from a path, or from what is below it.
func (s *scope) plans(rel string, dir bool) bool {
	base := path.Base(rel)
	return (dir || isGo(rel) || base == "bight.yaml" || base == "index.html") && !s.rules.git.Ignored(rel, dir)
}

// opened returns the directories that have to be watched and were not so far.
func (s *scope) opened(old *scope) []string {
	var dirs []string
	for dir := range s.dirs {
		was, known := old.dirs[dir]
		switch {
		case !known && old.ignores(dir, true):
			dirs = append(dirs, dir)
		case s.sites[dir] != nil && old.sites[dir] == nil && was.loose:
			dirs = append(dirs, dir) // with all that is below it
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
