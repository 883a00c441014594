package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
	"github.com/bightdev/bight/internal/stream/direct"
)

const (
	// defaultPort is where gates listen.
	defaultPort = 24448
	// maxSessions is how many laptops there may be at a time.
	maxSessions = 16
	// steerTime is for the kernel to take rules, which needs less than 10 ms.
	steerTime = 10 * time.Second
	// appTime is for the app to take a connection.
	appTime = 10 * time.Second
	// acceptPause is after an Accept that failed, for want of file descriptors say.
	acceptPause = 50 * time.Millisecond
)

// Port is a TCP port of the pod that can be steered.
type Port struct {
	Number   int
	Protocol steer.Protocol
	Probes   []string // HTTP paths that kubelet asks under another name than its own
}

// Options are the settings of a gate.
type Options struct {
	Service string
	Ports   []Port
	Port    int // to listen on, on the pod's loopback: 24448
	// Exempt are sources whose connections to ExemptPorts always go to the app: the
	// node's own addresses, which kubelet's probes come from. No ports are all.
	Exempt      []netip.Prefix
	ExemptPorts []uint16
	Version     string // of this program
	// Process finds the main process of a grant's container as it is now: it is asked
	// for each question, since containers are restarted.
	Process func(ctx context.Context, container string) (node.Process, error)
	// Outcome, if not nil, is told what became of each request for a port that a split
	// decided about. It is called as [steer.Door.Outcome] is.
	Outcome func(port int, o *steer.Outcome)
	Log     *slog.Logger
}

// Gate serves one pod. Its owner closes it.
type Gate struct {
	o      Options
	ns     *node.Netns
	grants book
	host   *steer.Host
	server *stream.Server
	direct *direct.Door

	life    context.Context // of sessions
	end     context.CancelFunc
	work    sync.WaitGroup  // all goroutines but those of serving
	passing context.Context // of what passes through the doors
	cut     context.CancelFunc
	serving sync.WaitGroup // of the doors

	retiring  sync.Once
	retireErr error
	parting   sync.Once

	mu      sync.Mutex
	door    *node.Door               // nil before the first rule
	over    bool                     // no door is opened any more
	doors   []*steer.Door            // of the ports
	queues  map[int]*queue           // by port
	reaches map[string]*reach.Server // by container

	passed passed
}

// Open makes a gate that lets nobody in yet. ctx bounds the opening only. The
// namespace stays the caller's, and open for as long as the gate.
func Open(ctx context.Context, ns *node.Netns, o Options) (*Gate, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("open a gate to %s: %w", o.Service, err)
	}
	o.Port = cmp.Or(o.Port, defaultPort)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ln, err := ns.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("port %d of the pod's loopback is taken, by another agent or a process of the pod: %w", o.Port, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open a gate to %s: %w", o.Service, err)
	}
	g := &Gate{o: o, ns: ns, queues: map[int]*queue{}, reaches: map[string]*reach.Server{}}
	g.grants.service = o.Service
	g.life, g.end = context.WithCancel(context.Background())
	g.passing, g.cut = context.WithCancel(context.Background())
	g.host = &steer.Host{Service: o.Service, Admit: g.admitRule, Steer: g.steer, Log: o.Log}
	g.AddPorts(o.Ports...)
	g.server = &stream.Server{
		Admit: g.grants.admit, Version: o.Version, MaxSessions: maxSessions, Handle: g.handle,
		Log:    o.Log,
		Limits: stream.Limits{Replay: 4 << 20, Budget: 8 << 20, Streams: 1024}, // many gates share a process
	}
	g.direct = &direct.Door{Server: g.server, Listen: ns.Listen, Log: o.Log}
	g.work.Go(func() {
		if err := g.server.Serve(g.life, ln); err != nil {
			o.Log.Error("gate takes no sessions any more", "service", o.Service, "err", err)
		}
	})
	return g, nil
}

// exempts reports whether connections from an address to a port go to the app.
func (o Options) exempts(from netip.Addr, port uint16) bool {
	return (len(o.ExemptPorts) == 0 || slices.Contains(o.ExemptPorts, port)) &&
		slices.ContainsFunc(o.Exempt, func(e netip.Prefix) bool { return e.Contains(from) })
}

