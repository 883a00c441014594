// Package cli is the command line: one file per command, each of which parses,
// calls and prints. The main type is [Program]. What a command does is a function
// that a test can call without a command line; no decision is made here. A
// Program runs one command at a time.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// Program is one run of bight.
type Program struct {
	Version        string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Outer is nil in bight itself.
	Outer Outer

	args []string
}

// Main is the main function of a program that has these commands, without outer all
// but what [Outer] says. It returns the exit code.
func Main(version string, outer Outer) int {
	spareMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second interrupt ends the program at once.
	context.AfterFunc(ctx, stop)
	p := Program{Version: version, Stdout: os.Stdout, Stderr: os.Stderr, Stdin: os.Stdin, Outer: outer}
	return p.Run(ctx, os.Args[1:])
}

// spareMemory has little memory kept by a program that stays open all day, beside a
// compiler that wants it. One that has just started is left alone, up to 32 MB: to
// collect at the few megabytes that it has would be a fifth of what most commands cost.
func spareMemory() {
	const atFirst, then = 800, 50 // percent, of 4 MB at the least
	debug.SetGCPercent(atFirst)
	runtime.AddCleanup(new([1 << 10]byte), func(percent int) { debug.SetGCPercent(percent) }, then) // with the first collection
}

// Run runs the command that args name and returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) int {
	// What the Kubernetes client writes of its own accord is for -v only.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	p.args = args
	root := p.root()
	root.SetArgs(asked(os.Args[0], args))
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	p.report(err, code, wantsJSON(args))
	return code
}

func (p *Program) root() *cobra.Command {
	name := "bight"
	if base := filepath.Base(os.Args[0]); strings.HasPrefix(base, "kubectl-") {
		name = "kubectl bight"
	}
	root := &cobra.Command{
		Use:   "bight",
		Short: "From bare source to a running application that follows every save",
		Long: `From bare source to a running application that follows every save.

Run bight up in a directory of source: it finds the services, builds them, runs
them on Kubernetes and keeps them equal to the source while you type.

Data goes to stdout, progress and notes to stderr; -o json prints data for
programs. Exit codes: 0 done, 1 failed, 2 wrong usage (arguments, bight.yaml or
source that make no plan; nothing was changed), 3 not permitted, 4 not found,
5 timed out, 130 interrupted.`,
		Example: `  bight up              run what is here and follow every save
  bight plan            only say what would be done, and why
  bight doctor          what this machine or the cluster lacks`,
		Annotations:                map[string]string{cobra.CommandDisplayNameAnnotation: name},
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		Args:                       noSuchCommand,
		Version:                    p.Version,
		RunE:                       func(c *cobra.Command, _ []string) error { return c.Help() },
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(wrongFlag)
	root.SetVersionTemplate(p.versionLine() + "\n")
	root.AddCommand(p.commands()...)
	root.SetHelpCommand(helpCommand(root))
	return root
}

func (p *Program) commands() []*cobra.Command {
	if p.Outer != nil {
		return []*cobra.Command{p.workerCommand(), p.controllerCommand(), p.copyProgramsCommand(), p.versionCommand()}
	}
	return []*cobra.Command{
		p.upCommand(),
		p.downCommand(),
		p.statusCommand(),
		p.logsCommand(),
		p.runCommand(),
		p.interceptCommand(),
		p.connectCommand(),
		p.envCommand(),
		p.planCommand(),
		p.buildCommand(),
		p.testCommand(),
		p.ejectCommand(),
		p.shipCommand(),
		p.changeCommand(),
		p.releaseCommand(),
		p.replayCommand(),
		p.statsCommand(),
		p.workerCommand(),
		p.clusterCommand(),
		p.installCommand(),
		p.uninstallCommand(),
		p.nodeCommand(),
		p.controllerCommand(),
		p.gitHookCommand(),
		p.copyProgramsCommand(),
		p.gitRemoteCommand(),
		p.doctorCommand(),
		p.versionCommand(),
		p.completionCommand(),
	}
}

// wrongFlag says which flag is wrong, and how.
func wrongFlag(c *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) && value.GetFlag().Value.Type() != "string" {
		kind := "no " + value.GetFlag().Value.Type()
		if strings.HasPrefix(value.GetFlag().Value.Type(), "int") {
			kind = "no whole number"
		}
		return usageError("--%s %s: that is %s; see %s --help", value.GetFlag().Name, value.GetValue(), kind, c.CommandPath())
	}
	return usageError("%w; see %s --help", err, c.CommandPath())
}

// noSuchCommand refuses what is no command, and says which may be meant.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError("%s %s: there is no such command%s; %s --help lists them", c.CommandPath(), args[0], hint, c.CommandPath())
}

// helpCommand is cobra's, but a topic that is not there is an error.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "help [COMMAND]",
		Short:  "Explain a command",
		Hidden: true, // --help says the same
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return noSuchCommand(root, args)
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// atMost refuses more than n arguments. what names them: "one directory".
func atMost(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return usageError("%s takes %s, not %q; see %s --help", c.CommandPath(), what, strings.Join(args, " "), c.CommandPath())
	}
}

// exactlyOne wants one argument. what says what it is for.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError("%s needs %s: %s", c.CommandPath(), what, strings.TrimSuffix(c.UseLine(), " [flags]"))
		}
		return atMost(1, "one argument, "+what)(c, args)
	}
}

// exactlyTwo refuses fewer and more arguments than the two that what names.
func exactlyTwo(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < 2 {
			return usageError("%s needs %s: %s", c.CommandPath(), what, strings.TrimSuffix(c.UseLine(), " [flags]"))
		}
		return atMost(2, "two arguments, "+what)(c, args)
	}
}

// oneLine fits an explanation into an error.
func oneLine(format string, args ...any) string {
	return strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
}
