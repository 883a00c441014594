package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/bridge/podview"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/ui/term"
)

// runOptions are the flags of bight run.
type runOptions struct {
	rule                       ruleFlags
	intercept, mirror, replace bool
	port, source               string
	publish                    []uint
	network                    string
	unmarked                   bool // --no-propagate
}

func (p *Program) runCommand() *cobra.Command {
	var t target
	var o runOptions
	c := &cobra.Command{
		Use:   "run [SERVICE] [flags] -- COMMAND [ARG...]",
		Short: "Run a command here as though it were in a service's pod",
		Long: `Run a command on this machine as though it were in SERVICE's pod: with its
environment variables, its mounted ConfigMaps and Secrets at their paths, the
cluster's names and addresses; what it connects to, it reaches from the pod.
Without SERVICE it gets the cluster's network and names only, by any pod of the app
or, where bight up has deployed none, by the node agents and any pod of the namespace.

SERVICE is one of the app in this directory, or a workload that somebody else
deployed, written deploy/NAME, svc/NAME, sts/NAME or ds/NAME, or pod/NAME for one pod
of a StatefulSet; those are reached by what bight install installs or, where that is
not, by an ephemeral container in each pod, whose image is pushed to --registry.

With --intercept, requests for SERVICE come to the command: all of them, or those
that --header and --path choose. The others, and all while the command does not
listen, are answered in the cluster as before. What the command asks of other
services for a request that came by --header gets that header, too.

With --replace, all of SERVICE's requests come to the command, on every port, and
the process in the pods is stopped meanwhile: what it consumes, messages of a queue
for example, is left to the command. It runs again at once when the command has
ended or this machine falls silent.

Nothing on this machine is changed and no root is needed: the command gets a
network of its own. That needs Linux. Elsewhere, and with --network proxy, it has
this machine's: variables that name services lead through loopback ports, a proxy to
the cluster is named in ALL_PROXY and HTTP_PROXY, and mounted files are not there.
It exits with the command's exit code.`,
		Example: `  bight run cart -- go run ./cmd/cart
  bight run cart --intercept --header x-dev=ada -- dlv debug ./cmd/cart
  bight run worker --replace -- go run ./cmd/worker
  bight run deploy/cart -n shop --intercept --header x-dev=ada -- ./cart
  bight run -- curl http://cart:8080/healthz`,
		RunE: func(c *cobra.Command, args []string) error {
			dash := c.ArgsLenAtDash()
			if dash < 0 || dash == len(args) {
				return noCommand(c.Context(), c.CommandPath(), o.source, args)
			}
			if dash > 1 {
				return usageError("%s takes one service before --, not %q", c.CommandPath(), args[:dash])
			}
			service := ""
			if dash == 1 {
				service = args[0]
			}
			return p.run(c.Context(), &t, o, service, args[dash:])
		},
		ValidArgsFunction: t.completeSubjects(&o.source, true),
	}
	t.flags(c)
	t.registryFlag(c)
	t.containerFlag(c)
	c.Flags().BoolVar(&o.intercept, "intercept", false, "requests for SERVICE come to the command")
	c.Flags().BoolVar(&o.mirror, "mirror", false, "copies of requests for SERVICE come to the command; its answers are dropped")
	c.Flags().BoolVar(&o.replace, "replace", false, "all requests for SERVICE come to the command, and its process in the pods is stopped meanwhile")
	c.Flags().StringVar(&o.port, "port", "", "port of SERVICE to steer, by number or name (default: the first that is not UDP)")
	c.Flags().UintSliceVar(&o.publish, "publish", nil, "ports of the command to open on this machine's loopback too")
	c.Flags().BoolVar(&o.unmarked, "no-propagate", false, "do not add the header of --header to what the command asks of other services")
	c.Flags().StringVar(&o.network, "network", "auto", "auto: one of the command's own, where this machine can do that; proxy: this machine's, with a proxy and loopback ports")
	o.rule.flags(c)
	sourceFlag(c, &o.source)
	return c
}

