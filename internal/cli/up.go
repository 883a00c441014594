package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
)

func (p *Program) upCommand() *cobra.Command {
	var (
		t      target
		once   bool
		events string
		port   int
		output string
	)
	c := &cobra.Command{
		Use:   "up [DIR]",
		Short: "Run the app in DIR on Kubernetes and keep it equal to the source",
		Long: `Run the app in DIR (default: here) on Kubernetes and keep it equal to the source.

It reads the services, their ports and how they find each other from the source,
builds them, deploys them into a namespace of your own, opens a URL for each and
then follows every save until Ctrl-C. The app keeps running after that.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := directory(args)
			if err != nil {
				return err
			}
			return p.runUp(c, &t, dir, upOptions{once: once, events: events, port: port, json: output == "json"})
		},
	}
	t.flags(c)
	c.Flags().BoolVar(&once, "once", false, "exit when everything is ready (0) or cannot be (1)")
	c.Flags().StringVar(&events, "events", "", "append one JSON object per event to this file")
	c.Flags().IntVar(&port, "port", 0, "local port of the URLs (default: 8000, or any free one)")
	c.Flags().StringVar(&t.registry, "registry", "", "registry to push to (default: the one that the cluster announces)")
	c.Flags().BoolVar(&t.takeOver, "take-over", false, "overwrite what others have set of the app's objects")
	p.outputFlag(c, &output)
	return c
}

type upOptions struct {
	once   bool
	events string
	port   int
	json   bool
}

func (p *Program) runUp(c *cobra.Command, t *target, dir string, o upOptions) error {
	ctx := c.Context()
	var events io.Writer
	if o.events != "" {
		f, err := os.OpenFile(o.events, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("open the events file: %w", err)
		}
		defer f.Close()
		events = f
	}
	config, err := p.sessionConfig(c, t, dir)
	if err != nil {
		return err
	}
	config.Printer, config.Port = p.printer(o.json, events), o.port
	defer config.Printer.Close()
	s, err := session.Open(ctx, *config)
	if err != nil {
		return err
	}
	err = s.Up(ctx, o.once)
	switch {
	case err != nil && session.IsReported(err):
		return codedError{code: exitFailed, err: err, silent: true}
	case err == nil && ctx.Err() != nil && o.once:
		return codedError{code: exitInterrupted, err: context.Cause(ctx)}
	case err == nil && ctx.Err() != nil:
		return codedError{code: exitInterrupted, err: ctx.Err(), silent: true}
	}
	return err
}

// sessionConfig gathers what a session needs. Where there is no cluster at all,
// the embedded one is started.
func (p *Program) sessionConfig(c *cobra.Command, t *target, dir string) (*session.Config, error) {
	cluster, err := t.cluster()
	var missing *kube.ConfigError
	if errors.As(err, &missing) && t.context == "" && t.kubeconfig == "" {
		fmt.Fprintln(p.Stderr, "there is no cluster in the kubeconfig; starting the embedded one (bight cluster start)")
		if kubeErr := p.kube(c, []string{"start"}); kubeErr != nil {
			return nil, kubeErr
		}
		cluster, err = t.cluster()
	}
	if err != nil {
		return nil, err
	}
	allowed, err := t.allowed()
	if err != nil {
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
		Dir: dir, Cluster: cluster, Namespace: t.namespace, User: userName(), Allowed: allowed,
		TakeOver: t.takeOver, Registry: t.registry, Agent: agent, CacheDir: cache, Version: p.Version, Log: t.log(p.Stderr),
	}, nil
}
