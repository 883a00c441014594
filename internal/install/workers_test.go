package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestRenderedWorkers(t *testing.T) {
	plain := Settings{Image: "registry.example/bight@sha256:0", Version: "v1"}
	with := plain
	with.Workers = Workers{Count: 3, Image: "registry.example/toolchains:v7", Registry: "registry.example/shop", Secret: "push", Volume: "50Gi",
		Resources: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi")}}
	without, err := Render(plain)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Render(with)
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(u *unstructured.Unstructured) bool {
		return slices.ContainsFunc(without, func(o *unstructured.Unstructured) bool { return nameOf(o) == nameOf(u) })
	})
	got, err := YAML(all)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "workers.yaml")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("(-want +got; -update writes it):\n%s", d)
	}
}

func TestResourcesOfWorkers(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "map[]",
		"cpu=2":               "map[cpu:2]",
		"cpu=500m,memory=4Gi": "map[cpu:500m memory:4Gi]",
		"cpu":                 `"cpu": quantities must match`,
		"cpu=0":               `"cpu=0": it has to be more than nothing`,
		"gpu=1":               `"gpu=1" is neither cpu=… nor memory=…`,
		"memory=lots":         `"memory=lots": quantities must match`,
		"cpu=1,cpu=2":         "cpu is there twice",
		"cpu=1,":              `"" is neither`,
	} {
		got := map[string]string{}
		all, err := ParseResources(text)
		for name, q := range all {
			got[string(name)] = q.String()
		}
		if said := fmt.Sprint(got); said != want && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%q: %s, %v; want %s", text, said, err, want)
		}
	}
}

func TestWorkersNeedAnImageAndARegistry(t *testing.T) {
	_, err := Render(Settings{Image: "i", Workers: Workers{Count: 1}})
	if err == nil || !strings.Contains(err.Error(), "an image with toolchains and a registry to push to") {
		t.Errorf("got %v", err)
	}
}

func TestWorkersInTheNetworkOfTheirNode(t *testing.T) {
	all, err := Render(Settings{Image: "i", Workers: Workers{Count: 1, Image: "w", Registry: "localhost:5000", NodeNetwork: true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		host, _, _ := unstructured.NestedBool(u.Object, "spec", "template", "spec", "hostNetwork")
		if host != (u.GetName() == Worker && u.GetKind() == "Deployment") {
			t.Errorf("%s: host network %t", nameOf(u), host)
		}
	}
}
