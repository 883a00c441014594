// Command checkout turns a cart into an order. It is the one that talks to
// everybody: cart and shipping over HTTP, catalog and payment over gRPC.
package main

import (
	"github.com/bightdev/bight/examples/shop/internal/checkout"
	"github.com/bightdev/bight/examples/shop/internal/serve"
)

func main() { serve.Main(checkout.Run) }
