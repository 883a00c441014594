package tree

import (
	"io/fs"
	"syscall"
)

func statOf(info fs.FileInfo) stat {
	s := stat{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ctime = st.Ctimespec.Nano()
		s.inode, s.device = st.Ino, uint64(st.Dev)
	}
	return s
}
