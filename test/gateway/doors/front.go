package doors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/steer"
)

// Front takes the requests of one listener. A request passes a door that gives it to a
// rule, one for each of the rule's stages, and the door of the pod that it is carried
// to: as in a release, where the canary's pods have doors, too. Obey may be called while
// it serves.
type Front struct {
	Pods *Pods
	Log  *slog.Logger

	ctx    context.Context
	router *steer.Door
	tasks  sync.WaitGroup

	own sync.Map // the addresses of stages: netip.AddrPort

	mu         sync.Mutex
	generation int64
	chains     map[string]*chain // by the rules' keys
}

// chain is the stages of one rule.
type chain struct{ stages []*stage }

// stage is a door, and what hands requests on to it.
type stage struct {
	address netip.AddrPort // of what hands on
	door    *steer.Door
	hop     *hop
	status  atomic.Int64 // of the gateway's own answers
	stop    func()
}

// Open makes the front ready; until Obey is called it answers that nothing is there. It
// ends with ctx, and Wait waits for that.
func (f *Front) Open(ctx context.Context) {
	f.ctx, f.chains = ctx, map[string]*chain{}
	f.router = &steer.Door{Port: anyPort, Follow: true, App: itselfWith(func() int { return http.StatusNotFound }), Log: f.Log}
}

// Serve takes connections from ln until ctx, that of Open, ends.
func (f *Front) Serve(ln net.Listener) error { return f.router.Serve(f.ctx, ln) }

// Wait waits until everything has ended.
func (f *Front) Wait() { f.tasks.Wait() }

// Obey has the doors do what a plan says. A rule's balance goes on as it was if its
// weights are the same.
func (f *Front) Obey(p Plan) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
	used := map[string]*chain{}
	for i := range p.Rules {
		c, err := f.chain(&p.Rules[i])
		if err != nil {
			return fmt.Errorf("rule %s: %w", p.Rules[i].Key, err)
		}
		used[p.Rules[i].Key] = c
		v := p.Router.Find(p.Rules[i].Key)
		p.Router.Versions[v].Addresses = []netip.AddrPort{c.stages[0].address}
	}
	p.Router.Generation = f.generation
	if err := f.router.Split(itself, &p.Router); err != nil {
		return err
	}
	for key, c := range f.chains {
		if used[key] != c {
			f.retire(c)
		}
	}
	f.chains = used
	return nil
}

// chain makes the stages of a rule obey, new ones if there is another number of them.
func (f *Front) chain(s *Stages) (*chain, error) {
	c := f.chains[s.Key]
	if c == nil || len(c.stages) != len(s.Splits) {
		c = &chain{}
		for range s.Splits {
			one, err := f.stage()
			if err != nil {
				f.retire(c)
				return nil, err
			}
			c.stages = append(c.stages, one)
		}
	}
	if err := f.split(c, s); err != nil {
		if f.chains[s.Key] != c {
			f.retire(c)
		}
		return nil, err
	}
	return c, nil
}

// split makes the doors of a chain obey.
func (f *Front) split(c *chain, s *Stages) error {
	for i, one := range c.stages {
		split := s.Splits[i]
		split.Versions = slices.Clone(split.Versions)
		split.Generation = f.generation
		if v := split.Find(next); v >= 0 {
			split.Versions[v].Addresses = []netip.AddrPort{c.stages[i+1].address}
		}
		one.status.Store(http.StatusServiceUnavailable)
		if s.Missing {
			one.status.Store(http.StatusInternalServerError)
		}
		modify := &Modify{}
		if i == 0 {
			modify = &s.Modify
		}
		one.hop.modify.Store(modify)
		if err := one.door.Split(itself, &split); err != nil {
			return err
		}
	}
	return nil
}

// leaving is how long a chain is there after no request is given to it any more: one may be on its way to it.
const leaving = time.Second

// retire ends a chain, one stage after the other: a request that has passed one goes on to the next.
func (f *Front) retire(c *chain) {
	f.tasks.Go(func() {
		t := time.NewTimer(leaving)
		defer t.Stop()
		select {
		case <-t.C:
		case <-f.ctx.Done():
		}
		for _, one := range c.stages {
			one.stop()
		}
	})
}

// stage opens a door and what hands on to it.
func (f *Front) stage() (*stage, error) {
	inner, err := listen()
	if err != nil {
		return nil, err
	}
	outer, err := listen()
	if err != nil {
		_ = inner.Close()
		return nil, err
	}
	one := &stage{address: outer.Addr().(*net.TCPAddr).AddrPort(), hop: newHop(inner.Addr().String())}
	one.door = &steer.Door{
		Port: anyPort, Follow: true, Log: f.Log, App: itselfWith(func() int { return int(one.status.Load()) }),
		Peer: f.dial,
	}
	ctx, cancel := context.WithCancel(f.ctx)
	server := serverOf(one.hop)
	f.tasks.Go(func() { _ = one.door.Serve(ctx, inner) })
	f.tasks.Go(func() { _ = server.Serve(outer) })
	over := context.AfterFunc(ctx, func() { _ = server.Close() })
	f.own.Store(one.address, nil)
	one.stop = func() { // requests under way may end
		patience, done := context.WithTimeout(f.ctx, 5*time.Second)
		defer done()
		_ = server.Shutdown(patience)
		f.own.Delete(one.address)
		cancel()
		over()
	}
	return one, nil
}

// dial connects to the door of a pod, or to the next stage, which is in this process.
func (f *Front) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if _, own := f.own.Load(to); own {
		return new(net.Dialer).DialContext(ctx, "tcp", to.String())
	}
	return f.Pods.dial(ctx, to)
}

// listen opens a port of the loopback.
func listen() (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port for a stage: %w", err)
	}
	return ln, nil
}

// Pods are the doors of pods: each takes what another door has carried to it and gives
// it to the pod, without deciding again.
type Pods struct {
	Log *slog.Logger

	mu    sync.Mutex
	ctx   context.Context
	tasks sync.WaitGroup
	doors map[netip.AddrPort]string // where they listen
}

// Open makes the doors last until ctx ends; Wait waits for that.
func (p *Pods) Open(ctx context.Context) { p.ctx, p.doors = ctx, map[netip.AddrPort]string{} }

// Wait waits until all doors are closed.
func (p *Pods) Wait() { p.tasks.Wait() }

// dial connects to the door of a pod, which is opened if need be.
func (p *Pods) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	at, err := p.open(to)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", at)
}

func (p *Pods) open(to netip.AddrPort) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.doors[to]; ok {
		return at, nil
	}
	if p.ctx.Err() != nil {
		return "", errors.New("the gateway ends")
	}
	ln, err := listen()
	if err != nil {
		return "", err
	}
	door := &steer.Door{Port: int(to.Port()), Follow: true, Log: p.Log, App: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", to.String())
	}}
	const pod = "pod"
	if err := door.Split(pod, &steer.Split{
		Generation: 1, Service: pod, Port: int(to.Port()), Stable: pod, Versions: []steer.Version{{Name: pod, Weight: steer.All}},
	}); err != nil {
		_ = ln.Close()
		return "", err
	}
	p.tasks.Go(func() { _ = door.Serve(p.ctx, ln) })
	p.doors[to] = ln.Addr().String()
	return p.doors[to], nil
}