// noCommand says what to give bight run, to which args were given without a command.
func noCommand(ctx context.Context, path, source string, args []string) error {
	if len(args) > 1 {
		return usageError("%s: put -- before the command, as in %[1]s %s -- %s", path, args[0], strings.Join(args[1:], " "))
	}
	service, command := "cart", "go run ./cmd/cart"
	a, err := planHere(ctx, source)
	switch {
	case len(args) == 1:
		service, command = args[0], "COMMAND"
		if err == nil && a.Service(service) != nil {
			command = startHere(a.Service(service))
		}
	case err == nil && len(a.Services) > 0:
		service, command = a.Services[0].Name, startHere(a.Services[0])
	}
	return usageError("there is no command to run on this machine: name it after --, as in %s %s -- %s, or %[1]s %[2]s -- sh for a shell as in its pod", path, service, command)
}

// startHere is how a person starts a service's program from its source.
func startHere(s *app.Service) string {
	switch {
	case s.Build.Kind != app.BuildGo:
		return "COMMAND"
	case s.Build.Module == "" || s.Build.Module == ".":
		return strings.Join(append([]string{"go run", s.Build.Package}, s.Args...), " ")
	}
	return strings.Join(append([]string{"go run -C", s.Build.Module, s.Build.Package}, s.Args...), " ")
}

// check refuses flags that do not go together.
func (o *runOptions) check(service string) (mode steer.Mode, err error) {
	steers := len(o.rule.headers) > 0 || o.rule.path != "" || o.rule.strict || o.port != ""
	modes := o.intercept || o.mirror || o.replace
	switch {
	case o.intercept && o.mirror:
		return "", usageError("--intercept and --mirror: a request is either answered here or copied; leave one out")
	case o.replace && o.mirror:
		return "", usageError("--replace and --mirror: a process that is stopped answers nothing of which there could be a copy; leave one out")
	case o.mirror && o.rule.strict:
		return "", usageError("--mirror and --strict: of a copy nobody waits for the answer; leave out --strict")
	case (modes || steers) && service == "":
		return "", usageError("say whose requests come here: bight run SERVICE --intercept -- COMMAND")
	case o.replace && (len(o.rule.headers) > 0 || o.rule.path != ""):
		return "", usageError("--replace: whose requests would the stopped process answer? Leave out --header and --path, or take --intercept for some of the requests")
	case o.replace && o.port != "":
		return "", usageError("--replace: it is about every port of the service; leave out --port")
	case steers && !modes:
		return "", usageError("--header, --path, --port and --strict say which requests come here: add --intercept or --mirror")
	case o.unmarked && len(o.rule.headers) == 0:
		return "", usageError("--no-propagate is about the header of --header, which is not given; leave it out")
	case o.network != "" && o.network != "auto" && o.network != "proxy":
		return "", usageError("--network %s: it is auto or proxy", o.network)
	case o.replace:
		return steer.Replace, nil
	case o.mirror:
		return steer.Mirror, nil
	case o.intercept:
		return steer.Intercept, nil
	}
	return "", nil
}

func (p *Program) run(ctx context.Context, t *target, o runOptions, service string, command []string) error {
	mode, err := o.check(service)
	if err != nil {
		return err
	}
	order := bridge.Order{Command: command, Env: os.Environ(), Unmarked: o.unmarked, Plain: o.network == "proxy"}
	for _, port := range o.publish {
		if port == 0 || port > 65535 {
			return usageError("--publish %d: a port is between 1 and 65535", port)
		}
		order.Publish = append(order.Publish, uint16(port))
	}
	printer := p.printer(false, nil)
	defer printer.Close()
	s, err := p.subject(ctx, t, o.source, service, printer)
	if err != nil {
		return err
	}
	if mode != "" {
		if order.Rule, err = s.rule(&o.rule, o.port, mode); err != nil {
			return err
		}
	}
	if order.Rule != nil {
		left, stop := onLeave()
		defer stop()
		order.Leave = left
	}
	leave, err := s.admit(ctx, order.Rule, true)
	if err != nil {
		return err
	}
	defer leave()
	defer tellLeft(ctx, order.Rule, s.bridge.Say)()
	order.Service = s.name
	return s.explain(ctx, p.runOrder(ctx, s.bridge, order))
}

// runOrder runs a command with the standard streams; its exit code is bight's.
func (p *Program) runOrder(ctx context.Context, b *bridge.Bridge, order bridge.Order) error {
	order.Stdin, _ = p.Stdin.(*os.File)
	order.Stdout, _ = p.Stdout.(*os.File)
	order.Stderr, _ = p.Stderr.(*os.File)
	code, err := b.Run(ctx, order)
	var start *jail.StartError
	switch {
	case errors.As(err, &start):
		return codedError{code: start.Code, err: err}
	case err != nil:
		return err
	case code != 0:
		return codedError{code: code, err: fmt.Errorf("the command ended with %d", code), silent: true}
	}
	return nil
}

