// Package storage gives a PersistentVolumeClaim a directory on the node. The
// main type is [Directories], a provisioner for the controller of the Kubernetes
// storage group; [Run] runs both until its context ends.
package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Provisioner is the name that the StorageClass refers to.
const Provisioner = "bight.dev/directory"

// Directories makes one directory below Root per volume.
type Directories struct{ Root string }

var _ controller.Provisioner = Directories{}

// Provision makes the directory and describes it. All nodes of an embedded
// cluster share one disk, so the volume may be used from each of them.
func (d Directories) Provision(_ context.Context, o controller.ProvisionOptions) (*core.PersistentVolume, controller.ProvisioningState, error) {
	dir := filepath.Join(d.Root, o.PVName)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("make the directory of volume %s: %w", o.PVName, err)
	}
	// The process in the pod has a user of its own; the umask must not matter.
	if err := os.Chmod(dir, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	kind := core.HostPathDirectoryOrCreate
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: o.PVName},
		Spec: core.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			MountOptions:                  o.StorageClass.MountOptions,
			Capacity:                      core.ResourceList{core.ResourceStorage: o.PVC.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeSource: core.PersistentVolumeSource{
				HostPath: &core.HostPathVolumeSource{Path: dir, Type: &kind},
			},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the directory and what is in it.
func (d Directories) Delete(_ context.Context, v *core.PersistentVolume) error {
	if v.Spec.HostPath == nil || filepath.Dir(filepath.Clean(v.Spec.HostPath.Path)) != filepath.Clean(d.Root) {
		return fmt.Errorf("volume %s is not a directory in %s: left alone", v.Name, d.Root)
	}
	return os.RemoveAll(v.Spec.HostPath.Path)
}

// Run provisions volumes until ctx ends.
func Run(ctx context.Context, client kubernetes.Interface, root string) {
	controller.NewProvisionController(ctx, client, Provisioner, Directories{Root: root},
		controller.LeaderElection(false)).Run(ctx)
}
