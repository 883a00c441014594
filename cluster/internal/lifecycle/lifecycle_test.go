package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/cluster/internal/host"
	"github.com/bightdev/bight/cluster/internal/proc"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// manager returns one for a machine that has nothing.
func manager(t *testing.T) *Manager {
	t.Helper()
	dir := t.TempDir()
	return &Manager{
		Root: filepath.Join(dir, "clusters"), Kubeconfig: filepath.Join(dir, "kubeconfig"),
		Machine: host.Machine{OS: "linux", Arch: "amd64", Programs: []string{dir}, Plugins: []string{dir}},
	}
}

func TestStartIsRefusedBeforeAnythingIsChanged(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Manager)
		options Options
		code    int
		words   []string
	}{
		"not root":       {func(m *Manager) { m.Machine.UID = 1000 }, Options{Name: "dev"}, 3, []string{"root", "sudo", "kind"}},
		"not Linux":      {func(m *Manager) { m.Machine.OS = "darwin" }, Options{Name: "dev"}, 1, []string{"Linux only", "kind"}},
		"nothing there":  {func(*Manager) {}, Options{Name: "dev"}, 1, []string{"containerd", "runc", "nft", "bridge", "apt-get install"}},
		"bad name":       {func(*Manager) {}, Options{Name: "../dev"}, 2, []string{`"../dev"`}},
		"too many nodes": {func(*Manager) {}, Options{Name: "dev", Nodes: 17}, 2, []string{"--nodes 17", "1 to 16"}},
		"fewer than one": {func(*Manager) {}, Options{Name: "dev", Nodes: -1}, 2, []string{"--nodes -1"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := manager(t)
			c.change(m)
			_, err := m.Start(t.Context(), c.options)
			if got := ExitCode(err); got != c.code {
				t.Errorf("got exit code %d for %v, want %d", got, err, c.code)
			}
			for _, word := range c.words {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("the error lacks %q: %v", word, err)
				}
			}
			if _, err := os.Stat(m.Root); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was made", m.Root)
			}
		})
	}
}