func (o Options) check() error {
	if o.Process == nil {
		return errors.New("nothing finds the pod's process")
	}
	for i, p := range o.Ports {
		if p.Number < 1 || p.Number > 65535 {
			return fmt.Errorf("port %d of the pod: want one from 1 to 65535", p.Number)
		}
		if slices.ContainsFunc(o.Ports[:i], func(q Port) bool { return q.Number == p.Number }) {
			return fmt.Errorf("port %d of the pod is named twice", p.Number)
		}
	}
	return nil
}

// AddPorts makes more ports of the pod ones that can be steered. Those that there are
// already stay as they are.
func (g *Gate) AddPorts(ports ...Port) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range ports {
		if g.queues[p.Number] == nil && !g.over {
			g.serve(p)
		}
	}
}

// serve makes the part of the door that is about one port. The lock is held.
func (g *Gate) serve(p Port) {
	d := &steer.Door{
		Port: p.Number, Protocol: p.Protocol, Probes: p.Probes, Follow: p.Protocol != steer.TCP,
		AppAt: g.app, Older: func() int64 { return g.older(p.Number) }, Log: g.o.Log,
		Peer: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return g.ns.Dial(ctx, "tcp", to) },
	}
	if g.o.Outcome != nil {
		d.Outcome = func(o *steer.Outcome) { g.o.Outcome(p.Number, o) }
	}
	q := newQueue(p.Number)
	g.host.AddDoor(d)
	g.doors = append(g.doors, d)
	g.queues[p.Number] = q
	g.serving.Go(func() {
		if err := d.Serve(g.passing, q); err != nil {
			g.o.Log.Error("port is not served any more", "service", g.o.Service, "port", p.Number, "err", err)
		}
	})
}

// app connects to the app the way that the client wanted to, or else at another
// address of the pod.
func (g *Gate) app(ctx context.Context, dialled net.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, appTime)
	defer cancel()
	at, err := netip.ParseAddrPort(dialled.String())
	if err != nil {
		return nil, fmt.Errorf("connect to the app at %s: %w", dialled, err)
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	conn, first := g.ns.Dial(ctx, "tcp", at)
	if first == nil {
		return conn, nil
	}
	own, err := g.ns.Addrs(ctx)
	if err != nil {
		return nil, errors.Join(first, err)
	}
	for _, a := range own {
		if a == at.Addr() {
			continue
		}
		if conn, err := g.ns.Dial(ctx, "tcp", netip.AddrPortFrom(a, at.Port())); err == nil {
			return conn, nil
		}
	}
	return nil, first
}

// handle serves a stream of a session.
func (g *Gate) handle(ctx context.Context, st *stream.Stream) {
	grant, ok := g.grants.grant(st.Session().Who())
	header := string(st.Header())
	switch {
	case !ok: // the session is about to end
		st.Reset(stream.CodeAborted)
	case header == steer.HeaderIntercept && g.grants.isClosed():
		st.Reset(stream.CodeAborted) // a refusal would be for good
	case header == steer.HeaderIntercept, header == steer.HeaderList:
		g.host.Handle(ctx, st)
	case g.direct.Handle(ctx, st):
	case grant.Environment && g.reach(grant.Container).Handle(ctx, st):
	case !grant.Environment && g.reach(grant.Container).Refuse(st):
	default:
		st.Reset(stream.CodeRefused)
	}
}

// reach returns what tells of a container and connects from the pod.
func (g *Gate) reach(container string) *reach.Server {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.reaches[container]
	if r == nil {
		r = &reach.Server{
			Process: func(ctx context.Context) (reach.Process, error) { return g.o.Process(ctx, container) },
			Network: g.ns, Log: g.o.Log,
		}
		g.reaches[container] = r
	}
	return r
}

// admitRule says why a session may not join a rule.
func (g *Gate) admitRule(sess *stream.Session, r steer.Rule) error {
	grant, ok := g.grants.grant(sess.Who())
	if !ok {
		return errors.New("the intercept is over: it was deleted or changed")
	}
	return grant.allows(r)
}

// steer brings connections to these ports here, and to no others. It is called by
// the host, once at a time.
func (g *Gate) steer(ports []int) error {
	ctx, cancel := context.WithTimeout(g.life, steerTime)
	defer cancel()
	d, err := g.opened(ctx, len(ports) > 0)
	switch {
	case err != nil || d == nil:
		return err
	case len(ports) == 0:
		if err := d.Disengage(ctx); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // it was closed, which does as well
	}
	all := make([]uint16, len(ports))
	for i, p := range ports {
		all[i] = uint16(p)
	}
	defer g.passed.recount()
	return d.Engage(ctx, all...)
}

