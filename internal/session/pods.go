package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/live"
)

// pods follows the app's pods and keeps a live target for each that runs.
type pods struct {
	session *Session
	bases   live.Bases // versions of large files that replicas share
	outage  *outage

	mu      sync.Mutex
	all     map[string]*pod            // by name
	wants   map[string]*image.Artifact // by service
	images  map[string]string          // by service: what its newest pods run
	saved   map[string]bool            // services that have newer files than their image
	changed chan struct{}              // closed and replaced when anything here changes
	edits   map[string]*edit           // by service: saves that are not live yet
	exits   chan deploy.Exit           // for whoever waits for a rollout, or nil
	knocks  []func()                   // what to tell the door when the lock is free
}

// unlock gives the lock back and then tells the door what happened meanwhile: it
// has a lock of its own, and asks here.
func (p *pods) unlock() {
	knocks := p.knocks
	p.knocks = nil
	p.mu.Unlock()
	for _, knock := range knocks {
		knock()
	}
}

// renew and wake are what the door is told. The caller has the lock.
func (p *pods) renew(service string) {
	p.knocks = append(p.knocks, func() { p.session.door.renew(service) })
}

func (p *pods) wake(service string) {
	p.knocks = append(p.knocks, func() { p.session.door.wake(service) })
}

// pod is one pod of the app.
type pod struct {
	name, service string
	container     string // the service's
	image         string // of that one
	ready         bool   // as Kubernetes has it
	wasReady      bool   // at any time before
	replacedBy    string // who answers while the process is stopped, or ""
	target        *live.Target
	stop          context.CancelFunc
	process       process
}

func newPods(s *Session) *pods {
	return &pods{
		session: s, all: map[string]*pod{}, wants: map[string]*image.Artifact{}, images: map[string]string{},
		saved: map[string]bool{}, edits: map[string]*edit{}, changed: make(chan struct{}),
		outage: newOutage(s),
	}
}

// touch wakes whoever waits for a change. The caller has the lock.
func (p *pods) touch() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// deployed says which image each service's pods run from now on, which of them
// were just made, and what the pods should have. Pods of another image are on
// their way out and are left alone.
func (p *pods) deployed(images map[string]string, fresh []*image.Artifact, wants map[string]*image.Artifact) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.images, p.wants = images, wants
	for service := range p.saved {
		if images[service] == "" {
			delete(p.saved, service)
		}
	}
	for _, art := range fresh {
		delete(p.saved, art.Service)
	}
	for _, pod := range p.all {
		p.tell(pod)
	}
	p.touch()
}

// isDeployed reports whether a service has pods at all.
func (p *pods) isDeployed(service string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.images[service] != ""
}

// ahead returns the services that have newer files than their image.
func (p *pods) ahead() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.saved))
}

// edited hands a new artifact to the service's pods and remembers the save that it
// came from.
func (p *pods) edited(art *image.Artifact, e *edit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wants[art.Service], p.edits[art.Service], p.saved[art.Service] = art, e, true
	for _, pod := range p.all {
		if pod.service == art.Service {
			pod.process.edited()
			p.tell(pod)
		}
	}
	p.touch()
}

// tell hands a pod what it should have. The caller has the lock.
func (p *pods) tell(to *pod) {
	if art := p.wants[to.service]; art != nil && to.target != nil && p.newest(to) {
		to.target.Want(live.Wanted{Tree: art.Tree, Digest: art.TreeDigest(), Source: art.Inputs, Restart: art.Restart})
	}
}

// newest reports whether a pod stays. The caller has the lock.
func (p *pods) newest(of *pod) bool { return of.image == p.images[of.service] }

// watchExits returns where ends of processes are told from now on, until done.
func (p *pods) watchExits() (exits <-chan deploy.Exit, done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := make(chan deploy.Exit, 64)
	p.exits = told
	return told, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.exits == told {
			p.exits = nil
		}
	}
}

