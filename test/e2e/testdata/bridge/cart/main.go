// Command cart is a service that requests are steered away from.
package main

import "example.com/bridge/shop"

func main() { shop.Serve() }
