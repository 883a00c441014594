package live

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inotify is used directly, since it tells when a file that was written is
// closed, which a portable library does not: so there is no need to wait for
// more.
type inotify struct {
	f    *os.File
	out  chan []change
	done chan struct{}
	end  sync.WaitGroup

	mu   sync.Mutex
	dirs map[int32]string
	wds  map[string]int32
}

const inotifyMask = unix.IN_CLOSE_WRITE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF |
	unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK

func newNotifier() (notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, fmt.Errorf("%w: no more inotify instances (sysctl fs.inotify.max_user_instances is %s; raise it with: sudo sysctl fs.inotify.max_user_instances=1024)",
			errLimit, sysctl("max_user_instances"))
	}
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	n := &inotify{
		f: os.NewFile(uintptr(fd), "inotify"), out: make(chan []change), done: make(chan struct{}),
		dirs: map[int32]string{}, wds: map[string]int32{},
	}
	n.end.Go(n.read)
	return n, nil
}

func sysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/fs/inotify/" + name)
	if err != nil {
		return "not known"
	}
	return strings.TrimSpace(string(b))
}

func (n *inotify) changes() <-chan []change { return n.out }

func (n *inotify) close() error {
	close(n.done)
	err := n.f.Close()
	n.end.Wait()
	return err
}

func (n *inotify) add(dir string) error {
	// The lock is held over both: an event must find the name.
	n.mu.Lock()
	defer n.mu.Unlock()
	raw, err := n.f.SyscallConn()
	if err != nil {
		return err
	}
	var wd int
	cerr := raw.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), dir, inotifyMask) })
	if cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w (sysctl fs.inotify.max_user_watches is %s, shared by all programs of this user; raise it with: sudo sysctl fs.inotify.max_user_watches=524288)",
			errLimit, sysctl("max_user_watches"))
	}
	if err != nil {
		return &fs.PathError{Op: "inotify", Path: dir, Err: err}
	}
	if old, ok := n.dirs[int32(wd)]; ok && old != dir {
		delete(n.wds, old) // it was moved here
	}
	n.dirs[int32(wd)], n.wds[dir] = dir, int32(wd)
	return nil
}

func (n *inotify) forget(dir string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p, wd := range n.wds {
		if p == dir || isBelow(p, dir) {
			delete(n.wds, p)
			delete(n.dirs, wd)
			if raw, err := n.f.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) {
					_, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) // gone with its directory, mostly
				})
			}
		}
	}
}

// read passes on events until the descriptor is closed.
func (n *inotify) read() {
	defer close(n.out)
	buf := make([]byte, 64<<10)
	for {
		k, err := n.f.Read(buf)
		if err != nil {
			return
		}
		if cs := n.parse(buf[:k]); len(cs) > 0 {
			select {
			case n.out <- cs:
			case <-n.done:
				return
			}
		}
	}
}

// parse turns what the kernel wrote into changes.
func (n *inotify) parse(b []byte) []change {
	n.mu.Lock()
	defer n.mu.Unlock()
	var cs []change
	for len(b) >= unix.SizeofInotifyEvent {
		ev := *(*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		end := unix.SizeofInotifyEvent + int(ev.Len)
		if end > len(b) {
			return append(cs, change{overflow: true})
		}
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		if ev.Mask&unix.IN_Q_OVERFLOW != 0 {
			cs = append(cs, change{overflow: true})
			continue
		}
		dir, ok := n.dirs[ev.Wd]
		if !ok {
			continue
		}
		if ev.Mask&unix.IN_IGNORED != 0 {
			delete(n.dirs, ev.Wd)
			if n.wds[dir] == ev.Wd {
				delete(n.wds, dir)
			}
			continue
		}
		cs = append(cs, changeOf(ev.Mask, dir, name))
	}
	return cs
}

// changeOf says what an event means.
func changeOf(mask uint32, dir, name string) change {
	isDir := mask&unix.IN_ISDIR != 0
	c := change{path: filepath.Join(dir, name)}
	switch {
	case mask&unix.IN_DELETE_SELF != 0:
		c.path, c.gone, c.dir = dir, true, true
	case mask&unix.IN_MOVE_SELF != 0:
		c.path, c.gone, c.dir, c.moved = dir, true, true, true
	case mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		c.gone, c.dir = true, isDir
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		c.dir = isDir
		// A file that is made is closed later; other things are complete. A hard
		// link is not, but then the window is all it costs.
		c.writing = mask&unix.IN_CREATE != 0 && !isDir && isRegular(c.path)
		c.fresh = c.writing
	case mask&unix.IN_MODIFY != 0:
		c.writing = true
	}
	return c
}

func isRegular(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode().IsRegular()
}
