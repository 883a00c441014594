//go:build unix

package cli

import (
	"os"
	"syscall"
)

// leaveSignal asks a process to take its intercept back. It is none that ends a command.
func leaveSignal() os.Signal { return syscall.SIGUSR1 }
