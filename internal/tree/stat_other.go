//go:build !linux && !darwin

package tree

import "io/fs"

// statOf makes do with what every system has; elsewhere the change time and the
// inode are compared as well.
func statOf(info fs.FileInfo) stat {
	return stat{size: info.Size(), mtime: info.ModTime().UnixNano()}
}
