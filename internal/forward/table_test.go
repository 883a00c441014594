package forward

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	portHTTP    = Port{"http", 8080, "http"}
	portMetrics = Port{"metrics", 9090, "http"}
	portGRPC    = Port{"grpc", 7001, "grpc"}
	portSQL     = Port{"sql", 5432, "tcp"}
)

func shopTable() *table {
	return &table{routes: []Route{
		{Service: "web", Environment: "shop-anna", Ports: []Port{portHTTP}},
		{Service: "cart", Environment: "shop-anna", Ports: []Port{portMetrics, portHTTP, portGRPC}},
		{Service: "catalog", Environment: "shop-anna", Ports: []Port{portGRPC, portMetrics}},
		{Service: "payment", Environment: "shop-anna", Ports: []Port{portGRPC}},
		{Service: "db", Environment: "shop-anna", Ports: []Port{portSQL}},
		{Service: "web", Environment: "shop-bob", Ports: []Port{portMetrics}},
		{Service: "a--b", Environment: "shop-anna", Ports: []Port{portHTTP, portMetrics}},
	}}
}

// told is a decision in one line.
func told(d decision) string {
	switch d.action {
	case refuse:
		return "refuse"
	case unknown:
		return "unknown " + d.name
	case index:
		return strings.TrimSpace("index " + d.environment)
	}
	s := d.route.Service + "/" + d.port.Name
	if d.route.Environment != "shop-anna" {
		s += "@" + d.route.Environment
	}
	if d.prefix != "" {
		s += " prefix " + d.prefix + " path " + d.path
	}
	if d.action == redirect {
		return "redirect " + s
	}
	return s
}

func TestARequestGoesToWhatItsHostAndPathName(t *testing.T) {
	for _, tt := range []struct {
		host, path string
		grpc       bool
		want       string
	}{
		{"web.shop-anna.localhost:8000", "/x", false, "web/http"},
		{"web.shop-anna.localhost", "/cart/", false, "web/http"},
		{"WEB.Shop-Anna.LocalHost.:8000", "/", false, "web/http"},
		{"web.shop-bob.localhost:8000", "/", false, "web/metrics@shop-bob"},
		{"cart.shop-anna.localhost", "/", false, "cart/metrics"},
		{"cart--http.shop-anna.localhost", "/", false, "cart/http"},
		{"cart.shop-anna.localhost", "/", true, "cart/grpc"},
		{"web.shop-anna.localhost", "/", true, "web/http"},
		{"catalog.shop-anna.localhost", "/", false, "catalog/metrics"},
		{"catalog--grpc.shop-anna.localhost", "/", false, "catalog/grpc"},
		{"payment.shop-anna.localhost", "/", false, "payment/grpc"},
		{"acme.web.shop-anna.localhost", "/", false, "web/http"},
		{"a--b.shop-anna.localhost", "/", false, "a--b/http"},
		{"a--b--metrics.shop-anna.localhost", "/", false, "a--b/metrics"},
		{"db.shop-anna.localhost", "/", false, "unknown db.shop-anna.localhost"},
		{"db--sql.shop-anna.localhost", "/", false, "unknown db--sql.shop-anna.localhost"},
		{"cart.shop-bob.localhost", "/", false, "unknown cart.shop-bob.localhost"},
		{"shop-anna.localhost", "/", false, "index shop-anna"},
		{"shop-eve.localhost", "/", false, "unknown shop-eve.localhost"},

		{"localhost:8000", "/", false, "index"},
		{"127.0.0.1:8000", "/", false, "index"},
		{"[::1]:8000", "/", false, "index"},
		{"::1", "/", false, "index"},
		{"localhost", "/web", false, "redirect web/http prefix /web path /"},
		{"localhost", "/web/", false, "web/http prefix /web path /"},
		{"127.0.0.1", "/web/a%2Fb//c/", false, "web/http prefix /web path /a%2Fb//c/"},
		{"localhost", "/Cart--HTTP/x", false, "cart/http prefix /Cart--HTTP path /x"},
		{"localhost", "/web//evil.example/", false, "web/http prefix /web path //evil.example/"},
		{"localhost", "//web/", false, "unknown //web/"},
		{"localhost", "/nope/x", false, "unknown nope"},
		{"localhost", "*", false, "unknown *"},

		{"", "/web/", false, "refuse"},
		{"evil.example", "/web/", false, "refuse"},
		{"localhost.evil.example:8000", "/", false, "refuse"},
		{"web.shop-anna.localhost.evil.example", "/", false, "refuse"},
		{"evil-localhost", "/", false, "refuse"},
		{"192.168.1.7:8000", "/", false, "refuse"},
		{"127.0.0.1.nip.io", "/", false, "refuse"},
		{"[fe80::1]:8000", "/", false, "refuse"},
		{".localhost", "/", false, "refuse"},
		{"web..localhost", "/", false, "refuse"},
		{"a:b:localhost", "/", false, "refuse"},
	} {
		if diff := cmp.Diff(tt.want, told(shopTable().decide(tt.host, tt.path, tt.grpc))); diff != "" {
			t.Errorf("%s%s (-want +got):\n%s", tt.host, tt.path, diff)
		}
	}
}

