package cli

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) releaseCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "release",
		Short: "Have a version take over its requests, and see how it does",
		Long: `A release gives a new version of a Deployment its share of the requests, a little
first, and more as the evidence shows that it is no worse than what was there before;
it is undone when the evidence is against it. These commands begin one, show it, and
let people decide. NAME is a Deployment, which means its newest release, or a release.
Without -n, the namespace is the context's.

An order returns when every pod obeys it, and says how long that took. If pods don't
within --timeout, the exit code is 5, the error says which and why, and the order
stands.`,
		Example: `  bight release start cart --image registry.example.com/cart:v2
  bight release watch cart
  bight release weight cart 25
  bight release undo cart --why "the basket is empty"`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.releaseStartCommand(), p.releaseStatusCommand(), p.releaseWatchCommand(), p.releaseHistoryCommand(), p.releaseVerdictCommand())
	c.AddCommand(p.releaseOrderCommands()...)
	c.AddCommand(p.releaseRetryCommand(), p.releaseBlameCommand())
	return c
}

// releaseFlags are what all commands about releases have.
type releaseFlags struct {
	target target
	output string
}

// flags comes after RunE, which -o looks at.
func (f *releaseFlags) flags(p *Program, c *cobra.Command) {
	f.target.flags(c)
	c.Flags().Lookup("namespace").Usage = "namespace of the release (default: the context's)"
	p.outputFlag(c, &f.output)
}

// releases runs a command with the releases of a namespace.
func (p *Program) releases(f *releaseFlags, run func(*client.Client, *term.Printer) error) error {
	if err := f.target.check(); err != nil {
		return err
	}
	printer := p.printer(f.output == "json", nil)
	defer printer.Close()
	cluster, _, err := f.target.load(printer)
	if err != nil {
		return err
	}
	f.target.log(p.Stderr)
	c, err := client.New(cluster)
	if err != nil {
		return err
	}
	return releaseError(run(c, printer))
}

// releaseError gives an error of package client its exit code.
func releaseError(err error) error {
	var refused *client.RefusedError
	var missing *client.NotFoundError
	switch {
	case errors.As(err, &refused) && refused.Policy:
		return codedError{code: exitNotPermitted, err: err}
	case errors.As(err, &refused):
		return codedError{code: exitUsage, err: err}
	case errors.As(err, &missing):
		return codedError{code: exitNotFound, err: err}
	}
	return err
}

func (p *Program) releaseStatusCommand() *cobra.Command {
	var f releaseFlags
	c := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show the newest release of each Deployment, or all about one",
		Args:  atMost(1, "one name: of a deployment, or of a release"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.releases(&f, func(rc *client.Client, printer *term.Printer) error {
				if len(args) == 0 {
					return showReleases(c.Context(), rc, printer)
				}
				return showRelease(c.Context(), rc, printer, args[0], f.output == "json")
			})
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	return c
}

func showReleases(ctx context.Context, rc *client.Client, printer *term.Printer) error {
	all, err := rc.List(ctx)
	if err != nil {
		return err
	}
	return printer.Data(listed(client.Current(all)), currentTable(client.Current(all), rc.Namespace()))
}

// listed is a list that is no null in JSON.
func listed(all []v1alpha1.Release) []v1alpha1.Release {
	return append([]v1alpha1.Release{}, all...)
}

func showRelease(ctx context.Context, rc *client.Client, printer *term.Printer, name string, asJSON bool) error {
	r, err := rc.Get(ctx, name)
	if err != nil {
		return err
	}
	var behind []string
	if done, _ := client.Observed(r); !done {
		behind = rc.Behind(ctx, r)
	}
	if err := printer.Data(r, releaseTable(r, behind, time.Now())); err != nil {
		return err
	}
	if t := eventTable(r, time.Now()); len(t.Rows) > 0 && !asJSON {
		return printer.Data(nil, t)
	}
	return nil
}

func (p *Program) releaseHistoryCommand() *cobra.Command {
	var f releaseFlags
	c := &cobra.Command{
		Use:   "history [NAME]",
		Short: "List releases, those that have ended too, the newest first",
		Args:  atMost(1, "one name: of a deployment"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.releases(&f, func(rc *client.Client, printer *term.Printer) error {
				all, err := rc.List(c.Context())
				if err != nil {
					return err
				}
				if len(args) > 0 {
					found, err := client.Find(all, args[0], rc.Namespace())
					if err != nil {
						return err
					}
					all = slices.DeleteFunc(all, func(r v1alpha1.Release) bool { return r.Spec.Deployment != found.Spec.Deployment })
				}
				return printer.Data(listed(all), historyTable(all, rc.Namespace(), time.Now()))
			})
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	return c
}

// completeReleases gives the Deployments that have releases, for the first argument,
// and values for the second.
func completeReleases(t *target, values ...string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
		case 1:
			return values, cobra.ShellCompDirectiveNoFileComp
		default:
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		cluster, err := kube.Load(kube.Options{Kubeconfig: t.kubeconfig, Context: t.context, Namespace: t.namespace})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		rc, err := client.New(cluster)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := rc.List(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, r := range client.Current(all) {
			names = append(names, r.Spec.Deployment)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
