package node

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// stat is what is needed of a process's /proc/PID/stat.
type stat struct {
	PID, Parent int
	State       string
	Started     uint64 // in clock ticks since the machine's start
}

// parseStat reads /proc/PID/stat. The name in it may have any byte, also spaces
// and parentheses.
func parseStat(text string) (stat, error) {
	head, rest, ok := cutLast(text, ")")
	pid, _, opened := strings.Cut(head, " (")
	fields := strings.Fields(rest)
	if !ok || !opened || len(fields) < 20 {
		return stat{}, fmt.Errorf("read process status %.60q: it does not look like one", text)
	}
	var s stat
	var err error
	if s.PID, err = strconv.Atoi(pid); err != nil {
		return stat{}, fmt.Errorf("read process status: number: %w", err)
	}
	s.State = fields[0]
	if s.Parent, err = strconv.Atoi(fields[1]); err != nil {
		return stat{}, fmt.Errorf("read process status: parent: %w", err)
	}
	if s.Started, err = strconv.ParseUint(fields[19], 10, 64); err != nil {
		return stat{}, fmt.Errorf("read process status: start: %w", err)
	}
	return s, nil
}

// first returns the process that the others in its container come from: the one
// that started first. Start times are no finer than 10 ms, so among those that
// started together it is the one whose parent is not among them.
func first(processes []stat) stat {
	sorted := slices.Clone(processes)
	slices.SortFunc(sorted, func(a, b stat) int {
		return cmp.Or(cmp.Compare(a.Started, b.Started), cmp.Compare(a.PID, b.PID))
	})
	together := sorted
	for i, s := range sorted {
		if s.Started != sorted[0].Started {
			together = sorted[:i]
			break
		}
	}
	for _, s := range together {
		if !slices.ContainsFunc(together, func(o stat) bool { return o.PID == s.Parent }) {
			return s
		}
	}
	return together[0]
}

// sandbox returns which of the processes, given by their command lines and
// sorted by start, holds the pod's namespaces: -1 if none does, as with CRI-O.
// It is the first that runs pause; a later one is somebody's container.
func sandbox(commands []string) int {
	return slices.IndexFunc(commands, func(command string) bool {
		program, _, _ := strings.Cut(command, "\x00")
		return path.Base(program) == "pause" || program == "/usr/bin/pod"
	})
}

// entries splits what the kernel writes with a zero byte after each entry.
func entries(data string) []string {
	data = strings.TrimRight(data, "\x00")
	if data == "" {
		return nil
	}
	return strings.Split(data, "\x00")
}
