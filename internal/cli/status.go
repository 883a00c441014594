package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/intercept"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/steer"
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
asked of the pods themselves. Of a service that does not run it says why, with the
end of what its process wrote.

Where there is no source, or -n names a namespace where another app is, it is about the
app that is deployed there.

The exit code is 1 when a service does not run, or not all of its pods do; pods that
run another state of the source do not matter.`,
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
	s, err := t.asked(ctx, *config)
	if nothing, ok := errors.AsType[*noAppError](err); ok {
		return p.onlyIntercepts(ctx, t, nothing, printer)
	}
	if err != nil {
		return err
	}
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	answer := statusAnswer{Status: status, Intercepts: []bridge.Intercept{}}
	if slices.ContainsFunc(status.Services, func(s session.ServiceStatus) bool { return s.Ready > 0 }) {
		if answer.Intercepts, err = p.interceptsOf(ctx, t, s, status.Namespace, printer); err != nil {
			printer.Warn("", "intercepts are not known: "+err.Error(), "")
		}
	}
	if err := printer.Data(answer, statusTable(answer)); err != nil {
		return err
	}
	if len(answer.Intercepts) > 0 && !asJSON {
		if err := printer.Data(nil, interceptTable(answer.Intercepts)); err != nil {
			return err
		}
	}
	if status.NoSource {
		printer.Note("", "the source of "+status.App+" is not here, so that nobody can say whether its pods have the present one")
	}
	return down(status.Services, asJSON, printer)
}

// asked is the session of the app that is to be asked how it is: that of the source or,
// where there is none or another namespace is named, what is deployed there.
func (t *target) asked(ctx context.Context, config session.Config) (*session.Session, error) {
	if err := config.Cluster.Guard(config.Allowed); err != nil {
		return nil, err
	}
	a, namespace, err := t.theApp(ctx, config.Dir, config.Cluster)
	nothing, ok := errors.AsType[*noAppError](err)
	switch {
	case ok && nothing.app != "":
		return session.Open(ctx, config) // whose services say that they are not deployed
	case err != nil:
		return nil, err
	case a.Dir != "":
		return session.Planned(a, config)
	}
	config.Namespace = namespace
	return session.Deployed(a, config), nil
}

// onlyIntercepts says which Intercepts of workloads of others there are in a namespace
// where bight up has deployed nothing. Where there are none, that it is.
func (p *Program) onlyIntercepts(ctx context.Context, t *target, nothing *noAppError, printer *term.Printer) error {
	all, err := p.interceptsOfOthers(ctx, t, nothing.namespace, printer)
	if err != nil || len(all) == 0 {
		return nothing
	}
	return printer.Data(statusAnswer{Intercepts: all}, interceptTable(all))
}

// down says what services that do not run have written, and is the error that they
// don't, nil if all do.
func down(services []session.ServiceStatus, asJSON bool, printer *term.Printer) error {
	var names []string
	for _, s := range services {
		if s.Running {
			continue
		}
		names = append(names, s.Name)
		if len(s.Output) > 0 && !asJSON {
			printer.Fail(s.Name, errors.New("the last that its process wrote"), strings.Join(s.Output, "\n"), "bight logs "+s.Name+" shows all of it")
		}
	}
	if len(names) == 0 {
		return nil
	}
	return codedError{code: exitFailed, err: fmt.Errorf("%s: not running", strings.Join(names, ", ")), silent: true}
}

// intercepts asks for the intercepts of the app in dir, or of what is deployed in the
// namespace, and says where it has looked, and whether these are all: a warning says why
// they are not.
func (p *Program) intercepts(ctx context.Context, t *target, dir string, printer *term.Printer) (_ []bridge.Intercept, where string, whole bool, err error) {
	namespace, all := t.namespace, []bridge.Intercept{} // not null in JSON
	b, _, err := p.bridge(ctx, t, dir, printer)
	var nothing *noAppError
	switch {
	case err == nil:
		namespace, where = b.Namespace, place(b.Namespace, b.Cluster)
		all, err = b.Intercepts(ctx)
	case errors.As(err, &nothing):
		where, err = nothing.where, nil
	}
	others, otherErr := p.interceptsOfOthers(ctx, t, namespace, printer)
	missing := errors.As(otherErr, new(*permit.MissingError))
	switch {
	case err != nil && otherErr != nil:
		return nil, "", false, err
	case err == nil && otherErr != nil && !missing:
		printer.Warn("", "Intercepts of workloads are not known: "+otherErr.Error(), "")
		return all, where, false, nil
	case err != nil:
		text, advice := err.Error(), ""
		if source, ok := errors.AsType[*sourceError](err); ok {
			text, advice = source.err.Error(), source.advice()
		}
		printer.Warn("", "intercepts of services are not known: "+text, advice)
		return others, cmp.Or(where, "the namespace"), false, nil
	}
	return append(all, others...), where, true, nil // without an app, they are all there is
}

// interceptsOfOthers reads the Intercepts of a namespace, "" for the context's.
func (p *Program) interceptsOfOthers(ctx context.Context, t *target, namespace string, printer *term.Printer) ([]bridge.Intercept, error) {
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, err
	}
	if namespace == "" {
		namespace = cluster.Namespace
	}
	list, err := permit.List(ctx, cluster, namespace)
	if err != nil {
		return nil, err
	}
	all := []bridge.Intercept{} // not null in JSON
	for i := range list {
		if rule := intercept.RuleOf(&list[i]); rule != nil {
			all = append(all, interceptOf(&list[i], rule))
		}
	}
	return all, nil
}

// interceptOf is what an Intercept says, as agents say it of theirs.
func interceptOf(i *v1alpha1.Intercept, rule *steer.Rule) bridge.Intercept {
	out := bridge.Intercept{
		ID: i.Name, Owner: rule.Owner, Service: rule.Service, Port: rule.Port, Mode: rule.Mode, Match: rule.Match.String(), Strict: rule.Strict,
		State: steer.Gone, Since: i.CreationTimestamp.Time, Transport: bridge.TransportDirect, Namespace: i.Namespace,
	}
	joined, earlier := 0, int64(0)
	for _, n := range i.Status.Nodes {
		for _, pod := range n.Pods {
			out.Of++
			out.Counters.Requests += pod.Requests
			earlier = max(earlier, pod.EarlierRequests)
			out.Counters.Old += pod.OldConnections
			if pod.State != "" {
				joined++
				if !pod.Direct {
					out.Transport = bridge.TransportPortForward
				}
			}
			switch steer.State(pod.State) {
			case steer.Active:
				out.Pods++
				if out.State == steer.Gone {
					out.State = steer.Active
				}
			case steer.Suspended:
				out.State = steer.Suspended
			}
		}
	}
	out.Counters.Requests += earlier
	if joined == 0 {
		out.Transport = bridge.TransportPortForward
	}
	return out
}

// interceptsOf asks for those of a session's app.
func (p *Program) interceptsOf(ctx context.Context, t *target, s *session.Session, namespace string, printer *term.Printer) ([]bridge.Intercept, error) {
	b, err := p.bridgeTo(ctx, t, s.App(), namespace, s.Cluster, printer)
	if err != nil {
		return nil, err
	}
	return b.Intercepts(ctx)
}

func statusTable(status statusAnswer) *term.Table {
	table := &term.Table{Head: []string{"SERVICE", "READY", "IN SYNC", "URL", "WHY"}, Services: true}
	for _, s := range status.Services {
		why := s.Why
		for _, i := range status.Intercepts {
			if i.Service == s.Name && i.Mode == steer.Replace && i.State == steer.Active {
				why = strings.TrimPrefix(why+"; replaced by "+i.Owner, "; ")
			}
		}
		url := s.URL
		if status.Session == "" && s.Image != "" {
			url = "no session: bight up"
		}
		sync := strconv.FormatBool(s.InSync)
		if status.NoSource {
			sync = "unknown"
		}
		table.Rows = append(table.Rows, []string{s.Name, fmt.Sprintf("%d/%d", s.Ready, s.Replicas), sync, url, why})
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
