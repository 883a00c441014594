//go:build !unix

package bridge

import (
	"os"
	"os/exec"
)

func signalOf(*os.ProcessState) int { return 0 }

// terminate has no way to tell a process. A console tells all of its programs of Ctrl-C;
// one that goes on is killed when its time is over.
func terminate(*os.Process) error { return nil }

func inForeground() bool { return true }

// apart has a command that no console may tell killed at once.
func apart(cmd *exec.Cmd) (end func()) {
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	return func() {}
}