// opened returns the door, which the first rule opens.
func (g *Gate) opened(ctx context.Context, open bool) (*node.Door, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.door != nil || !open {
		return g.door, nil
	}
	if g.over {
		return nil, errClosing
	}
	d, err := node.OpenDoor(ctx, g.ns, node.Options{Exempt: g.o.Exempt, ExemptPorts: g.o.ExemptPorts, Log: g.o.Log})
	if err != nil {
		return nil, err
	}
	g.door = d
	g.work.Go(func() { g.accept(d) })
	return d, nil
}

// accept gives each connection to the part of the door that is about its port.
func (g *Gate) accept(d *node.Door) {
	for {
		conn, err := d.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.o.Log.Warn("accept a connection", "service", g.o.Service, "err", err)
			select {
			case <-time.After(acceptPause):
			case <-g.life.Done():
			}
			continue
		}
		g.passed.add(conn)
		var q *queue
		if to, ok := conn.LocalAddr().(*net.TCPAddr); ok {
			g.mu.Lock()
			q = g.queues[to.Port]
			g.mu.Unlock()
		}
		if q == nil {
			_ = conn.Close() // no port that was engaged
			continue
		}
		q.give(conn)
	}
}

// Set replaces the grants: the latest call counts. Sessions whose grant is gone or
// another one are over when it returns, and no request is steered by their rules.
// Their laptops come back to be told why, or to have the grant as it is now.
func (g *Gate) Set(grants []Grant) {
	g.grants.set(grants)
	over := func(who string) bool {
		_, ok := g.grants.grant(who)
		return !ok
	}
	why := errors.New("the intercept was deleted or changed")
	g.host.End(func(s *stream.Session) bool { return over(s.Who()) }, why)
	g.server.End(over, why)
}

// List tells the rules that are in force.
func (g *Gate) List() []steer.Status { return g.host.List() }

// Sessions returns how many laptops are connected with the grant of this ID. One
// whose connection is interrupted counts for as long as its session waits for it: a
// minute.
func (g *Gate) Sessions(id string) int {
	return g.server.Sessions(func(who string) bool {
		grant, ok := g.grants.grant(who)
		return ok && grant.ID == id
	})
}

// Close lets new connections go to the app. HTTP clients that came through the door
// are told, with their next answer, to come again; whatever is still connected when
// ctx ends is cut off. Sessions last as long as that. Nothing is left behind.
func (g *Gate) Close(ctx context.Context) error {
	g.retire(ctx)
	stop := context.AfterFunc(ctx, g.cut)
	g.serving.Wait()
	stop()
	g.cut()
	g.part()
	if g.retireErr != nil {
		return fmt.Errorf("close the gate to %s: %w", g.o.Service, g.retireErr)
	}
	return nil
}

// Retire makes room for another gate to the pod: new connections go to the app, and all
// sessions end. What came through the door goes on, until Close, which says what went wrong.
func (g *Gate) Retire(ctx context.Context) {
	g.retire(ctx)
	g.part()
}

// Sever resets what passes through the door, which is as quickly as clients can be told that it is
// over: the network may go at any moment. Cut does the rest.
func (g *Gate) Sever() { g.passed.sever() }

// Cut is Close without mercy: what passes through the door ends at once.
func (g *Gate) Cut() error {
	g.Sever()
	g.cut()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return g.Close(ctx)
}

// retire closes the door to what is new.
func (g *Gate) retire(ctx context.Context) {
	g.retiring.Do(func() {
		g.grants.close()
		g.mu.Lock()
		g.over = true
		d, doors, queues := g.door, g.doors, g.queues
		g.mu.Unlock()
		if d != nil {
			g.retireErr = d.Shutdown(ctx)
		}
		g.host.Leave(errClosing)
		for _, d := range doors {
			d.Retire()
		}
		for _, q := range queues {
			_ = q.Close() // never fails
		}
	})
}

// part ends all sessions.
func (g *Gate) part() {
	g.parting.Do(func() {
		g.end()
		g.work.Wait()
		g.direct.Close()
	})
}
