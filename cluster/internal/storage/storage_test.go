package storage

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	core "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

func options(name string) controller.ProvisionOptions {
	reclaim := core.PersistentVolumeReclaimDelete
	return controller.ProvisionOptions{
		PVName:       name,
		StorageClass: &storagev1.StorageClass{ReclaimPolicy: &reclaim},
		PVC: &core.PersistentVolumeClaim{Spec: core.PersistentVolumeClaimSpec{
			AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			Resources:   core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: resource.MustParse("1Gi")}},
		}},
	}
}

func TestAVolumeIsADirectoryThatAnyUserMayWriteTo(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	d := Directories{Root: filepath.Join(t.TempDir(), "volumes")}
	v, state, err := d.Provision(t.Context(), options("pvc-1"))
	if err != nil || state != controller.ProvisioningFinished {
		t.Fatalf("got state %s, %v", state, err)
	}
	dir := filepath.Join(d.Root, "pvc-1")
	if v.Name != "pvc-1" || v.Spec.HostPath.Path != dir || v.Spec.NodeAffinity != nil {
		t.Errorf("got %+v", v)
	}
	size := v.Spec.Capacity[core.ResourceStorage]
	if size.String() != "1Gi" || v.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete || len(v.Spec.AccessModes) != 1 {
		t.Errorf("got %+v", v.Spec)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
}

func TestDeleteRemovesTheVolumeAndNothingElse(t *testing.T) {
	d := Directories{Root: filepath.Join(t.TempDir(), "volumes")}
	v, _, err := d.Provision(t.Context(), options("pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Spec.HostPath.Path, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(filepath.Dir(d.Root), "kept")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"elsewhere": kept, "the root": d.Root, "up and out": d.Root + "/../kept", "beside": d.Root + "-more",
	} {
		other := v.DeepCopy()
		other.Spec.HostPath.Path = path
		if err := d.Delete(t.Context(), other); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	other := v.DeepCopy()
	other.Spec.HostPath = nil
	if err := d.Delete(t.Context(), other); err == nil {
		t.Error("a volume that is no directory: no error")
	}
	for _, dir := range []string{kept, v.Spec.HostPath.Path} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if err := d.Delete(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.Spec.HostPath.Path); !os.IsNotExist(err) {
		t.Errorf("after delete: %v", err)
	}
	if err := d.Delete(t.Context(), v); err != nil {
		t.Errorf("again: %v", err)
	}
}
