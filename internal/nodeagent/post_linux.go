package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/agent/node"
)

const (
	// gatePort is where gates listen on their pods' loopback.
	gatePort = 24448
	// closing is how long what is under way may take when a gate closes whose pod has another
	// network, or whose agent ends.
	closing = 3 * time.Second
	// draining is how long it may take when a gate closes because nobody wants it any more.
	// The pod lives on, so what came through its door is nobody else's to end: streams and
	// uploads of a version that was promoted, say.
	draining = time.Hour
	// lingering is how long a gate stays open that nobody wants: the next one may
	// come soon, and would have to wait for it to close.
	lingering = 5 * time.Second
	// firstPause and longestPause are between attempts to open a gate.
	firstPause, longestPause = time.Second, 30 * time.Second
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
	idle    bool // nothing is wanted any more
	ended   bool // run has returned
	gate    *gate.Gate
	lets    map[string]bool // in, by the names of the Intercepts
	problem string          // why there is no gate
	counts  counts
	obeyed  obeyed

	buried  types.UID // of a pod that has ended; of run alone
	sharing sharing   // of run alone
	sinks   sinks

	older      atomic.Int32   // gates that drain beside the present one
	outlasting sync.WaitGroup // those who wait for them
}

// set says what is wanted from now on, nil for nothing any more. It returns false,
// and does nothing, when the post has ended.
func (p *post) set(w *wanted) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	news := p.idle != (w == nil) || w != nil && !w.same(p.want)
	if p.idle = w == nil; !p.idle {
		p.want = w
	}
	if news {
		p.wake()
	}
	return true
}

// wake has run look at everything.
func (p *post) wake() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// same reports whether there is nothing new in w.
func (w *wanted) same(o *wanted) bool {
	return o != nil && reflect.DeepEqual(w.grants, o.grants) && reflect.DeepEqual(w.ports, o.ports) && runs(w.pod) == runs(o.pod) &&
		reflect.DeepEqual(w.share, o.share) && w.trial == o.trial && w.deleted() == o.deleted()
}

// deleted says that the pod is about to end.
func (w *wanted) deleted() bool { return w.pod.DeletionTimestamp != nil }

