package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
)

// Order says what Run runs.
type Order struct {
	Service string // whose pod it is as if in; "" for any pod of the app and its network only
	Command []string
	Dir     string
	Env     []string // of this process
	Stdin   *os.File
	Stdout  *os.File
	Stderr  *os.File

	// Rule is what of the service's requests comes to the command, nil for nothing.
	// Its ID and owner are filled in.
	Rule *steer.Rule
	// Leave, once it is closed, has Rule taken back while the command goes on. It may be
	// nil.
	Leave <-chan struct{}
	// Unmarked says that the requests which the command sends on are not given the
	// header that Rule wants.
	Unmarked bool
	// Plain runs the command without a network of its own, as is done where that
	// can't be had: see plain.
	Plain bool
	// Calls, where it is not nil, stands between the command and the services that it
	// calls.
	Calls Calls
	named *names // its hosts, nil for none
	// Publish are ports of the command to open on this machine's loopback too.
	Publish []uint16
	// Started, if not nil, is called when the command runs, with a way to its ports.
	Started func(dial func(ctx context.Context, network string, port uint16) (net.Conn, error))
}

// Run runs a command with the cluster's network, and with the environment and files
// of a service's pod, and returns its exit code. Errors are about what kept it from
// being started, a *jail.StartError among them.
func (b *Bridge) Run(ctx context.Context, o Order) (int, error) {
	if err := b.check(o.Service); err != nil {
		return 0, err
	}
	var covers atomic.Pointer[cover]
	context.AfterFunc(ctx, b.losses().end)
	ctx, stop := afterwards(ctx, &covers)
	defer stop()
	w, err := b.way(ctx, o.Service)
	if err != nil {
		return 0, err
	}
	defer w.close()
	var pod *reach.Pod
	var files []reach.FileSet
	var calls caused
	calls.mark(o, b.Say)
	g, asking := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if pod, err = reach.GetPod(asking, w); err != nil {
			return fmt.Errorf("ask pod %s what its process was given: %w", w.through(), err)
		}
		return nil
	})
	if o.Service != "" {
		g.Go(func() (err error) {
			if files, err = reach.GetFiles(asking, w, nil); err != nil {
				return fmt.Errorf("ask pod %s for its files: %w", w.through(), err)
			}
			return nil
		})
	}
	var started atomic.Pointer[inside]
	var here *listener
	if o.Rule != nil {
		here = b.starting(*o.Rule)
		g.Go(func() error {
			// A rule that is refused keeps the command from being started. Until it
			// is, the app answers.
			c, err := b.cover(ctx, *o.Rule, calls.handler(patient(o.Rule.Mode, here.noting(func(ctx context.Context, info steer.Info) (net.Conn, error) {
				if dial := started.Load(); dial != nil {
					return (*dial)(ctx, "tcp", uint16(info.Port))
				}
				return nil, errors.New("the command has not started")
			}))))
			if err != nil {
				return err
			}
			covers.Store(c)
			return nil
		})
	}
	err = g.Wait()
	covering := covers.Load()
	if covering != nil {
		defer covering.leave()
	}
	if err != nil {
		return 0, err
	}
	if covering != nil {
		b.Say(active(covering, *o.Rule))
		defer b.leaves(ctx, covering.leave, o)()
	}
	if o.Calls != nil {
		o.named = newNames(o.Calls)
	}
	b.leaveProxies(&o)
	if !o.Plain {
		j, err := b.start(ctx, w, o, pod, files, &calls)
		if why := noJail(err); why == nil {
			if err != nil {
				return 0, err
			}
			dial := inside(j.DialInside)
			started.Store(&dial)
			defer here.watch(ctx, dial, j.Listening)()
			o.begun(j.DialInside)
			return b.accompany(ctx, w, j, o, files, &calls, covering)
		} else {
			b.Say(fmt.Sprintf("the command has no network of its own: %v", why))
		}
	}
	dial := inside(jail.DialMachine)
	started.Store(&dial)
	defer here.watch(ctx, dial, nil)()
	o.begun(jail.DialMachine)
	return b.plain(ctx, w, o, pod, covering)
}

