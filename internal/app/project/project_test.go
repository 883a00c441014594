package project

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseReadsEveryField(t *testing.T) {
	f, err := Parse([]byte(`
name: shop
services:
  cart:
    ignore: false
    source: ./services/cart
    build: {go: services/cart, assets: ["ui", "data/x:x"]}
    args: [-v, 1]
    ports:
      - {name: http, number: 8080, protocol: http, env: PORT}
    env:
      LEVEL: debug
      LIMIT: 10
      ON: true
      TOKEN: {secret: true, value: hunter2}
      EMPTY: ""
    links: {STOCK: "stock:7070"}
    health: {path: /ok, port: 8080}
    replicas: 2
    volumes: [{name: data, path: /data, size: 1.5Gi}]
  web:
tasks:
  seed: {command: [./seed], service: cart}
`))
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	want := map[string]Service{
		"cart": {
			Source: "./services/cart", Build: &Build{Go: "services/cart", Assets: []string{"ui", "data/x:x"}}, Args: []string{"-v", "1"},
			Ports: []Port{{"http", 8080, "http", "PORT"}},
			Env: map[string]EnvValue{
				"LEVEL": {Value: "debug"}, "LIMIT": {Value: "10"}, "ON": {Value: "true"}, "TOKEN": {"hunter2", true}, "EMPTY": {},
			},
			Links: map[string]string{"STOCK": "stock:7070"}, Health: &Health{Path: "/ok", Port: 8080}, Replicas: &two,
			Volumes: []Volume{{"data", "/data", "1.5Gi"}},
		},
		"web": {},
	}
	if diff := cmp.Diff(want, f.Services); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"cart": "services/cart"}, f.Dirs()); diff != "" {
		t.Error(diff)
	}
	if f.Name != "shop" || len(f.Tasks) != 1 {
		t.Errorf("got %+v", f)
	}
}

func TestParseRefusesWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a: b: c", "bight.yaml:1:1: mapping values are not allowed in this context"},
		{"services: [a]", "bight.yaml:1:11: services must be a mapping, not a list"},
		{"- a", "bight.yaml:1:1: the file must be a mapping with name, services, tasks, not a list"},
		{"name: a\nname: b", "bight.yaml:2:1: name is there twice, first in line 1"},
		{"name: a\n---\nname: b", "bight.yaml:2:1: the file has a second document; one is all that is read"},
		{"name:", `bight.yaml:1:6: name has no value; write "" for the empty string`},
		{"nam: a", "bight.yaml:1:1: unknown field nam; did you mean name?"},
		{"services: {a: {xyzzy: 1}}", "bight.yaml:1:16: unknown field xyzzy in services.a; known are ignore, source"},
		{"services: {a: {ports: [{number: 0}]}}", "port 0 is not between 1 and 65535"},
		{"services: {a: {ports: [{number: x}]}}", `must be a whole number, not "x"`},
		{"services: {a: {ports: [{number: 1, protocol: grcp}]}}", "did you mean grpc?"},
		{"services: {a: {ports: [{number: 1}, {number: 1}]}}", "port 1 is listed twice"},
		{"services: {a: {ports: [{number: 1, name: a-name-that-is-long}]}}", "Kubernetes allows 15"},
		{"services: {a: {ignore: yes please}}", "must be true or false"},
		{"services: {a: {env: {1A: x}}}", "no name for an environment variable"},
		{"services: {a: {env: {A: [x]}}}", "must be a mapping with value, secret, not a list"},
		{"services: {a: {env: {A: x}, links: {A: b}}}", "A is under env and under links; keep one"},
		{"services: {a: {health: {kind: htpp}}}", "did you mean http?"},
		{"services: {a: {health: {path: ok}}}", "does not start with a slash"},
		{"services: {a: {health: {kind: http}}}", "needs a path"},
		{"services: {a: {replicas: -1}}", "must be between 0 and 1000"},
		{"services: {a: {source: ../b}}", "outside of the app's directory"},
		{"services: {a: {build: {go: a, static: b}}}", "keep one"},
		{"services: {a: {volumes: [{name: d, path: /d, size: 0Gi}]}}", "no Kubernetes quantity"},
		{"services: {" + strings.Repeat("a", 64) + ": {}}", "has 64 characters; Kubernetes allows 63"},
		{"services: {A_b: {}}", "a-b would do"},
		{"tasks: {t: {}}", "task t has no command"},
		{"services: &a {a: *a}", "bight.yaml:1:15: unknown field a in services.a"},
	} {
		_, err := Parse([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got %v\nwant %s", c.in, err, c.want)
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%s: %v is no *Error", c.in, err)
		}
	}
}

func TestLoadOfADirectoryWithoutTheFileOverridesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Load(dir)
	if err != nil || len(f.Services) != 0 {
		t.Errorf("got %+v, %v", f, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bight.yml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "rename it") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, Name), []byte("# nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestSchemaKnowsTheFieldsThatParseKnows(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		AdditionalProperties any            `json:"additionalProperties"`
		Properties           map[string]any `json:"properties"`
		Defs                 map[string]struct {
			Properties map[string]any `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.AdditionalProperties != false {
		t.Error("unknown fields are allowed")
	}
	for _, f := range []string{"name", "services", "tasks"} {
		if s.Properties[f] == nil {
			t.Errorf("no %s in %s", f, b)
		}
	}
	for _, f := range []string{"ignore", "source", "build", "args", "ports", "env", "links", "health", "replicas", "volumes"} {
		if s.Defs["Service"].Properties[f] == nil {
			t.Errorf("no %s in Service: %s", f, b)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("name: shop\nservices: {a: {ports: [{number: 1}], env: {A: {secret: true, value: x}}}}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("services: &s\n  x: {links: {A: b}, health: {path: /}}\ntasks: *s\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if (file == nil) == (err == nil) {
			t.Fatalf("file %v, error %v", file, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), Name+":") {
			t.Fatalf("no place: %v", err)
		}
		if file != nil {
			file.Dirs()
		}
	})
}
