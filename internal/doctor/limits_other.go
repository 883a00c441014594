//go:build !linux

package doctor

// watchLimit is Linux' own.
func watchLimit() (int, bool) { return 0, false }
