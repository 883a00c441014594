package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/proc"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// openSupervisor holds on to the process that runs the cluster; nil: none does.
// The caller closes it. It is the first process of its PID namespace, so it ends
// after everything that it started.
func openSupervisor(c *spec.Cluster) (*proc.Process, error) {
	b, err := os.ReadFile(c.SupervisorFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	identity, err := proc.ParseIdentity(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it if nothing of the cluster runs", c.SupervisorFile(), err)
	}
	p, err := identity.Open()
	if errors.Is(err, proc.ErrGone) {
		return nil, nil
	}
	return p, err
}

// end waits for a supervisor to end and kills it when it does not.
func end(ctx context.Context, p *proc.Process, patience time.Duration) error {
	// Collect it, if it is our own child; else its parent does.
	defer func() { _, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil) }()
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.Wait(patient)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("end the supervisor, process %d: %w", p.PID, err)
	}
	return p.Wait(ctx)
}

// HostPIDs replaces the components' process numbers, which count in the cluster's
// own namespace, by those that the machine knows them by.
func HostPIDs(c *spec.Cluster, components []supervisor.Process) []supervisor.Process {
	outside := hostPIDs(c)
	for i := range components {
		components[i].PID = outside[components[i].PID] // 0 for one that is gone
	}
	return components
}

// hostPIDs maps the numbers in the cluster's PID namespace to the machine's.
func hostPIDs(c *spec.Cluster) map[int]int {
	outside := map[int]int{}
	root, err := openSupervisor(c)
	if err != nil || root == nil {
		return outside
	}
	defer root.Close()
	namespace, err := proc.Namespace(root.PID, "pid")
	if err != nil {
		return outside
	}
	pids, err := proc.List()
	if err != nil {
		return outside
	}
	for _, pid := range pids {
		if ns, err := proc.Namespace(pid, "pid"); err != nil || ns != namespace {
			continue
		}
		if numbers, err := proc.InnerPIDs(pid); err == nil && len(numbers) > 0 {
			outside[numbers[len(numbers)-1]] = pid
		}
	}
	return outside
}
