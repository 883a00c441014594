package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) changeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "change",
		Short: "See and steer what was shipped",
		Long: `A change is one commit on its way through review, build, test and merge to the app's
environments. These commands show changes and let people decide what is theirs to
decide. Without -n, the namespace is that of the app in the directory here, or else
the context's.`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.changeListCommand(), p.changeShowCommand(), p.changeLogsCommand(),
		p.changeSpecCommand("cancel CHANGE", "End a change that is not merged yet", exactlyOne("a change"), "is to end", cancel),
		p.changeSpecCommand("retry CHANGE", "Do again what has failed of a change", exactlyOne("a change"), "does again what has not passed", retry),
		p.changeSpecCommand("merge CHANGE", "Take a change into the app's branch that was pushed to another", exactlyOne("a change"), "is to be merged", merge),
		p.changeSpecCommand("approve CHANGE", "Have the tests run that somebody has made who may not push", exactlyOne("a change"), "is to be tested", approve),
		p.changeSpecCommand("promote CHANGE ENVIRONMENT", "Let a change into an environment that takes a person's word", exactlyTwo("a change and an environment"), "goes on to %s", promote))
	return c
}

// changeFlags adds the flags of a command about changes.
func changeFlags(t *target, c *cobra.Command) {
	t.flags(c)
	c.Flags().Lookup("namespace").Usage = "namespace of the app (default: the app's here, or the context's)"
}

func cancel(_ context.Context, _ *ship.Shipper, c *v1alpha1.Change, _ []string) (map[string]any, error) {
	switch {
	case change.Ended(c):
		return nil, usageError("change %s is %s: there is nothing to end", c.Name, strings.ToLower(c.Status.Phase))
	case c.Status.Merged != "":
		return nil, usageError("change %s is merged, and what is merged goes on: git revert %.12s and bight ship take it back", c.Name, c.Status.Merged)
	case c.Spec.Cancel:
		return nil, usageError("change %s is to end already", c.Name)
	}
	return map[string]any{"cancel": true}, nil
}

func retry(_ context.Context, _ *ship.Shipper, c *v1alpha1.Change, _ []string) (map[string]any, error) {
	if !change.Ended(c) {
		return nil, usageError("change %s is %s: there is nothing to do again", c.Name, strings.ToLower(c.Status.Phase))
	}
	if c.Status.Phase == v1alpha1.Deployed || c.Status.Phase == v1alpha1.Superseded {
		return nil, usageError("change %s is %s: there is nothing to do again (%s)", c.Name, strings.ToLower(c.Status.Phase), c.Status.Message)
	}
	return map[string]any{"attempt": c.Spec.Attempt + 1, "cancel": false}, nil
}

func merge(_ context.Context, _ *ship.Shipper, c *v1alpha1.Change, _ []string) (map[string]any, error) {
	switch {
	case change.Ended(c):
		return nil, usageError("change %s is %s: %s", c.Name, strings.ToLower(c.Status.Phase), c.Status.Message)
	case c.Spec.Merge:
		return nil, usageError("change %s is on its way into the branch already", c.Name)
	case c.Spec.Untrusted:
		return nil, usageError("change %s is by somebody who may not push: push its commit yourself, and it is yours", c.Name)
	}
	return map[string]any{"merge": true}, nil
}

// approve lets the tests of a stranger's commit be run, apart: that commit's and no
// other's.
func approve(ctx context.Context, s *ship.Shipper, c *v1alpha1.Change, _ []string) (map[string]any, error) {
	switch {
	case !c.Spec.Untrusted:
		return nil, usageError("change %s is by somebody who may push: its tests are run without that", c.Name)
	case change.Ended(c):
		return nil, usageError("change %s is %s: %s", c.Name, strings.ToLower(c.Status.Phase), c.Status.Message)
	case c.Spec.Approved:
		return nil, usageError("change %s is approved already", c.Name)
	}
	a, err := s.App(ctx, c.Spec.App)
	if err != nil {
		return nil, err
	}
	switch a.Spec.Policy.Strangers {
	case v1alpha1.StrangersReview:
		return nil, usageError("app %s has nothing run that strangers have made: policy.strangers of the App says Review", a.Name)
	case v1alpha1.StrangersTest:
		return nil, usageError("app %s has the tests of strangers run without being asked: policy.strangers of the App says Test", a.Name)
	}
	return map[string]any{"approved": true}, nil
}

