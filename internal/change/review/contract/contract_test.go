package contract

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
)

func check(t *testing.T, base, head map[string]string) (findings, notes []string) {
	t.Helper()
	r := review.Reviewer{Checkers: []review.Checker{&Checker{}}}
	rep, err := r.Review(t.Context(), reviewtest.Change(t, base, head))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rep.Findings {
		findings = append(findings, fmt.Sprintf("%s %s %s:%d %s", f.Severity, f.Rule, f.File, f.Line, f.Message))
	}
	for _, u := range rep.Unchecked {
		notes = append(notes, u.What+": "+u.Why)
	}
	return findings, notes
}

const cartProto = `syntax = "proto3";
package shop.v1;

import "google/api/annotations.proto";

message Item {
  string id = 1;
  int32 count = 2;
  repeated string tags = 3;
  Kind kind = 4;
  map<string, string> labels = 5;
  message Inner { bool on = 1; }
  enum Kind { NONE = 0; BOOK = 1; }
}

message Gone { string a = 1; Deep d = 2; message Deep { string x = 1; } }

service Cart {
  rpc Add(Item) returns (Item);
  rpc Watch(Item) returns (stream Item);
  rpc Drop(.shop.v1.Item) returns (Item) {}
}
`

func TestProto(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(string) string
		want []string
	}{
		{"comment", func(s string) string { return strings.Replace(s, "message Item", "// An Item.\nmessage Item", 1) }, nil},
		{"added", func(s string) string {
			return strings.Replace(s, "string id = 1;", "string id = 1; string new = 9;", 1)
		}, nil},
		{"type in full", func(s string) string { return strings.Replace(s, "Add(Item)", "Add(shop.v1.Item)", 1) }, nil},
		{"removed field", func(s string) string { return strings.Replace(s, "  int32 count = 2;\n", "", 1) },
			[]string{"error proto-field-removed p/cart.proto:6 field shop.v1.Item.count (number 2) is removed: programs that use it break. Keep its number reserved, so that nothing else is ever read in its place"}},
		{"changed number", func(s string) string { return strings.Replace(s, "count = 2", "count = 7", 1) },
			[]string{"error proto-field-renumbered p/cart.proto:8 field shop.v1.Item.count (number 2) gets the number 7: programs built from the old contract read it as something else, or not at all"}},
		{"retyped", func(s string) string { return strings.Replace(s, "int32 count", "int64 count", 1) },
			[]string{"error proto-field-changed p/cart.proto:8 field shop.v1.Item.count (number 2) changes from int32 to int64: programs built from the old contract read something else"}},
		{"renamed", func(s string) string { return strings.Replace(s, "int32 count", "int32 amount", 1) },
			[]string{"warning proto-field-renamed p/cart.proto:8 field shop.v1.Item.count (number 2) is renamed to amount: the wire format is the same, but JSON and source that use the name break"}},
		{"not repeated", func(s string) string { return strings.Replace(s, "repeated string tags", "string tags", 1) },
			[]string{"error proto-field-changed p/cart.proto:9 field shop.v1.Item.tags (number 3) changes from repeated string to string: programs built from the old contract read something else"}},
		{"removed value", func(s string) string { return strings.Replace(s, " BOOK = 1;", "", 1) },
			[]string{"error proto-value-removed p/cart.proto:13 value shop.v1.Item.Kind.BOOK (number 1) is removed: programs that use it break. Keep its number reserved, so that nothing else is ever read in its place"}},
		{"removed message once", func(s string) string {
			return strings.Replace(s, "message Gone { string a = 1; Deep d = 2; message Deep { string x = 1; } }", "", 1)
		},
			[]string{"error proto-message-removed p/cart.proto:0 message shop.v1.Gone is removed: programs that use it break"}},
		{"removed method", func(s string) string { return strings.Replace(s, "  rpc Add(Item) returns (Item);\n", "", 1) },
			[]string{"error proto-method-removed p/cart.proto:18 method shop.v1.Cart.Add is removed: programs that use it break"}},
		{"streaming", func(s string) string { return strings.Replace(s, "Add(Item)", "Add(stream Item)", 1) },
			[]string{"error proto-method-changed p/cart.proto:19 method shop.v1.Cart.Add changes from Item -> Item to stream Item -> Item: programs built from the old contract read something else"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, notes := check(t, map[string]string{"p/cart.proto": cartProto}, map[string]string{"p/cart.proto": tt.edit(cartProto)})
			if diff := cmp.Diff(tt.want, got); diff != "" || notes != nil {
				t.Errorf("(-want +got):\n%s\nnot checked: %q", diff, notes)
			}
		})
	}
}

