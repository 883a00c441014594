package tree

import (
	"context"
	"path"
	"slices"
	"strings"
)

// Update returns what [ReadDir] of root would, given that old was read from
// there and that nothing but the changed paths (relative to root; files or
// directories) can have changed since. It costs as much as is changed, and one
// pass over old. Old stays as it is.
func Update(ctx context.Context, root string, old Tree, changed []string, opts Options) (Tree, []Problem, error) {
	if slices.Contains(changed, ".") {
		return ReadDir(ctx, root, opts)
	}
	changed = outermost(changed)
	now := make(Tree, len(old)+len(changed))
	for p, e := range old {
		if !under(p, changed) {
			now[p] = e
		}
	}
	var problems []Problem
	for _, p := range changed {
		part, trouble, err := ReadBelow(ctx, root, p, opts)
		if err != nil {
			return nil, nil, err
		}
		for q, e := range part {
			now[q] = e
		}
		problems = append(problems, trouble...)
	}
	return now, problems, fixParents(ctx, root, now, changed, opts)
}

// outermost sorts the paths and drops those below others.
func outermost(paths []string) []string {
	sorted := slices.Sorted(slices.Values(paths))
	set := make(map[string]bool, len(sorted))
	for _, p := range sorted {
		set[p] = true
	}
	return slices.DeleteFunc(slices.Compact(sorted), func(p string) bool {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if set[d] {
				return true
			}
		}
		return false
	})
}

// under reports whether p or a directory that it is in is one of the sorted
// paths.
func under(p string, sorted []string) bool {
	for {
		if _, ok := slices.BinarySearch(sorted, p); ok {
			return true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return false
		}
		p = p[:i]
	}
}

// fixParents lists the directories above the changed paths that are empty now
// and drops those that no longer are.
func fixParents(ctx context.Context, root string, t Tree, changed []string, opts Options) error {
	parents := map[string]bool{} // whether anything is in it
	for _, p := range changed {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			parents[d] = false
		}
	}
	if len(parents) == 0 {
		return nil
	}
	for p := range t {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, ok := parents[d]; ok {
				parents[d] = true
			}
		}
	}
	// The longest first: a directory that is listed is something in its parent.
	dirs := make([]string, 0, len(parents))
	for d := range parents {
		dirs = append(dirs, d)
	}
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, d := range dirs {
		e, listed := t[d]
		switch {
		case parents[d] && listed && e.Mode.IsDir():
			delete(t, d)
		case !parents[d] && !listed:
			part, _, err := ReadBelow(ctx, root, d, opts)
			if err != nil {
				return err
			}
			if e, empty := part[d]; empty {
				t[d] = e
			}
		}
		if _, listed := t[d]; listed || parents[d] {
			markParent(parents, d)
		}
	}
	return nil
}

func markParent(parents map[string]bool, dir string) {
	if d := path.Dir(dir); d != "." {
		parents[d] = true
	}
}
