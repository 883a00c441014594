package frontend

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"

	"github.com/bightdev/bight/examples/shop/internal/rest"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// page is what the templates are given. Base leads from the page to the root of
// the shop; every link is relative, so that the shop works below any path.
type page struct {
	Base     string
	Title    string
	Greeting string
	Count    int // pieces in the cart
	Products []shop.Product
	Basket   shop.Lines
	Order    *shop.Order
	Problem  string
	Form     shop.Purchase
}

func (f *frontend) home(w http.ResponseWriter, r *http.Request) {
	products, err := f.products(r.Context())
	cart, cartErr := f.fetchCart(r.Context(), cartID(w, r))
	p := page{Title: "Shop", Greeting: greeting, Products: products, Count: cart.Count()}
	f.render(w, "home.html", p, err, cartErr)
}

func (f *frontend) showCart(w http.ResponseWriter, r *http.Request) {
	b, err := f.basket(r.Context(), cartID(w, r))
	f.render(w, "cart.html", page{Title: "Cart", Basket: b, Count: b.Count(), Form: sample}, err)
}

// sample fills the form, so that trying the shop takes no typing.
var sample = shop.Purchase{Name: "Ada Lovelace", Address: "12 Harbour Row", Card: "4242 4242 4242 4242"}

func (f *frontend) changeCart(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.FormValue("n")) // no number changes nothing
	err := f.addToCart(r.Context(), cartID(w, r), shop.Item{ID: r.FormValue("id"), N: n})
	if err != nil {
		f.render(w, "error.html", page{Title: "Sorry"}, err)
		return
	}
	back := "cart"
	if r.FormValue("back") == "home" {
		back = "./#" + r.FormValue("id")
	}
	redirect(w, back)
}

func (f *frontend) buy(w http.ResponseWriter, r *http.Request) {
	p := shop.Purchase{
		CartID:  cartID(w, r),
		Name:    r.FormValue("name"),
		Address: r.FormValue("address"),
		Card:    r.FormValue("card"),
	}
	var o shop.Order
	if err := rest.Do(r.Context(), "POST", f.checkout+"/orders", p, &o); err != nil {
		b, _ := f.basket(r.Context(), p.CartID) // the refusal says more
		f.render(w, "cart.html", page{Title: "Cart", Basket: b, Count: b.Count(), Form: p}, err)
		return
	}
	redirect(w, "orders/"+o.ID)
}

func (f *frontend) order(w http.ResponseWriter, r *http.Request) {
	var o shop.Order
	err := rest.Do(r.Context(), "GET", f.checkout+"/orders/"+url.PathEscape(r.PathValue("id")), nil, &o)
	if err != nil {
		f.render(w, "error.html", page{Base: "../", Title: "Sorry"}, err)
		return
	}
	f.render(w, "order.html", page{Base: "../", Title: "Order " + o.ID, Order: &o})
}

// tracking passes on the shipment's events as they come.
func (f *frontend) tracking(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := f.while(r)
	defer cancel()
	r = r.WithContext(ctx)
	r.URL.Path = "/shipments/" + r.PathValue("shipment") + "/events"
	f.shipping.ServeHTTP(w, r)
}

// render writes a page. Of the errors the first one decides the status and is
// told on the page.
func (f *frontend) render(w http.ResponseWriter, name string, p page, errs ...error) {
	status := http.StatusOK
	for _, err := range errs {
		if err != nil && p.Problem == "" {
			p.Problem, status = err.Error(), http.StatusBadGateway
			if e, ok := err.(*rest.Error); ok {
				status = e.Status
			}
			f.log.Warn("page with a problem", "page", name, "err", err)
		}
	}
	if p.Base == "" {
		p.Base = "./"
	}
	var b bytes.Buffer
	if err := f.pages.ExecuteTemplate(&b, name, p); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// redirect sends the browser to a path relative to where it is. http.Redirect
// would make it absolute, which is wrong behind a proxy that strips a prefix.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// cartID tells whose cart it is, by a cookie that it sets at the first visit.
func cartID(w http.ResponseWriter, r *http.Request) string {
	if c, err := r.Cookie("cart"); err == nil && c.Value != "" {
		return c.Value
	}
	id := rand.Text()
	http.SetCookie(w, &http.Cookie{Name: "cart", Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	return id
}

func (f *frontend) fetchCart(ctx context.Context, id string) (c shop.Cart, err error) {
	err = rest.Do(ctx, "GET", f.cart+"/carts/"+url.PathEscape(id), nil, &c)
	return c, err
}

func (f *frontend) addToCart(ctx context.Context, id string, it shop.Item) error {
	return rest.Do(ctx, "POST", f.cart+"/carts/"+url.PathEscape(id), it, nil)
}
