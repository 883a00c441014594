package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live/wire"
)

// write puts the patch on disk and makes it visible.
func (p *patch) write(ctx context.Context, r *bufio.Reader, complete func() error) (applied, error) {
	if p.single() {
		tmp := putName + p.serial
		done, err := p.replaceOne(ctx, r, tmp, complete)
		if !errors.Is(err, errNeedsWhole) {
			if err != nil {
				err = errors.Join(err, p.dir.remove(tmp))
			}
			return done, err
		}
	}
	stage := stageName + p.serial
	err := p.stage(ctx, r, stage)
	if err == nil {
		err = complete()
	}
	var done applied
	if err == nil {
		done, err = p.commit(func() (applied, error) {
			old, err := p.exchange(stage, oldName+p.serial)
			return applied{whole: true, old: old}, err
		})
	}
	if err != nil {
		return applied{}, errors.Join(err, p.dir.remove(stage))
	}
	return done, nil
}

// commit makes the patch visible with show, if the tree is still the one that it
// is for.
func (p *patch) commit(show func() (applied, error)) (applied, error) {
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes != p.changes || s.stale {
		return applied{}, refuse(wire.OtherBase, "", "another patch came first and made tree %s", s.digest.Short())
	}
	start := time.Now()
	done, err := show()
	if err != nil {
		return done, err
	}
	done.swap = time.Since(start)
	s.isLive = true
	s.changes++
	done.change = s.changes
	s.have, s.digest = manifest{p.listing(), p.head.Source, p.by}, p.head.Target
	s.save()
	return done, nil
}

// single reports whether the patch is a matter of replacing one file.
func (p *patch) single() bool {
	return p.isLive && len(p.deletes) == 0 && len(p.puts) == 1 && !p.puts[0].Entry.Mode.IsDir()
}

// errNeedsWhole says that one rename can't do it; nothing was read yet.
var errNeedsWhole = errors.New("the directory has to be exchanged")

// replaceOne makes the one put visible with one rename.
func (p *patch) replaceOne(ctx context.Context, r *bufio.Reader, tmp string, complete func() error) (applied, error) {
	put := p.puts[0]
	in, err := p.from.at(path.Dir(put.Path))
	if err != nil {
		return applied{}, errNeedsWhole
	}
	defer in.close()
	if m, err := in.stat(path.Base(put.Path)); err == nil && m.mode.IsDir() {
		return applied{}, errNeedsWhole
	}
	if err := p.make(ctx, put, r, p.dir, tmp); err != nil {
		return applied{}, err
	}
	if err := complete(); err != nil {
		return applied{}, err
	}
	return p.commit(func() (applied, error) {
		if err := unix.Renameat(p.dir.fd(), tmp, in.fd(), path.Base(put.Path)); err != nil {
			return applied{}, &fs.PathError{Op: "rename", Path: put.Path, Err: err}
		}
		return applied{}, nil
	})
}

// stage makes the whole target in the directory name.
func (p *patch) stage(ctx context.Context, r *bufio.Reader, name string) error {
	if err := p.dir.mkdir(name); err != nil {
		return err
	}
	top, err := p.dir.sub(name)
	if err != nil {
		return err
	}
	defer top.close()
	if err := p.directories(top); err != nil {
		return err
	}
	if err := p.keep(ctx, top); err != nil {
		return err
	}
	if p.isLive {
		if err := p.adopt(p.from, top, ""); err != nil {
			return err
		}
	}
	to := cursor{root: top}
	defer to.close()
	for _, put := range p.puts {
		if put.Entry.Mode.IsDir() {
			continue
		}
		d, err := to.to(path.Dir(put.Path))
		if err != nil {
			return err
		}
		if err := p.make(ctx, put, r, d, path.Base(put.Path)); err != nil {
			return err
		}
	}
	return p.modes(top)
}

// dirs returns the target's directories, parents first.
func (p *patch) dirs() []string {
	set := map[string]bool{}
	for name, e := range p.target {
		if e.Mode.IsDir() {
			set[name] = true
		}
		for up := path.Dir(name); up != "." && !set[up]; up = path.Dir(up) {
			set[up] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (p *patch) directories(top *dir) error {
	c := cursor{root: top}
	defer c.close()
	for _, name := range p.dirs() {
		d, err := c.to(path.Dir(name))
		if err != nil {
			return err
		}
		if err := d.mkdir(path.Base(name)); err != nil {
			return err
		}
	}
	return nil
}

// modes gives the directories their modes, children first: a directory may be
// one that its owner can't write to.
func (p *patch) modes(top *dir) error {
	dirs := p.dirs()
	slices.Reverse(dirs)
	c := cursor{root: top}
	defer c.close()
	for _, name := range dirs {
		d, err := c.to(path.Dir(name))
		if err != nil {
			return err
		}
		mode := uint32(0o755)
		if e, ok := p.target[name]; ok {
			mode = uint32(e.Mode.Perm())
		}
		if err := unix.Fchmodat(d.fd(), path.Base(name), mode, 0); err != nil {
			return &fs.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	return unix.Fchmod(top.fd(), 0o755)
}

// keep brings over what the patch leaves as it is: by a hard link, or a copy
// where the image's file system is another one.
func (p *patch) keep(ctx context.Context, top *dir) error {
	put := make(map[string]bool, len(p.puts))
	for _, e := range p.puts {
		put[e.Path] = true
	}
	from, to := cursor{root: p.from}, cursor{root: top}
	defer from.close()
	defer to.close()
	for _, name := range p.target.Paths() {
		e := p.target[name]
		if put[name] || e.Mode.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		src, err := from.to(path.Dir(name))
		if err != nil {
			return p.moved(name, err)
		}
		dst, err := to.to(path.Dir(name))
		if err != nil {
			return err
		}
		if err := p.bring(name, e, src, dst, path.Base(name), path.Base(name)); err != nil {
			return err
		}
	}
	return nil
}

// exchange makes the staged tree visible and returns the name that the old one
// has now.
func (p *patch) exchange(stage, old string) (string, error) {
	d, swap := p.dir, p.s.exchange
	if swap == nil {
		swap = (*dir).exchange
	}
	if !p.isLive {
		return "", d.move(stage, appName)
	}
	err := swap(d, stage, appName)
	if err == nil {
		return stage, nil
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return "", fmt.Errorf("exchange %s and %s: %w", stage, appName, err)
	}
	// This file system can't exchange. For the time between the two renames there
	// is no tree; never a half one.
	if err := d.move(appName, old); err != nil {
		return "", err
	}
	if err := d.move(stage, appName); err != nil {
		return "", errors.Join(err, d.move(old, appName))
	}
	return old, nil
}

// listing is what the present tree is once the patch is visible.
func (p *patch) listing() listing {
	l := listing{tree: p.target, meta: make(map[string]meta, len(p.target))}
	for name, e := range p.target {
		if !e.Mode.IsRegular() {
			continue
		}
		m, ok := p.meta[name]
		if !ok {
			m = p.have.meta[name]
		}
		l.meta[name] = m
	}
	return l
}

// discard removes a tree that apply has replaced, when nobody uses it any more.
func (s *store) discard(old string) {
	if old == "" {
		return
	}
	s.mu.Lock()
	d := s.dir
	s.mu.Unlock()
	if d == nil {
		return
	}
	if err := d.remove(old); err != nil && !errors.Is(err, os.ErrClosed) {
		s.log.Warn("files of the tree before not removed", "err", err)
	}
}
