package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/bridge/proxy"
)

// Calls stands between a command and the services that it calls.
type Calls interface {
	// Connect returns a connection for a command that wants one to HOST:PORT. dial makes
	// the real one, and is nil for a command that is alone.
	Connect(ctx context.Context, to string, dial func(context.Context) (net.Conn, error)) (net.Conn, error)
	// Refuse is told what the command wanted and could not have.
	Refuse(what, why string)
	// Places are the HOST:PORT that Connect answers for without the real one; Host is how
	// they name a host.
	Places() []string
	Host(name string) string
}

// names gives hosts addresses of their own, by which it is known what a command means:
// those that calls answers for, and for a command that is alone all others, too.
type names struct {
	calls Calls
	next  func(context.Context, []byte) ([]byte, error) // who is asked for others; nil for nobody
	// mode is how the network of a command that is alone is made. It may wait until that is
	// known. nil is [jail.ModeTransparent].
	mode func(context.Context) (jail.Mode, error)

	mu    sync.Mutex
	known map[string]bool // hosts that calls answers for
	at    map[string]netip.Addr
	host  map[netip.Addr]string
	heard map[netip.Addr]string // hosts that have these addresses elsewhere
}

// own4 is where the addresses are: the half of the range for benchmarks (RFC 2544) of
// which jails use nothing.
var own4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, 0, 0}), 16)

func newNames(c Calls) *names {
	n := &names{calls: c, known: map[string]bool{}, at: map[string]netip.Addr{}, host: map[netip.Addr]string{}, heard: map[netip.Addr]string{}}
	for _, p := range c.Places() {
		if host, _, err := net.SplitHostPort(p); err == nil {
			if _, err := netip.ParseAddr(host); err != nil {
				n.known[host] = true
			}
		}
	}
	return n
}

// address is a host's.
func (n *names) address(host string) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.at[host]; ok {
		return a, true
	}
	i := len(n.at) + 1
	if i >= 1<<16 {
		return netip.Addr{}, false
	}
	b := own4.Addr().As4()
	b[2], b[3] = byte(i>>8), byte(i)
	a := netip.AddrFrom4(b)
	n.at[host], n.host[a] = a, host
	return a, true
}

// where is HOST:PORT to connect to for an address, and said is what it is called.
func (n *names) where(to netip.AddrPort) (at, said string) {
	if n == nil {
		return to.String(), to.String()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, port := to.Addr().Unmap(), fmt.Sprint(to.Port())
	if host, ok := n.host[addr]; ok {
		at = net.JoinHostPort(host, port)
		return at, at
	}
	if host, ok := n.heard[addr]; ok {
		return to.String(), net.JoinHostPort(host, port)
	}
	return to.String(), to.String()
}

// hear takes in which addresses a host has.
func (n *names) hear(host string, answer []byte) {
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil || p.SkipAllQuestions() != nil {
		return
	}
	all, err := p.AllAnswers()
	if err != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range all {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			n.heard[netip.AddrFrom4(body.A)] = host
		case *dnsmessage.AAAAResource:
			n.heard[netip.AddrFrom16(body.AAAA)] = host
		}
	}
}

// ports are where all places are, for jails that can carry only what they know of.
func (n *names) ports() (all []netip.AddrPort) {
	if n == nil {
		return nil
	}
	for _, p := range n.calls.Places() {
		host, text, err := net.SplitHostPort(p)
		if err != nil {
			continue
		}
		at, err := netip.ParseAddrPort(p) // it may be an address already
		if err != nil {
			a, ok := n.address(host)
			if at, err = netip.ParseAddrPort(net.JoinHostPort(a.String(), text)); !ok || err != nil {
				continue
			}
		}
		all = append(all, at)
	}
	return all
}

// resolve answers a DNS message. It is a jail's Resolve.
func (n *names) resolve(ctx context.Context, query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	host := n.calls.Host(strings.TrimSuffix(q.Name.String(), "."))
	if !n.known[host] && n.next != nil {
		answer, err := n.next(ctx, query)
		if err == nil {
			n.hear(host, answer)
		}
		return answer, err
	}
	reply := dnsmessage.Header{
		ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
	}
	a, exists, err := n.answer(ctx, host, q.Type)
	if err != nil {
		return nil, err
	}
	if !exists {
		reply.RCode = dnsmessage.RCodeNameError
	}
	out := dnsmessage.NewBuilder(nil, reply)
	out.EnableCompression()
	if err := errors.Join(out.StartQuestions(), out.Question(q), out.StartAnswers()); err != nil {
		return nil, err
	}
	if a.IsValid() {
		if err := out.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 30}, dnsmessage.AResource{A: a.As4()}); err != nil {
			return nil, err
		}
	}
	return out.Finish()
}

