package frontend

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/bightdev/bight/examples/shop/internal/rest"
	"github.com/bightdev/bight/examples/shop/internal/rpc"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

func (f *frontend) apiProducts(w http.ResponseWriter, r *http.Request) {
	rest.Handle(func(r *http.Request) (any, error) { return f.products(r.Context()) }).ServeHTTP(w, r)
}

func (f *frontend) apiCart(w http.ResponseWriter, r *http.Request) {
	id := cartID(w, r)
	rest.Handle(func(r *http.Request) (any, error) { return f.fetchCart(r.Context(), id) }).ServeHTTP(w, r)
}

func (f *frontend) apiAdd(w http.ResponseWriter, r *http.Request) {
	id := cartID(w, r)
	rest.Handle(func(r *http.Request) (any, error) {
		var it shop.Item
		if err := rest.Read(r, &it); err != nil {
			return nil, err
		}
		if err := f.addToCart(r.Context(), id, it); err != nil {
			return nil, err
		}
		return f.fetchCart(r.Context(), id)
	}).ServeHTTP(w, r)
}

// live sends every stock over a WebSocket, and then each one that changes.
func (f *frontend) live(w http.ResponseWriter, r *http.Request) {
	opts := new(websocket.AcceptOptions)
	if o := origin(r); o != nil && sibling(o.Hostname(), r.Host) {
		opts.OriginPatterns = []string{o.Host}
	}
	ws, err := websocket.Accept(w, r, opts)
	if err != nil {
		return // Accept has answered
	}
	defer ws.CloseNow()
	ctx, cancel := f.while(r)
	defer cancel()
	ctx = ws.CloseRead(ctx)
	for stock, err := range rpc.Watch[shop.Stock](ctx, f.catalog, shop.Catalog, "Watch", struct{}{}) {
		if err == nil {
			err = wsjson.Write(ctx, ws, stock)
		}
		if err != nil {
			break
		}
	}
	// The browser connects again, and finds who is back by then.
	ws.Close(websocket.StatusTryAgainLater, "try again")
}

// shareWithSiblings lets pages of the other services of the same environment
// use the API with this browser's cookies.
func shareWithSiblings(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o := origin(r); o != nil && sibling(o.Hostname(), r.Host) {
			h := w.Header()
			h.Add("Vary", "Origin")
			h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			h.Set("Access-Control-Allow-Credentials", "true")
			h.Set("Access-Control-Allow-Headers", "Content-Type")
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func origin(r *http.Request) *url.URL {
	u, err := url.Parse(r.Header.Get("Origin"))
	if err != nil || u.Host == "" {
		return nil
	}
	return u
}

// sibling reports whether a page of the host name may use this service, which
// is reached as self: it is on this machine, or differs in the first label only
// (web.shop.example.org and frontend.shop.example.org).
func sibling(name, self string) bool {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	if ip := net.ParseIP(name); ip != nil {
		return ip.IsLoopback()
	}
	if host, _, err := net.SplitHostPort(self); err == nil {
		self = host
	}
	_, a, _ := strings.Cut(name, ".")
	_, b, _ := strings.Cut(self, ".")
	return strings.Contains(a, ".") && a == b
}
