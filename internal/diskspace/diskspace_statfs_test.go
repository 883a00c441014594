//go:build linux || darwin

package diskspace

import (
	"path/filepath"
	"testing"
)

func TestFree(t *testing.T) {
	dir := t.TempDir()
	if n, known := Free(dir); !known || n <= 0 {
		t.Errorf("below a directory that was just made: %d bytes, known: %t", n, known)
	}
	if n, known := Free(filepath.Join(dir, "absent")); known || n != 0 {
		t.Errorf("below one that there is not: %d bytes, known: %t", n, known)
	}
}
