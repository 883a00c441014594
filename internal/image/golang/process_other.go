//go:build !unix

package golang

import (
	"context"
	"os/exec"
	"time"
)

func newCommand(ctx context.Context, dir string, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(env, "PWD="+dir)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
