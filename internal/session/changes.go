package session

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// changes are paths, relative to the app's directory, that may have changed, or
// all of them.
type changes struct {
	paths []string
	all   bool
	heard time.Time // of the first of them
}

func (c changes) empty() bool { return !c.all && len(c.paths) == 0 }

// merge adds what changed later.
func (c changes) merge(later changes) changes {
	if c.empty() {
		return later
	}
	return changes{paths: slices.Concat(c.paths, later.paths), all: c.all || later.all, heard: c.heard}
}

// decidesShape reports whether a change of the file can change what services there
// are and how they are deployed.
func decidesShape(a *app.App, file string) bool {
	switch base := path.Base(file); base {
	case "go.mod", "go.work", "bight.yaml":
		return true
	case "index.html":
		// That of a site is content; a new one elsewhere may make a site.
		return !slices.ContainsFunc(a.Services, func(s *app.Service) bool {
			return s.Build.Kind == app.BuildStatic && tree.Below(file, path.Clean(s.Build.Root))
		}) || slices.ContainsFunc(a.Services, func(s *app.Service) bool {
			return s.Build.Kind == app.BuildStatic && path.Dir(file) == path.Clean(s.Build.Root) && gone(a.Dir, file)
		})
	default:
		// A path without a suffix may be a directory that came or went.
		return strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go") || path.Ext(base) == ""
	}
}

func gone(dir, file string) bool {
	_, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(file)))
	return err != nil
}

// affects returns those of the changed paths that may matter to a service: for a
// site what is below its directory, and ignore rules; for a program its input
// files, what is in a directory of such, and directories with such below them, and
// ignore rules where directories are copied by them. in is nil when nobody knows its
// inputs, and then all may matter.
func affects(a *app.App, service *app.Service, in *image.Inputs, changed []string) []string {
	var paths []string
	for _, file := range changed {
		if service.Build.Kind == app.BuildStatic {
			if tree.Below(file, path.Clean(service.Build.Root)) || ignore.IsRules(file) {
				paths = append(paths, file)
			}
			continue
		}
		if in == nil || isInput(in, file) || ignore.IsRules(file) && len(service.Build.Assets) > 0 {
			paths = append(paths, file)
		}
	}
	return paths
}

// isInput reports whether a path is, was or may become an input of a program.
func isInput(in *image.Inputs, file string) bool {
	if _, known := in.Files[file]; known {
		return true
	}
	if slices.ContainsFunc(in.Dirs, func(dir string) bool { return tree.Below(dir, file) }) {
		return true // a directory above
	}
	if !slices.Contains(in.Dirs, path.Dir(file)) {
		return false
	}
	if isGo(file) {
		return !strings.HasSuffix(file, "_test.go")
	}
	// A new file of another kind counts where such files do, or nothing does yet.
	siblings := 0
	for known := range in.Files {
		if path.Dir(known) == path.Dir(file) {
			siblings++
			if !isGo(known) {
				return true
			}
		}
	}
	return siblings == 0
}

// both returns what is in either of two inputs. The later one decides.
func both(old, in *image.Inputs) *image.Inputs {
	files := maps.Clone(old.Files)
	maps.Copy(files, in.Files)
	dirs := slices.Concat(old.Dirs, in.Dirs)
	slices.Sort(dirs)
	return &image.Inputs{Files: files, Dirs: slices.Compact(dirs), Digest: in.Digest}
}

// isGo reports whether a file is one that the Go command reads.
func isGo(file string) bool {
	switch path.Base(file) {
	case "go.mod", "go.sum", "go.work", "go.work.sum":
		return true
	}
	return path.Ext(file) == ".go"
}

// crowd is from how many paths on a change is no editor's: looking at each of them
// would only delay what is to be done about it.
const crowd = 100

// meaningful returns the changed paths that a person knows: not the files that an
// editor writes beside and renames.
func (s *Session) meaningful(changed []string) []string {
	all := slices.Compact(slices.Sorted(slices.Values(changed)))
	if len(all) > crowd {
		return all
	}
	known := slices.DeleteFunc(slices.Clone(all), func(file string) bool { return gone(s.Dir, file) })
	if len(known) == 0 {
		return all // they were deleted
	}
	return known
}

// syntaxError names files that do not parse.
type syntaxError struct{ files []app.Note }

func (e *syntaxError) Error() string {
	var b strings.Builder
	for i, file := range e.files {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s", file.From.Place(), file.Text)
	}
	return b.String()
}

// renamedError is that the app has another name than when the session began.
type renamedError struct{ old, now string }

func (e renamedError) Error() string {
	return fmt.Sprintf("the app is now named %s, and this session is about %s: end it, take %s down with bight down, and run bight up again, or go back to the old name", e.now, e.old, e.old)
}
