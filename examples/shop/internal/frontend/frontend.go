// Package frontend is the shop itself: pages rendered from templates/, a small
// JSON API for the static front page, and a WebSocket that carries the stock as
// it changes.
package frontend

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"

	"google.golang.org/grpc"

	"github.com/bightdev/bight/examples/shop/internal/rpc"
	"github.com/bightdev/bight/examples/shop/internal/serve"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// greeting stands at the top of the shop. Change it, save, look at the browser.
const greeting = "Good gear, honestly made."

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	catalog, err := rpc.Dial(cmp.Or(os.Getenv("CATALOG_SERVICE_ADDR"), "localhost:7001"))
	if err != nil {
		return err
	}
	defer catalog.Close()
	shipping, err := url.Parse(cmp.Or(os.Getenv("SHIPPING_URL"), "http://localhost:7005"))
	if err != nil {
		return fmt.Errorf("SHIPPING_URL: %w", err)
	}
	pages, err := template.New("").Funcs(template.FuncMap{"money": money}).ParseGlob("templates/*.html")
	if err != nil {
		return fmt.Errorf("templates are read from the working directory: %w", err)
	}
	checkout := net.JoinHostPort(cmp.Or(os.Getenv("CHECKOUT_HOST"), "localhost"), cmp.Or(os.Getenv("CHECKOUT_PORT"), "7003"))

	f := &frontend{
		log:      log,
		done:     ctx,
		pages:    pages,
		catalog:  catalog,
		cart:     cmp.Or(os.Getenv("CART_URL"), "http://localhost:7002"),
		checkout: "http://" + checkout,
		shipping: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(shipping) }},
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	return serve.HTTP(ctx, log, &http.Server{Addr: ":" + port, Handler: f.routes()})
}

// frontend holds nothing of its own: everything is asked of another service.
type frontend struct {
	log            *slog.Logger
	done           context.Context // ends when the service is to stop; streams end with it
	pages          *template.Template
	catalog        *grpc.ClientConn
	cart, checkout string // base URLs
	shipping       http.Handler
}

func (f *frontend) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", f.home)
	mux.HandleFunc("GET /cart", f.showCart)
	mux.HandleFunc("POST /cart", f.changeCart)
	mux.HandleFunc("POST /checkout", f.buy)
	mux.HandleFunc("GET /orders/{id}", f.order)
	mux.HandleFunc("GET /orders/{shipment}/events", f.tracking)
	mux.HandleFunc("GET /api/products", f.apiProducts)
	mux.HandleFunc("GET /api/cart", f.apiCart)
	mux.HandleFunc("POST /api/cart", f.apiAdd)
	mux.HandleFunc("GET /live", f.live)
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServer(http.Dir("static"))))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return shareWithSiblings(mux)
}

// while returns a request's context that also ends when the service is to stop,
// for answers that have no end of their own.
func (f *frontend) while(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	forget := context.AfterFunc(f.done, cancel)
	return ctx, func() { forget(); cancel() }
}

// products are what the catalog has.
func (f *frontend) products(ctx context.Context) ([]shop.Product, error) {
	out, err := rpc.Call[shop.Products](ctx, f.catalog, shop.Catalog, "List", struct{}{})
	if err != nil {
		return nil, fmt.Errorf("the catalog does not answer: %w", err)
	}
	return out.Products, nil
}

// basket is a cart with what is known of its products.
func (f *frontend) basket(ctx context.Context, cartID string) (shop.Lines, error) {
	cart, err := f.fetchCart(ctx, cartID)
	if err != nil {
		return shop.Lines{}, err
	}
	products, err := f.products(ctx)
	var b shop.Lines
	for _, it := range cart.Items {
		for _, p := range products {
			if p.ID == it.ID {
				b.Lines = append(b.Lines, shop.Line{Product: p, N: it.N})
			}
		}
	}
	return b, err
}

// money writes cents as people do.
func money(cents int) string { return fmt.Sprintf("€%d.%02d", cents/100, cents%100) }
