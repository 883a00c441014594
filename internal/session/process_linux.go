package session

import (
	"fmt"
	"os"
	"strings"
)

// started is when a process of this machine was started, in clock ticks since the
// machine's own start, and which start of the machine that was.
func started(pid int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is the process's name in parentheses, and may have any byte.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const start = 22 - 3 // the numbers of the fields, in proc(5), begin with 1
	if len(fields) <= start {
		return "", fmt.Errorf("read the status of process %d: %.60q does not look like one", pid, stat)
	}
	return fields[start] + " " + string(boot), nil
}
