//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bightdev/bight/cluster/internal/proc"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// inside is what the kernel has of a running cluster.
type inside struct {
	c          *cluster
	supervisor int
	processes  []proc.Identity
	namespaces map[string]bool // "net:[4026532000]", those of the machine left out
	newest     uint64          // when the youngest process of the machine was started
}

// inside finds every process of the cluster: those in the supervisor's PID
// namespace and in the containers' below it.
func (c *cluster) inside(t *testing.T) inside {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir(), "supervisor.pid"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := proc.ParseIdentity(string(b))
	if err != nil {
		t.Fatal(err)
	}
	in := inside{c: c, supervisor: root.PID, namespaces: map[string]bool{}}
	family := map[int]bool{root.PID: true}
	pids, err := proc.List()
	if err != nil {
		t.Fatal(err)
	}
	// Children may have lower numbers than their parents, so look until no more
	// are found.
	for grown := true; grown; {
		grown = false
		for _, pid := range pids {
			s, err := proc.ReadStat(pid)
			if err != nil {
				continue // it has ended
			}
			in.newest = max(in.newest, s.Start)
			if family[s.Parent] && !family[pid] {
				family[pid], grown = true, true
			}
		}
	}
	for pid := range family {
		if identity, err := proc.Identify(pid); err == nil {
			in.processes = append(in.processes, identity)
		}
		for _, kind := range []string{"pid", "mnt", "net", "ipc", "uts"} {
			ours, err := proc.Namespace(os.Getpid(), kind)
			if err != nil {
				t.Fatal(err)
			}
			if theirs, err := proc.Namespace(pid, kind); err == nil && theirs != ours {
				in.namespaces[theirs] = true
			}
		}
	}
	if len(in.processes) < 10 || len(in.namespaces) < 3 {
		t.Fatalf("found %d processes and %d namespaces of the cluster", len(in.processes), len(in.namespaces))
	}
	return in
}

// mustBeGone waits for the kernel to have taken leave of everything.
func (in inside) mustBeGone(t *testing.T) {
	t.Helper()
	in.mustHaveEnded(t)
	eventually(t, "the cluster to be gone", func() error {
		if used := namespacesInUse(in.newest); slices.ContainsFunc(used, func(ns string) bool { return in.namespaces[ns] }) {
			return fmt.Errorf("a namespace is in use: %v of %v", in.namespaces, used)
		}
		if mounts := mountsBelow(in.c.state); len(mounts) > 0 {
			return fmt.Errorf("mounted: %v", mounts)
		}
		return nil
	})
}

// mustHaveEnded waits for every process to have ended.
func (in inside) mustHaveEnded(t *testing.T) {
	t.Helper()
	eventually(t, "the processes to end", func() error {
		for _, p := range in.processes {
			if held, err := p.Open(); err == nil {
				held.Close()
				return fmt.Errorf("process %d (%s) runs", p.PID, commandLine(p.PID))
			}
		}
		return nil
	})
}

// namespacesInUse returns the namespaces of all processes that were started until
// a time, and those that any of them has open. The kernel gives the number of a
// namespace that is gone to the next one, so later processes may be in others of
// the same name.
func namespacesInUse(until uint64) []string {
	pids, _ := proc.List()
	var used []string
	for _, pid := range pids {
		if s, err := proc.ReadStat(pid); err != nil || s.Start > until {
			continue
		}
		links, _ := filepath.Glob(proc.File(pid, "ns/*"))
		files, _ := filepath.Glob(proc.File(pid, "fd/*"))
		for _, link := range append(links, files...) {
			if target, err := os.Readlink(link); err == nil && strings.Contains(target, ":[") {
				used = append(used, target)
			}
		}
	}
	return used
}

// mountsBelow returns the mounts of any process that have to do with dir.
func mountsBelow(dir string) []string {
	tables, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	var found []string
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			continue // its process has ended
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, dir) {
				found = append(found, table+": "+line)
			}
		}
	}
	return found
}

func commandLine(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(b), "\x00", " ")
}

// machineState is what of the machine a cluster may not change.
type machineState struct {
	links  []string
	mounts string
}

func survey(t *testing.T) machineState {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var s machineState
	for _, i := range interfaces {
		s.links = append(s.links, i.Name)
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	s.mounts = string(b)
	return s
}

// mustBeAsNow compares the machine to what it was before a cluster whose state
// was in dir.
func (s machineState) mustBeAsNow(t *testing.T, dir string) {
	t.Helper()
	now := survey(t)
	if !slices.Equal(now.links, s.links) {
		t.Errorf("links: got %v, were %v", now.links, s.links)
	}
	if now.mounts != s.mounts {
		t.Errorf("mounts: got\n%s\nwere\n%s", now.mounts, s.mounts)
	}
	own := filepath.Base((&spec.Cluster{Name: "bight", Dir: filepath.Join(dir, "clusters", "bight")}).CgroupRoot())
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == own {
			t.Errorf("the cgroup %s is left", path)
		}
		return nil // others' cgroups come and go
	})
	if err != nil {
		t.Error(err)
	}
	pids, err := proc.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if line := commandLine(pid); pid != os.Getpid() && strings.Contains(line, dir) {
			t.Errorf("process %d (%s) is left", pid, line)
		}
	}
}
