//go:build !unix

package cli

import (
	"os"
	"syscall"
)

// leaveSignal asks a process to take its intercept back, where processes can be asked.
func leaveSignal() os.Signal { return syscall.SIGTERM }
