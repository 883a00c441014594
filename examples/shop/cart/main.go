// Command cart remembers what people mean to buy, in memory.
package main

import (
	"github.com/bightdev/bight/examples/shop/internal/cart"
	"github.com/bightdev/bight/examples/shop/internal/serve"
)

func main() { serve.Main(cart.Run) }
