// Package client does what people want of releases: it begins them, gives them orders,
// and sees what becomes of both.
//
// The main type is [Client], the releases of one namespace. It keeps no state and is
// safe for concurrent use. What can be decided without the cluster is a function:
// [Find], [Observed], [Behind], and the [Order]s.
package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// manager owns the fields that are written here.
const manager = "bight"

// Client is the releases of one namespace.
type Client struct {
	cluster   *kube.Cluster
	namespace string
	dynamic   dynamic.Interface
	typed     kubernetes.Interface
}

// New returns the client of a cluster's namespace.
func New(c *kube.Cluster) (*Client, error) {
	d, err := c.Dynamic()
	if err != nil {
		return nil, err
	}
	t, err := c.Typed()
	if err != nil {
		return nil, err
	}
	return &Client{cluster: c, namespace: c.Namespace, dynamic: d, typed: t}, nil
}

// Namespace is where the releases are.
func (c *Client) Namespace() string { return c.namespace }

func (c *Client) releases() dynamic.ResourceInterface {
	return c.dynamic.Resource(v1alpha1.Releases()).Namespace(c.namespace)
}

// RefusedError says that what somebody wants makes no sense as things are. Nothing was
// changed.
type RefusedError struct {
	Text   string
	Policy bool // it makes sense, and a ReleasePolicy does not allow it
}

func (e *RefusedError) Error() string { return e.Text }

func refuse(format string, args ...any) error {
	return &RefusedError{Text: fmt.Sprintf(format, args...)}
}

// NotFoundError says that there is no such thing, and what there is.
type NotFoundError struct{ Text string }

func (e *NotFoundError) Error() string { return e.Text }

// explain says why a request failed. A cluster that does not know the kind has nothing
// installed.
func (c *Client) explain(err error) error {
	var status apierrors.APIStatus
	if apierrors.IsNotFound(err) && errors.As(err, &status) {
		if d := status.Status().Details; d == nil || d.Name == "" {
			return &NotFoundError{fmt.Sprintf("the cluster of context %q has no releases: whoever runs it installs them once with bight install", c.cluster.Context)}
		}
	}
	return c.cluster.Explain(err)
}

// List returns the releases of the namespace, the newest first.
func (c *Client) List(ctx context.Context) ([]v1alpha1.Release, error) {
	list, err := c.releases().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.explain(err)
	}
	all := &v1alpha1.ReleaseList{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.UnstructuredContent(), all); err != nil {
		return nil, fmt.Errorf("read the releases of namespace %s: %w", c.namespace, err)
	}
	for i := range all.Items {
		all.Items[i].ManagedFields = nil
	}
	newestFirst(all.Items)
	return all.Items, nil
}

func newestFirst(all []v1alpha1.Release) {
	slices.SortFunc(all, func(a, b v1alpha1.Release) int { return spec.Compare(&b, &a) })
}

// Current returns the newest release of each Deployment: those that count. all is as
// List returns it.
func Current(all []v1alpha1.Release) []v1alpha1.Release {
	seen := map[string]bool{}
	var current []v1alpha1.Release
	for _, r := range all {
		if !seen[r.Spec.Deployment] {
			current = append(current, r)
		}
		seen[r.Spec.Deployment] = true
	}
	slices.SortFunc(current, func(a, b v1alpha1.Release) int { return cmp.Compare(a.Spec.Deployment, b.Spec.Deployment) })
	return current
}

// Find returns the release that a name means: the newest of the Deployment of that
// name, or the release itself, or the newest of the Kubernetes Service. all is as List
// returns it.
func Find(all []v1alpha1.Release, name, namespace string) (*v1alpha1.Release, error) {
	for _, is := range []func(*v1alpha1.Release) bool{
		func(r *v1alpha1.Release) bool { return r.Spec.Deployment == name },
		func(r *v1alpha1.Release) bool { return r.Name == name },
		func(r *v1alpha1.Release) bool { return r.Spec.Service == name },
	} {
		for i := range all {
			if is(&all[i]) {
				return &all[i], nil
			}
		}
	}
	var names []string
	for _, r := range Current(all) {
		names = append(names, r.Spec.Deployment)
	}
	there := "there is none at all"
	if len(names) > 0 {
		there = "there is one of " + some(names)
	}
	return nil, &NotFoundError{fmt.Sprintf("there is no release of %s in namespace %s; %s; choose another namespace with -n", name, namespace, there)}
}

// some names a few.
func some(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}