func (o *Order) begun(dial inside) {
	if o.Started != nil {
		o.Started(dial)
	}
}

// inside connects to a port of the command.
type inside func(ctx context.Context, network string, port uint16) (net.Conn, error)

// noJail returns why a command can't have a network of its own, nil if that is not
// what went wrong.
func noJail(err error) error {
	if errors.Is(err, jail.ErrUnsupported) || errors.As(err, new(*jail.SetupError)) {
		return err
	}
	return nil
}

// lastAnswers is how long an interrupted command may answer what it was asked before.
const lastAnswers = 2 * time.Second

// afterwards returns a context that ends after ctx: first the rule is taken back, if
// there is one by then, and requests under way have a moment to end. stop ends it at
// once, and waits.
func afterwards(ctx context.Context, covering *atomic.Pointer[cover]) (after context.Context, stop func()) {
	after, end := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer end()
		select {
		case <-ctx.Done():
		case <-after.Done():
		}
		if c := covering.Load(); c != nil {
			late := time.AfterFunc(lastAnswers, end)
			defer late.Stop()
			c.leave()
		}
	}()
	return after, func() { end(); <-over }
}

// start starts the command.
func (b *Bridge) start(ctx context.Context, w *way, o Order, pod *reach.Pod, files []reach.FileSet, calls *caused) (*jail.Jail, error) {
	dialer := &reach.Dialer{Open: w}
	full := &crowd{say: b.Say}
	resolver := reach.NewResolver(w)
	context.AfterFunc(ctx, func() { _ = resolver.Close() })
	resolve := resolver.Exchange
	if o.named != nil {
		o.named.next, resolve = resolver.Exchange, o.named.resolve
	}
	config := jail.Config{
		Command: o.Command, Dir: o.Dir, Env: o.Env, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		Resolv: pod.ResolvConf, IPv6: pod.IPv6,
		Dial: calls.dial(func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			at, said := o.named.where(to)
			return o.connect(ctx, said, func(ctx context.Context) (net.Conn, error) {
				conn, err := dialer.DialContext(ctx, network, at)
				return conn, full.note(err)
			})
		}),
		DialUDP: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			at, _ := o.named.where(to)
			conn, err := dialer.DialContext(ctx, "udp", at)
			return conn, full.note(err)
		},
		Resolve: resolve, Services: jail.Services{TCP: o.named.ports()}, Log: b.Log,
	}
	if o.Calls == nil { // a replayed command reaches what its switchboard lets it
		config.Machine = onLoopback(b.Cluster)
	}
	if o.Service != "" {
		config.Env = environment(o.Env, pod.Env)
		config.Hosts = pod.Hosts
		config.Hostname = pod.Hostname
		config.Mounts = mounts(files)
	}
	return jail.Start(ctx, config)
}

// accompany does what a running command needs until it ends.
func (b *Bridge) accompany(ctx context.Context, w *way, j *jail.Jail, o Order, files []reach.FileSet, calls *caused, covering *cover) (int, error) {
	beside, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return b.watchServices(beside, j, o.named.ports(), calls.learn) })
	g.Go(func() error { b.tellRevoked(beside, covering); return nil })
	if len(files) > 0 {
		g.Go(func() error { return b.renew(beside, w, j) })
	}
	for _, port := range o.Publish {
		if at, err := j.Publish(port, port); err != nil {
			b.Say(fmt.Sprintf("port %d is not opened here: %v", port, unopened(err)))
		} else {
			b.Say(fmt.Sprintf("port %d of the command is at http://%s", port, at))
		}
	}
	code, err := j.Wait()
	b.losses().end()
	stop()
	return code, errors.Join(err, g.Wait())
}

// unopened says why a port of this machine can't be had.
func unopened(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return errors.New("it is in use on this machine")
	case errors.Is(err, syscall.EACCES):
		return errors.New("you may not listen there on this machine")
	}
	return err
}

// leaves takes the rule of a command back when the order says so, until the function is
// called that it returns.
func (b *Bridge) leaves(ctx context.Context, leave func(), o Order) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-o.Leave:
			b.Say(fmt.Sprintf("intercept %s ends, by bight intercept leave; the command goes on", o.Rule.ID))
			leave()
		case <-ctx.Done():
		}
	})
	return func() { cancel(); waiting.Wait() }
}

