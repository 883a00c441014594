// Package shop_test runs the whole shop as people run it: every service a
// process of its own, wired by environment variables and flags.
package shop_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bightdev/bight/examples/shop/internal/cart"
	"github.com/bightdev/bight/examples/shop/internal/catalog"
	"github.com/bightdev/bight/examples/shop/internal/checkout"
	"github.com/bightdev/bight/examples/shop/internal/frontend"
	"github.com/bightdev/bight/examples/shop/internal/payment"
	"github.com/bightdev/bight/examples/shop/internal/rpc"
	"github.com/bightdev/bight/examples/shop/internal/serve"
	"github.com/bightdev/bight/examples/shop/internal/shipping"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// fleet is the running shop. Addresses are host:port.
type fleet struct {
	frontend, catalog, cart, checkout, payment, shipping string

	processes map[string]*process
}

type process struct {
	cmd *exec.Cmd
	out *output
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// services are what the shop is made of.
var services = map[string]func(context.Context, *slog.Logger) error{
	"cart": cart.Run, "catalog": catalog.Run, "checkout": checkout.Run,
	"frontend": frontend.Run, "payment": payment.Run, "shipping": shipping.Run,
}

// asService has the test's program be the service that it names, in a process of its own.
const asService = "SHOP_TEST_SERVICE"

func TestMain(m *testing.M) {
	if run := services[os.Getenv(asService)]; run != nil {
		serve.Main(run)
		return
	}
	os.Exit(m.Run())
}

// program is the test's own as a service, in the service's directory.
func program(t *testing.T, name string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir, cmd.Env = name, append(env, asService+"="+name)
	return cmd
}

func start(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{processes: map[string]*process{}}
	free := freeAddrs(t, 6)
	f.frontend, f.catalog, f.cart, f.checkout, f.payment, f.shipping = free[0], free[1], free[2], free[3], free[4], free[5]
	run := func(name string, env []string, args ...string) {
		p := &process{cmd: program(t, name, env, args...), out: new(output)}
		p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
		if err := p.cmd.Start(); err != nil {
			t.Fatalf("start %s: %v", name, err)
		}
		f.processes[name] = p
		t.Cleanup(func() {
			p.cmd.Process.Kill()
			p.cmd.Wait()
			if t.Failed() {
				t.Logf("%s printed:\n%s", name, p.out)
			}
		})
	}
	run("catalog", []string{"PORT=" + port(f.catalog), "RESTOCK_EVERY=1h"})
	run("cart", nil, "-addr", f.cart)
	run("payment", []string{"PORT=" + port(f.payment)})
	run("shipping", []string{"LISTEN_ADDR=" + f.shipping, "LEG_TAKES=50ms"})
	run("checkout", []string{
		"PORT=" + port(f.checkout),
		"CART_URL=http://" + f.cart,
		"PAYMENT_SERVICE_ADDR=" + f.payment,
		"SHIPPING_HOST=127.0.0.1", "SHIPPING_PORT=" + port(f.shipping),
	}, "-catalog", f.catalog)
	run("frontend", []string{
		"PORT=" + port(f.frontend),
		"CATALOG_SERVICE_ADDR=" + f.catalog,
		"CART_URL=http://" + f.cart,
		"CHECKOUT_HOST=127.0.0.1", "CHECKOUT_PORT=" + port(f.checkout),
		"SHIPPING_URL=http://" + f.shipping,
	})
	for _, addr := range []string{f.frontend, f.cart, f.checkout, f.shipping} {
		waitHealthy(t, addr)
	}
	return f
}

// freeAddrs returns n different addresses that nobody listens on.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer lis.Close() // when all are known: the next could be the same
		addrs[i] = lis.Addr().String()
	}
	return addrs
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// waitHealthy asks until the answer is 200, for at most ten seconds.
func waitHealthy(t *testing.T, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		resp, err := http.Get("http://" + addr + "/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("status %s", resp.Status)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("%s is not healthy: %v", addr, err)
		}
	}
}

// browser is somebody with a cookie jar.
type browser struct {
	t    *testing.T
	base string
	*http.Client
}

func (f *fleet) browser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, base: "http://" + f.frontend + "/", Client: &http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// page returns the status, the body and where redirects led.
func (b *browser) page(resp *http.Response, err error) (int, string, *url.URL) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Request.URL
}

