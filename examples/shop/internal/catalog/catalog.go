// Package catalog knows the products and how many of each are left. It speaks
// gRPC: List, Reserve, Release, and Watch, which streams the stock as it changes.
package catalog

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/bightdev/bight/examples/shop/internal/rpc"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

//go:embed products.json
var productsJSON []byte

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	port := cmp.Or(os.Getenv("PORT"), "7001")
	every, err := time.ParseDuration(cmp.Or(os.Getenv("RESTOCK_EVERY"), "15s"))
	if err != nil || every <= 0 {
		return fmt.Errorf("RESTOCK_EVERY=%q is not a time: write for example 15s", os.Getenv("RESTOCK_EVERY"))
	}
	c, err := newCatalog(productsJSON, ctx.Done())
	if err != nil {
		return err
	}

	srv := grpc.NewServer(rpc.Options(log)...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: shop.Catalog,
		Methods: []grpc.MethodDesc{
			rpc.Unary(shop.Catalog, "List", c.list),
			rpc.Unary(shop.Catalog, "Reserve", c.reserve),
			rpc.Unary(shop.Catalog, "Release", c.release),
		},
		Streams: []grpc.StreamDesc{rpc.Stream("Watch", c.watch)},
	}, nil)

	lis, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	var restocking sync.WaitGroup
	restocking.Go(func() { c.restock(every) })
	err = rpc.Serve(ctx, log, srv, lis)
	if ctx.Err() != nil {
		restocking.Wait()
	}
	return err
}

// catalog is the products on the shelves. Reservations take from them.
type catalog struct {
	stop <-chan struct{} // closed when the service is to stop

	mu       sync.Mutex
	products []shop.Product
	full     []int         // the stock that each product is filled up to
	changed  chan struct{} // closed, and replaced, when a stock changes
}

func newCatalog(products []byte, stop <-chan struct{}) (*catalog, error) {
	c := &catalog{stop: stop, changed: make(chan struct{})}
	if err := json.Unmarshal(products, &c.products); err != nil {
		return nil, fmt.Errorf("read products.json: %w", err)
	}
	for _, p := range c.products {
		c.full = append(c.full, p.Stock)
	}
	return c, nil
}

func (c *catalog) list(context.Context, *struct{}) (*shop.Products, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &shop.Products{Products: slices.Clone(c.products)}, nil
}

// reserve takes everything in the cart off the shelves, or nothing.
func (c *catalog) reserve(_ context.Context, in *shop.Cart) (*shop.Lines, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := new(shop.Lines)
	left := slices.Clone(c.products)
	for _, it := range in.Items {
		i := c.index(it.ID)
		if i < 0 {
			return nil, status.Errorf(codes.NotFound, "there is no product %q", it.ID)
		}
		if it.N < 1 || it.N > left[i].Stock {
			return nil, status.Errorf(codes.FailedPrecondition, "only %d of %s left", left[i].Stock, left[i].Name)
		}
		left[i].Stock -= it.N
		out.Lines = append(out.Lines, shop.Line{Product: left[i], N: it.N})
	}
	c.products = left
	c.announce()
	return out, nil
}

// release puts everything in the cart back.
func (c *catalog) release(_ context.Context, in *shop.Cart) (*struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range in.Items {
		if i := c.index(it.ID); i >= 0 {
			c.products[i].Stock += it.N
		}
	}
	c.announce()
	return &struct{}{}, nil
}

// watch sends every stock once, and then each one that changes.
func (c *catalog) watch(ctx context.Context, _ *struct{}, send func(*shop.Stock) error) error {
	sent := map[string]int{}
	for {
		c.mu.Lock()
		now, changed := slices.Clone(c.products), c.changed
		c.mu.Unlock()
		for _, p := range now {
			if left, known := sent[p.ID]; known && left == p.Stock {
				continue
			}
			if err := send(&shop.Stock{ID: p.ID, Left: p.Stock}); err != nil {
				return err
			}
			sent[p.ID] = p.Stock
		}
		select {
		case <-changed:
		case <-c.stop:
			return status.Error(codes.Unavailable, "the catalog is restarting")
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// restock brings one of each missing product per interval.
func (c *catalog) restock(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.stop:
			return
		}
		c.mu.Lock()
		for i := range c.products {
			if c.products[i].Stock < c.full[i] {
				c.products[i].Stock++
				c.announce()
			}
		}
		c.mu.Unlock()
	}
}

// announce and index want c.mu to be held.
func (c *catalog) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *catalog) index(id string) int {
	return slices.IndexFunc(c.products, func(p shop.Product) bool { return p.ID == id })
}
