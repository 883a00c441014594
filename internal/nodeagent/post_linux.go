package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"sync"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/agent/node"
)

// post keeps the gate of one pod as it is wanted.
type post struct {
	proc    node.Proc
	version string
	log     *slog.Logger
	changed func() // it has something new to tell

	news chan struct{} // has room for one

	mu      sync.Mutex
	want    *wanted
	idle    bool   // nothing is wanted any more
	ended   bool   // run has returned
	port    int32  // where the gate listens, 0 for not at all
	problem string // why it does not
	gate    *gate.Gate
	lets    map[string]bool // in, by the names of the Intercepts
}

// set says what is wanted from now on, nil for nothing any more. It returns false,
// and does nothing, when the post has ended.
func (p *post) set(w *wanted) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	if p.idle = w == nil; !p.idle {
		p.want = w
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
	return true
}

func (p *post) wanted() (w *wanted, idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want, p.idle
}

// end ends the post unless something is wanted again.
func (p *post) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = p.idle
	return p.ended
}

// status is what there is to tell of an Intercept.
func (p *post) status(intercept string) v1alpha1.PodStatus {
	p.mu.Lock()
	w, g := p.want, p.gate
	s := v1alpha1.PodStatus{Name: w.pod.Name, Problem: p.problem}
	if p.lets[intercept] {
		s.Port = p.port
	}
	p.mu.Unlock()
	if g == nil {
		return s
	}
	for _, r := range g.List() {
		if r.Rule.ID == intercept {
			c := r.Counters
			s.State, s.Requests, s.OldConnections = string(r.State), c.Requests+c.Connections+c.Mirrored, c.Old
		}
	}
	return s
}

// tell says that the pod has this gate now, with these grants, or why it has none.
func (p *post) tell(g *gate.Gate, problem string, grants ...gate.Grant) {
	port, lets := int32(0), map[string]bool{}
	if g != nil {
		port = gatePort
	}
	for _, grant := range grants {
		lets[grant.ID] = true
	}
	p.mu.Lock()
	same := p.port == port && p.problem == problem && maps.Equal(p.lets, lets)
	p.port, p.problem, p.gate, p.lets = port, problem, g, lets
	p.mu.Unlock()
	if !same {
		p.changed()
	}
}

// closing is how long what is under way may take when a gate closes.
const closing = 3 * time.Second

// lingering is how long a gate stays open that nobody wants: the next one may come
// soon, and would have to wait for it to close.
const lingering = 5 * time.Second

// run serves the pod until nothing has been wanted for a while, or ctx ends.
func (p *post) run(ctx context.Context) {
	var open *served
	shut := func() {
		if open != nil {
			p.tell(nil, "")
			open.close(ctx, p.log)
			open = nil
		}
	}
	defer shut()
	var again, leave <-chan time.Time
	for {
		select {
		case <-p.news:
		case <-again:
		case <-leave:
			shut()
			if p.end() {
				p.changed()
				return
			}
		case <-ctx.Done():
			return
		}
		again, leave = nil, nil
		w, idle := p.wanted()
		if idle {
			if open != nil {
				open.gate.Set(nil)
			}
			leave = time.After(lingering)
			continue
		}
		if open != nil && !open.serves(w) {
			shut()
		}
		if open == nil {
			var err error
			if open, err = p.open(ctx, w); err != nil {
				p.log.Warn("a pod has no gate", "err", err)
				if errors.Is(err, node.ErrHostNetwork) {
					p.tell(nil, "it uses the node's own network (hostNetwork), where to steer would be to steer the node")
				} else {
					p.tell(nil, err.Error())
					again = time.After(time.Second) // its processes may be about to start
				}
				continue
			}
		}
		open.gate.Set(w.grants)
		p.tell(open.gate, "", w.grants...)
	}
}

// served is an open gate.
type served struct {
	gate   *gate.Gate
	ns     *node.Netns
	ports  []gate.Port
	exempt bool
}

// serves reports whether the gate can serve what is wanted.
func (s *served) serves(w *wanted) bool {
	return s.exempt == w.exempt && reflect.DeepEqual(s.ports, w.ports)
}

func (s *served) close(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	if err := errors.Join(s.gate.Close(ctx), s.ns.Close()); err != nil {
		log.Warn("a gate was not closed well", "err", err)
	}
}

// gatePort is where gates listen on their pods' loopback.
const gatePort = 24448

func (p *post) open(ctx context.Context, w *wanted) (*served, error) {
	found, err := p.proc.Pod(ctx, uidOf(w.pod))
	if err != nil {
		return nil, err
	}
	ns, err := found.Netns()
	if err != nil {
		return nil, err
	}
	s := &served{ns: ns, ports: w.ports, exempt: w.exempt}
	o := gate.Options{
		Service: w.pod.Name, Ports: w.ports, Port: gatePort, Version: p.version, Log: p.log,
		Process: func(ctx context.Context, container string) (node.Process, error) { return p.process(ctx, container) },
	}
	if w.exempt {
		if o.Exempt, err = nodeAddrs(ctx, found); err != nil {
			ns.Close()
			return nil, err
		}
	}
	if s.gate, err = gate.Open(ctx, ns, o); err != nil {
		ns.Close()
		return nil, err
	}
	return s, nil
}

// process finds the main process of a container as it runs now.
func (p *post) process(ctx context.Context, container string) (node.Process, error) {
	w, _ := p.wanted()
	id := ""
	for _, s := range w.pod.Status.ContainerStatuses {
		if s.Name == container {
			id = s.ContainerID
		}
	}
	if id == "" {
		return node.Process{}, fmt.Errorf("pod %s has no container %q that runs", w.pod.Name, container)
	}
	found, err := p.proc.Pod(ctx, uidOf(w.pod))
	if err != nil {
		return node.Process{}, err
	}
	process, ok := found.Container(id)
	if !ok {
		return node.Process{}, fmt.Errorf("container %s of pod %s does not run at the moment", container, w.pod.Name)
	}
	return process, nil
}

// uidOf is the UID that a pod's cgroups have: a static pod's is not that of the API.
func uidOf(pod *core.Pod) string {
	if hash := pod.Annotations["kubernetes.io/config.hash"]; hash != "" {
		return hash
	}
	return string(pod.UID)
}

// nodeAddrs are the addresses of a pod's node, which kubelet's probes come from.
func nodeAddrs(ctx context.Context, pod *node.Pod) ([]netip.Prefix, error) {
	host, err := pod.HostNetns()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	addrs, err := host.Addrs(ctx)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, a := range addrs {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all, nil
}