// Of returns all releases that a name means, the newest first: those of the Deployment
// of that name, or else that release alone, or those of the Kubernetes Service.
func (c *Client) Of(ctx context.Context, name string) ([]v1alpha1.Release, error) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	one, err := Find(all, name, c.namespace)
	if err != nil {
		return nil, err
	}
	if one.Spec.Deployment != name && one.Name == name {
		return []v1alpha1.Release{*one}, nil
	}
	return slices.DeleteFunc(all, func(r v1alpha1.Release) bool { return r.Spec.Deployment != one.Spec.Deployment }), nil
}

// Get returns the release that a name means.
func (c *Client) Get(ctx context.Context, name string) (*v1alpha1.Release, error) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	return Find(all, name, c.namespace)
}

// phaseOf is the phase, in the words of package release.
func phaseOf(r *v1alpha1.Release) release.Phase { return release.Phase(r.Status.Phase) }

// errSeen ends a watch that has seen what it was for.
var errSeen = errors.New("seen")

// Follow calls see with a release as it is and after each change, until see says that
// it has seen enough, which is nil, or returns an error. A watch that is lost is taken
// up again. A release that is deleted is an error.
func (c *Client) Follow(ctx context.Context, r *v1alpha1.Release, see func(*v1alpha1.Release) (enough bool, err error)) error {
	show := func(now *v1alpha1.Release) error {
		enough, err := see(now)
		if err == nil && enough {
			return errSeen
		}
		return err
	}
	err := c.changes(ctx, r, func(now *v1alpha1.Release) error {
		if now == nil || now.UID != r.UID {
			return fmt.Errorf("release %s was deleted by somebody else", r.Name)
		}
		return show(now)
	})
	if errors.Is(err, errSeen) {
		return nil
	}
	return c.explain(err)
}

// changes calls do with the object of a release's name as it is, nil for none, and
// after each change.
func (c *Client) changes(ctx context.Context, r *v1alpha1.Release, do func(*v1alpha1.Release) error) error {
	if err := do(r); err != nil {
		return err
	}
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", r.Name).String()}
	return follow.Of(c.releases(), only).Changes(ctx, r.ResourceVersion, func(ch follow.Change) error {
		var object runtime.Object
		switch {
		case ch.Event == watch.Deleted:
		case ch.Event != "":
			object = ch.Object
		case len(ch.All) > 0:
			object = ch.All[0]
		}
		if object == nil {
			return do(nil)
		}
		now, err := read(object.(*unstructured.Unstructured))
		if err != nil {
			return err
		}
		return do(now)
	})
}

func read(u *unstructured.Unstructured) (*v1alpha1.Release, error) {
	r := &v1alpha1.Release{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r); err != nil {
		return nil, fmt.Errorf("read release %s: %w", u.GetName(), err)
	}
	r.ManagedFields = nil
	return r, nil
}

// mostGroups is how many a Release has room for.
const mostGroups = 64

// who is how the API server knows this user.
func (c *Client) who(ctx context.Context) (name string, groups []string, err error) {
	review, err := c.typed.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("ask the API server who we are: %w", c.cluster.Explain(err))
	}
	for _, g := range review.Status.UserInfo.Groups {
		if g != "system:authenticated" { // which all have
			groups = append(groups, g)
		}
	}
	return review.Status.UserInfo.Username, groups[:min(len(groups), mostGroups)], nil
}

// write changes the orders of a release, if nobody else has changed it meanwhile.
func (c *Client) write(ctx context.Context, r *v1alpha1.Release, o v1alpha1.ReleaseOrders) (*v1alpha1.Release, error) {
	body, err := patch(r, o)
	if err != nil {
		return nil, err
	}
	u, err := c.releases().Patch(ctx, r.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: manager})
	if err != nil {
		return nil, c.explain(err)
	}
	return read(u)
}

// patch is the merge patch that makes the orders of a release what o says.
func patch(r *v1alpha1.Release, o v1alpha1.ReleaseOrders) ([]byte, error) {
	orders := map[string]any{}
	for _, x := range []struct {
		orders v1alpha1.ReleaseOrders
		stays  bool
	}{{r.Spec.Orders, false}, {o, true}} {
		raw, err := json.Marshal(x.orders)
		if err != nil {
			return nil, err
		}
		set := map[string]any{}
		if err := json.Unmarshal(raw, &set); err != nil {
			return nil, err
		}
		for key, value := range set {
			orders[key] = value
			if !x.stays {
				orders[key] = nil // unless the new ones have it
			}
		}
	}
	change := map[string]any{"orders": orders}
	if o.Asked == "" && r.Spec.Ask != nil && Asked(r) == nil {
		change["ask"] = nil // it is given already
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": r.ResourceVersion}, "spec": change})
}
