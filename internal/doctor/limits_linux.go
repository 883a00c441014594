package doctor

import (
	"os"
	"strconv"
	"strings"
)

// watchLimit is how many directories a user may watch.
func watchLimit() (int, bool) {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches")
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}
