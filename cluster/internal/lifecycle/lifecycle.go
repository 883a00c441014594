// Package lifecycle starts, stops and deletes embedded clusters, from outside of
// them. The main type is [Manager]. Its methods may be called from many processes
// and goroutines: a lock per cluster lets one at a time change it.
//
// A start that is interrupted goes on in the background: the supervisor is a
// process of its own, and the next start follows the same one to its end.
package lifecycle

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/host"
	"github.com/bightdev/bight/cluster/internal/proc"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// Manager works on the clusters below Root.
type Manager struct {
	Root       string       // the directory that has all clusters
	Kubeconfig string       // the file to write; empty: the user's own
	Progress   io.Writer    // gets one line per step; may be nil
	Machine    host.Machine // what a cluster would run on
}

// Options are a cluster's settings, given when it is first started.
type Options struct {
	Name   string
	Nodes  int // 0: as many as it has, or one
	Egress bool
	// DualStack gives it IPv6 besides.
	DualStack bool
}

// check reports what of the options makes no sense for any cluster.
func (o Options) check() error {
	if err := spec.CheckName(o.Name); err != nil {
		return UsageError{err}
	}
	if o.Nodes > spec.MaxNodes || o.Nodes < 0 {
		return UsageError{fmt.Errorf("--nodes %d: use 1 to %d", o.Nodes, spec.MaxNodes)}
	}
	return nil
}

