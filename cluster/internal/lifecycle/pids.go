package lifecycle

import (
	"os"
	"strconv"
	"strings"

	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// HostPIDs replaces the components' process numbers, which count in the cluster's
// own namespace, by those that the machine knows them by.
func HostPIDs(c *spec.Cluster, components []supervisor.Process) []supervisor.Process {
	root := supervisorPID(c)
	if root == 0 {
		return components
	}
	namespace, err := os.Readlink("/proc/" + strconv.Itoa(root) + "/ns/pid")
	if err != nil {
		return components
	}
	outside := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return components
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err != nil || ns != namespace {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				fields := strings.Fields(ids)
				if inner, err := strconv.Atoi(fields[len(fields)-1]); err == nil {
					outside[inner] = pid
				}
			}
		}
	}
	for i := range components {
		components[i].PID = outside[components[i].PID]
	}
	return components
}