func (b *browser) form(path string, kv ...string) (int, string, *url.URL) {
	b.t.Helper()
	v := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		v.Set(kv[i], kv[i+1])
	}
	return b.page(b.PostForm(b.base+path, v))
}

func (b *browser) stock(id string) int {
	b.t.Helper()
	_, body, _ := b.page(b.Get(b.base + "api/products"))
	var products []shop.Product
	if err := json.Unmarshal([]byte(body), &products); err != nil {
		b.t.Fatalf("%v in %s", err, body)
	}
	for _, p := range products {
		if p.ID == id {
			return p.Stock
		}
	}
	b.t.Fatalf("no product %s in %s", id, body)
	return 0
}

func TestShop(t *testing.T) {
	f := start(t)
	t.Run("browse, fill the cart, check out, follow the parcel", f.testBuy)
	t.Run("a declined card gives the goods back", f.testDeclined)
	t.Run("the cart refuses what it cannot hold", f.testTooMany)
	t.Run("the front page of the same environment may use the API", f.testSiblings)
	t.Run("stock is streamed over gRPC", f.testWatch)
	t.Run("gRPC health is standard", f.testHealth)
	t.Run("an unknown order is not found", f.testNoOrder)
	t.Run("a variable that is missing is named", f.testMissingVariable)
	t.Run("SIGTERM ends every service cleanly", f.testStop) // the last one
}

func (f *fleet) testBuy(t *testing.T) {
	b := f.browser(t)
	status, body, _ := b.page(b.Get(b.base))
	if status != 200 || !strings.Contains(body, "Brass lamp") || !strings.Contains(body, "€89.00") {
		t.Fatalf("home: %d\n%s", status, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, b.base+"live", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	before := nextStock(t, ctx, ws, "lamp")

	b.form("cart", "id", "lamp", "n", "1")
	status, body, at := b.form("cart", "id", "lamp", "n", "1")
	if status != 200 || at.Path != "/cart" || !strings.Contains(body, "€178.00") {
		t.Fatalf("cart: %d at %s\n%s", status, at, body)
	}
	status, body, at = b.form("checkout", "name", "Ada", "address", "12 Harbour Row", "card", "4242 4242 4242 4242")
	if status != 200 || !strings.HasPrefix(at.Path, "/orders/") || !strings.Contains(body, "Order confirmed") {
		t.Fatalf("order: %d at %s\n%s", status, at, body)
	}
	if !strings.Contains(body, "€183.50") { // 2 lamps and 5.50 for shipping two pieces
		t.Errorf("the order does not cost €183.50:\n%s", body)
	}
	if got, want := nextStock(t, ctx, ws, "lamp"), before-2; got != want {
		t.Errorf("the WebSocket says %d lamps are left, want %d", got, want)
	}
	if _, body, _ := b.page(b.Get(b.base + "cart")); !strings.Contains(body, "nothing in it yet") {
		t.Errorf("the cart is not empty after checkout:\n%s", body)
	}
	events := regexp.MustCompile(`data-events="([^"]+)"`).FindStringSubmatch(body)
	if events == nil {
		t.Fatalf("no tracking on the order's page:\n%s", body)
	}
	f.followParcel(t, b, events[1])
}

func nextStock(t *testing.T, ctx context.Context, ws *websocket.Conn, id string) int {
	t.Helper()
	for {
		var s shop.Stock
		if err := wsjson.Read(ctx, ws, &s); err != nil {
			t.Fatalf("waiting for the stock of %s: %v", id, err)
		}
		if s.ID == id {
			return s.Left
		}
	}
}

// followParcel reads server-sent events to the end.
func (f *fleet) followParcel(t *testing.T, b *browser, path string) {
	t.Helper()
	resp, err := b.Get(b.base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []string
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var s shop.Shipment
		if err := json.Unmarshal([]byte(data), &s); err != nil {
			t.Fatalf("%v in %q", err, data)
		}
		got = append(got, s.Where)
	}
	if want := "Packed, On the quay, At sea, Delivered"; strings.Join(got, ", ") != want {
		t.Errorf("the parcel went %q, want %q", got, want)
	}
}

func (f *fleet) testDeclined(t *testing.T) {
	b := f.browser(t)
	before := b.stock("compass")
	b.form("cart", "id", "compass", "n", "1")
	status, body, _ := b.form("checkout", "name", "Ada", "address", "12 Harbour Row", "card", "4242 4242 4242 0000")
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, "the bank declined this card") {
		t.Errorf("a declined card: %d\n%s", status, body)
	}
	if !strings.Contains(body, "Deck compass") {
		t.Errorf("the cart is gone after a declined card:\n%s", body)
	}
	if got := b.stock("compass"); got != before {
		t.Errorf("%d compasses left after a declined card, want %d", got, before)
	}
}

func (f *fleet) testTooMany(t *testing.T) {
	b := f.browser(t)
	status, body, _ := b.form("cart", "id", "mug", "n", "21")
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, "at most 20") {
		t.Errorf("21 mugs: %d\n%s", status, body)
	}
	b.form("cart", "id", "compass", "n", "19")
	status, body, _ = b.form("checkout", "name", "Ada", "address", "12 Harbour Row", "card", "4242 4242 4242 4242")
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, "of Deck compass left") {
		t.Errorf("19 compasses: %d\n%s", status, body)
	}
}