func promote(ctx context.Context, s *ship.Shipper, c *v1alpha1.Change, args []string) (map[string]any, error) {
	if c.Status.Merged == "" {
		return nil, usageError("change %s is not merged: only what is merged goes on to an environment", c.Name)
	}
	a, err := s.App(ctx, c.Spec.App)
	if err != nil {
		return nil, err
	}
	if err := promotable(a, c, args[1]); err != nil {
		return nil, err
	}
	return map[string]any{"promote": append(slices.Clone(c.Spec.Promote), args[1])}, nil
}

// promotable refuses what somebody's word would change nothing about.
func promotable(a *v1alpha1.App, c *v1alpha1.Change, environment string) error {
	var names []string
	for _, e := range a.Spec.Environments {
		names = append(names, e.Name)
	}
	i := slices.Index(names, environment)
	switch {
	case i < 0:
		return usageError("app %s has no environment %s; it has %s", a.Name, environment, strings.Join(names, ", "))
	case slices.Contains(c.Spec.Promote, environment):
		return usageError("change %s was promoted to %s already", c.Name, environment)
	case c.Status.Phase == v1alpha1.Refused || c.Status.Phase == v1alpha1.Failed:
		return usageError("change %s has %s and goes on to no environment: bight change retry %[1]s does again what has failed", c.Name,
			map[string]string{v1alpha1.Refused: "been refused", v1alpha1.Failed: "failed"}[c.Status.Phase])
	case change.Ended(c):
		return usageError("change %s is %s: there is nothing to promote", c.Name, strings.ToLower(c.Status.Phase))
	case a.Spec.Environments[i].Promotion != v1alpha1.Manual:
		return usageError("changes of app %s go on to %s by themselves: bight change show %s says how far this one is", a.Name, environment, c.Name)
	}
	return nil
}

// changes is what the commands about changes work with.
func (p *Program) changes(ctx context.Context, t *target, printer *term.Printer) (*ship.Shipper, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, err
	}
	s := &ship.Shipper{Cluster: cluster, Namespace: t.namespace, Log: t.log(p.Stderr), Say: func(text string) { printer.Note("", text) }}
	if s.Namespace == "" {
		s.Namespace = cluster.Namespace
		if dir, err := directory(nil); err == nil {
			if a, err := session.Plan(ctx, dir); err == nil {
				s.Namespace = a.Name
			}
		}
	}
	s.Client = controllerClient(cluster, s.Namespace)
	return s, nil
}

func (p *Program) changeListCommand() *cobra.Command {
	var t target
	var output, app string
	c := &cobra.Command{
		Use:   "list",
		Short: "List changes, the newest first",
		Args:  atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			printer := p.printer(output == "json", nil)
			defer printer.Close()
			s, err := p.changes(c.Context(), &t, printer)
			if err != nil {
				return err
			}
			all, err := s.List(c.Context(), app)
			if err != nil {
				return err
			}
			table := &term.Table{Head: []string{"CHANGE", "PHASE", "STEP", "RISK", "BY", "AGE", "TITLE"}, Empty: "no change in namespace " + s.Namespace}
			for _, c := range all {
				risk := ""
				if c.Status.Risk != nil {
					risk = fmt.Sprint(*c.Status.Risk)
				}
				table.Rows = append(table.Rows, []string{c.Name, strings.ToLower(c.Status.Phase), c.Status.Current, risk, c.Spec.Author, term.Duration(time.Since(c.CreationTimestamp.Time)), c.Spec.Title})
			}
			return printer.Data(all, table)
		},
	}
	changeFlags(&t, c)
	c.Flags().StringVar(&app, "app", "", "only those of this app")
	p.outputFlag(c, &output)
	return c
}

