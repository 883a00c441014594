// Package ignore tells which files below a directory are none of an app's
// business: those that .gitignore and .dockerignore name, and git's own.
//
// The main type is [Rules]. It reads the files with rules as it meets them, so
// it costs nothing for directories that nobody asks about, and it never reads
// one twice: make a new Rules after such a file has changed. A Rules is safe for
// concurrent use.
package ignore

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// The files that hold rules.
const (
	gitFile    = ".gitignore"
	dockerFile = ".dockerignore"
)

// IsRules reports whether a file of that path holds ignore rules, so that a
// change of it can change what is ignored.
func IsRules(p string) bool {
	base := path.Base(p)
	return base == gitFile || base == dockerFile
}

// Rules decides what is ignored below one directory.
//
// A directory that was named as the place to read is read even where a rule
// from above ignores it (a generated site in dist/, say): such rules then don't
// count below it either.
type Rules struct {
	top      string // absolute: where the outermost rules are
	prefix   string // the directory that was asked for, relative to top; "." is top itself
	above    bool   // whether rules of the directories above prefix count
	noDocker bool   // whether .dockerignore files are not read

	mu     sync.Mutex
	git    map[string][]pattern
	docker map[string]*patternmatcher.PatternMatcher
	dirs   map[string]bool // whether git ignores a directory
}

// In returns the rules for dir, a slash separated path relative to root. Rules
// above root count as far up as the git repository that root is in.
func In(root, dir string) *Rules { return in(root, dir, true) }

// Git returns the rules for root itself that git knows: those of .dockerignore files,
// which are for what is put into an image and often name all but a program, don't count.
func Git(root string) *Rules { return in(root, ".", false) }

func in(root, dir string, docker bool) *Rules {
	if abs, err := filepath.Abs(root); err == nil {
		root = abs
	}
	top := root
	for d := root; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(filepath.Join(d, ".git")); err == nil {
			top = d
			break
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	rel, err := filepath.Rel(top, filepath.Join(root, filepath.FromSlash(dir)))
	if err != nil {
		top, rel = filepath.Join(root, filepath.FromSlash(dir)), "."
	}
	r := &Rules{
		top: top, prefix: filepath.ToSlash(rel), above: true, noDocker: !docker,
		git: map[string][]pattern{}, docker: map[string]*patternmatcher.PatternMatcher{}, dirs: map[string]bool{},
	}
	r.above = r.prefix == "." || !r.hidden()
	clear(r.dirs)
	return r
}

// hidden reports whether the rules from above ignore the directory itself, or
// all that is in it.
func (r *Rules) hidden() bool {
	for p := r.prefix; p != "."; p = path.Dir(p) {
		if r.gitMatch(p, true) || r.dockerMatch(p) {
			return true
		}
	}
	const page = "index.html"
	return r.gitMatch(path.Join(r.prefix, page), false) || r.dockerMatch(path.Join(r.prefix, page))
}

// Ignored reports whether the path, relative to the directory of the Rules, is
// ignored. An ignored directory need not be looked into.
func (r *Rules) Ignored(p string, dir bool) bool {
	if p == "." {
		return false
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".git" {
			return true
		}
	}
	if IsRules(p) || path.Base(p) == ".gitattributes" {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	full := path.Join(r.prefix, p)
	for d := path.Dir(full); below(d, r.prefix); d = path.Dir(d) {
		if r.gitIgnoresDir(d) {
			return true
		}
	}
	if r.gitMatch(full, dir) {
		return true
	}
	return r.dockerMatch(full) && !(dir && r.dockerMayInclude(full))
}

// below reports whether p is truly below dir.
func below(p, dir string) bool {
	if dir == "." {
		return p != "."
	}
	return strings.HasPrefix(p, dir+"/")
}

// gitIgnoresDir is gitMatch for a directory, remembered.
func (r *Rules) gitIgnoresDir(p string) bool {
	ignored, ok := r.dirs[p]
	if !ok {
		ignored = r.gitMatch(p, true)
		r.dirs[p] = ignored
	}
	return ignored
}

// gitMatch reports what the rules say of the path alone, whatever they say of
// the directories that it is in. The file of rules nearest to the path decides,
// and in a file the last rule that matches.
func (r *Rules) gitMatch(p string, dir bool) bool {
	for d := path.Dir(p); ; d = path.Dir(d) {
		if !r.above && !below(d, r.prefix) && d != r.prefix {
			return false
		}
		rel := p
		if d != "." {
			rel = p[len(d)+1:]
		}
		patterns := r.gitPatterns(d)
		for i := len(patterns) - 1; i >= 0; i-- {
			if patterns[i].match(rel, dir) {
				return !patterns[i].negate
			}
		}
		if d == "." {
			return false
		}
	}
}

// gitPatterns reads the rules of one directory. Those of .git/info/exclude come
// before all others.
func (r *Rules) gitPatterns(dir string) []pattern {
	if patterns, ok := r.git[dir]; ok {
		return patterns
	}
	var patterns []pattern
	local := filepath.Join(r.top, filepath.FromSlash(dir))
	if dir == "." {
		if b, err := os.ReadFile(filepath.Join(local, ".git", "info", "exclude")); err == nil {
			patterns = append(patterns, parseGit(string(b))...)
		}
	}
	if b, err := os.ReadFile(filepath.Join(local, gitFile)); err == nil {
		patterns = append(patterns, parseGit(string(b))...)
	}
	r.git[dir] = patterns
	return patterns
}

// dockerMatch reports whether a .dockerignore in any directory above the path
// excludes it. Docker knows the file at the root of a build's context only;
// here each service's directory may be such a root.
func (r *Rules) dockerMatch(p string) bool {
	for d := path.Dir(p); ; d = path.Dir(d) {
		if !r.above && !below(d, r.prefix) && d != r.prefix {
			return false
		}
		if m := r.dockerMatcher(d); m != nil {
			rel := p
			if d != "." {
				rel = p[len(d)+1:]
			}
			if ok, err := m.MatchesOrParentMatches(filepath.FromSlash(rel)); err == nil && ok {
				return true
			}
		}
		if d == "." {
			return false
		}
	}
}

// dockerMayInclude reports whether an exception ("!docs/*.md") may bring back
// something below a directory that is excluded itself.
func (r *Rules) dockerMayInclude(p string) bool {
	for d := path.Dir(p); ; d = path.Dir(d) {
		if m := r.dockerMatcher(d); m != nil && m.Exclusions() {
			rel := p
			if d != "." {
				rel = p[len(d)+1:]
			}
			for _, pat := range m.Patterns() {
				if pat.Exclusion() && mayBeBelow(filepath.ToSlash(pat.String()), rel) {
					return true
				}
			}
		}
		if d == "." {
			return false
		}
	}
}

// mayBeBelow reports whether pattern may match something below dir.
func mayBeBelow(pattern, dir string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(dir, "/")
	for i := range min(len(want), len(have)) {
		if want[i] == "**" {
			return true
		}
		if ok, err := path.Match(want[i], have[i]); err == nil && !ok {
			return false
		}
	}
	return true
}

func (r *Rules) dockerMatcher(dir string) *patternmatcher.PatternMatcher {
	if r.noDocker {
		return nil
	}
	if m, ok := r.docker[dir]; ok {
		return m
	}
	r.docker[dir] = nil
	f, err := os.Open(filepath.Join(r.top, filepath.FromSlash(dir), dockerFile))
	if err != nil {
		return nil
	}
	defer f.Close()
	lines, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil
	}
	m, err := patternmatcher.New(lines)
	if err != nil || len(lines) == 0 {
		return nil
	}
	r.docker[dir] = m
	return m
}
