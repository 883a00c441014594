package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/ui/term"
)

// orderFlags are those of a command that gives an order.
type orderFlags struct {
	releaseFlags
	why     string
	timeout time.Duration
	ask     bool
}

// obeying is how long pods may take to obey, and scaling how long it may take to have
// as many pods as all requests need.
const (
	obeying = 10 * time.Second
	scaling = 10 * time.Minute
)

func (f *orderFlags) flags(p *Program, c *cobra.Command, timeout time.Duration) {
	f.releaseFlags.flags(p, c)
	c.Flags().StringVar(&f.why, "why", "", "the reason, for the others")
	c.Flags().DurationVar(&f.timeout, "timeout", timeout, "how long it may take until every pod obeys")
	if c.Name() != "undo" && c.Name() != "approve" {
		c.Flags().BoolVar(&f.ask, "ask", false, "do not order it but ask for it: somebody who may approves it")
	}
}

// orderCommand is a command that gives an order to a release. order reads what it is
// about; values are what may come after the name.
func (p *Program) orderCommand(c *cobra.Command, timeout time.Duration, order func(args []string) (client.Order, error), values ...string) *cobra.Command {
	var f orderFlags
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := order(args)
		if err != nil {
			return err
		}
		if len(f.why) > 1024 {
			return usageError("--why has %d bytes, and 1024 are the most", len(f.why))
		}
		if f.timeout <= 0 {
			return usageError("--timeout %s: give a time over 0, as in --timeout 30s", f.timeout)
		}
		return p.releases(&f.releaseFlags, func(rc *client.Client, printer *term.Printer) error {
			if f.ask {
				return askOrder(c.Context(), rc, printer, args[0], o, f.why)
			}
			return giveOrder(c.Context(), rc, printer, c.Name(), args[0], o, &f)
		})
	}
	c.ValidArgsFunction = completeReleases(&f.target, values...)
	f.flags(p, c, timeout)
	return c
}

// giveOrder gives an order and says when every pod obeys it.
func giveOrder(ctx context.Context, rc *client.Client, printer *term.Printer, command, name string, o client.Order, f *orderFlags) error {
	task := printer.Task(term.Note, "", "waiting")
	defer task.Drop()
	a, err := rc.Give(ctx, name, o, f.why, f.timeout, func(waiting string) { task.Update("waiting: " + waiting) })
	if err != nil {
		return err
	}
	task.Drop()
	// Of a share, or of none, all is said with it.
	where := command != "route" && command != "promote" && a.Release.Spec.Orders.Weight == nil && !a.Release.Spec.Orders.Undo
	return printer.Data(a, &term.Table{Empty: answerText(a, where)})
}

// askOrder asks for an order that somebody else approves.
func askOrder(ctx context.Context, rc *client.Client, printer *term.Printer, name string, o client.Order, why string) error {
	r, err := rc.Ask(ctx, name, o, why)
	if err != nil {
		return err
	}
	return printer.Data(r, &term.Table{Empty: fmt.Sprintf("asked: %s. bight release approve %s, by somebody who may, gives it", askText(r), r.Spec.Deployment)})
}

// askText says what somebody asks for.
func askText(r *v1alpha1.Release) string {
	o := client.Asked(r)
	if o == nil {
		return ""
	}
	return o.By + " asks for " + spec.Tell(*o)
}

