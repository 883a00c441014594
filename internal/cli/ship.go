package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

// shipOptions are the flags of bight ship.
type shipOptions struct {
	environments []string
	branch       string
	noWorker     bool
	detach       bool
	json         bool
	worker       workerOptions
}

func (p *Program) shipCommand() *cobra.Command {
	var t target
	var o shipOptions
	var output string
	c := &cobra.Command{
		Use:   "ship [DIR]",
		Short: "Take the commit that is checked out to its environments",
		Long: `Take HEAD of the repository that DIR (default: here) is in to the app's environments,
and follow it until it is there or is refused: it is reviewed, built and tested, runs
in a preview, is merged into the app's branch, and is deployed to one environment
after the other.

The first time, the App is made, in namespace -n (default: named as the app), with the
environments of --env, or one named prod. From then on the App says which environments
and which branch it has, and flags that say otherwise are refused. What was pushed
before is not done again, and neither is what bight up has built from the same files.

The steps that take toolchains are done here, unless --no-worker leaves them to others
that run bight worker. Exit code 0: deployed, or held until somebody promotes it; 1:
refused. It takes what bight install installs.`,
		Example: `  bight ship
  bight ship --env stage,prod:manual:canary
  bight ship -o json`,
		Args: atMost(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := directory(args)
			if err != nil {
				return err
			}
			o.json = output == "json"
			return p.ship(c.Context(), &t, dir, o)
		},
		ValidArgsFunction: completeDirectories,
	}
	t.flags(c)
	c.Flags().Lookup("namespace").Usage = "namespace of the App (default: named as the app)"
	t.registryFlag(c)
	c.Flags().StringSliceVar(&o.environments, "env", nil, "environments of a new App, in order: NAME, with :manual for one that takes bight change promote, and :canary, :blue-green, :ab or :mirror for one where new versions take over by such a release")
	c.Flags().StringVar(&o.branch, "branch", "", "branch of a new App that changes are merged into (default: main)")
	c.Flags().BoolVar(&o.noWorker, "no-worker", false, "leave review, build and test to other workers")
	o.worker.flags(c)
	c.Flags().BoolVar(&o.detach, "detach", false, "push, and do not follow")
	p.outputFlag(c, &output)
	return c
}

// parseEnvironments reads --env. There are none where it was not given.
func parseEnvironments(all []string) ([]v1alpha1.Environment, error) {
	var out []v1alpha1.Environment
	for _, e := range all {
		name, rest, _ := strings.Cut(e, ":")
		if !app.ValidLabel(name) || len(name) > 40 || name == "preview" {
			return nil, usageError("--env %s: an environment's name has a-z, 0-9 and dashes, a letter first, at most 40 characters, and is not preview", e)
		}
		if slices.ContainsFunc(out, func(e v1alpha1.Environment) bool { return e.Name == name }) {
			return nil, usageError("--env %s: there is one of that name before it", e)
		}
		env := v1alpha1.Environment{Name: name}
		promotion := ""
		for _, how := range strings.Split(rest, ":") {
			switch how {
			case "":
				continue
			case "automatic", "manual":
				if promotion != "" && promotion != how {
					return nil, usageError("--env %s: it is automatic or manual, not both", e)
				}
				promotion = how
			default:
				if env.Release != nil {
					return nil, usageError("--env %s: new versions take over by one strategy, not two", e)
				}
			}
			switch how {
			case "automatic":
			case "manual":
				env.Promotion = v1alpha1.Manual
			case "canary":
				env.Release = &v1alpha1.ReleasePlan{}
			default:
				strategy, err := spec.StrategyOf(how)
				if err != nil {
					return nil, usageError("--env %s: after the name comes manual, automatic, canary, blue-green, ab or mirror, not %s", e, how)
				}
				env.Release = &v1alpha1.ReleasePlan{Strategy: strategy}
			}
		}
		out = append(out, env)
	}
	return out, nil
}

