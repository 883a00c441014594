// Package bridge joins a command on this machine, or a process that runs there
// already, to a service in the cluster: its network, names, environment and files
// come here, and requests for it if that is wanted.
//
// The main type is [Bridge], one app in one environment. [Bridge.Run] runs a
// command as though it were in a service's pod, [Bridge.Intercept] leads requests to
// a process, [Bridge.Proxy] serves programs that can do with a proxy. All go through
// the agents of the service's pods: by port-forwards, and past them where this machine
// was told that it reaches pods; whatever steers traffic is a lease in the pods' agents, so nothing has to be cleaned up
// when this process or its network is gone. All exported methods are safe for
// concurrent use; what they start has ended when they return.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

// Bridge leads to the services of one app in one environment.
type Bridge struct {
	Cluster   *kube.Cluster
	Namespace string
	App       string // its name, for people
	Selector  string // of its pods
	Services  []string

	// Service tells whose a pod is, Agent where its agent listens.
	Service func(*core.Pod) string
	Agent   func(*core.Pod) (port int, ok bool)
	// Enter, where it is not nil, waits until the agent of a pod lets us in, and
	// returns where it listens then. Errors that are ErrBarred or ErrRevoked need no
	// second attempt.
	Enter func(context.Context, *core.Pod) (port int, err error)

	Token   string // that the agents want
	Owner   string // who we are, for people: "anna@laptop"
	Version string
	// Lives tells whether the process that made a rule of Owner's still runs. nil stands
	// for yes.
	Lives func(steer.Rule) bool
	// Say tells the user of something that happens while a bridge is open.
	Say func(text string)
	Log *slog.Logger

	once sync.Once
	cut  *losses

	ahead atomic.Pointer[listing]
}

// listing is a list of the pods that is under way.
type listing struct {
	done chan struct{}
	pods *core.PodList
	err  error
}

// Prepare begins to list the pods, for the first that wants to know them: something
// else can be asked of the cluster meanwhile.
func (b *Bridge) Prepare(ctx context.Context) {
	l := &listing{done: make(chan struct{})}
	b.ahead.Store(l)
	go func() {
		defer close(l.done)
		l.pods, l.err = b.ask(ctx)
	}()
}

