// Command bight is one tool for both loops of Kubernetes development: from bare
// source to a running application that follows every save.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/cli"
)

// version is set by the build.
var version = "dev"

func main() {
	jail.Main(os.Args) // the process beside a command of bight run
	// The program stays open all day, beside a compiler that wants the memory.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second interrupt ends the program at once.
	context.AfterFunc(ctx, stop)
	p := cli.Program{Version: version, Stdout: os.Stdout, Stderr: os.Stderr, Stdin: os.Stdin}
	os.Exit(p.Run(ctx, os.Args[1:]))
}
