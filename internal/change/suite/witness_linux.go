package suite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// witness sees which files of a source tree are opened, whoever does it: the tests, the
// programs that they start, and at worst somebody beside them, whose files count as read
// then. It asks for no right. A tree that is written to meanwhile is one that it can say
// nothing of.
type witness struct {
	root string
	file *os.File
	dirs map[int32]string // by watch, relative to root

	reading sync.WaitGroup
	opened  map[string]bool
	spoilt  bool // something was written, or an event is missing
}

// maxDirs is how many directories are watched: each takes about a kilobyte of the
// kernel's, and all users' programs share what there is.
const maxDirs = 4096

const (
	isOpened  = unix.IN_OPEN
	isWritten = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
)

// watchReads begins to watch a tree. It returns nil, which has seen nothing, where that
// can't be done.
func watchReads(root string) *witness {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &witness{root: root, file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]string{}, opened: map[string]bool{}}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case path != root && skipped(d.Name()):
			return filepath.SkipDir
		case len(w.dirs) == maxDirs:
			return errEnough
		}
		wd, err := unix.InotifyAddWatch(fd, path, isOpened|isWritten|unix.IN_ONLYDIR|unix.IN_EXCL_UNLINK)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		w.dirs[int32(wd)] = rel
		return err
	})
	if err != nil {
		_ = w.file.Close()
		return nil
	}
	w.reading.Go(w.follow)
	return w
}

// end returns the files that were opened, relative to the root and in order. It reports
// false where that is not all that matters. What was watched has ended.
func (w *witness) end() (names []string, ok bool) {
	if w == nil {
		return nil, false
	}
	_ = w.file.SetReadDeadline(time.Unix(1, 0)) // it ends follow, with events that it has not seen
	w.reading.Wait()
	w.rest()
	w.close()
	return slices.Sorted(maps.Keys(w.opened)), !w.spoilt
}

// close ends it. It may be called again.
func (w *witness) close() {
	if w == nil {
		return
	}
	_ = w.file.Close() // it ends follow
	w.reading.Wait()
}

// buffer takes more than one event, whatever the name in it.
type buffer [64 << 10]byte

func (w *witness) follow() {
	var b buffer
	for {
		n, err := w.file.Read(b[:])
		if err != nil {
			return
		}
		w.take(b[:n])
	}
}

// rest takes the events that are there.
func (w *witness) rest() {
	var b buffer
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.spoilt = true
		return
	}
	err = raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), b[:])
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return
			case err != nil || n <= 0:
				w.spoilt = true
				return
			}
			w.take(b[:n])
		}
	})
	w.spoilt = w.spoilt || err != nil
}

// take takes note of whole events.
func (w *witness) take(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		length := int(binary.NativeEndian.Uint32(b[12:]))
		name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+length]
		b = b[unix.SizeofInotifyEvent+length:]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		dir, known := w.dirs[wd]
		switch {
		case mask&(isWritten|unix.IN_Q_OVERFLOW|unix.IN_UNMOUNT) != 0 || !known:
			w.spoilt = true
		case mask&isOpened != 0 && mask&unix.IN_ISDIR == 0 && len(name) > 0 && !skipped(string(name)):
			w.opened[filepath.Join(dir, string(name))] = true
		}
	}
}
