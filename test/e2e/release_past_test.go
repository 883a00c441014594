//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/gateway"
)

// testReleaseAttempts begins the version anew that was convicted in a step before: by retry, and by start while no
// controller runs. What became of it each time is still told, and by nobody but the controller.
func testReleaseAttempts(b *bay) {
	first := b.current()
	b.order("retry", tillNamed, "--again", "--detach")
	r := b.reaches("Progressing")
	if len(r.Status.Attempts) != 1 || r.Status.Attempts[0].UID != first.UID || !r.Status.Attempts[0].Convicted || r.Status.Attempts[0].Verdict != "bad" || r.UID == first.UID {
		b.Fatalf("after %s: %+v", first.UID, r.Status.Attempts)
	}
	b.order("undo", tillNamed, "--why", "enough")
	second := b.reaches("Undone")
	b.unreleased()
	b.eventually("the controller has let go of it, and whoever removes it needs none", func() error {
		if r := b.current(); len(r.Finalizers) > 0 {
			return fmt.Errorf("%v", r.Finalizers)
		}
		return nil
	})
	b.controllers(0)
	forged, err := json.Marshal(v1alpha1.ReleaseStatus{Attempts: []v1alpha1.ReleaseAttempt{{Number: 1, UID: "x", Phase: "Promoted"}}})
	if err != nil {
		b.Fatal(err)
	}
	if out, err := b.kubectl("patch", "release.bight.dev", second.Name, "-n", b.namespace, "--type", "merge", "-p", `{"status":`+string(forged)+`}`); err != nil {
		b.Fatal(out, err)
	}
	if r := b.current(); len(r.Status.Attempts) != 1 || r.Status.Attempts[0].UID != first.UID {
		b.Errorf("who may write Releases may write what became of them: %+v", r.Status.Attempts)
	}
	b.order("start", tillNamed, "--env", "WHO=broken", "--env", "BROKEN=yes", "--plan", b.plan(fmt.Sprintf(hold, 0)), "--detach")
	b.controllers(1)
	r = b.reaches("Held")
	var got []string
	for _, a := range r.Status.Attempts {
		got = append(got, fmt.Sprintf("%d %s %s", a.Number, a.UID, a.By))
	}
	if want := []string{fmt.Sprintf("1 %s bight-admin", first.UID), fmt.Sprintf("2 %s bight-admin", second.UID)}; r.Name != first.Name || strings.Join(got, "; ") != strings.Join(want, "; ") {
		b.Errorf("of %s before: %q, want %q", r.Name, got, want)
	}
	history := b.order("history", tillNamed)
	for _, row := range []string{first.Name + " #1", first.Name + " #2"} {
		if strings.Count(history, row) != 1 {
			b.Errorf("%s is not in the history:\n%s", row, history)
		}
	}
	if said := b.order("status", tillNamed); !strings.Contains(said, "attempt 2") || !strings.Contains(said, "enough") {
		b.Errorf("status says\n%s", said)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
}

// testUndoWhileANewerWaits has another release wait for the end of one that is promoted, and takes that one back.
func testUndoWhileANewerWaits(b *bay) {
	was := b.present()
	b.pour()
	first := b.release("teal", "steps: [{weight: 50, hold: true}]\nkeep: 1m\n", "Held")
	b.order("promote", tillNamed, "--timeout", "1m")
	b.reaches("Promoted")
	b.only("teal", "before it is undone")
	b.another("teal", "rust")
	r := b.reaches("Starting")
	b.eventually("it waits", func() error {
		if r = b.current(); !strings.Contains(r.Status.Message, "release "+first+" is promoted") {
			return fmt.Errorf("%s: %s", r.Status.Phase, r.Status.Message)
		}
		return nil
	})
	_, errs, code := b.bight("release", "undo", tillNamed, "-n", b.namespace)
	if code != 2 || !strings.Contains(errs, "bight release undo "+first+" takes them from it") || !strings.Contains(errs, "bight release undo "+r.Name+" has the other one never begin") {
		b.Errorf("by the name of both: exit code %d\n%s", code, errs)
	}
	b.only("teal", "after nothing was undone")
	said := b.order("undo", first)
	b.Logf("%s", strings.TrimSpace(said))
	if !strings.Contains(said, "release "+r.Name+", which has waited, begins now") {
		b.Errorf("it says\n%s", said)
	}
	if by := b.shares(40); by["teal"] > 0 || by["nobody"] > 0 { // the other may have begun
		b.Errorf("after the undo, %v", by)
	}
	b.eventually("the other takes over from what was there before both", func() error {
		if r := b.current(); r.Status.Phase != "Held" {
			return fmt.Errorf("%s: %s", r.Status.Phase, r.Status.Message)
		}
		if by := b.shares(60); by["teal"] > 0 || by[was]+by["rust"] != 60 || by["rust"] == 0 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	if out, err := b.kubectl("get", "releases.bight.dev", "-n", b.namespace, first, "-o", "jsonpath={.status.phase}"); err != nil || out != "Undone" {
		b.Errorf("the first is %q, %v", out, err)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
	b.only(was, "in the end")
	b.unharmed("undone while another waits")
}

// routeKind is as much of HTTPRoute as a route has to be kept by.
const routeKind = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: HTTPRoute, plural: httproutes, singular: httproute, listKind: HTTPRouteList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// testStrayRoute has a route say that a release shares it that is no more: the next controller puts it back.
func testStrayRoute(b *bay) {
	b.write("kind.yaml", routeKind)
	b.controllers(0)
	if out, err := b.kubectl("apply", "-f", b.dir+"/kind.yaml"); err != nil {
		b.Fatal(out, err)
	}
	defer func() {
		if out, err := b.kubectl("delete", "-f", b.dir+"/kind.yaml"); err != nil {
			b.Error(out, err)
		}
	}()
	rule := func(services ...string) any {
		var refs []any
		for _, s := range services {
			refs = append(refs, map[string]any{"name": s, "port": int64(8080)})
		}
		return map[string]any{"backendRefs": refs}
	}
	was, made := []any{rule(tillNamed)}, []any{rule(tillNamed, tillNamed+"-canary")}
	record := gateway.Record{Release: "gone", Service: tillNamed, Canary: tillNamed + "-canary", Was: was, Made: made, From: []int{0}}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": v1alpha1.HTTPRoute,
		"metadata": map[string]any{"name": tillNamed, "annotations": map[string]any{v1alpha1.ReleasedAnnotation: record.String()}},
		"spec":     map[string]any{"rules": made},
	}}
	d, err := b.cluster().Dynamic()
	if err != nil {
		b.Fatal(err)
	}
	routes := d.Resource(gateway.Resource(v1alpha1.HTTPRoute)).Namespace(b.namespace)
	b.eventually("the route is there", func() error {
		_, err := routes.Create(context(), u, meta.CreateOptions{})
		return err
	})
	b.controllers(1)
	b.eventually("the route is put back", func() error {
		u, err := routes.Get(context(), tillNamed, meta.GetOptions{})
		if err != nil {
			return err
		}
		text, err := json.Marshal(u.Object["spec"])
		if err == nil && (strings.Contains(string(text), "canary") || u.GetAnnotations()[v1alpha1.ReleasedAnnotation] != "") {
			err = fmt.Errorf("%s, annotations %v", text, u.GetAnnotations())
		}
		return err
	})
}
