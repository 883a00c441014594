package review

import (
	"encoding/json"
	"fmt"
	"testing"
)

// A finding on an object names the line that the field was read from, as near as is known.
func TestAFieldOfAnObjectHasAPlace(t *testing.T) {
	o := Object{File: "bight.yaml", Line: 2, Fields: []Field{
		{"replicas", "", "bight.yaml", 9},
		{"env", "MODE", "bight.yaml", 5},
		{"env", "ADDR", "bight.yaml", 4},
		{"env", "HOME", "main.go", 3},
		{"ports", "http", "main.go", 7},
	}}
	const text = `{"spec":{"replicas":5,"template":{"spec":{"containers":[{"name":"cart",
		"env":[{"name":"HOME","value":"/"},{"name":"MODE","value":"fast"},{"name":"OTHER"}],
		"ports":[{"name":"grpc","containerPort":1},{"name":"http","containerPort":8080}]}]}}}}`
	if err := json.Unmarshal([]byte(text), &o.Value); err != nil {
		t.Fatal(err)
	}
	at := func(file string, line int) string { return fmt.Sprintf("%s:%d", file, line) }
	const pod = `.spec.template.spec.containers[name="cart"]`
	for path, want := range map[string]string{
		"":                              "bight.yaml:2",
		".spec.replicas":                "bight.yaml:9",
		pod + `.env[name="MODE"].value`: "bight.yaml:5",
		`spec.template.spec.containers[0].env[1].value`:            "bight.yaml:5",
		`spec.template.spec.containers[0].env[0].value`:            "main.go:3",
		`spec.template.spec.containers[7].env[0].value`:            "bight.yaml:4",
		pod + `.env[name="OTHER"].value`:                           "bight.yaml:2",
		pod + `.env`:                                               "bight.yaml:4",
		pod + `.ports[containerPort=8080,protocol="TCP"].hostPort`: "bight.yaml:2",
		pod + `.ports[containerPort=8080].hostPort`:                "main.go:7",
		pod + `.image`: "bight.yaml:2",
	} {
		if got := at(o.At(path)); got != want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
	for expression, want := range map[string]string{
		"!has(object.spec.replicas) || object.spec.replicas <= 3":                                     "bight.yaml:9",
		"object.spec.template.spec.containers.all(c, !has(c.env) || c.env.all(e, e.name != 'DEBUG'))": "bight.yaml:4",
		"object.spec.?replicas.orValue(1) < 9":                                                        "bight.yaml:9",
		"object.spec.replicas < 3 || object.spec.template.spec.containers.all(c, size(c.env) < 3)":    "bight.yaml:2",
		"object.metadata.name.startsWith('x')":                                                        "bight.yaml:2",
	} {
		if got := at(o.Of(expression)); got != want {
			t.Errorf("%s is about %s, want %s", expression, got, want)
		}
	}
}
