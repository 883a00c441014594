package cli

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/bridge"
)

func TestNewProbe(t *testing.T) {
	port := func(n int, protocol string) app.Port { return app.Port{Number: n, Protocol: protocol} }
	a := &app.App{Services: []*app.Service{
		{Name: "cart", Ports: []app.Port{port(8080, app.HTTP), port(9090, app.GRPC), port(7000, app.TCP)}},
		{Name: "frontend", Ports: []app.Port{port(80, app.HTTP)}, Links: []app.Link{
			{To: "cart", Env: "CART_URL", From: app.From{File: "frontend/main.go", Line: 12}},
			{To: "queue", Flag: "queue"},
		}},
		{Name: "queue", Ports: []app.Port{port(5672, app.TCP)}},
		{Name: "web", Ports: []app.Port{port(80, app.HTTP)}},
	}}
	for _, test := range []struct{ url, header, want, name, value string }{
		{"/", "", "http://frontend/", "baggage", `bight-trace=[a-z0-9]{12}`},
		{"/carts/1", "x-dev=ada", "http://frontend/carts/1", "x-dev", "ada"},
		{"cart", "", "http://cart/", "baggage", `bight-trace=[a-z0-9]{12}`},
		{"cart:8080/a", "", "http://cart:8080/a", "baggage", `bight-trace=[a-z0-9]{12}`},
		{"http://cart:8080/a", "", "http://cart:8080/a", "baggage", `bight-trace=[a-z0-9]{12}`},
	} {
		got, err := newProbe(a, test.url, test.header)
		if err != nil {
			t.Fatal(err)
		}
		if got.URL != test.want || got.Name != test.name || !regexp.MustCompile("^"+test.value+"$").MatchString(got.Value) {
			t.Errorf("%s: %s with %s=%s", test.url, got.URL, got.Name, got.Value)
		}
		doors := []bridge.Door{{Service: "cart", Port: 8080}, {Service: "cart", Port: 9090}, {Service: "frontend", Port: 80}, {Service: "web", Port: 80}}
		links := []bridge.Link{{From: "frontend", To: "cart", By: "CART_URL", File: "frontend/main.go", Line: 12}, {From: "frontend", To: "queue", By: "-queue"}}
		if diff := cmp.Diff(doors, got.Doors) + cmp.Diff(links, got.Links); diff != "" {
			t.Error(diff)
		}
	}
	for _, header := range []string{"x-dev", "x-dev=a*"} {
		if _, err := newProbe(a, "/", header); err == nil {
			t.Errorf("--header %s is taken", header)
		}
	}
}
