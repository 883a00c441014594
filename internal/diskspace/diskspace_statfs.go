//go:build linux || darwin

package diskspace

import (
	"math"

	"golang.org/x/sys/unix"
)

// Free is how many bytes this user may still write below dir, if that is known.
func Free(dir string) (bytes int64, known bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(min(uint64(st.Bavail)*uint64(st.Bsize), math.MaxInt64)), true
}
