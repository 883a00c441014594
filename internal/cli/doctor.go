package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/doctor"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) doctorCommand() *cobra.Command {
	var t target
	var output, trace, header string
	c := &cobra.Command{
		Use:   "doctor [DIR]",
		Short: "Say what this machine or the cluster lacks, and what to do about it",
		Long: `Look at the source in DIR (default: here), at this machine and at the cluster, and
say what would keep bight up from working. Nothing is changed. It exits with 1 when
something has to be done; warnings are about what is not always needed.

With --trace it follows a header through the app that bight up has deployed: it sends
a few requests with the header to the URL, and says which service does not send it on
to those that it calls. While it does so, the agents send copies of all requests
here; the app answers as ever. It exits with 1 when a service drops the header.`,
		Example: `  bight doctor
  bight doctor --trace /                       the page of the app
  bight doctor --trace http://checkout/orders --header x-dev=ada`,
		Args: atMost(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.check(); err != nil {
				return err
			}
			dir, err := directory(args)
			if err != nil {
				return err
			}
			if trace != "" {
				return p.runTrace(c.Context(), &t, dir, trace, header, output == "json")
			}
			if header != "" {
				return usageError("--header is what --trace follows: add --trace URL")
			}
			return p.runDoctor(c.Context(), &t, dir, output == "json")
		},
		ValidArgsFunction: completeDirectories,
	}
	t.flags(c)
	t.registryFlag(c)
	p.outputFlag(c, &output)
	c.Flags().StringVar(&trace, "trace", "", "follow a header from this URL on: http://SERVICE/PATH, or a path of the app's first service")
	c.Flags().StringVar(&header, "header", "", "the header that --trace follows, NAME=VALUE (default: a baggage of its own)")
	return c
}

func (p *Program) runDoctor(ctx context.Context, t *target, dir string, asJSON bool) error {
	printer := p.printer(asJSON, nil)
	defer printer.Close()
	d := &doctor.Doctor{Dir: dir, Registry: t.registry, Namespace: t.namespace}
	if d.App, d.AppErr = session.Plan(ctx, dir); d.AppErr == nil {
		d.Namespace = t.environment(d.App.Name)
	} else {
		d.App = nil
	}
	d.Cluster, _, d.ClusterErr = t.load(printer)
	d.Agent, d.AgentErr = agentProgram()
	d.Kube, d.KubeErr = findKube()
	var err error
	if d.CacheDir, err = cacheDir(); err != nil {
		return err
	}
	checks := append(d.Run(ctx), networkCheck(jail.Probe(ctx)))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	table := &term.Table{Head: []string{"CHECK", "", "FOUND"}}
	for _, c := range checks {
		table.Rows = append(table.Rows, []string{c.Name, mark(c.Status), c.Detail})
		if c.Next != "" {
			table.Rows = append(table.Rows, []string{"", "", "→ " + c.Next})
		}
	}
	answer := struct {
		Checks []doctor.Check `json:"checks"`
	}{checks}
	if err := printer.Data(answer, table); err != nil {
		return err
	}
	if failed := doctor.Failed(checks); len(failed) > 0 {
		return codedError{code: exitFailed, err: fmt.Errorf("something has to be done about: %s", strings.Join(failed, ", "))}
	}
	return nil
}

// mark shows a status with and without colour.
func mark(s doctor.Status) string {
	switch s {
	case doctor.OK:
		return "✓ ok"
	case doctor.Warn:
		return "! warn"
	default:
		return "✗ fail"
	}
}

// networkCheck says which network bight run gives a command on this machine, and
// what would make it a better one.
func networkCheck(ladder []jail.Rung) doctor.Check {
	best := jail.Best(ladder)
	c := doctor.Check{Name: "network", Status: doctor.OK}
	switch best.Mode {
	case jail.ModeTransparent:
		c.Detail = "bight run reaches every address and port of the cluster (" + string(best.Mode) + ")"
		return c
	case jail.ModeListeners:
		c.Detail = "bight run reaches the ports of Services only (" + string(best.Mode) + ")"
	default:
		c.Detail = "bight run gives commands a proxy and loopback ports here, no network of their own"
	}
	c.Status = doctor.Warn
	c.Detail += ": " + ladder[0].Why
	c.Next = ladder[0].Remedy
	return c
}
