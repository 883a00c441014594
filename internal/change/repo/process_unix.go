//go:build unix

package repo

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// separate gives cmd a process group of its own.
func separate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup kills cmd and everything that it started.
func endGroup(cmd *exec.Cmd) error {
	err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// limitFiles lets neither cmd nor what it starts write a file of more than limit bytes: who tries ends, by
// SIGXFSZ. The limit is there from the start, since a shell sets it and then becomes cmd.
func limitFiles(cmd *exec.Cmd, limit int64) {
	const block = 512 // bytes, of POSIX
	cmd.Args = append([]string{"sh", "-c", `ulimit -f "$0" && exec "$@"`, strconv.FormatInt((limit+block-1)/block, 10), cmd.Path}, cmd.Args[1:]...)
	if shell, err := exec.LookPath("sh"); err != nil {
		cmd.Err = err
	} else {
		cmd.Path = shell
	}
}

// claim takes the exclusive right to what file stands for, until file is closed.
func claim(file *os.File) error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
