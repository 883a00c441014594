package install

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/kube"
)

// claims is an API server that has claims of these sizes, by name, and only tries what
// is asked of it. It lets none shrink and, unless they grow, none grow.
type claims struct {
	*testing.T
	sizes map[string]string
	grow  bool
}

func (c claims) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := schema.GroupKind{Kind: "PersistentVolumeClaim"}
	name := path.Base(r.URL.Path)
	size, there := c.sizes[name]
	w.Header().Set("Content-Type", "application/json")
	refuse := func(err *apierrors.StatusError) {
		err.ErrStatus.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		w.WriteHeader(int(err.ErrStatus.Code))
		_ = json.NewEncoder(w).Encode(err.ErrStatus)
	}
	if !there {
		refuse(apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name))
		return
	}
	if r.Method == http.MethodPatch {
		var patch unstructured.Unstructured
		if err := json.NewDecoder(r.Body).Decode(&patch.Object); err != nil {
			c.Error(err)
		}
		text, _, _ := unstructured.NestedString(patch.Object, "spec", "resources", "requests", "storage")
		have, want := resource.MustParse(size), resource.MustParse(text)
		switch {
		case r.URL.Query().Get("dryRun") != metav1.DryRunAll:
			c.Errorf("%s is changed to %s", name, text)
		case want.Cmp(have) < 0:
			refuse(apierrors.NewInvalid(kind, name, nil))
			return
		case !c.grow:
			refuse(apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, name, errors.New("only dynamically provisioned pvc can be resized")))
			return
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "v1", "kind": kind.Kind, "metadata": map[string]any{"name": name},
		"spec": map[string]any{"resources": map[string]any{"requests": map[string]any{"storage": size}}},
	})
}

func TestVolumesKeepTheirSizeOrGrow(t *testing.T) {
	const none = "none" // is installed
	for _, tt := range []struct {
		name          string
		have, wanted  [2]string // of the controller's and the workers'
		grow          bool
		want          [2]string
		claim, refuse string
	}{
		{"nothing is installed", [2]string{none, none}, [2]string{"", ""}, false, [2]string{"", ""}, "", ""},
		{"the first time", [2]string{none, none}, [2]string{"50Gi", "5Gi"}, false, [2]string{"50Gi", "5Gi"}, "", ""},
		{"nothing is said", [2]string{"50Gi", "5Gi"}, [2]string{"", ""}, false, [2]string{"50Gi", "5Gi"}, "", ""},
		{"the same is said", [2]string{"1Gi", "5Gi"}, [2]string{"1024Mi", "5Gi"}, false, [2]string{"1024Mi", "5Gi"}, "", ""},
		{"more is said", [2]string{"50Gi", "5Gi"}, [2]string{"60Gi", "6Gi"}, true, [2]string{"60Gi", "6Gi"}, "", ""},
		{"more than can be", [2]string{"50Gi", "5Gi"}, [2]string{"60Gi", ""}, false, [2]string{}, "", "only dynamically provisioned"},
		{"less for the controller", [2]string{"50Gi", "5Gi"}, [2]string{"10Gi", ""}, true, [2]string{}, Controller, "--volume 10Gi: the controller's volume has 50Gi"},
		{"less for the workers", [2]string{"50Gi", "5Gi"}, [2]string{"", "4Gi"}, true, [2]string{}, Worker, "--worker-volume 4Gi: the workers' volume has 5Gi"},
		{"none for the workers", [2]string{"50Gi", "5Gi"}, [2]string{"", NoVolume}, false, [2]string{"50Gi", NoVolume}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sizes := map[string]string{}
			for n, name := range []string{Controller, Worker} {
				if tt.have[n] != none {
					sizes[name] = tt.have[n]
				}
			}
			server := httptest.NewServer(claims{t, sizes, tt.grow})
			defer server.Close()
			i := &Installer{Cluster: kube.New(&rest.Config{Host: server.URL}, "", "")}
			s := Settings{Volume: tt.wanted[0], Workers: Workers{Count: 1, Volume: tt.wanted[1]}}
			err := i.Volumes(t.Context(), &s)
			if tt.refuse != "" {
				resize, ok := errors.AsType[*ResizeError](err)
				if err == nil || !strings.Contains(err.Error(), tt.refuse) || ok != (tt.claim != "") || ok && resize.Claim != tt.claim {
					t.Errorf("got %v, want %q in it", err, tt.refuse)
				}
				return
			}
			if got := [2]string{s.Volume, s.Workers.Volume}; err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// What --workers 0 removes has no size.
func TestVolumesOfNoWorkersAreNotKept(t *testing.T) {
	server := httptest.NewServer(claims{t, map[string]string{Worker: "5Gi"}, true})
	defer server.Close()
	i := &Installer{Cluster: kube.New(&rest.Config{Host: server.URL}, "", "")}
	s := Settings{}
	if err := i.Volumes(t.Context(), &s); err != nil || s.Workers.Volume != "" {
		t.Errorf("got %q, %v", s.Workers.Volume, err)
	}
}

func TestWorkersWithoutAVolumeClaimNone(t *testing.T) {
	for _, volume := range []string{"", NoVolume} {
		all, err := Render(Settings{Image: "i", Workers: Workers{Count: 1, Image: "w", Registry: "r", Volume: volume}})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range all {
			if u.GetKind() == "PersistentVolumeClaim" && u.GetName() == Worker {
				t.Errorf("volume %q: %s is installed", volume, nameOf(u))
			}
		}
	}
}
