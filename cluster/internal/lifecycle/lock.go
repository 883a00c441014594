package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// lock keeps others from working on the same cluster. It is beside the cluster's
// directory, which comes and goes, and itself leaves nothing behind.
func (m *Manager) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := spec.CheckName(name); err != nil {
		return nil, UsageError{err}
	}
	if err := os.MkdirAll(m.Root, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(m.Root, "."+name+".lock")
	for told := false; ; {
		f, err := tryLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock cluster %s: %w", name, err)
		}
		if f != nil {
			return func() { os.Remove(path); f.Close() }, nil
		}
		if !told {
			m.say("another command is working on cluster %s; waiting for it", name)
			told = true
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// tryLock returns nil when another has the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if !isAt(f, path) {
		return nil, f.Close()
	}
	return f, nil
}

// isAt reports whether f is the file at path. Who had the lock before has removed
// it; others may by now have made and locked a new one.
func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}