func (p *Program) changeShowCommand() *cobra.Command {
	var t target
	var output string
	var follow bool
	c := &cobra.Command{
		Use:   "show CHANGE",
		Short: "Show the timeline of a change",
		Args:  exactlyOne("a change"),
		RunE: func(c *cobra.Command, args []string) error {
			printer := p.printer(output == "json", nil)
			defer printer.Close()
			s, err := p.changes(c.Context(), &t, printer)
			if err != nil {
				return err
			}
			found, err := p.change(c.Context(), s, args[0])
			if err != nil {
				return err
			}
			if follow {
				last, err := s.Follow(c.Context(), found.Name, newTimeline(printer).show)
				if err != nil {
					return err
				}
				return concluded(last, printer)
			}
			return printer.Data(found, changeTable(found, time.Now()))
		},
	}
	changeFlags(&t, c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until it has ended; its end is the exit code")
	p.outputFlag(c, &output)
	return c
}

// change finds a change by its name, or by the end of it: the commit.
func (p *Program) change(ctx context.Context, s *ship.Shipper, name string) (*v1alpha1.Change, error) {
	found, err := s.Get(ctx, name)
	if kube.KindOf(err) != kube.NotFound {
		return found, err
	}
	all, listErr := s.List(ctx, "")
	if listErr != nil {
		return nil, err
	}
	var near []string
	for _, c := range all {
		if strings.HasPrefix(c.Spec.Commit, name) && len(name) >= 4 {
			return &c, nil
		}
		if len(near) < 3 {
			near = append(near, c.Name)
		}
	}
	text := fmt.Sprintf("there is no change %s in namespace %s", name, s.Namespace)
	if len(near) > 0 {
		text += "; the newest are " + strings.Join(near, ", ")
	}
	return nil, codedError{code: exitNotFound, err: errors.New(text)}
}

// changeTable is the timeline of a change as it is now.
func changeTable(c *v1alpha1.Change, now time.Time) *term.Table {
	t := &term.Table{Head: []string{"STEP", "STATE", "TOOK", "RESULT"}, Empty: c.Name + ": nothing was done yet"}
	for _, s := range c.Status.Steps {
		mark := map[string]string{v1alpha1.StepPassed: "✓ ", v1alpha1.StepFailed: "✗ ", v1alpha1.StepErred: "✗ "}[s.State]
		took := ""
		switch {
		case s.Started == nil:
		case s.Ended != nil:
			took = term.Duration(s.Ended.Sub(s.Started.Time))
		case s.State == v1alpha1.StepRunning:
			took = term.Duration(now.Sub(s.Started.Time))
		}
		result := inOneLine(s.Message)
		if s.Cached != "" {
			result += " (" + s.Cached + ")"
		}
		t.Rows = append(t.Rows, []string{s.Name, mark + strings.ToLower(s.State), took, result})
	}
	end := c.Status.Message
	if c.Status.Preview != nil && !change.Ended(c) {
		end = strings.TrimPrefix(end+"; preview in "+c.Status.Preview.Namespace, "; ")
	}
	t.Rows = append(t.Rows, []string{c.Name, strings.ToLower(c.Status.Phase), "", inOneLine(end)})
	return t
}

// inOneLine joins the lines of a message so that each can still be told from the next.
func inOneLine(message string) string {
	var lines []string
	for line := range strings.Lines(message) {
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(lines, "; ")
}

func (p *Program) changeLogsCommand() *cobra.Command {
	var t target
	var follow bool
	c := &cobra.Command{
		Use:   "logs CHANGE [STEP | FILE]",
		Short: "Print what the steps of a change have printed, or a file that they have left",
		Long: `Print what the steps of a change have printed, or one of them; or a file of results
that a step has left: review.sarif, review.json, junit.xml.`,
		Example: `  bight change logs shop-2abd7d test
  bight change logs shop-2abd7d review.sarif > review.sarif`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return atMost(2, "a change and one of its steps or files")(c, args)
			}
			return exactlyOne("a change")(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			printer := p.printer(false, nil)
			defer printer.Close()
			s, err := p.changes(c.Context(), &t, printer)
			if err != nil {
				return err
			}
			found, err := p.change(c.Context(), s, args[0])
			if err != nil {
				return err
			}
			if err := s.Client.Open(c.Context()); err != nil {
				return err
			}
			defer s.Client.Close()
			return p.changeLogs(c.Context(), s, found, args[1:], follow)
		},
	}
	changeFlags(&t, c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on while a step runs")
	return c
}

func (p *Program) changeLogs(ctx context.Context, s *ship.Shipper, c *v1alpha1.Change, only []string, follow bool) error {
	if len(only) > 0 {
		if at := resultsOf(c)[only[0]]; at != "" {
			return p.changeFile(ctx, s, only[0], at)
		}
	}
	printed := false
	for _, step := range c.Status.Steps {
		if step.Log == "" || len(only) > 0 && step.Name != only[0] {
			continue
		}
		body, err := s.Client.File(ctx, step.Log, follow)
		if answer, ok := errors.AsType[*client.AnswerError](err); ok && answer.Status == http.StatusNotFound {
			continue // it has printed nothing
		}
		if err != nil {
			return fmt.Errorf("read the log of %s: %w", step.Name, err)
		}
		printed = true
		if len(only) == 0 {
			fmt.Fprintf(p.Stderr, "--- %s\n", step.Name)
		}
		_, err = io.Copy(p.Stdout, body)
		_ = body.Close()
		if err != nil {
			return fmt.Errorf("read the log of %s: %w", step.Name, err)
		}
	}
	if !printed {
		return codedError{code: exitNotFound, err: noLog(c, only)}
	}
	return nil
}

// changeFile prints a file that a step has left.
func (p *Program) changeFile(ctx context.Context, s *ship.Shipper, name, at string) error {
	body, err := s.Client.File(ctx, at, false)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	_, err = io.Copy(p.Stdout, body)
	return errors.Join(err, body.Close())
}

// resultsOf are the files that the steps of a change have left, by name: where each is. What
// else a step's evidence has, such as a commit, is no path.
func resultsOf(c *v1alpha1.Change) map[string]string {
	all := map[string]string{}
	for _, step := range c.Status.Steps {
		for name, at := range step.Evidence {
			if strings.HasPrefix(at, c.Namespace+"/"+c.Name+"/") {
				all[name] = at
			}
		}
	}
	return all
}

// noLog says which steps have a log, where the one that was asked for has none.
func noLog(c *v1alpha1.Change, only []string) error {
	var have []string
	for _, step := range c.Status.Steps {
		if step.Log != "" {
			have = append(have, step.Name)
		}
	}
	switch {
	case len(c.Status.Steps) == 0:
		text := "change " + c.Name + " has no log, since no step of it was done"
		if c.Status.Message != "" {
			text += ": " + c.Status.Message
		}
		return errors.New(text)
	case len(have) == 0 || len(only) == 0:
		return fmt.Errorf("change %s has no log%s", c.Name, strings.TrimSuffix(" of step "+strings.Join(only, ""), " of step "))
	case slices.Contains(have, only[0]):
		return fmt.Errorf("step %s of change %s has printed nothing", only[0], c.Name)
	}
	there := strings.Join(have, ", ")
	if files := slices.Sorted(maps.Keys(resultsOf(c))); len(files) > 0 {
		there += "; and the files " + strings.Join(files, ", ")
	}
	return fmt.Errorf("change %s has no log of step %s; there is one of %s", c.Name, only[0], there)
}

// changeSpecCommand is a command that changes what people want of a change. done says
// what becomes of the change then; %s in it is the argument after the change.
func (p *Program) changeSpecCommand(use, short string, args cobra.PositionalArgs, done string, edit func(context.Context, *ship.Shipper, *v1alpha1.Change, []string) (map[string]any, error)) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(c *cobra.Command, args []string) error {
			printer := p.printer(false, nil)
			defer printer.Close()
			s, err := p.changes(c.Context(), &t, printer)
			if err != nil {
				return err
			}
			name, err := p.decide(c.Context(), s, args, edit)
			if err != nil {
				return err
			}
			printer.Note("", fmt.Sprintf("%s %s: bight change show %[1]s -f -n %[3]s", name, strings.Replace(done, "%s", args[len(args)-1], 1), s.Namespace))
			return nil
		},
	}
	changeFlags(&t, c)
	return c
}

// decide changes what is wanted of a change. While its status is written by the
// controller, that takes more than one try. It returns the change's name.
func (p *Program) decide(ctx context.Context, s *ship.Shipper, args []string, edit func(context.Context, *ship.Shipper, *v1alpha1.Change, []string) (map[string]any, error)) (string, error) {
	for try := 1; ; try++ {
		found, err := p.change(ctx, s, args[0])
		if err != nil {
			return "", err
		}
		spec, err := edit(ctx, s, found, args)
		if err != nil {
			return "", err
		}
		if err = s.Patch(ctx, found, spec); kube.KindOf(err) != kube.Conflict || try == 20 {
			return found.Name, err
		}
	}
}
