package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/openapi"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/internal/change/review"
)

// document describes one kind with what real documents have: references wrapped
// to carry a default, lists that are maps, int-or-string, enumerations.
const document = `{"openapi":"3.0.0","info":{"title":"t","version":"v1"},"paths":{},"components":{"schemas":{
"example.Widget":{"type":"object","required":["spec"],
  "x-kubernetes-group-version-kind":[{"group":"example.org","kind":"Widget","version":"v1"}],
  "properties":{"apiVersion":{"type":"string"},"kind":{"type":"string"},"metadata":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
  "spec":{"default":{},"allOf":[{"$ref":"#/components/schemas/example.Spec"}]}}},
"example.Spec":{"type":"object","required":["image"],"properties":{
  "image":{"type":"string"},"replicas":{"type":"integer","format":"int32"},"on":{"type":"boolean"},
  "port":{"x-kubernetes-int-or-string":true,"oneOf":[{"type":"integer"},{"type":"string"}]},
  "policy":{"type":"string","enum":["Always","Never"]},
  "labels":{"type":"object","additionalProperties":{"type":"string"}},
  "env":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],
    "items":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"value":{"type":"string"}}}}}}}}}`

// documents are schemas of one group and version.
type documents struct{}

func (documents) Schemas(_ context.Context, gv schema.GroupVersion) (map[string]*spec.Schema, error) {
	if gv.String() != "example.org/v1" {
		return nil, fs.ErrNotExist
	}
	var doc spec3.OpenAPI
	if err := json.Unmarshal([]byte(document), &doc); err != nil {
		return nil, err
	}
	return components(&doc, gv)
}

func object(t *testing.T, y string, line int) review.Object {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(y), &v); err != nil {
		t.Fatal(err)
	}
	return review.Object{Value: v, File: "bight.yaml", Line: line}
}

func widget(spec string) string {
	return "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}\nspec: " + spec
}