// tellRevoked tells the user, until ctx ends, when requests do not come here any more.
func (b *Bridge) tellRevoked(ctx context.Context, covering *cover) {
	if covering == nil {
		return
	}
	select {
	case <-covering.revoked:
		b.Say(fmt.Sprintf("requests do not come here any more: %v; the command goes on, but without the cluster's network, which it had by the same right", covering.failure()))
	case <-ctx.Done():
	}
}

// active says that a rule is in force.
func active(c *cover, rule steer.Rule) string {
	pods, _ := c.counts()
	where := "here"
	if rule.Mode == steer.Mirror {
		where = "here as copies"
	}
	noun := "pods"
	if pods == 1 {
		noun = "pod"
	}
	if rule.Mode == steer.Replace {
		return fmt.Sprintf("%s → %s: every request, and its process is stopped (%s, in force in %d %s)", rule.Service, where, rule.ID, pods, noun)
	}
	return fmt.Sprintf("%s:%d → %s: %s (%s, in force in %d %s)", rule.Service, rule.Port, where, rule.Match, rule.ID, pods, noun)
}

// renew shows files as they change in the pod: tokens that are renewed, for example.
func (b *Bridge) renew(ctx context.Context, w *way, j *jail.Jail) error {
	for ctx.Err() == nil {
		err := reach.WatchFiles(ctx, w, nil, func(sets []reach.FileSet) error {
			for _, m := range mounts(sets) {
				if err := j.Update(m); err != nil && ctx.Err() == nil {
					b.Log.Debug("mounted files are old", "path", m.Path, "error", err)
				}
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		b.Log.Debug("mounted files are not followed", "error", err)
		pause(ctx)
	}
	return nil
}

// mounts are files as jails take them.
func mounts(sets []reach.FileSet) []jail.Mount {
	var all []jail.Mount
	for _, set := range sets {
		m := jail.Mount{Path: set.Path}
		for _, f := range set.Entries {
			name := f.Name
			if name == "." {
				name = ""
			}
			m.Files = append(m.Files, jail.File{Name: name, Mode: f.Mode, Content: f.Content, Link: f.Target})
		}
		all = append(all, m)
	}
	return all
}

// own are the variables that belong to this machine whatever the pod has: where
// programs and the user's files are.
var own = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TMPDIR", "TERM", "COLORTERM", "LANG", "DISPLAY",
	"XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "GOPATH", "GOROOT", "GOCACHE", "GOMODCACHE", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

// proxies are the variables, in either case, that name this machine's way out. Whoever has
// the pod's network has no such way: a proxy of the machine may not be there, and does not
// know the cluster's names.
var proxies = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// inCluster is the environment of this machine without its proxies, and which these are.
func inCluster(here []string) (env, left []string) {
	for _, kv := range here {
		name, value, _ := strings.Cut(kv, "=")
		switch lower := strings.ToLower(name); {
		case !slices.Contains(proxies, lower):
			env = append(env, kv)
		case value != "" && lower != "no_proxy":
			left = append(left, name)
		}
	}
	return env, left
}

// leaveProxies takes this machine's proxies out of the command's environment, and says so.
func (b *Bridge) leaveProxies(o *Order) {
	env, left := inCluster(o.Env)
	if o.Env = env; len(left) > 0 {
		b.Say(fmt.Sprintf("the command does not get this machine's %s: it reaches everything by the cluster's network", strings.Join(left, ", ")))
	}
}

// environment is that of the command: this machine's, with the pod's variables above
// it but for those that say where things are on this machine.
func environment(here []string, pod []reach.Variable) []string {
	env := slices.Clone(here)
	for _, v := range pod {
		if v.Name == "HOSTNAME" || !slices.Contains(own, v.Name) || !has(here, v.Name) {
			env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, v.Name+"=") })
			env = append(env, v.Name+"="+v.Value)
		}
	}
	return env
}

func has(env []string, name string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
}
