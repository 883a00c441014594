package supervisor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/spec"
)

func write(t *testing.T, content string, elem ...string) {
	t.Helper()
	file := filepath.Join(elem...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCgroupsOfVersion1(t *testing.T) {
	mount := t.TempDir()
	write(t, "0-1\n", mount, "cpuset", "cpuset.cpus")
	write(t, "0\n", mount, "cpuset", "cpuset.mems")
	for _, dir := range []string{"memory", "cpu,cpuacct"} {
		if err := os.Mkdir(filepath.Join(mount, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("cpu,cpuacct", filepath.Join(mount, "cpu")); err != nil {
		t.Fatal(err)
	}
	trees, err := findCgroups(mount)
	if err != nil {
		t.Fatal(err)
	}
	want := cgroups{filepath.Join(mount, "cpu,cpuacct"), filepath.Join(mount, "cpuset"), filepath.Join(mount, "memory")}
	if diff := cmp.Diff(want, trees); diff != "" {
		t.Fatal(diff)
	}
	if err := trees.make("/bight/node-1"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bight", "bight/node-1"} {
		if got := read(t, mount, "cpuset", dir, "cpuset.cpus"); got != "0-1\n" {
			t.Errorf("%s may run on %q", dir, got)
		}
		if got := read(t, mount, "cpuset", dir, "cpuset.mems"); got != "0\n" {
			t.Errorf("%s may use memory of %q", dir, got)
		}
	}
	if !exists(filepath.Join(mount, "memory", "bight", "node-1")) {
		t.Error("there is none for memory")
	}
}

func TestCgroupsOfVersion2(t *testing.T) {
	mount := t.TempDir()
	write(t, "cpu memory pids\n", mount, "cgroup.controllers")
	// The kernel makes these with the directory.
	write(t, "cpu memory pids\n", mount, "bight", "cgroup.controllers")
	write(t, "", mount, "bight", "node-1", "cgroup.controllers")
	trees, err := findCgroups(mount)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cgroups{mount}, trees); diff != "" {
		t.Fatal(diff)
	}
	if err := trees.make("/bight/node-1"); err != nil {
		t.Fatal(err)
	}
	// A plain file keeps the last of the writes, each of which the kernel obeys.
	for _, dir := range []string{"", "bight"} {
		if got := read(t, mount, dir, "cgroup.subtree_control"); got != "+pids" {
			t.Errorf("below %q controllers are passed on by %q", dir, got)
		}
	}
	if exists(filepath.Join(mount, "bight", "node-1", "cgroup.subtree_control")) {
		t.Error("the node's own cgroup passes controllers on, which is the kubelet's to do")
	}
}

func TestCgroupsAreRemovedFromTheBottom(t *testing.T) {
	trees := cgroups{t.TempDir(), t.TempDir()}
	for _, tree := range trees {
		for _, dir := range []string{"bight/node-1/pods/pod-1", "other"} {
			if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := trees.remove("/bight"); err != nil {
		t.Fatal(err)
	}
	for _, tree := range trees {
		left, err := os.ReadDir(tree)
		if err != nil || len(left) != 1 || left[0].Name() != "other" {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if err := trees.remove("/bight"); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestNoCgroupsAreNamed(t *testing.T) {
	for _, mount := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := findCgroups(mount); err == nil || !contains(err.Error(), mount) {
			t.Errorf("%s: got %v", mount, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		status string
		want   bool
	}{
		{"CapEff:\t000001ffffffffff\n", true},
		{"CapEff:\t000001fffeffffff\n", false},
		{"CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n", false},
		{"CapEff:\tnonsense\n", false},
		{"", false},
	} {
		if got := hasCapability(c.status, unix.CAP_SYS_RESOURCE); got != c.want {
			t.Errorf("%q: got %v, want %v", c.status, got, c.want)
		}
	}
}

func TestTheLastRunsLogsAreKept(t *testing.T) {
	c := &spec.Cluster{Name: "dev", Dir: t.TempDir()}
	for _, run := range []string{"one", "two", "three"} {
		if err := RotateLogs(c); err != nil {
			t.Fatal(err)
		}
		write(t, run, c.LogFile("etcd"))
	}
	if got := read(t, c.LogFile("etcd")) + " " + read(t, c.LogFile("etcd")+".1"); got != "three two" {
		t.Errorf("got %q", got)
	}
	if files, err := os.ReadDir(c.Logs()); err != nil || len(files) != 2 {
		t.Errorf("got %v, %v", files, err)
	}
}

func TestTheWordThatSaysWhyAProgramEnded(t *testing.T) {
	for _, c := range []struct{ name, log, want string }{
		{"nothing", "", "nothing was logged"},
		{"only spaces", " \n\n", "nothing was logged"},
		{"the last line", "one\ntwo\n\n", "two"},
		{"an error before other words", "E1121 03:00:00.1 a.go:1] \"no disk\"\nI1121 03:00:00.2 a.go:2] bye\n", "E1121 03:00:00.1 a.go:1] \"no disk\""},
		{"the fatal one of several", "E1121 03 run.go:72] \"command failed\" err=\"no disk\"\nE1121 03 later\n", "E1121 03 run.go:72] \"command failed\" err=\"no disk\""},
		{"a panic, not its stack", "panic: nil map\n\ngoroutine 1 [running]:\nmain.main()\n\t/error/main.go:1 +0x1\n", "panic: nil map"},
		{"containerd", "level=info msg=a\nlevel=fatal msg=\"no socket\"\nlevel=error msg=b\n", "level=fatal msg=\"no socket\""},
		{"etcd", `{"level":"fatal","msg":"no space"}` + "\n" + `{"level":"info","msg":"x"}`, `{"level":"fatal","msg":"no space"}`},
		{"ours", "starting\nerror: no disk\n", "error: no disk"},
	} {
		if got := pickLastWord(c.log); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	file := filepath.Join(t.TempDir(), "log")
	write(t, "error: long ago\n"+string(make([]byte, 100<<10))+"\nthe end\n", file)
	if got := lastWord(file); got != "the end" {
		t.Errorf("of a long log: got %q", got)
	}
	if got := lastWord(file + "x"); !contains(got, "no such file") {
		t.Errorf("of no log: got %q", got)
	}
}

func TestKnownCausesHaveARemedy(t *testing.T) {
	for word, want := range map[string]string{
		`"Failed to start cAdvisor" err="inotify_init: too many open files"`: "max_user_instances",
		"open /x: too many open files":                                       "ulimit",
		"write /x: No space left on device":                                  "BIGHT_STATE_DIR",
	} {
		if got := remedy(word); !contains(got, want) {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
	if got := remedy("something new"); got != "" {
		t.Errorf("got %q", got)
	}
}
