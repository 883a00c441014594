package project

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
    test: npm test
    testReport: out/*.xml
  web:
tasks:
  seed: {command: [./seed], service: cart}
linters:
  eslint: {command: [npx, eslint, -o, "{output}", "{files}"], files: ["**/*.js"]}
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
			Volumes: []Volume{{"data", "/data", "1.5Gi"}}, Test: "npm test", TestReport: "out/*.xml",
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
	linters := map[string]Linter{"eslint": {Command: []string{"npx", "eslint", "-o", "{output}", "{files}"}, Files: []string{"**/*.js"}}}
	if diff := cmp.Diff(linters, f.Linters); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a: b: c", "bight.yaml:1:1: mapping values are not allowed in this context"},
		{"services: [a]", "bight.yaml:1:11: services must be a mapping, not a list"},
		{"- a", "bight.yaml:1:1: the file must be a mapping with name, services, tasks, linters, not a list"},
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
		{"services: {a: {replicas: -1}}", "must be between 1 and 1000"},
		{"services: {a: {replicas: 0}}", "ignore: true leaves a service out"},
		{"services: {a: {source: ../b}}", "outside of the app's directory"},
		{"services: {a: {build: {go: a, static: b}}}", "keep one"},
		{"services: {a: {volumes: [{name: d, path: /d, size: 0Gi}]}}", "no Kubernetes quantity"},
		{"services: {" + strings.Repeat("a", 64) + ": {}}", "has 64 characters; Kubernetes allows 63"},
		{"services: {A_b: {}}", "a-b would do"},
		{"tasks: {t: {}}", "task t has no command"},
		{"services: {a: {test: ' '}}", "bight.yaml:1:16: test is empty"},
		{"services: {a: {testReport: x.xml}}", "there is no test"},
		{"services: {a: {test: x, testReport: ../x.xml}}", "outside of the app's directory"},
		{"services: {a: {test: x, testReport: '[x'}}", "no pattern of file names"},
		{"linters: {js: {}}", "bight.yaml:1:11: linter js has no command"},
		{"linters: {js: {command: [x, '{output}', '{output}']}}", "{output} 2 times"},
		{"linters: {js: {comand: [x]}}", "did you mean command?"},
		{"linters: {secrets: {command: [x]}}", "has the name of one that Bight has itself"},
		{"linters: {js: {command: x}}", "linters.js.command must be a list"},
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
	for _, f := range []string{"name", "services", "tasks", "linters"} {
		if s.Properties[f] == nil {
			t.Errorf("no %s in %s", f, b)
		}
	}
	for _, f := range []string{"ignore", "source", "build", "args", "ports", "env", "links", "health", "replicas", "volumes", "test", "testReport"} {
		if s.Defs["Service"].Properties[f] == nil {
			t.Errorf("no %s in Service: %s", f, b)
		}
	}
}

// A file that means harm is refused before it costs anything.
func TestAHostileFileIsRefusedAtOnce(t *testing.T) {
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		laughs += fmt.Sprintf("%c: &%[1]c [*%c%s]\n", c, c-1, strings.Repeat(",*"+string(c-1), 8))
	}
	fill := func(start, each, end string) string {
		return start + strings.Repeat(each, (maxBytes-len(start)-len(end))/len(each)) + end
	}
	var names strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&names, "  a%d: *s\n", i)
	}
	for name, c := range map[string]struct{ in, want string }{
		"a billion laughs":      {laughs, "unknown field a"},
		"an alias of itself":    {"services: &a {b: {env: *a}}", "unknown field env in services.b.env.b"},
		"nested flow lists":     {fill("services: ", "[", ""), "bight.yaml:1:"},
		"nested flow mappings":  {fill("services: ", "{a: ", ""), "bight.yaml:1:"},
		"nested blocks":         {fill("services:\n ", "- ", ""), "bight.yaml:2:"},
		"nested keys":           {fill("", "? ", ""), "bight.yaml:1:"},
		"larger than is read":   {strings.Repeat("# x\n", maxBytes/4+1), "bight.yaml:1:1: the file has more than 256 KiB"},
		"a long name many ways": {"services:\n  a: &s\n    env:\n      ? " + strings.Repeat("A", 100<<10) + "\n      : x\n" + names.String(), "a key has 102400 characters"},
		"many ports":            {fill("services: {a: {ports: [&p {number: 1}", ",*p", "]}}"), "bight.yaml:1:"},
		"some ports more":       {"services: {a: {ports: [&p {number: 1}" + strings.Repeat(",*p", 5000) + "]}}", "5001 ports are more than the 100"},
		"many unknown fields":   {fill("", "x: 1\n", ""), "and more: these are the first"},
		"many long names":       {fill("services:\n  &s ", "? "+strings.Repeat("x", 200)+"\n  ", ""), "bight.yaml:"},
		"a long line of text":   {"name: " + strings.Repeat("a", maxBytes-10), "characters; Kubernetes allows 63"},
		"escapes":               {fill("name: \"", "\\U0010FFFF", "\""), "characters; Kubernetes allows 63"},
		"many anchors":          {fill("services: [", "&a x,", "]"), "services must be a mapping"},
		"many documents":        {fill("", "---\n", ""), "second document"},
		"many merges":           {"services:\n  a: &a {}\n" + strings.Repeat("  <<: *a\n", 20000), "bight.yaml:"},
		"a tag of much":         {"name: !!binary " + strings.Repeat("A", 100<<10), "characters; Kubernetes allows 63"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := Parse([]byte(c.in))
			took := time.Since(began)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %s", err, c.want)
			}
			if err != nil && len(err.Error()) > 20<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if took > 5*time.Second { // all of them take milliseconds
				t.Errorf("it took %s", took)
			}
		})
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
