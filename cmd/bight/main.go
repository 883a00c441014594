// Command bight is one tool for both loops of Kubernetes development: from bare
// source to a running application that follows every save, and from a commit to a
// release. It starts in milliseconds; what is heavy is in bight-outer and bight-kube.
package main

import (
	"os"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/cli"
)

// version is set by the build.
var version = "dev"

func main() {
	jail.Main(os.Args) // the process beside a command of bight run
	os.Exit(cli.Main(version, nil))
}