func FuzzOnlyNamesOfThisMachineAreServed(f *testing.F) {
	for _, host := range []string{"localhost:8000", "[::1]", "web.shop-anna.localhost.", "evil.example", "a:b:localhost", "x.localhost:y"} {
		f.Add(host, "/web/x")
	}
	local := regexp.MustCompile(`(?i)^(\[?(::1|127\.0\.0\.1|localhost|[^:]*[^.:]\.localhost)\.?\]?)(:[^:]*)?$`)
	routes := shopTable()
	f.Fuzz(func(t *testing.T, host, path string) {
		d := routes.decide(host, path, false)
		if d.action == refuse {
			return
		}
		if !local.MatchString(host) {
			t.Fatalf("host %q is served: %s", host, told(d))
		}
		if d.action == forward && d.prefix != "" && (d.path == "" || d.path[0] != '/') {
			t.Fatalf("path %q is passed on as %q", path, d.path)
		}
	})
}

func TestNearestIsWhatWasProbablyMeant(t *testing.T) {
	names := []string{"frontend", "cart", "catalog", "web"}
	for name, want := range map[string]string{
		"crat": "cart", "carts": "cart", "fronted": "frontend", "catlaog": "catalog",
		"wbe": "web", "payment": "", "x": "", "": "",
	} {
		if got := nearest(name, names); got != want {
			t.Errorf("nearest(%q): got %q, want %q", name, got, want)
		}
	}
}

func TestARedirectStaysBelowThePrefix(t *testing.T) {
	for location, want := range map[string]string{
		"/orders/1":                     "/cart/orders/1",
		"/":                             "/cart/",
		"/cart/orders":                  "/cart/orders",
		"/cart":                         "/cart",
		"/cart?x":                       "/cart?x",
		"/carton":                       "/cart/carton",
		"orders":                        "orders",
		"?page=2":                       "?page=2",
		"//other.example/":              "//other.example/",
		"https://other.example/a":       "https://other.example/a",
		"http://localhost:8000/a":       "http://localhost:8000/cart/a",
		"http://localhost:8000":         "http://localhost:8000/cart/",
		"http://localhost:80001/a":      "http://localhost:80001/a",
		"http://localhost:8000/cart/a":  "http://localhost:8000/cart/a",
		"http://localhost:8000.evil/a":  "http://localhost:8000.evil/a",
		"http://localhost:8000@evil/a/": "http://localhost:8000@evil/a/",
	} {
		if got := underPrefix(location, "localhost:8000", "/cart"); got != want {
			t.Errorf("%s: got %s, want %s", location, got, want)
		}
	}
}
