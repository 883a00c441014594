// Package checkout turns a cart into an order. It is the one that talks to
// everybody: cart and shipping over HTTP, catalog and payment over gRPC.
package checkout

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bightdev/bight/examples/shop/internal/rest"
	"github.com/bightdev/bight/examples/shop/internal/rpc"
	"github.com/bightdev/bight/examples/shop/internal/serve"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	catalogAddr := flag.String("catalog", "catalog:7001", "address of the catalog")
	flag.Parse()
	cartURL := os.Getenv("CART_URL")
	if cartURL == "" {
		return errors.New("CART_URL is not set: it says where the cart service is, for example http://localhost:7002")
	}
	shipping := net.JoinHostPort(cmp.Or(os.Getenv("SHIPPING_HOST"), "localhost"), cmp.Or(os.Getenv("SHIPPING_PORT"), "7005"))
	catalog, err := rpc.Dial(*catalogAddr)
	if err != nil {
		return err
	}
	defer catalog.Close()
	payment, err := rpc.Dial(cmp.Or(os.Getenv("PAYMENT_SERVICE_ADDR"), "localhost:7004"))
	if err != nil {
		return err
	}
	defer payment.Close()

	c := &checkout{
		catalog:     catalog,
		payment:     payment,
		cartURL:     cartURL,
		shippingURL: "http://" + shipping,
		orders:      map[string]*shop.Order{},
	}
	mux := http.NewServeMux()
	mux.Handle("POST /orders", rest.Handle(c.place))
	mux.Handle("GET /orders/{id}", rest.Handle(c.order))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	port := cmp.Or(os.Getenv("PORT"), "7003")
	return serve.HTTP(ctx, log, &http.Server{Addr: ":" + port, Handler: mux})
}

type checkout struct {
	catalog, payment     *grpc.ClientConn
	cartURL, shippingURL string

	mu     sync.Mutex
	orders map[string]*shop.Order
}

// place buys what is in the cart: reserve, quote, charge, ship. What was
// reserved goes back if a later step refuses.
func (c *checkout) place(r *http.Request) (any, error) {
	ctx := r.Context()
	var p shop.Purchase
	if err := rest.Read(r, &p); err != nil {
		return nil, err
	}
	if p.CartID == "" || p.Name == "" || p.Address == "" {
		return nil, rest.Errorf(http.StatusUnprocessableEntity, "an order needs a name and an address")
	}
	var cart shop.Cart
	if err := rest.Do(ctx, "GET", c.cartURL+"/carts/"+url.PathEscape(p.CartID), nil, &cart); err != nil {
		return nil, err
	}
	if len(cart.Items) == 0 {
		return nil, rest.Errorf(http.StatusUnprocessableEntity, "the cart is empty")
	}
	lines, err := rpc.Call[shop.Lines](ctx, c.catalog, shop.Catalog, "Reserve", cart)
	if err != nil {
		return nil, refusal(err)
	}
	o, err := c.settle(ctx, p, cart, lines)
	if err != nil {
		_, back := rpc.Call[struct{}](context.WithoutCancel(ctx), c.catalog, shop.Catalog, "Release", cart)
		return nil, errors.Join(refusal(err), back)
	}
	c.mu.Lock()
	c.orders[o.ID] = o
	c.mu.Unlock()
	// The order stands, whatever becomes of the cart.
	_ = rest.Do(ctx, "DELETE", c.cartURL+"/carts/"+url.PathEscape(p.CartID), nil, nil)
	return o, nil
}

// settle charges and ships goods that are already reserved.
func (c *checkout) settle(ctx context.Context, p shop.Purchase, cart shop.Cart, lines *shop.Lines) (*shop.Order, error) {
	parcel := shop.Parcel{Address: p.Address, Pieces: cart.Count()}
	var quote shop.Quote
	if err := rest.Do(ctx, "POST", c.shippingURL+"/quote", parcel, &quote); err != nil {
		return nil, err
	}
	total := lines.Cents() + quote.Cents
	receipt, err := rpc.Call[shop.Receipt](ctx, c.payment, shop.Payment, "Charge", shop.Charge{Cents: total, Card: p.Card})
	if err != nil {
		return nil, err
	}
	var shipment shop.Shipment
	if err := rest.Do(ctx, "POST", c.shippingURL+"/shipments", parcel, &shipment); err != nil {
		return nil, err
	}
	return &shop.Order{
		ID:         rand.Text()[:8],
		Name:       p.Name,
		Address:    p.Address,
		Lines:      lines.Lines,
		Shipping:   quote.Cents,
		Total:      total,
		Days:       quote.Days,
		Receipt:    receipt.ID,
		ShipmentID: shipment.ID,
	}, nil
}

func (c *checkout) order(r *http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.orders[r.PathValue("id")]; o != nil {
		return o, nil
	}
	return nil, rest.Errorf(http.StatusNotFound, "there is no order %s", r.PathValue("id"))
}

// refusal makes of a gRPC status that a customer can do something about an HTTP
// answer, and leaves every other error as it is.
func refusal(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition:
		return rest.Errorf(http.StatusUnprocessableEntity, "%s", s.Message())
	}
	return err
}
