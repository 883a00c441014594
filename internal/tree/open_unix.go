//go:build unix

package tree

import (
	"os"
	"syscall"
)

// openFile opens a file that was seen to be regular. Should it have become a
// link or a named pipe since, it neither follows nor waits.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
