// Package permit makes Intercepts, the Kubernetes objects by which the node agents let
// a user into pods that somebody else deployed, and keeps them alive.
//
// The main type is [Permit], one Intercept. It exists from [Ask] until Close, as long
// as this process lives: node agents delete it when they have not heard of it for 10
// seconds, and it is made again when it is missing. All methods are safe for
// concurrent use; what Ask starts has ended when Close returns.
package permit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/intercept"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/steer"
)

// renewal is how often the node agents hear of us, and how long that may take: they
// give up after three times as long.
const renewal = 3 * time.Second

// patience is how long a node agent may take to open the gate of a pod.
const patience = 10 * time.Second

// mending is how long a problem of a node agent may stand.
const mending = 1500 * time.Millisecond

// Permit is an Intercept that lives as long as it is open.
type Permit struct {
	cluster *kube.Cluster
	client  dynamic.ResourceInterface
	object  *v1alpha1.Intercept // as it is made, never changed
	token   string
	log     *slog.Logger
	stop    context.CancelFunc
	work    sync.WaitGroup

	again chan struct{} // look at once whether it is there; has room for one

	mu      sync.Mutex
	pods    map[place]v1alpha1.PodStatus // what the agents say
	signed  time.Time                    // the last renewal
	revoked bool                         // somebody has deleted it
	uid     types.UID                    // of the object that was made last
	changed chan struct{}                // closed and renewed when any of these changes
}

// place is where a pod is: another of the same name may come on another node.
type place struct{ node, pod string }

// MissingError tells that the cluster has no node agents.
type MissingError struct{ Context string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("the cluster of context %q has no node agents, which lead into pods that Bight did not deploy: whoever runs it installs them once with bight install", e.Context)
}

// Owner returns the name by which the API server knows this user.
func Owner(ctx context.Context, c *kube.Cluster) (string, error) {
	client, err := c.Typed()
	if err != nil {
		return "", err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the API server who we are: %w", c.Explain(err))
	}
	return review.Status.UserInfo.Username, nil
}

// Ask makes an Intercept whose name begins with this one; its token hash and its first
// renewal are filled in. What the API server says against it is the error.
func Ask(ctx context.Context, c *kube.Cluster, namespace, name string, spec v1alpha1.InterceptSpec, log *slog.Logger) (*Permit, error) {
	client, err := c.Dynamic()
	if err != nil {
		return nil, err
	}
	p := &Permit{
		cluster: c, client: client.Resource(v1alpha1.Intercepts()).Namespace(namespace), token: rand.Text(), log: log,
		pods: map[place]v1alpha1.PodStatus{}, changed: make(chan struct{}), again: make(chan struct{}, 1),
	}
	sum := sha256.Sum256([]byte(p.token))
	spec.TokenHash = hex.EncodeToString(sum[:])
	p.object = &v1alpha1.Intercept{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Intercept"},
		ObjectMeta: metav1.ObjectMeta{Name: name + "-" + strings.ToLower(rand.Text()[:5]), Namespace: namespace},
		Spec:       spec,
	}
	p.signed = wall()
	made, err := p.make(ctx)
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	p.work.Go(func() { p.renew(run) })
	p.work.Go(func() { p.follow(run, made.GetResourceVersion()) })
	return p, nil
}

// Token is what gates ask for.
func (p *Permit) Token() string { return p.token }

// Rule is the rule that gates let this process join, nil for none.
func (p *Permit) Rule() *steer.Rule { return intercept.RuleOf(p.object) }

// Close deletes the Intercept: the node agents let nobody in by it any more. Without
// the cluster it ends by itself.
func (p *Permit) Close() {
	p.stop()
	p.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := p.client.Delete(ctx, p.object.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		p.log.Debug("the Intercept is left to expire", "err", err)
	}
}

// wall is the time by the clock on the wall: that goes on while a laptop sleeps.
func wall() time.Time { return time.Now().Round(0) }

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// make creates the object.
func (p *Permit) make(ctx context.Context) (*unstructured.Unstructured, error) {
	object := p.object.DeepCopy()
	object.Annotations = map[string]string{v1alpha1.RenewedAnnotation: now()}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	delete(fields, "status")
	made, err := p.client.Create(ctx, &unstructured.Unstructured{Object: fields}, metav1.CreateOptions{FieldManager: "bight"})
	switch {
	case err == nil:
		p.mu.Lock()
		p.uid = made.GetUID()
		p.mu.Unlock()
		return made, nil
	case missing(p.cluster, err):
		return nil, &MissingError{Context: p.cluster.Context}
	}
	err = p.cluster.Explain(err)
	if kube.KindOf(err) == kube.Forbidden {
		return nil, fmt.Errorf("make Intercept %s: %w. The ClusterRole bight-intercept, which is a part of edit, grants all that it takes", p.object.Name, err)
	}
	return nil, fmt.Errorf("make Intercept %s: %w", p.object.Name, err)
}

// renew tells the node agents that we are there, until ctx ends or somebody has deleted
// the Intercept.
func (p *Permit) renew(ctx context.Context) {
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.again:
		case <-ctx.Done():
			return
		}
		err := p.sign(ctx)
		if errors.Is(err, errRevoked) {
			return
		}
		if err != nil && ctx.Err() == nil {
			p.log.Debug("the Intercept is not renewed", "err", err)
		}
	}
}

var errRevoked = errors.New("the Intercept was deleted")

