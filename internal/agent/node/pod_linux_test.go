package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeProc is a directory like /proc.
type fakeProc struct {
	t   *testing.T
	dir string
}

func (p fakeProc) write(pid int, name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, strconv.Itoa(pid), name)
	must(p.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(p.t, os.WriteFile(path, []byte(text), 0o644))
}

func (p fakeProc) process(pid, parent, started int, state, cgroup string, command ...string) {
	p.t.Helper()
	p.write(pid, "stat", fmt.Sprintf("%d (a name) %s %d%s %d 0 0\n", pid, state, parent, strings.Repeat(" 0", 17), started))
	p.write(pid, "cgroup", "0::"+cgroup+"\n")
	p.write(pid, "cmdline", strings.Join(command, "\x00")+"\x00")
	p.write(pid, "environ", fmt.Sprintf("PID=%d\x00", pid))
}

// netns gives processes one network namespace.
func (p fakeProc) netns(pids ...int) {
	p.t.Helper()
	for i, pid := range pids {
		path := filepath.Join(p.dir, strconv.Itoa(pid), "ns", "net")
		must(p.t, os.MkdirAll(filepath.Dir(path), 0o755))
		if i == 0 {
			must(p.t, os.WriteFile(path, nil, 0o644))
			continue
		}
		must(p.t, os.Link(filepath.Join(p.dir, strconv.Itoa(pids[0]), "ns", "net"), path))
	}
}

func scope(id string) string {
	return "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" +
		strings.ReplaceAll(testUID, "-", "_") + ".slice/cri-containerd-" + id + ".scope"
}

func TestPodIsFoundByItsCgroups(t *testing.T) {
	const pauseID = "00a1b2c3d4e5f60718293a4b5c6d7e8f3ea1b2c3d4e5f60718293a4b5c6d7e8f"
	p := fakeProc{t, t.TempDir()}
	p.process(1, 0, 1, "S", "/init.scope", "/sbin/init")
	p.process(900, 1, 50, "S", "/system.slice/containerd.service", "containerd-shim")
	p.process(901, 900, 60, "S", scope(pauseID), "/pause")
	p.process(950, 900, 70, "S", scope(testID), "/cart", "--port=8080")
	p.process(951, 950, 70, "S", scope(testID), "worker")    // a child, in the same tick
	p.process(310, 900, 99, "S", scope(testID), "sh")        // an exec, after the numbers began anew
	p.process(960, 900, 80, "S", scope(otherID), "/sidecar") // another container
	p.process(940, 900, 65, "Z", scope(otherID))             // has ended
	p.process(970, 1, 20, "S", strings.ReplaceAll(scope(testID), "2d3f9c1e", "11111111"), "/others")
	must(t, os.MkdirAll(filepath.Join(p.dir, "sys"), 0o755))
	must(t, os.MkdirAll(filepath.Join(p.dir, "990"), 0o755)) // ended while it is looked at
	p.netns(1, 900)
	p.netns(901, 950, 951, 310, 960)

	pod, err := Proc(p.dir).Pod(t.Context(), testUID)
	must(t, err)
	type found struct {
		ID  string
		PID int
	}
	var got []found
	for _, c := range pod.Containers {
		got = append(got, found{c.Container, c.PID})
	}
	if diff := cmp.Diff([]found{{testID, 950}, {otherID, 960}}, got); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
	if pod.Sandbox == nil || pod.Sandbox.PID != 901 || pod.Sandbox.Container != pauseID {
		t.Errorf("sandbox: got %v, want process 901", pod.Sandbox)
	}
	for _, id := range []string{testID, "containerd://" + testID} {
		c, ok := pod.Container(id)
		if !ok || c.PID != 950 {
			t.Fatalf("container %s: got %v, %v, want process 950", id, c, ok)
		}
		env, err := c.Environ()
		if diff := cmp.Diff([]string{"PID=950"}, env); err != nil || diff != "" {
			t.Errorf("environment: %v (-want +got):\n%s", err, diff)
		}
	}
	if _, ok := pod.Container("containerd://" + pauseID); ok {
		t.Error("the sandbox is among the containers")
	}
	ns, err := pod.Netns()
	must(t, err)
	must(t, ns.Close())
}

func TestPodWithoutASandbox(t *testing.T) { // CRI-O
	p := fakeProc{t, t.TempDir()}
	p.process(1, 0, 1, "S", "/init.scope", "/sbin/init")
	p.process(950, 1, 70, "S", scope(testID), "/cart")
	p.netns(1)
	p.netns(950)
	pod, err := Proc(p.dir).Pod(t.Context(), testUID)
	must(t, err)
	if pod.Sandbox != nil || len(pod.Containers) != 1 {
		t.Fatalf("got sandbox %v and containers %v, want no sandbox and one container", pod.Sandbox, pod.Containers)
	}
	ns, err := pod.Netns()
	must(t, err)
	must(t, ns.Close())
}

