// Package shop is what the services of the shop say to each other: the messages
// and the names of the remote procedures. Every service imports it, it imports
// nothing. The types are plain values.
package shop

// Names of the gRPC services.
const (
	Catalog = "shop.Catalog"
	Payment = "shop.Payment"
)

// Product is something to buy. Price is in cents.
type Product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Blurb string `json:"blurb"`
	Price int    `json:"price"`
	Stock int    `json:"stock"`
}

// Products is the answer of Catalog/List.
type Products struct {
	Products []Product `json:"products"`
}

// Stock is what Catalog/Watch streams: how many of a product are left.
type Stock struct {
	ID   string `json:"id"`
	Left int    `json:"left"`
}

// Item is so many of one product.
type Item struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

// Cart is what somebody means to buy. It is also what Catalog/Reserve and
// Catalog/Release take.
type Cart struct {
	Items []Item `json:"items"`
}

// Count returns how many pieces are in the cart.
func (c Cart) Count() int {
	n := 0
	for _, it := range c.Items {
		n += it.N
	}
	return n
}

// Line is an item with what it costs.
type Line struct {
	Product Product `json:"product"`
	N       int     `json:"n"`
}

// Cents returns what the line costs.
func (l Line) Cents() int { return l.N * l.Product.Price }

// Lines is the answer of Catalog/Reserve.
type Lines struct {
	Lines []Line `json:"lines"`
}

// Cents returns what the lines cost together.
func (l Lines) Cents() int {
	sum := 0
	for _, line := range l.Lines {
		sum += line.Cents()
	}
	return sum
}

// Count returns how many pieces there are.
func (l Lines) Count() int {
	n := 0
	for _, line := range l.Lines {
		n += line.N
	}
	return n
}

// Charge is what Payment/Charge takes, and Receipt its answer.
type (
	Charge struct {
		Cents int    `json:"cents"`
		Card  string `json:"card"`
	}
	Receipt struct {
		ID string `json:"id"`
	}
)

// Parcel is what is to be shipped, Quote what that costs, and Shipment the
// parcel on its way.
type (
	Parcel struct {
		Address string `json:"address"`
		Pieces  int    `json:"pieces"`
	}
	Quote struct {
		Cents int `json:"cents"`
		Days  int `json:"days"`
	}
	Shipment struct {
		ID    string `json:"id"`
		Stage int    `json:"stage"`
		Where string `json:"where"`
		Done  bool   `json:"done"`
	}
)

// Purchase asks the checkout to turn a cart into an order.
type Purchase struct {
	CartID  string `json:"cartId"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Card    string `json:"card"`
}

// Order is what was bought. All amounts are in cents.
type Order struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Address    string `json:"address"`
	Lines      []Line `json:"lines"`
	Shipping   int    `json:"shipping"`
	Total      int    `json:"total"`
	Days       int    `json:"days"`
	Receipt    string `json:"receipt"`
	ShipmentID string `json:"shipmentId"`
}
