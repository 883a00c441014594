// Command bight-outer is what bight is for the outer loop: the workers, which review,
// build and test, and the controller. People run bight, which runs it.
package main

import (
	"os"

	"github.com/bightdev/bight/internal/cli"
	"github.com/bightdev/bight/internal/outer"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(cli.Main(version, outer.Loop{})) }
