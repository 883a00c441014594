package deploy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestSetID(t *testing.T) {
	// sha256("bight-shop.shop-ada.ConfigMap."), URL-safe base64 without padding.
	const want = "applyset-QRIvjPPRvzhfuvIMM1XOJ7YkEiH99whC4v5UH0am8-M-v1"
	if got := setID("shop", "shop-ada"); got != want {
		t.Errorf("setID = %s, want %s", got, want)
	}
	if n := len(setID("shop", "shop-ada")); n > 63 {
		t.Errorf("setID has %d characters, a label takes 63", n)
	}
}

func TestPlan(t *testing.T) {
	cm := Object{Ref: Ref{Kind: "ConfigMap", Namespace: "n", Name: "cart"}, JSON: []byte(`{"a":1}`)}
	dep := Object{Ref: Ref{Group: "apps", Kind: "Deployment", Namespace: "n", Name: "cart"}, JSON: []byte(`{"b":1}`)}
	pvc := Ref{Kind: "PersistentVolumeClaim", Namespace: "n", Name: "cart-data"}
	was := func(o Object) member { return member{Digest: o.digest(), UID: "u", Version: "v"} }
	is := func(r Ref) existing { return existing{Ref: r, uid: "u", version: "v"} }
	type names struct{ Apply, Unchanged, Prune, Kept []string }
	for _, tc := range []struct {
		name   string
		change func(rec record, there map[string]existing)
		want   names
	}{
		{"nothing changed", func(record, map[string]existing) {}, names{Unchanged: []string{"configmap/cart", "deployment/cart"}}},
		{"first apply", func(rec record, there map[string]existing) { clear(rec); clear(there) }, names{Apply: []string{"configmap/cart", "deployment/cart"}}},
		{"record is lost", func(rec record, _ map[string]existing) { clear(rec) }, names{Apply: []string{"configmap/cart", "deployment/cart"}}},
		{"rendered otherwise", func(rec record, _ map[string]existing) {
			rec[memberKey(cm.Ref)] = member{Digest: "old", UID: "u", Version: "v"}
		}, names{Apply: []string{"configmap/cart"}, Unchanged: []string{"deployment/cart"}}},
		{"changed by somebody", func(_ record, there map[string]existing) {
			there[memberKey(dep.Ref)] = existing{Ref: dep.Ref, uid: "u", version: "w"}
		}, names{Apply: []string{"deployment/cart"}, Unchanged: []string{"configmap/cart"}}},
		{"made anew by somebody", func(_ record, there map[string]existing) {
			there[memberKey(dep.Ref)] = existing{Ref: dep.Ref, uid: "w", version: "v"}
		}, names{Apply: []string{"deployment/cart"}, Unchanged: []string{"configmap/cart"}}},
		{"deleted by somebody", func(_ record, there map[string]existing) { delete(there, memberKey(cm.Ref)) },
			names{Apply: []string{"configmap/cart"}, Unchanged: []string{"deployment/cart"}}},
		{"being deleted", func(_ record, there map[string]existing) {
			there[memberKey(cm.Ref)] = existing{Ref: cm.Ref, uid: "u", version: "v", deleting: true}
		}, names{Apply: []string{"configmap/cart"}, Unchanged: []string{"deployment/cart"}}},
		{"no longer in the app", func(_ record, there map[string]existing) {
			for _, r := range []Ref{{Kind: "Secret", Name: "old"}, {Kind: "Service", Name: "old"}, pvc} {
				there[memberKey(r)] = is(r)
			}
		}, names{Unchanged: []string{"configmap/cart", "deployment/cart"}, Prune: []string{"secret/old", "service/old"}, Kept: []string{"persistentvolumeclaim/cart-data"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := record{memberKey(cm.Ref): was(cm), memberKey(dep.Ref): was(dep)}
			there := map[string]existing{memberKey(cm.Ref): is(cm.Ref), memberKey(dep.Ref): is(dep.Ref)}
			tc.change(rec, there)
			st := plan([]Object{cm, dep}, rec, there, nil)
			var got names
			for _, o := range st.apply {
				got.Apply = append(got.Apply, o.String())
			}
			for _, o := range st.unchanged {
				got.Unchanged = append(got.Unchanged, o.String())
			}
			for _, e := range st.prune {
				got.Prune = append(got.Prune, e.String())
			}
			for _, e := range st.kept {
				got.Kept = append(got.Kept, e.String())
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}

func TestWhatSomebodyNeedsIsNotPruned(t *testing.T) {
	old, older := Ref{Kind: "ConfigMap", Namespace: "n", Name: "cart-1"}, Ref{Kind: "ConfigMap", Namespace: "n", Name: "cart-0"}
	there := map[string]existing{}
	for _, r := range []Ref{old, older} {
		there[memberKey(r)] = existing{Ref: r, uid: "u", version: "v"}
	}
	st := plan(nil, record{}, there, func(r Ref) bool { return r == old })
	if len(st.kept) != 1 || st.kept[0].Ref != old || len(st.prune) != 1 || st.prune[0].Ref != older {
		t.Errorf("kept %v, prune %v", st.kept, st.prune)
	}
}

func TestParentRoundTrip(t *testing.T) {
	p := parent{found: true, groupKinds: "ConfigMap,Deployment.apps", record: record{"Deployment.apps/cart": {Digest: "d", UID: "u", Version: "g1"}}}
	u, err := p.object("shop", "n")
	if err != nil {
		t.Fatal(err)
	}
	got, err := readParent(u, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, got, cmp.AllowUnexported(parent{})); d != "" {
		t.Errorf("parent (-want +got):\n%s", d)
	}
}

func TestReadParentRefusesStrangers(t *testing.T) {
	for name, change := range map[string]func(*unstructured.Unstructured){
		"no label": func(u *unstructured.Unstructured) { u.SetLabels(nil) },
		"another tool": func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{annotationTool: "kubectl/v1.30"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := parent{record: record{}}.object("shop", "n")
			if err != nil {
				t.Fatal(err)
			}
			change(u)
			if _, err := readParent(u, "shop"); err == nil || !strings.Contains(err.Error(), "configmap/bight-shop in namespace n belongs to") {
				t.Errorf("readParent = %v, want a refusal", err)
			}
		})
	}
}

func FuzzReadParent(f *testing.F) {
	f.Add(`{"Deployment.apps/cart":{"digest":"d","uid":"u","version":"g1"}}`, "ConfigMap")
	f.Add(`null`, ",")
	f.Add(`{`, "\x00")
	f.Fuzz(func(t *testing.T, text, gks string) {
		u, err := parent{groupKinds: gks}.object("shop", "n")
		if err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedField(u.Object, text, "data", recordKey); err != nil {
			t.Fatal(err)
		}
		p, err := readParent(u, "shop")
		if err != nil {
			t.Fatal(err)
		}
		plan(nil, p.record, nil, nil)
		unknownKinds(unionGroupKinds(p.groupKinds, "ConfigMap"))
	})
}

func TestUnknownKinds(t *testing.T) {
	got := unknownKinds(unionGroupKinds("Deployment.apps,CronJob.batch", "ConfigMap,Deployment.apps"))
	if d := cmp.Diff([]string{"CronJob.batch"}, got); d != "" {
		t.Errorf("unknown kinds (-want +got):\n%s", d)
	}
}

func TestConflictOf(t *testing.T) {
	refused := apierrors.NewApplyConflict([]metav1.StatusCause{
		{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "kubectl-edit" using apps/v1`, Field: ".spec.replicas"},
		{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "bight" with subresource "status"`, Field: ".spec.x"},
	}, "Apply failed")
	got := conflictOf(Ref{Group: "apps", Kind: "Deployment", Namespace: "n", Name: "cart"}, refused)
	want := []Conflict{{Manager: "kubectl-edit", Field: "spec.replicas"}, {Manager: "bight", Field: "spec.x"}}
	if got == nil {
		t.Fatal("no conflict was read")
	}
	if d := cmp.Diff(want, got.Conflicts); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	if got.own() {
		t.Error("a conflict with kubectl-edit is taken for our own")
	}
	if !strings.Contains(got.Error(), `spec.replicas was set by "kubectl-edit"`) {
		t.Errorf("the error does not name field and manager: %v", got)
	}
	if c := conflictOf(Ref{}, apierrors.NewConflict(schema.GroupResource{}, "x", nil)); c != nil {
		t.Errorf("an ordinary conflict is taken for one of managers: %v", c)
	}
}
