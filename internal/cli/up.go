package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) upCommand() *cobra.Command {
	var (
		t      target
		o      upOptions
		output string
	)
	c := &cobra.Command{
		Use:   "up [DIR]",
		Short: "Run the app in DIR on Kubernetes and keep it equal to the source",
		Long: `Run the app in DIR (default: here) on Kubernetes and keep it equal to the source.

It reads the services, their ports and how they find each other from the source,
builds them, deploys them into a namespace of your own, opens a URL for each and
then follows every save until Ctrl-C. The app keeps running after that.

Where no kubeconfig names a cluster, the embedded one is started.`,
		Example: `  bight up                     the app in this directory, until Ctrl-C
  bight up --once              exit when it is ready
  bight up -n shop-ada shop    the app in ./shop, in namespace shop-ada`,
		Args: atMost(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := directory(args)
			if err != nil {
				return err
			}
			o.json = output == "json"
			return p.runUp(c.Context(), &t, dir, o)
		},
		ValidArgsFunction: completeDirectories,
	}
	t.flags(c)
	t.registryFlag(c)
	c.Flags().BoolVar(&o.once, "once", false, "exit when everything is ready (0) or cannot be (1)")
	c.Flags().StringVar(&o.events, "events", "", "append one JSON object per event to this file")
	c.Flags().IntVar(&o.port, "port", 0, "local port of the URLs (default: 8000, or any free one)")
	c.Flags().BoolVar(&t.takeOver, "take-over", false, "overwrite what others have set of the app's objects")
	p.outputFlag(c, &output)
	return c
}

type upOptions struct {
	once   bool
	events string // a file
	port   int
	json   bool
}

func (o upOptions) check() error {
	if o.port < 0 || o.port > 65535 {
		return usageError("--port %d: a port is between 1 and 65535; leave it out to take 8000 or any that is free", o.port)
	}
	if o.events == "" {
		return nil
	}
	if info, err := os.Stat(filepath.Dir(o.events)); err != nil || !info.IsDir() {
		return usageError("--events %s: there is no directory %s; name a file in one that exists", o.events, filepath.Dir(o.events))
	}
	if info, err := os.Stat(o.events); err == nil && info.IsDir() {
		return usageError("--events %s is a directory; name a file", o.events)
	}
	return nil
}

func (p *Program) runUp(ctx context.Context, t *target, dir string, o upOptions) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	printer, closePrinter := p.eventPrinter(o)
	defer func() { err = closePrinter(err) }()
	config, err := p.clusterConfig(ctx, t, dir, printer)
	if err != nil {
		return err
	}
	config.Port, config.By = o.port, "bight up"
	s, err := session.Open(ctx, *config)
	if err != nil {
		return err
	}
	if err = s.Up(ctx, o.once); err == nil && ctx.Err() != nil {
		return codedError{code: exitInterrupted, err: context.Canceled, silent: !o.once}
	}
	return err
}

// eventPrinter returns the printer of bight up, and what closes it and its events
// file: it returns the error that it is given, or else that of a lost event.
func (p *Program) eventPrinter(o upOptions) (*term.Printer, func(error) error) {
	if o.events == "" {
		printer := p.printer(o.json, nil)
		return printer, func(err error) error {
			_ = printer.Close() // a reader of stderr that has gone is no failure of the app
			return err
		}
	}
	file := &eventsFile{path: o.events}
	printer := p.printer(o.json, file)
	return printer, func(err error) error {
		_ = printer.Close()
		if lost := file.Close(); err == nil && lost != nil {
			return fmt.Errorf("write the events file: %w", lost)
		}
		return err
	}
}

// eventsFile is a file that is made when the first event is written, so that
// nothing is left behind by a command that was refused. One goroutine at a time
// may use it.
type eventsFile struct {
	path string
	file *os.File
	err  error
}

func (f *eventsFile) Write(b []byte) (int, error) {
	if f.file == nil && f.err == nil {
		f.file, f.err = os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.file.Write(b)
	f.err = err
	return n, err
}

func (f *eventsFile) Close() error {
	if f.file != nil {
		if err := f.file.Close(); f.err == nil {
			f.err = err
		}
	}
	return f.err
}

// clusterConfig is sessionConfig, but where there is no cluster at all, the
// embedded one is started, unless the source makes no plan.
func (p *Program) clusterConfig(ctx context.Context, t *target, dir string, printer *term.Printer) (*session.Config, error) {
	config, err := p.sessionConfig(t, dir, printer)
	var missing *kube.ConfigError
	if !errors.As(err, &missing) || !missing.None || t.context != "" || t.kubeconfig != "" {
		return config, err
	}
	a, err := session.Plan(ctx, dir)
	if err != nil {
		return nil, err
	}
	if len(a.Questions) > 0 {
		return nil, &session.QuestionsError{Questions: a.Questions}
	}
	printer.Note("", "there is no cluster in the kubeconfig; starting the embedded one (bight cluster start)")
	if err := p.kube(ctx, []string{"start"}); err != nil {
		return nil, err
	}
	return p.sessionConfig(t, dir, printer)
}

// sessionConfig gathers what a session needs.
func (p *Program) sessionConfig(t *target, dir string, printer *term.Printer) (*session.Config, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	cluster, allowed, err := t.load(printer)
	if err != nil {
		return nil, err
	}
	config, err := p.localConfig(t, dir, printer)
	if err != nil {
		return nil, err
	}
	config.Cluster, config.Allowed = cluster, allowed
	return config, nil
}

// localConfig is what of a session's configuration needs no cluster.
func (p *Program) localConfig(t *target, dir string, printer *term.Printer) (*session.Config, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	agent, err := agentProgram()
	if err != nil {
		return nil, err
	}
	return &session.Config{
		Dir: dir, Namespace: t.namespace, User: userName(), TakeOver: t.takeOver, Registry: t.registry,
		Agent: agent, CacheDir: cache, Version: p.Version, Printer: printer, Log: t.log(p.Stderr),
	}, nil
}
