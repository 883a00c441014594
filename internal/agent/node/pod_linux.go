package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoPod says that no process of the pod runs on this node.
	ErrNoPod = errors.New("no process of the pod runs on this node")
	// ErrHostNetwork says that the pod has no network namespace of its own, so
	// that steering there would be steering of the node.
	ErrHostNetwork = errors.New("the pod uses the node's own network (hostNetwork)")
	// ErrGone says that a process has ended.
	ErrGone = errors.New("the process has ended")
)

// Proc is the directory where the host's processes are seen: "/proc", in a pod
// with hostPID.
type Proc string

// Process is the main process of a container, the one that the others come from.
type Process struct {
	Container string // its ID without the runtime's name
	PID       int
	Parent    int

	proc    Proc
	started uint64
}

// Pod is what runs of a pod.
type Pod struct {
	UID string
	// Sandbox is the process that holds the pod's namespaces, nil with a runtime
	// that needs none.
	Sandbox *Process
	// Containers are the others, in the order of their starts.
	Containers []Process

	proc Proc
}

// Pod finds the processes of the pod with this UID. For a static pod that is the
// annotation kubernetes.io/config.hash, not the UID in the API.
func (p Proc) Pod(ctx context.Context, uid string) (*Pod, error) {
	if uid == "" {
		return nil, errors.New("find pod: no UID")
	}
	members, err := p.members(ctx, func(cgroup string) (string, bool) { return containerOf(cgroup, uid) })
	if err != nil {
		return nil, fmt.Errorf("find pod %s: %w", uid, err)
	}
	pod := &Pod{UID: uid, proc: p}
	for id, processes := range members {
		main := first(processes)
		pod.Containers = append(pod.Containers, Process{
			Container: id, PID: main.PID, Parent: main.Parent, proc: p, started: main.Started,
		})
	}
	if len(pod.Containers) == 0 {
		return nil, fmt.Errorf("find pod %s: %w: it may have ended, or run on another node", uid, ErrNoPod)
	}
	slices.SortFunc(pod.Containers, func(a, b Process) int {
		return cmp.Or(cmp.Compare(a.started, b.started), cmp.Compare(a.PID, b.PID))
	})
	var commands []string
	for _, c := range pod.Containers {
		// A process that has just ended has no command; it is no sandbox.
		command, _ := os.ReadFile(c.path("cmdline"))
		commands = append(commands, string(command))
	}
	if i := sandbox(commands); i >= 0 {
		pod.Sandbox = &Process{}
		*pod.Sandbox = pod.Containers[i]
		pod.Containers = slices.Delete(pod.Containers, i, i+1)
	}
	return pod, nil
}

// members returns the living processes by container, of those that are known by
// their cgroups.
func (p Proc) members(ctx context.Context, containerOf func(cgroup string) (id string, ok bool)) (map[string][]stat, error) {
	dir, err := os.Open(string(p))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	found := map[string][]stat{}
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		cgroup, err := os.ReadFile(filepath.Join(string(p), name, "cgroup"))
		if ended(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		id, ok := containerOf(string(cgroup))
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(string(p), name, "stat"))
		if ended(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		s, err := parseStat(string(text))
		if err != nil {
			return nil, err
		}
		if s.State != "Z" && s.State != "X" {
			found[id] = append(found[id], s)
		}
	}
	return found, nil
}

// ended tells whether err is how reading about a process fails that has ended.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// Container returns the main process of the container with this ID, as the pod's
// status has it ("containerd://ID") or without the runtime.
func (p *Pod) Container(id string) (Process, bool) {
	_, bare, ok := cutLast(id, "://")
	if !ok {
		bare = id
	}
	i := slices.IndexFunc(p.Containers, func(c Process) bool { return c.Container == bare })
	if i < 0 {
		return Process{}, false
	}
	return p.Containers[i], true
}

