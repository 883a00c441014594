package podview

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/reach"
)

func TestFilesByKubeletsRules(t *testing.T) {
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	settings := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings")}}
	for name, tt := range map[string]struct {
		source  corev1.VolumeSource
		mount   corev1.VolumeMount
		want    map[string]string // what is read, with its mode
		leftOut []reach.LeftOut
		kind    reach.MountKind
	}{
		"config map": {
			source: settings, kind: reach.ConfigMap,
			want: map[string]string{"LEVEL": "644 info", "a.yaml": "644 a: 1", "logo": "644 \xff\x00"},
		},
		"items and modes": {
			source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys", DefaultMode: new(int32(0o400)), Items: []corev1.KeyToPath{
				{Key: "PASSWORD", Path: "deep/in/password"}, {Key: "LEVEL", Path: "level", Mode: new(int32(0o440))}, {Key: "none", Path: "none"}}}},
			kind:    reach.Secret,
			want:    map[string]string{"deep/in/password": "400 pa$$", "level": "440 secret"},
			leftOut: []reach.LeftOut{{Path: "/mnt/none", Why: `Secret "keys" has no key "none"`}},
		},
		"object that does not exist": {
			source:  corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "gone"}},
			kind:    reach.Secret,
			want:    map[string]string{},
			leftOut: []reach.LeftOut{{Path: "/mnt", Why: `Secret "gone" does not exist`}},
		},
		"optional object that does not exist": {
			source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "gone", Optional: new(true),
				Items: []corev1.KeyToPath{{Key: "a", Path: "a"}}}},
			kind: reach.Secret,
			want: map[string]string{},
		},
		"downward API": {
			source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "side", Resource: "limits.cpu"}},
			}}},
			kind: reach.DownwardAPI,
			want: map[string]string{"labels": "644 app=\"web\"\ntier=\"front\"", "cpu": "644 4"},
		},
		"service account": {
			source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o640)), Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "bank", ExpirationSeconds: new(int64(3607))}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref("settings"), Items: []corev1.KeyToPath{{Key: "LEVEL", Path: "level"}}}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: ref("keys"), Items: []corev1.KeyToPath{{Key: "PASSWORD", Path: "p"}}}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
				{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Path: "trust"}},
			}}},
			kind:    reach.Projected,
			want:    map[string]string{"token": "640 token of web for [bank] bound to web-1", "level": "640 info", "p": "640 pa$$", "namespace": "640 shop"},
			leftOut: []reach.LeftOut{{Path: "/mnt/trust", Why: "cluster trust bundles are not copied"}},
		},
		"one file": {
			source: settings, kind: reach.ConfigMap, mount: corev1.VolumeMount{SubPath: "a.yaml"},
			want: map[string]string{".": "644 a: 1"},
		},
		"one file by a variable": {
			source: settings, kind: reach.ConfigMap, mount: corev1.VolumeMount{SubPathExpr: "$(LETTER).yaml"},
			want: map[string]string{".": "644 a: 1"},
		},
		"variable that is not known": {
			source: settings, kind: reach.ConfigMap, mount: corev1.VolumeMount{SubPathExpr: "$(NONE)"},
			want:    map[string]string{},
			leftOut: []reach.LeftOut{{Path: "/mnt", Why: `its subPathExpr "$(NONE)" refers to variable NONE, which is not known`}},
		},
		"a directory of it": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings"),
				Items: []corev1.KeyToPath{{Key: "LEVEL", Path: "x/y/level"}, {Key: "a.yaml", Path: "other"}}}},
			kind: reach.ConfigMap, mount: corev1.VolumeMount{SubPath: "x"},
			want: map[string]string{"y/level": "644 info"},
		},
		"a part that it does not have": {
			source: settings, kind: reach.ConfigMap, mount: corev1.VolumeMount{SubPath: "none"},
			want:    map[string]string{},
			leftOut: []reach.LeftOut{{Path: "/mnt", Why: `the volume has no file "none"`}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.mount.Name, tt.mount.MountPath = "v", "/mnt/"
			pod := podOf(corev1.Container{
				Env: []corev1.EnvVar{{Name: "LETTER", Value: "a"}}, VolumeMounts: []corev1.VolumeMount{tt.mount},
			}, corev1.Volume{Name: "v", VolumeSource: tt.source})
			v := get(t, newCluster(objectsOfShop()...), pod)
			if len(v.Files) != 1 || len(v.Pod.Mounts) != 1 {
				t.Fatalf("%d sets of files, mounts %+v", len(v.Files), v.Pod.Mounts)
			}
			set, m := v.Files[0], v.Pod.Mounts[0]
			if diff := cmp.Diff(tt.want, placed(t, set)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.leftOut, set.LeftOut); diff != "" {
				t.Errorf("left out (-want +got):\n%s", diff)
			}
			_, single := tt.want["."]
			want := reach.Mount{Path: "/mnt", Kind: tt.kind, Volume: "v", File: single, ReadOnly: true, Copied: true}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Errorf("mount (-want +got):\n%s", diff)
			}
		})
	}
}

// placed puts a set on disk and reads it by the names that a process would use.
func placed(t *testing.T, set reach.FileSet) map[string]string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := reach.Place(dir, set); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	read := func(name, p string) {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), b)
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		read(".", dir)
		return got
	}
	base := dir
	if at, err := filepath.EvalSymlinks(filepath.Join(dir, "..data")); err == nil {
		base = at
	}
	err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(base, p)
			read(name, filepath.Join(dir, name)) // through the links
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestMountsThatAreOnlyListed(t *testing.T) {
	pod := podOf(corev1.Container{VolumeMounts: []corev1.VolumeMount{
		{Name: "tmp", MountPath: "/tmp"}, {Name: "data", MountPath: "/data", ReadOnly: true}, {Name: "none", MountPath: "/none"},
	}},
		corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}})
	v := get(t, newCluster(objectsOfShop()...), pod)
	want := []reach.Mount{
		{Path: "/tmp", Kind: reach.EmptyDir, Volume: "tmp"},
		{Path: "/data", Kind: reach.Other, Volume: "data", ReadOnly: true},
	}
	if diff := cmp.Diff(want, v.Pod.Mounts); diff != "" || len(v.Files) > 0 {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestVersionChangesWithTheFiles(t *testing.T) {
	a := contents{files: map[string]file{"x": {content: []byte("1"), mode: 0o644}}}
	b := contents{files: map[string]file{"x": {content: []byte("2"), mode: 0o644}}}
	same := contents{files: map[string]file{"x": {content: []byte("1"), mode: 0o644}}}
	if a.version() == b.version() || a.version() != same.version() {
		t.Errorf("versions %s, %s and %s", a.version(), b.version(), same.version())
	}
}
