package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) statusCommand() *cobra.Command {
	var t target
	var output string
	c := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Say how the app is, and whether its pods have the present source",
		Long: `Say how the app in DIR (default: here) is: which services are ready, and whether
each pod's files have the hashes of what the present source builds to. That is
asked of the pods themselves.`,
		Args: atMost(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.status(c.Context(), &t, args, output == "json")
		},
		ValidArgsFunction: completeDirectories,
	}
	t.flags(c)
	p.outputFlag(c, &output)
	return c
}

// statusAnswer is what bight status prints.
type statusAnswer struct {
	*session.Status
	Intercepts []bridge.Intercept `json:"intercepts"`
}

func (p *Program) status(ctx context.Context, t *target, dir []string, asJSON bool) error {
	return p.ask(ctx, t, dir, asJSON, func(s *session.Session, printer *term.Printer) error {
		status, err := s.Status(ctx)
		if err != nil {
			return err
		}
		answer := statusAnswer{Status: status, Intercepts: []bridge.Intercept{}}
		if slices.ContainsFunc(status.Services, func(s session.ServiceStatus) bool { return s.Ready > 0 }) {
			if answer.Intercepts, err = p.intercepts(ctx, t, s.Dir, printer); err != nil {
				printer.Warn("", "intercepts are not known: "+err.Error(), "")
			}
		}
		if err := printer.Data(answer, statusTable(status)); err != nil || asJSON || len(answer.Intercepts) == 0 {
			return err
		}
		return printer.Data(nil, interceptTable(answer.Intercepts))
	})
}

// intercepts asks for the intercepts of the app in dir.
func (p *Program) intercepts(ctx context.Context, t *target, dir string, printer *term.Printer) ([]bridge.Intercept, error) {
	b, _, err := p.bridge(ctx, t, dir, printer)
	if err != nil {
		return nil, err
	}
	return b.Intercepts(ctx)
}

func statusTable(status *session.Status) *term.Table {
	table := &term.Table{Head: []string{"SERVICE", "READY", "IN SYNC", "URL", "WHY"}, Services: true}
	for _, s := range status.Services {
		table.Rows = append(table.Rows, []string{s.Name, fmt.Sprintf("%d/%d", s.Ready, s.Replicas), strconv.FormatBool(s.InSync), s.URL, s.Why})
	}
	return table
}

// ask opens a session that is only asked, and does one thing with it.
func (p *Program) ask(ctx context.Context, t *target, dir []string, asJSON bool, do func(*session.Session, *term.Printer) error) error {
	source, err := directory(dir)
	if err != nil {
		return err
	}
	printer := p.printer(asJSON, nil)
	defer printer.Close()
	config, err := p.sessionConfig(t, source, printer)
	if err != nil {
		return err
	}
	s, err := session.Open(ctx, *config)
	if err != nil {
		return err
	}
	return do(s, printer)
}

func (p *Program) logsCommand() *cobra.Command {
	var t target
	var o session.LogOptions
	var dir, output string
	c := &cobra.Command{
		Use:   "logs [SERVICE]",
		Short: "Print what the services write",
		Example: `  bight logs            the last lines of every service
  bight logs cart -f    those of cart, until Ctrl-C`,
		Args: atMost(1, "one service"),
		RunE: func(c *cobra.Command, args []string) error {
			if o.Tail < 0 {
				return usageError("--tail %d: a number of lines cannot be negative", o.Tail)
			}
			if len(args) > 0 {
				o.Service = args[0]
			}
			err := p.ask(c.Context(), &t, []string{dir}, output == "json", func(s *session.Session, _ *term.Printer) error {
				return s.Logs(c.Context(), o)
			})
			if err == nil && c.Context().Err() != nil {
				return codedError{code: exitInterrupted, err: context.Canceled, silent: true}
			}
			return err
		},
		ValidArgsFunction: completeServices(&dir, 1),
	}
	t.flags(c)
	c.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on until Ctrl-C")
	c.Flags().Int64Var(&o.Tail, "tail", 200, "how many lines of each pod to begin with")
	sourceFlag(c, &dir)
	p.outputFlag(c, &output)
	return c
}

func (p *Program) downCommand() *cobra.Command {
	var t target
	var volumes bool
	var output string
	c := &cobra.Command{
		Use:   "down [DIR]",
		Short: "Remove exactly what was deployed",
		Long: `Remove exactly what was deployed of the app in DIR (default: here): its objects,
and the namespace if Bight made it and nothing else is in it. Volumes and what is
in them stay, unless --volumes is given.`,
		Args: atMost(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.ask(c.Context(), &t, args, output == "json", func(s *session.Session, _ *term.Printer) error {
				return s.Down(c.Context(), volumes)
			})
		},
		ValidArgsFunction: completeDirectories,
	}
	t.flags(c)
	c.Flags().BoolVar(&volumes, "volumes", false, "remove volumes and what is in them, too")
	p.outputFlag(c, &output)
	return c
}

// sourceFlag names the source where an argument means something else.
func sourceFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "source", ".", "directory of the source")
	complete(c, "source", completeDirectories)
}
