// Package cart remembers what people mean to buy, in memory.
package cart

import (
	"cmp"
	"context"
	"flag"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"github.com/bightdev/bight/examples/shop/internal/rest"
	"github.com/bightdev/bight/examples/shop/internal/serve"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// maxPieces is how many of one product fit into a cart.
const maxPieces = 20

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	addr := flag.String("addr", ":7002", "address to listen on")
	flag.Parse()
	return serve.HTTP(ctx, log, &http.Server{Addr: *addr, Handler: routes(new(carts))})
}

func routes(c *carts) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /carts/{id}", rest.Handle(c.get))
	mux.Handle("POST /carts/{id}", rest.Handle(c.add))
	mux.Handle("DELETE /carts/{id}", rest.Handle(c.clear))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	return mux
}

// carts are all carts by their id. The zero value is ready.
type carts struct {
	mu   sync.Mutex
	byID map[string]map[string]int // cart -> product -> pieces
}

func (c *carts) get(r *http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cart(r.PathValue("id")), nil
}

// add puts so many more of a product into the cart; less than none takes out.
func (c *carts) add(r *http.Request) (any, error) {
	var it shop.Item
	if err := rest.Read(r, &it); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := r.PathValue("id")
	n := c.byID[id][it.ID] + it.N
	if it.ID == "" || n > maxPieces {
		return nil, rest.Errorf(http.StatusUnprocessableEntity, "a cart holds at most %d of one product", maxPieces)
	}
	if c.byID == nil {
		c.byID = map[string]map[string]int{}
	}
	if c.byID[id] == nil {
		c.byID[id] = map[string]int{}
	}
	if n > 0 {
		c.byID[id][it.ID] = n
	} else {
		delete(c.byID[id], it.ID)
	}
	return c.cart(id), nil
}

func (c *carts) clear(r *http.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, r.PathValue("id"))
	return shop.Cart{}, nil
}

// cart wants c.mu to be held.
func (c *carts) cart(id string) shop.Cart {
	cart := shop.Cart{Items: []shop.Item{}}
	for product, n := range c.byID[id] {
		cart.Items = append(cart.Items, shop.Item{ID: product, N: n})
	}
	slices.SortFunc(cart.Items, func(a, b shop.Item) int { return cmp.Compare(a.ID, b.ID) })
	return cart
}
