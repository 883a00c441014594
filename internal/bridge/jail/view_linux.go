package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// view changes what the private mount namespace shows. A directory in which
// something must appear is covered by a tmpfs that has the directory's entries,
// bound one by one: so a file that the machine replaces below us (as network
// managers do with resolv.conf) does not take ours away, and nothing is written
// to the machine.
type view struct {
	ours map[string]bool // directories that may be written to
}

// volumeSize bounds each volume, in the unit of tmpfs.
const volumeSize = "size=64m"

// makeView shows the pod's files and returns the volumes by path.
func makeView(s *setup) (map[string]*volume, error) {
	v := &view{ours: map[string]bool{}}
	volumes := map[string]*volume{}
	if s.Trial {
		return volumes, nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	for _, m := range s.Mounts {
		if m.single() {
			f := m.Files[0]
			if err := v.file(m.Path, f.Content, f.Mode); err != nil {
				return nil, fmt.Errorf("show %s: %w", m.Path, err)
			}
			continue
		}
		vol, err := v.volume(m.Path)
		if err != nil {
			return nil, fmt.Errorf("show %s: %w", m.Path, err)
		}
		if err := vol.replace(&m); err != nil {
			return nil, fmt.Errorf("fill %s: %w", m.Path, err)
		}
		volumes[path.Clean(m.Path)] = vol
	}
	// Last, since a volume may be shown below /etc.
	for _, name := range slices.Sorted(maps.Keys(s.Etc)) {
		if err := v.file("/etc/"+name, []byte(s.Etc[name]), 0o644); err != nil {
			return nil, fmt.Errorf("show /etc/%s: %w", name, err)
		}
	}
	return volumes, v.mask(s.Etc["resolv.conf"])
}

// mask hides the sockets of daemons that would answer questions for names with
// the machine's view.
func (v *view) mask(resolv string) error {
	for _, dir := range []string{"/run/nscd", "/var/run/nscd", "/var/db/nscd", "/run/systemd/resolve"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || v.ours[real] {
			continue
		}
		vol, err := v.volume(real)
		if err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
		if strings.HasSuffix(dir, "/resolve") {
			files := []File{{Name: "resolv.conf", Mode: 0o644, Content: []byte(resolv)}, {Name: "stub-resolv.conf", Mode: 0o644, Content: []byte(resolv)}}
			if err := vol.replace(&Mount{Path: dir, Files: files}); err != nil {
				return err
			}
		}
	}
	return nil
}

// volume makes an empty writable directory appear at p.
func (v *view) volume(p string) (*volume, error) {
	dir, err := v.dir(p)
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("bight", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,"+volumeSize); err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	v.ours[dir] = true
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &volume{root: root}, nil
}

// file makes a file appear at p.
func (v *view) file(p string, content []byte, mode fs.FileMode) error {
	dir, err := v.dir(path.Dir(path.Clean(p)))
	if err != nil {
		return err
	}
	if err := v.mirror(dir); err != nil {
		return err
	}
	target := path.Join(dir, path.Base(p))
	switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
	case nil, unix.EINVAL, unix.ENOENT:
	default:
		return fmt.Errorf("uncover %s: %w", target, err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(target, content, 0o600); err != nil {
		return err
	}
	return os.Chmod(target, mode.Perm())
}

// dir makes p exist as a directory and returns its path without symbolic links.
func (v *view) dir(p string) (string, error) {
	at, rest, links := "/", strings.Split(path.Clean(p), "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		st, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := v.mirror(at); err != nil {
				return "", err
			}
			if err := os.Mkdir(next, 0o755); err != nil {
				return "", err
			}
			v.ours[next] = true
		case err != nil:
			return "", err
		case st.Mode()&fs.ModeSymlink != 0:
			if links++; links > 40 {
				return "", &fs.PathError{Op: "open", Path: p, Err: unix.ELOOP}
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		case !st.IsDir():
			return "", &fs.PathError{Op: "open", Path: next, Err: unix.ENOTDIR}
		}
		at = next
	}
	return at, nil
}

// mirror makes a directory writable without a change to the real one.
func (v *view) mirror(dir string) error {
	if v.ours[dir] {
		return nil
	}
	if dir == "/" {
		return v.mirrorRoot()
	}
	if err := v.cover(dir, dir); err != nil {
		return fmt.Errorf("cover %s: %w", dir, err)
	}
	v.ours[dir] = true
	return nil
}

// cover mounts a tmpfs at target that has the entries of dir.
func (v *view) cover(dir, target string) error {
	old, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(old), dir)
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	// The target itself may be one of the entries: what it was is bound, too.
	covered, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(covered)
	st, err := f.Stat()
	if err != nil {
		return err
	}
	options := fmt.Sprintf("mode=%#o,%s", st.Mode().Perm(), volumeSize)
	if err := unix.Mount("bight", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	for _, e := range entries {
		source, at := fmt.Sprintf("/proc/self/fd/%d/%s", old, e.Name()), path.Join(target, e.Name())
		if path.Join(dir, e.Name()) == target {
			source = fmt.Sprintf("/proc/self/fd/%d", covered)
		}
		if err := show(e, source, at); err != nil {
			return fmt.Errorf("show %s: %w", e.Name(), err)
		}
	}
	return nil
}

// show makes one entry of a covered directory appear again.
func show(e fs.DirEntry, source, at string) error {
	switch {
	case e.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(target, at)
	case e.IsDir():
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
	default:
		fd, err := unix.Open(at, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
	}
	err := unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return os.Remove(at) // it is gone, or may not be seen
	}
	return err
}

// mirrorRoot is mirror of the root directory: a new root takes its place.
func (v *view) mirrorRoot() error {
	place := ""
	for _, dir := range []string{"/mnt", "/media", "/tmp", "/var", "/usr"} {
		if st, err := os.Lstat(dir); err == nil && st.IsDir() {
			place = dir
			break
		}
	}
	if place == "" {
		return errors.New("no directory to make a new root in")
	}
	if err := v.cover("/", place); err != nil {
		return fmt.Errorf("cover /: %w", err)
	}
	if err := unix.Chdir(place); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	v.ours["/"] = true
	return unix.Chdir("/")
}