func TestHostNetworkIsRefused(t *testing.T) {
	for name, shared := range map[string][]int{
		"with the first process": {1, 901},
		"with the runtime":       {900, 901}, // a node in a network namespace of its own
	} {
		t.Run(name, func(t *testing.T) {
			p := fakeProc{t, t.TempDir()}
			p.process(1, 0, 1, "S", "/init.scope", "/sbin/init")
			p.process(900, 1, 50, "S", "/system.slice/containerd.service", "containerd-shim")
			p.process(901, 900, 60, "S", scope(testID), "/pause")
			p.netns(shared...)
			for _, pid := range []int{1, 900} {
				if pid != shared[0] {
					p.netns(pid)
				}
			}
			pod, err := Proc(p.dir).Pod(t.Context(), testUID)
			must(t, err)
			if _, err := pod.Netns(); !errors.Is(err, ErrHostNetwork) || !strings.Contains(err.Error(), "hostNetwork") {
				t.Errorf("network namespace: got %v, want %v", err, ErrHostNetwork)
			}
		})
	}
}

func TestPodThatIsNotThere(t *testing.T) {
	p := fakeProc{t, t.TempDir()}
	p.process(1, 0, 1, "S", "/init.scope", "/sbin/init")
	if _, err := Proc(p.dir).Pod(t.Context(), testUID); !errors.Is(err, ErrNoPod) {
		t.Errorf("got %v, want %v", err, ErrNoPod)
	}
	if _, err := Proc(p.dir).Pod(t.Context(), ""); err == nil {
		t.Error("a pod without a UID is found")
	}
	if _, err := Proc(filepath.Join(p.dir, "none")).Pod(t.Context(), testUID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory of processes: got %v, want %v", err, fs.ErrNotExist)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Proc(p.dir).Pod(ended, testUID); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: got %v, want %v", err, context.Canceled)
	}
}

func TestAnotherProcessWithTheSameNumberIsNotTakenForIt(t *testing.T) {
	p := fakeProc{t, t.TempDir()}
	p.process(1, 0, 1, "S", "/init.scope", "/sbin/init")
	p.process(950, 1, 70, "S", scope(testID), "/cart")
	p.netns(1)
	p.netns(950)
	pod, err := Proc(p.dir).Pod(t.Context(), testUID)
	must(t, err)
	p.process(950, 1, 95, "S", "/user.slice", "/bin/su")
	if env, err := pod.Containers[0].Environ(); !errors.Is(err, ErrGone) {
		t.Errorf("environment: got %v, %v, want %v", env, err, ErrGone)
	}
	if _, err := pod.Netns(); !errors.Is(err, ErrGone) {
		t.Errorf("network namespace: got %v, want %v", err, ErrGone)
	}
}

// makeCgroup makes a cgroup like a container's, if this machine lets us, and
// else returns "": then the process's directory in a fake one says that it is in
// one, which is all that the package sees of cgroups.
func makeCgroup(t *testing.T) string {
	t.Helper()
	for _, tree := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"} {
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err != nil {
			continue
		}
		dirs := []string{fmt.Sprintf("bight-node-test-%d", os.Getpid()), "kubepods", "burstable", "pod" + testUID, testID}
		path := tree
		made := true
		for _, d := range dirs {
			path = filepath.Join(path, d)
			if err := os.Mkdir(path, 0o755); err != nil {
				made = false
				break
			}
			dir := path
			t.Cleanup(func() {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
		}
		if made {
			return path
		}
	}
	return ""
}

// live starts a process in a container's cgroup, and returns the directory to
// find it in.
func live(t *testing.T, flags uintptr) (Proc, *exec.Cmd) {
	t.Helper()
	cgroup := makeCgroup(t)
	c := helper(t, "wait", func(c *exec.Cmd) {
		c.Env = append(c.Env, "DATABASE_URL=postgres://db:5432/cart")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	})
	if cgroup != "" {
		must(t, os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(c.Process.Pid)), 0o644))
		return "/proc", c
	}
	dir := t.TempDir()
	for _, pid := range []int{1, os.Getpid(), c.Process.Pid} {
		sub := filepath.Join(dir, strconv.Itoa(pid))
		must(t, os.Mkdir(sub, 0o755))
		for _, name := range []string{"stat", "cmdline", "environ", "root", "ns"} {
			must(t, os.Symlink(fmt.Sprintf("/proc/%d/%s", pid, name), filepath.Join(sub, name)))
		}
		in := "0::/\n"
		if pid == c.Process.Pid {
			in = "0::/kubepods/burstable/pod" + testUID + "/" + testID + "\n"
		}
		must(t, os.WriteFile(filepath.Join(sub, "cgroup"), []byte(in), 0o644))
	}
	return Proc(dir), c
}

