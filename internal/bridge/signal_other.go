//go:build !unix

package bridge

import (
	"os"
	"os/exec"
)

func signalOf(*os.ProcessState) int { return 0 }

func apart(*exec.Cmd) (end func()) { return func() {} }
