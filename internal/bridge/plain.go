package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/bridge/podview"
	"github.com/bightdev/bight/internal/bridge/proxy"
	"github.com/bightdev/bight/internal/bridge/rewrite"
	"github.com/bightdev/bight/internal/bridge/splice"
	"github.com/bightdev/bight/internal/reach"
)

// plain runs a command with this machine's network: its variables name loopback ports
// in place of the cluster's services, and a proxy for programs that can do with one.
// It works on every system.
func (b *Bridge) plain(ctx context.Context, w *way, o Order, pod *reach.Pod, covering *cover) (int, error) {
	beside, stop := context.WithCancel(ctx)
	var g errgroup.Group
	l := b.locals(beside, w)
	l.order = o
	defer func() { stop(); l.close(); _ = g.Wait() }()
	env := o.Env
	if o.Service != "" {
		env = environment(o.Env, l.rewritten(ctx, pod.Env))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("open a port for the proxy: %w", err)
	}
	g.Go(func() error { return (&proxy.Server{Dial: l.dial, Log: b.Log}).Serve(beside, ln) })
	env = proxied(env, ln.Addr().String())
	g.Go(func() error { b.tellRevoked(beside, covering); return nil })
	b.Say("the command has this machine's network, with a proxy to the cluster's (ALL_PROXY); addresses of services in its variables lead through loopback ports")
	return o.here(ctx, env)
}

// How long a command goes on, when it is to end, that was told by a terminal before it is
// told again, and in any case.
const (
	toldPause = 2 * time.Second
	lastPause = 5 * time.Second
)

// here runs the command on this machine. When ctx ends it is told to end, as in a network
// of its own.
func (o *Order) here(ctx context.Context, env []string) (int, error) {
	cmd := exec.CommandContext(ctx, o.Command[0], o.Command[1:]...)
	cmd.Dir, cmd.Env = o.Dir, env
	cmd.Cancel = func() error {
		if !inForeground() {
			return terminate(cmd.Process)
		}
		// It is most likely for Ctrl-C that ctx ends, of which the terminal has told the
		// command, too: many programs break off what they have to do when told twice.
		time.AfterFunc(toldPause, func() { _ = terminate(cmd.Process) }) // nothing to one that has ended
		return nil
	}
	// A nil *os.File is no nil reader. Who has nothing to read needs no terminal, and can
	// be ended with all that it has started.
	if o.Stdin != nil {
		cmd.Stdin = o.Stdin
	} else {
		defer apart(cmd)()
	}
	if o.Stdout != nil {
		cmd.Stdout = o.Stdout
	}
	if o.Stderr != nil {
		cmd.Stderr = o.Stderr
	}
	cmd.WaitDelay = lastPause
	err := cmd.Run()
	return exitCode(o.Command[0], cmd.ProcessState, err)
}

// exitCode is a command's as shells have it, however it came to its end, or an error that
// says why it did not start.
func exitCode(name string, end *os.ProcessState, err error) (int, error) {
	switch {
	case end != nil && end.ExitCode() >= 0:
		return end.ExitCode(), nil
	case end != nil:
		return 128 + signalOf(end), nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return 0, &jail.StartError{Command: name, Code: 127, Err: err}
	case errors.Is(err, context.Canceled): // before it was started
		return 128 + 9, nil
	}
	return 0, &jail.StartError{Command: name, Code: 126, Err: err}
}

