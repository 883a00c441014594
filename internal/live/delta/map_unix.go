//go:build unix

package delta

import (
	"os"

	"golang.org/x/sys/unix"
)

// Map makes the first size bytes of f readable as memory until release is
// called. Reading them may fault when the file is cut short meanwhile: see
// [Guard].
func Map(f *os.File, size int64) (b []byte, release func(), err error) {
	if size == 0 {
		return nil, func() {}, nil
	}
	b, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return b, func() { _ = unix.Munmap(b) }, nil // it was mapped above
}
