// Package guest leads into pods that Bight did not deploy where no node agents are
// installed: by an ephemeral container in each pod, for who may change the subresource
// pods/ephemeralcontainers.
//
// The main type is [Guest], what one session of one user has put into pods. Nothing
// can take an ephemeral container out of a pod again: it ends by itself soon after the
// session, and stays listed until the pod is replaced. All methods are safe for
// concurrent use; what Open starts has ended when Close returns.
package guest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

const (
	// patience is how long a pod may take to run our container, its image pulled.
	patience = 2 * time.Minute
	// attempts is how often a port is chosen that somebody else takes at that moment.
	attempts = 3
	// most is how many containers one pod may be given: each stays listed there.
	most = 10
	// resume is the pause before a pod is followed again that could not be.
	resume = 250 * time.Millisecond
)

// Settings say what is put into which pods, and what it allows.
type Settings struct {
	Cluster   *kube.Cluster
	Namespace string
	Selector  string // of the pods
	Image     string // with the agent, as nodes pull it

	ID       string // for people: "cart-4711"
	Owner    string // for people: "ada (ada@laptop)"
	Workload string // "deployment/cart"
	// Container is the one whose process it is about, "" for a pod's first.
	Container string
	// Rule is the only one that may be joined, nil for none; its ID, Owner and Service
	// are those above. Protocol is what its port speaks, "" if that is not known.
	Rule     *steer.Rule
	Protocol string
	// Environment allows to have the environment, the files and the network of the
	// process.
	Environment bool
	Log         *slog.Logger
}

// Rights are what it takes.
func Rights(namespace string) []kube.Access {
	return []kube.Access{
		{Verb: "patch", Resource: "pods", Subresource: "ephemeralcontainers", Namespace: namespace},
		kube.ParseAccess("watch", "pods", namespace),
	}
}

// Guest is what one session has put into pods.
type Guest struct {
	s      Settings
	client kubernetes.Interface
	token  string
	life   context.Context
	end    context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	entries map[types.UID]*entry
	given   map[types.UID]int // containers, by pod
	closed  bool
}

// entry is the way into one pod.
type entry struct {
	settled chan struct{} // closed when port or err is set
	port    int
	err     error
	once    sync.Once
}

func (e *entry) settle(port int, err error) {
	e.once.Do(func() {
		e.port, e.err = port, err
		close(e.settled)
	})
}

