// Package deploy turns an app into Kubernetes objects, makes a namespace equal
// to them, and tells when they serve or why they never will.
//
// [Render] is pure: the same app and the same images give the same bytes, so
// an unchanged service's pods are never replaced. An [Applier] writes the
// objects with server-side apply, removes what the app no longer has (an
// ApplySet, KEP-3659, remembers it) and takes everything down again. A [Waiter]
// watches the rollout; [Judge], the pure function behind it, decides from what
// was observed whether a service is ready, on its way, or beyond healing.
//
// An Applier and a Waiter hold settings only and may be used from many
// goroutines. Their methods return after every goroutine they started.
package deploy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// FieldManager owns every field that Bight sets.
const FieldManager = "bight"

// Labels and annotations that Bight sets or reads.
const (
	labelName      = "app.kubernetes.io/name"
	labelInstance  = "app.kubernetes.io/instance"
	labelPartOf    = "app.kubernetes.io/part-of"
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelVersion   = "app.kubernetes.io/version"

	annotationConfig = "bight.dev/config" // digest of what the process reads from its environment
	annotationSource = "bight.dev/source" // where the service's code is
	annotationPorts  = "bight.dev/ports"  // where each port was read
	annotationLinks  = "bight.dev/links"  // where each link was read
	annotationEnv    = "bight.dev/env"    // where each variable was read
)

// Ref names one object.
type Ref struct {
	Group     string
	Kind      string
	Namespace string
	Name      string
}

// String gives the object as kubectl names it: "deployment/cart".
func (r Ref) String() string { return strings.ToLower(r.Kind) + "/" + r.Name }

// groupKind is the object's kind as an ApplySet writes it: "Deployment.apps".
func (r Ref) groupKind() schema.GroupKind { return schema.GroupKind{Group: r.Group, Kind: r.Kind} }

// Object is one rendered Kubernetes object.
type Object struct {
	Ref
	// Service is the service that the object belongs to, "" for the app's own.
	Service string
	// JSON is the object: keys sorted, and no field that Bight does not decide.
	JSON []byte
}

// Decode reads the object into a typed Kubernetes object.
func (o Object) Decode(into any) error {
	if err := json.Unmarshal(o.JSON, into); err != nil {
		return fmt.Errorf("decode %s: %w", o.Ref, err)
	}
	return nil
}

func (o Object) unstructured() (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(o.JSON); err != nil {
		return nil, fmt.Errorf("decode %s: %w", o.Ref, err)
	}
	return u, nil
}

// kind is a kind of object that Bight renders.
type kind struct {
	schema.GroupVersionKind
	resource string
	// stage orders the writes: all objects of a stage are there before the next
	// stage starts, so a pod never starts without its settings.
	stage int
	// keep says that the objects hold the user's data: they are removed when asked
	// for by name only.
	keep bool
}

func (k kind) gvr() schema.GroupVersionResource { return k.GroupVersion().WithResource(k.resource) }

// kinds are all kinds that Bight renders, in the order in which it lists them.
func kinds() []kind {
	of := func(group, version, name, resource string, stage int) kind {
		return kind{GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: name}, resource: resource, stage: stage}
	}
	pvc := of("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", 0)
	pvc.keep = true
	return []kind{
		of("", "v1", "ServiceAccount", "serviceaccounts", 0),
		of("", "v1", "ConfigMap", "configmaps", 0),
		of("", "v1", "Secret", "secrets", 0),
		pvc,
		of("", "v1", "Service", "services", 1),
		of("apps", "v1", "Deployment", "deployments", 1),
	}
}

func kindOf(gk schema.GroupKind) (kind, bool) {
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return k.GroupKind() == gk })
	if i < 0 {
		return kind{}, false
	}
	return all[i], true
}
