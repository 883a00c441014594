// Package lifecycle starts, stops and deletes embedded clusters, from outside of
// them. The main type is [Manager]. One process at a time works on a cluster: a
// lock in the cluster's directory sees to that.
package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// Manager works on the clusters below Root.
type Manager struct {
	Root       string    // the directory that has all clusters
	Kubeconfig string    // the file to write; empty: the user's own
	Progress   io.Writer // gets one line per step
}

// Options are a cluster's settings, given when it is first started.
type Options struct {
	Name   string
	Nodes  int
	Egress bool
}

// Start brings the cluster up, making it if there is none of that name, and
// returns when all its nodes are ready. Starting a running cluster changes
// nothing but the kubeconfig, which is written again.
func (m *Manager) Start(ctx context.Context, o Options) (*spec.Cluster, error) {
	if err := checkMachine(); err != nil {
		return nil, err
	}
	if err := spec.CheckName(o.Name); err != nil {
		return nil, CodedError{2, err}
	}
	if o.Nodes > spec.MaxNodes || o.Nodes < 0 {
		return nil, CodedError{2, fmt.Errorf("--nodes %d: use 1 to %d", o.Nodes, spec.MaxNodes)}
	}
	if _, err := FindTools(); err != nil {
		return nil, err
	}
	unlock, err := m.lock(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()

	cluster, err := m.describe(o)
	if err != nil {
		return nil, err
	}
	if status, err := Status(ctx, cluster); err == nil && status.Error == "" {
		if status.Ready {
			m.say("cluster %s is already running", cluster.Name)
		} else {
			m.say("cluster %s is starting already; following it", cluster.Name)
		}
	} else if err := m.launch(cluster); err != nil {
		return nil, err
	}
	if err := m.follow(ctx, cluster); err != nil {
		return nil, err
	}
	return cluster, m.WriteKubeconfig(cluster)
}

// describe loads the cluster's description or makes one, and checks that the
// options agree with it.
func (m *Manager) describe(o Options) (*spec.Cluster, error) {
	dir := m.dir(o.Name)
	cluster, err := spec.Load(dir)
	if err == nil {
		if o.Nodes != 0 && o.Nodes != cluster.Nodes {
			return nil, CodedError{2, fmt.Errorf("cluster %s exists with %d nodes, not %d: delete it first, or choose another --name", o.Name, cluster.Nodes, o.Nodes)}
		}
		if o.Egress && !cluster.Egress {
			return nil, CodedError{2, fmt.Errorf("cluster %s exists without --egress: delete it first, or choose another --name", o.Name)}
		}
		return cluster, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	cluster = &spec.Cluster{Name: o.Name, Nodes: max(o.Nodes, 1), Egress: o.Egress, Dir: dir}
	if len(cluster.ControlSocket()) > 107 {
		return nil, fmt.Errorf("the path %s is too long for a socket: set BIGHT_STATE_DIR to a shorter directory", cluster.ControlSocket())
	}
	if cluster.APIHostPort, err = freePort(); err != nil {
		return nil, err
	}
	if cluster.RegistryHostPort, err = freePort(); err != nil {
		return nil, err
	}
	return cluster, cluster.Save()
}

// freePort returns a port of 127.0.0.1 that nothing listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// launch starts the supervisor in PID and mount namespaces of its own.
func (m *Manager) launch(c *spec.Cluster) error {
	tools, err := FindTools()
	if err != nil {
		return err
	}
	if err := waitForCgroups(c); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Path("logs"), 0o700); err != nil {
		return err
	}
	if err := os.Remove(c.ControlSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(c.Path("logs", "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(tools.Self, "supervise", "--dir", c.Dir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	if err := os.WriteFile(c.Path("supervisor.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// waitForCgroups removes the cgroups of an earlier run. The kernel is still
// ending its processes for a moment after the supervisor has gone.
func waitForCgroups(c *spec.Cluster) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := supervisor.RemoveCgroups(c)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of an earlier run are still there: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// follow reports the stages of a start until the cluster is ready.
func (m *Manager) follow(ctx context.Context, c *spec.Cluster) error {
	began, version, stage := time.Now(), 0, ""
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		status, err := statusAfter(ctx, c, version)
		if err != nil {
			if !supervisorAlive(c) {
				return fmt.Errorf("the supervisor of cluster %s has ended; its last words:\n%s", c.Name, tail(c.Path("logs", "supervisor.log"), 10))
			}
			if time.Since(began) > time.Minute {
				return fmt.Errorf("the supervisor of cluster %s does not answer: %w", c.Name, err)
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		version = status.Version
		if status.Error != "" {
			return fmt.Errorf("start cluster %s: %s\n  logs are in %s", c.Name, status.Error, c.Path("logs"))
		}
		if status.Stage != stage && !status.Ready {
			stage = status.Stage
			m.say("%5.1f s  %s", time.Since(status.Started).Seconds(), stage)
		}
		if status.Ready {
			if stage != "" {
				m.say("%5.1f s  ready: %d node(s), context %s", time.Since(status.Started).Seconds(), len(status.Nodes), c.Context())
			}
			return nil
		}
	}
}

// Stop ends the cluster's processes and keeps its state. A cluster that is not
// running is stopped.
func (m *Manager) Stop(ctx context.Context, name string) error {
	if err := checkMachine(); err != nil {
		return err
	}
	unlock, err := m.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	cluster, err := m.load(name)
	if err != nil {
		return err
	}
	return m.stop(ctx, cluster)
}

func (m *Manager) stop(ctx context.Context, c *spec.Cluster) error {
	response, err := control(c).Post("http://cluster/stop", "", nil)
	if err == nil {
		response.Body.Close()
	}
	deadline := time.Now().Add(30 * time.Second)
	for supervisorAlive(c) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) || (err != nil && !time.Now().Before(deadline.Add(-28*time.Second))) {
			// The first process of a PID namespace takes all others with it.
			if pid := supervisorPID(c); pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := os.Remove(c.ControlSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return waitForCgroups(c)
}

// Delete stops the cluster and removes everything of it. A cluster that does not
// exist is an error of kind fs.ErrNotExist.
func (m *Manager) Delete(ctx context.Context, name string) error {
	if err := checkMachine(); err != nil {
		return err
	}
	unlock, err := m.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	cluster, err := m.load(name)
	if err != nil {
		return err
	}
	if err := m.stop(ctx, cluster); err != nil {
		return err
	}
	if err := m.forgetKubeconfig(cluster); err != nil {
		return err
	}
	return os.RemoveAll(cluster.Dir)
}

func (m *Manager) dir(name string) string { return filepath.Join(m.Root, name) }

func (m *Manager) load(name string) (*spec.Cluster, error) {
	c, err := spec.Load(m.dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := spec.List(m.Root)
		hint := "there is none yet: bight cluster start"
		if len(names) > 0 {
			hint = "there is: " + strings.Join(names, ", ")
		}
		return nil, CodedError{4, fmt.Errorf("no embedded cluster named %s (%s)", name, hint)}
	}
	return c, err
}

// Load returns the description of a cluster that exists.
func (m *Manager) Load(name string) (*spec.Cluster, error) { return m.load(name) }

// lock keeps others from working on the same cluster.
func (m *Manager) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := spec.CheckName(name); err != nil {
		return nil, CodedError{2, err}
	}
	if err := os.MkdirAll(m.Root, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(m.Root, "."+name+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	told := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { os.Remove(path); f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, err
		}
		if !told {
			m.say("another command is working on cluster %s; waiting for it", name)
			told = true
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		}
	}
}

func (m *Manager) say(format string, args ...any) {
	if m.Progress != nil {
		fmt.Fprintf(m.Progress, format+"\n", args...)
	}
}

// Status asks the cluster's supervisor. An error means that it does not run.
func Status(ctx context.Context, c *spec.Cluster) (*supervisor.Status, error) {
	return statusAfter(ctx, c, -1)
}

func statusAfter(ctx context.Context, c *spec.Cluster, version int) (*supervisor.Status, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cluster/status?after="+strconv.Itoa(version), nil)
	if err != nil {
		return nil, err
	}
	response, err := control(c).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	status := &supervisor.Status{}
	return status, json.NewDecoder(response.Body).Decode(status)
}

func control(c *spec.Cluster) *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", c.ControlSocket())
			},
		},
	}
}

// supervisorPID returns the process that runs the cluster, or 0. The number alone
// could by now be another program's, so its command line is looked at.
func supervisorPID(c *spec.Cluster) int {
	b, err := os.ReadFile(c.Path("supervisor.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !strings.Contains(string(cmdline), "supervise\x00--dir\x00"+c.Dir+"\x00") {
		return 0
	}
	return pid
}

func supervisorAlive(c *spec.Cluster) bool { return supervisorPID(c) != 0 }

// tail returns the last n lines of a file.
func tail(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}

// admin is who the kubeconfig's user is.
var admin = pki.Leaf{User: "bight-admin", Groups: []string{"system:masters"}}

// KubeconfigBytes returns a kubeconfig for the cluster.
func KubeconfigBytes(c *spec.Cluster) ([]byte, error) {
	ca, err := pki.Open(c.Path("pki"))
	if err != nil {
		return nil, err
	}
	config, err := ca.Kubeconfig(c.Context(), c.APIHostURL(), admin)
	if err != nil {
		return nil, err
	}
	return clientcmd.Write(*config)
}

// WriteKubeconfig merges the cluster's context into the kubeconfig. It becomes
// the current one only if there is none.
func (m *Manager) WriteKubeconfig(c *spec.Cluster) error {
	ca, err := pki.Open(c.Path("pki"))
	if err != nil {
		return err
	}
	mine, err := ca.Kubeconfig(c.Context(), c.APIHostURL(), admin)
	if err != nil {
		return err
	}
	access := m.kubeconfigAccess()
	config, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read the kubeconfig %s: %w", access.GetDefaultFilename(), err)
	}
	name := c.Context()
	config.Clusters[name] = mine.Clusters[name]
	config.AuthInfos[name] = mine.AuthInfos[name]
	if old := config.Contexts[name]; old == nil || old.Cluster != name || old.AuthInfo != name {
		config.Contexts[name] = mine.Contexts[name]
	}
	if config.CurrentContext == "" {
		config.CurrentContext = name
	}
	return m.saveKubeconfig(access, func() error { return clientcmd.ModifyConfig(access, *config, false) })
}

// forgetKubeconfig takes the cluster's context out of the kubeconfig again.
func (m *Manager) forgetKubeconfig(c *spec.Cluster) error {
	access := m.kubeconfigAccess()
	config, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read the kubeconfig %s: %w", access.GetDefaultFilename(), err)
	}
	name := c.Context()
	if config.Contexts[name] == nil && config.Clusters[name] == nil {
		return nil
	}
	delete(config.Clusters, name)
	delete(config.AuthInfos, name)
	delete(config.Contexts, name)
	if config.CurrentContext == name {
		config.CurrentContext = ""
	}
	return m.saveKubeconfig(access, func() error { return clientcmd.ModifyConfig(access, *config, false) })
}

func (m *Manager) saveKubeconfig(access *clientcmd.PathOptions, save func() error) error {
	if err := save(); err != nil {
		return fmt.Errorf("write the kubeconfig %s: %w", access.GetDefaultFilename(), err)
	}
	return nil
}

func (m *Manager) kubeconfigAccess() *clientcmd.PathOptions {
	access := clientcmd.NewDefaultPathOptions()
	if m.Kubeconfig != "" {
		access.LoadingRules.ExplicitPath = m.Kubeconfig
	}
	return access
}
