package controller

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
)

// cached is what the manager keeps of the cluster. Releases stay for as long as nobody
// deletes them, and there may be thousands.
func cached() cache.Options {
	return cache.Options{
		ReaderFailOnMissingInformer: false,
		ByObject:                    map[client.Object]cache.ByObject{&v1alpha1.Release{}: {Transform: gist}},
	}
}

// gist is a Release with no more than [choose] asks of it. Whoever writes to one reads it
// past the cache.
func gist(o any) (any, error) {
	r, ok := o.(*v1alpha1.Release)
	if !ok {
		return o, nil // the last that is known of one that was deleted, which is such a gist
	}
	out := &v1alpha1.Release{TypeMeta: r.TypeMeta}
	out.ObjectMeta = metav1.ObjectMeta{
		Name: r.Name, Namespace: r.Namespace, UID: r.UID, ResourceVersion: r.ResourceVersion, CreationTimestamp: r.CreationTimestamp,
	}
	out.Spec.Deployment, out.Spec.Change = r.Spec.Deployment, r.Spec.Change
	out.Status.Phase, out.Status.Message, out.Status.Convicted = r.Status.Phase, r.Status.Message, r.Status.Convicted
	if r.Status.Route != nil {
		out.Status.Route = &v1alpha1.Routing{} // that there is one
	}
	return out, nil
}
