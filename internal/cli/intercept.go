package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/bridge/podview"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) interceptCommand() *cobra.Command {
	var t target
	var rule ruleFlags
	var port, source string
	var mirror, replace bool
	c := &cobra.Command{
		Use:   "intercept SERVICE --port LOCAL[:NAME]",
		Short: "Lead requests for a service to a process on this machine",
		Long: `Lead requests for SERVICE to a process that runs on this machine already, in an
editor's debugger for example: all of them, or those that --header and --path
choose. Everyone else's requests go on untouched, no pod is restarted and no
connection cut. It lasts until Ctrl-C; if this machine falls silent, the app answers
within 3 seconds and the rule is gone after 10.

SERVICE is one of the app in this directory, or a workload that somebody else
deployed: deploy/NAME, svc/NAME, sts/NAME or ds/NAME, or pod/NAME for one pod of a
StatefulSet.

LOCAL is the process's port here, NAME the service's port by name or number (default:
the first that is not UDP).

With --replace, the service's process in the pods is stopped meanwhile, so that what
it consumes, messages of a queue for example, is left to the process here.`,
		Example: `  bight intercept cart --port 8080 --header x-dev=ada
  bight intercept svc/cart -n shop --port 8080 --header x-dev=ada
  bight intercept list
  bight intercept leave cart-4711-kdxqf`,
		Args: exactlyOne("a service"),
		RunE: func(c *cobra.Command, args []string) error {
			o := runOptions{rule: rule, intercept: !mirror && !replace, mirror: mirror, replace: replace}
			mode, err := o.check(args[0])
			if err != nil {
				return err
			}
			var local int
			var remote string
			if port != "" || !replace { // what consumes a queue may have none
				if local, remote, err = parsePort(port); err != nil {
					return err
				}
			}
			printer := p.printer(false, nil)
			defer printer.Close()
			s, err := p.subject(c.Context(), &t, source, args[0], printer)
			if err != nil {
				return err
			}
			if local == 0 && steerable(s.service) != nil {
				_, _, err := parsePort("") // requests that nobody would answer
				return err
			}
			r, err := s.rule(&rule, remote, mode)
			if err != nil {
				return err
			}
			ctx, stop := untilLeft(c.Context())
			defer stop()
			leave, err := s.admit(ctx, r, false)
			if err != nil {
				return err
			}
			defer leave()
			defer tellLeft(ctx, r, s.bridge.Say)()
			return interrupted(ctx, s.explain(ctx, s.bridge.Intercept(ctx, *r, local, s.bridge.Say)))
		},
		ValidArgsFunction: t.completeSubjects(&source, false),
	}
	t.flags(c)
	t.registryFlag(c)
	c.Flags().StringVar(&port, "port", "", "LOCAL[:NAME]: the process's port here, and the service's")
	c.Flags().BoolVar(&mirror, "mirror", false, "only copies of the requests come here; the app answers")
	c.Flags().BoolVar(&replace, "replace", false, "the service's process in the pods is stopped meanwhile")
	rule.flags(c)
	sourceFlag(c, &source)
	c.AddCommand(p.interceptListCommand(), p.interceptLeaveCommand())
	return c
}

// parsePort reads LOCAL[:NAME].
func parsePort(text string) (local int, remote string, err error) {
	first, remote, _ := strings.Cut(text, ":")
	local, err = strconv.Atoi(first)
	if err != nil || local < 1 || local > 65535 {
		return 0, "", usageError("--port %q: say where the process listens on this machine, as in --port 8080 or --port 3000:http", text)
	}
	return local, remote, nil
}

func (p *Program) interceptListCommand() *cobra.Command {
	var t target
	var source, output string
	c := &cobra.Command{
		Use:   "list",
		Short: "Say which intercepts there are, and whose",
		Args:  atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			printer := p.printer(output == "json", nil)
			defer printer.Close()
			all, where, whole, err := p.intercepts(c.Context(), &t, source, printer)
			if err != nil {
				return err
			}
			if len(all) == 0 && output != "json" {
				if whole {
					printer.Note("", "there is no intercept in "+where)
				}
				return nil
			}
			return printer.Data(struct {
				Intercepts []bridge.Intercept `json:"intercepts"`
			}{all}, interceptTable(all))
		},
	}
	t.flags(c)
	sourceFlag(c, &source)
	p.outputFlag(c, &output)
	return c
}

func interceptTable(all []bridge.Intercept) *term.Table {
	table := &term.Table{Head: []string{"SERVICE", "ID", "OWNER", "WHAT", "PODS", "STATE", "REQUESTS", "OLD CONNECTIONS", "BY"}, Services: true}
	for _, i := range all {
		what := i.Match
		switch i.Mode {
		case steer.Mirror:
			what = "copies of " + what
		case steer.Replace:
			what += ", in place of its process"
		}
		table.Rows = append(table.Rows, []string{
			fmt.Sprintf("%s:%d", i.Service, i.Port), i.ID, i.Owner, what, fmt.Sprintf("%d/%d", i.Pods, i.Of), string(i.State),
			strconv.FormatInt(i.Counters.Taken(), 10), strconv.FormatInt(i.Counters.Old, 10), i.Transport,
		})
	}
	return table
}

