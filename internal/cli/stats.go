package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/stats"
	"github.com/bightdev/bight/internal/ui/term"
)

// statsOptions say what is asked.
type statsOptions struct {
	since             string
	env, app, service string
	everywhere        bool
}

func (p *Program) statsCommand() *cobra.Command {
	var t target
	var o statsOptions
	var output string
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show how fast and how safely changes reach users",
		Long: `Show DORA's metrics of an environment, and what canaries have caught there: of the last
30 days, beside the 30 days before.

The environment is each app's last one, where users are, unless --env names another.
Without -n, the namespace is that of the app in the directory here, or else the
context's. Where too little is known for a figure, it says so. It takes the right to
list Changes, or Releases, in the namespace.`,
		Example: `  bight stats
  bight stats --since 7d --service cart
  bight stats -A -o json`,
		Args: atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			since, err := parseSince(o.since)
			if err != nil {
				return err
			}
			if o.everywhere && t.namespace != "" {
				return usageError("-A is about all namespaces and -n about one: leave one out")
			}
			printer := p.printer(output == "json", nil)
			defer printer.Close()
			s, err := p.changes(c.Context(), &t, printer)
			if err != nil {
				return err
			}
			if o.everywhere {
				fromAnywhere(s)
			}
			report, err := askStats(c.Context(), s, o, since)
			if err != nil {
				return ofNoNamespace(err, s.Namespace, t.namespace == "" && !o.everywhere)
			}
			if output == "json" {
				return printer.Data(report, nil)
			}
			return p.showStats(printer, report, since, o)
		},
	}
	t.flags(c)
	f := c.Flags()
	f.Lookup("namespace").Usage = "namespace of the app, or of an environment (default: the app's here, or the context's)"
	f.StringVar(&o.since, "since", "30d", "how far back, as in 12h, 30d or 8w; the time before is compared with")
	f.StringVar(&o.env, "env", "", "an environment (default: each app's last one)")
	f.StringVar(&o.app, "app", "", "only this app")
	f.StringVar(&o.service, "service", "", "only this service")
	f.BoolVarP(&o.everywhere, "all-namespaces", "A", false, "all namespaces whose Changes or Releases you may list")
	p.outputFlag(c, &output)
	return c
}

// fromAnywhere has the controller asked from the context's namespace: what is about all
// namespaces is not about the app in the directory here, which may have none.
func fromAnywhere(s *ship.Shipper) {
	s.Namespace = s.Cluster.Namespace
	s.Client = controllerClient(s.Cluster, s.Namespace)
}

// ofNoNamespace explains that there is no namespace to ask about, if that is what an error says. taken
// says that nobody has named it: it is that of the app here.
func ofNoNamespace(err error, namespace string, taken bool) error {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || !apierrors.IsNotFound(err) || status.Status().Details == nil || status.Status().Details.Kind != "namespaces" {
		return err
	}
	text := fmt.Sprintf("there is no namespace %s", namespace)
	if taken {
		text += ", which is what the app here would have: nothing of it was shipped; -n NAMESPACE asks about another, -A about all"
	}
	return codedError{code: exitNotFound, err: errors.New(text)}
}

// askStats asks the controller.
func askStats(ctx context.Context, s *ship.Shipper, o statsOptions, since time.Duration) (stats.Report, error) {
	var report stats.Report
	if err := s.Client.Open(ctx); err != nil {
		return report, err
	}
	defer s.Client.Close()
	question := url.Values{"since": {since.String()}}
	set := func(name, value string) {
		if value != "" {
			question.Set(name, value)
		}
	}
	set("env", o.env)
	set("app", o.app)
	set("service", o.service)
	if !o.everywhere {
		set("namespace", s.Namespace)
	}
	err := s.Client.Ask(ctx, stats.Path, question, &report)
	if answer, ok := errors.AsType[*client.AnswerError](err); ok {
		switch answer.Status {
		case http.StatusForbidden, http.StatusUnauthorized:
			return report, codedError{code: exitNotPermitted, err: err}
		case http.StatusBadRequest:
			return report, codedError{code: exitUsage, err: err}
		case http.StatusNotFound:
			return report, fmt.Errorf("the cluster's controller is older than this program, and keeps no record: bight install brings it to this version")
		}
	}
	return report, err
}

// parseSince reads a time as people write it: 12h, 30d, 8w.
func parseSince(s string) (time.Duration, error) {
	wrong := usageError("--since %s: give a time of a minute to a year, as in 12h, 30d or 8w", s)
	unit, days := time.Duration(0), strings.TrimRight(s, "dw")
	switch strings.TrimPrefix(s, days) {
	case "d":
		unit = 24 * time.Hour
	case "w":
		unit = 7 * 24 * time.Hour
	}
	var since time.Duration
	if unit > 0 {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n <= 0 || n > 400 {
			return 0, wrong
		}
		since = time.Duration(n * float64(unit))
	} else {
		var err error
		if since, err = time.ParseDuration(s); err != nil {
			return 0, wrong
		}
	}
	if since < time.Minute || since > 365*24*time.Hour {
		return 0, wrong
	}
	return since, nil
}

// showStats prints a report: in detail, if it is about one environment or one service.
func (p *Program) showStats(printer *term.Printer, r stats.Report, since time.Duration, o statsOptions) error {
	var environments []stats.Row
	services := map[stats.Place][]stats.Row{}
	for _, row := range r.Rows {
		if row.Service == "" || o.service != "" {
			environments = append(environments, row)
		} else {
			services[row.Place] = append(services[row.Place], row)
		}
	}
	span := spanText(since)
	var err error
	switch len(environments) {
	case 0:
		err = printer.Data(nil, &term.Table{Empty: fmt.Sprintf("no data: nothing was deployed or released in the last %s that you may see, nor in the %[1]s before", span)})
	case 1:
		err = printer.Data(nil, figuresTable(environments[0], span))
		if all := services[environments[0].Place]; len(all) > 0 {
			fmt.Fprintln(p.Stdout)
			err = errors.Join(err, printer.Data(nil, rowsTable("SERVICE", all, func(r stats.Row) string { return r.Service })))
		}
	default:
		err = printer.Data(nil, rowsTable("ENVIRONMENT", environments, placeText))
		printer.Note("", fmt.Sprintf("the last %s, and how they compare with the %[1]s before; bight stats --app or -n shows one in detail", span))
	}
	if before := r.From.Add(-since); r.Known.After(before) {
		printer.Note("", "the record begins on "+r.Known.Local().Format("2 January 2006 at 15:04")+": of the time before not everything is known")
	}
	return err
}
