//go:build !unix

package external

import (
	"os"
	"os/exec"
)

// ownGroup leaves a command as it is: there are no process groups here.
func ownGroup(cmd *exec.Cmd) {
	cmd.Cancel = func() error {
		if cmd.Process == nil {
			return os.ErrProcessDone
		}
		return cmd.Process.Kill()
	}
}

// endGroup has nothing to end.
func endGroup(*exec.Cmd) {}