func (p *Program) ship(ctx context.Context, t *target, dir string, o shipOptions) error {
	environments, err := parseEnvironments(o.environments)
	if err != nil {
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	if o.noWorker && (o.worker.signingKey != "" || o.worker.vulnDB != "") {
		return usageError("--signing-key and --vuln-db say what the worker here does, and --no-worker that there is none: give them to bight worker")
	}
	if err := o.worker.read(); err != nil {
		return err
	}
	src, err := ship.ReadSource(ctx, dir)
	if err != nil {
		return codedError{code: exitUsage, err: err}
	}
	a, err := session.Plan(ctx, dir)
	if err != nil {
		return err
	}
	printer := p.printer(o.json, nil)
	defer printer.Close()
	cluster, _, err := t.load(printer)
	if err != nil {
		return err
	}
	if len(src.Dirty) > 0 {
		printer.Warn("", fmt.Sprintf("what is not committed is not shipped: %s", term.Files(src.Dirty)), "git commit, and ship again")
	}
	namespace := t.namespace
	if namespace == "" {
		namespace = a.Name
	}
	to := controllerClient(cluster, namespace)
	s := &ship.Shipper{Cluster: cluster, Client: to, Namespace: namespace, Name: a.Name, Log: t.log(p.Stderr), Say: func(text string) { printer.Note("", text) }}
	registered, err := s.Register(ctx, ship.Registration{Branch: o.branch, Directory: src.Directory, Environments: environments})
	if _, is := errors.AsType[*ship.OtherwiseError](err); is {
		return codedError{code: exitUsage, err: err}
	}
	if err != nil {
		return err
	}
	if err := to.Open(ctx); err != nil {
		return err
	}
	defer to.Close()
	printer.Header(term.Header{App: a.Name, Context: cluster.Context, Namespace: namespace})
	if o.detach {
		pushing := printer.Task(term.Push, "", "pushing the commit")
		name, err := s.Push(ctx, src, registered)
		pushing.Drop()
		if err == nil {
			printer.Note("", "pushed "+name+"; follow it with bight change show "+name+" -n "+namespace+" --follow")
		}
		return err
	}
	return p.shipAndFollow(ctx, t, s, src, registered, printer, o)
}

// shipAndFollow pushes, works and follows until the change has ended.
func (p *Program) shipAndFollow(ctx context.Context, t *target, s *ship.Shipper, src *ship.Source, registered *v1alpha1.App, printer *term.Printer, o shipOptions) error {
	alone, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	if !o.noWorker {
		o.worker.apps, o.worker.slots = []string{s.Namespace + "/" + s.Name}, 3
		dismiss, err := p.hire(t, o.worker, lost)
		if err != nil {
			return err
		}
		defer dismiss()
	}
	goesOn := func(when, name string) {
		printer.Note("", when+"the change goes on without this program, as far as other workers do its steps: bight change show "+name+" -n "+s.Namespace)
	}
	pushing := printer.Task(term.Push, "", "pushing the commit")
	name, err := s.Push(ctx, src, registered)
	pushing.Drop()
	if err != nil {
		if ctx.Err() != nil { // what was pushed may be there before git has heard of it
			goesOn("if the commit has arrived, ", change.Name(s.Name, src.Head))
		}
		return err
	}
	timeline := newTimeline(printer)
	last, err := s.Follow(alone, name, timeline.show)
	if err != nil {
		if alone.Err() != nil {
			goesOn("", name)
		}
		if ctx.Err() == nil && alone.Err() != nil {
			return context.Cause(alone)
		}
		return err
	}
	return p.concludeShip(ctx, s, src, registered, last, printer)
}

// concludeShip says how it ended.
func (p *Program) concludeShip(ctx context.Context, s *ship.Shipper, src *ship.Source, registered *v1alpha1.App, last *v1alpha1.Change, printer *term.Printer) error {
	if last.Status.Merged != "" {
		if ref, err := s.Fetch(ctx, src, registered); err != nil {
			printer.Warn("", "the branch was not fetched: "+err.Error(), "")
		} else if last.Status.Merged != src.Head {
			printer.Note("", fmt.Sprintf("it was merged as %s: git rebase %s brings that here", last.Status.Merged[:12], ref))
		}
	} else if ended := meta.FindStatusCondition(last.Status.Conditions, v1alpha1.Succeeded); ended != nil && ended.Reason == v1alpha1.Unmergeable {
		if ref, err := s.Fetch(ctx, src, registered); err == nil && src.Behind(ctx, ref) {
			printer.Note("", fmt.Sprintf("the branch as it is now is here as %s: git rebase %[1]s, and ship again", ref))
		}
	}
	return concluded(last, printer)
}

// concluded turns the end of a change into an exit code.
func concluded(c *v1alpha1.Change, printer *term.Printer) error {
	switch c.Status.Phase {
	case v1alpha1.Deployed:
		printer.Event(term.Event{Time: endOf(c), Type: term.Ready, Text: c.Name + " is " + c.Status.Message})
		return nil
	case v1alpha1.Held:
		printer.Note("", c.Name+" "+c.Status.Message)
		return nil
	}
	err := fmt.Errorf("change %s was %s: %s%s", c.Name, strings.ToLower(c.Status.Phase), whyEnded(c), whereMore(c))
	if c.Status.Phase == v1alpha1.Failed {
		err = fmt.Errorf("change %s failed, and not by its own fault: %s\nbight change retry %[1]s -n %[3]s", c.Name, c.Status.Message, c.Namespace)
	}
	return codedError{code: exitFailed, err: err}
}

// whyEnded says why a change was refused, whose timeline was printed: what a step has
// said there is not said again.
func whyEnded(c *v1alpha1.Change) string {
	for _, s := range c.Status.Steps {
		if s.State == v1alpha1.StepFailed && s.Message != "" && c.Status.Message == s.Name+": "+s.Message {
			return s.Name + " failed, as above"
		}
	}
	return c.Status.Message
}

// endOf is when the last step of a change has ended; zero where none has.
func endOf(c *v1alpha1.Change) (end time.Time) {
	for _, s := range c.Status.Steps {
		if s.Ended != nil && s.Ended.After(end) {
			end = s.Ended.Time
		}
	}
	return end
}

// whereMore says how to see all that the step has printed which refused a change.
func whereMore(c *v1alpha1.Change) string {
	for _, s := range c.Status.Steps {
		if s.State == v1alpha1.StepFailed && s.Log != "" {
			return fmt.Sprintf("\nall that it has printed: bight change logs %s %s -n %s", c.Name, s.Name, c.Namespace)
		}
	}
	return ""
}

// timeline prints the steps of a change as they begin and end.
type timeline struct {
	printer *term.Printer
	tasks   map[string]*term.Task
	done    map[string]string // the end that was printed, by step
	message string
}

func newTimeline(printer *term.Printer) *timeline {
	return &timeline{printer: printer, tasks: map[string]*term.Task{}, done: map[string]string{}}
}

// show prints what is new.
func (l *timeline) show(c *v1alpha1.Change) {
	for _, s := range inOrder(c.Status.Steps) {
		kind, _, _ := strings.Cut(s.Name, "/")
		switch s.State {
		case v1alpha1.StepRunning:
			switch t := l.tasks[s.Name]; {
			case t != nil: // what a step waits for changes while it runs
				t.Update(doing(s))
			case s.Started != nil && l.done[s.Name] != s.Started.String():
				t := l.printer.Task(term.Type(kind), "", doing(s))
				t.Began(s.Name, s.Started.Time)
				l.tasks[s.Name] = t
			}
		case v1alpha1.StepWaiting:
			if s.Message != "" && s.Message != l.message {
				l.message = s.Message
				l.printer.Event(term.Event{Type: term.Note, Step: s.Name, Text: s.Name + " " + s.Message})
			}
		default:
			if s.Name == v1alpha1.MergeStep && !change.Ended(c) && underWay(c) {
				continue // the tests that allowed it have passed, and their end is yet to be written down
			}
			l.end(term.Type(kind), s)
		}
	}
	if change.Ended(c) {
		for _, t := range l.tasks {
			t.Drop()
		}
	}
}

// inOrder returns steps as they have ended; those that have not come last.
func inOrder(steps []v1alpha1.Step) []v1alpha1.Step {
	steps = slices.Clone(steps)
	slices.SortStableFunc(steps, func(a, b v1alpha1.Step) int {
		switch {
		case a.Ended != nil && b.Ended != nil:
			return a.Ended.Compare(b.Ended.Time)
		case a.Ended != nil:
			return -1
		case b.Ended != nil:
			return 1
		}
		return 0
	})
	return steps
}

// underWay reports whether a step before the merge still runs, as the status has it.
func underWay(c *v1alpha1.Change) bool {
	return slices.ContainsFunc(c.Status.Steps, func(s v1alpha1.Step) bool {
		switch s.Name {
		case v1alpha1.ReviewStep, v1alpha1.BuildStep, v1alpha1.TestStep, v1alpha1.PreviewStep:
			return s.State == v1alpha1.StepRunning
		}
		return false
	})
}

func (l *timeline) end(kind term.Type, s v1alpha1.Step) {
	id := ""
	if s.Ended != nil {
		id = s.Ended.String()
	}
	if l.done[s.Name] == id && id != "" || s.State == v1alpha1.StepSkipped && s.Ended == nil {
		return
	}
	l.done[s.Name] = id
	text := s.Message
	switch s.State {
	case v1alpha1.StepSkipped:
		kind, text = term.Note, s.Name+": "+s.Message
	case v1alpha1.StepCancelled:
		kind, text = term.Note, s.Name+": not done: "+s.Message
	}
	if t := l.tasks[s.Name]; t != nil {
		t.Drop()
		delete(l.tasks, s.Name)
	}
	e := term.Event{Type: kind, Step: s.Name, Text: text, Why: s.Cached, Cached: s.Cached != ""}
	if s.Ended != nil {
		e.Time = s.Ended.Time // which may have been long before anybody looked
	}
	if s.Started != nil && s.Ended != nil {
		e.Took = s.Ended.Sub(s.Started.Time)
	}
	if s.State == v1alpha1.StepFailed || s.State == v1alpha1.StepErred {
		e.Type, e.Text, e.Err = term.Error, "", errors.New(s.Name+": "+s.Message)
	}
	l.printer.Event(e)
}

func doing(s v1alpha1.Step) string {
	words := map[string]string{
		v1alpha1.ReviewStep: "reviewing", v1alpha1.BuildStep: "building", v1alpha1.TestStep: "testing",
		v1alpha1.PreviewStep: "previewing", v1alpha1.MergeStep: "merging",
	}
	switch w := words[s.Name]; {
	case w != "" && s.Message != "":
		return w + ": " + s.Message
	case w != "":
		return w
	}
	return strings.TrimPrefix(s.Name, v1alpha1.DeployStep+"/") + ": " + s.Message
}