// Open opens the ways that are needed first: into all ready pods for a rule, and into
// one for the environment alone. It returns when they are open; what keeps one from
// opening for good is the error.
func Open(ctx context.Context, s Settings) (*Guest, error) {
	client, err := s.Cluster.Typed()
	if err != nil {
		return nil, err
	}
	if s.Rule != nil {
		rule := *s.Rule
		rule.ID, rule.Owner, rule.Service = s.ID, s.Owner, s.Workload
		s.Rule = &rule
	}
	g := &Guest{s: s, client: client, token: rand.Text(), entries: map[types.UID]*entry{}, given: map[types.UID]int{}}
	g.life, g.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := g.enterFirst(ctx); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guest) enterFirst(ctx context.Context) error {
	list, err := g.client.CoreV1().Pods(g.s.Namespace).List(ctx, metav1.ListOptions{LabelSelector: g.s.Selector})
	if err != nil {
		return g.s.Cluster.Explain(err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, pod := range first(list.Items, g.s.Rule != nil) {
		group.Go(func() error {
			if _, err := g.Enter(ctx, pod); errors.Is(err, bridge.ErrBarred) {
				return err
			}
			return nil // it may have gone: whoever connects next asks again
		})
	}
	return group.Wait()
}

// Token is what the containers ask for.
func (g *Guest) Token() string { return g.token }

// Rule is the rule that the containers let this process join, nil for none.
func (g *Guest) Rule() *steer.Rule { return g.s.Rule }

// Close waits for nobody's way any more. The containers end by themselves when their
// sessions have ended.
func (g *Guest) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.end()
	g.work.Wait()
}

// Enter waits until our container runs in a pod, and returns the port on the pod's
// loopback where it listens. The first call for a pod puts it there, and so does the
// first one after it has ended.
func (g *Guest) Enter(ctx context.Context, pod *core.Pod) (port int, err error) {
	e, err := g.entry(pod)
	if err != nil {
		return 0, err
	}
	select {
	case <-e.settled:
		return e.port, e.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (g *Guest) entry(pod *core.Pod) (*entry, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, context.Canceled
	}
	e := g.entries[pod.UID]
	if e == nil {
		e = &entry{settled: make(chan struct{})}
		g.entries[pod.UID] = e
		g.work.Go(func() { g.lead(pod, e) })
	}
	return e, nil
}

// lead keeps a way open for as long as our container runs.
func (g *Guest) lead(pod *core.Pod, e *entry) {
	err := g.hold(pod, e)
	e.settle(0, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.entries, pod.UID)
	if errors.Is(err, bridge.ErrBarred) { // for good: it would be the same again
		e := &entry{settled: make(chan struct{})}
		e.settle(0, err)
		g.entries[pod.UID] = e
	}
}

// hold puts a container into a pod and returns why it has ended.
func (g *Guest) hold(pod *core.Pod, e *entry) error {
	if pod.Spec.HostNetwork {
		return fmt.Errorf("%w %s: it uses the node's own network (hostNetwork), where to steer would be to steer the node", bridge.ErrBarred, pod.Name)
	}
	for range attempts {
		if n := g.count(pod); n > most {
			return fmt.Errorf("%w %s: %d ephemeral containers of this command have ended there; does its process end all the time?", bridge.ErrBarred, pod.Name, most)
		}
		c := g.s.container(pod, hashOf(g.token), name(), port(pod))
		if err := g.put(pod, c); err != nil {
			return err
		}
		s, err := g.follow(pod, c.Name, func() bool {
			answers := g.greet(pod, portOf(c))
			if answers {
				e.settle(portOf(c), nil)
			}
			return answers
		})
		if err != nil {
			return err
		}
		switch s.what {
		case taken:
			continue
		case barred:
			return fmt.Errorf("%w %s: its ephemeral container %s %s", bridge.ErrBarred, pod.Name, c.Name, s.why)
		}
		return fmt.Errorf("the ephemeral container %s of pod %s %s", c.Name, pod.Name, s.why)
	}
	return fmt.Errorf("%w %s: the ports that its ephemeral containers chose were taken %d times", bridge.ErrBarred, pod.Name, attempts)
}

// count counts the containers that a pod is given.
func (g *Guest) count(pod *core.Pod) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.given[pod.UID]++
	return g.given[pod.UID]
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// name is a container's that nobody else has.
func name() string { return "bight-" + strings.ToLower(rand.Text()[:8]) }

// put adds a container to a pod.
func (g *Guest) put(pod *core.Pod, c *core.EphemeralContainer) error {
	ctx, cancel := context.WithTimeout(g.life, 30*time.Second)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"spec":     map[string]any{"ephemeralContainers": []*core.EphemeralContainer{c}},
	})
	if err != nil {
		return err
	}
	_, err = g.client.CoreV1().Pods(g.s.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body,
		metav1.PatchOptions{FieldManager: "bight"}, "ephemeralcontainers")
	if err == nil {
		g.s.Log.Debug("an ephemeral container was added", "pod", pod.Name, "container", c.Name)
		return nil
	}
	err = g.s.Cluster.Explain(err)
	switch kube.KindOf(err) {
	case kube.Policy:
		var all []string
		for _, capability := range c.SecurityContext.Capabilities.Add {
			all = append(all, string(capability))
		}
		return fmt.Errorf("%w %s by an ephemeral container, which needs user 0 and %s: either namespace %s allows that (the label pod-security.kubernetes.io/enforce=privileged, where Pod Security refuses it), or whoever runs the cluster installs node agents with bight install: %w",
			bridge.ErrBarred, pod.Name, strings.Join(all, ", "), g.s.Namespace, err)
	case kube.Forbidden, kube.Quota:
		return fmt.Errorf("%w %s by an ephemeral container: %w", bridge.ErrBarred, pod.Name, err)
	}
	return fmt.Errorf("add an ephemeral container to pod %s: %w", pod.Name, err)
}

