package session

import "os"

// ProcessLives reports whether a process of this machine exists.
func ProcessLives(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	_ = p.Release()
	return true
}
