package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// isolateMounts gives the cluster a view of the file system of its own: a fresh
// /proc and /run, and changes below /var/lib and /var/log that nobody else sees
// and nothing keeps. dir stays what it is, and mounts below it are shared with
// containers, which volumes need.
func isolateMounts(dir string) error {
	const mine, upper = "/run/dir", "/run/upper"
	steps := []struct {
		what string
		do   func() error
	}{
		{"detach from the host's mounts", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") }},
		{"mount /proc", func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"mount /run", func() error { return hide("/run", dir, mine) }},
		{"cover /var/lib", func() error { return cover("/var/lib", upper) }},
		{"cover /var/log", func() error { return cover("/var/log", upper) }},
		{"keep " + dir, func() error { return unix.Mount(mine, dir, "", unix.MS_BIND|unix.MS_REC, "") }},
		{"share " + dir, func() error { return unix.Mount("", dir, "", unix.MS_REC|unix.MS_SHARED, "") }},
		{"make /run/containerd", func() error { return os.MkdirAll("/run/containerd", 0o711) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// hide puts an empty file system on run, and dir, which may be below it, at mine.
func hide(run, dir, mine string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := os.MkdirAll(mine, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // when it is below run
		return err
	}
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), mine, "", unix.MS_BIND|unix.MS_REC, "")
}

// cover lets dir be changed without changing it.
func cover(dir, upper string) error {
	changes, work := filepath.Join(upper, dir, "changes"), filepath.Join(upper, dir, "work")
	for _, d := range []string{changes, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, changes, work))
}

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
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && mask&(1<<unix.CAP_SYS_RESOURCE) != 0
		}
	}
	return false
}

const cgroupMount = "/sys/fs/cgroup"

// cgroupHierarchies returns the mounted cgroup trees: one per controller on
// version 1, one for all on version 2.
func cgroupHierarchies() ([]string, error) {
	if exists(filepath.Join(cgroupMount, "cgroup.controllers")) {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w; mount cgroup2 at %s", err, cgroupMount)
	}
	var trees []string
	for _, e := range entries {
		if e.IsDir() {
			trees = append(trees, filepath.Join(cgroupMount, e.Name()))
		}
	}
	return trees, nil
}

// makeCgroups makes the cgroups that the kubelets put their pods below.
func makeCgroups(c *spec.Cluster) error {
	trees, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		for _, n := range c.AllNodes() {
			dir := filepath.Join(tree, c.CgroupRoot(), "node-"+strconv.Itoa(n.Index))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if err := inheritCPUSet(tree, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// inheritCPUSet fills in what a new version 1 cpuset cgroup lacks; without it no
// process can enter.
func inheritCPUSet(tree, dir string) error {
	rel, err := filepath.Rel(tree, dir)
	if err != nil {
		return err
	}
	at := tree
	for _, elem := range strings.Split(rel, string(filepath.Separator)) {
		parent := at
		at = filepath.Join(at, elem)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if !exists(filepath.Join(parent, file)) || exists(filepath.Join(tree, "cgroup.controllers")) {
				continue
			}
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(at, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveCgroups removes the cluster's cgroups. Their processes have to be gone.
func RemoveCgroups(c *spec.Cluster) error {
	trees, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		root := filepath.Join(tree, c.CgroupRoot())
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- { // children before parents
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// endContainers asks the processes of all containers to end and waits for them.
// The sandboxes' own processes ignore the request and don't count.
func endContainers(limit time.Duration) {
	self := os.Getpid()
	asked := map[int]bool{}
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		left := containerProcesses(self)
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			if !asked[pid] {
				_ = unix.Kill(pid, unix.SIGTERM)
				asked[pid] = true
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// containerProcesses returns the first process of each container: those in a PID
// namespace below ours.
func containerProcesses(self int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	ours, err := os.Readlink("/proc/" + strconv.Itoa(self) + "/ns/pid")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid")
		if err != nil || ns == ours {
			continue
		}
		if exe, err := os.Readlink("/proc/" + e.Name() + "/exe"); err != nil || exe == "/pause" {
			continue
		}
		if b, err := os.ReadFile("/proc/" + e.Name() + "/status"); err == nil && firstInNamespace(string(b)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func firstInNamespace(status string) bool {
	for line := range strings.Lines(status) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(ids)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}
