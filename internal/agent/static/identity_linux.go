package static

import (
	"io/fs"
	"syscall"
)

const nonblock = syscall.O_NONBLOCK

func identify(st fs.FileInfo) (identity, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, false
	}
	return identity{uint64(s.Dev), s.Ino, s.Size, s.Ctim.Nano(), s.Mtim.Nano()}, true
}
