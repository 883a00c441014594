// Command frontend is the shop itself: pages rendered from templates/, a small
// JSON API for the static front page, and a WebSocket that carries the stock as
// it changes.
package main

import (
	"github.com/bightdev/bight/examples/shop/internal/frontend"
	"github.com/bightdev/bight/examples/shop/internal/serve"
)

func main() { serve.Main(frontend.Run) }
