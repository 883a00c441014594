package control

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/config"
)

func TestConfigurationStaysAsLongAsATemplateRefersToIt(t *testing.T) {
	now := time.Now()
	old := metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}
	ending := old
	ending.DeletionTimestamp = &metav1.Time{Time: now}
	all := map[config.Ref]metav1.ObjectMeta{
		{Kind: config.ConfigMap, Name: "used"}:   old,
		{Kind: config.ConfigMap, Name: "unused"}: old,
		{Kind: config.Secret, Name: "used"}:      old,
		{Kind: config.ConfigMap, Name: "new"}:    {CreationTimestamp: metav1.NewTime(now.Add(-time.Second))},
		{Kind: config.ConfigMap, Name: "ending"}: ending,
	}
	templates := []map[string]any{{}, {"spec": map[string]any{"volumes": []any{map[string]any{"configMap": map[string]any{"name": "used"}}}}}}
	want := []config.Ref{{Kind: config.ConfigMap, Name: "unused"}, {Kind: config.Secret, Name: "used"}}
	got, again := unused(all, templates, now)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if in := again.Sub(now); in < 29*time.Second || in > fresh+gather {
		t.Errorf("the new one is looked at again in %s", in)
	}
}

func TestConfigurationThatIsTakenAgainIsAsGoodAsNew(t *testing.T) {
	made := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	again := made.Add(time.Minute)
	for text, want := range map[string]time.Time{
		"": made.Time, again.Format(time.RFC3339): again, "soon": made.Time,
		made.Add(-time.Minute).Format(time.RFC3339): made.Time, made.Add(2 * time.Hour).Format(time.RFC3339): made.Time, // nobody keeps it for ever
	} {
		m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made, Annotations: map[string]string{config.Wanted: text}}}
		if got := wantedSince(m); !got.Time.Equal(want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// Configuration goes with the last ReplicaSet that refers to it, and while nothing happens
// nobody is asked anything.
func TestConfigurationGoesWithItsReplicaSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		head := func(name string) metav1.ObjectMeta {
			return metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{config.Label: "cart"}, CreationTimestamp: metav1.Now()}
		}
		set := &appsv1.ReplicaSet{ObjectMeta: head("cart-1")}
		set.Spec.Template.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "used"}}}}}
		typed := fake.NewClientset(set, &corev1.ConfigMap{ObjectMeta: head("used")}, &corev1.ConfigMap{ObjectMeta: head("never")})
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		partial := func(kind, group string, m metav1.ObjectMeta) runtime.Object {
			return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: kind, APIVersion: group}, ObjectMeta: m}
		}
		seen := metadatafake.NewSimpleMetadataClient(scheme, partial("ReplicaSet", "apps/v1", set.ObjectMeta), partial("ConfigMap", "v1", head("used")), partial("ConfigMap", "v1", head("never")))
		c := &Controller{typed: typed, Log: slog.New(slog.DiscardHandler)}
		c.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{v1alpha1.Releases(): "ReleaseList"})
		p := newPruner(c, seen)
		c.tasks.Go(func() { p.run(ctx) })
		defer c.tasks.Wait()
		defer cancel()

		left := func() (names []string) {
			list, err := typed.CoreV1().ConfigMaps("shop").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range list.Items {
				names = append(names, m.Name)
			}
			slices.Sort(names)
			return names
		}
		time.Sleep(fresh)
		if diff := cmp.Diff([]string{"never", "used"}, left()); diff != "" {
			t.Errorf("while they are new (-want +got):\n%s", diff)
		}
		time.Sleep(2 * gather)
		if diff := cmp.Diff([]string{"used"}, left()); diff != "" {
			t.Errorf("in the end (-want +got):\n%s", diff)
		}
		typed.ClearActions()
		seen.ClearActions()
		time.Sleep(time.Hour)
		if asked := slices.Concat(typed.Actions(), seen.Actions()); len(asked) > 0 {
			t.Errorf("nothing happens, and asked is %v", asked)
		}
		if err := typed.AppsV1().ReplicaSets("shop").Delete(ctx, set.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := seen.Resource(appsv1.SchemeGroupVersion.WithResource("replicasets")).Namespace("shop").Delete(ctx, set.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * gather)
		if got := left(); len(got) > 0 {
			t.Errorf("%v is left", got)
		}
	})
}
