//go:build !unix

package repo

import (
	"os"
	"os/exec"
)

// separate does nothing here: this system has no process groups.
func separate(*exec.Cmd) {}

// endGroup kills cmd. What it started ends when its pipes do.
func endGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }

// limitFiles does nothing here: this system has no limits of a process.
func limitFiles(*exec.Cmd, int64) {}

// claim does nothing here: this system has no advisory locks.
func claim(*os.File) error { return nil }
