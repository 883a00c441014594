package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// refusal is an error that says which code of wire.Refused it is.
type refusal struct {
	code wire.Code
	path string
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code wire.Code, path, format string, args ...any) error {
	return &refusal{code, path, fmt.Errorf(format, args...)}
}

// applied is what apply has done.
type applied struct {
	change  uint64
	whole   bool
	written int64
	stage   time.Duration
	swap    time.Duration
	old     string // a directory that was replaced, to be given to discard
}

// patch is one patch on its way onto the disk.
type patch struct {
	s       *store
	dir     *dir     // the live directory
	have    manifest // the tree that it starts from
	isLive  bool     // whether that is a live tree
	from    *dir     // where that is
	serial  string
	changes uint64 // that the store had seen when it started
	head    wire.PatchHeader
	by      string
	deletes []string
	puts    []wire.Put
	target  tree.Tree
	meta    map[string]meta
	written int64
	need    int64
	buf     []byte // for copies
	h       hash.Hash
}

// apply reads a patch's content and makes the tree that it describes. Unless it
// returns nil, nothing has changed. complete is asked last, before anything
// becomes visible: when it fails the patch is forgotten.
func (s *store) apply(ctx context.Context, head wire.PatchHeader, by string, r *bufio.Reader, complete func() error) (applied, error) {
	start := time.Now()
	p, err := s.begin(head, by)
	if err != nil {
		return applied{}, err
	}
	defer p.from.close()
	if err := p.read(r); err != nil {
		return applied{}, err
	}
	if err := p.fits(); err != nil {
		return applied{}, err
	}
	done, err := p.write(ctx, r, complete)
	if err != nil {
		return applied{}, p.explain(err)
	}
	done.written = p.written
	done.stage = time.Since(start) - done.swap
	return done, nil
}

// begin notes what there is now.
func (s *store) begin(head wire.PatchHeader, by string) (*patch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil {
		return nil, refuse(wire.Failed, "", "%s can't be opened: it has to be a volume that the container may write to", s.live)
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if head.Base != s.digest {
		return nil, refuse(wire.OtherBase, "", "the patch is for tree %s, here is %s", head.Base.Short(), s.digest.Short())
	}
	from, err := openRoot(s.currentLocked())
	if err != nil {
		return nil, err
	}
	s.serial++
	return &patch{
		s: s, dir: s.dir, have: s.have, isLive: s.isLive, from: from, serial: strconv.Itoa(s.serial),
		changes: s.changes, head: head, by: by, meta: map[string]meta{},
	}, nil
}

// read reads and checks everything about the patch but the files' content.
func (p *patch) read(r *bufio.Reader) error {
	c := wire.Content{R: r}
	p.target = maps.Clone(p.have.tree)
	for range p.head.Deletes {
		name, err := c.Delete()
		if err != nil {
			return err
		}
		if _, ok := p.target[name]; !ok {
			return refuse(wire.BadPatch, name, "delete %q: it is not there", name)
		}
		p.deletes = append(p.deletes, name)
		delete(p.target, name)
	}
	for range p.head.Puts {
		put, err := c.Put()
		if err != nil {
			return err
		}
		p.puts = append(p.puts, put)
		p.target[put.Path] = put.Entry
		if put.How == wire.Same || put.How == wire.Delta {
			base, ok := p.have.tree[put.Ref]
			if !ok || !base.Mode.IsRegular() || put.How == wire.Same && base.Hash != put.Entry.Hash {
				return refuse(wire.BadPatch, put.Path, "%q is said to be like %q, which it is not", put.Path, put.Ref)
			}
		}
	}
	for _, put := range p.puts {
		if err := check(p.target, put.Path); err != nil {
			return err
		}
	}
	if got := p.target.Digest(); got != p.head.Target {
		return refuse(wire.BadPatch, "", "the patch makes tree %s, not %s", got.Short(), p.head.Target.Short())
	}
	return nil
}

// check refuses a path that is not clean, leads out of the tree or lies below
// something that is no directory.
func check(t tree.Tree, name string) error {
	if !fs.ValidPath(strings.ToValidUTF8(name, "x")) || name == "." || strings.ContainsRune(name, 0) {
		return refuse(wire.BadPatch, name, "path %q is not a clean relative path", name)
	}
	for up := path.Dir(name); up != "."; up = path.Dir(up) {
		if e, ok := t[up]; ok && !e.Mode.IsDir() {
			return refuse(wire.BadPatch, name, "path %q is below %q, which is not a directory", name, up)
		}
	}
	for _, part := range strings.Split(name, "/") {
		if len(part) > unix.NAME_MAX {
			return refuse(wire.BadPatch, name, "path %q has a name of %d bytes", name, len(part))
		}
	}
	return nil
}

// fits refuses a patch for which there is not enough space.
func (p *patch) fits() error {
	for _, put := range p.puts {
		p.need += put.Entry.Size
	}
	if !p.isLive { // everything else is copied from the image
		put := map[string]bool{}
		for _, e := range p.puts {
			put[e.Path] = true
		}
		for name, e := range p.target {
			if !put[name] {
				p.need += e.Size
			}
		}
	}
	if free, total, err := p.dir.space(); err == nil && p.need > free {
		return &refusal{wire.NoSpace, "", &SpaceError{Dir: p.s.live, Need: p.need, Free: free, Total: total}}
	}
	return nil
}

// explain makes an error about a full disk say what is needed and what there is.
func (p *patch) explain(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	var at string
	var pe *fs.PathError
	if errors.As(err, &pe) {
		at = pe.Path
	}
	free, total, _ := p.dir.space() // 0 of 0 where that can't be told
	return &refusal{wire.NoSpace, "", &SpaceError{Dir: p.s.live, Need: p.need, Free: free, Total: total, Path: at}}
}
