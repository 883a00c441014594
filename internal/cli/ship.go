package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/discovery"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/review/manifest"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/change/worker"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
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
environments of --env, or one named prod. What was pushed before is not done again,
and neither is what bight up has built from the same files.

The steps that take toolchains are done here, unless --no-worker leaves them to others
that run bight worker. Exit code 0: deployed, or held until somebody promotes it; 1:
refused. It takes what bight install installs.`,
		Example: `  bight ship
  bight ship --env stage,prod:manual
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
	t.registryFlag(c)
	c.Flags().StringSliceVar(&o.environments, "env", nil, "environments of a new App, in order: NAME, or NAME:manual for one that takes bight change promote")
	c.Flags().StringVar(&o.branch, "branch", "main", "branch of a new App that changes are merged into")
	c.Flags().BoolVar(&o.noWorker, "no-worker", false, "leave review, build and test to other workers")
	o.worker.flags(c)
	c.Flags().BoolVar(&o.detach, "detach", false, "push, and do not follow")
	p.outputFlag(c, &output)
	return c
}

// parseEnvironments reads --env.
func parseEnvironments(all []string) ([]v1alpha1.Environment, error) {
	if len(all) == 0 {
		all = []string{"prod"}
	}
	var out []v1alpha1.Environment
	for _, e := range all {
		name, how, _ := strings.Cut(e, ":")
		if !app.ValidLabel(name) || len(name) > 40 || name == "preview" {
			return nil, usageError("--env %s: an environment's name has a-z, 0-9 and dashes, a letter first, at most 40 characters, and is not preview", e)
		}
		switch how {
		case "", "automatic":
			out = append(out, v1alpha1.Environment{Name: name})
		case "manual":
			out = append(out, v1alpha1.Environment{Name: name, Promotion: v1alpha1.Manual})
		default:
			return nil, usageError("--env %s: after the name comes manual or automatic, not %s", e, how)
		}
	}
	return out, nil
}

// controllerClient is the way to the cluster's controller, for an app of a namespace.
func controllerClient(cluster *kube.Cluster, namespace string) *client.Client {
	return &client.Client{Cluster: cluster, Namespace: namespace, System: install.Namespace, Controller: install.Controller, Port: install.ControllerPort}
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
	if err != nil {
		return err
	}
	if err := to.Open(ctx); err != nil {
		return err
	}
	defer to.Close()
	printer.Header(term.Header{App: a.Name, Context: cluster.Context, Namespace: namespace})
	if o.detach {
		name, err := s.Push(ctx, src, registered)
		if err == nil {
			printer.Note("", "pushed "+name+"; follow it with bight change show "+name+" -n "+namespace+" --follow")
		}
		return err
	}
	return p.shipAndFollow(ctx, t, s, src, registered, printer, o)
}

