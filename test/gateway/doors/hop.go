package doors

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/bightdev/bight/internal/steer"
)

// hop hands requests on to a door, and does to their headers what a rule says. It takes
// the mark off that another door has decided about them: the next one is to decide, too,
// about something else.
type hop struct {
	modify atomic.Pointer[Modify]
	proxy  *httputil.ReverseProxy
}

func newHop(door string) *hop {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", door)
	}
	plain := &http.Transport{DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute}
	second := plain.Clone()
	second.Protocols = new(http.Protocols)
	second.Protocols.SetUnencryptedHTTP2(true)
	h := &hop{}
	h.modify.Store(&Modify{})
	// It flushes what is a stream, and nothing that ends with its head.
	h.proxy = &httputil.ReverseProxy{Rewrite: h.rewrite, Transport: byProtocol{plain, second}}
	return h
}

// byProtocol goes on with the protocol that the client has begun with.
type byProtocol struct{ first, second http.RoundTripper }

func (b byProtocol) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.ProtoMajor == 2 {
		return b.second.RoundTrip(r)
	}
	return b.first.RoundTrip(r)
}

// ServeHTTP implements http.Handler.
func (h *hop) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.proxy.ServeHTTP(w, r) }

func (h *hop) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", "door"
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for name, values := range r.In.Header {
		if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			r.Out.Header[name] = values
		}
	}
	r.Out.Header.Del(steer.Carried)
	h.modify.Load().do(r.Out.Header)
}

func (m *Modify) do(h http.Header) {
	for _, s := range m.Set {
		h.Set(string(s.Name), s.Value)
	}
	for _, a := range m.Add {
		name := http.CanonicalHeaderKey(string(a.Name))
		if had := h[name]; len(had) > 0 { // one line, whatever reads it
			h[name] = []string{strings.Join(had, ",") + "," + a.Value}
			continue
		}
		h.Set(name, a.Value)
	}
	for _, name := range m.Remove {
		h.Del(name)
	}
}

// serverOf serves HTTP/1 and HTTP/2 without TLS.
func serverOf(h http.Handler) *http.Server {
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: h, Protocols: both, ReadHeaderTimeout: 10 * time.Second}
}

// itselfWith is the app of a door that nobody is behind: the gateway answers, with a
// status of HTTP, or what a call has in its place.
func itselfWith(status func() int) func(context.Context) (net.Conn, error) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := status()
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			http.Error(w, http.StatusText(code), code)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		call := codes.Unavailable
		if code == http.StatusNotFound {
			call = codes.Unimplemented
		}
		w.Header().Set("Grpc-Status", strconv.Itoa(int(call)))
	})
	return func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		server := serverOf(answer)
		ln := &once{conn: far, done: make(chan struct{})}
		go func() { _ = server.Serve(ln) }() // ends when far is closed, with near
		return near, nil
	}
}
