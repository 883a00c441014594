package deploy

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/kube/follow"
)

// EnsureNamespace makes sure that a namespace exists and reports whether it had
// to be created. A new one enforces Pod Security "restricted" and carries
// labels besides Bight's own; one that exists is left as it is. One that is
// being deleted is waited for. Where the rights do not suffice it returns a
// *RightsError.
func (a *Applier) EnsureNamespace(ctx context.Context, name string, labels map[string]string) (created bool, err error) {
	api := a.Client.CoreV1().Namespaces()
	ns, err := api.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil && ns.DeletionTimestamp == nil:
		return false, nil
	case err == nil:
		a.note("namespace %s is being deleted; waiting until it is gone", name)
		if err := a.namespaceGone(ctx, name, ns.UID, ns.ResourceVersion); err != nil {
			return false, err
		}
	case apierrors.IsForbidden(err):
		// Whoever may not look may still use it, or even create it.
	case !apierrors.IsNotFound(err):
		return false, fmt.Errorf("look for namespace %s: %w", name, err)
	}
	return a.createNamespace(ctx, name, labels)
}

func (a *Applier) createNamespace(ctx context.Context, name string, labels map[string]string) (bool, error) {
	o, err := RenderNamespace(name, labels)
	if err != nil {
		return false, err
	}
	ns := &corev1.Namespace{}
	if err := o.Decode(ns); err != nil {
		return false, err
	}
	_, err = a.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: FieldManager})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsAlreadyExists(err):
		return false, nil
	case !apierrors.IsForbidden(err):
		return false, fmt.Errorf("create namespace %s: %w", name, err)
	}
	usable, askErr := may(ctx, a.Client, name, Right{Verb: "create", Group: "apps", Resource: "deployments"})
	if askErr == nil && usable {
		return false, nil // a role in the namespace and none on namespaces
	}
	return false, a.noNamespace(ctx, name)
}

// errDone ends a follow that has seen what it waited for.
var errDone = errors.New("seen")

func (a *Applier) namespaceGone(ctx context.Context, name string, uid types.UID, version string) error {
	api := a.Client.CoreV1().Namespaces()
	src := follow.Of(api, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	var last *corev1.Namespace
	err := src.Changes(ctx, version, func(c follow.Change) error {
		if c.Event == watch.Deleted {
			return errDone
		}
		if c.Event != "" {
			c.All = []runtime.Object{c.Object}
		}
		for _, o := range c.All {
			if ns, ok := o.(*corev1.Namespace); ok && ns.UID == uid {
				last = ns
				return nil
			}
		}
		return errDone
	})
	switch {
	case errors.Is(err, errDone):
		return nil
	case apierrors.IsForbidden(err):
		return &NamespaceError{Name: name, Reason: "it is being deleted and you may not watch it: run again when it is gone"}
	default:
		return fmt.Errorf("wait until namespace %s is gone%s: %w", name, holding(last), err)
	}
}

// holding says what keeps a namespace from going, in the cluster's words.
func holding(ns *corev1.Namespace) string {
	if ns == nil {
		return ""
	}
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			return " (" + c.Message + ")"
		}
	}
	return ""
}