// Start brings the cluster up, making it if there is none of that name, and
// returns when all its nodes are ready. Starting a running cluster changes
// nothing but the kubeconfig, which is written again.
func (m *Manager) Start(ctx context.Context, o Options) (*spec.Cluster, error) {
	if err := m.Machine.Check(); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); o.DualStack && err != nil {
		return nil, fmt.Errorf("the kernel of this machine has no IPv6 (%w): do without --dual-stack", err)
	}
	tools, err := m.Machine.Find()
	if err != nil {
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
	if err := m.checkKubeconfig(cluster); err != nil {
		return nil, err
	}
	if err := m.ensureSupervisor(ctx, cluster, tools); err != nil {
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
		return cluster, o.agree(cluster)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	cluster = &spec.Cluster{Name: o.Name, Nodes: max(o.Nodes, 1), Egress: o.Egress, DualStack: o.DualStack, Dir: dir}
	const socketPathMax = 107
	if len(cluster.ControlSocket()) > socketPathMax {
		return nil, UsageError{fmt.Errorf("the path %s is %d bytes too long for a socket: set BIGHT_STATE_DIR to a shorter directory",
			cluster.ControlSocket(), len(cluster.ControlSocket())-socketPathMax)}
	}
	if cluster.APIHostPort, cluster.RegistryHostPort, cluster.PodsHostPort, err = freePorts(); err != nil {
		return nil, err
	}
	cluster.PodsSecret = rand.Text()
	return cluster, cluster.Save()
}

// addPodsDoor gives a cluster of an older release, before it is started, what newer
// ones have from the beginning.
func addPodsDoor(c *spec.Cluster) (err error) {
	if c.PodsHostPort != 0 {
		return nil
	}
	for c.PodsHostPort == 0 || c.PodsHostPort == c.APIHostPort || c.PodsHostPort == c.RegistryHostPort {
		if _, _, c.PodsHostPort, err = freePorts(); err != nil {
			return err
		}
	}
	c.PodsSecret = rand.Text()
	return c.Save()
}

// agree reports what of the options a cluster that exists is not.
func (o Options) agree(c *spec.Cluster) error {
	if o.Nodes != 0 && o.Nodes != c.Nodes {
		return UsageError{fmt.Errorf("cluster %s exists with --nodes %d, not %d: delete it first, or choose another --name", o.Name, c.Nodes, o.Nodes)}
	}
	if o.Egress && !c.Egress {
		return UsageError{fmt.Errorf("cluster %s exists without --egress: delete it first, or choose another --name", o.Name)}
	}
	if o.DualStack && !c.DualStack {
		return UsageError{fmt.Errorf("cluster %s exists without --dual-stack: delete it first, or choose another --name", o.Name)}
	}
	return nil
}

// freePorts returns ports of 127.0.0.1 that nothing listens on.
func freePorts() (api, registry, pods int, err error) {
	var ports [3]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, 0, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // after all are known, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports[0], ports[1], ports[2], nil
}

// ensureSupervisor starts the cluster's supervisor unless one is at work.
func (m *Manager) ensureSupervisor(ctx context.Context, c *spec.Cluster, tools host.Tools) error {
	running, err := openSupervisor(c)
	if err != nil {
		return err
	}
	if running == nil {
		return m.launch(ctx, c, tools)
	}
	defer running.Close()
	status, err := firstStatus(ctx, c, running)
	switch {
	case errors.Is(err, proc.ErrGone):
		return m.launch(ctx, c, tools)
	case err != nil:
		return err
	case status.Error != "":
		// It has failed and is about to end.
		if err := end(ctx, running, 10*time.Second); err != nil {
			return err
		}
		return m.launch(ctx, c, tools)
	case status.Ready:
		m.say("cluster %s is already running", c.Name)
	default:
		m.say("cluster %s is starting already; following it", c.Name)
	}
	return nil
}

// firstStatus asks a supervisor that may not answer yet, or not any more: then
// the error is proc.ErrGone.
func firstStatus(ctx context.Context, c *spec.Cluster, running *proc.Process) (*supervisor.Status, error) {
	const patience = 30 * time.Second
	for began := time.Now(); ; {
		status, err := Status(ctx, c)
		if err == nil || ctx.Err() != nil {
			return status, err
		}
		if time.Since(began) > patience {
			return nil, fmt.Errorf("the supervisor of cluster %s, process %d, does not answer: %w; bight cluster stop --name %s ends it, its log is %s",
				c.Name, running.PID, err, c.Name, c.LogFile("supervisor"))
		}
		wait, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		err = running.Wait(wait)
		cancel()
		if err == nil {
			return nil, proc.ErrGone
		}
	}
}

// launch starts the supervisor in PID and mount namespaces of its own.
func (m *Manager) launch(ctx context.Context, c *spec.Cluster, tools host.Tools) error {
	if err := removeCgroups(ctx, c); err != nil {
		return err
	}
	for _, stale := range []string{c.ControlSocket(), c.SupervisorFile()} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := addPodsDoor(c); err != nil {
		return err
	}
	if err := supervisor.RotateLogs(c); err != nil {
		return err
	}
	log, err := os.OpenFile(c.LogFile("supervisor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(tools.Self, "supervise", "--dir", c.Dir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	// Nothing of the caller's environment: a proxy, for one, would be asked for
	// the cluster's own addresses.
	cmd.Env = []string{"PATH=" + tools.Path, "HOME=/", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		return fmt.Errorf("start the supervisor in namespaces of its own: %w: root lacks the capability CAP_SYS_ADMIN; inside a container, run that privileged", err)
	} else if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	identity, err := proc.Identify(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("the supervisor of cluster %s has ended at once; its last words:\n%s", c.Name, tail(c.LogFile("supervisor"), 10))
	}
	// The supervisor writes this too, should we be killed just now.
	if err := identity.Save(c.SupervisorFile()); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// Stop ends the cluster's processes and keeps its state. A cluster that is not
// running is stopped.
func (m *Manager) Stop(ctx context.Context, name string) error {
	return m.change(ctx, name, func(c *spec.Cluster) error { return m.stop(ctx, c) })
}

// Delete stops the cluster and removes everything of it.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.change(ctx, name, func(c *spec.Cluster) error {
		if err := m.stop(ctx, c); err != nil {
			return err
		}
		if err := m.forgetKubeconfig(c); err != nil {
			return err
		}
		if err := os.RemoveAll(c.Dir); err != nil {
			return fmt.Errorf("remove cluster %s: %w", c.Name, err)
		}
		return nil
	})
}

// change lets f work on a cluster that exists, alone. Its description may be
// damaged: what f needs follows from its name.
func (m *Manager) change(ctx context.Context, name string, f func(*spec.Cluster) error) error {
	if err := m.Machine.Check(); err != nil {
		return err
	}
	unlock, err := m.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if info, err := os.Stat(m.dir(name)); err != nil || !info.IsDir() {
		return m.unknown(name)
	}
	c, err := spec.Load(m.dir(name))
	if err != nil {
		c = &spec.Cluster{Name: name, Dir: m.dir(name)}
	}
	return f(c)
}

func (m *Manager) stop(ctx context.Context, c *spec.Cluster) error {
	running, err := openSupervisor(c)
	if err != nil {
		return err
	}
	if running != nil {
		defer running.Close()
		patience := 30 * time.Second
		if err := askToStop(ctx, c); err != nil {
			patience = 0 // it does not listen, so it will not end
		}
		if err := end(ctx, running, patience); err != nil {
			return err
		}
	}
	for _, stale := range []string{c.ControlSocket(), c.SupervisorFile()} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return removeCgroups(ctx, c)
}

// removeCgroups removes the cgroups of an earlier run. The kernel is still taking
// leave of its processes for a moment after they have ended.
func removeCgroups(ctx context.Context, c *spec.Cluster) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := supervisor.RemoveCgroups(c)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove the cgroups of an earlier run: %w: processes in it are still there, see its cgroup.procs", err)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func (m *Manager) dir(name string) string { return filepath.Join(m.Root, name) }

// Load returns the description of a cluster that exists.
func (m *Manager) Load(name string) (*spec.Cluster, error) {
	if err := spec.CheckName(name); err != nil {
		return nil, UsageError{err}
	}
	c, err := spec.Load(m.dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, m.unknown(name)
	}
	return c, err
}

func (m *Manager) unknown(name string) error {
	names, err := spec.List(m.Root)
	if err != nil {
		return err
	}
	hint := "there is none yet; bight cluster start makes one"
	if len(names) > 0 {
		hint = "there is: " + strings.Join(names, ", ")
	}
	return UnknownError{fmt.Errorf("no embedded cluster named %s below %s: %s", name, m.Root, hint)}
}

func (m *Manager) say(format string, args ...any) {
	if m.Progress != nil {
		fmt.Fprintf(m.Progress, format+"\n", args...)
	}
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
