package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
)

// workerOptions say what a worker does.
type workerOptions struct {
	name      string
	apps      []string
	slots     int
	untrusted bool
	// controller is its address, for workers in a pod.
	controller string
	// beside tells that the worker belongs to another program: it says nothing that
	// is not wrong, and ends when its stdin does.
	beside bool
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
			if err := o.check(); err != nil {
				return err
			}
			if p.Outer == nil {
				return p.becomeOuter()
			}
			return p.runWorker(c.Context(), &t, o)
		},
	}
	t.clusterFlags(c)
	t.registryFlag(c)
	c.Flags().StringSliceVar(&o.apps, "app", nil, "work for these apps, NAMESPACE/NAME (default: all)")
	o.flags(c)
	c.Flags().IntVar(&o.slots, "slots", runtime.NumCPU(), "how many steps at once")
	c.Flags().BoolVar(&o.untrusted, "untrusted", false, "review what strangers have made, too, and compile its tests; nothing of it is run here")
	c.Flags().StringVar(&o.controller, "controller", "", "address of the controller, in the pods of bight install --workers")
	_ = c.Flags().MarkHidden("controller")
	c.Flags().BoolVar(&o.beside, "beside", false, "end with stdin, and only say what is wrong: how bight ship has a worker")
	_ = c.Flags().MarkHidden("beside")
	c.Flags().StringVar(&o.name, "name", "", "name of the worker (default: of user, machine and process)")
	return c
}

func (o *workerOptions) check() error {
	if o.slots < 1 || o.slots > 64 {
		return usageError("--slots %d: a worker does 1 to 64 steps at once", o.slots)
	}
	for _, a := range o.apps {
		if strings.Count(a, "/") != 1 {
			return usageError("--app %s: write NAMESPACE/NAME", a)
		}
	}
	return o.read()
}

func (p *Program) runWorker(ctx context.Context, t *target, o workerOptions) error {
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
	if o.beside {
		return w.Run(untilEOF(ctx, p.Stdin))
	}
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

// untilEOF returns a context that ends when nothing more comes from r. What reads it
// ends with the program.
func untilEOF(ctx context.Context, r io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, r)
	}()
	return ctx
}

// worker makes a worker of this machine. release is called when it has ended.
func (p *Program) worker(ctx context.Context, t *target, cluster *kube.Cluster, to *client.Client, o workerOptions) (w *work.Client, release func() error, err error) {
	s := WorkerSettings{
		Hello:   work.Hello{Name: o.name, Version: p.Version, Slots: o.slots, Apps: o.apps, Untrusted: o.untrusted},
		Cluster: cluster, Controller: to, Signer: o.signer, VulnDB: o.vulnDB, Log: t.log(p.Stderr),
	}
	if s.Hello.Name == "" {
		host, _ := os.Hostname()
		s.Hello.Name = fmt.Sprintf("%s@%s-%d", userName(), host, os.Getpid())
	}
	if s.Cache, err = cacheDir(); err != nil {
		return nil, nil, err
	}
	if s.Results, err = resultsDir(); err != nil {
		return nil, nil, err
	}
	if s.Registry, err = session.FindRegistry(ctx, cluster, t.registry); err != nil {
		return nil, nil, err
	}
	if s.Agent, err = agentProgram(); err != nil {
		return nil, nil, err
	}
	return p.Outer.Worker(s)
}

// controllerClient is the way to the cluster's controller, for an app of a namespace.
func controllerClient(cluster *kube.Cluster, namespace string) *client.Client {
	return &client.Client{Cluster: cluster, Namespace: namespace, System: install.Namespace, Controller: install.Controller, Port: install.ControllerPort}
}
