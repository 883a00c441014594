package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/bightdev/bight/internal/tree"
)

// listing is a tree and what its files looked like when they were hashed.
type listing struct {
	tree tree.Tree
	meta map[string]meta // files only
}

func newListing(n int) listing {
	return listing{tree: make(tree.Tree, n), meta: make(map[string]meta, n)}
}

// scan reads everything below d. Hashes of files that look as in known are taken
// from there.
func scan(d *dir, known listing) (listing, error) {
	l := newListing(len(known.tree))
	err := l.add(d, "", known)
	return l, err
}

func (l *listing) add(d *dir, prefix string, known listing) error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		p := prefix + name
		e, m, err := look(d, name, p, known)
		if err != nil {
			return err
		}
		switch {
		case e.Mode.IsDir():
			sub, err := d.sub(name)
			if err != nil {
				return err
			}
			before := len(l.tree)
			err = l.add(sub, p+"/", known)
			_ = sub.close()
			if err != nil {
				return err
			}
			if len(l.tree) == before || e.Mode.Perm() != 0o755 {
				l.tree[p] = e
			}
		case e.Mode.IsRegular():
			l.tree[p], l.meta[p] = e, m
		case e.Mode&fs.ModeSymlink != 0:
			l.tree[p] = e
		}
	}
	return nil
}

// look finds what is at name in d. For a thing that no tree has, the mode is
// irregular.
func look(d *dir, name, p string, known listing) (tree.Entry, meta, error) {
	m, err := d.stat(name)
	if err != nil {
		return tree.Entry{}, m, err
	}
	e := tree.Entry{Mode: m.mode}
	switch {
	case m.mode&fs.ModeSymlink != 0:
		e.Link, err = d.readlink(name)
	case m.mode.IsRegular():
		e.Size = m.size
		if was, ok := known.meta[p]; ok && was.unchanged(m) {
			e.Hash = known.tree[p].Hash
			break
		}
		e.Hash, m, err = hashFile(d, name)
		e.Size = m.size
	}
	return e, m, err
}

// hashFile hashes the file name in d as it was at one moment: when its size or
// time changes meanwhile, it is read again.
func hashFile(d *dir, name string) (tree.Hash, meta, error) {
	f, err := d.open(name)
	if err != nil {
		return tree.Hash{}, meta{}, err
	}
	defer f.Close()
	for range 3 {
		before, err := statFile(f)
		if err != nil {
			return tree.Hash{}, meta{}, err
		}
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, before.size)); err != nil {
			return tree.Hash{}, meta{}, err
		}
		if after, err := statFile(f); err != nil || after == before {
			return tree.Hash(h.Sum(nil)), before, err
		}
	}
	return tree.Hash{}, meta{}, fmt.Errorf("read %s: it is being written all the time", f.Name())
}

// reread looks at each path of l again, reading every file when all is set and
// only those that look different otherwise. What is gone is left out; what
// nobody asked about (files that the process wrote) is not looked at.
func (l listing) reread(root *dir, all bool) (listing, error) {
	known := l
	if all {
		known = listing{}
	}
	out := newListing(len(l.tree))
	c := cursor{root: root}
	defer c.close()
	for _, p := range l.tree.Paths() {
		d, err := c.to(path.Dir(p))
		if err != nil {
			if gone(err) {
				continue
			}
			return out, err
		}
		e, m, err := look(d, path.Base(p), p, known)
		if err != nil {
			if gone(err) {
				continue
			}
			return out, err
		}
		if e.Mode&fs.ModeIrregular != 0 {
			continue
		}
		out.tree[p] = e
		if e.Mode.IsRegular() {
			out.meta[p] = m
		}
	}
	return out, nil
}

// gone reports whether err says that there is nothing at a path, or something
// else than a directory above it.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) || errors.Is(err, errLoop)
}
