package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used.
type usage struct {
	processor time.Duration
	resident  int64 // bytes
}

// clockTick is the unit of times in /proc, the same on all Linux architectures.
const clockTick = 10 * time.Millisecond

// processUsage reads a process's use from /proc.
func processUsage(pid int) (usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, fmt.Errorf("read the use of process %d: %w", pid, err)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return usage{}, fmt.Errorf("read the use of process %d: %w", pid, err)
	}
	return parseUsage(string(stat), string(status))
}

// parseUsage reads /proc/PID/stat and /proc/PID/status.
func parseUsage(stat, status string) (usage, error) {
	// The program's name is in parentheses and may have spaces in it.
	_, rest, ok := cutLast(stat, ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return usage{}, fmt.Errorf("this is no process status: %.80q", stat)
	}
	const userTime, systemTime = 11, 12 // after the name
	user, err1 := strconv.ParseInt(fields[userTime], 10, 64)
	system, err2 := strconv.ParseInt(fields[systemTime], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return usage{}, err
	}
	u := usage{processor: time.Duration(user+system) * clockTick}
	for line := range strings.Lines(status) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			u.resident = kilobytes << 10
			return u, err
		}
	}
	return usage{}, errors.New("the process status has no VmRSS")
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// processOfPod returns the pid, on this machine, of a pod's process whose command
// line begins with the words given. The cgroup that the kubelet made for the pod
// has its uid in the name.
func processOfPod(uid string, command ...string) (int, error) {
	start := []byte(strings.Join(command, "\x00") + "\x00")
	lists, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		line, err := os.ReadFile(list)
		if err != nil {
			continue // it has ended
		}
		if !bytes.HasPrefix(line, start) {
			continue
		}
		dir := filepath.Dir(list)
		group, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(group), "_", "-"), uid) {
			continue
		}
		return strconv.Atoi(filepath.Base(dir))
	}
	return 0, fmt.Errorf("%s of pod %s is no process of this machine: this row needs the embedded cluster, and root", strings.Join(command, " "), uid)
}

// loadAverage returns that of the last minute, 0 where there is none to read.
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// systemName returns what the operating system calls itself.
func systemName() string {
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return runtime.GOOS
}
