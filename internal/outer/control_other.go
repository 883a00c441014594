//go:build !linux

package outer

import (
	"context"
	"fmt"
	"runtime"

	"github.com/bightdev/bight/internal/cli"
)

// Control implements [cli.Outer].
func (Loop) Control(context.Context, cli.ControllerSettings) error {
	return fmt.Errorf("bight controller runs in a cluster, whose nodes are Linux; this is %s", runtime.GOOS)
}
