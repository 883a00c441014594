package app

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLabelMakesADNSLabelOfAnyName(t *testing.T) {
	long := strings.Repeat("a", 70)
	for _, c := range []struct{ in, want string }{
		{"cart", "cart"},
		{"Cart_Service", "cart-service"},
		{"--Cart..Service--", "cart-service"},
		{"2048", "s-2048"},
		{"Größe", "gr-e"},
		{"", ""},
		{"___", ""},
		{long, strings.Repeat("a", 54) + "-6aceac46"},
		{long + "b", strings.Repeat("a", 54) + "-ff7dccf3"},
	} {
		got := Label(c.in)
		if len(c.in) >= 70 {
			if len(got) != MaxLabel || !strings.HasPrefix(got, strings.Repeat("a", 54)+"-") || got != Label(c.in) {
				t.Errorf("Label(%q) = %q", c.in, got)
			}
		} else if got != c.want {
			t.Errorf("Label(%q) = %q, want %q", c.in, got, c.want)
		}
		if got != "" && !ValidLabel(got) {
			t.Errorf("Label(%q) = %q, which is no label", c.in, got)
		}
	}
	if Label(long) == Label(long+"b") {
		t.Error("two long names became one")
	}
}

func TestSecretName(t *testing.T) {
	for name, want := range map[string]bool{
		"DB_PASSWORD": true, "API_KEY": true, "apiToken": true, "SECRET": true, "JWT_SECRET": true, "AWS_SECRET_ACCESS_KEY": true,
		"KEYSPACE": false, "TOKEN_TTL": false, "KEY_FILE": false, "PUBLIC_KEY": false, "PORT": false, "TOKEN_URL": false, "MONKEY": false,
	} {
		if got := SecretName(name); got != want {
			t.Errorf("SecretName(%q) = %v, want %v", name, got, want)
		}
	}
}

func svc(name string, ports ...Port) *Service {
	return &Service{Name: name, Ports: ports, Build: Build{Kind: BuildGo}, Source: Source{Dir: name, From: From{File: name + "/main.go", Line: 1}}}
}

func httpPort(n int) Port { return Port{Name: "http", Number: n, Protocol: HTTP} }
func grpcPort(n int) Port { return Port{Name: "grpc", Number: n, Protocol: GRPC} }