func (p *Program) connectCommand() *cobra.Command {
	var t target
	var source string
	var useProxy bool
	var port int
	c := &cobra.Command{
		Use:   "connect [--proxy [SERVICE]]",
		Short: "Open a shell with the cluster's network, or a proxy to it",
		Long: `Open a shell that has the cluster's network and names: what it starts reaches
Services and pods as a pod does. Nothing else on this machine is changed. That
needs Linux.

With --proxy, serve SOCKS5 and HTTP on a loopback port instead, for programs that
can't be started from the shell, and on every system. Names are resolved in the
cluster. With SERVICE, also open a loopback port for each service that its variables
name, and print the variables as they read here, for a program that is started
elsewhere.`,
		Example: `  bight connect
  bight connect --proxy        then: curl -x socks5h://127.0.0.1:1080 http://cart:8080/
  bight connect --proxy cart > .env`,
		Args: atMost(1, "one service"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && !useProxy {
				return usageError("a shell as in %s's pod is bight run %[1]s -- $SHELL; with --proxy, %[1]s says whose variables to print", args[0])
			}
			if port < 0 || port > 65535 {
				return usageError("--port %d: a port is between 1 and 65535", port)
			}
			printer := p.printer(false, nil)
			defer printer.Close()
			if useProxy {
				return p.connectProxy(c.Context(), &t, source, args, port, printer)
			}
			return p.connect(c.Context(), &t, source, printer)
		},
	}
	t.flags(c)
	t.containerFlag(c)
	c.Flags().BoolVar(&useProxy, "proxy", false, "serve SOCKS5 and HTTP on a loopback port instead of a shell")
	c.Flags().IntVar(&port, "port", 1080, "port of the proxy; 0 takes any free one")
	sourceFlag(c, &source)
	return c
}

// connect runs a shell with the network of a namespace.
func (p *Program) connect(ctx context.Context, t *target, source string, printer *term.Printer) error {
	s, err := p.subject(ctx, t, source, "", printer)
	if err != nil {
		return err
	}
	leave, err := s.admit(ctx, nil, true)
	if err != nil {
		return err
	}
	defer leave()
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	namespace := s.bridge.Namespace
	printer.Note("", fmt.Sprintf("a shell with the network of namespace %s%s; leave with exit", namespace, suggestion(s.app)))
	return s.explain(ctx, p.runOrder(ctx, s.bridge, bridge.Order{Command: []string{shell}, Env: append(os.Environ(), "BIGHT_NAMESPACE="+namespace)}))
}

// suggestion is something to try in a shell with the app's network.
func suggestion(a *app.App) string {
	if a == nil {
		return ""
	}
	for _, s := range a.Services {
		if port := steerable(s); port != nil && port.Protocol == app.HTTP {
			return fmt.Sprintf("; try curl http://%s:%d", s.Name, port.Number)
		}
	}
	return ""
}

// connectProxy serves the proxy, with the variables of a service if one is named, until
// ctx ends.
func (p *Program) connectProxy(ctx context.Context, t *target, source string, args []string, port int, printer *term.Printer) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	s, err := p.subject(ctx, t, source, name, printer)
	if err != nil {
		return err
	}
	leave, err := s.admit(ctx, nil, true)
	if err != nil {
		return err
	}
	defer leave()
	return interrupted(ctx, s.explain(ctx, p.serveProxy(ctx, s, printer, port)))
}

// serveProxy serves the proxy until ctx ends.
func (p *Program) serveProxy(ctx context.Context, s *subject, printer *term.Printer, port int) error {
	ln, err := listenLoopback(port)
	if err != nil {
		return err
	}
	at := ln.Addr().String()
	printer.Note("", "the cluster's network by SOCKS5 and HTTP, until Ctrl-C:")
	printer.Note("", "export ALL_PROXY=socks5h://"+at+" HTTP_PROXY=http://"+at+" HTTPS_PROXY=http://"+at)
	return s.bridge.Proxy(ctx, s.name, ln, func(env []reach.Variable) error { return podview.WriteDotenv(p.Stdout, env) })
}
