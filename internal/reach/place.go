package reach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Place makes dir, a directory of this machine, show set as it is in the pod,
// "..data" link and all; for a set that is a single file, dir is a file. What is
// there already is replaced the way that kubelet does it: readers see all old
// files or all new ones. Nothing is written outside of dir, whatever is in set.
// One call at a time may be about a directory.
func Place(dir string, set FileSet) error {
	if len(set.Entries) == 1 && set.Entries[0].Name == "." {
		return placeFile(dir, set.Entries[0])
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	p := &placer{root: root, keep: map[string]bool{}}
	for _, step := range []func(File) error{p.directory, p.file, p.data, p.link} {
		for _, f := range set.Entries {
			if !validName(f.Name) || f.Name == "." {
				return filesError("an entry with the name %.100q", f.Name)
			}
			if err := step(f); err != nil {
				return fmt.Errorf("place %s of %s: %w", f.Name, set.Path, err)
			}
		}
	}
	return p.sweep(".")
}

// placeFile puts the one file of a mount where it belongs.
func placeFile(name string, f File) error {
	if f.Mode.Type() != 0 {
		return filesError("a single entry of mode %v", f.Mode)
	}
	temporary := name + temporarySuffix
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := os.WriteFile(temporary, f.Content, fileMode(f)); err != nil {
		return err
	}
	return errors.Join(os.Chmod(temporary, fileMode(f)), os.Rename(temporary, name))
}

const temporarySuffix = "..tmp"

// fileMode is what a file gets here: its owner, who is another one than in the
// pod, can read it.
func fileMode(f File) fs.FileMode { return f.Mode.Perm() | 0o400 }

// placer writes below a root.
type placer struct {
	root *os.Root
	keep map[string]bool // what is of the set
}

func (p *placer) directory(f File) error {
	if !f.Mode.IsDir() {
		return nil
	}
	p.keep[f.Name] = true
	if st, err := p.root.Lstat(f.Name); err == nil && !st.IsDir() {
		if err := p.root.RemoveAll(f.Name); err != nil {
			return err
		}
	}
	if err := p.root.MkdirAll(f.Name, 0o755); err != nil {
		return err
	}
	return p.root.Chmod(f.Name, f.Mode.Perm()|0o700)
}

func (p *placer) file(f File) error {
	if f.Mode.Type() != 0 {
		return nil
	}
	p.keep[f.Name] = true
	return p.replace(f.Name, func(temporary string) error {
		if err := p.root.WriteFile(temporary, f.Content, 0o600); err != nil {
			return err
		}
		return p.root.Chmod(temporary, fileMode(f))
	})
}

// data places the links that make all files change at once.
func (p *placer) data(f File) error {
	if path.Base(f.Name) != "..data" {
		return nil
	}
	return p.anyLink(f)
}

func (p *placer) link(f File) error {
	if path.Base(f.Name) == "..data" {
		return nil
	}
	return p.anyLink(f)
}

func (p *placer) anyLink(f File) error {
	if f.Mode.Type() != fs.ModeSymlink {
		return nil
	}
	p.keep[f.Name] = true
	if at, err := p.root.Readlink(f.Name); err == nil && at == f.Target {
		return nil
	}
	return p.replace(f.Name, func(temporary string) error { return p.root.Symlink(f.Target, temporary) })
}

// replace writes something under another name and gives it its own in one step.
func (p *placer) replace(name string, write func(temporary string) error) error {
	temporary := name + temporarySuffix
	if err := p.root.RemoveAll(temporary); err != nil {
		return err
	}
	if st, err := p.root.Lstat(name); err == nil && st.IsDir() {
		if err := p.root.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := write(temporary); err != nil {
		return err
	}
	return p.root.Rename(temporary, name)
}

// sweep removes what is not of the set, from dir down.
func (p *placer) sweep(dir string) error {
	d, err := p.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case !p.keep[name] && !p.parent(name):
			err = p.root.RemoveAll(name)
		case e.IsDir():
			err = p.sweep(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parent reports whether something that is kept is below name.
func (p *placer) parent(name string) bool {
	for k := range p.keep {
		if strings.HasPrefix(k, name+"/") {
			return true
		}
	}
	return false
}
