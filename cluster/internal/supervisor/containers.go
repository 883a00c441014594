package supervisor

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/cluster/internal/proc"
)

// endContainers asks the first process of each container to end and waits for
// them. The sandboxes' own ignore the request and don't count.
func endContainers(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var asked []*proc.Process
	for _, pid := range containerProcesses(os.Getpid()) {
		p, err := proc.Open(pid)
		if err != nil {
			continue // it has ended
		}
		defer p.Close()
		if p.Signal(unix.SIGTERM) == nil {
			asked = append(asked, p)
		}
	}
	for _, p := range asked {
		_ = p.Wait(ctx)
	}
}

// containerProcesses returns the first process of each container: those in a PID
// namespace below self's whose parent, the shim, is not. Containers that share
// their pod's namespace are told apart that way too.
func containerProcesses(self int) []int {
	ours, err := proc.Namespace(self, "pid")
	if err != nil {
		return nil
	}
	all, err := proc.List()
	if err != nil {
		return nil
	}
	inside := func(pid int) bool {
		ns, err := proc.Namespace(pid, "pid")
		return err == nil && ns != ours
	}
	var first []int
	for _, pid := range all {
		stat, err := proc.ReadStat(pid)
		if err != nil || !inside(pid) || inside(stat.Parent) {
			continue
		}
		if exe, err := os.Readlink(proc.File(pid, "exe")); err == nil && exe != "/pause" {
			first = append(first, pid)
		}
	}
	return first
}
