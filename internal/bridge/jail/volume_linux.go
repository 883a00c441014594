package jail

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// volume is a directory shown to the command whose files can be replaced while it
// reads them. The keeper has it open, wherever mounts go. One goroutine uses it.
type volume struct {
	root *os.Root
	next int // number of the next generation
}

// dataLink is the link that kubelet replaces; what begins with two dots is its own.
const dataLink = "..data"

// replace makes the volume's content that of m. A file that is replaced is whole
// at each instant; with the ..data layout, all of them change at one instant.
func (v *volume) replace(m *Mount) error {
	files := m.Files
	if m.Projected {
		v.next++
		files = project(files, fmt.Sprintf("..%d", v.next))
	}
	want := map[string]bool{}
	for _, f := range files {
		for p := f.Name; p != "."; p = path.Dir(p) {
			want[p] = true
		}
		var err error
		switch {
		case f.Mode.IsDir():
			err = v.directory(f.Name)
		case f.Link == "":
			err = v.write(f)
		}
		if err != nil {
			return err
		}
	}
	// The link to the data comes before those that lead through it.
	links := slices.DeleteFunc(slices.Clone(files), func(f File) bool { return f.Link == "" })
	slices.SortStableFunc(links, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range links {
		if err := v.link(f); err != nil {
			return err
		}
	}
	return v.prune(want)
}

// project arranges plain files the way kubelet does: the files below a directory
// of this generation, ..data as a link to it, and a link for each entry.
func project(files []File, generation string) []File {
	out := []File{{Name: dataLink, Link: generation}}
	tops := map[string]bool{}
	for _, f := range files {
		top, _, _ := strings.Cut(f.Name, "/")
		tops[top] = true
		f.Name = path.Join(generation, f.Name)
		out = append(out, f)
	}
	for _, top := range slices.Sorted(maps.Keys(tops)) {
		out = append(out, File{Name: top, Link: path.Join(dataLink, top)})
	}
	return out
}

const temporary = "..bight-new"

// write makes f a file with its content, unless it is that already.
func (v *volume) write(f File) error {
	if err := v.directory(path.Dir(f.Name)); err != nil {
		return err
	}
	if st, err := v.root.Lstat(f.Name); err == nil {
		if st.Mode().IsRegular() && st.Mode().Perm() == f.Mode.Perm() && st.Size() == int64(len(f.Content)) {
			if have, err := v.root.ReadFile(f.Name); err == nil && bytes.Equal(have, f.Content) {
				return nil
			}
		}
		if st.IsDir() {
			if err := v.root.RemoveAll(f.Name); err != nil {
				return err
			}
		}
	}
	_ = v.root.Remove(temporary)
	if err := v.root.WriteFile(temporary, f.Content, 0o600); err != nil {
		return err
	}
	if err := v.root.Chmod(temporary, f.Mode.Perm()); err != nil {
		return err
	}
	return v.root.Rename(temporary, f.Name)
}

// link makes f a symbolic link with its target, unless it is that already.
func (v *volume) link(f File) error {
	if err := v.directory(path.Dir(f.Name)); err != nil {
		return err
	}
	if st, err := v.root.Lstat(f.Name); err == nil && st.IsDir() {
		if err := v.root.RemoveAll(f.Name); err != nil {
			return err
		}
	}
	if have, err := v.root.Readlink(f.Name); err == nil && have == f.Link {
		return nil
	}
	_ = v.root.Remove(temporary)
	if err := v.root.Symlink(f.Link, temporary); err != nil {
		return err
	}
	return v.root.Rename(temporary, f.Name)
}

// directory makes dir one, and all above it.
func (v *volume) directory(dir string) error {
	if dir == "." {
		return nil
	}
	// Something that is no directory may be in the way, such as a link.
	for p := range prefixes(dir) {
		if st, lerr := v.root.Lstat(p); lerr == nil && !st.IsDir() {
			if err := v.root.Remove(p); err != nil {
				return err
			}
			break
		}
	}
	return v.root.MkdirAll(dir, 0o755)
}

// prefixes yields a, a/b and a/b/c of a/b/c.
func prefixes(p string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i, c := range p + "/" {
			if c == '/' && !yield(p[:i]) {
				return
			}
		}
	}
}

// prune removes what is not wanted.
func (v *volume) prune(want map[string]bool) error {
	var gone []string
	err := fs.WalkDir(v.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." || want[p] {
			return err
		}
		gone = append(gone, p)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	for _, p := range gone {
		if err := v.root.RemoveAll(p); err != nil {
			return err
		}
	}
	return err
}
