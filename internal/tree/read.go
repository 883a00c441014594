package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Options say how [ReadDir] reads.
type Options struct {
	// Ignore reports whether a path (relative to the directory that is read,
	// slash separated) is left out. An ignored directory is not looked into. It
	// may be called from several goroutines. Nil ignores nothing.
	Ignore func(path string, dir bool) bool

	// Cache remembers hashes between calls. Nil hashes every file.
	Cache *Cache
}

// Problem is a path that could not be read, and why. The rest of the tree is
// complete without it.
type Problem struct {
	Path string // relative to the directory that was read, slash separated
	Err  error
}

func (p Problem) Error() string { return "read " + p.Path + ": " + reason(p.Err).Error() }

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Err }

// reason strips the operation and the path off a file system error: a Problem
// names the path itself.
func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// ErrSpecial is the problem with a socket, a device or a named pipe.
var ErrSpecial = errors.New("neither a file, a directory nor a symbolic link")

// ReadDir reads the directory root into a [Tree] with root itself as ".".
//
// Symbolic links are entries and never followed. Modes become 0644 or, where
// anyone may execute the file, 0755, so that a tree is the same under every
// umask. What can't be read is a [Problem]; what vanishes while it is read was
// never there. The error is for root itself, and for an ended ctx.
func ReadDir(ctx context.Context, root string, opts Options) (Tree, []Problem, error) {
	return ReadBelow(ctx, root, ".", opts)
}

// ReadBelow is [ReadDir] for one path below root: a file or a directory. Paths
// in the Tree remain relative to root. A path that does not exist, or that
// opts.Ignore wants left out, gives an empty tree.
func ReadBelow(ctx context.Context, root, below string, opts Options) (Tree, []Problem, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, nil, err
	}
	r := &reader{root: root, opts: opts, tree: Tree{}, slots: make(chan struct{}, 2*runtime.GOMAXPROCS(0))}
	if below == "." {
		err = r.readRoot(ctx)
	} else {
		r.one(ctx, below)
	}
	r.group.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = r.hash(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(r.problems, func(a, b Problem) int { return strings.Compare(a.Path, b.Path) })
	return r.tree, r.problems, nil
}

// reader is one call of ReadDir. The walk is parallel by directory, the
// hashing afterwards by file.
type reader struct {
	root  string
	opts  Options
	slots chan struct{} // how many directories may be read at once
	group sync.WaitGroup

	mu       sync.Mutex
	tree     Tree
	problems []Problem
	todo     []string // files that the cache does not know
}

func (r *reader) readRoot(ctx context.Context) error {
	names, err := os.ReadDir(r.root)
	if err != nil {
		return err
	}
	r.children(ctx, ".", names)
	return nil
}

func (r *reader) local(path string) string {
	if path == "." {
		return r.root
	}
	return strings.TrimSuffix(r.root, string(filepath.Separator)) + string(filepath.Separator) + filepath.FromSlash(path)
}

func (r *reader) problem(path string, err error) {
	if gone(err) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, Problem{Path: path, Err: err})
}

// gone reports whether err says that a path is no longer there. A directory on
// the way to it that became a file takes it along.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func (r *reader) put(path string, e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tree[path] = e
}

// one reads a single path of which nothing is known yet. A path through a
// symbolic link or an ignored directory is not part of the tree.
func (r *reader) one(ctx context.Context, path string) {
	for i := range len(path) {
		if path[i] != '/' {
			continue
		}
		info, err := os.Lstat(r.local(path[:i]))
		if err != nil {
			r.problem(path[:i], err)
			return
		}
		if !info.IsDir() || r.opts.Ignore != nil && r.opts.Ignore(path[:i], true) {
			return
		}
	}
	info, err := os.Lstat(r.local(path))
	if err != nil {
		r.problem(path, err)
		return
	}
	r.entry(ctx, path, info)
}

// entry adds what info says is at path and reports whether it is part of the
// tree.
func (r *reader) entry(ctx context.Context, path string, info fs.FileInfo) bool {
	if ctx.Err() != nil {
		return true
	}
	mode := info.Mode()
	if r.opts.Ignore != nil && r.opts.Ignore(path, mode.IsDir()) {
		return false
	}
	switch mode.Type() {
	case fs.ModeDir:
		r.dir(ctx, path)
	case fs.ModeSymlink:
		to, err := os.Readlink(r.local(path))
		if err != nil {
			r.problem(path, err)
			return false
		}
		r.put(path, Entry{Mode: fs.ModeSymlink, Link: filepath.ToSlash(to)})
	case 0:
		r.file(path, info)
	default:
		r.problem(path, ErrSpecial)
		return false
	}
	return true
}

// dir reads a directory, in a goroutine of its own where a slot is free.
func (r *reader) dir(ctx context.Context, path string) {
	read := func() {
		names, err := os.ReadDir(r.local(path))
		if err != nil {
			r.problem(path, err)
			if len(names) == 0 {
				return
			}
		}
		r.children(ctx, path, names)
	}
	select {
	case r.slots <- struct{}{}:
		r.group.Go(func() {
			defer func() { <-r.slots }()
			read()
		})
	default:
		read()
	}
}

func (r *reader) children(ctx context.Context, dir string, names []fs.DirEntry) {
	empty := true
	for _, d := range names {
		path := d.Name()
		if dir != "." {
			path = dir + "/" + d.Name()
		}
		info, err := d.Info()
		if err != nil {
			r.problem(path, err)
			continue
		}
		if r.entry(ctx, path, info) {
			empty = false
		}
	}
	if empty && dir != "." {
		r.put(dir, Entry{Mode: fs.ModeDir | 0o755})
	}
}

func (r *reader) file(path string, info fs.FileInfo) {
	e := Entry{Mode: fileMode(info), Size: info.Size(), Local: r.local(path)}
	known := false
	if rec, ok := r.opts.Cache.lookup(e.Local, info); ok {
		e.Local, e.Hash, known = rec.path, rec.hash, true
	}
	if filepath.Separator == '/' {
		path = e.Local[len(e.Local)-len(path):] // one string for both
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tree[path] = e
	if !known {
		r.todo = append(r.todo, path)
	}
}

func fileMode(info fs.FileInfo) fs.FileMode {
	if info.Mode().Perm()&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

// hash reads the files that the cache did not know.
func (r *reader) hash(ctx context.Context) error {
	work := make(chan string)
	var group sync.WaitGroup
	for range min(len(r.todo), 2*runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			buf := make([]byte, 128<<10)
			for path := range work {
				r.hashOne(path, buf)
			}
		})
	}
	for _, path := range r.todo {
		if ctx.Err() != nil {
			break
		}
		work <- path
	}
	close(work)
	group.Wait()
	return context.Cause(ctx)
}

func (r *reader) hashOne(path string, buf []byte) {
	local := r.local(path)
	e, err := r.opts.Cache.read(local, buf)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.tree[path] = e
		return
	}
	delete(r.tree, path)
	if !gone(err) {
		r.problems = append(r.problems, Problem{Path: path, Err: err})
	}
}

// Below reports whether path is dir or below it. "." has everything below it.
func Below(path, dir string) bool {
	return dir == "." || path == dir || strings.HasPrefix(path, dir+"/")
}
