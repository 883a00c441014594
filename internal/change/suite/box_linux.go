package suite

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// box holds the processes of a job: a cgroup where this process may make one, and
// in any case a mark in their environment by which they are found in /proc, also
// when they have left their process group and lost their parent.
type box struct {
	mark   string
	limits Limits
	group  int
	v2     string   // directory of a cgroup v2
	v1     []string // directories of cgroups v1: pids, memory
	fd     *os.File
}

func newBox(l Limits) (*box, error) {
	b := &box{mark: "BIGHT_TEST_RUN=" + rand.Text(), limits: l}
	if !b.makeV2() {
		b.makeV1()
	}
	return b, nil
}

// ownCgroup is where this process is in a hierarchy, "" for the v2 one.
func ownCgroup(controller string) (string, bool) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			if c == controller && (controller != "" || parts[0] == "0") {
				return parts[2], true
			}
		}
	}
	return "", false
}

// makeV2 makes a cgroup below the parent of this process's, where the controllers
// are to be had.
func (b *box) makeV2() bool {
	own, ok := ownCgroup("")
	if !ok {
		return false
	}
	for _, parent := range []string{filepath.Join("/sys/fs/cgroup", filepath.Dir(own)), filepath.Join("/sys/fs/cgroup", own)} {
		enabled, err := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control"))
		if err != nil || !strings.Contains(string(enabled), "pids") {
			continue
		}
		dir, err := os.MkdirTemp(parent, "bight-test-")
		if err != nil {
			continue
		}
		b.v2 = dir
		if !mayEnter(parent) || !mayEnter(dir) {
			_ = os.Remove(dir)
			b.v2 = ""
			continue
		}
		if err := b.limit(dir, "pids.max", int64(b.limits.Processes)); err == nil {
			if b.limits.Memory > 0 {
				_ = b.limit(dir, "memory.max", b.limits.Memory) // watched too
			}
			if b.fd, err = os.Open(dir); err == nil {
				return true
			}
		}
		_ = os.Remove(dir)
		b.v2 = ""
	}
	return false
}

// mayEnter reports whether this process may move processes from or to a cgroup.
func mayEnter(dir string) bool {
	return unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) == nil
}

func (b *box) makeV1() {
	for _, controller := range []string{"pids", "memory"} {
		own, ok := ownCgroup(controller)
		if !ok || controller == "memory" && b.limits.Memory <= 0 {
			continue
		}
		for _, parent := range []string{filepath.Join("/sys/fs/cgroup", controller, own), filepath.Join("/sys/fs/cgroup", controller)} {
			dir, err := os.MkdirTemp(parent, "bight-test-")
			if err != nil {
				continue
			}
			if controller == "pids" {
				err = b.limit(dir, "pids.max", int64(b.limits.Processes))
			} else {
				err = b.limit(dir, "memory.limit_in_bytes", b.limits.Memory)
			}
			if err != nil {
				_ = os.Remove(dir)
				continue
			}
			b.v1 = append(b.v1, dir)
			break
		}
	}
}

func (b *box) limit(dir, name string, value int64) error {
	return os.WriteFile(filepath.Join(dir, name), strconv.AppendInt(nil, value, 10), 0)
}

func (b *box) name() string {
	switch {
	case b.v2 != "":
		return "cgroup v2"
	case len(b.v1) > 0:
		return "cgroup v1"
	}
	return "watchdog"
}

func (b *box) env() []string { return []string{b.mark} }

// enter is a shell's way into the cgroups v1, to be sure before the first fork.
const enter = `for g in $1; do echo $$ >"$g/cgroup.procs" || exit 126; done; shift; exec "$@"`