// sign is one sign of life. An Intercept that has expired is made again; one that is
// gone although it was renewed was taken from us.
func (p *Permit) sign(ctx context.Context) error {
	sent := wall()
	limited, cancel := context.WithTimeout(ctx, renewal)
	defer cancel()
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1alpha1.RenewedAnnotation: now()}}})
	if err != nil {
		return err
	}
	_, err = p.client.Patch(limited, p.object.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "bight"})
	p.mu.Lock()
	revoked := taken(err, p.signed, sent)
	if revoked {
		p.revoked = true
		p.touch()
	}
	p.mu.Unlock()
	if revoked {
		return errRevoked
	}
	if apierrors.IsNotFound(err) {
		_, err = p.make(limited)
	}
	if err == nil {
		p.mu.Lock()
		p.signed = sent
		p.mu.Unlock()
	}
	return err
}

// taken reports whether an Intercept that a request did not find was taken from us,
// rather than having expired: whether it was renewed a short while before.
func taken(err error, signed, sent time.Time) bool {
	since := sent.Sub(signed)
	return apierrors.IsNotFound(err) && since >= 0 && since < expiry
}

// expiry is from when on a missing Intercept has expired, in all likelihood.
const expiry = (v1alpha1.InterceptLease - 2) * time.Second

// touch wakes who waits for a change. The lock is held.
func (p *Permit) touch() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// follow takes in what the node agents say, until ctx ends.
func (p *Permit) follow(ctx context.Context, version string) {
	source := follow.Of(p.client, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", p.object.Name).String()})
	for ctx.Err() == nil {
		err := source.Changes(ctx, version, func(c follow.Change) error {
			switch {
			case c.Event == watch.Deleted:
				p.take(nil)
			case c.Event != "":
				p.take(c.Object)
			case len(c.All) > 0:
				p.take(c.All[0])
			default:
				p.take(nil)
			}
			return nil
		})
		version = ""
		p.log.Debug("the Intercept is not followed", "err", err)
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (p *Permit) take(object runtime.Object) {
	pods := map[place]v1alpha1.PodStatus{}
	if u, ok := object.(*unstructured.Unstructured); ok {
		i := &v1alpha1.Intercept{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, i); err != nil {
			p.log.Debug("the Intercept can't be read", "err", err)
			return
		}
		for _, n := range i.Status.Nodes {
			for _, pod := range n.Pods {
				pods[place{n.Node, pod.Name}] = pod
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods = pods
	p.touch()
	if object == nil {
		select {
		case p.again <- struct{}{}:
		default:
		}
	}
}

// Enter waits until a pod has a gate, and returns the port on the pod's loopback where
// that listens.
func (p *Permit) Enter(ctx context.Context, pod *core.Pod) (port int, err error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var enough <-chan time.Time // of a problem
	for {
		p.mu.Lock()
		e, changed, revoked := p.pods[place{pod.Spec.NodeName, pod.Name}], p.changed, p.revoked
		p.mu.Unlock()
		if revoked {
			return 0, fmt.Errorf("%w: Intercept %s was deleted, by bight intercept leave or by somebody else who may", bridge.ErrRevoked, p.object.Name)
		}
		if e.Port != 0 {
			return int(e.Port), nil
		}
		switch {
		case e.Problem == "":
			enough = nil
		case enough == nil:
			enough = time.After(mending)
		}
		select {
		case <-changed:
		case <-enough:
			return 0, fmt.Errorf("%w %s: the agent of node %s says: %s", bridge.ErrBarred, pod.Name, pod.Spec.NodeName, e.Problem)
		case <-limited.Done():
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			return 0, fmt.Errorf("the agent of node %s says nothing of pod %s after %s: is there one? kubectl -n bight-system get pods -o wide shows them: %w",
				pod.Spec.NodeName, pod.Name, patience, context.DeadlineExceeded)
		}
	}
}

// missing reports whether a request failed because the cluster has no Intercepts at
// all. Who may do little hears that they may not, before that there is nothing.
func missing(c *kube.Cluster, err error) bool {
	if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return false
	}
	d, derr := c.Discovery()
	if derr != nil {
		return false
	}
	_, derr = d.ServerResourcesForGroupVersion(v1alpha1.GroupVersion().String())
	return apierrors.IsNotFound(derr) || errors.Is(derr, memory.ErrCacheNotFound)
}

// Delete ends an Intercept of one's own, whoever renews it.
func Delete(ctx context.Context, c *kube.Cluster, i *v1alpha1.Intercept) error {
	client, err := c.Dynamic()
	if err != nil {
		return err
	}
	err = client.Resource(v1alpha1.Intercepts()).Namespace(i.Namespace).Delete(ctx, i.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &i.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Intercept %s: %w", i.Name, c.Explain(err))
	}
	return nil
}

// List returns the Intercepts of a namespace. Without node agents the error is a
// *MissingError.
func List(ctx context.Context, c *kube.Cluster, namespace string) ([]v1alpha1.Intercept, error) {
	client, err := c.Dynamic()
	if err != nil {
		return nil, err
	}
	list, err := client.Resource(v1alpha1.Intercepts()).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if missing(c, err) {
		return nil, &MissingError{Context: c.Context}
	}
	if err != nil {
		return nil, c.Explain(err)
	}
	all := make([]v1alpha1.Intercept, len(list.Items))
	for i := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &all[i]); err != nil {
			return nil, fmt.Errorf("read Intercept %s: %w", list.Items[i].GetName(), err)
		}
	}
	return all, nil
}
