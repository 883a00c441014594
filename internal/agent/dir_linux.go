package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is an open directory. Everything below is done relative to an open
// directory and by single names, so no symbolic link, whoever made it, leads
// out of the tree.
type dir struct{ f *os.File }

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func openRoot(name string) (*dir, error) {
	f, err := os.OpenFile(name, dirFlags&^unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &dir{f}, nil
}

func (d *dir) fd() int      { return int(d.f.Fd()) }
func (d *dir) close() error { return d.f.Close() }

// sub opens the directory name in d.
func (d *dir) sub(name string) (*dir, error) {
	fd, err := unix.Openat(d.fd(), name, dirFlags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return &dir{os.NewFile(uintptr(fd), path.Join(d.f.Name(), name))}, nil
}

// at opens the directory at a relative path, "." being d itself. The result has
// to be closed.
func (d *dir) at(rel string) (*dir, error) {
	cur, err := d.sub(".")
	if err != nil || rel == "." {
		return cur, err
	}
	for name := range strings.SplitSeq(rel, "/") {
		next, err := cur.sub(name)
		_ = cur.close()
		if err != nil {
			return nil, err
		}
		cur = next
	}
	return cur, nil
}

// open opens the regular file name in d for reading.
func (d *dir) open(name string) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(d.f.Name(), name)), nil
}

// create makes the file name in d, which must not exist. Nobody else can open it
// until its mode is set.
func (d *dir) create(name string) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(d.f.Name(), name)), nil
}

// mkdir makes the directory name in d, for its owner only.
func (d *dir) mkdir(name string) error {
	if err := unix.Mkdirat(d.fd(), name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return nil
}

// symlink makes the symbolic link name in d.
func (d *dir) symlink(target, name string) error {
	if err := unix.Symlinkat(target, d.fd(), name); err != nil {
		return &fs.PathError{Op: "symlink", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return nil
}

// names lists d.
func (d *dir) names() ([]string, error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return d.f.Readdirnames(-1)
}

// remove removes name from d and everything below it, whatever its modes are.
func (d *dir) remove(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "remove", Path: path.Join(d.f.Name(), name), Err: err}
	}
	_ = unix.Fchmodat(d.fd(), name, 0o700, 0) // what can't be opened fails below
	sub, err := d.sub(name)
	if err != nil {
		return err
	}
	names, err := sub.names()
	for _, n := range names {
		err = errors.Join(err, sub.remove(n))
	}
	_ = sub.close()
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil {
		return &fs.PathError{Op: "remove", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return nil
}

// move renames a name of d.
func (d *dir) move(from, to string) error {
	if err := unix.Renameat(d.fd(), from, d.fd(), to); err != nil {
		return fmt.Errorf("rename %s to %s in %s: %w", from, to, d.f.Name(), err)
	}
	return nil
}

// exchange swaps two names of d in one step.
func (d *dir) exchange(a, b string) error {
	return unix.Renameat2(d.fd(), a, d.fd(), b, unix.RENAME_EXCHANGE)
}

// meta is what of a file's attributes matters here.
type meta struct {
	mode  fs.FileMode // as in tree.Entry
	size  int64
	mtime int64 // nanoseconds
	ino   uint64
}

// unchanged reports whether a file that looked like m before and like n now has
// the same content, as far as its attributes tell.
func (m meta) unchanged(n meta) bool {
	return m.size == n.size && m.mtime == n.mtime && m.ino == n.ino
}

// stat looks at name in d. A thing that is no file, directory or symbolic link
// has other type bits set.
func (d *dir) stat(name string) (meta, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return meta{}, &fs.PathError{Op: "stat", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return metaOf(&st), nil
}

func statFile(f *os.File) (meta, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return meta{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return metaOf(&st), nil
}

func metaOf(st *unix.Stat_t) meta {
	m := meta{mode: fs.FileMode(st.Mode).Perm(), mtime: st.Mtim.Nano(), ino: st.Ino}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		m.size = st.Size
	case unix.S_IFDIR:
		m.mode |= fs.ModeDir
	case unix.S_IFLNK:
		m.mode = fs.ModeSymlink
	default:
		m.mode |= fs.ModeIrregular
	}
	return m
}

func (d *dir) readlink(name string) (string, error) {
	b := make([]byte, 4096)
	n, err := unix.Readlinkat(d.fd(), name, b)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: path.Join(d.f.Name(), name), Err: err}
	}
	return string(b[:n]), nil
}

// space returns the free and the total bytes of d's file system.
func (d *dir) space() (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.fd(), &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// cursor walks to directories below a root. Paths come sorted, so neighbours
// mostly share their directory, which is opened once.
type cursor struct {
	root *dir
	rel  string
	cur  *dir
}

// to returns the directory at rel, which stays open until the next call.
func (c *cursor) to(rel string) (*dir, error) {
	if c.cur != nil && c.rel == rel {
		return c.cur, nil
	}
	c.close()
	d, err := c.root.at(rel)
	if err != nil {
		return nil, err
	}
	c.rel, c.cur = rel, d
	return d, nil
}

func (c *cursor) close() {
	if c.cur != nil {
		_ = c.cur.close()
		c.cur = nil
	}
}

// What opening a directory fails with when something else is there.
const (
	errNotDir = unix.ENOTDIR
	errLoop   = unix.ELOOP
)