// shipAndFollow pushes, works and follows until the change has ended.
func (p *Program) shipAndFollow(ctx context.Context, t *target, s *ship.Shipper, src *ship.Source, registered *v1alpha1.App, printer *term.Printer, o shipOptions) error {
	work, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer func() { stop(); tasks.Wait() }()
	if !o.noWorker {
		o.worker.apps, o.worker.slots = []string{s.Namespace + "/" + s.Name}, 3
		w, release, err := p.worker(ctx, t, s.Cluster, s.Client, o.worker)
		if err != nil {
			return err
		}
		defer release()
		tasks.Go(func() {
			if err := w.Run(work); err != nil && work.Err() == nil {
				printer.Fail("", err, "", "")
			}
		})
	}
	name, err := s.Push(ctx, src, registered)
	if err != nil {
		return err
	}
	timeline := newTimeline(printer)
	last, err := s.Follow(ctx, name, timeline.show)
	if err != nil {
		if ctx.Err() != nil {
			printer.Note("", "the change goes on without this program, as far as other workers do its steps: bight change show "+name+" -n "+s.Namespace)
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
	}
	return concluded(last, printer)
}

// concluded turns the end of a change into an exit code.
func concluded(c *v1alpha1.Change, printer *term.Printer) error {
	switch c.Status.Phase {
	case v1alpha1.Deployed:
		printer.Event(term.Event{Type: term.Ready, Text: c.Name + " is " + c.Status.Message})
		return nil
	case v1alpha1.Held:
		printer.Note("", c.Name+" "+c.Status.Message)
		return nil
	}
	err := fmt.Errorf("change %s was %s: %s", c.Name, strings.ToLower(c.Status.Phase), c.Status.Message)
	if c.Status.Phase == v1alpha1.Failed {
		err = fmt.Errorf("change %s failed, and not by its own fault: %s\nbight change retry %[1]s -n %[3]s", c.Name, c.Status.Message, c.Namespace)
	}
	return codedError{code: exitFailed, err: err}
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
	for _, s := range c.Status.Steps {
		kind, _, _ := strings.Cut(s.Name, "/")
		switch s.State {
		case v1alpha1.StepRunning:
			if l.tasks[s.Name] == nil && s.Started != nil && l.done[s.Name] != s.Started.String() {
				l.tasks[s.Name] = l.printer.Task(term.Type(kind), "", doing(s))
			}
		case v1alpha1.StepWaiting:
			if s.Message != "" && s.Message != l.message {
				l.message = s.Message
				l.printer.Note("", s.Name+" "+s.Message)
			}
		default:
			l.end(term.Type(kind), s)
		}
	}
	if change.Ended(c) {
		for _, t := range l.tasks {
			t.Drop()
		}
	}
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
	if s.State == v1alpha1.StepSkipped {
		kind, text = term.Note, s.Name+": "+s.Message
	}
	if t := l.tasks[s.Name]; t != nil {
		t.Drop()
		delete(l.tasks, s.Name)
	}
	e := term.Event{Type: kind, Text: text, Why: s.Cached, Cached: s.Cached != ""}
	if s.Started != nil && s.Ended != nil {
		e.Took = s.Ended.Sub(s.Started.Time)
	}
	if s.State == v1alpha1.StepFailed || s.State == v1alpha1.StepErred {
		l.printer.Fail("", errors.New(s.Name+": "+s.Message), "", "")
		return
	}
	l.printer.Event(e)
}

func doing(s v1alpha1.Step) string {
	words := map[string]string{
		v1alpha1.ReviewStep: "reviewing", v1alpha1.BuildStep: "building", v1alpha1.TestStep: "testing",
		v1alpha1.PreviewStep: "previewing", v1alpha1.MergeStep: "merging",
	}
	if w := words[s.Name]; w != "" {
		return w
	}
	return strings.TrimPrefix(s.Name, v1alpha1.DeployStep+"/") + ": " + s.Message
}

// workerOptions say what a worker does.
type workerOptions struct {
	name      string
	apps      []string
	slots     int
	untrusted bool
	// controller is its address, for workers in a pod.
	controller string
	// vulnDB is a copy of Go's vulnerability database, signingKey a file with a key.
	vulnDB, signingKey string

	signer *attest.Signer
}

// flags are those that bight ship has, too.
func (o *workerOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.signingKey, "signing-key", "", "sign the images with the private key in this file (PEM, ECDSA P-256)")
	c.Flags().StringVar(&o.vulnDB, "vuln-db", "", "directory with a copy of https://vuln.go.dev to review dependencies with (default: $GOVULNDB, where that is on this machine)")
	_ = c.MarkFlagFilename("signing-key")
	_ = c.MarkFlagDirname("vuln-db")
}

// maxKey is more than a key in PEM has.
const maxKey = 64 << 10

// read reads what the flags name, so that what is wrong with it is told at once.
func (o *workerOptions) read() error {
	if o.vulnDB != "" && !strings.Contains(o.vulnDB, "://") {
		if info, err := os.Stat(filepath.Join(o.vulnDB, "index")); err != nil || !info.IsDir() {
			return usageError("--vuln-db %s: there is no directory index in it, so it is no copy of Go's vulnerability database", o.vulnDB)
		}
	}
	if o.signingKey == "" {
		return nil
	}
	f, err := os.Open(o.signingKey)
	if err != nil {
		return usageError("--signing-key: %s", err)
	}
	defer f.Close()
	key, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return usageError("--signing-key: %s", err)
	}
	if o.signer, err = attest.ParseSigner(key); err != nil {
		return usageError("--signing-key %s: %s", o.signingKey, err)
	}
	return nil
}

// schemas is what the cluster says of its API. It is asked when a change alters an
// object, and not for long.
func schemas(cluster *kube.Cluster) (manifest.Schemas, error) {
	config := cluster.RESTConfig()
	config.Timeout = 15 * time.Second
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return manifest.Cluster{Client: client.OpenAPIV3()}, nil
}

// worker makes a worker of this machine.
func (p *Program) worker(ctx context.Context, t *target, cluster *kube.Cluster, to *client.Client, o workerOptions) (*work.Client, func(), error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, nil, err
	}
	log := t.log(p.Stderr)
	maker, err := session.NewMaker(dir, worker.By, log)
	if err != nil {
		return nil, nil, err
	}
	registry, err := session.FindRegistry(ctx, cluster, t.registry)
	if err != nil {
		return nil, nil, err
	}
	agent, err := agentProgram()
	if err != nil {
		return nil, nil, err
	}
	results, err := resultsDir()
	if err != nil {
		return nil, nil, err
	}
	own, release, err := worker.Claim(filepath.Join(dir, "worker"))
	if err != nil {
		return nil, nil, err
	}
	if o.name == "" {
		host, _ := os.Hostname()
		o.name = fmt.Sprintf("%s@%s-%d", userName(), host, os.Getpid())
	}
	api, err := schemas(cluster)
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	checkers, gates := worker.Checkers(api, worker.Database(o.vulnDB, os.Getenv("GOVULNDB")))
	remotes := &remotes{client: to}
	w := &worker.Worker{
		Name: o.name, Source: remotes.source,
		Dir: own, Cache: results,
		Maker: maker, Registry: registry, Agent: agent, Log: log, Results: to.Results,
		Checkers: checkers, Gates: gates, Signer: o.signer,
	}
	return &work.Client{
		Hello: work.Hello{Name: o.name, Version: p.Version, Slots: o.slots, Apps: o.apps, Untrusted: o.untrusted},
		Dial:  to.Work, Do: w.Do, Log: log,
	}, func() { _ = errors.Join(remotes.close(), release()) }, nil
}