func TestALivePodIsFound(t *testing.T) {
	proc, c := live(t, unix.CLONE_NEWNET)
	pod, err := proc.Pod(t.Context(), testUID)
	must(t, err)
	main, ok := pod.Container(testID)
	if !ok || main.PID != c.Process.Pid || main.Parent != os.Getpid() {
		t.Fatalf("got containers %+v, want process %d, child of %d", pod.Containers, c.Process.Pid, os.Getpid())
	}
	env, err := main.Environ()
	must(t, err)
	if diff := cmp.Diff(c.Env, env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	status, err := main.Proc("stat")
	if want := fmt.Sprintf("%d (", c.Process.Pid); err != nil || !strings.HasPrefix(string(status), want) {
		t.Errorf("what the kernel tells: got %q, %v, want %s...", status, err, want)
	}
	ns, err := pod.Netns()
	must(t, err)
	defer ns.Close()
	if addrs, err := ns.Addrs(t.Context()); err != nil || len(addrs) != 0 {
		t.Errorf("addresses of an empty network: got %v, %v, want none", addrs, err)
	}

	must(t, c.Process.Kill())
	_ = c.Wait() // killed
	if _, err := main.Environ(); !errors.Is(err, ErrGone) {
		t.Errorf("environment after the end: got %v, want %v", err, ErrGone)
	}
	if _, err := main.Proc("stat"); !errors.Is(err, ErrGone) {
		t.Errorf("what the kernel tells after the end: got %v, want %v", err, ErrGone)
	}
	if _, err := main.Dir(); !errors.Is(err, ErrGone) {
		t.Errorf("working directory after the end: got %v, want %v", err, ErrGone)
	}
	if _, err := proc.Pod(t.Context(), testUID); !errors.Is(err, ErrNoPod) {
		t.Errorf("pod after the end: got %v, want %v", err, ErrNoPod)
	}
	if _, err := ns.Addrs(t.Context()); err != nil {
		t.Errorf("an open namespace after its process's end: %v", err)
	}
}

func TestALivePodInTheNodesNetworkIsRefused(t *testing.T) {
	proc, _ := live(t, 0)
	pod, err := proc.Pod(t.Context(), testUID)
	must(t, err)
	if _, err := pod.Netns(); !errors.Is(err, ErrHostNetwork) {
		t.Errorf("got %v, want %v", err, ErrHostNetwork)
	}
}

func TestOpenStaysInTheContainer(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("the node's"), 0o600))
	root := filepath.Join(dir, "rootfs")
	must(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "etc", "app.conf"), []byte("the app's"), 0o644))
	must(t, os.Symlink("/etc/app.conf", filepath.Join(root, "conf")))
	must(t, os.Symlink(secret, filepath.Join(root, "absolute")))
	must(t, os.Symlink("../../secret", filepath.Join(root, "etc", "relative")))
	must(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))

	p := fakeProc{t, filepath.Join(dir, "proc")}
	p.process(1, 0, 1, "S", "/init.scope", "/sbin/init")
	p.process(950, 1, 70, "S", scope(testID), "/cart")
	must(t, os.Symlink(root, filepath.Join(p.dir, "950", "root")))
	pod, err := Proc(p.dir).Pod(t.Context(), testUID)
	must(t, err)
	c := pod.Containers[0]
	for _, path := range []string{"/etc/app.conf", "etc/app.conf", "/conf", "/../etc/app.conf"} {
		f, err := c.Open(path)
		must(t, err)
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(text) != "the app's" {
			t.Errorf("%s: got %q, %v, want the app's", path, text, err)
		}
	}
	for _, path := range []string{"/absolute", "/etc/relative", "/../../secret", "none"} {
		if f, err := c.Open(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, %v, want none such", path, f, err)
		}
	}
	f, err := c.Open("/pipe") // does not wait for a writer
	must(t, err)
	f.Close()
}

func BenchmarkFindPod(b *testing.B) {
	for b.Loop() {
		if _, err := Proc("/proc").Pod(b.Context(), testUID); !errors.Is(err, ErrNoPod) {
			b.Fatal(err)
		}
	}
}

func TestTheEndOfAProcessIsSeen(t *testing.T) {
	c := helper(t, "idle", nil)
	p, err := Proc("/proc").process("c", c.Process.Pid)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Await(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("while it runs, and nobody waits: %v", err)
	}
	seen := make(chan error, 1)
	go func() { seen <- p.Await(t.Context()) }()
	select {
	case err := <-seen:
		t.Fatalf("it runs, and is seen to have ended: %v", err)
	default:
	}
	must(t, c.Process.Kill())
	must(t, <-seen)
	_ = c.Wait() // killed
	must(t, p.Await(t.Context()))
	other := p
	other.PID, other.started = os.Getpid(), 1 // as if its number were another's now
	must(t, other.Await(t.Context()))
}
