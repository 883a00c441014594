package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// isolateMounts gives the cluster a view of the file system of its own: a fresh
// /proc and /run, and changes below /var/lib and /var/log that nobody else sees
// and nothing keeps. dir stays what it is, and mounts below it are shared with
// containers, which volumes need.
func isolateMounts(dir string) error {
	const mine, upper = "/run/dir", "/run/upper"
	steps := []struct {
		what string
		do   func() error
	}{
		{"detach from the host's mounts", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") }},
		{"mount /proc", func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"mount /run", func() error { return hide("/run", dir, mine) }},
		{"cover /var/lib", func() error { return cover("/var/lib", upper) }},
		{"cover /var/log", func() error { return cover("/var/log", upper) }},
		{"keep " + dir, func() error { return unix.Mount(mine, dir, "", unix.MS_BIND|unix.MS_REC, "") }},
		{"share " + dir, func() error { return unix.Mount("", dir, "", unix.MS_REC|unix.MS_SHARED, "") }},
		{"make /run/containerd", func() error { return os.MkdirAll("/run/containerd", 0o711) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// hide puts an empty file system on run, and dir, which may be below it, at mine.
func hide(run, dir, mine string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := os.MkdirAll(mine, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // when it is below run
		return err
	}
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), mine, "", unix.MS_BIND|unix.MS_REC, "")
}

// cover lets dir be changed without changing it.
func cover(dir, upper string) error {
	changes, work := filepath.Join(upper, dir, "changes"), filepath.Join(upper, dir, "work")
	for _, d := range []string{changes, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, changes, work))
}