// Netns opens the pod's network namespace. It fails with ErrHostNetwork if that
// is the node's: the one of the first process, or of the process that started
// the container, which is the runtime's. The first process may be of another
// node, where several share a machine.
func (p *Pod) Netns() (*Netns, error) {
	holder := p.Sandbox
	if holder == nil {
		holder = &p.Containers[0]
	}
	ns, err := OpenNetns(holder.path("ns", "net"))
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", p.UID, err)
	}
	if err := p.refuseHost(holder, ns); err != nil {
		ns.Close()
		return nil, fmt.Errorf("network namespace of pod %s: %w", p.UID, err)
	}
	return ns, nil
}

func (p *Pod) refuseHost(holder *Process, ns *Netns) error {
	var unknown error
	compared := false
	for _, pid := range []int{1, holder.Parent} {
		id, err := identify(Process{PID: pid, proc: p.proc}.path("ns", "net"))
		if err != nil {
			unknown = err // it has ended, or is not ours to look at
			continue
		}
		compared = true
		if id == ns.id {
			return fmt.Errorf("%w: it shares it with process %d; steer at the Kubernetes Service instead", ErrHostNetwork, pid)
		}
	}
	if !compared {
		return fmt.Errorf("tell it from the node's: %w; the node agent needs hostPID and the capability SYS_PTRACE", unknown)
	}
	return holder.check()
}

func (p Process) path(elements ...string) string {
	return filepath.Join(append([]string{string(p.proc), strconv.Itoa(p.PID)}, elements...)...)
}

// check fails with ErrGone if the process has ended, even if another one has
// its number by now.
func (p Process) check() error {
	text, err := os.ReadFile(p.path("stat"))
	if err != nil && !ended(err) {
		return err
	}
	if err == nil {
		if s, err := parseStat(string(text)); err == nil && s.Started == p.started && s.State != "Z" {
			return nil
		}
	}
	return fmt.Errorf("process %d of container %.12s: %w", p.PID, p.Container, ErrGone)
}

// Await returns nil when the process has ended, or the error of a ctx that ended before.
func (p Process) Await(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err == nil { // kernels before 5.10 don't open it so
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return fmt.Errorf("watch process %d of container %.12s: %w", p.PID, p.Container, err)
	}
	f := os.NewFile(uintptr(fd), "process")
	defer f.Close()
	if err := p.check(); errors.Is(err, ErrGone) {
		return nil // the number may be another's by now
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var wrong error
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		var n int
		n, wrong = unix.Poll(poll, 0)
		return n > 0 || wrong != nil && !errors.Is(wrong, unix.EINTR)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, wrong)
}

// Environ returns the environment that the process was started with.
func (p Process) Environ() ([]string, error) {
	data, err := os.ReadFile(p.path("environ"))
	if gone := p.check(); gone != nil {
		return nil, fmt.Errorf("read environment: %w", gone)
	}
	if err != nil {
		return nil, fmt.Errorf("read environment: %w", err)
	}
	return entries(string(data)), nil
}

// Proc returns what the kernel tells of the process in its file of this name
// below /proc/PID, for example "mountinfo".
func (p Process) Proc(name string) ([]byte, error) {
	data, err := os.ReadFile(p.path(name))
	if gone := p.check(); gone != nil {
		return nil, fmt.Errorf("read %s: %w", name, gone)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// Dir returns the working directory as the process sees it.
func (p Process) Dir() (string, error) {
	dir, err := os.Readlink(p.path("cwd"))
	if gone := p.check(); gone != nil {
		return "", fmt.Errorf("read the working directory: %w", gone)
	}
	if err != nil {
		return "", fmt.Errorf("read the working directory: %w", err)
	}
	return dir, nil
}

// Open opens a file or directory of the container for reading, as the process
// sees it. Links are followed inside the container's root only, whatever is in
// it: never to a file of the node.
func (p Process) Open(path string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("container %.12s: %w", p.Container, &fs.PathError{Op: "open", Path: path, Err: err})
	}
	root, err := unix.Open(p.path("root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(root)
	if err := p.check(); err != nil {
		return nil, err
	}
	// A pipe must not make us wait for its writer.
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
