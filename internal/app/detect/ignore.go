package detect

import (
	"bytes"
	"path"
	"strings"
)

// ignores are the .gitignore files that apply below a directory.
type ignores struct {
	up    *ignores
	dir   string // relative to the root, "." for it
	rules []ignoreRule
}

type ignoreRule struct {
	segments []string // of the pattern; "**" for any number of directories
	anchored bool     // only at the file's own directory
	dirOnly  bool
	negated  bool
	line     int
}

// parseIgnore reads a .gitignore.
func parseIgnore(up *ignores, dir string, data []byte) *ignores {
	ig := &ignores{up: up, dir: dir}
	for i, raw := range bytes.Split(data, []byte{'\n'}) {
		line := strings.TrimRight(string(raw), " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		r := ignoreRule{line: i + 1}
		if line[0] == '!' {
			r.negated, line = true, line[1:]
		}
		line = strings.TrimPrefix(line, `\`)
		if strings.HasSuffix(line, "/") {
			r.dirOnly, line = true, strings.TrimSuffix(line, "/")
		}
		r.anchored = strings.Contains(line, "/")
		line = strings.TrimPrefix(line, "/")
		if line == "" {
			continue
		}
		r.segments = strings.Split(line, "/")
		ig.rules = append(ig.rules, r)
	}
	if len(ig.rules) == 0 {
		return up
	}
	return ig
}

// match reports whether the path (relative to the root) is ignored, and by which
// file and line.
func (ig *ignores) match(p string, isDir bool) (file string, line int, ignored bool) {
	for ; ig != nil; ig = ig.up {
		rel := p
		if ig.dir != "." {
			rel = strings.TrimPrefix(p, ig.dir+"/")
		}
		for i := len(ig.rules) - 1; i >= 0; i-- {
			r := ig.rules[i]
			if r.dirOnly && !isDir {
				continue
			}
			segs := strings.Split(rel, "/")
			if !r.anchored {
				segs = segs[len(segs)-1:]
			}
			if matchSegments(r.segments, segs) {
				return path.Join(ig.dir, ".gitignore"), r.line, !r.negated
			}
		}
	}
	return "", 0, false
}

func matchSegments(pattern, segs []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := range len(segs) + 1 {
				if matchSegments(pattern[1:], segs[i:]) {
					return true
				}
			}
			return false
		}
		if len(segs) == 0 {
			return false
		}
		if ok, err := path.Match(pattern[0], segs[0]); err != nil || !ok {
			return false
		}
		pattern, segs = pattern[1:], segs[1:]
	}
	return len(segs) == 0
}
