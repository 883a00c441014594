//go:build unix

package session

import "golang.org/x/sys/unix"

// processLives reports whether a process of this machine exists.
func processLives(pid int) bool {
	err := unix.Kill(pid, 0)
	return err == nil || err == unix.EPERM
}