// remotes keeps a way to the repository of each app that a worker works for.
type remotes struct {
	client *client.Client

	mu  sync.Mutex
	all map[string]*client.Remote
}

func (r *remotes) source(ctx context.Context, namespace, app string) (repo.Source, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := namespace + "/" + app
	if r.all[key] == nil {
		remote, err := r.client.Remote(ctx, namespace, app)
		if err != nil {
			return repo.Source{}, err
		}
		if r.all == nil {
			r.all = map[string]*client.Remote{}
		}
		r.all[key] = remote
	}
	return repo.Source{URL: r.all[key].URL, Username: "bight", Password: r.all[key].Token}, nil
}

func (r *remotes) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, remote := range r.all {
		errs = append(errs, remote.Close())
	}
	r.all = nil
	return errors.Join(errs...)
}

func (p *Program) workerCommand() *cobra.Command {
	var t target
	var o workerOptions
	c := &cobra.Command{
		Use:   "worker",
		Short: "Do the steps of changes that take toolchains, with those of this machine",
		Long: `Review, build and test changes with this machine's toolchains and caches, until
Ctrl-C. A worker takes what the controller has for it; when it ends or is lost, what it
was doing is given to another at once.

A worker runs what the app's repository contains, with the rights of this user. Changes
by people who may not push there are not given to it; with --untrusted they are: it
reviews them and compiles their tests, and runs nothing of them. The controller runs
the tests, in pods apart from everything, when somebody has approved that.

To each image that it builds it attaches in the registry what the image is made of
(SPDX) and how it was made (SLSA provenance), signed with --signing-key. An App that
has spec.policy.verify takes no others. A key and what verifies it:

  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
  openssl pkey -in key.pem -pubout -out key.pub`,
		Example: `  bight worker                      for every app of the cluster
  bight worker --app shop/shop      for app shop in namespace shop`,
		Args: atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.slots < 1 || o.slots > 64 {
				return usageError("--slots %d: a worker does 1 to 64 steps at once", o.slots)
			}
			if err := o.read(); err != nil {
				return err
			}
			return p.runWorker(c.Context(), &t, o)
		},
	}
	t.flags(c)
	t.registryFlag(c)
	c.Flags().StringSliceVar(&o.apps, "app", nil, "work for these apps, NAMESPACE/NAME (default: all)")
	o.flags(c)
	c.Flags().IntVar(&o.slots, "slots", runtime.NumCPU(), "how many steps at once")
	c.Flags().BoolVar(&o.untrusted, "untrusted", false, "review what strangers have made, too, and compile its tests; nothing of it is run here")
	c.Flags().StringVar(&o.controller, "controller", "", "address of the controller, in the pods of bight install --workers")
	_ = c.Flags().MarkHidden("controller")
	c.Flags().StringVar(&o.name, "name", "", "name of the worker (default: of user, machine and process)")
	return c
}

func (p *Program) runWorker(ctx context.Context, t *target, o workerOptions) error {
	for _, a := range o.apps {
		if strings.Count(a, "/") != 1 {
			return usageError("--app %s: write NAMESPACE/NAME", a)
		}
	}
	printer := p.printer(false, nil)
	defer printer.Close()
	cluster, to, err := p.employer(t, printer, o)
	if err != nil {
		return err
	}
	if err := to.Open(ctx); err != nil {
		return err
	}
	defer to.Close()
	w, release, err := p.worker(ctx, t, cluster, to, o)
	if err != nil {
		return err
	}
	defer release()
	where := "of context " + cluster.Context
	if o.controller != "" {
		var stop func()
		where = "at " + o.controller
		ctx, w.Drain, stop = drained(ctx)
		defer stop()
	}
	w.Connected = func() { printer.Note("", "working as "+w.Hello.Name+" for the controller "+where) }
	do := w.Do
	w.Do = func(ctx context.Context, order work.Order, log io.Writer) work.Result {
		r := do(ctx, order, log)
		printer.Note("", fmt.Sprintf("%s of %s: %s", order.Step, order.Change, strings.ToLower(r.State)+", "+r.Message))
		return r
	}
	return interrupted(ctx, w.Run(ctx))
}
