package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/live"
)

// pods follows the app's pods and keeps a live target for each that runs.
type pods struct {
	session *Session
	bases   live.Bases       // versions of large files that replicas share
	exits   chan deploy.Exit // for whoever waits for a rollout; nobody has to

	mu      sync.Mutex
	all     map[string]*pod            // by name
	wants   map[string]*image.Artifact // by service
	images  map[string]string          // by service: what its newest pods run
	changed chan struct{}              // closed and replaced when anything here changes
	edits   map[string]*edit
}

// pod is one pod of the app.
type pod struct {
	name, service string
	image         string
	ready         bool
	target        *live.Target
	stop          context.CancelFunc
	exits         int
}

func newPods(s *Session) *pods {
	return &pods{
		session: s, all: map[string]*pod{}, wants: map[string]*image.Artifact{}, images: map[string]string{}, edits: map[string]*edit{},
		exits: make(chan deploy.Exit, 64), changed: make(chan struct{}),
	}
}

// touch wakes whoever waits for a change. The caller has the lock.
func (p *pods) touch() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// deployed says which image each service's pods are to run. Pods of another one
// are on their way out and are left alone.
func (p *pods) deployed(images map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.images = images
	p.touch()
}

// want says what the services' pods should have.
func (p *pods) want(arts map[string]*image.Artifact) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for service, art := range arts {
		p.wants[service] = art
	}
	for _, pod := range p.all {
		if arts[pod.service] != nil {
			p.tell(pod)
		}
	}
	p.touch()
}

// tell hands a pod what it should have. The caller has the lock.
func (p *pods) tell(to *pod) {
	if art := p.wants[to.service]; art != nil && to.target != nil && p.newest(to) {
		to.target.Want(wanted(art))
	}
}

// newest reports whether a pod stays. The caller has the lock.
func (p *pods) newest(of *pod) bool { return of.image == p.images[of.service] }

func wanted(art *image.Artifact) live.Wanted {
	return live.Wanted{Tree: art.Tree, Source: art.Inputs, Restart: art.Restart}
}

// client is how agents call this session.
func (s *Session) client() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return holder{user: s.User, host: host, pid: os.Getpid()}.String()
}

// follow watches the app's pods until ctx ends, and keeps a target for each whose
// container runs.
func (p *pods) follow(ctx context.Context) error {
	var targets errgroup.Group
	defer targets.Wait()
	client := p.session.applier.Client.CoreV1().Pods(p.session.environment)
	options := meta.ListOptions{LabelSelector: selector(p.session.app.Name)}
	for ctx.Err() == nil {
		list, err := client.List(ctx, options)
		if err != nil {
			p.lost(ctx, "list pods", err)
			continue
		}
		present := map[string]bool{}
		for i := range list.Items {
			present[list.Items[i].Name] = true
			p.note(ctx, &targets, &list.Items[i])
		}
		p.forgetOthers(present)
		since := options
		since.ResourceVersion, since.AllowWatchBookmarks = list.ResourceVersion, true
		w, err := client.Watch(ctx, since)
		if err != nil {
			p.lost(ctx, "watch pods", err)
			continue
		}
		for event := range w.ResultChan() {
			object, ok := event.Object.(*core.Pod)
			switch {
			case !ok:
			case event.Type == watch.Deleted:
				p.forget(object.Name)
			case event.Type == watch.Added, event.Type == watch.Modified:
				p.note(ctx, &targets, object)
			}
		}
		w.Stop()
	}
	p.forgetOthers(nil)
	return nil
}

// lost waits a moment after the API server could not be reached.
func (p *pods) lost(ctx context.Context, what string, err error) {
	p.session.Log.Debug(what, "error", err)
	select {
	case <-time.After(250 * time.Millisecond):
	case <-ctx.Done():
	}
}

// note takes in what a pod is now.
func (p *pods) note(ctx context.Context, targets *errgroup.Group, object *core.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.touch()
	if object.DeletionTimestamp != nil || object.Status.Phase == core.PodFailed || object.Status.Phase == core.PodSucceeded {
		p.drop(object.Name)
		return
	}
	known := p.all[object.Name]
	if known == nil {
		known = &pod{name: object.Name, service: object.Labels[nameLabel], image: object.Spec.Containers[0].Image}
		p.all[object.Name] = known
	}
	known.ready = isReady(object)
	if known.target == nil && isRunning(object) {
		p.connect(ctx, targets, known)
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

func isRunning(object *core.Pod) bool {
	for _, c := range object.Status.ContainerStatuses {
		if c.State.Running != nil {
			return true
		}
	}
	return false
}

// connect starts the target of a pod. The caller has the lock.
func (p *pods) connect(ctx context.Context, targets *errgroup.Group, to *pod) {
	s := p.session
	service := s.app.Service(to.service)
	if service == nil {
		return
	}
	port := deploy.AgentPort(service)
	run, stop := context.WithCancel(ctx)
	to.stop = stop
	to.target = live.NewTarget(live.TargetConfig{
		Name: to.name,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return s.Cluster.DialPod(ctx, s.environment, to.name, port)
		},
		Token:   s.token,
		Client:  s.client(),
		Version: s.Version,
		Log:     s.Log.With("pod", to.name),
		Events:  func(e live.Event) { p.event(to, e) },
		Bases:   &p.bases,
	})
	p.tell(to)
	targets.Go(func() error {
		if err := to.target.Run(run); err != nil && run.Err() == nil {
			s.Printer.Warn(to.service, fmt.Sprintf("pod %s: %v", to.name, err), "")
		}
		return nil
	})
}

func (p *pods) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(name)
	p.touch()
}

func (p *pods) forgetOthers(present map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
		return fmt.Errorf("after %s these pods have not confirmed the present source: %v; bight logs shows what they say: %w", syncLimit, p.behind(), err)
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
	return names
}

// dial connects to a port of a ready pod of a service.
func (p *pods) dial(ctx context.Context, service string, port int) (net.Conn, error) {
	p.mu.Lock()
	var chosen *pod
	for _, pod := range p.all {
		if pod.service == service && pod.target != nil && (chosen == nil || p.rank(pod) > p.rank(chosen)) {
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
// among these the newest. The caller has the lock.
func (p *pods) rank(of *pod) int {
	n := 0
	if of.ready {
		n += 2
	}
	if p.newest(of) {
		n++
	}
	return n
}