// greet waits until our container answers: it may run for a moment before it listens. If
// it never does, what becomes of it says why.
func (g *Guest) greet(pod *core.Pod, port int) bool {
	const enough, pause = 10 * time.Second, 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(g.life, enough)
	defer cancel()
	client := &stream.Client{
		Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			return g.s.Cluster.DialPod(ctx, g.s.Namespace, pod.Name, port)
		},
		Token: g.token, Log: g.s.Log,
	}
	for {
		sess, err := client.Connect(ctx)
		if err == nil {
			farewell := time.AfterFunc(pause, cancel) // the transport may take longer to close
			defer farewell.Stop()
			_ = sess.Close() // nothing was sent that could be lost
			return true
		}
		if refused := (*kube.PortError)(nil); !errors.As(err, &refused) {
			g.s.Log.Debug("an ephemeral container does not answer", "pod", pod.Name, "err", err)
			return ctx.Err() == nil // whoever connects next will see
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

var errDecided = errors.New("the container's fate is decided")

// follow returns how our container has ended. While it runs, answers is called until it
// does.
func (g *Guest) follow(pod *core.Pod, container string, answers func() bool) (state, error) {
	ctx, cancel := context.WithCancelCause(g.life)
	defer cancel(nil)
	late := time.AfterFunc(patience, func() {
		cancel(fmt.Errorf("%w %s: its ephemeral container %s does not serve after %s: kubectl -n %s describe pod %[2]s says why",
			bridge.ErrBarred, pod.Name, container, patience, pod.Namespace))
	})
	defer late.Stop()
	source := follow.Of(g.client.CoreV1().Pods(g.s.Namespace), metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String(),
	})
	var last state
	serves := false
	look := func(c follow.Change) error {
		last = state{gone, "is gone with the pod"}
		if c.Event == "" && len(c.All) > 0 {
			c.Object = c.All[0]
		}
		if p, ok := c.Object.(*core.Pod); ok && c.Event != watch.Deleted && p.UID == pod.UID {
			last = judge(p, container)
		}
		switch last.what {
		case waiting:
			return nil
		case runs:
			if serves = serves || answers(); serves {
				late.Stop()
			}
			return nil
		}
		return errDecided
	}
	for {
		err := source.Changes(ctx, "", look)
		if errors.Is(err, errDecided) {
			return last, nil
		}
		if ctx.Err() != nil {
			return last, context.Cause(ctx)
		}
		g.s.Log.Debug("the pod is not followed", "pod", pod.Name, "err", err)
		select {
		case <-time.After(resume):
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// first are the pods to enter before anything else is done: all that are ready, or the
// one that a bridge takes first, a ready one and of these the newest.
func first(pods []core.Pod, all bool) []*core.Pod {
	var some []*core.Pod
	for i := range pods {
		p := &pods[i]
		if p.DeletionTimestamp == nil && p.Status.Phase == core.PodRunning && len(p.Spec.Containers) > 0 && (ready(p) || !all) {
			some = append(some, p)
		}
	}
	if all || len(some) == 0 {
		return some
	}
	slices.SortStableFunc(some, func(x, y *core.Pod) int {
		if rx, ry := ready(x), ready(y); rx != ry {
			if rx {
				return -1
			}
			return 1
		}
		return y.CreationTimestamp.Compare(x.CreationTimestamp.Time)
	})
	return some[:1]
}

func ready(p *core.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool {
		return c.Type == core.PodReady && c.Status == core.ConditionTrue
	})
}