func TestProtoThatMoves(t *testing.T) {
	gone := "message Gone { string a = 1; Deep d = 2; message Deep { string x = 1; } }"
	got, notes := check(t, map[string]string{"cart.proto": cartProto}, map[string]string{
		"cart.proto": strings.Replace(cartProto, gone, "", 1),
		"gone.proto": "syntax = \"proto3\";\npackage shop.v1;\n" + gone,
	})
	if got != nil || notes != nil {
		t.Errorf("moved to another file: findings %q, not checked %q", got, notes)
	}
	got, _ = check(t, map[string]string{"cart.proto": cartProto}, map[string]string{"cart.proto": "DELETED"})
	want := []string{
		"error proto-message-removed cart.proto:0 message shop.v1.Gone is removed: programs that use it break",
		"error proto-message-removed cart.proto:0 message shop.v1.Item is removed: programs that use it break",
		"error proto-service-removed cart.proto:0 service shop.v1.Cart is removed: programs that use it break",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
}

const api = `openapi: 3.0.3
info: {title: t, version: "1"}
paths:
  /items/{id}:
    get:
      parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
      - {name: q, in: query, schema: {type: string, enum: [a, b]}}
      responses:
        "200": {description: ok, content: {application/json: {schema: {$ref: '#/components/schemas/Item'}}}}
        "404": {description: none}
    post:
      requestBody: {content: {application/json: {schema: {$ref: '#/components/schemas/Item'}}}}
      responses: {"201": {description: ok}}
  /old: {get: {responses: {"200": {description: ok}}}}
components:
  schemas:
    Item:
      type: object
      required: [id]
      properties:
        id: {type: string}
        price: {type: integer}
        next: {$ref: '#/components/schemas/Item'}
`

func TestOpenAPI(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("the document has no %q", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for _, tt := range []struct {
		name string
		edit func(string) string
		want []string
	}{
		{"nothing", replace(`version: "1"`, `version: "2"`), nil},
		{"parameter renamed in the path", replace("{id}:", "{name}:"), nil},
		{"path", replace("  /old: {get: {responses: {\"200\": {description: ok}}}}\n", ""), []string{"error api-path-removed openapi.yaml:3 the path /old is removed"}},
		{"operation", replace("    post:\n", "    put:\n"), []string{"error api-operation-removed openapi.yaml:4 POST /items/{id} is removed"}},
		{"required parameter", replace("{name: q, in: query,", "{name: q, in: query, required: true,"), []string{"error api-parameter-required openapi.yaml:8 GET /items/{id} now requires the parameter q in query"}},
		{"new required parameter", replace("      - {name: q", "      - {name: r, in: header, required: true, schema: {type: string}}\n      - {name: q"),
			[]string{"error api-parameter-required openapi.yaml:8 GET /items/{id} has a new required parameter: r in header"}},
		{"value", replace("enum: [a, b]", "enum: [a, c]"), []string{"error api-value-removed openapi.yaml:8 GET /items/{id}: parameter q no longer accepts the value b"}},
		{"response", replace(`{"201": {description: ok}}`, `{"202": {description: ok}}`), []string{"error api-response-removed openapi.yaml:12 POST /items/{id} no longer answers 201"}},
		{"body", replace("requestBody: {content", "requestBody: {required: true, content"), []string{"error api-body-required openapi.yaml:13 POST /items/{id} now requires a body"}},
		{"type", replace("price: {type: integer}", "price: {type: string}"), []string{"error api-type-changed openapi.yaml:23 Item.price changes its type from integer to string"}},
		{"property", replace("        price: {type: integer}\n", ""), []string{"error api-property-removed openapi.yaml:18 Item loses the property price, which callers may read"}},
		{"required property", replace("required: [id]", "required: [id, price]"), []string{"error api-property-required openapi.yaml:18 Item now requires the property price"}},
		{"optional property", replace("      required: [id]\n", ""), []string{"warning api-property-optional openapi.yaml:18 Item no longer promises the property id"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, notes := check(t, map[string]string{"openapi.yaml": api}, map[string]string{"openapi.yaml": tt.edit(api)})
			if diff := cmp.Diff(tt.want, got); diff != "" || notes != nil {
				t.Errorf("(-want +got):\n%s\nnot checked: %q", diff, notes)
			}
		})
	}
}

func TestDocumentsThatCanNotBeComparedAreNamed(t *testing.T) {
	external := strings.Replace(api, "'#/components/schemas/Item'", "'/etc/passwd#/x'", 1)
	for name, tt := range map[string]struct{ file, base, head, want string }{
		"external reference": {"a.yaml", api, external, "a.yaml: read it: "},
		"broken":             {"a.yaml", api, "openapi: 3.0.0\npaths: [", "a.yaml: read it: "},
		"swagger":            {"a.json", `{"swagger": "2.0"}`, `{"swagger": "2.0", "a": 1}`, "a.json: it is in OpenAPI 2"},
		"broken proto":       {"a.proto", cartProto, "message {", "a.proto: read it: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, notes := check(t, map[string]string{tt.file: tt.base}, map[string]string{tt.file: tt.head})
			if len(notes) != 1 || !strings.HasPrefix(notes[0], tt.want) {
				t.Errorf("not checked: %q, want %q", notes, tt.want)
			}
		})
	}
	got, notes := check(t, map[string]string{"values.yaml": "a: 1\n"}, map[string]string{"values.yaml": "a: 2\n"})
	if got != nil || notes != nil {
		t.Errorf("a file that is no contract: %q, %q", got, notes)
	}
}

func FuzzContract(f *testing.F) {
	f.Add(api, strings.Replace(api, "integer", "string", 1))
	f.Add(cartProto, strings.Replace(cartProto, "int32", "int64", 1))
	f.Fuzz(func(t *testing.T, base, head string) {
		fd := &review.FileDiff{Path: "a", OldPath: "a"}
		_, _ = compareOpenAPI(t.Context(), fd, []byte(base), []byte(head))
		s := protoSet{base: definitions{}, head: definitions{}}
		if s.base.parse("a", []byte(base)) == nil && s.head.parse("a", []byte(head)) == nil {
			s.compare()
		}
	})
}