// follow watches the app's pods until ctx ends, and keeps a target for each whose
// container runs.
func (p *pods) follow(ctx context.Context) error {
	var targets sync.WaitGroup
	defer targets.Wait()
	defer p.forgetOthers(nil)
	client := p.session.applier.Client.CoreV1().Pods(p.session.environment)
	source := follow.Of(client, meta.ListOptions{LabelSelector: Selector(p.session.plan().Name)})
	for ctx.Err() == nil {
		err := source.Changes(ctx, "", func(c follow.Change) error {
			p.take(ctx, &targets, c)
			return nil
		})
		p.session.Log.Debug("pods are not followed", "error", err)
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// take takes in a change of the pods.
func (p *pods) take(ctx context.Context, targets *sync.WaitGroup, c follow.Change) {
	if c.Event == "" {
		present := map[string]bool{}
		for _, object := range c.All {
			pod := object.(*core.Pod)
			present[pod.Name] = true
			p.note(ctx, targets, pod)
		}
		p.forgetOthers(present)
		return
	}
	pod, ok := c.Object.(*core.Pod)
	switch {
	case !ok:
	case c.Event == watch.Deleted:
		p.forget(pod.Name)
	default:
		p.note(ctx, targets, pod)
	}
}

// note takes in what a pod is now.
func (p *pods) note(ctx context.Context, targets *sync.WaitGroup, object *core.Pod) {
	p.mu.Lock()
	defer p.unlock()
	defer p.touch()
	if object.DeletionTimestamp != nil || object.Status.Phase == core.PodFailed || object.Status.Phase == core.PodSucceeded {
		p.drop(object.Name)
		return
	}
	container := deploy.ContainerOf(&object.Spec, ServiceOf(object))
	if container == nil {
		return
	}
	known := p.all[object.Name]
	if known == nil {
		known = &pod{name: object.Name, service: ServiceOf(object), container: container.Name, image: container.Image}
		p.all[object.Name] = known
	}
	if ready := isReady(object); ready != known.ready {
		known.ready, known.wasReady = ready, known.wasReady || ready
		p.wake(known.service)
	}
	if agent, ok := deploy.AgentIn(&object.Spec, known.service); ok && known.target == nil && isRunning(object) {
		p.connect(ctx, targets, known, agent.Port)
	}
}

func isReady(object *core.Pod) bool {
	for _, c := range object.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// isRunning reports whether the service's container runs, whatever does beside it.
func isRunning(object *core.Pod) bool {
	container := deploy.ContainerOf(&object.Spec, ServiceOf(object))
	return container != nil && slices.ContainsFunc(object.Status.ContainerStatuses, func(c core.ContainerStatus) bool {
		return c.Name == container.Name && c.State.Running != nil
	})
}

// connect starts the target of a pod. The caller has the lock.
func (p *pods) connect(ctx context.Context, targets *sync.WaitGroup, to *pod, port int) {
	s := p.session
	run, stop := context.WithCancel(ctx)
	to.stop = stop
	to.target = live.NewTarget(live.TargetConfig{
		Name: to.name,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return s.Cluster.DialPod(ctx, s.environment, to.name, port)
		},
		Token:   s.token,
		Client:  s.me().String(),
		Version: s.Version,
		Log:     s.Log.With("pod", to.name),
		Events: func(e live.Event) {
			switch e.Kind {
			case live.Lost:
				p.outage.lose(run, to)
			case live.Connected:
				p.outage.find(to)
			}
			p.event(to, e)
		},
		Bases: &p.bases,
	})
	p.tell(to)
	targets.Go(func() {
		if err := to.target.Run(run); err != nil && run.Err() == nil {
			s.Printer.Warn(to.service, fmt.Sprintf("pod %s: %v", to.name, err), "saves do not reach it any more; bight up again connects anew")
		}
	})
}

func (p *pods) forget(name string) {
	p.mu.Lock()
	defer p.unlock()
	p.drop(name)
	p.touch()
}

func (p *pods) forgetOthers(present map[string]bool) {
	p.mu.Lock()
	defer p.unlock()
	for name := range p.all {
		if !present[name] {
			p.drop(name)
		}
	}
	p.touch()
}

// drop ends a pod's target. The caller has the lock.
func (p *pods) drop(name string) {
	if pod := p.all[name]; pod != nil {
		if pod.stop != nil {
			pod.stop()
		}
		delete(p.all, name)
		p.renew(pod.service)
	}
}

// until waits until done, called with the lock held, returns true.
func (p *pods) until(ctx context.Context, done func() bool) error {
	for {
		p.mu.Lock()
		ok, changed := done(), p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// syncLimit is how long pods may take to confirm the source after they are ready.
const syncLimit = time.Minute

// synced waits until every pod has confirmed what is wanted.
func (p *pods) synced(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	err := p.until(limited, func() bool { return len(p.behind()) == 0 })
	if errors.Is(err, context.DeadlineExceeded) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("after %s these have not confirmed the present source: %s; bight logs shows what they say: %w", syncLimit, strings.Join(p.behind(), ", "), err)
	}
	return err
}

// behind returns the services and pods that do not have what is wanted. The caller
// has the lock.
func (p *pods) behind() []string {
	var names []string
	covered := map[string]bool{}
	for _, pod := range p.all {
		art := p.wants[pod.service]
		if art == nil || !p.newest(pod) {
			continue
		}
		if pod.target == nil || !pod.target.State().InSync {
			names = append(names, pod.name)
			continue
		}
		covered[pod.service] = true
	}
	for service := range p.wants {
		if !covered[service] {
			names = append(names, service)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// dial connects to a port of the pod of a service that answers best.
func (p *pods) dial(ctx context.Context, service string, port int) (net.Conn, error) {
	p.mu.Lock()
	var chosen *pod
	for _, pod := range p.all {
		if pod.service == service && pod.target != nil && (chosen == nil || rank(pod, p.newest(pod)) > rank(chosen, p.newest(chosen))) {
			chosen = pod
		}
	}
	p.mu.Unlock()
	if chosen == nil {
		return nil, fmt.Errorf("service %s has no running pod", service)
	}
	return chosen.target.DialPort(ctx, port)
}

// rank orders a service's pods by how well they answer: ready ones first, and
// among these the newest.
func rank(of *pod, newest bool) int {
	n := 0
	if of.ready {
		n += 2
	}
	if newest {
		n++
	}
	return n
}
