// Command payment charges cards. No money moves: a card that ends in 0000 and
// an amount above the limit are declined, everything else is paid.
package main

import (
	"github.com/bightdev/bight/examples/shop/internal/payment"
	"github.com/bightdev/bight/examples/shop/internal/serve"
)

func main() { serve.Main(payment.Run) }
