//go:build unix

package bridge

import (
	"os"
	"syscall"
)

// signalOf is the signal that ended a process.
func signalOf(s *os.ProcessState) int {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return int(status.Signal())
	}
	return 0
}