func (p *Program) interceptLeaveCommand() *cobra.Command {
	var t target
	var source string
	c := &cobra.Command{
		Use:   "leave ID",
		Short: "End an intercept of your own on this machine",
		Long: `End an intercept of your own: of a service, where it was made; of a workload that
somebody else deployed, anywhere. bight intercept ends with it. The command of bight
run goes on, since a debugger may be open in it.`,
		Args: exactlyOne("the intercept's ID, as bight intercept list prints it"),
		RunE: func(c *cobra.Command, args []string) error {
			printer := p.printer(false, nil)
			defer printer.Close()
			return p.leave(c.Context(), &t, source, printer, args[0])
		},
		ValidArgsFunction: p.completeIntercepts(&t, &source),
	}
	t.flags(c)
	sourceFlag(c, &source)
	return c
}

// leave ends an intercept.
func (p *Program) leave(ctx context.Context, t *target, source string, printer *term.Printer, id string) error {
	all, where, whole, err := p.intercepts(ctx, t, source, printer)
	if err != nil {
		return err
	}
	var known []string
	for _, i := range all {
		known = append(known, i.ID)
		if i.ID != id {
			continue
		}
		if ofWorkload(i) {
			err = p.leaveWorkload(ctx, t, printer, i)
		} else {
			err = leaveService(i)
		}
		if err != nil {
			return err
		}
		printer.Note(i.Service, "intercept "+id+" ends")
		return nil
	}
	there := "there is none"
	switch {
	case len(known) > 0:
		there = "there is " + strings.Join(known, ", ")
	case !whole:
		there = "none is known"
	}
	return codedError{code: exitNotFound, err: fmt.Errorf("no intercept %s in %s: %s", id, where, there)}
}

// ofWorkload tells an intercept of a workload that somebody else deployed.
func ofWorkload(i bridge.Intercept) bool { return strings.Contains(i.Service, "/") }

// notYours is the error that an intercept is somebody else's.
func notYours(i bridge.Intercept) error {
	return codedError{code: exitNotPermitted, err: fmt.Errorf("intercept %s is that of %s, who can end it", i.ID, i.Owner)}
}

// leaveWorkload deletes the Intercept, from whichever machine of its owner's it is.
func (p *Program) leaveWorkload(ctx context.Context, t *target, printer *term.Printer, i bridge.Intercept) error {
	cluster, _, err := t.load(printer)
	if err != nil {
		return err
	}
	me, err := permit.Owner(ctx, cluster)
	if err != nil {
		return err
	}
	list, err := permit.List(ctx, cluster, i.Namespace)
	if err != nil {
		return err
	}
	for o := range list {
		if list[o].Name != i.ID {
			continue
		}
		if list[o].Spec.Owner != me {
			return notYours(i)
		}
		return permit.Delete(ctx, cluster, &list[o])
	}
	return nil // it has ended meanwhile
}

func (p *Program) envCommand() *cobra.Command {
	var t target
	var source, output string
	var everything bool
	c := &cobra.Command{
		Use:   "env SERVICE",
		Short: "Print the environment variables of a service's process",
		Long: `Print the environment variables that the process of SERVICE was given in its pod,
those of ConfigMaps and Secrets included, as lines that a shell can source, or as
JSON. What every container has is left out, unless --all is given: PATH, HOME,
HOSTNAME and the addresses of the API server (KUBERNETES_...).

Where no process of a workload that somebody else deployed runs, because it crashes or
is scaled to 0, they are those that its spec gives, with the ConfigMaps and Secrets
that you may read; what is missing is said.`,
		Example: `  bight env cart > .env
  bight env cart -o json`,
		Args: exactlyOne("a service"),
		RunE: func(c *cobra.Command, args []string) error {
			if output != "dotenv" && output != "json" {
				return usageError("-o %s: it is dotenv or json", output)
			}
			printer := p.printer(false, nil)
			defer printer.Close()
			s, err := p.subject(c.Context(), &t, source, args[0], printer)
			if err != nil {
				return err
			}
			env, err := s.environment(c.Context())
			if err != nil {
				return err
			}
			if !everything {
				env = podview.OfApp(env)
			}
			if output == "json" {
				return podview.WriteJSON(p.Stdout, env)
			}
			return podview.WriteDotenv(p.Stdout, env)
		},
		ValidArgsFunction: t.completeSubjects(&source, false),
	}
	t.flags(c)
	t.registryFlag(c)
	t.containerFlag(c)
	c.Flags().StringVarP(&output, "output", "o", "dotenv", "dotenv or json")
	c.Flags().BoolVar(&everything, "all", false, "what every container has, too")
	sourceFlag(c, &source)
	return c
}

// listenLoopback listens on a port of loopback; 0 is any.
func listenLoopback(port int) (net.Listener, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d is already in use on this machine: stop what listens there, or name another with --port", port)
	}
	return ln, err
}