// proxied adds the variables by which programs find a proxy, but for those that there
// are: the pod's.
func proxied(env []string, at string) []string {
	env = slices.Clone(env)
	for name, value := range map[string]string{
		"ALL_PROXY": "socks5h://" + at, "HTTP_PROXY": "http://" + at, "HTTPS_PROXY": "http://" + at,
		"all_proxy": "socks5h://" + at, "http_proxy": "http://" + at, "https_proxy": "http://" + at,
		"NO_PROXY": "localhost,127.0.0.1,::1", "no_proxy": "localhost,127.0.0.1,::1",
	} {
		if !has(env, name) {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// locals are loopback ports that lead to ports of services.
type locals struct {
	b      *Bridge
	ctx    context.Context // of what goes through them
	order  Order           // that of the command, if they are for one
	dialer *reach.Dialer
	full   *crowd

	mu        sync.Mutex
	open      map[rewrite.Port]netip.AddrPort
	listeners []net.Listener
	serving   sync.WaitGroup
}

func (b *Bridge) locals(ctx context.Context, w *way) *locals {
	return &locals{b: b, ctx: ctx, dialer: &reach.Dialer{Open: w}, full: &crowd{say: b.Say}, open: map[rewrite.Port]netip.AddrPort{}}
}

// rewritten is the app's part of an environment, in which services are reached by loopback ports, and
// tells the user which.
func (l *locals) rewritten(ctx context.Context, env []reach.Variable) []reach.Variable {
	env = podview.OfApp(env)
	services, err := l.b.named(ctx)
	if err != nil {
		l.b.Say(fmt.Sprintf("the variables are as in the pod, because services are not known: %v", err))
		return env
	}
	out, changes, why := rewrite.Apply(env, services, l.listen)
	for _, c := range changes {
		l.b.Say(fmt.Sprintf("%s is %s here, %s in the pod", c.Name, c.To, c.From))
	}
	for _, err := range why {
		l.b.Say(err.Error())
	}
	return out
}

// listen opens a port, or finds the one that is open. It is a rewrite.Open.
func (l *locals) listen(p rewrite.Port, exactly bool) (netip.AddrPort, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.open[p]; ok && (!exactly || int(at.Port()) == p.Number) {
		return at, nil
	}
	number := 0
	if exactly {
		number = p.Number
	}
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(number)))
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	l.open[p] = at
	l.listeners = append(l.listeners, ln)
	l.serving.Go(func() { l.serve(ln, p.String()) })
	return at, nil
}

func (l *locals) serve(ln net.Listener, to string) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.b.Log.Debug("accept a connection", "to", to, "error", err)
			pause(l.ctx)
			continue
		}
		l.serving.Go(func() {
			far, err := l.dial(l.ctx, "tcp", to)
			if err != nil {
				l.b.Log.Debug("connect from a loopback port", "to", to, "error", err)
				if c, ok := conn.(*net.TCPConn); ok {
					_ = c.SetLinger(0) // the nearest to a refusal that there is
				}
				_ = conn.Close()
				return
			}
			splice.Conns(l.ctx, conn, far)
		})
	}
}

// dial connects to HOST:PORT, as a command of ours does.
func (l *locals) dial(ctx context.Context, network, to string) (net.Conn, error) {
	return l.order.connect(ctx, to, func(ctx context.Context) (net.Conn, error) {
		conn, err := l.dialer.DialContext(ctx, network, to)
		return conn, l.full.note(err)
	})
}

// close ends the ports, and what goes through them with its context.
func (l *locals) close() {
	l.mu.Lock()
	for _, ln := range l.listeners {
		_ = ln.Close()
	}
	l.mu.Unlock()
	l.serving.Wait()
}

// named are the Services that variables may name: those of the namespace, and of all
// others if the user may see them.
func (b *Bridge) named(ctx context.Context) ([]rewrite.Service, error) {
	client, err := b.Cluster.Typed()
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Services("").List(ctx, meta.ListOptions{})
	if err != nil {
		if list, err = client.CoreV1().Services(b.Namespace).List(ctx, meta.ListOptions{}); err != nil {
			return nil, b.Cluster.Explain(err)
		}
	}
	var all []rewrite.Service
	for _, s := range list.Items {
		if named := b.namesOf(&s); len(named.Ports) > 0 {
			all = append(all, named)
		}
	}
	return all, nil
}

// namesOf are the ways to name a Service from our namespace.
func (b *Bridge) namesOf(s *core.Service) rewrite.Service {
	whole := s.Name + "." + s.Namespace
	out := rewrite.Service{Hosts: []string{whole, whole + ".svc", whole + ".svc.cluster.local"}}
	if s.Namespace == b.Namespace {
		out.Hosts = append(out.Hosts, s.Name)
	}
	for _, ip := range s.Spec.ClusterIPs {
		if ip != core.ClusterIPNone {
			out.Hosts = append(out.Hosts, ip)
		}
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol == core.ProtocolTCP || p.Protocol == "" {
			out.Ports = append(out.Ports, int(p.Port))
		}
	}
	return out
}