func TestANewClusterIsDescribedOnce(t *testing.T) {
	m := manager(t)
	first, err := m.describe(Options{Name: "dev", Nodes: 3, Egress: true})
	if err != nil {
		t.Fatal(err)
	}
	if first.Nodes != 3 || !first.Egress || first.APIHostPort == 0 || first.APIHostPort == first.RegistryHostPort {
		t.Errorf("got %+v", first)
	}
	second, err := m.describe(Options{Name: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Error(diff)
	}
	if one, err := m.describe(Options{Name: "one"}); err != nil || one.Nodes != 1 {
		t.Errorf("without a number: got %+v, %v; want one node", one, err)
	}
}

func TestAClusterOfAnOlderReleaseGetsAWayToThePodsWhenItIsStarted(t *testing.T) {
	old := &spec.Cluster{Name: "dev", Nodes: 1, APIHostPort: 6001, RegistryHostPort: 6002, Dir: filepath.Join(t.TempDir(), "dev")}
	if err := old.Save(); err != nil {
		t.Fatal(err)
	}
	if via := old.PodsVia(); via != "" {
		t.Errorf("before: %s", via)
	}
	if err := addPodsDoor(old); err != nil {
		t.Fatal(err)
	}
	got, err := spec.Load(old.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.PodsHostPort == 0 || got.PodsHostPort == 6001 || got.PodsHostPort == 6002 || got.PodsSecret == "" {
		t.Errorf("got %+v", got)
	}
	if err := addPodsDoor(got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(old, got); diff != "" {
		t.Errorf("the second start changes it: %s", diff)
	}
}

func TestOptionsMustAgreeWithTheClusterThatExists(t *testing.T) {
	c := &spec.Cluster{Name: "dev", Nodes: 2}
	for _, o := range []struct {
		options Options
		word    string
	}{
		{Options{Name: "dev"}, ""},
		{Options{Name: "dev", Nodes: 2}, ""},
		{Options{Name: "dev", Nodes: 3}, "--nodes 2, not 3"},
		{Options{Name: "dev", Egress: true}, "without --egress"},
	} {
		err := o.options.agree(c)
		if o.word == "" && err != nil || o.word != "" && (ExitCode(err) != 2 || !strings.Contains(err.Error(), o.word)) {
			t.Errorf("%+v: got %v, want %q", o.options, err, o.word)
		}
	}
}

func TestAPathThatIsTooLongForASocketIsRefused(t *testing.T) {
	m := manager(t)
	m.Root = filepath.Join(m.Root, strings.Repeat("d", 100))
	_, err := m.describe(Options{Name: "dev"})
	if ExitCode(err) != 2 || !strings.Contains(err.Error(), "BIGHT_STATE_DIR") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(m.Root); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a directory was made")
	}
}

func TestFreePortsAreFreeAndDiffer(t *testing.T) {
	a, b, c, err := freePorts()
	if err != nil || a == b || a == c || b == c {
		t.Fatalf("got %d, %d and %d, %v", a, b, c, err)
	}
	for _, port := range []int{a, b, c} {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Error(err)
			continue
		}
		l.Close()
	}
}

func TestUnknownClustersAreNamedWithThoseThatThereAre(t *testing.T) {
	m := manager(t)
	ask := map[string]func(string) error{
		"load":   func(name string) error { _, err := m.Load(name); return err },
		"stop":   func(name string) error { return m.Stop(t.Context(), name) },
		"delete": func(name string) error { return m.Delete(t.Context(), name) },
	}
	for what, f := range ask {
		if err := f("dev"); ExitCode(err) != 4 || !strings.Contains(err.Error(), "bight cluster start") {
			t.Errorf("%s: got %v", what, err)
		}
		if err := f("../x"); ExitCode(err) != 2 {
			t.Errorf("%s: a bad name: got %v", what, err)
		}
	}
	if _, err := m.describe(Options{Name: "prod"}); err != nil {
		t.Fatal(err)
	}
	for what, f := range ask {
		if err := f("dev"); ExitCode(err) != 4 || !strings.Contains(err.Error(), "there is: prod") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestDeleteRemovesWhateverStateTheClusterIsIn(t *testing.T) {
	for name, content := range map[string]string{
		"never started": `{"name":"dev","nodes":1,"apiPort":1,"registryPort":2}`,
		"damaged":       `{"name":`,
		"not described": "",
	} {
		t.Run(name, func(t *testing.T) {
			m := manager(t)
			if err := os.MkdirAll(m.dir("dev"), 0o700); err != nil {
				t.Fatal(err)
			}
			if content != "" {
				if err := os.WriteFile(filepath.Join(m.dir("dev"), "cluster.json"), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Stop(t.Context(), "dev"); err != nil {
				t.Errorf("stop: %v", err)
			}
			if err := m.Delete(t.Context(), "dev"); err != nil {
				t.Errorf("delete: %v", err)
			}
			if left, err := os.ReadDir(m.Root); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func TestOneAtATimeWorksOnACluster(t *testing.T) {
	m := manager(t)
	var said bytes.Buffer
	m.Progress = &said
	unlock, err := m.lock(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	other, err := m.lock(t.Context(), "other") // another cluster's is free
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.lock(ctx, "dev"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v while it is locked", err)
	}
	if !strings.Contains(said.String(), "another command is working on cluster dev") {
		t.Errorf("said %q", said.String())
	}
	unlock()
	unlock, err = m.lock(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if left, err := os.ReadDir(m.Root); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestALockOnAFileThatIsGoneIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := tryLock(path)
	if err != nil || f == nil {
		t.Fatalf("got %v, %v", f, err)
	}
	defer f.Close()
	if !isAt(f, path) {
		t.Error("a new lock is not at its path")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if isAt(f, path) {
		t.Error("a removed lock is at its path")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if isAt(f, path) {
		t.Error("a removed lock is taken for the new one at its path")
	}
}

// TestALockIsNeverHeldTwice has many contend for it: each removes the file that
// the others may already have open.
func TestALockIsNeverHeldTwice(t *testing.T) {
	m := manager(t)
	held := make(chan struct{}, 1)
	ended := make(chan error)
	const contenders = 8
	for range contenders {
		go func() {
			for range 20 {
				unlock, err := m.lock(t.Context(), "dev")
				if err != nil {
					ended <- err
					return
				}
				select {
				case held <- struct{}{}:
				default:
					ended <- errors.New("two have the lock")
					return
				}
				<-held
				unlock()
			}
			ended <- nil
		}()
	}
	for range contenders {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestAStartThatIsFollowed(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	n := narrator{context: "bight-dev"}
	for _, step := range []struct {
		status supervisor.Status
		at     int
		want   []string
	}{
		{supervisor.Status{Stage: "starting etcd"}, 1, []string{"  1.0 s  starting etcd"}},
		{supervisor.Status{Stage: "starting etcd", Waiting: "no socket"}, 2, nil},
		{supervisor.Status{Stage: "starting etcd", Waiting: "no socket"}, 7, []string{"  7.0 s  still starting etcd: no socket"}},
		{supervisor.Status{Stage: "starting etcd", Waiting: "no socket"}, 8, nil},
		{supervisor.Status{Stage: "starting etcd"}, 60, nil},
		{supervisor.Status{Stage: "starting etcd", Waiting: "no disk"}, 61, []string{" 61.0 s  still starting etcd: no disk"}},
		{supervisor.Status{Stage: "starting nodes"}, 62, []string{" 62.0 s  starting nodes"}},
		{supervisor.Status{Stage: "ready", Ready: true, Nodes: make([]supervisor.NodeStatus, 3)}, 63, []string{" 63.0 s  ready: 3 nodes, context bight-dev"}},
	} {
		step.status.Started = began
		if diff := cmp.Diff(step.want, n.lines(&step.status, at(step.at))); diff != "" {
			t.Errorf("after %d s: %s", step.at, diff)
		}
	}
	was := narrator{}
	if got := was.lines(&supervisor.Status{Ready: true, Stage: "ready"}, began); got != nil {
		t.Errorf("of a cluster that ran before: %v", got)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{UsageError{errors.New("x")}, 2},
		{fmt.Errorf("a: %w", host.ErrNotPermitted), 3},
		{fmt.Errorf("a: %w", UnknownError{errors.New("x")}), 4},
		{fmt.Errorf("a: %w", context.Canceled), 130},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
}

func TestASupervisorIsRecognised(t *testing.T) {
	c := &spec.Cluster{Name: "dev", Dir: t.TempDir()}
	if p, err := openSupervisor(c); p != nil || err != nil {
		t.Errorf("without a file: got %v, %v", p, err)
	}
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Save(c.SupervisorFile()); err != nil {
		t.Fatal(err)
	}
	p, err := openSupervisor(c)
	if err != nil || p == nil {
		t.Fatalf("a process that runs: got %v, %v", p, err)
	}
	p.Close()
	self.Start++ // a later process with the same number
	if err := self.Save(c.SupervisorFile()); err != nil {
		t.Fatal(err)
	}
	if p, err := openSupervisor(c); p != nil || err != nil {
		t.Errorf("another process: got %v, %v", p, err)
	}
	got := HostPIDs(c, []supervisor.Process{{Name: "etcd", PID: 17}})
	if got[0].PID != 0 {
		t.Errorf("a component of a cluster that does not run has PID %d", got[0].PID)
	}
	if err := os.WriteFile(c.SupervisorFile(), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSupervisor(c); err == nil || !strings.Contains(err.Error(), c.SupervisorFile()) {
		t.Errorf("a damaged file: got %v", err)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := tail(file, 2), "  two\n  three"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := tail(file, 9), "  one\n  two\n  three"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