func TestObjects(t *testing.T) {
	for _, tt := range []struct {
		name, object string
		want         []string
		unchecked    string
	}{
		{"right", widget(`{image: a, replicas: 2, port: http, policy: Never, labels: {a: b}, env: [{name: A, value: "1"}]}`), nil, ""},
		{"unknown field", widget(`{image: a, imagee: b}`), []string{"unknown-field: spec.imagee: field not declared in schema"}, ""},
		{"string for a number", widget(`{image: a, replicas: "2"}`), []string{`wrong-type: spec.replicas: expected numeric (int or float), got string`}, ""},
		{"number for a string", widget(`{image: a, env: [{name: A, value: 1}]}`), []string{`wrong-type: spec.env[name="A"].value: expected string, got 1`}, ""},
		{"broken number", widget(`{image: a, replicas: 1.5}`), []string{"wrong-type: spec.replicas: expected a whole number, got 1.5"}, ""},
		{"required", widget(`{env: [{value: x}]}`), []string{"required: spec.image: it is required and missing", "required: spec.env[0].name: it is required and missing"}, ""},
		{"no spec", "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}", []string{"required: spec: it is required and missing"}, ""},
		{"not in the list", widget(`{image: a, policy: Sometimes}`), []string{`not-allowed: spec.policy: "Sometimes" is not one of Always, Never`}, ""},
		{"unknown kind", "apiVersion: example.org/v1\nkind: Gadget", []string{"unknown-kind: example.org/v1 has no kind Gadget"}, ""},
		{"no kind", "metadata: {name: w}", []string{"identity: it has no apiVersion or no kind, so nobody can say what it is"}, ""},
		{"unknown version", "apiVersion: other.org/v1\nkind: Gadget", nil, "nothing is known of other.org/v1: the cluster, or the documents, do not have it"},
		{"hostile version", "apiVersion: ../../etc/v1\nkind: Gadget", []string{"identity: it has no apiVersion or no kind, so nobody can say what it is"}, ""},
		{"hostile group", "apiVersion: ..\\..\\x/v1\nkind: Gadget", nil, "nothing is known of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := &review.Input{Diff: &review.Diff{}, Objects: []review.Object{object(t, tt.object, 3)}}
			res, err := (&Checker{Schemas: documents{}}).Check(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range res.Findings {
				got = append(got, f.Rule+": "+f.Message)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			var notes []string
			for _, u := range res.Unchecked {
				notes = append(notes, u.Why)
			}
			if got := strings.Join(notes, "; "); !strings.Contains(got, tt.unchecked) || (tt.unchecked == "") != (got == "") {
				t.Errorf("not checked: %q, want %q", got, tt.unchecked)
			}
		})
	}
}

func TestOnlyWhatTheChangeAltersIsReported(t *testing.T) {
	same := object(t, widget("{bad: 1, image: a}"), 1)
	other := object(t, strings.Replace(widget("{image: a, worse: 1}"), "name: w", "name: x", 1), 2)
	before := object(t, strings.Replace(widget("{image: b}"), "name: w", "name: x", 1), 2)
	in := &review.Input{Diff: &review.Diff{}, Objects: []review.Object{same, other}, BaseObjects: []review.Object{same, before}, BaseRendered: true}
	res, err := (&Checker{Schemas: documents{}}).Check(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Findings) != 1 || res.Findings[0].Object != "Widget x" || res.Findings[0].Why != "the change alters Widget x" {
		t.Errorf("findings: %+v", res.Findings)
	}
}

func TestOneFindingForOneLineThatRendersToManyObjects(t *testing.T) {
	in := &review.Input{Diff: &review.Diff{}}
	for i := range 4 {
		in.Objects = append(in.Objects, object(t, strings.Replace(widget("{image: a, bad: 1}"), "name: w", fmt.Sprintf("name: w%d", i), 1), 7))
	}
	res, err := (&Checker{Schemas: documents{}}).Check(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Findings) != 1 || !strings.Contains(res.Findings[0].Message, "and in 3 more objects") {
		t.Errorf("findings: %+v", res.Findings)
	}
}

func TestWithoutSchemasTheReportSaysSo(t *testing.T) {
	r := review.Reviewer{Checkers: []review.Checker{&Checker{}}}
	rep, err := r.Review(t.Context(), &review.Input{Diff: &review.Diff{}, Objects: []review.Object{object(t, widget("{}"), 1)}})
	if err != nil {
		t.Fatal(err)
	}
	want := []review.Unchecked{{Tool: "manifest", Why: "no cluster and no OpenAPI documents are at hand"}}
	if diff := cmp.Diff(want, rep.Unchecked); diff != "" {
		t.Errorf("not checked (-want +got):\n%s", diff)
	}
}

// served is a cluster's answer.
type served struct{ fail error }

func (s *served) Paths() (map[string]openapi.GroupVersion, error) {
	return map[string]openapi.GroupVersion{"apis/example.org/v1": s}, s.fail
}

func (s *served) Schema(string) ([]byte, error) { return []byte(document), s.fail }

func (s *served) ServerRelativeURL() string { return "/openapi/v3/apis/example.org/v1" }

func TestClusterIsAskedAgainAfterAFailure(t *testing.T) {
	cluster := &served{fail: errors.New("connection refused")}
	c := &Checker{Schemas: Cluster{cluster}}
	in := &review.Input{Diff: &review.Diff{}, Objects: []review.Object{object(t, widget("{image: a, bad: 1}"), 1)}}
	res, err := c.Check(t.Context(), in)
	if err != nil || len(res.Unchecked) != 1 || !strings.Contains(res.Unchecked[0].Why, "connection refused") {
		t.Fatalf("result %+v, error %v", res, err)
	}
	cluster.fail = nil
	res, err = c.Check(t.Context(), in)
	if err != nil || len(res.Findings) != 1 {
		t.Fatalf("result %+v, error %v", res, err)
	}
}

func TestDocumentIsValidJSON(t *testing.T) {
	if !json.Valid([]byte(document)) {
		t.Fatal("the test's document is broken")
	}
}
