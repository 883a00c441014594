package podview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/reach"
)

// Cluster is what is needed of a *kube.Cluster.
type Cluster interface {
	Typed() (kubernetes.Interface, error)
	Explain(error) error
	Require(context.Context, []kube.Access) error
}

// View is what a container was given.
type View struct {
	Pod   reach.Pod
	Files []reach.FileSet // of the mounts that are Copied
}

// Get works out the view of a container of pod, of its main one if container is
// "". ConfigMaps and Secrets that may not be read are an error of kube that names
// all the rights that are missing; of what else can't be read there is a note.
func Get(ctx context.Context, cluster Cluster, pod *corev1.Pod, container string) (*View, error) {
	c, err := findContainer(pod, container)
	if err != nil {
		return nil, err
	}
	client, err := cluster.Typed()
	if err != nil {
		return nil, err
	}
	f := &fetcher{client: client, cluster: cluster, pod: pod, refs: references(pod, c)}
	if err := f.fetch(ctx); err != nil {
		return nil, fmt.Errorf("read what pod %s/%s was given: %w", pod.Namespace, pod.Name, err)
	}
	return compute(pod, c, &f.objects), nil
}

// compute applies kubelet's rules.
func compute(pod *corev1.Pod, c *corev1.Container, o *objects) *View {
	v := &View{Pod: reach.Pod{
		Hostname: hostname(pod), Dir: c.WorkingDir, UID: -1, GID: -1,
		ResolvConf: resolvConf(pod), Hosts: hosts(pod),
	}}
	v.Pod.Notes = append(v.Pod.Notes, "variables that the image itself sets are not known: only the agent sees them")
	identity(&v.Pod, pod, c)
	e := &environment{pod: pod, container: c, objects: o}
	v.Pod.Env = e.compute()
	m := &mounts{pod: pod, container: c, objects: o, vars: e.vars}
	v.Pod.Mounts, v.Files = m.compute()
	v.Pod.Notes = append(append(append(v.Pod.Notes, o.notes...), e.notes...), m.notes...)
	return v
}

// findContainer finds a container that runs, which an init container may do.
func findContainer(pod *corev1.Pod, name string) (*corev1.Container, error) {
	all := slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers)
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if name == "" && len(all) > 0 {
		return &all[0], nil
	}
	var names []string
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
		names = append(names, all[i].Name)
	}
	return nil, fmt.Errorf("pod %s/%s has no container %q; it has %q", pod.Namespace, pod.Name, name, names)
}

// tokenKey is what a token was asked for with.
type tokenKey struct {
	audience string
	seconds  int64
}

// objects are what a container refers to. An object that does not exist is nil.
type objects struct {
	configMaps  map[string]*corev1.ConfigMap
	secrets     map[string]*corev1.Secret
	services    []corev1.Service
	allocatable corev1.ResourceList // of the node, nil if not known
	tokens      map[tokenKey]string
	notes       []string
}

// fetcher gets objects.
type fetcher struct {
	client  kubernetes.Interface
	cluster Cluster
	pod     *corev1.Pod
	refs    refs

	mu      sync.Mutex
	objects objects
}

const parallel = 16

func (f *fetcher) fetch(ctx context.Context) error {
	f.objects.configMaps = map[string]*corev1.ConfigMap{}
	f.objects.secrets = map[string]*corev1.Secret{}
	f.objects.tokens = map[tokenKey]string{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for name := range f.refs.configMaps {
		g.Go(func() error { return f.configMap(gctx, name) })
	}
	for name := range f.refs.secrets {
		g.Go(func() error { return f.secret(gctx, name) })
	}
	for key := range f.refs.tokens {
		g.Go(func() error { return f.token(gctx, key) })
	}
	g.Go(func() error { return f.services(gctx) })
	if f.refs.node {
		g.Go(func() error { return f.node(gctx) })
	}
	err := g.Wait()
	slices.Sort(f.objects.notes)
	if !apierrors.IsForbidden(err) {
		return f.cluster.Explain(err)
	}
	// Name all that is missing, not only what was met first.
	if all := f.cluster.Require(ctx, f.refs.rights(f.pod.Namespace)); all != nil {
		return all
	}
	return f.cluster.Explain(err)
}

func (f *fetcher) configMap(ctx context.Context, name string) error {
	o, err := f.client.CoreV1().ConfigMaps(f.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		o, err = nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects.configMaps[name] = o
	return err
}

func (f *fetcher) secret(ctx context.Context, name string) error {
	o, err := f.client.CoreV1().Secrets(f.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		o, err = nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects.secrets[name] = o
	return err
}

// spare turns an error about something that can be done without into a note.
func (f *fetcher) spare(err error, what string) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects.notes = append(f.objects.notes, fmt.Sprintf("%s: %v", what, f.cluster.Explain(err)))
	return nil
}

func (f *fetcher) token(ctx context.Context, key tokenKey) error {
	r := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: f.pod.Name, UID: f.pod.UID},
	}}
	if key.audience != "" {
		r.Spec.Audiences = []string{key.audience}
	}
	if key.seconds != 0 {
		r.Spec.ExpirationSeconds = &key.seconds
	}
	account := serviceAccount(f.pod)
	got, err := f.client.CoreV1().ServiceAccounts(f.pod.Namespace).CreateToken(ctx, account, r, metav1.CreateOptions{})
	if err != nil {
		return f.spare(err, "the token of service account "+account+" is left out")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects.tokens[key] = got.Status.Token
	if end := got.Status.ExpirationTimestamp; !end.IsZero() {
		f.objects.notes = append(f.objects.notes,
			fmt.Sprintf("the token of service account %s is valid until %s", account, end.UTC().Format(time.RFC3339)))
	}
	return nil
}

// masterService is the one that every pod is told of.
const masterService = "kubernetes"

func (f *fetcher) services(ctx context.Context) error {
	var all []corev1.Service
	links := f.pod.Spec.EnableServiceLinks
	if links == nil || *links {
		list, err := f.client.CoreV1().Services(f.pod.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return f.spare(err, "variables of other Kubernetes Services are left out")
		}
		all = list.Items
	}
	if !slices.ContainsFunc(all, func(s corev1.Service) bool { return s.Name == masterService }) {
		s, err := f.client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, masterService, metav1.GetOptions{})
		if err != nil {
			err = f.spare(err, "KUBERNETES_SERVICE_HOST and its like are left out")
		} else {
			all = append(all, *s)
		}
		if err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects.services = all
	return nil
}

func (f *fetcher) node(ctx context.Context) error {
	n, err := f.client.CoreV1().Nodes().Get(ctx, f.pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return f.spare(err, "limits that are not set are the node's, and not known")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects.allocatable = n.Status.Allocatable
	return nil
}