func (p *Program) releaseDeclineCommand() *cobra.Command {
	var f releaseFlags
	c := &cobra.Command{
		Use: "decline NAME", Short: "Take back what somebody has asked for", Args: exactlyOne("a name: of a deployment, or of a release"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.releases(&f, func(rc *client.Client, printer *term.Printer) error {
				r, err := rc.Decline(c.Context(), args[0])
				if err != nil {
					return err
				}
				return printer.Data(r, &term.Table{Empty: "declined"})
			})
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	return c
}

// answerText is what has become of an order, in a line: "25 % at 3 of 3 pods, 84 ms",
// and where the release is now.
func answerText(a *client.Answer, where bool) string {
	text := fmt.Sprintf("%s at %d of %s, %s", a.Weight, a.Pods, term.Count(a.Of, client.Sharers(a.Release)), term.Duration(a.Took))
	if a.Inside && a.Pods < a.Of {
		text = fmt.Sprintf("%s: its own pods hand every request to the version before, %s; %d of %s obey by now",
			a.Weight, term.Duration(a.Took), a.Pods, term.Count(a.Of, client.Sharers(a.Release)))
	}
	if a.Of == 0 {
		text = fmt.Sprintf("%s, %s", a.Weight, term.Duration(a.Took))
	}
	if phase := strings.ToLower(a.Phase); phase != "" && (where || a.Of == 0) {
		text += " (" + strings.TrimSuffix(phase+": "+joined(a.Message), ": ") + ")"
	}
	for _, x := range byHand(a.Release) {
		text += "; " + x
	}
	for _, line := range a.Doorless {
		text += "; " + line + ", and it answers what a gateway still leads there"
	}
	if a.Next != "" {
		text += fmt.Sprintf("; release %s, which has waited, begins now: bight release undo %[1]s ends it, too", a.Next)
	}
	return text
}

// byHand are the routes that were given by hand and are in force, beside which a share is of
// the other requests.
func byHand(r *v1alpha1.Release) (all []string) {
	if r == nil {
		return nil
	}
	e := spec.Effective(r)
	if e == nil || e.Shut || release.Phase(r.Status.Phase).Ended() {
		return nil
	}
	for _, x := range r.Spec.Orders.Routes {
		all = append(all, routeText(x))
	}
	return all
}

func (p *Program) releaseOrderCommands() []*cobra.Command {
	plain := func(order func() client.Order) func([]string) (client.Order, error) {
		return func([]string) (client.Order, error) { return order(), nil }
	}
	name := exactlyOne("a name: of a deployment, or of a release")
	return []*cobra.Command{
		p.releaseWeightCommand(),
		p.releaseRouteCommand(),
		p.orderCommand(&cobra.Command{
			Use: "pause NAME", Short: "Have the plan not go on", Args: name,
			Long: `Have the plan not go on: the version keeps the share of the requests that it has. It
is still judged, and undone if the evidence is against it.`,
		}, obeying, plain(client.Pause)),
		p.orderCommand(&cobra.Command{
			Use: "resume NAME", Short: "Have the plan go on: after a pause, or where it waits for somebody's word", Args: name,
			Long: `Have the plan go on: after bight release pause or, if it is not paused, where a step
waits for somebody's word (hold) or no verdict came in time.`,
		}, obeying, plain(client.Resume)),
		p.orderCommand(&cobra.Command{
			Use: "promote NAME", Short: "Give the version all requests, without waiting for evidence", Args: name,
			Long: `Give the version all requests as fast as it gets the pods for them, without waiting
for evidence. It is still judged, and undone if the evidence is against it.`,
		}, scaling, plain(client.Promote)),
		p.orderCommand(&cobra.Command{
			Use: "undo NAME", Aliases: []string{"abort"}, Short: "Take all requests from the version, at once", Args: name,
			Long: `Take all requests from the version, at once: the doors obey that order themselves and
wait for no controller. The version does not count as refuted: bight release retry
begins it anew.

A promoted version can be undone as long as the pods of the version before are kept. If
a newer release waits for the end of that, give the name of the promoted one.`,
		}, obeying, plain(client.Undo)),
		p.orderCommand(&cobra.Command{
			Use: "approve NAME", Short: "Give the orders that somebody has asked for", Args: name,
			Long: `Give the orders that somebody has asked for with --ask, as your own: the policies of the
namespace judge you, and know who has asked. bight release status shows them.`,
		}, scaling, plain(client.Approve)),
		p.releaseDeclineCommand(),
	}
}

func (p *Program) releaseWeightCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "weight NAME PERCENT|auto",
		Short: "Give the version a share of the requests, or go back to the plan",
		Long: `Give the version a share of the requests, in percent with at most two decimals,
whatever the plan says; auto goes back to the plan, to the step that gives more than
that. The version gets more only when it has the pods for it.`,
		Example: `  bight release weight cart 25
  bight release weight cart 0.5 --why "the cache is cold"
  bight release weight cart auto`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError("%s needs a name and a share: %[1]s cart 25, or %[1]s cart auto", c.CommandPath())
			}
			return nil
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if !errors.As(err, &unknown) || !negative.MatchString("-"+unknown.GetSpecifiedShortnames()) {
			return wrongFlag(c, err)
		}
		return noShare(c, "-"+unknown.GetSpecifiedShortnames())
	})
	var o *cobra.Command
	o = p.orderCommand(c, obeying, func(args []string) (client.Order, error) {
		if args[1] == "auto" {
			return client.Unweigh(), nil
		}
		w, err := release.ParseWeight(args[1])
		if err != nil {
			return nil, noShare(o, args[1])
		}
		return client.Weigh(w), nil
	}, "auto")
	return o
}