// runs identifies what of a pod runs: another sandbox or container is another text.
func runs(pod *core.Pod) string {
	var b strings.Builder
	b.WriteString(pod.Status.PodIP)
	for _, s := range pod.Status.ContainerStatuses {
		b.WriteString(" " + s.ContainerID)
	}
	return b.String()
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

// tell says that the pod has this gate now, with these grants, or why it has none.
func (p *post) tell(g *gate.Gate, problem string, grants ...gate.Grant) {
	lets := map[string]bool{}
	for _, grant := range grants {
		lets[grant.ID] = true
	}
	p.mu.Lock()
	same := p.gate == g && p.problem == problem && maps.Equal(p.lets, lets)
	news := problem != "" && p.problem != problem
	p.gate, p.problem, p.lets = g, problem, lets
	p.mu.Unlock()
	if news {
		p.log.Warn("a pod has no gate", "why", problem)
	}
	if !same {
		p.changed()
	}
}

// run serves the pod until nothing has been wanted for a while, or ctx ends.
func (p *post) run(ctx context.Context) {
	var open *served
	defer func() { p.shut(ctx, open); p.outlasting.Wait() }()
	sampler := time.NewTicker(sampling)
	defer sampler.Stop()
	var due <-chan time.Time
	var idleSince, retry time.Time
	pause := firstPause
	for {
		var ended, gone, drained <-chan struct{}
		if open != nil {
			ended, gone, drained = open.containers.ended(), open.sandbox.ended(), open.drained
		}
		select {
		case <-p.news:
		case <-due:
		case <-drained:
		case <-gone:
			w, _ := p.wanted()
			p.cut(open, w)
			open = nil
			continue
		case <-ended:
			open.unattend()
			w, idle := p.wanted()
			switch {
			case !idle && !w.deleted(): // they may be started again, of which there will be news; if not, the sandbox ends
			case open.runs == runs(w.pod) || p.over(ctx, w): // its network is about to go
				p.cut(open, w)
				open = nil
			default: // others have been started since
				p.attend(ctx, open, w)
			}
			continue
		case <-sampler.C:
			p.sample(open)
			continue
		case <-ctx.Done():
			return
		}
		w, idle := p.wanted()
		now := time.Now()
		due = nil
		if !idle && open == nil && p.buried == w.pod.UID {
			continue // until nothing of it is wanted
		}
		if !idle {
			idleSince = time.Time{}
			if open.drains() {
				p.outlast(ctx, open)
				open = nil
			}
			if now.Before(retry) && open == nil {
				due = time.After(retry.Sub(now))
				continue
			}
			var err error
			if open, err = p.serve(ctx, open, w); err != nil {
				p.tell(nil, err.Error())
			} else if err = p.split(open.gate, w); err == nil {
				pause, retry = firstPause, time.Time{}
				continue
			}
			retry = now.Add(pause)
			due, pause = time.After(pause), min(2*pause, longestPause)
			continue
		}
		if idleSince.IsZero() {
			idleSince = now
			if open != nil {
				open.gate.Set(nil)
				_ = p.split(open.gate, &wanted{}) // what passes on meanwhile does no harm
			}
		}
		if left := idleSince.Add(lingering).Sub(now); left > 0 {
			due = time.After(left)
			continue
		}
		if open != nil && !open.drains() {
			p.tell(nil, "")
			open.drain(draining)
		}
		if open.draining() {
			continue
		}
		p.shut(ctx, open)
		open = nil
		if p.older.Load() == 0 && p.end() {
			p.changed()
			return
		}
	}
}

// serve brings the gate to what is wanted, and opens it if it is not open.
func (p *post) serve(ctx context.Context, open *served, w *wanted) (*served, error) {
	if open != nil && open.runs != runs(w.pod) {
		open.unattend() // others are to be waited for
		if p.moved(ctx, open, w) {
			p.shut(ctx, open)
			open = nil
		}
	}
	if open == nil {
		var err error
		if open, err = p.open(ctx, w); err != nil {
			return nil, err
		}
	}
	p.attend(ctx, open, w)
	open.gate.AddPorts(w.ports...)
	open.gate.Set(w.grants)
	p.tell(open.gate, "", w.grants...)
	return open, nil
}

func (p *post) shut(ctx context.Context, s *served) {
	if s == nil {
		return
	}
	p.tell(nil, "")
	if w, _ := p.wanted(); w.trial != nil {
		_ = p.split(s.gate, &wanted{}) // from here on all is stable's
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	if err := s.close(func() error { return s.gate.Close(ctx) }); err != nil {
		p.log.Warn("a gate was not closed well", "err", err)
	}
	p.unsplit()
}

// moved reports whether the pod has another network namespace than its gate.
func (p *post) moved(ctx context.Context, s *served, w *wanted) bool {
	found, err := p.find(ctx, w.pod)
	if err != nil {
		return false // its processes are between two runs: there will be news
	}
	ns, err := found.Netns()
	if err != nil {
		return false
	}
	defer ns.Close()
	s.runs = runs(w.pod)
	return !ns.Same(s.ns)
}

func (p *post) open(ctx context.Context, w *wanted) (*served, error) {
	found, err := p.find(ctx, w.pod)
	if err != nil {
		return nil, err
	}
	ns, err := found.Netns()
	if errors.Is(err, node.ErrHostNetwork) {
		return nil, errors.New("it uses the node's own network (hostNetwork), where to steer would be to steer the node")
	}
	if err != nil {
		return nil, err
	}
	o := gate.Options{
		Service: w.pod.Name, Ports: w.ports, Port: gatePort, Version: p.version, Log: p.log, Process: p.process, ExemptPorts: w.exempt,
		Outcome: p.sinks.add,
	}
	if len(w.exempt) > 0 {
		o.Exempt, err = nodeAddrs(ctx, found)
	}
	s := &served{ns: ns, runs: runs(w.pod)}
	if err == nil {
		s.gate, err = gate.Open(ctx, ns, o)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	if found.Sandbox != nil {
		s.sandbox = p.await(ctx, s.gate.Sever, *found.Sandbox)
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
	found, err := p.find(ctx, w.pod)
	if err != nil {
		return node.Process{}, err
	}
	process, ok := found.Container(id)
	if !ok {
		return node.Process{}, fmt.Errorf("container %s of pod %s does not run at the moment", container, w.pod.Name)
	}
	return process, nil
}

// find finds a pod's processes. The UID in its cgroups is that of the API, or for a
// static pod one that an annotation has, which others may write: so it has to be a pod
// with the containers that kubelet told of.
func (p *post) find(ctx context.Context, pod *core.Pod) (*node.Pod, error) {
	found, err := p.proc.Pod(ctx, uidOf(pod))
	if err != nil {
		return nil, err
	}
	for _, s := range pod.Status.ContainerStatuses {
		if _, ok := found.Container(s.ContainerID); ok && s.ContainerID != "" {
			return found, nil
		}
	}
	return nil, fmt.Errorf("none of the containers of pod %s runs here", pod.Name)
}

// uidOf is the UID that the cgroups of a pod have.
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

// status is what there is to tell of an Intercept.
func (p *post) status(intercept string) v1alpha1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := v1alpha1.PodStatus{Name: p.want.pod.Name, Problem: p.problem}
	if p.gate == nil || !p.lets[intercept] {
		return s
	}
	s.Port = gatePort
	return p.counts.status(s, intercept, p.gate, time.Now())
}