// answer is what a host has, an address or nothing, and whether there is such a host. What
// the command asks for in vain is refused: it may be why a request fails. Not so names of
// addresses, which programs ask for to write them down.
func (n *names) answer(ctx context.Context, host string, typ dnsmessage.Type) (a netip.Addr, exists bool, err error) {
	if strings.HasSuffix(host, ".arpa") {
		return a, true, nil
	}
	if typ != dnsmessage.TypeA && typ != dnsmessage.TypeAAAA {
		n.calls.Refuse(fmt.Sprintf("the name %s (%s)", host, strings.TrimPrefix(typ.String(), "Type")), "a recording has no such names")
		return a, true, nil
	}
	mode := jail.ModeTransparent
	if !n.known[host] && n.mode != nil {
		if mode, err = n.mode(ctx); err != nil {
			return a, false, err
		}
	}
	if mode == jail.ModeListeners { // there is nobody at an address that it would get
		if typ == dnsmessage.TypeA { // mostly both are asked for
			n.calls.Refuse("the name "+host, "it knows nobody there")
		}
		return a, false, nil
	}
	if typ == dnsmessage.TypeA {
		if a, exists = n.address(host); !exists {
			n.calls.Refuse("the name "+host, "there are too many names")
		}
	}
	return a, true, nil
}

// connect is how a command connects to what is called HOST:PORT. There is no way where dial
// is nil.
func (o *Order) connect(ctx context.Context, said string, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if o.Calls == nil {
		return dial(ctx)
	}
	return o.Calls.Connect(ctx, said, dial)
}

// Alone runs a command without a cluster: as it is, or, if the order has Calls, with these
// for a network. Of the order count the command, where it runs, its streams, Plain and
// Started besides. say tells the user what can't be had.
func Alone(ctx context.Context, o Order, say func(string), log *slog.Logger) (int, error) {
	if o.Calls == nil {
		o.begun(jail.DialMachine)
		return o.here(ctx, o.Env)
	}
	why := ""
	o.Env, _ = inCluster(o.Env)
	if !o.Plain {
		j, err := o.apart(ctx, log)
		if err == nil {
			o.begun(j.DialInside)
			return j.Wait()
		}
		if noJail(err) == nil {
			return 0, err
		}
		why = fmt.Sprintf(" (%v)", err)
	}
	say(fmt.Sprintf("the command has no network of its own%s: only what it asks by way of HTTP_PROXY or ALL_PROXY is answered, all else goes where it goes", why))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("open a port for the proxy: %w", err)
	}
	beside, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		return (&proxy.Server{Log: log, Dial: func(ctx context.Context, _, to string) (net.Conn, error) { return o.connect(ctx, to, nil) }}).Serve(beside, ln)
	})
	o.begun(jail.DialMachine)
	code, err := o.here(ctx, proxied(o.Env, ln.Addr().String()))
	stop()
	return code, errors.Join(err, g.Wait())
}

// errAlone is why a command that is alone reaches nothing but by calls.
var errAlone = errors.New("the command is alone")

// apart starts a command whose network has nothing but calls.
func (o *Order) apart(ctx context.Context, log *slog.Logger) (*jail.Jail, error) {
	n := newNames(o.Calls)
	var j *jail.Jail
	var err error
	started := make(chan struct{}) // j and err are set then
	n.mode = func(ctx context.Context) (jail.Mode, error) {
		select {
		case <-started:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		if err != nil {
			return "", err
		}
		return j.Mode(), nil
	}
	defer close(started)
	j, err = jail.Start(ctx, jail.Config{
		Command: o.Command, Dir: o.Dir, Env: o.Env, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		Resolv:   "search .\n", // no name is looked for in domains of this machine
		Services: jail.Services{TCP: n.ports()},
		Dial: func(ctx context.Context, _ string, to netip.AddrPort) (net.Conn, error) {
			_, said := n.where(to)
			return o.connect(ctx, said, nil)
		},
		DialUDP: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errAlone },
		Resolve: n.resolve, Log: log,
	})
	return j, err
}
