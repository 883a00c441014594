package bridge

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/steer"
)

func TestConclude(t *testing.T) {
	links := []Link{
		{From: "cart", To: "pricing", By: "PRICING_ADDR", File: "cmd/cart/main.go", Line: 31},
		{From: "frontend", To: "cart", By: "CART_URL", File: "frontend/main.go", Line: 12},
		{From: "frontend", To: "catalog", By: "CATALOG_ADDR"},
		{From: "pricing", To: "store"},
		{From: "search", To: "catalog", By: "CATALOG_ADDR"},
	}
	known := []string{"cart", "catalog", "frontend", "pricing", "search", "store"}
	with := func(service, call string) sighting { return sighting{service, call, true, false} }
	without := func(service, call string) sighting { return sighting{service, call, false, false} }
	rounds := func(each ...sighting) [][]sighting { return [][]sighting{each, each, each} }
	page := with("frontend", "GET /")
	tests := []struct {
		name   string
		e      evidence
		states map[string]Reached // those that are not "not reached"
		order  string             // of the first ones
		drops  []string
	}{
		{"EverybodyHasIt", evidence{entry: "frontend", rounds: rounds(page, with("cart", "GET /"), with("pricing", "GET /"))},
			map[string]Reached{"frontend": HasKey, "cart": HasKey, "pricing": HasKey}, "frontend cart pricing", nil},
		{"DroppedInTheMiddle", evidence{entry: "frontend", rounds: rounds(page, with("cart", "GET /"), without("pricing", "GET /"), without("store", "GET /"))},
			map[string]Reached{"frontend": HasKey, "cart": DropsKey, "pricing": WithoutKey, "store": WithoutKey}, "frontend cart pricing store",
			[]string{"cart drops it: it called pricing (PRICING_ADDR, cmd/cart/main.go:31) without the header"}},
		{"DroppedAtOnce", evidence{entry: "frontend", rounds: rounds(page, without("cart", "GET /"), without("pricing", "GET /"), with("catalog", "GET /"))},
			map[string]Reached{"frontend": DropsKey, "cart": WithoutKey, "pricing": WithoutKey, "catalog": HasKey}, "frontend cart catalog pricing",
			[]string{"frontend drops it: it called cart (CART_URL, frontend/main.go:12) without the header"}},
		{"TwoDrop", evidence{entry: "frontend", rounds: rounds(page, with("cart", "GET /"), without("pricing", "GET /"), without("catalog", "GET /"))},
			map[string]Reached{"frontend": DropsKey, "cart": DropsKey, "pricing": WithoutKey, "catalog": WithoutKey}, "frontend cart catalog pricing",
			[]string{
				"frontend drops it: it called catalog (CATALOG_ADDR) without the header",
				"cart drops it: it called pricing (PRICING_ADDR, cmd/cart/main.go:31) without the header",
			}},
		{"OneOfTwo", evidence{entry: "frontend", rounds: rounds(page, with("search", "GET /"), without("catalog", "GET /"))},
			map[string]Reached{"frontend": HasKey, "search": HasKey, "catalog": WithoutKey}, "frontend catalog search",
			[]string{"frontend (CATALOG_ADDR) or search (CATALOG_ADDR) drops it: one of them called catalog without the header"}},
		{"OthersTraffic", evidence{entry: "frontend", before: []sighting{without("cart", "GET /poll")}, rounds: [][]sighting{
			{page, without("cart", "GET /poll"), without("pricing", "GET /a")},
			{page, without("cart", "GET /poll"), without("pricing", "GET /b")},
		}}, map[string]Reached{"frontend": HasKey}, "frontend", nil},
		{"NotInEveryRound", evidence{entry: "frontend", rounds: [][]sighting{{page, without("cart", "GET /")}, {page}}},
			map[string]Reached{"frontend": HasKey}, "frontend", nil},
		{"InOurTrace", evidence{entry: "frontend", before: []sighting{without("cart", "GET /")}, rounds: [][]sighting{{page, {"cart", "GET /", false, true}}, {page}}},
			map[string]Reached{"frontend": DropsKey, "cart": WithoutKey}, "frontend cart",
			[]string{"frontend drops it: it called cart (CART_URL, frontend/main.go:12) without the header"}},
		{"BothWays", evidence{entry: "frontend", rounds: rounds(page, with("cart", "GET /"), without("cart", "GET /other"))},
			map[string]Reached{"frontend": DropsKey, "cart": HasKey}, "frontend cart",
			[]string{"frontend drops it: it called cart (CART_URL, frontend/main.go:12) without the header"}},
		{"WithoutALink", evidence{entry: "frontend", rounds: rounds(page, without("search", "GET /"))},
			map[string]Reached{"frontend": HasKey, "search": WithoutKey}, "frontend search",
			[]string{"somebody called search without the header: none of the services that had it is known to reach that one"}},
		{"FromOutside", evidence{rounds: rounds(with("cart", "GET /"), without("pricing", "GET /"))},
			map[string]Reached{"cart": DropsKey, "pricing": WithoutKey}, "cart pricing",
			[]string{"cart drops it: it called pricing (PRICING_ADDR, cmd/cart/main.go:31) without the header"}},
		{"NotWatched", evidence{entry: "frontend", blind: []string{"cart"}, rounds: rounds(page)},
			map[string]Reached{"frontend": HasKey, "cart": NotWatched}, "frontend", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.e.known, test.e.linking = known, links
			services, drops := conclude(test.e)
			states, order := map[string]Reached{}, []string{}
			for _, s := range services {
				order = append(order, s.Service)
				if s.State != NotReached {
					states[s.Service] = s.State
				}
			}
			if diff := cmp.Diff(test.states, states); diff != "" {
				t.Error(diff)
			}
			if got := strings.Join(order, " "); len(order) != len(known) || !strings.HasPrefix(got+" ", test.order+" ") {
				t.Errorf("the order is %s, want %s first", got, test.order)
			}
			var said []string
			for _, d := range drops {
				said = append(said, d.String())
			}
			if diff := cmp.Diff(test.drops, said); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTarget(t *testing.T) {
	b := &Bridge{Cluster: &kube.Cluster{}, App: "shop", Namespace: "shop-ada", Services: []string{"frontend", "queue"}}
	doors := []Door{{"frontend", 8080}, {"frontend", 9090}}
	tests := []struct{ in, want, service, err string }{
		{"http://frontend/", "http://frontend:8080/", "frontend", ""},
		{"http://frontend:9090/a?b=c", "http://frontend:9090/a?b=c", "frontend", ""},
		{"http://frontend.shop-ada.svc.cluster.local:8080/", "http://frontend:8080/", "frontend", ""},
		{"http://frontend.shop-ada.localhost:7777/cart", "http://frontend:8080/cart", "frontend", ""},
		{"http://example.com/", "http://example.com/", "", ""},
		{"http://frontent/", "", "", `no service "frontent"; did you mean frontend?`},
		{"http://queue/", "", "", "service queue has no port with HTTP"},
		{"http://localhost:8080/", "", "", "is this machine"},
		{"http://127.0.0.1:8080/", "", "", "is this machine"},
		{"https://frontend/", "", "", "write http://SERVICE/PATH"},
		{"frontend", "", "", "write http://SERVICE/PATH"},
	}
	for _, test := range tests {
		got, service, err := b.target(test.in, doors)
		said := ""
		if err != nil {
			said = err.Error()
		}
		if got != test.want || service != test.service || (test.err == "") != (err == nil) || !strings.Contains(said, test.err) {
			t.Errorf("%s: %q, %q, %v; want %q, %q, %q", test.in, got, service, err, test.want, test.service, test.err)
		}
	}
}

func TestAlike(t *testing.T) {
	for in, want := range map[string]string{
		"/":                             "/",
		"/carts/4711/items":             "/carts/*/items",
		"/api/v1/products":              "/api/v1/products",
		"/shop.v1.Catalog/List":         "/shop.v1.Catalog/List",
		"/orders/abcdefghijklmnopqrst/": "/orders/*/",
	} {
		if got := alike(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestLookout(t *testing.T) {
	l := newLookout(Probe{Name: "baggage", Value: "bight-trace=x1"}, slog.New(slog.DiscardHandler))
	defer l.close()
	var work sync.WaitGroup
	for service, kind := range map[string]steer.Kind{"cart": steer.KindHTTP1, "pricing": steer.KindHTTP2} {
		work.Go(func() {
			var protocols http.Protocols
			protocols.SetHTTP1(kind == steer.KindHTTP1)
			protocols.SetUnencryptedHTTP2(kind == steer.KindHTTP2)
			c := &http.Client{Transport: &http.Transport{
				Protocols: &protocols, DisableKeepAlives: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return l.from(service)(ctx, steer.Info{Kind: kind})
				},
			}}
			for _, baggage := range []string{"a=b, bight-trace=x1;c=d", "bight-trace=y"} {
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+service+"/items/17?q=1", strings.NewReader(strings.Repeat("x", 100_000)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Baggage", baggage)
				resp, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	work.Wait()
	got := map[sighting]int{}
	for _, s := range l.take() {
		got[s]++
	}
	want := map[sighting]int{
		{"cart", "POST /items/*", true, false}: 1, {"cart", "POST /items/*", false, false}: 1,
		{"pricing", "POST /items/*", true, false}: 1, {"pricing", "POST /items/*", false, false}: 1,
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	for s, n := range want {
		if got[s] != n {
			t.Errorf("%v was seen %d times, want %d", s, got[s], n)
		}
	}
	if left := l.take(); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	if _, err := l.from("cart")(t.Context(), steer.Info{Kind: steer.KindRaw}); err == nil {
		t.Error("raw connections are taken")
	}
}

func TestProbesAreRecognised(t *testing.T) {
	p := Probe{Name: "x-dev", Value: "ada"}
	l := newLookout(p, slog.New(slog.DiscardHandler))
	defer l.close()
	copies := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return l.from("cart")(ctx, steer.Info{Kind: steer.KindHTTP1})
	}, DisableKeepAlives: true}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, drop := range []string{"", "X-Dev", "Traceparent"} {
			q := r.Clone(r.Context())
			q.URL.Scheme, q.URL.Host, q.RequestURI = "http", "cart", ""
			q.Header.Del(drop) // the clone's only
			if resp, err := copies.Do(q); err != nil {
				t.Error(err)
			} else {
				_ = resp.Body.Close()
			}
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	status, err := l.probe(t.Context(), server.Client(), server.URL+"/shelf", p)
	if err != nil || status != http.StatusTeapot {
		t.Fatalf("%d, %v", status, err)
	}
	want := []sighting{{"cart", "GET /shelf", true, true}, {"cart", "GET /shelf", false, true}, {"cart", "GET /shelf", true, false}}
	if diff := cmp.Diff(want, l.take(), cmp.AllowUnexported(sighting{})); diff != "" {
		t.Error(diff)
	}
}
