package supervisor

import (
	"bytes"
	"os"
	"strconv"
)

// ended returns the children of this process that have ended and wait to be
// collected. waitid can look at one of them only, and would for ever show the
// one that somebody else is about to collect; /proc shows all.
func ended() []int {
	self := os.Getpid()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// "pid (name) state parent ...": the name may hold anything, so read
		// from the last parenthesis on.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 2 || string(fields[0]) != "Z" {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil && parent == self {
			pids = append(pids, pid)
		}
	}
	return pids
}
