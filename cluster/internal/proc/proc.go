// Package proc says what the kernel knows of processes. The main types are
// [Stat], what /proc tells, and [Process], a process that is held on to and can
// be waited for although it is no child. Its functions may be called from
// anywhere; a Process may be used by many goroutines until it is closed.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// List returns all processes that this one can see.
func List() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Stat is a part of /proc/PID/stat.
type Stat struct {
	PID    int
	Name   string
	State  byte // 'Z' when it has ended and waits to be collected
	Parent int
	Start  uint64 // clock ticks from boot to its start
}

// ReadStat reads the state of a process.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile(File(pid, "stat"))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(b)
}

var errStat = errors.New("/proc/PID/stat is not as expected")

// parseStat reads "pid (name) state parent ...". The name may hold anything, so
// the fields after it are counted from the last parenthesis.
func parseStat(b []byte) (Stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Stat{}, errStat
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	if err != nil {
		return Stat{}, errStat
	}
	const state, parent, start = 0, 1, 19
	fields := bytes.Fields(b[end+1:])
	if len(fields) <= start || len(fields[state]) != 1 {
		return Stat{}, errStat
	}
	s := Stat{PID: pid, Name: string(b[open+1 : end]), State: fields[state][0]}
	if s.Parent, err = strconv.Atoi(string(fields[parent])); err != nil {
		return Stat{}, errStat
	}
	if s.Start, err = strconv.ParseUint(string(fields[start]), 10, 64); err != nil {
		return Stat{}, errStat
	}
	return s, nil
}

// Namespace identifies a namespace of a process, such as "pid" or "net".
func Namespace(pid int, kind string) (string, error) {
	return os.Readlink(File(pid, "ns/"+kind))
}

// InnerPIDs returns the process's numbers in the PID namespaces that it is in,
// from our own to the innermost.
func InnerPIDs(pid int) ([]int, error) {
	b, err := os.ReadFile(File(pid, "status"))
	if err != nil {
		return nil, err
	}
	return parseInnerPIDs(string(b)), nil
}

func parseInnerPIDs(status string) []int {
	var pids []int
	for line := range strings.Lines(status) {
		ids, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		for _, id := range strings.Fields(ids) {
			pid, err := strconv.Atoi(id)
			if err != nil {
				return nil
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// Ended returns the children of parent that have ended and wait to be collected.
// waitid can look at one of them only, and would for ever show the one that
// somebody else is about to collect; /proc shows all.
func Ended(parent int) []int {
	pids, err := List()
	if err != nil {
		return nil
	}
	var ended []int
	for _, pid := range pids {
		if s, err := ReadStat(pid); err == nil && s.State == 'Z' && s.Parent == parent {
			ended = append(ended, pid)
		}
	}
	return ended
}

func File(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}
