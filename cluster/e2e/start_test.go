//go:build e2e

package e2e

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/bightdev/bight/cluster/internal/proc"
)

// TestInterruptedStartGoesOn: the supervisor goes on when the command that
// started it is interrupted, and the next start follows the same one.
func TestInterruptedStartGoesOn(t *testing.T) {
	c := newCluster(t, "dev")
	cmd := c.command("start")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var rest strings.Builder
	for lines := bufio.NewScanner(said); lines.Scan(); {
		rest.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "waiting for the API server") {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("got exit code %d, want 130: %s", code, rest.String())
	}
	for _, word := range []string{"goes on starting", "stop"} {
		if !strings.Contains(rest.String(), word) {
			t.Errorf("the interrupted start does not say %q: %s", word, rest.String())
		}
	}
	supervisor, err := os.ReadFile(filepath.Join(c.dir(), "supervisor.pid"))
	if err != nil {
		t.Fatal(err)
	}
	c.start()
	if now, err := os.ReadFile(filepath.Join(c.dir(), "supervisor.pid")); err != nil || string(now) != string(supervisor) {
		t.Errorf("got supervisor %s, %v; want the same as before, %s", now, err, supervisor)
	}
	if s := c.status(); s.State != "running" || s.Context != "bight-dev" {
		t.Errorf("got %+v", s)
	}

	t.Run("an interrupted start can be stopped", func(t *testing.T) {
		c.must("stop")
		cmd := c.command("start")
		said, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := said.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil { // not even time to say goodbye
			t.Fatal(err)
		}
		_ = cmd.Wait()
		c.must("stop")
		if mounts := mountsBelow(c.state); len(mounts) > 0 {
			t.Errorf("mounted: %v", mounts)
		}
		c.must("delete")
		before := survey(t)
		before.mustBeAsNow(t, c.state)
	})
}

// TestStartThatCannotSucceed: the error says where and why, and nothing is left
// running.
func TestStartThatCannotSucceed(t *testing.T) {
	c := newCluster(t, "dev")
	file := filepath.Join(c.dir(), "cluster.json")
	describe := func(apiPort int) {
		t.Helper()
		if err := os.MkdirAll(c.dir(), 0o700); err != nil {
			t.Fatal(err)
		}
		content := `{"name": "dev", "nodes": 1, "apiPort": ` + strconv.Itoa(apiPort) + `, "registryPort": ` + strconv.Itoa(freePort(t)) + `}`
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("port taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		describe(port)
		c.refused(1, []string{"port " + strconv.Itoa(port), "API server", "address already in use", file}, "start")
		nothingRuns(t, c)
	})

	t.Run("damaged description", func(t *testing.T) {
		if err := os.WriteFile(file, []byte(`{"name": "dev", "nod`), 0o600); err != nil {
			t.Fatal(err)
		}
		c.refused(1, []string{file, "unexpected end of JSON", "bight cluster delete --name dev"}, "start")
		c.refused(1, []string{file}, "status")
		c.must("stop")
		c.must("delete")
		if _, err := os.Stat(c.dir()); !os.IsNotExist(err) {
			t.Errorf("after delete: %v", err)
		}
	})

	t.Run("a component that cannot start", func(t *testing.T) {
		describe(freePort(t))
		if err := os.WriteFile(filepath.Join(c.dir(), "etcd"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		c.refused(1, []string{"starting etcd", "etcd has ended ", " times, last with exit status 1", "not a directory", filepath.Join(c.dir(), "logs", "etcd.log")}, "start")
		nothingRuns(t, c)
	})

	t.Run("unknown cluster", func(t *testing.T) {
		other := newCluster(t, "other")
		other.state = c.state
		other.refused(4, []string{"other", "there is: dev"}, "status")
	})

	t.Run("unknown words", func(t *testing.T) {
		c.refused(2, []string{"--nam"}, "start", "--nam=x")
		c.refused(2, []string{"-o yaml", "json"}, "status", "-o", "yaml")
		c.refused(2, []string{"extra"}, "start", "extra")
	})

	t.Run("a kubeconfig that is not one", func(t *testing.T) {
		bad := newCluster(t, "dev")
		if err := os.WriteFile(bad.kubeconfig, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		bad.refused(1, []string{bad.kubeconfig, "--kubeconfig"}, "start")
		nothingRuns(t, bad)
		if err := os.Remove(bad.kubeconfig); err != nil {
			t.Fatal(err)
		}
	})
}

func nothingRuns(t *testing.T, c *cluster) {
	t.Helper()
	if r := c.run("status"); r.code != 1 || !regexp.MustCompile(`cluster\s+dev, stopped`).MatchString(r.stdout) {
		t.Errorf("after a start that failed: %s", r)
	}
	if mounts := mountsBelow(c.state); len(mounts) > 0 {
		t.Errorf("mounted: %v", mounts)
	}
	if pid := c.supervisorPID(t); pid != 0 {
		t.Errorf("the supervisor runs, as process %d", pid)
	}
}

// supervisorPID returns who runs the cluster, or 0.
func (c *cluster) supervisorPID(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir(), "supervisor.pid"))
	if err != nil {
		return 0
	}
	identity, err := proc.ParseIdentity(string(b))
	if err != nil {
		t.Fatal(err)
	}
	p, err := identity.Open()
	if err != nil {
		return 0
	}
	defer p.Close()
	return p.PID
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
