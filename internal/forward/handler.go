package forward

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.start()
	if !p.enter() {
		p.fail(w, r, stopping())
		return
	}
	defer p.tasks.Done()
	if r.Method == http.MethodConnect {
		p.fail(w, r, noTunnels())
		return
	}
	t := p.table.Load()
	d := t.decide(r.Host, r.URL.EscapedPath(), isGRPC(r))
	switch d.action {
	case refuse:
		p.fail(w, r, misdirected(r.Host, p.Port()))
	case unknown:
		p.fail(w, r, p.notFound(t, d.name))
	case index:
		p.serveIndex(w, r, d.environment)
	case redirect:
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			addSlash(w, r, d.prefix)
			return
		}
		p.forward(w, r, d)
	case forward:
		p.forward(w, r, d)
	}
}

// addSlash sends a browser from /cart to /cart/, so that the page's relative
// links stay below it.
func addSlash(w http.ResponseWriter, r *http.Request, prefix string) {
	to := url.URL{Path: prefix + "/", RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// forward passes a request on.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, d decision) {
	upgrade := r.Header.Get("Upgrade")
	if strings.EqualFold(upgrade, "h2c") {
		// An offer to this hop, which speaks HTTP/2 without being asked.
		r.Header.Del("Upgrade")
		r.Header.Del("Http2-Settings")
		upgrade = ""
	}
	if r.ProtoMajor == 1 {
		// The answer may begin before the request has ended, as it may without us.
		// A writer that can't do that serves a test.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	h2 := (d.port.Protocol == app.GRPC || isGRPC(r)) && upgrade == ""
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { rewrite(pr, d) },
		Transport: &holder{p, key{d.route.Environment, d.route.Service, d.port.Number}, h2},
		ModifyResponse: func(resp *http.Response) error {
			moved(resp, r.Host, d.prefix)
			spellOut(resp)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			p.failed(w, r, d.route, err)
		},
		FlushInterval: -1, // what the service has written, the client sees
		BufferPool:    &p.buffers,
		ErrorLog:      slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
	proxy.ServeHTTP(w, r)
}

// rewrite makes the request that the service sees. Host stays what the browser
// sent: services build links, cookies and redirects from it, and compare it with
// Origin before they accept a WebSocket.
func rewrite(pr *httputil.ProxyRequest, d decision) {
	pr.SetXForwarded()
	pr.Out.Header.Del("X-Forwarded-Prefix")
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = d.route.Service
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // as it is, be it well-formed or not
	if d.prefix == "" {
		return
	}
	pr.Out.Header.Set("X-Forwarded-Prefix", d.prefix)
	pr.Out.URL.RawPath = d.path
	if path, err := url.PathUnescape(d.path); err == nil {
		pr.Out.URL.Path = path
	}
}

// spellOut turns a gRPC answer that is nothing but trailers, which HTTP/2 sends as
// headers that end the stream, into headers and trailers: passed on one after the
// other, such headers would not end it, and the client would wait for trailers in
// vain.
func spellOut(resp *http.Response) {
	if resp.ProtoMajor != 2 || resp.Header.Get("Grpc-Status") == "" {
		return
	}
	resp.Trailer = http.Header{}
	for name, values := range resp.Header {
		if strings.HasPrefix(name, "Grpc-Status") || name == "Grpc-Message" {
			resp.Trailer[name] = values
		}
	}
	for name := range resp.Trailer {
		resp.Header.Del(name)
	}
}

// moved puts the prefix that was taken off the path into a redirect by a service
// that does not know of X-Forwarded-Prefix.
func moved(resp *http.Response, host, prefix string) {
	location := resp.Header.Get("Location")
	if prefix == "" || location == "" {
		return
	}
	if to := underPrefix(location, host, prefix); to != location {
		resp.Header.Set("Location", to)
	}
}

// underPrefix returns a redirect's location below a prefix if it points to this
// host's root.
func underPrefix(location, host, prefix string) string {
	path := location
	origin := "http://" + host
	if rest, ok := strings.CutPrefix(location, origin); ok {
		path = rest
	} else {
		origin = ""
	}
	if origin != "" && path == "" {
		path = "/"
	}
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") {
		return location
	}
	if rest, ok := strings.CutPrefix(path, prefix); ok && (rest == "" || strings.ContainsAny(rest[:1], "/?#")) {
		return location
	}
	return origin + prefix + path
}

// failed answers for a service that could not.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, route Route, err error) {
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		// Nobody waits for an answer. Without one the server would make up a 200.
		panic(http.ErrAbortHandler)
	}
	p.Log.Debug("request failed", "service", route.Service, "err", err)
	var unready *unreadyError
	var lost *lostError
	var gone *goneError
	switch {
	case errors.Is(err, errStopping):
		p.fail(w, r, stopping())
	case errors.As(err, &unready):
		p.fail(w, r, p.notReady(route, unready))
	case errors.As(err, &gone):
		p.fail(w, r, p.notFound(p.table.Load(), gone.service))
	case errors.As(err, &lost):
		p.fail(w, r, noAnswer(route, r.Method, lost))
	default:
		p.fail(w, r, badAnswer(route, err))
	}
}

// isGRPC reports whether r is a gRPC call. gRPC-Web is plain HTTP.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && isGRPCType(r.Header.Get("Content-Type"))
}

func isGRPCType(t string) bool {
	rest, ok := strings.CutPrefix(t, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}
