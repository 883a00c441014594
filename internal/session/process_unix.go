//go:build unix

package session

import "golang.org/x/sys/unix"

// ProcessLives reports whether a process of this machine exists.
func ProcessLives(pid int) bool {
	err := unix.Kill(pid, 0)
	return err == nil || err == unix.EPERM
}
