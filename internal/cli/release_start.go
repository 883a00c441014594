package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/ui/term"
)

// startFlags are those of bight release start.
type startFlags struct {
	releaseFlags
	images, env, routes    []string
	configs, secrets       []string
	plan, service, version string
	strategy               string
	again, detach, dryRun  bool
}

func (p *Program) releaseStartCommand() *cobra.Command {
	var f startFlags
	c := &cobra.Command{
		Use:   "start DEPLOYMENT --image [CONTAINER=]IMAGE",
		Short: "Release another image of a Deployment, and follow it",
		Long: `Release another image, or environment, of a Deployment that runs already: its next
pods get a small share of the requests, and more as the evidence shows that they are no
worse. The plan is that of --plan or, without one, what --strategy says:

  canary      5 % until the evidence shows that the version is good, 50 % for half a
              minute, and everything; this is what happens without --strategy
  blue-green  all pods of the version beside those of before, and a preview; all requests
              at once when somebody says bight release resume; undone by evidence, or at
              once by hand, for ten minutes after that
  ab          half of the clients, each of which stays with its version, until somebody
              decides with bight release promote or undo
  mirror      copies of a tenth of the requests for five minutes, whose answers nobody
              gets and the evidence counts; then somebody decides

A plan may have a strategy, too, and say the rest of it otherwise. --dry-run shows what
it comes to, and changes nothing.

It is followed until it has ended, as by bight release watch, and goes on when this
program is interrupted.`,
		Example: `  bight release start cart --image registry.example.com/cart:v2
  bight release start cart --image app=cart:v2 --env LOG_LEVEL=debug --plan slowly.yaml
  bight release start cart --image cart:v2 --strategy blue-green
  bight release start cart --config cart-settings=settings.yaml
  bight release start cart --image cart:v2 --service cart-public --detach
  bight release start cart --image cart:v2 --route web,GRPCRoute/cart`,
		Args: exactlyOne("a deployment"),
		RunE: func(c *cobra.Command, args []string) error {
			w, err := f.wish(args[0])
			if err != nil {
				return releaseError(err)
			}
			return p.releases(&f.releaseFlags, func(rc *client.Client, printer *term.Printer) error {
				if f.dryRun {
					r, err := rc.Rehearse(c.Context(), w)
					if err != nil {
						return err
					}
					return printRelease(printer, r, f.output == "json")
				}
				r, err := rc.Start(c.Context(), w, func(waiting string) { printer.Note("", waiting) })
				if err != nil {
					return err
				}
				return f.begun(c.Context(), rc, printer, r)
			})
		},
		ValidArgsFunction: completeDeployments(&f.target),
	}
	f.flags(p, c)
	c.Flags().StringArrayVar(&f.images, "image", nil, "[CONTAINER=]IMAGE: the version; may be repeated")
	c.Flags().StringArrayVar(&f.env, "env", nil, "NAME=VALUE: a variable of it; may be repeated")
	c.Flags().StringArrayVar(&f.configs, "config", nil, "NAME=[KEY=]FILE or NAME=DIR: what is new in ConfigMap NAME, for the version alone; may be repeated")
	c.Flags().StringArrayVar(&f.secrets, "secret", nil, "the same of Secret NAME; may be repeated")
	c.Flags().StringVar(&f.plan, "plan", "", "file with the plan, in YAML")
	c.Flags().StringVar(&f.strategy, "strategy", "", "what the plan is, where --plan does not say: canary, blue-green, ab or mirror")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the Release with all of its plan, in YAML, and change nothing")
	c.Flags().StringVar(&f.service, "service", "", "Kubernetes Service whose requests are shared (default: the only one that leads to the deployment)")
	c.Flags().StringSliceVar(&f.routes, "route", nil, "[HTTPRoute/|GRPCRoute/]NAME: routes of Gateway API that share the requests (default: doors in the pods do)")
	c.Flags().StringVar(&f.version, "version", "", "what people call the version (default: the image's name and tag)")
	f.startFlags(c)
	return c
}

// startFlags adds the flags of what begins a release.
func (f *startFlags) startFlags(c *cobra.Command) {
	c.Flags().BoolVar(&f.again, "again", false, "even if the evidence was against this version before")
	c.Flags().BoolVar(&f.detach, "detach", false, "begin it, and do not follow")
}