// list lists the app's pods.
func (b *Bridge) list(ctx context.Context) (*core.PodList, error) {
	l := b.ahead.Swap(nil)
	if l == nil {
		return b.ask(ctx)
	}
	select {
	case <-l.done:
		return l.pods, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *Bridge) ask(ctx context.Context) (*core.PodList, error) {
	client, err := b.Cluster.Typed()
	if err != nil {
		return nil, err
	}
	return client.CoreV1().Pods(b.Namespace).List(ctx, meta.ListOptions{LabelSelector: b.Selector})
}

var (
	// ErrNoPod says that a service has no pod to go through.
	ErrNoPod = errors.New("no running pod with Bight's agent")
	// ErrBarred says that the agent can't lead into a pod as things are.
	ErrBarred = errors.New("there is no way into the pod")
	// ErrRevoked says that somebody has taken the right to enter away.
	ErrRevoked = errors.New("there is no right to enter the pods any more")
)

// UnknownServiceError tells that the app has no service of that name.
type UnknownServiceError struct {
	Name, App          string
	Namespace, Context string // where the app is
	Known              []string
	// Other is what else there is by such a name, "" for nothing: a workload that somebody
	// else deployed, as it is written for bight run.
	Other string
}

func (e *UnknownServiceError) Error() string {
	there := "there is"
	near := Nearest(e.Name, e.Known)
	if e.Other != "" {
		near = e.Other + ", which somebody else deployed"
	}
	if near != "" {
		there = "did you mean " + near + "? There is"
	}
	return fmt.Sprintf("%s has no service %q; %s %s (namespace %s, context %s)", e.App, e.Name, there, strings.Join(e.Known, ", "), e.Namespace, e.Context)
}

// Nearest returns the name that differs from another in the fewest letters, "" when
// none is near.
func Nearest(name string, known []string) string {
	best, at := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(name, k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Unknown is the error that there is no service of a name.
func (b *Bridge) Unknown(name string) *UnknownServiceError {
	return &UnknownServiceError{Name: name, App: b.App, Namespace: b.Namespace, Context: b.Cluster.Context, Known: b.Services}
}

// check refuses a service that is not there. "" stands for any.
func (b *Bridge) check(service string) error {
	if service != "" && !slices.Contains(b.Services, service) {
		return b.Unknown(service)
	}
	return nil
}

// pods returns the running pods of a service, or of all; the ready and the newest
// ones first.
func (b *Bridge) pods(ctx context.Context, service string) ([]core.Pod, error) {
	list, err := b.list(ctx)
	if err != nil {
		return nil, b.Cluster.Explain(err)
	}
	pods := slices.DeleteFunc(list.Items, func(p core.Pod) bool { return !b.usable(&p) || service != "" && b.Service(&p) != service })
	slices.SortStableFunc(pods, func(x, y core.Pod) int {
		if rx, ry := isReady(&x), isReady(&y); rx != ry {
			if rx {
				return -1
			}
			return 1
		}
		return y.CreationTimestamp.Compare(x.CreationTimestamp.Time)
	})
	return pods, nil
}

// usable reports whether an agent of ours runs in a pod that stays.
func (b *Bridge) usable(p *core.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.Phase != core.PodRunning || len(p.Spec.Containers) == 0 {
		return false
	}
	_, ok := b.Agent(p)
	return ok
}

func isReady(p *core.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// missing is the error that a service has no pod to go through.
func (b *Bridge) missing(service string) error {
	what := b.App
	if service != "" {
		what = "service " + service
	}
	return fmt.Errorf("%s has %w in namespace %s (context %s): bight up deploys it there, -n names another; a workload that somebody else deployed is written deploy/NAME", what, ErrNoPod, b.Namespace, b.Cluster.Context)
}

// connect opens a session with the agent of a pod.
func (b *Bridge) connect(ctx context.Context, pod *core.Pod, handle func(context.Context, *stream.Stream)) (*stream.Session, error) {
	losses, this := b.losses(), &line{pod}
	dialled := false
	var barred error // why the agent leads nobody into the pod, or not us
	client := &stream.Client{
		OnState: func(s stream.State) {
			switch s.Kind {
			case stream.Lost:
				losses.lose(this)
			case stream.Ended: // another one takes its place
				losses.replace(this, s.Err)
			default:
				losses.regain(this)
				b.Log.Info("connected to the pod", "pod", pod.Name, "transport", TransportOf(s.Direct))
			}
		},
		Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			if dialled { // it may be the pod that has gone
				if _, gone, err := b.fate(ctx, pod); err == nil && gone {
					return nil, stream.Permanent(fmt.Errorf("pod %s has gone", pod.Name))
				}
			}
			dialled = true
			port, err := b.door(ctx, pod)
			if errors.Is(err, ErrBarred) || errors.Is(err, ErrRevoked) {
				barred = err
				return nil, stream.Permanent(err)
			}
			if err != nil {
				return nil, err
			}
			conn, err := b.Cluster.DialPod(ctx, b.Namespace, pod.Name, port)
			if kube.KindOf(err) == kube.NotFound || apierrors.IsNotFound(err) {
				return nil, stream.Permanent(err) // another pod takes its place
			}
			return conn, err
		},
		Direct: b.direct(pod),
		Limits: stream.Limits{Budget: 32 << 20}, // this process is to stay under 100 MB
		Token:  b.Token, Version: b.Version, Handle: handle, Log: b.Log.With("pod", pod.Name),
	}
	sess, err := client.Connect(ctx)
	var refused *stream.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Refusal == stream.RefusedToken && b.Enter == nil:
		return nil, fmt.Errorf("pod %s does not take this user's token: it was deployed by a session that is no more; run bight up again: %w", pod.Name, err)
	case err != nil && barred != nil:
		return nil, barred // which says of which pod
	case err != nil:
		return nil, fmt.Errorf("reach the agent of pod %s: %w", pod.Name, b.Cluster.Explain(err))
	}
	return sess, nil
}

// losses are what tells the user of sessions that are cut off.
func (b *Bridge) losses() *losses {
	b.once.Do(func() {
		b.cut = &losses{
			say: func(text string) { b.Say(text) },
			going: func(ctx context.Context, pod *core.Pod) bool {
				going, _, err := b.fate(ctx, pod)
				return err == nil && going
			},
		}
	})
	return b.cut
}

// door is the port of a pod's agent.
func (b *Bridge) door(ctx context.Context, pod *core.Pod) (int, error) {
	if b.Enter != nil {
		return b.Enter(ctx, pod)
	}
	port, _ := b.Agent(pod)
	return port, nil
}

// Environment returns what the process of a service's pod was given.
func (b *Bridge) Environment(ctx context.Context, service string) (*reach.Pod, error) {
	w, err := b.way(ctx, service)
	if err != nil {
		return nil, err
	}
	defer w.close()
	return reach.GetPod(ctx, w)
}

// rules asks the agent of one pod which rules it has.
func (b *Bridge) rules(ctx context.Context, pod *core.Pod) ([]steer.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	sess, err := b.connect(ctx, pod, nil)
	if err != nil {
		return nil, err
	}
	defer farewell(sess, cancel)
	return steer.List(ctx, sess)
}

// farewell ends a session such that the agent knows at once, and does not keep it for
// a client that comes back. The transport below may take a second to close, which
// nobody has to wait for: end, which ends the session's context, cuts it off.
func farewell(sess *stream.Session, end context.CancelFunc) {
	const enough = 50 * time.Millisecond
	timer := time.AfterFunc(enough, end)
	defer timer.Stop()
	defer end()
	_ = sess.Close()
}

// Intercepts asks the agents of all pods which rules there are. It fails when none
// of them answers; of one that does not, Pods tells.
func (b *Bridge) Intercepts(ctx context.Context) ([]Intercept, error) {
	pods, err := b.pods(ctx, "")
	if err != nil {
		return nil, err
	}
	all := make([][]steer.Status, len(pods))
	errs := make([]error, len(pods))
	var asking sync.WaitGroup
	for i := range pods {
		asking.Go(func() { all[i], errs[i] = b.rules(ctx, &pods[i]) })
	}
	asking.Wait()
	if len(pods) > 0 && !slices.Contains(errs, nil) {
		return nil, errs[0]
	}
	ready := map[string]int{}
	var said []steer.Status
	for i := range pods {
		ready[b.Service(&pods[i])]++
		said = append(said, all[i]...)
	}
	return merge(said, ready), nil
}
