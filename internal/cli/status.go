package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) statusCommand() *cobra.Command {
	var t target
	var output string
	c := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Say how the app is, and whether its pods have the present source",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, printer, err := p.open(c, &t, args, output == "json")
			if err != nil {
				return err
			}
			defer printer.Close()
			status, err := s.Status(c.Context())
			if err != nil {
				return err
			}
			return printer.Data(status, statusTable(status))
		},
	}
	t.flags(c)
	p.outputFlag(c, &output)
	return c
}

func statusTable(status *session.Status) *term.Table {
	table := &term.Table{Head: []string{"SERVICE", "READY", "IN SYNC", "URL", "WHY"}}
	for _, s := range status.Services {
		table.Rows = append(table.Rows, []string{s.Name, fmt.Sprintf("%d/%d", s.Ready, s.Replicas), strconv.FormatBool(s.InSync), s.URL, s.Why})
	}
	return table
}

// open opens a session that is only asked.
func (p *Program) open(c *cobra.Command, t *target, args []string, asJSON bool) (*session.Session, *term.Printer, error) {
	dir, err := directory(args)
	if err != nil {
		return nil, nil, err
	}
	config, err := p.sessionConfig(c, t, dir)
	if err != nil {
		return nil, nil, err
	}
	config.Printer = p.printer(asJSON, nil)
	s, err := session.Open(c.Context(), *config)
	return s, config.Printer, err
}

func (p *Program) logsCommand() *cobra.Command {
	var t target
	var o session.LogOptions
	var dir string
	c := &cobra.Command{
		Use:   "logs [SERVICE]",
		Short: "Print what the services write",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, printer, err := p.open(c, &t, []string{dir}, false)
			if err != nil {
				return err
			}
			defer printer.Close()
			if len(args) > 0 {
				o.Service = args[0]
			}
			return s.Logs(c.Context(), o)
		},
	}
	t.flags(c)
	c.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on until Ctrl-C")
	c.Flags().Int64Var(&o.Tail, "tail", 200, "how many lines of each pod to begin with")
	c.Flags().StringVar(&dir, "source", ".", "directory of the source")
	return c
}

func (p *Program) downCommand() *cobra.Command {
	var t target
	var volumes bool
	c := &cobra.Command{
		Use:   "down [DIR]",
		Short: "Remove exactly what was deployed",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, printer, err := p.open(c, &t, args, false)
			if err != nil {
				return err
			}
			defer printer.Close()
			return s.Down(c.Context(), volumes)
		},
	}
	t.flags(c)
	c.Flags().BoolVar(&volumes, "volumes", false, "remove volumes and what is in them, too")
	return c
}
