package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// raiseFileLimit raises the number of files that we and what we start may have
// open to what is allowed.
func raiseFileLimit() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}

// hasResourceCapability reports whether a process's out-of-memory score may be
// lowered, which container runtimes do unless they are told not to.
func hasResourceCapability() bool {
	b, err := os.ReadFile("/proc/self/status")
	return err == nil && hasCapability(string(b), unix.CAP_SYS_RESOURCE)
}

func hasCapability(status string, capability uint) bool {
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && mask&(1<<capability) != 0
		}
	}
	return false
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, fs.ErrNotExist)
}
