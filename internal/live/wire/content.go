package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"

	"github.com/bightdev/bight/internal/tree"
)

// How the content of a put file is sent.
const (
	Whole byte = iota // as it is
	Same              // it is that of Ref in the base
	Delta             // a delta (package delta) against Ref in the base
)

// Put is one entry that a patch adds or replaces.
type Put struct {
	Path  string
	Entry tree.Entry
	How   byte   // files only
	Ref   string // Same and Delta only
}

// A patch's content is, in this order: the deleted paths, the puts, the content
// of those files among the puts that are Whole or Delta. So the agent can check
// everything about the patch before it writes a byte.

// AppendDelete appends a deleted path.
func AppendDelete(b []byte, path string) []byte {
	e := encoder{b: b}
	e.string(path)
	return e.b
}

// AppendPut appends a put.
func AppendPut(b []byte, p Put) []byte {
	e := encoder{b: b}
	e.string(p.Path)
	e.entry(p.Entry)
	if p.Entry.Mode.IsRegular() {
		e.byte(p.How)
		if p.How != Whole {
			e.string(p.Ref)
		}
	}
	return e.b
}

// Content reads the content of a patch.
type Content struct{ R *bufio.Reader }

// Delete reads a deleted path.
func (c Content) Delete() (string, error) {
	s, err := c.string()
	if err != nil {
		return "", fmt.Errorf("patch: deleted path: %w", err)
	}
	return s, nil
}

// Put reads a put.
func (c Content) Put() (Put, error) {
	p, err := c.put()
	if err != nil {
		return Put{}, fmt.Errorf("patch: entry %q: %w", p.Path, err)
	}
	return p, nil
}

func (c Content) put() (p Put, err error) {
	if p.Path, err = c.string(); err != nil {
		return p, err
	}
	// The entry is collected into the form that the decoder knows.
	mode, err := binary.ReadUvarint(c.R)
	if err != nil {
		return p, noEOF(err)
	}
	e := encoder{}
	e.uint(mode)
	switch m := fs.FileMode(mode); {
	case m&fs.ModeSymlink != 0:
		link, err := c.string()
		if err != nil {
			return p, err
		}
		e.string(link)
	case m.IsRegular():
		size, err := binary.ReadUvarint(c.R)
		if err != nil {
			return p, noEOF(err)
		}
		var h tree.Hash
		if _, err := io.ReadFull(c.R, h[:]); err != nil {
			return p, noEOF(err)
		}
		e.uint(size)
		e.hash(h)
	}
	d := decoder{b: e.b}
	p.Entry = d.entry()
	if err := d.end("entry"); err != nil || !p.Entry.Mode.IsRegular() {
		return p, err
	}
	if p.How, err = c.R.ReadByte(); err != nil {
		return p, noEOF(err)
	}
	switch p.How {
	case Whole:
	case Same, Delta:
		p.Ref, err = c.string()
	default:
		err = fmt.Errorf("%w: content kind %d", ErrFrame, p.How)
	}
	return p, err
}

func (c Content) string() (string, error) {
	n, err := binary.ReadUvarint(c.R)
	if err != nil {
		return "", noEOF(err)
	}
	if n > maxPath {
		return "", fmt.Errorf("%w: path of %d bytes", ErrFrame, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.R, b); err != nil {
		return "", noEOF(err)
	}
	return string(b), nil
}
