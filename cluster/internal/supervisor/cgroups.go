package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bightdev/bight/cluster/internal/spec"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroups are the mounted cgroup trees: one per controller on version 1, one for
// all on version 2.
type cgroups []string

// findCgroups returns the trees below mount.
func findCgroups(mount string) (cgroups, error) {
	if isVersion2(mount) {
		return cgroups{mount}, nil
	}
	entries, err := os.ReadDir(mount)
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w; mount cgroup2 at %s", err, mount)
	}
	var trees cgroups
	for _, e := range entries {
		if e.IsDir() { // and not a link to one, as "cpu" may be
			trees = append(trees, filepath.Join(mount, e.Name()))
		}
	}
	if len(trees) == 0 {
		return nil, fmt.Errorf("find cgroups: none is mounted below %s; mount cgroup2 there", mount)
	}
	return trees, nil
}

func isVersion2(tree string) bool { return exists(filepath.Join(tree, "cgroup.controllers")) }

// make makes a cgroup in each tree, ready for processes to enter.
func (trees cgroups) make(name string) error {
	for _, tree := range trees {
		if err := os.MkdirAll(filepath.Join(tree, name), 0o755); err != nil {
			return err
		}
		pass := passCPUSet
		if isVersion2(tree) {
			pass = passControllers
		}
		parent := tree
		for elem := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
			child := filepath.Join(parent, elem)
			if err := pass(parent, child); err != nil {
				return err
			}
			parent = child
		}
	}
	return nil
}

// passCPUSet fills in what a new version 1 cpuset cgroup lacks; without it no
// process can enter.
func passCPUSet(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another controller's tree
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// passControllers lets version 2 children of parent have every controller that it
// has; a controller that the kernel does not let pass is one that a kubelet will
// do without, or name.
func passControllers(parent, _ string) error {
	b, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(b)) {
		_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
	return nil
}

// remove removes a cgroup and those below it from each tree.
func (trees cgroups) remove(name string) error {
	for _, tree := range trees {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(tree, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it went while we looked
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) { // children before parents
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// RemoveCgroups removes the cluster's cgroups. Their processes have to be gone.
func RemoveCgroups(c *spec.Cluster) error {
	trees, err := findCgroups(cgroupMount)
	if err != nil {
		return err
	}
	return trees.remove(c.CgroupRoot())
}
