package reach

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// changes notices when kubelet exchanges the files of mounts.
type changes struct {
	process func(context.Context) (Process, error)
	mounts  []Mount
	at      []string // where each mount's dataLink pointed
	events  *os.File // of inotify, nil to look again and again
	look    time.Duration
}

// watch begins to watch the mounts that kubelet may change.
func (v *Server) watch(p Process, mounts []Mount) *changes {
	c := &changes{process: v.process, look: cmp.Or(v.look, 5*time.Second)}
	for _, m := range mounts {
		if at := versionOf(p, m.Path); at != "" {
			c.mounts, c.at = append(c.mounts, m), append(c.at, at)
		}
	}
	if !v.withoutHear {
		if err := c.hear(p); err != nil {
			v.Log.Debug("changes of files can't be heard of, looking again and again", "err", err)
		}
	}
	return c
}

// hear asks the kernel to tell of what is moved to or made in the mounts.
func (c *changes) hear(p Process) error {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	for _, m := range c.mounts {
		if err := hearOf(fd, p, m.Path); err != nil {
			return errors.Join(err, events.Close())
		}
	}
	c.events = events
	return nil
}

// hearOf watches a directory. The watch is of what the path is now, and outlives the
// process: kubelet's directories are the same for the one after it.
func hearOf(fd int, p Process, path string) error {
	dir, err := p.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	_, err = syscall.InotifyAddWatch(fd, descriptor(dir), syscall.IN_MOVED_TO|syscall.IN_CREATE|syscall.IN_ONLYDIR)
	return os.NewSyscallError("inotify_add_watch", err)
}

func (c *changes) close() {
	if c.events != nil {
		_ = c.events.Close()
	}
}

// wait returns the mounts that have changed since the last call, as soon as
// there is one, and the process that sees them. One that is just being restarted
// has changed nothing.
func (c *changes) wait(ctx context.Context) (Process, []Mount, error) {
	for {
		p, err := c.process(ctx)
		if err == nil {
			if changed := c.compare(p); len(changed) > 0 {
				return p, changed, nil
			}
		}
		if err := c.news(ctx, err != nil); err != nil {
			return nil, nil, err
		}
	}
}

// compare finds the mounts whose link points elsewhere.
func (c *changes) compare(p Process) []Mount {
	var changed []Mount
	for i, m := range c.mounts {
		if at := versionOf(p, m.Path); at != "" && at != c.at[i] {
			c.at[i] = at
			changed = append(changed, m)
		}
	}
	return changed
}

// news waits until a look is worth it, or for some time if that is to be sure.
func (c *changes) news(ctx context.Context, soon bool) error {
	if c.events == nil || soon {
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
