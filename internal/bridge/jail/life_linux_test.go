package jail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestExitCodes(t *testing.T) {
	c := newCluster(t)
	for _, tc := range []struct {
		command string
		want    int
	}{{"exit 0", 0}, {"exit 7", 7}, {"kill -9 $$", 137}, {"kill -15 $$", 143}, {"sleep 100 & exit 3", 3}, {"trap '' TERM; (trap '' TERM; sleep 100) & exit 4", 4}} {
		if got := run(t, c.config("sh", "-c", tc.command)); got.Code != tc.want {
			t.Errorf("%s: %d, want %d", tc.command, got.Code, tc.want)
		}
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"plain": "x", "script": "echo no first line", "missing": "#!/nowhere/interpreter\n"} {
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	for command, want := range map[string]int{
		"bight-no-such-program": 127, dir + "/absent": 127, dir + "/plain": 126, dir: 126, dir + "/script": 126, dir + "/missing": 127,
	} {
		_, err := toEnd(t.Context(), c.config(command))
		var start *StartError
		if !errors.As(err, &start) || start.Code != want {
			t.Errorf("%s: %v, want code %d", command, err, want)
		}
	}
	cfg := c.config("true")
	cfg.Dir = dir + "/absent"
	if _, err := toEnd(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "working directory") {
		t.Errorf("absent directory: %v", err)
	}
}

func TestTheContextEndsEverything(t *testing.T) {
	c := newCluster(t)
	for _, tc := range []struct {
		command string
		want    int
	}{
		{"trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done", 5},
		{"trap '' TERM; echo ready; while :; do sleep 0.05; done", 137},
	} {
		cfg := c.config("sh", "-c", tc.command)
		cfg.Grace = 300 * time.Millisecond
		stdout, out := io.Pipe()
		cfg.Stdout = out
		ctx, cancel := context.WithCancel(t.Context())
		j, err := Start(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, stdout) }()
		cancel()
		code, err := j.Wait()
		_ = out.Close()
		if code != tc.want || err != nil {
			t.Errorf("%s: %d, %v, want %d", tc.command, code, err, tc.want)
		}
		if left := inNamespace(j.ns); len(left) > 0 {
			t.Errorf("%s: left %v", tc.command, left)
		}
		if _, _, err := j.ask(&message{Kind: kindSocket}); !errors.Is(err, errGone) {
			t.Errorf("after the end: %v", err)
		}
	}
}

// inNamespace returns the processes in a network namespace.
func inNamespace(ns string) []int {
	var pids []int
	for _, p := range processes() {
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid)); err == nil && link == ns {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// nested starts a process that makes a jail.
func nested(t *testing.T, cred *syscall.Credential, command ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	exe := os.Args[0]
	if cred != nil {
		exe = readable(t)
	}
	cmd := exec.Command(exe, command...)
	cmd.Env = append(os.Environ(), "JAIL_TEST_ROLE=nested")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = r.Close() })
	return cmd, r
}

// readable is a copy of the test binary that every user can execute.
func readable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "jail-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "jail.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(exe, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestNothingIsLeftAfterSIGKILL(t *testing.T) {
	// The command, a child of it in a session of its own, and one that ignores signals.
	for name, kill := range map[string]func(outer, keeper int) error{
		"of the process":       func(outer, _ int) error { return unix.Kill(outer, unix.SIGKILL) },
		"of its process group": func(outer, _ int) error { return unix.Kill(-outer, unix.SIGKILL) },
		"of the keeper":        func(_, keeper int) error { return unix.Kill(keeper, unix.SIGKILL) },
	} {
		cmd, out := nested(t, nil, "sh", "-c", `setsid sleep 1000 & (trap '' HUP INT TERM; sleep 1000) & readlink /proc/self/ns/net; sleep 1000`)
		buf := make([]byte, 100)
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		ns := strings.TrimSpace(string(buf[:n]))
		eventually(t, "all are there", func() bool { return len(inNamespace(ns)) >= 5 })
		keeper := 0
		for _, p := range processes() {
			if p.parent == cmd.Process.Pid {
				keeper = p.pid
			}
		}
		if err := kill(cmd.Process.Pid, keeper); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+": nothing is left", func() bool { return len(inNamespace(ns)) == 0 })
	}
}

// ignores checks that a command, whose /proc/self/status is in out, ignores none of
// the classic signals. Those above 31 are the C library's and of whoever started this.
func ignores(t *testing.T, out string) {
	t.Helper()
	_, after, _ := strings.Cut(out, "SigIgn:\t")
	line, _, _ := strings.Cut(after, "\n")
	mask, err := strconv.ParseUint(line, 16, 64)
	if err != nil || mask&(1<<31-1) != 0 {
		t.Errorf("it ignores signals: %q", line)
	}
}

func TestAnOrdinaryUserCan(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("all the other tests run as an ordinary user")
	}
	_, out := nested(t, &syscall.Credential{Uid: 1000, Gid: 1000}, "sh", "-c", `id -u; id -g; hostname; cat /jail-test-absent/config/key; echo; cat /proc/self/status | grep -E 'Cap(Eff|Prm|Bnd|Amb)|SigIgn'; bash -c 'exec 3<>/dev/tcp/10.0.0.1/80 && cat <&3' || echo reset; ls -ld /etc | cut -c1-10`)
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	ignores(t, string(b))
	for _, want := range []string{"1000\n1000\npod-1\nvalue\n", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "reset", "drwxr-xr-x", "code 0"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
}

func TestRootKeepsNoPowerOverTheNamespace(t *testing.T) {
	c := newCluster(t)
	got := run(t, c.role("status"))
	if os.Getuid() != 0 {
		t.Log("this user is not root")
	}
	ignores(t, got.Out)
	for _, want := range []string{"CapAmb:\t0000000000000000", "SigBlk:\t0000000000000000"} {
		if !strings.Contains(got.Out, want) {
			t.Errorf("no %q in\n%s", want, got.Out)
		}
	}
	got = run(t, c.config("sh", "-c", "exec 2>/dev/null; ip link set lo down && echo down; umount /etc && echo gone; mount -t tmpfs x /mnt && echo mounted; head -1 /etc/resolv.conf"))
	if got.Out != "nameserver 198.18.0.53\n" {
		t.Errorf("%+v", got)
	}
}

// machine is what must not change of it.
func machine(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, p := range []string{"/proc/self/mountinfo", "/etc/resolv.conf", "/etc/hosts", "/proc/net/route", "/proc/net/ipv6_route", "/proc/net/fib_trie", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range"} {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		state[p] = string(b)
	}
	b, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	state["nft"] = fmt.Sprint(string(b), err)
	entries, err := os.ReadDir("/")
	state["/"] = fmt.Sprint(entries, err)
	return state
}

func TestNothingOnTheMachineChanges(t *testing.T) {
	before := machine(t)
	c := newCluster(t)
	cfg := c.role("serve", ":7070")
	cfg.Hostname = "pod"
	cfg.Mounts = []Mount{{Path: "/jail-absent/v", Files: []File{{Name: "a"}}}}
	stdout, out := io.Pipe()
	cfg.Stdout = out
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("while it runs:\n%s", diff)
	}
	cancel()
	_, _ = j.Wait()
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("afterwards:\n%s", diff)
	}
}
