// Package cli is the command line: one file per command, each of which parses,
// calls and prints. The main type is [Program]. What a command does is a function
// that a test can call without a command line; no decision is made here.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Program is one run of bight.
type Program struct {
	Version        string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exit codes, as README.md documents them.
const (
	exitFailed       = 1
	exitUsage        = 2
	exitNotPermitted = 3
	exitNotFound     = 4
	exitTimedOut     = 5
	exitInterrupted  = 130
)

// codedError is an error with an exit code of its own.
type codedError struct {
	code   int
	err    error
	silent bool // it was reported already
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return codedError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// Run runs the command that args name and returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	var coded codedError
	switch {
	case err == nil, errors.As(err, &coded) && coded.silent:
	case code == exitInterrupted:
		fmt.Fprintln(p.Stderr, "interrupted")
	default:
		fmt.Fprintln(p.Stderr, "error: "+strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return code
}

// exitCode is the one place that turns an error into an exit code.
func exitCode(ctx context.Context, err error) int {
	var coded codedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(ctx.Err(), context.Canceled):
		return exitInterrupted
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), errors.Is(err, os.ErrPermission):
		return exitNotPermitted
	case apierrors.IsNotFound(err), errors.Is(err, os.ErrNotExist):
		return exitNotFound
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err):
		return exitTimedOut
	}
	return exitFailed
}

func (p *Program) root() *cobra.Command {
	name := "bight"
	if base := filepath.Base(os.Args[0]); strings.HasPrefix(base, "kubectl-") {
		name = "kubectl bight"
	}
	root := &cobra.Command{
		Use:           "bight",
		Short:         "From bare source to a running application that follows every save",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError("%w; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(p.commands()...)
	for _, c := range root.Commands() {
		refuseUnknown(c)
	}
	refuseUnknown(root)
	return root
}

// refuseUnknown makes wrong arguments errors of usage.
func refuseUnknown(c *cobra.Command) {
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError("%w; see %s --help", err, c.CommandPath())
		}
		return nil
	}
}

func (p *Program) commands() []*cobra.Command {
	return []*cobra.Command{
		p.upCommand(),
		p.downCommand(),
		p.statusCommand(),
		p.logsCommand(),
		p.planCommand(),
		p.buildCommand(),
		p.ejectCommand(),
		p.clusterCommand(),
		p.versionCommand(),
	}
}