func (f *fleet) testSiblings(t *testing.T) {
	for _, tt := range []struct {
		host, origin string
		want         bool
	}{
		{"frontend.shop.localhost:8000", "http://web.shop.localhost:8000", true},
		{"frontend.shop.example.org", "https://web.shop.example.org", true},
		{"localhost:8080", "http://localhost:8081", true},
		{"127.0.0.1:8080", "http://127.0.0.1:8081", true},
		{"frontend.shop.example.org", "https://web.other.example.org", false},
		{"frontend.org", "https://evil.org", false},
		{"frontend.shop.localhost:8000", "https://example.org", false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "OPTIONS", "http://"+f.frontend+"/api/cart", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		req.Header.Set("Origin", tt.origin)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Access-Control-Allow-Origin") == tt.origin; got != tt.want {
			t.Errorf("%s may use %s: got %v, want %v", tt.origin, tt.host, got, tt.want)
		}
	}
}

func (f *fleet) testWatch(t *testing.T) {
	conn, err := rpc.Dial(f.catalog)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := rpc.Call[shop.Lines](ctx, conn, shop.Catalog, "Reserve", shop.Cart{Items: []shop.Item{{ID: "cap", N: 1}}}); err != nil {
		t.Fatal(err)
	}
	left := 0
	for s, err := range rpc.Watch[shop.Stock](ctx, conn, shop.Catalog, "Watch", struct{}{}) {
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != "cap" {
			continue
		}
		if left != 0 {
			if s.Left != left+1 {
				t.Errorf("%d caps after one came back, want %d", s.Left, left+1)
			}
			break
		}
		left = s.Left
		if _, err := rpc.Call[struct{}](ctx, conn, shop.Catalog, "Release", shop.Cart{Items: []shop.Item{{ID: "cap", N: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fleet) testHealth(t *testing.T) {
	for _, addr := range []string{f.catalog, f.payment} {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %s: %v, %v", addr, got, err)
		}
	}
}

func (f *fleet) testNoOrder(t *testing.T) {
	b := f.browser(t)
	status, body, _ := b.page(b.Get(b.base + "orders/NONE"))
	if status != http.StatusNotFound || !strings.Contains(body, "there is no order NONE") {
		t.Errorf("an unknown order: %d\n%s", status, body)
	}
}

// testStop keeps a WebSocket and its stream open: they must not hold anybody up.
func (f *fleet) testStop(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "http://"+f.frontend+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	nextStock(t, ctx, ws, "mug")
	for name, p := range f.processes {
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out := p.out.String(); !strings.Contains(out, "msg=bye") || !strings.Contains(out, "msg=listening") {
			t.Errorf("%s did not say hello and goodbye:\n%s", name, out)
		}
	}
}

func (f *fleet) testMissingVariable(t *testing.T) {
	out, err := program(t, "checkout", []string{"CART_URL="}).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CART_URL is not set") {
		t.Errorf("checkout without CART_URL: %v\n%s", err, out)
	}
}