func TestWireMatchesNamesAndNeverGuessesWrongly(t *testing.T) {
	for _, c := range []struct {
		what     string
		services []*Service
		c        Candidate
		want     string // "service value", "? a b" when unclear, "" when left alone
	}{
		{"service word", []*Service{svc("cart", httpPort(7070))}, Candidate{Env: "CART_SERVICE_ADDR"}, "cart cart:7070"},
		{"service word in the name", []*Service{svc("cartservice", httpPort(7070))}, Candidate{Env: "CART_SERVICE_ADDR"}, "cartservice cartservice:7070"},
		{"dash in the name", []*Service{svc("cart-service", httpPort(7070))}, Candidate{Env: "CART_ADDR"}, "cart-service cart-service:7070"},
		{"several words", []*Service{svc("productcatalogservice", grpcPort(3550))}, Candidate{Env: "PRODUCT_CATALOG_SERVICE_ADDR"}, "productcatalogservice productcatalogservice:3550"},
		{"camel case", []*Service{svc("order-api", httpPort(80))}, Candidate{Flag: "orderApiUrl"}, "order-api http://order-api:80"},
		{"app's name before", []*Service{svc("cart", httpPort(1))}, Candidate{Env: "SHOP_CART_URL"}, "cart http://cart:1"},
		{"URL keeps its path", []*Service{svc("cart", httpPort(7070))}, Candidate{Env: "CART_URL", Default: "http://localhost:9/v1?x=1"}, "cart http://cart:7070/v1?x=1"},
		{"no TLS inside", []*Service{svc("cart", httpPort(7070))}, Candidate{Env: "CART_URL", Default: "https://localhost:9"}, "cart http://cart:7070"},
		{"gRPC scheme", []*Service{svc("cart", grpcPort(7070))}, Candidate{Env: "CART_TARGET", Default: "dns:///localhost:50051"}, "cart dns:///cart:7070"},
		{"gRPC client wants the gRPC port", []*Service{svc("cart", httpPort(80), grpcPort(90))}, Candidate{Env: "CART_ADDR", GRPC: true}, "cart cart:90"},
		{"default names the port", []*Service{svc("cart", httpPort(80), Port{Name: "admin", Number: 81, Protocol: HTTP})}, Candidate{Env: "CART_ADDR", Default: "localhost:81"}, "cart cart:81"},
		{"default names the host", []*Service{svc("cart", httpPort(80)), svc("stock", httpPort(80))}, Candidate{Env: "UPSTREAM", Default: "stock:80"}, "stock stock:80"},
		{"default in a cluster", []*Service{svc("stock", httpPort(80))}, Candidate{Env: "UPSTREAM", Default: "http://stock.shop.svc.cluster.local:80"}, "stock http://stock:80"},
		{"host alone", []*Service{svc("cart", httpPort(80))}, Candidate{Env: "CART_HOST", Default: "localhost"}, "cart cart"},
		{"port of this machine", []*Service{svc("cart", httpPort(7070)), svc("stock", httpPort(7071))}, Candidate{Env: "BACKEND_ADDR", Default: "localhost:7071"}, "stock stock:7071"},
		{"part of the name", []*Service{svc("product-catalog", httpPort(1)), svc("cart", httpPort(2))}, Candidate{Env: "CATALOG_URL"}, "product-catalog http://product-catalog:1"},
		{"exact before part", []*Service{svc("catalog", httpPort(1)), svc("product-catalog", httpPort(2))}, Candidate{Env: "CATALOG_URL"}, "catalog http://catalog:1"},
		{"two parts", []*Service{svc("store-a", httpPort(1)), svc("store-b", httpPort(2))}, Candidate{Env: "STORE_URL", Required: true}, "? store-a store-b"},
		{"itself", []*Service{svc("cart", httpPort(1))}, Candidate{Service: "cart", Env: "CART_ADDR"}, ""},
		{"unknown", []*Service{svc("cart", httpPort(1))}, Candidate{Env: "REDIS_ADDR"}, ""},
		{"no address", []*Service{svc("cart", httpPort(1))}, Candidate{Env: "CART_SIZE"}, ""},
		{"elsewhere", []*Service{svc("payment", httpPort(1))}, Candidate{Env: "PAYMENT_URL", Default: "https://api.stripe.com"}, ""},
		{"an address to listen on", []*Service{svc("cart", httpPort(1))}, Candidate{Env: "CART_ADDR", Default: ":8080"}, ""},
		{"port that several have", []*Service{svc("a", httpPort(8080)), svc("b", httpPort(8080))}, Candidate{Env: "UPSTREAM_ADDR", Default: "localhost:8080"}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			services := append(c.services, svc("front", httpPort(8080)))
			if c.c.Service == "" {
				c.c.Service = "front"
			}
			w := Wire("shop", services, []Candidate{c.c})
			got := ""
			if l := w.Links[c.c.Service]; len(l) == 1 {
				got = l[0].To + " " + l[0].Value
			}
			if u := w.Unclear[[2]string{c.c.Service, c.c.name()}]; u != nil {
				got = "? " + strings.Join(u, " ")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestWireLinksHostAndPortTogether(t *testing.T) {
	services := []*Service{svc("front", httpPort(8080)), svc("stock", Port{Name: "tcp", Number: 7003, Protocol: TCP})}
	w := Wire("shop", services, []Candidate{
		{Service: "front", Env: "STOCK_PORT", Default: "1"}, {Service: "front", Env: "STOCK_HOST"}, {Service: "front", Env: "PORT"},
	})
	got := map[string]string{}
	for _, l := range w.Links["front"] {
		got[l.Env] = l.Value
	}
	if diff := cmp.Diff(map[string]string{"STOCK_HOST": "stock", "STOCK_PORT": "7003"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestValidateTellsAllProblemsWithTheirPlaces(t *testing.T) {
	cart := svc("cart", httpPort(80), Port{Name: "grpc", Number: 80, Protocol: GRPC, From: From{File: "cart/main.go", Line: 9}}, Port{Name: "x", Number: 70000, Protocol: "ftp"})
	cart.Links = []Link{{To: "stock", Port: 1, Env: "STOCK", From: From{File: "cart/main.go", Line: 3}}, {To: "web", Port: 9, Env: "WEB"}}
	cart.Env = []EnvVar{{Name: "A B"}}
	cart.Volumes = []Volume{{Name: "data", Path: "data"}}
	cart.Build.Assets = []Asset{{Path: "../x", As: "x"}}
	cart.Health = &Health{Kind: HealthHTTP, Port: 5}
	a := &App{Name: "Shop", Services: []*Service{cart, svc("cart"), svc("web", httpPort(8080))}, Tasks: []*Task{{Name: "seed", Service: "gone"}}}
	err := a.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`bight.yaml: the app's name "Shop" is no DNS label`,
		`cart/main.go:1: two services are called cart`,
		`cart/main.go:9: service cart: port 80 is used twice`,
		`port 70000 is not between`,
		`protocol "ftp" is none of`,
		`cart/main.go:3: service cart: STOCK links to service stock, which does not exist; services are cart, cart, web`,
		`WEB links to port 9 of web, which has ports 8080`,
		`"A B" is no name`,
		`path "data" is not absolute`,
		`asset "../x" is outside`,
		`health is asked on port 5`,
		`task seed runs in service gone`,
		`task seed has no command`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	ok := &App{Name: "shop", Services: []*Service{svc("web", httpPort(8080))}}
	if err := ok.Validate(); err != nil {
		t.Errorf("a good app: %v", err)
	}
}

func TestListsAreNeverNullAndSecretsNeverPrinted(t *testing.T) {
	a := &App{Name: "shop", Services: []*Service{{Name: "web"}}}
	a.Normalize()
	a.Services[0].SetEnv("API_TOKEN", "hunter2", From{})
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"null", "hunter2"} {
		if strings.Contains(string(b), bad) {
			t.Errorf("%s in %s", bad, b)
		}
	}
}

func TestSetFlagReplacesAnEarlierValue(t *testing.T) {
	s := svc("web")
	s.SetFlag("addr", "a:1")
	s.SetFlag("addr-2", "b:1")
	s.SetFlag("addr", "c:1")
	if diff := cmp.Diff([]string{"--addr-2=b:1", "--addr=c:1"}, s.Args); diff != "" {
		t.Error(diff)
	}
}

func TestSetFlagReplacesWhatAPersonWrote(t *testing.T) {
	for _, tc := range []struct{ args, want []string }{
		{[]string{"-v", "-addr=a:1"}, []string{"-v", "--addr=b:1"}},
		{[]string{"-addr", "a:1", "serve"}, []string{"serve", "--addr=b:1"}},
		{[]string{"--addr", "a:1", "-v"}, []string{"-v", "--addr=b:1"}},
		{[]string{"addr", "-addr-2=a:1", "-addr"}, []string{"addr", "-addr-2=a:1", "--addr=b:1"}},
	} {
		s := svc("web")
		s.Args = slices.Clone(tc.args)
		given := s.Args
		s.SetFlag("addr", "b:1")
		if diff := cmp.Diff(tc.want, s.Args); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.args, diff)
		}
		if diff := cmp.Diff(tc.args, given); diff != "" {
			t.Errorf("what was given has changed (-want +got):\n%s", diff)
		}
	}
}

func TestAServiceHasAFlagHoweverItIsWritten(t *testing.T) {
	for arg, want := range map[string]bool{
		"-addr": true, "--addr": true, "-addr=a:1": true, "--addr=a:1": true,
		"addr": false, "addr=a:1": false, "-addr-2=a:1": false, "--add": false, "-": false, "--": false,
	} {
		s := svc("web")
		s.Args = []string{"serve", arg}
		if got := s.HasFlag("addr"); got != want {
			t.Errorf("%s sets --addr: %v, want %v", arg, got, want)
		}
	}
}

func TestWhatIsInvalidIsAnErrorOfItsOwn(t *testing.T) {
	a := &App{Name: "Not A Label"}
	var invalid *InvalidError
	if err := a.Validate(); !errors.As(err, &invalid) || len(invalid.Problems) != 1 {
		t.Errorf("Validate = %v, want an InvalidError with one problem", err)
	}
	if err := (&App{Name: "shop"}).Validate(); err != nil {
		t.Errorf("Validate of an app without faults = %v", err)
	}
}
