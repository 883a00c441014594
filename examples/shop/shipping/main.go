// Command shipping says what a parcel costs and where it is. The voyage of a
// shipment is sent as server-sent events while it happens.
package main

import (
	"github.com/bightdev/bight/examples/shop/internal/serve"
	"github.com/bightdev/bight/examples/shop/internal/shipping"
)

func main() { serve.Main(shipping.Run) }