func (b *box) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if b.fd != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(b.fd.Fd())
	} else if sh, err := exec.LookPath("sh"); err == nil && len(b.v1) > 0 {
		if cmd.Err != nil {
			return cmd.Err
		}
		cmd.Args = append([]string{sh, "-c", enter, "sh", strings.Join(b.v1, " "), cmd.Path}, cmd.Args[1:]...)
		cmd.Path = sh
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.group = cmd.Process.Pid
	// One file may not outgrow the whole. This is inherited from here on.
	limit := &unix.Rlimit{Cur: uint64(b.limits.Disk), Max: uint64(b.limits.Disk)}
	_ = unix.Prlimit(b.group, unix.RLIMIT_FSIZE, limit, nil) // the size is watched too
	_ = unix.Prlimit(b.group, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	return nil
}

// processes are the ids of all that belong to the job.
func (b *box) processes() []int {
	dir := b.v2
	if dir == "" && len(b.v1) > 0 {
		dir = b.v1[0]
	}
	found := map[int]bool{}
	if data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); dir != "" && err == nil {
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				found[pid] = true
			}
		}
	} else {
		b.marked(found)
	}
	out := make([]int, 0, len(found))
	for pid := range found {
		if pid > 1 && pid != os.Getpid() {
			out = append(out, pid)
		}
	}
	return out
}

// marked finds the job's processes without a cgroup: by their mark, their group,
// and their parents.
func (b *box) marked(found map[int]bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	parents := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(f) < 3 || f[0][0] == 'Z' {
			continue
		}
		parents[pid], _ = strconv.Atoi(string(f[1]))
		if group, _ := strconv.Atoi(string(f[2])); group == b.group {
			found[pid] = true
		} else if env, err := os.ReadFile("/proc/" + e.Name() + "/environ"); err == nil && bytes.Contains(env, []byte(b.mark)) {
			found[pid] = true
		}
	}
	for again := true; again; {
		again = false
		for pid, parent := range parents {
			if found[parent] && !found[pid] {
				found[pid], again = true, true
			}
		}
	}
}

// use tells how many processes there are and how much memory they hold.
func (b *box) use() (processes int, memory int64) {
	number := func(dir, name string) int64 {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return n
	}
	switch {
	case b.v2 != "":
		return int(number(b.v2, "pids.current")), number(b.v2, "memory.current")
	case len(b.v1) > 0:
		processes = int(number(b.v1[0], "pids.current"))
		if b.limits.Memory <= 0 {
			return processes, 0
		}
	}
	pids := b.processes()
	if b.limits.Memory > 0 {
		for _, pid := range pids {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)); err == nil {
				if f := strings.Fields(string(data)); len(f) > 1 {
					pages, _ := strconv.ParseInt(f[1], 10, 64)
					memory += pages * int64(os.Getpagesize())
				}
			}
		}
	}
	return max(processes, len(pids)), memory
}

// after tells of a limit that the kernel held by itself.
func (b *box) after() (Stop, string) {
	for _, dir := range append([]string{b.v2}, b.v1...) {
		if dir == "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, "pids.events"))
		if n, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "max "); err == nil && ok && n != "0" {
			return StopProcesses, fmt.Sprintf("it tried to have more than %d processes and threads", b.limits.Processes)
		}
		for _, name := range []string{"memory.events", "memory.oom_control"} { // of v2, of v1
			data, err = os.ReadFile(filepath.Join(dir, name))
			_, n, ok := strings.Cut(string(data), "oom_kill ")
			if err == nil && ok && !strings.HasPrefix(n, "0") {
				return StopMemory, fmt.Sprintf("it needed more than %d MiB of memory", b.limits.Memory>>20)
			}
		}
	}
	return "", ""
}

// quit asks all processes to say what they are doing.
func (b *box) quit() {
	for _, pid := range b.processes() {
		_ = unix.Kill(pid, unix.SIGQUIT) // it may be gone
	}
}

// kill kills until nothing is left: a process that forks faster than it is found
// is stopped first.
func (b *box) kill() {
	if b.v2 != "" && os.WriteFile(filepath.Join(b.v2, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	_ = unix.Kill(-b.group, unix.SIGKILL) // it may be gone
	for range 1000 {
		pids := b.processes()
		if len(pids) == 0 { // who has left the cgroup has its mark still
			left := map[int]bool{}
			b.marked(left)
			pids = slices.Collect(maps.Keys(left))
		}
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGSTOP)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond) // for the kernel to reap; there is no event for that
	}
}

func (b *box) close() {
	if b.fd != nil {
		_ = b.fd.Close()
	}
	for _, dir := range append([]string{b.v2}, b.v1...) {
		for try := 0; dir != "" && os.Remove(dir) != nil && try < 500; try++ {
			time.Sleep(time.Millisecond) // until the last process is reaped
		}
	}
}

// allocated is what a file takes on the disk.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