// wish reads the flags.
func (f *startFlags) wish(deployment string) (client.Wish, error) {
	w := client.Wish{Deployment: deployment, Service: f.service, Version: f.version, Again: f.again}
	if msgs := validation.IsDNS1123Subdomain(deployment); len(msgs) > 0 || len(deployment) > 63 {
		return w, usageError("%q can't be the name of a deployment that is released: it has a-z, 0-9, dashes and dots, and at most 63 characters", deployment)
	}
	if len(f.images)+len(f.env)+len(f.configs)+len(f.secrets) == 0 {
		return w, usageError("say what is new: bight release start %s --image IMAGE, or --env NAME=VALUE, or --config NAME=FILE", deployment)
	}
	if err := f.readConfigs(&w); err != nil {
		return w, err
	}
	for _, text := range f.images {
		container, image, named := strings.Cut(text, "=")
		if !named {
			container, image = "", text
		}
		if image == "" || strings.ContainsAny(image, " \t\n=") || named && container == "" {
			return w, usageError("--image %q: write IMAGE, or CONTAINER=IMAGE", text)
		}
		w.Images = append(w.Images, client.Image{Container: container, Image: image})
	}
	for _, text := range f.env {
		name, value, ok := strings.Cut(text, "=")
		if !ok || len(validation.IsEnvVarName(name)) > 0 {
			return w, usageError("--env %q: write NAME=VALUE", name) // the value may be secret
		}
		w.Env = append(w.Env, client.Env{Name: name, Value: value})
	}
	for _, text := range f.routes {
		r, err := trafficRoute(text)
		if err != nil {
			return w, err
		}
		w.Routes = append(w.Routes, r)
	}
	if len(w.Routes) > 8 {
		return w, usageError("--route names %d routes, and 8 are the most", len(w.Routes))
	}
	var err error
	if w.Plan, err = readPlan(f.plan); err != nil || f.strategy == "" {
		return w, err
	}
	name, err := spec.StrategyOf(f.strategy)
	if err != nil {
		return w, usageError("--strategy: %w", err)
	}
	if has := w.Plan.Strategy; has != "" && has != name {
		return w, usageError("--strategy %s: the plan in %s has strategy %s: leave one of them out", f.strategy, f.plan, has)
	}
	w.Plan.Strategy = name
	if _, err := client.CheckPlan(w.Plan); err != nil {
		return w, usageError("--strategy %s with the plan in %s: %w", f.strategy, f.plan, err)
	}
	return w, nil
}

// printRelease prints a Release that nobody has made.
func printRelease(printer *term.Printer, r *v1alpha1.Release, asJSON bool) error {
	if asJSON {
		return printer.Data(r, nil)
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		return err
	}
	delete(object, "status")
	text, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	return printer.Text(string(text))
}

// trafficRoute reads the name of a route of Gateway API.
func trafficRoute(text string) (v1alpha1.TrafficRoute, error) {
	kind, name, named := strings.Cut(text, "/")
	if !named {
		kind, name = v1alpha1.HTTPRoute, text
	}
	for _, k := range []string{v1alpha1.HTTPRoute, v1alpha1.GRPCRoute} {
		if strings.EqualFold(kind, k) && len(validation.IsDNS1123Subdomain(name)) == 0 {
			return v1alpha1.TrafficRoute{Kind: k, Name: name}, nil
		}
	}
	return v1alpha1.TrafficRoute{}, usageError("--route %q: write the NAME of an HTTPRoute, or GRPCRoute/NAME", text)
}

// readPlan reads a plan's file; "" is the usual plan.
func readPlan(file string) (v1alpha1.ReleasePlan, error) {
	var plan v1alpha1.ReleasePlan
	if file == "" {
		return plan, nil
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return plan, codedError{code: exitNotFound, err: fmt.Errorf("--plan %s: there is no such file", file)}
	}
	if err != nil {
		return plan, fmt.Errorf("read --plan: %w", err)
	}
	if err := yaml.UnmarshalStrict(raw, &plan); err != nil {
		return plan, usageError("plan %s: %s", file, oneLine("%v", err))
	}
	for _, r := range plan.Routes {
		for i := range r.Headers {
			r.Headers[i].Name = strings.ToLower(r.Headers[i].Name)
		}
	}
	if plan.Doubt != "" && plan.Doubt != "hold" && plan.Doubt != "undo" {
		return plan, usageError("plan %s: doubt is %q: it is hold or undo", file, plan.Doubt)
	}
	if _, err := client.CheckPlan(plan); err != nil {
		return plan, usageError("plan %s: %w", file, err)
	}
	if err := checkRoutes(plan.Routes, plan.Affinity); err != nil {
		return plan, usageError("plan %s: %w", file, err)
	}
	return plan, nil
}

// begun says that a release has begun, and follows it.
func (f *startFlags) begun(ctx context.Context, rc *client.Client, printer *term.Printer, r *v1alpha1.Release) error {
	printer.Note("", fmt.Sprintf("release %s begins: %s for deployment %s in namespace %s", r.Name, r.Spec.Version, r.Spec.Deployment, r.Namespace))
	if why, then := rc.Unshared(ctx, r); why != "" {
		printer.Warn("", why, then)
	}
	if f.detach {
		printer.Note("", "follow it with bight release watch "+r.Spec.Deployment+" -n "+r.Namespace)
		if f.output == "json" {
			return printer.Data(r, nil)
		}
		return nil
	}
	return watchRelease(ctx, rc, printer, r, f.output == "json")
}

