package install

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	policy "k8s.io/pod-security-admission/policy"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden file")

func TestRenderedObjects(t *testing.T) {
	all, err := Render(Settings{Image: "registry.example/bight@sha256:0", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	// The definitions are in git as they are generated.
	all = slices.DeleteFunc(all, func(u *unstructured.Unstructured) bool { return u.GetKind() == "CustomResourceDefinition" })
	got, err := YAML(all)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "install.yaml")
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

func TestEveryObjectCanBeInstalledAndRemoved(t *testing.T) {
	all, err := Render(Settings{Image: "i"})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		k, known := kinds()[u.GetKind()]
		if !known {
			t.Errorf("%s: no kind that is installed", nameOf(u))
		}
		if want := map[bool]string{true: Namespace}[k.namespaced]; u.GetNamespace() != want {
			t.Errorf("%s is in namespace %q, want %q", nameOf(u), u.GetNamespace(), want)
		}
		if u.GetLabels()["app.kubernetes.io/part-of"] != "bight" {
			t.Errorf("%s has no label that says whose it is", nameOf(u))
		}
	}
}

// Where a Prometheus is named, the controller knows it, and releases may have guards.
func TestAPrometheusIsNamed(t *testing.T) {
	for _, url := range []string{"", "http://prometheus.monitoring:9090"} {
		all, err := Render(Settings{Image: "i", Prometheus: url})
		if err != nil {
			t.Fatal(err)
		}
		refuses, named := false, false
		for _, u := range all {
			refuses = refuses || u.GetName() == guardsPolicy
			if u.GetKind() != "StatefulSet" {
				continue
			}
			var set appsv1.StatefulSet
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &set); err != nil {
				t.Fatal(err)
			}
			command := set.Spec.Template.Spec.Containers[0].Command
			named = slices.Equal(command[len(command)-2:], []string{"--prometheus", url})
		}
		if named != (url != "") || refuses != (url == "") {
			t.Errorf("%q: the controller knows it: %v, guards are refused: %v", url, named, refuses)
		}
	}
}

func TestAnImageIsWanted(t *testing.T) {
	if _, err := Render(Settings{}); err == nil {
		t.Error("Render without an image has no error")
	}
}

// TestNodeAgentsAskForNoMoreThanTheyNeed lists what Pod Security's baseline says
// against them, so that a further privilege does not slip in.
func TestNodeAgentsAskForNoMoreThanTheyNeed(t *testing.T) {
	all, err := Render(Settings{Image: "i"})
	if err != nil {
		t.Fatal(err)
	}
	var set appsv1.DaemonSet
	for _, u := range all {
		if u.GetKind() != "DaemonSet" {
			continue
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &set); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, check := range policy.DefaultChecks() {
		if check.Level != "baseline" {
			continue
		}
		newest := check.Versions[len(check.Versions)-1]
		if r := newest.CheckPod(&set.Spec.Template.ObjectMeta, &set.Spec.Template.Spec); !r.Allowed {
			got = append(got, string(check.ID)+": "+r.ForbiddenDetail)
		}
	}
	want := []string{
		`appArmorProfile: container "agent" must not set AppArmor profile type to "Unconfined"`,
		`capabilities_baseline: container "agent" must not include "DAC_READ_SEARCH", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE" in securityContext.capabilities.add`,
		`hostNamespaces: hostPID=true`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestControllerIsRestricted runs Pod Security's checks of level restricted.
func TestControllerIsRestricted(t *testing.T) {
	all, err := Render(Settings{Image: "i", Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(u *unstructured.Unstructured) bool { return u.GetKind() == "StatefulSet" })
	var set appsv1.StatefulSet
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(all[i].Object, &set); err != nil {
		t.Fatal(err)
	}
	for _, check := range policy.DefaultChecks() {
		newest := check.Versions[len(check.Versions)-1]
		if r := newest.CheckPod(&set.Spec.Template.ObjectMeta, &set.Spec.Template.Spec); !r.Allowed {
			t.Errorf("%s: %s: %s", check.ID, r.ForbiddenReason, r.ForbiddenDetail)
		}
	}
}

func TestAVolumeThatIsNoSizeIsRefused(t *testing.T) {
	if _, err := Render(Settings{Image: "i", Volume: "much"}); err == nil {
		t.Error("Render with a volume of size much has no error")
	}
}

func TestTheCollector(t *testing.T) {
	all, err := Render(Settings{Image: "i", Collector: "http://collector:4318"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := YAML(all)
	if err != nil {
		t.Fatal(err)
	}
	if want := "- name: OTEL_EXPORTER_OTLP_ENDPOINT\n          value: http://collector:4318\n"; !strings.Contains(string(text), want) {
		t.Errorf("nothing that is installed has\n%s", want)
	}
	for _, wrong := range []string{"collector:4318", "grpc://collector", "http://", "http://ada:secret@collector", "http://collector?token=secret"} {
		if _, err := Render(Settings{Image: "i", Collector: wrong}); err == nil {
			t.Errorf("Render with the collector %s has no error", wrong)
		}
	}
}

// TestNodeAgentsWriteNoStatusButTheirOwn has the policy name every other field of it.
func TestNodeAgentsWriteNoStatusButTheirOwn(t *testing.T) {
	all, err := Render(Settings{Image: "i"})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(u *unstructured.Unstructured) bool {
		return u.GetKind() == "ValidatingAdmissionPolicy" && u.GetName() == doorsPolicy
	})
	rule, err := json.Marshal(all[i].Object)
	if err != nil {
		t.Fatal(err)
	}
	status := reflect.TypeFor[v1alpha1.ReleaseStatus]()
	for f := range status.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "doors" && !strings.Contains(string(rule), "has(object.status."+name+")") {
			t.Errorf("the policy says nothing of status.%s", name)
		}
	}
}
