package control

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// retold is how long after it was refused a preview is asked for again.
const retold = time.Minute

// preview makes the Service that leads to the new pods alone, where the plan has one. It
// stays until nothing of the release is left, so that who looks at the version loses
// nothing when it is promoted.
func (d *desk) preview(ctx context.Context, co *course) error {
	hash := co.routing.Canary
	if !spec.Previewed(co.r.Spec.Plan) || hash == "" || co.State.Phase == release.Undoing || co.State.Phase.Ended() || co.scene.service == nil {
		return nil
	}
	want := previewOf(co.scene.service, co.r, hash)
	for _, s := range co.scene.services {
		if s.Name != want.Name {
			continue
		}
		if !previews(s, co.r.UID) {
			co.sayOnce("there is no preview: Service " + s.Name + " is somebody else's")
		}
		return nil
	}
	if time.Since(co.unshown) < retold {
		return nil
	}
	_, err := d.c.typed.CoreV1().Services(want.Namespace).Create(ctx, want, metav1.CreateOptions{FieldManager: manager})
	switch {
	case apierrors.IsAlreadyExists(err): // it is about to be seen
		return nil
	case apierrors.IsInvalid(err) || apierrors.IsForbidden(err): // a name that is too long, a quota
		co.unshown = time.Now()
		co.sayOnce(fmt.Sprintf("there is no preview: %s", err))
		return nil
	case err != nil:
		return fmt.Errorf("make Service %s for the preview: %w", want.Name, err)
	}
	co.sayOnce("Service " + want.Name + " leads to the new pods")
	return nil
}

// sayOnce notes what has happened, unless that is among what has happened.
func (co *course) sayOnce(text string) {
	for _, e := range co.events {
		if e.Text == text {
			return
		}
	}
	co.say("%s", text)
}

// previewOf is the Service that leads to the pods of a release with a hash, as another one
// leads to those of any version.
func previewOf(s *corev1.Service, r *v1alpha1.Release, hash string) *corev1.Service {
	out := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: spec.PreviewService(s.Name), Namespace: s.Namespace, Labels: map[string]string{v1alpha1.PreviewLabel: labelValue(r.Name)},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Release", Name: r.Name, UID: r.UID}},
		},
		Spec: corev1.ServiceSpec{Selector: maps.Clone(s.Spec.Selector)},
	}
	out.Spec.Selector[hashLabel] = hash
	for _, p := range s.Spec.Ports {
		p.NodePort = 0
		out.Spec.Ports = append(out.Spec.Ports, p)
	}
	return out
}

// labelValue is as much of a name as a label has room for.
func labelValue(name string) string { return name[:min(len(name), 63)] }

// previews says whether a Service is the preview of a release.
func previews(s *corev1.Service, of types.UID) bool {
	if s.Labels[v1alpha1.PreviewLabel] == "" {
		return false
	}
	for _, o := range s.OwnerReferences {
		if o.UID == of {
			return true
		}
	}
	return false
}

// unpreview removes the preview of a release.
func (d *desk) unpreview(ctx context.Context, co *course) error {
	for _, s := range co.scene.services {
		if !previews(s, co.r.UID) || s.DeletionTimestamp != nil {
			continue
		}
		err := d.c.typed.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("remove Service %s of the preview: %w", s.Name, err)
		}
	}
	return nil
}
