package jail

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process is one of the machine's as /proc tells.
type process struct{ pid, parent, group, session int }

// processes returns those that can be seen.
func processes() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all = append(all, p)
		}
	}
	return all
}

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	return parseStat(pid, b)
}

// parseStat reads /proc/PID/stat. The program's name, in parentheses, may contain
// anything.
func parseStat(pid int, stat []byte) (process, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return process{}, false
	}
	fields := bytes.Fields(stat[i+1:])
	if len(fields) < 4 {
		return process{}, false
	}
	p := process{pid: pid}
	for i, to := range []*int{&p.parent, &p.group, &p.session} {
		n, err := strconv.Atoi(string(fields[i+1]))
		if err != nil {
			return process{}, false
		}
		*to = n
	}
	return p, true
}

// killNamespace ends the processes of a network namespace, which is what is left
// to do when the keeper was killed.
func killNamespace(ns string) {
	for range 20 {
		left := false
		for _, p := range processes() {
			if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid)); err == nil && link == ns {
				left = unix.Kill(p.pid, unix.SIGKILL) == nil || left
			}
		}
		if !left {
			return
		}
	}
}
