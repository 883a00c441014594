package agent

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live/delta"
	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// make makes the file or symbolic link of a put.
func (p *patch) make(ctx context.Context, put wire.Put, r *bufio.Reader, d *dir, base string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e := put.Entry
	if e.Mode&fs.ModeSymlink != 0 {
		return d.symlink(e.Link, base)
	}
	switch put.How {
	case wire.Same:
		src, err := p.from.at(path.Dir(put.Ref))
		if err != nil {
			return p.moved(put.Ref, err)
		}
		defer src.close()
		was := p.have.tree[put.Ref]
		if was.Mode == e.Mode {
			err = p.bringAs(put, e, src, d, base)
		} else {
			err = p.copyAs(put, e, src, d, base)
		}
		return err
	case wire.Delta:
		return p.applyDelta(put, r, d, base)
	}
	return p.file(put.Path, e, d, base, func(w io.Writer) error {
		n, err := io.CopyBuffer(w, io.LimitReader(r, e.Size), p.buffer())
		if err == nil && n < e.Size {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
}

// bringAs links the file that the put is the same as.
func (p *patch) bringAs(put wire.Put, e tree.Entry, src, d *dir, base string) error {
	was := path.Base(put.Ref)
	m, err := src.stat(was)
	if err != nil {
		return p.moved(put.Ref, err)
	}
	if p.isLive && m.mode == e.Mode && p.have.meta[put.Ref].unchanged(m) {
		if err := unix.Linkat(src.fd(), was, d.fd(), base, 0); err == nil {
			p.meta[put.Path] = m
			return nil
		}
	}
	return p.copyAs(put, e, src, d, base)
}

// copyAs copies the file that the put is the same as.
func (p *patch) copyAs(put wire.Put, e tree.Entry, src, d *dir, base string) error {
	in, err := src.open(path.Base(put.Ref))
	if err != nil {
		return p.moved(put.Ref, err)
	}
	defer in.Close()
	err = p.file(put.Path, e, d, base, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{in}, p.buffer())
		return err
	})
	if r, ok := errors.AsType[*refusal](err); ok && r.code == wire.BadHash {
		return p.moved(put.Ref, errors.New("its content is another"))
	}
	return err
}

// applyDelta makes a file from its delta.
func (p *patch) applyDelta(put wire.Put, r *bufio.Reader, d *dir, base string) error {
	src, err := p.from.at(path.Dir(put.Ref))
	if err != nil {
		return p.moved(put.Ref, err)
	}
	defer src.close()
	f, err := src.open(path.Base(put.Ref))
	if err != nil {
		return p.moved(put.Ref, err)
	}
	defer f.Close()
	m, err := statFile(f)
	if err != nil {
		return err
	}
	old, release, err := delta.Map(f, m.size)
	if err != nil {
		return err
	}
	defer release()
	err = p.file(put.Path, put.Entry, d, base, func(w io.Writer) error {
		return delta.Guard(func() error { return delta.Apply(w, old, r, put.Entry.Size) })
	})
	if bad, ok := errors.AsType[*refusal](err); ok && bad.code == wire.BadHash {
		bad.code = wire.BadDelta
	}
	if errors.Is(err, delta.ErrCorrupt) {
		return refuse(wire.BadDelta, put.Path, "%q: %w", put.Path, err)
	}
	return err
}

func (p *patch) buffer() []byte {
	if p.buf == nil {
		p.buf = make([]byte, 64<<10)
	}
	return p.buf
}

// file makes the file base in d from what fill writes, and checks that this is
// what the entry says.
func (p *patch) file(name string, e tree.Entry, d *dir, base string, fill func(io.Writer) error) (err error) {
	f, err := d.create(base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if p.h == nil {
		p.h = sha256.New()
	}
	w := newHashing(f, p.h, e.Size)
	err = errors.Join(fill(w), w.close())
	if err != nil {
		return err
	}
	if w.n != e.Size || w.sum != e.Hash {
		return refuse(wire.BadHash, name, "%q has another content than was announced", name)
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(e.Mode.Perm())); err != nil {
		return &fs.PathError{Op: "chmod", Path: name, Err: err}
	}
	p.written += w.n
	m, err := statFile(f)
	p.meta[name] = m
	return err
}

// bring makes name as in src appear in dst as base.
func (p *patch) bring(name string, e tree.Entry, src, dst *dir, was, base string) error {
	if e.Mode&fs.ModeSymlink != 0 {
		return dst.symlink(e.Link, base)
	}
	m, err := src.stat(was)
	if err != nil {
		return p.moved(name, err)
	}
	if m.mode == e.Mode && p.isLive && p.have.meta[name].unchanged(m) {
		if err := unix.Linkat(src.fd(), was, dst.fd(), base, 0); err == nil {
			p.meta[name] = m
			return nil
		}
	}
	in, err := src.open(was)
	if err != nil {
		return p.moved(name, err)
	}
	defer in.Close()
	err = p.file(name, e, dst, base, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{in}, p.buffer())
		return err
	})
	if r, ok := errors.AsType[*refusal](err); ok && r.code == wire.BadHash {
		return p.moved(name, errors.New("its content is another"))
	}
	return err
}

// moved says that the disk is not what was known; the next request reads it.
func (p *patch) moved(name string, err error) error {
	p.s.mu.Lock()
	if p.s.digest == p.head.Base {
		p.s.stale = true
	}
	p.s.mu.Unlock()
	return refuse(wire.OtherBase, name, "%q was changed by somebody else than a session: %w", name, err)
}
