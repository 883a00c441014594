//go:build !unix

package delta

import (
	"io"
	"os"
)

// Map makes the first size bytes of f readable as memory until release is
// called.
func Map(f *os.File, size int64) (b []byte, release func(), err error) {
	b = make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, nil, err
	}
	return b, func() {}, nil
}
