package repo

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Contents tells what is in a working copy that its users should know of.
type Contents struct {
	Files      int         // symlinks are files
	Bytes      int64       // of all files
	Submodules []Submodule // left empty
	Pointers   []string    // files that Git LFS keeps elsewhere: only the pointer is there
	Large      []Entry     // over CheckoutOptions.MaxFile
	Collisions [][]string  // paths that are one on a file system which does not tell cases apart
}

// Submodule is a directory that stands for a commit of another repository.
type Submodule struct {
	Path   string
	Commit string
}

const (
	maxLink      = 64 << 10 // bytes of a symlink's target or an attributes file that are looked at
	minPointer   = 100      // bytes of an LFS pointer
	maxPointer   = 1024
	pointerStart = "version https://git-lfs.github.com/spec/v1\n"
	maxHops      = 40 // symlinks in one path, as Linux has it
)

// survey counts and sorts out a commit's files.
func survey(entries []Entry, limits CheckoutOptions) (Contents, error) {
	var c Contents
	for _, e := range entries {
		if e.Mode == ModeSubmodule {
			c.Submodules = append(c.Submodules, Submodule{Path: e.Path, Commit: e.Hash})
			continue
		}
		c.Files++
		c.Bytes += e.Size
		if e.Size > limits.MaxFile {
			c.Large = append(c.Large, e)
		}
	}
	if c.Files > limits.MaxFiles {
		return c, fmt.Errorf("the commit has %d files, the limit is %d: remove what is generated from it", c.Files, limits.MaxFiles)
	}
	if c.Bytes > limits.MaxTotal {
		return c, &TooLargeError{What: "the commit's files", Size: c.Bytes, Limit: limits.MaxTotal}
	}
	c.Collisions = collisions(entries)
	return c, nil
}

// collisions returns the paths, directories among them, that differ in case only.
func collisions(entries []Entry) [][]string {
	byFold := map[string][]string{}
	seen := map[string]bool{}
	for _, e := range entries {
		for name := e.Path; name != "." && !seen[name]; name = path.Dir(name) {
			seen[name] = true
			fold := strings.ToLower(name)
			byFold[fold] = append(byFold[fold], name)
		}
	}
	var groups [][]string
	for _, names := range byFold {
		if len(names) > 1 {
			slices.Sort(names)
			groups = append(groups, names)
		}
	}
	slices.SortFunc(groups, slices.Compare)
	return groups
}

// unsafe returns what of a commit must not be written, each with its reason: names that stand for git's own
// directory, and symlinks that lead out of the tree.
func unsafe(entries []Entry, texts map[string]string) []string {
	links := map[string]string{}
	for _, e := range entries {
		if e.Mode == ModeSymlink {
			links[e.Path] = texts[e.Path]
		}
	}
	var causes []string
	for _, e := range entries {
		if err := checkPath(e.Path); err != nil {
			causes = append(causes, printable(err.Error()))
			continue
		}
		if e.Mode != ModeSymlink {
			continue
		}
		switch target := links[e.Path]; {
		case e.Size > maxLink:
			causes = append(causes, fmt.Sprintf("symlink %s has a target of %d bytes", printable(e.Path), e.Size))
		case leaves(links, e.Path):
			causes = append(causes, fmt.Sprintf("symlink %s leads out of the tree, to %s", printable(e.Path), printable(target)))
		}
	}
	return causes
}

// leaves tells whether following the path leads out of the tree, resolved as a kernel does it: element by
// element, with the links on the way. A circle leads nowhere, which is not out.
func leaves(links map[string]string, name string) bool {
	rest := strings.Split(name, "/")
	var at []string
	for hops := 0; len(rest) > 0; {
		element := rest[0]
		rest = rest[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return true
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at, element)
		target, isLink := links[strings.Join(at, "/")]
		if !isLink {
			continue
		}
		if hops++; hops > maxHops {
			return false
		}
		if strings.HasPrefix(target, "/") || strings.ContainsAny(target, "\x00\\") || len(target) > 1 && target[1] == ':' {
			return true
		}
		at = at[:len(at)-1]
		rest = append(strings.Split(target, "/"), rest...)
	}
	return false
}

func attributesFile(name string) bool { return path.Base(name) == ".gitattributes" }

// usesLFS tells whether any of the attributes files among texts names LFS's filter.
func usesLFS(texts map[string]string) bool {
	for name, text := range texts {
		if attributesFile(name) && strings.Contains(text, "filter=lfs") {
			return true
		}
	}
	return false
}
