// Command catalog knows the products and how many of each are left. It speaks
// gRPC: List, Reserve, Release, and Watch, which streams the stock as it changes.
package main

import (
	"github.com/bightdev/bight/examples/shop/internal/catalog"
	"github.com/bightdev/bight/examples/shop/internal/serve"
)

func main() { serve.Main(catalog.Run) }