// negative is a number below 0, which is no flag.
var negative = regexp.MustCompile(`^-[0-9.]`)

// noShare says what a share may be.
func noShare(c *cobra.Command, text string) error {
	_, err := release.ParseWeight(text)
	return usageError("%s: %w, or auto", c.CommandPath(), err)
}

// routeFlags are those of bight release route.
type routeFlags struct {
	headers, cookies, queries, methods []string
	path, to                           string
	exact, clear                       bool
}

func (p *Program) releaseRouteCommand() *cobra.Command {
	var r routeFlags
	c := p.orderCommand(&cobra.Command{
		Use:   "route NAME --to canary|stable",
		Short: "Give some requests to one of the versions, whatever its weight",
		Long: `Give the requests with these headers, cookies and parameters, one of these methods and
this path to one of the versions, whatever its weight. The newest route that is true of
a request counts, before those of the plan. --clear ends all that were given by hand.`,
		Example: `  bight release route cart --header 'x-tester=*' --to canary
  bight release route cart --cookie plan=gold --to stable
  bight release route cart --method GET,HEAD --path /items --to canary
  bight release route cart --clear`,
		Args: exactlyOne("a name: of a deployment, or of a release"),
	}, obeying, func([]string) (client.Order, error) {
		route, err := r.route()
		switch {
		case err != nil:
			return nil, err
		case route == nil:
			return client.Undirect(), nil
		}
		return client.Direct(*route), nil
	})
	c.Flags().StringArrayVar(&r.headers, "header", nil, "requests with this header, NAME=VALUE (VALUE* for a beginning); may be repeated")
	c.Flags().StringArrayVar(&r.cookies, "cookie", nil, "requests with this cookie, NAME=VALUE (VALUE* for a beginning); may be repeated")
	c.Flags().StringArrayVar(&r.queries, "query", nil, "requests with this parameter in their query, NAME=VALUE (VALUE* for a beginning); may be repeated")
	c.Flags().StringSliceVar(&r.methods, "method", nil, "requests with this method, or one of these: GET,HEAD")
	c.Flags().StringVar(&r.path, "path", "", "requests for this path, and all below it")
	c.Flags().BoolVar(&r.exact, "exact", false, "requests for --path alone, not for what is below it")
	c.Flags().StringVar(&r.to, "to", "", "the version that they go to: canary or stable")
	c.Flags().BoolVar(&r.clear, "clear", false, "end all routes that were given by hand")
	complete(c, "to", cobra.FixedCompletions([]string{v1alpha1.Canary, v1alpha1.Stable}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// route reads the flags: nil is to clear.
func (r *routeFlags) route() (*v1alpha1.ReleaseRoute, error) {
	chooses := len(r.headers)+len(r.cookies)+len(r.queries)+len(r.methods) > 0 || r.path != "" || r.exact
	switch {
	case r.clear && (chooses || r.to != ""):
		return nil, usageError("--clear ends all routes that were given by hand: leave the other flags out")
	case r.clear:
		return nil, nil
	case !chooses:
		return nil, usageError("which requests? Name them with --header, --cookie, --query, --method or --path; for a share of all, there is bight release weight")
	case r.to != v1alpha1.Canary && r.to != v1alpha1.Stable:
		return nil, usageError("--to %q: say which version they go to, canary or stable", r.to)
	}
	route := &v1alpha1.ReleaseRoute{To: r.to, Methods: distinct(r.methods), Exact: r.exact}
	for _, text := range r.headers {
		h, err := steer.ParseHeader(text)
		if err != nil {
			return nil, usageError("%w", err)
		}
		route.Headers = append(route.Headers, v1alpha1.HeaderMatch{Name: h.Name, Value: h.Value, Prefix: h.Prefix})
	}
	var err error
	if route.Cookies, err = pairs("cookie", r.cookies); err != nil {
		return nil, err
	}
	if route.Query, err = pairs("query", r.queries); err != nil {
		return nil, err
	}
	if r.path != "" {
		path, err := steer.ParsePath(r.path)
		if err != nil {
			return nil, usageError("--path %s: %w", r.path, err)
		}
		if route.Path = path; r.exact {
			route.Path = r.path // its last slash is a part of it
		}
	}
	if err := checkRoutes([]v1alpha1.ReleaseRoute{*route}, nil); err != nil {
		return nil, usageError("%w", err)
	}
	return route, nil
}

// pairs reads what a flag was given, each NAME=VALUE.
func pairs(flag string, texts []string) (all []v1alpha1.HeaderMatch, err error) {
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, usageError("--%s %q is not NAME=VALUE: write --%[1]s %[3]s=VALUE, or %[3]s=* for any", flag, text, text)
		}
		value, prefix := strings.CutSuffix(value, "*")
		all = append(all, v1alpha1.HeaderMatch{Name: name, Value: value, Prefix: prefix})
	}
	return all, nil
}

// distinct is all of a list, each once.
func distinct(all []string) []string {
	all = slices.Clone(all)
	slices.Sort(all)
	return slices.Compact(all)
}

// checkRoutes says what of routes and affinity no door takes.
func checkRoutes(routes []v1alpha1.ReleaseRoute, a *v1alpha1.Affinity) error {
	pod := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 80) // any
	s := &steer.Split{
		Generation: 1, Service: "routes", Port: 80, Stable: v1alpha1.Stable,
		Versions: []steer.Version{{Name: v1alpha1.Stable, Weight: steer.All}, {Name: v1alpha1.Canary, Addresses: []netip.AddrPort{pod}}},
	}
	if a != nil {
		s.Affinity = &steer.Affinity{Header: a.Header, Cookie: a.Cookie, Give: a.Give}
	}
	matches := func(all []v1alpha1.HeaderMatch) (out []steer.HeaderMatch) {
		for _, h := range all {
			out = append(out, steer.HeaderMatch{Name: h.Name, Value: h.Value, Prefix: h.Prefix})
		}
		return out
	}
	for i, r := range routes {
		if r.To != v1alpha1.Canary && r.To != v1alpha1.Stable {
			return fmt.Errorf("routes[%d].to is %q: it is canary or stable", i, r.To)
		}
		one := *s
		one.Cohorts = []steer.Cohort{{
			Name: r.Name, Match: steer.Match{Headers: matches(r.Headers), Path: r.Path}, Exact: r.Exact, Methods: r.Methods,
			Cookies: matches(r.Cookies), Query: matches(r.Query), Version: r.To,
		}}
		if err := one.Check(); err != nil {
			return fmt.Errorf("routes[%d]: %w", i, inner(err))
		}
	}
	return inner(s.Check())
}

// inner is an error without what it is said about.
func inner(err error) error {
	if wrapped, ok := err.(interface{ Unwrap() error }); ok {
		return wrapped.Unwrap()
	}
	return err
}
