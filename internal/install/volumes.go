package install

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
)

const (
	// NoVolume as the size of the workers' volume is a cache for each.
	NoVolume = "none"

	usualVolume = "10Gi" // the controller's
)

// ParseVolume reads the size of a volume, as in 10Gi.
func ParseVolume(size string) (resource.Quantity, error) {
	q, err := resource.ParseQuantity(size)
	if err == nil && q.Sign() <= 0 {
		err = errors.New("it has to be more than nothing")
	}
	if err != nil {
		return resource.Quantity{}, fmt.Errorf("%q: %w; write it as in 10Gi", size, err)
	}
	return q, nil
}

// ResizeError says that a volume can't have the size that it is to have: most often
// since it has more already.
type ResizeError struct {
	Claim      string // its name
	Have, Want string
	Err        error // the cluster's answer
}

func (e *ResizeError) Error() string {
	whose, flag := "controller's", "--volume"
	if e.Claim == Worker {
		whose, flag = "workers'", "--worker-volume"
	}
	return fmt.Sprintf("%s %s: the %s volume has %s, which the cluster does not change to that: %v; without the flag it stays as it is", flag, e.Want, whose, e.Have, e.Err)
}

func (e *ResizeError) Unwrap() error { return e.Err }

// Volumes looks for the volumes that are installed. Those for which the settings have
// no size keep theirs. Where the cluster won't give one its new size, that is an error
// now, a [*ResizeError] if no volume may have it: nothing is changed.
func (i *Installer) Volumes(ctx context.Context, s *Settings) error {
	if err := i.volume(ctx, Controller, &s.Volume); err != nil {
		return err
	}
	if s.Workers.Count == 0 || s.Workers.Volume == NoVolume {
		return nil
	}
	return i.volume(ctx, Worker, &s.Workers.Volume)
}

// volume compares the size of one volume with what it is to be, "" for what it is.
func (i *Installer) volume(ctx context.Context, name string, size *string) error {
	ref := &unstructured.Unstructured{}
	ref.SetAPIVersion("v1")
	ref.SetKind("PersistentVolumeClaim")
	ref.SetNamespace(Namespace)
	ref.SetName(name)
	client, err := i.client(ref)
	if err != nil {
		return err
	}
	claim, err := client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && claim.GetDeletionTimestamp() != nil {
		return nil // a new one has any size
	}
	if err != nil {
		return fmt.Errorf("look for %s: %w", nameOf(ref), i.Cluster.Explain(err))
	}
	text, _, _ := unstructured.NestedString(claim.Object, "spec", "resources", "requests", string(corev1.ResourceStorage))
	if *size == "" {
		*size = text
		return nil
	}
	want, err := ParseVolume(*size)
	if err != nil {
		return err
	}
	if have, err := resource.ParseQuantity(text); err == nil && have.Cmp(want) == 0 {
		return nil
	}
	// Whether there is a way from the one to the other is the cluster's to know: some
	// volumes grow, and one whose growing has failed may ask for less again.
	patch := fmt.Appendf(nil, `{"spec":{"resources":{"requests":{"storage":%q}}}}`, want.String())
	_, err = client.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager, DryRun: []string{metav1.DryRunAll}})
	if apierrors.IsInvalid(err) {
		return &ResizeError{Claim: name, Have: text, Want: *size, Err: err}
	}
	if err != nil {
		return fmt.Errorf("make %s one of %s instead of %s: %w", nameOf(ref), *size, text, i.Cluster.Explain(err))
	}
	return nil
}

// claim asks for a volume.
func claim(name string, size resource.Quantity) *coreac.PersistentVolumeClaimApplyConfiguration {
	return coreac.PersistentVolumeClaim(name, Namespace).WithSpec(coreac.PersistentVolumeClaimSpec().
		WithAccessModes(corev1.ReadWriteOnce).
		WithResources(coreac.VolumeResourceRequirements().WithRequests(corev1.ResourceList{corev1.ResourceStorage: size})))
}
