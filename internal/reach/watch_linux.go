package reach

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// changes notices when kubelet exchanges the files of mounts.
type changes struct {
	mounts []Mount
	at     []string // where each mount's dataLink pointed
	events *os.File // of inotify, nil to look again and again
	look   time.Duration
}

// watch begins to watch the mounts that kubelet may change.
func (v *Server) watch(mounts []Mount) *changes {
	c := &changes{look: cmp.Or(v.look, 5*time.Second)}
	for _, m := range mounts {
		if at, err := os.Readlink(filepath.Join(m.Path, dataLink)); err == nil {
			c.mounts, c.at = append(c.mounts, m), append(c.at, at)
		}
	}
	if !v.withoutHear {
		if err := c.hear(); err != nil {
			v.Log.Debug("changes of files can't be heard of, looking again and again", "err", err)
		}
	}
	return c
}

// hear asks the kernel to tell of what is moved to or made in the mounts.
func (c *changes) hear() error {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	for _, m := range c.mounts {
		if _, err := syscall.InotifyAddWatch(fd, m.Path, syscall.IN_MOVED_TO|syscall.IN_CREATE|syscall.IN_ONLYDIR); err != nil {
			return errors.Join(os.NewSyscallError("inotify_add_watch", err), events.Close())
		}
	}
	c.events = events
	return nil
}

func (c *changes) close() {
	if c.events != nil {
		_ = c.events.Close()
	}
}

// wait returns the mounts that have changed since the last call, as soon as
// there is one.
func (c *changes) wait(ctx context.Context) ([]Mount, error) {
	for {
		if changed := c.compare(); len(changed) > 0 {
			return changed, nil
		}
		if err := c.news(ctx); err != nil {
			return nil, err
		}
	}
}

// compare finds the mounts whose link points elsewhere.
func (c *changes) compare() []Mount {
	var changed []Mount
	for i, m := range c.mounts {
		at, err := os.Readlink(filepath.Join(m.Path, dataLink))
		if err == nil && at != c.at[i] {
			c.at[i] = at
			changed = append(changed, m)
		}
	}
	return changed
}

// news waits until a look is worth it.
func (c *changes) news(ctx context.Context) error {
	if c.events == nil {
		t := time.NewTimer(c.look)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	past := time.Unix(1, 0)
	if err := c.events.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.events.SetReadDeadline(past) })
	defer stop()
	buf := make([]byte, 64*(syscall.SizeofInotifyEvent+syscall.NAME_MAX+1))
	for {
		n, err := c.events.Read(buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case concerns(buf[:n]):
			return nil
		}
	}
}

// concerns reports whether events of inotify are about dataLink, or some of them
// were lost.
func concerns(b []byte) bool {
	for len(b) >= syscall.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		n := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[syscall.SizeofInotifyEvent:]
		if n > len(b) {
			return true // never from the kernel
		}
		name := b[:n]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		if mask&syscall.IN_Q_OVERFLOW != 0 || string(name) == dataLink {
			return true
		}
		b = b[n:]
	}
	return false
}
