package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/ui/term"
)

// bridge returns what leads to the environment of the app in dir or, where there is no
// source, to that of the one that is deployed in the namespace.
func (p *Program) bridge(ctx context.Context, t *target, dir string, printer *term.Printer) (*bridge.Bridge, *app.App, error) {
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, nil, err
	}
	a, namespace, err := t.theApp(ctx, dir, cluster)
	if err != nil {
		return nil, nil, err
	}
	b, err := p.bridgeTo(ctx, t, a, namespace, cluster, printer)
	return b, a, err
}

// bridgeTo returns what leads to an app in a namespace.
func (p *Program) bridgeTo(ctx context.Context, t *target, a *app.App, namespace string, cluster *kube.Cluster, printer *term.Printer) (*bridge.Bridge, error) {
	client, err := cluster.Typed()
	if err != nil {
		return nil, err
	}
	b := &bridge.Bridge{
		Cluster: cluster, Namespace: namespace, App: a.Name, Selector: session.Selector(a.Name),
		Service: session.ServiceOf,
		Agent: func(pod *core.Pod) (int, bool) {
			agent, ok := deploy.AgentIn(&pod.Spec, session.ServiceOf(pod))
			return agent.Port, ok
		},
		Owner: ownName(), Version: p.Version,
		Lives: func(r steer.Rule) bool {
			m, ok := makerOf(r.ID)
			return !ok || m.lives()
		},
		Say: func(text string) { printer.Note("", text) }, Log: t.log(p.Stderr),
	}
	for _, s := range a.Services {
		b.Services = append(b.Services, s.Name)
	}
	b.Prepare(ctx)
	if b.Token, err = (&deploy.Applier{Client: client}).Token(ctx, namespace, a.Name); err != nil {
		return nil, cluster.Explain(err)
	}
	return b, nil
}

// planHere is the plan of the source in dir.
func planHere(ctx context.Context, dir string) (*app.App, error) {
	source, err := directory([]string{dir})
	if err != nil {
		return nil, err
	}
	return session.Plan(ctx, source)
}

// ownName is who owns the rules of this process, for people.
func ownName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return userName() + "@" + host
}

// ruleFlags are what of a service's requests is steered.
type ruleFlags struct {
	headers []string
	path    string
	strict  bool
}

func (r *ruleFlags) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&r.headers, "header", nil, "only requests with this header, NAME=VALUE (VALUE* for a beginning); may be repeated")
	c.Flags().Var((*once)(&r.path), "path", "only requests for paths below this one")
	c.Flags().BoolVar(&r.strict, "strict", false, "answer 502 when nothing answers here, instead of letting the app answer")
}

// once is a text that is given once: of two the first would be forgotten silently.
type once string

func (o *once) String() string { return string(*o) }
func (o *once) Type() string   { return "string" }

func (o *once) Set(text string) error {
	if *o != "" {
		return fmt.Errorf("it is %s already, and a rule has one; run the command a second time for the other", *o)
	}
	*o = once(text)
	return nil
}

// rule makes the rule for a port of a service, given by name or number; "" is its
// main one.
func (r *ruleFlags) rule(b *bridge.Bridge, s *app.Service, port string, mode steer.Mode) (*steer.Rule, error) {
	found, err := findPort(s, port)
	if mode == steer.Replace && port == "" && err != nil {
		found, err = &app.Port{}, nil // it consumes a queue, say
	}
	if err != nil {
		return nil, err
	}
	rule := &steer.Rule{
		ID: s.Name + "-" + madeHere(), Owner: b.Owner, Service: s.Name, Port: found.Number, Mode: mode, Strict: r.strict,
	}
	for _, h := range r.headers {
		m, err := steer.ParseHeader(h)
		if err != nil {
			return nil, usageError("%w", err)
		}
		rule.Match.Headers = append(rule.Match.Headers, m)
	}
	if r.path != "" {
		if rule.Match.Path, err = steer.ParsePath(r.path); err != nil {
			return nil, usageError("%w", err)
		}
	}
	protocol := steer.Protocol(found.Protocol)
	if err := rule.Check(protocol); err != nil {
		return nil, usageError("%w", err)
	}
	return rule, nil
}

// steerable is a service's main port of those whose requests can be steered, nil for none.
func steerable(s *app.Service) *app.Port {
	i := slices.IndexFunc(s.Ports, func(p app.Port) bool { return p.Protocol != app.UDP })
	if i < 0 {
		return nil
	}
	return &s.Ports[i]
}

func findPort(s *app.Service, port string) (*app.Port, error) {
	if port == "" {
		if main := steerable(s); main != nil {
			return main, nil
		}
		return nil, usageError("service %s has no TCP port, whose requests could be steered", s.Name)
	}
	var known []string
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == port || strconv.Itoa(p.Number) == port {
			if p.Protocol == app.UDP {
				return nil, usageError("port %s of service %s speaks UDP, which cannot be steered", port, s.Name)
			}
			return p, nil
		}
		known = append(known, fmt.Sprintf("%d (%s)", p.Number, p.Name))
	}
	return nil, codedError{code: exitNotFound, err: fmt.Errorf("service %s has no port %s; there is %s", s.Name, port, strings.Join(known, ", "))}
}

// interrupted makes the end by Ctrl-C what it is.
func interrupted(ctx context.Context, err error) error {
	if err == nil && ctx.Err() != nil {
		return codedError{code: exitInterrupted, err: context.Canceled, silent: true}
	}
	return err
}