func (p *Program) releaseRetryCommand() *cobra.Command {
	var f startFlags
	c := &cobra.Command{
		Use:   "retry NAME",
		Short: "Begin a release anew that was undone, and follow it",
		Long: `Begin a release anew that was undone, with the plan that it had and without its
orders, and follow it. It takes --again where the evidence was against the version.`,
		Args: exactlyOne("a name: of a deployment, or of a release"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.releases(&f.releaseFlags, func(rc *client.Client, printer *term.Printer) error {
				r, err := rc.Retry(c.Context(), args[0], f.again, func(waiting string) { printer.Note("", waiting) })
				if err != nil {
					return err
				}
				return f.begun(c.Context(), rc, printer, r)
			})
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	f.startFlags(c)
	return c
}

func (p *Program) releaseWatchCommand() *cobra.Command {
	var f releaseFlags
	c := &cobra.Command{
		Use:   "watch NAME",
		Short: "Follow a release until it has ended",
		Long: `Follow a release until it has ended: print what happens, and what it waits for. The
exit code is 0 if it was promoted, and 1 if it was undone or a newer one has come.`,
		Args: exactlyOne("a name: of a deployment, or of a release"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.releases(&f, func(rc *client.Client, printer *term.Printer) error {
				r, err := rc.Get(c.Context(), args[0])
				if err != nil {
					return err
				}
				printer.Note("", fmt.Sprintf("release %s: %s for deployment %s in namespace %s", r.Name, r.Spec.Version, r.Spec.Deployment, r.Namespace))
				return watchRelease(c.Context(), rc, printer, r, f.output == "json")
			})
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	return c
}

// watchRelease prints what happens to a release until it has ended. Its end is the
// exit code.
func watchRelease(ctx context.Context, rc *client.Client, printer *term.Printer, r *v1alpha1.Release, asJSON bool) error {
	var log eventLog
	last := r
	task := printer.Task(term.Note, "", waitsFor(r))
	defer task.Drop()
	err := rc.Follow(ctx, r, func(now *v1alpha1.Release) (bool, error) {
		last = now
		task.Update(waitsFor(now))
		for _, e := range log.fresh(now.Status.Events) {
			printer.Event(term.Event{Type: term.Note, Time: e.Time.Time, Text: joined(e.Text)})
		}
		return release.Phase(now.Status.Phase).Ended(), nil
	})
	task.Drop()
	if err != nil {
		if ctx.Err() != nil {
			printer.Note("", "the release goes on without this program: bight release watch "+r.Spec.Deployment+" -n "+r.Namespace)
		}
		return err
	}
	if asJSON {
		if err := printer.Data(last, nil); err != nil {
			return err
		}
	}
	return releaseEnd(last, printer)
}

// waitsFor says what a release waits for.
func waitsFor(r *v1alpha1.Release) string {
	if r.Status.Phase == "" {
		return "waiting for the controller to begin (kubectl get pods -n bight-system shows whether it runs)"
	}
	text := strings.TrimSuffix(strings.ToLower(r.Status.Phase)+": "+joined(r.Status.Message), ": ")
	if obey, of := client.Covered(r); r.Status.Route != nil && obey < of {
		text += fmt.Sprintf(" (%d of %s obey)", obey, term.Count(of, client.Sharers(r)))
	}
	return text
}

// releaseEnd turns the end of a release into an exit code.
func releaseEnd(r *v1alpha1.Release, printer *term.Printer) error {
	why := cmp.Or(joined(r.Status.Message), "nobody says why")
	switch release.Phase(r.Status.Phase) {
	case release.Promoted:
		e := term.Event{Type: term.Ready, Text: fmt.Sprintf("%s is promoted: %s", r.Name, why)}
		if r.Status.Started != nil && r.Status.Ended != nil {
			e.Took = r.Status.Ended.Sub(r.Status.Started.Time)
		}
		printer.Event(e)
		return nil
	case release.Superseded:
		return codedError{code: exitFailed, err: fmt.Errorf("release %s is superseded: %s", r.Name, why)}
	}
	text := fmt.Sprintf("release %s was undone: %s", r.Name, why)
	next := fmt.Sprintf("bight release retry %s -n %s begins it anew", r.Spec.Deployment, r.Namespace)
	if r.Status.Convicted {
		next = fmt.Sprintf("this version is not released again, unless by bight release retry %s -n %s --again", r.Spec.Deployment, r.Namespace)
	}
	return codedError{code: exitFailed, err: errors.New(text + "\n" + next)}
}

// completeDeployments gives the Deployments of the namespace.
func completeDeployments(t *target) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		cluster, err := kube.Load(kube.Options{Kubeconfig: t.kubeconfig, Context: t.context, Namespace: t.namespace})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		typed, err := cluster.Typed()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := typed.AppsV1().Deployments(cluster.Namespace).List(ctx, metav1.ListOptions{Limit: 500})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, d := range list.Items {
			names = append(names, d.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
