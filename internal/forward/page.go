package forward

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/bightdev/bight/internal/app"
)

//go:embed pages.html
var pagesSource string

// problem is what is answered when a service can't.
type problem struct {
	status int
	grpc   int // the status of a gRPC call

	Title   string `json:"error"`
	Detail  string `json:"detail,omitempty"`
	Next    string `json:"next,omitempty"` // what to do
	Service string `json:"service,omitempty"`
	Links   []URL  `json:"urls,omitempty"`
	Reload  bool   `json:"-"` // the page asks again by itself
}

// gRPC status codes.
const (
	grpcUnimplemented = 12
	grpcUnavailable   = 14
)

func stopping() problem {
	return problem{
		status: http.StatusServiceUnavailable, grpc: grpcUnavailable,
		Title: "bight up is stopping", Next: "start it again with: bight up",
	}
}

func noTunnels() problem {
	return problem{
		status: http.StatusMethodNotAllowed, grpc: grpcUnimplemented,
		Title: "CONNECT is not supported", Next: "use the services' URLs as they are, without a proxy",
	}
}

func misdirected(host string, port int) problem {
	return problem{
		status: http.StatusMisdirectedRequest, grpc: grpcUnimplemented,
		Title:  fmt.Sprintf("%q is not a name of this machine", host),
		Detail: "Only hosts that end in .localhost, localhost, 127.0.0.1 and [::1] are answered, so that a web site elsewhere cannot reach services under development by pointing its own name at this machine.",
		Next:   fmt.Sprintf("open http://localhost:%d/ to see what there is", port),
	}
}

func (p *Proxy) notFound(t *table, name string) problem {
	b := problem{
		status: http.StatusNotFound, grpc: grpcUnimplemented,
		Title: fmt.Sprintf("nothing is called %q here", name),
		Links: p.sites(t, ""),
	}
	var names []string
	for _, u := range b.Links {
		host := strings.TrimPrefix(u.URL, "http://")
		host, _, _ = strings.Cut(host, ":")
		if !strings.HasSuffix(name, ".localhost") {
			host, _, _ = strings.Cut(host, ".")
		}
		names = append(names, host)
	}
	switch guess := nearest(name, names); {
	case guess != "":
		b.Next = fmt.Sprintf("did you mean %q?", guess)
	case len(names) == 0:
		b.Detail = "No service has an HTTP or gRPC port yet."
	default:
		b.Next = "open one of the services that there are"
	}
	return b
}

func (p *Proxy) notReady(route Route, e *unreadyError) problem {
	b := problem{
		status: http.StatusServiceUnavailable, grpc: grpcUnavailable,
		Title:   route.Service + " is not ready",
		Service: route.Service,
		Next:    "the service answers as soon as a pod of it is ready; bight logs " + route.Service + " shows what it is doing",
		Reload:  true,
	}
	if reason := p.Reason(route.Service); reason != "" {
		b.Detail = reason
		return b
	}
	b.Detail = fmt.Sprintf("It could not be reached in %s: %v.", e.waited.Round(time.Millisecond), e.err)
	return b
}

func noAnswer(route Route, method string, e *lostError) problem {
	b := problem{
		status: http.StatusBadGateway, grpc: grpcUnavailable,
		Title:   route.Service + " closed the connection before it answered",
		Service: route.Service,
		Detail:  fmt.Sprintf("The reason on this side: %v.", e.err),
		Next:    "bight logs " + route.Service + " shows the process's last words",
	}
	switch {
	case errors.Is(e.err, errTapeOver) && errors.Is(e.err, syscall.ECONNREFUSED):
		b.Title = route.Service + " was being restarted"
		b.Next = "send the request again: it has reached nobody"
	case method != http.MethodGet && method != http.MethodHead:
		b.Next = fmt.Sprintf("the %s may have been carried out, so it was not sent again; %s", method, b.Next)
	}
	return b
}

func badAnswer(route Route, err error) problem {
	return problem{
		status: http.StatusBadGateway, grpc: grpcUnavailable,
		Title:   route.Service + " gave an answer that cannot be passed on",
		Service: route.Service,
		Detail:  fmt.Sprintf("%v.", err),
		Next:    "bight logs " + route.Service + " shows what it wrote",
	}
}

// fail answers with a problem, in the form that the client can read.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, b problem) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if isGRPC(r) {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(b.grpc))
		h.Set("Grpc-Message", grpcMessage(b.sentence()))
		w.WriteHeader(http.StatusOK)
		return
	}
	if b.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	switch preferred(r.Header.Get("Accept"), "application/json") {
	case "text/html":
		var page bytes.Buffer
		if err := p.pages.ExecuteTemplate(&page, "problem", b); err != nil {
			p.Log.Error("page for a problem", "err", err)
		}
		writePage(w, r, b.status, page.Bytes())
	case "text/plain":
		write(w, r, "text/plain; charset=utf-8", b.status, []byte(b.text()))
	default:
		write(w, r, "application/json", b.status, asJSON(b))
	}
}

// sentence is the problem in one line.
func (b problem) sentence() string {
	s := b.Title
	if b.Detail != "" {
		s += ": " + strings.TrimSuffix(b.Detail, ".")
	}
	if b.Next != "" {
		s += "; " + b.Next
	}
	return s
}

func (b problem) text() string {
	var s strings.Builder
	for _, line := range []string{b.Title, b.Detail, b.Next} {
		if line != "" {
			s.WriteString(line + "\n")
		}
	}
	for _, u := range b.Links {
		s.WriteString("  " + u.URL + "\n")
	}
	return s.String()
}

// sites returns the URLs of what can be asked over HTTP, gRPC ports included.
func (p *Proxy) sites(t *table, environment string) []URL {
	local := p.Port()
	var urls []URL
	for _, r := range t.routes {
		if environment != "" && r.Environment != environment {
			continue
		}
		main, _ := r.main(false)
		for _, o := range r.Ports {
			if o.Protocol == app.HTTP || o.Protocol == app.GRPC {
				urls = append(urls, URL{r.Service, r.Environment, o.Name, o.Protocol, siteURL(r, o, o == main, local)})
			}
		}
	}
	return urls
}

// listing is what the index shows.
type listing struct {
	App      string    `json:"app,omitempty"`
	Services []listed  `json:"services"`
	Many     bool      `json:"-"` // more than one environment
	Example  *exampled `json:"-"`
}

type exampled struct{ Host, Path string }

type listed struct {
	Name        string       `json:"name"`
	Environment string       `json:"environment"`
	Ready       bool         `json:"ready"`
	Reason      string       `json:"reason,omitempty"` // why it is not ready
	Ports       []listedPort `json:"ports"`
}

type listedPort struct {
	Name     string `json:"name"`
	Number   int    `json:"number"`
	Protocol string `json:"protocol"`
	URL      string `json:"url,omitempty"`     // HTTP and gRPC
	Address  string `json:"address,omitempty"` // gRPC and TCP: host:port on this machine
	Note     string `json:"note,omitempty"`
}

// Bare is the URL as people say it.
func (p listedPort) Bare() string { return strings.TrimPrefix(p.URL, "http://") }

// Summary says how many there are.
func (l listing) Summary() string {
	ready := 0
	for _, s := range l.Services {
		if s.Ready {
			ready++
		}
	}
	what := "services"
	if len(l.Services) == 1 {
		what = "service"
	}
	where := ""
	if len(l.Services) > 0 && !l.Many {
		where = " in " + l.Services[0].Environment
	}
	if ready == len(l.Services) {
		return fmt.Sprintf("%d %s%s", ready, what, where)
	}
	return fmt.Sprintf("%d of %d %s ready%s", ready, len(l.Services), what, where)
}

// list describes what there is; environment "" means all.
func (p *Proxy) list(t *table, environment string) listing {
	l := listing{App: p.App, Services: []listed{}}
	addresses := map[key]Address{}
	for _, a := range p.Addresses() {
		addresses[key{a.Environment, a.Service, a.Port.Number}] = a
	}
	local := p.Port()
	for _, r := range t.routes {
		if environment != "" && r.Environment != environment {
			continue
		}
		reason := p.Reason(r.Service)
		s := listed{Name: r.Service, Environment: r.Environment, Ready: reason == "", Reason: reason, Ports: []listedPort{}}
		main, _ := r.main(false)
		for _, o := range r.Ports {
			port := listedPort{Name: o.Name, Number: o.Number, Protocol: o.Protocol}
			if o.Protocol == app.HTTP || o.Protocol == app.GRPC {
				port.URL = siteURL(r, o, o == main, local)
			}
			if o.Protocol == app.UDP {
				port.Note = "UDP is not forwarded"
			} else if a, ok := addresses[key{r.Environment, r.Service, o.Number}]; ok {
				port.Address, port.Note = a.Local, a.Note
			}
			if l.Example == nil && o.Protocol == app.HTTP && o == main {
				l.Example = &exampled{port.URL, fmt.Sprintf("http://localhost:%d/%s/", local, r.Service)}
			}
			s.Ports = append(s.Ports, port)
		}
		l.Many = l.Many || len(l.Services) > 0 && l.Services[0].Environment != r.Environment
		l.Services = append(l.Services, s)
	}
	return l
}

// serveIndex shows what there is. As an event stream it says when that changes.
func (p *Proxy) serveIndex(w http.ResponseWriter, r *http.Request, environment string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		p.fail(w, r, problem{
			status: http.StatusMethodNotAllowed, grpc: grpcUnimplemented,
			Title: "this page can only be read", Next: "send the request to one of the services",
			Links: p.sites(p.table.Load(), environment),
		})
		return
	}
	if strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
		p.follow(w, r)
		return
	}
	l := p.list(p.table.Load(), environment)
	switch preferred(r.Header.Get("Accept"), "text/plain") {
	case "text/html":
		var page bytes.Buffer
		if err := p.pages.ExecuteTemplate(&page, "index", l); err != nil {
			p.Log.Error("index page", "err", err)
		}
		writePage(w, r, http.StatusOK, page.Bytes())
	case "application/json":
		write(w, r, "application/json", http.StatusOK, asJSON(l))
	default:
		write(w, r, "text/plain; charset=utf-8", http.StatusOK, []byte(l.text()))
	}
}

func (l listing) text() string {
	var out strings.Builder
	tw := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, s := range l.Services {
		state := "ready"
		if !s.Ready {
			state = s.Reason
		}
		for i, port := range s.Ports {
			name := s.Name
			if i > 0 {
				name, state = "", ""
			}
			at := port.URL
			if port.Protocol != app.HTTP {
				at = port.Address
			}
			if at == "" {
				at = port.Note
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", name, port.Protocol, at, state)
		}
	}
	_ = tw.Flush() // to memory
	return out.String()
}

// follow sends an event whenever the index is to be read again.
func (p *Proxy) follow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for {
		changed := p.watch()
		if _, err := fmt.Fprint(w, "data: changed\n\n"); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-p.waits.Done():
			return
		case <-r.Context().Done():
			return
		}
	}
}

// writePage writes one of our own pages, which need nothing from elsewhere.
func writePage(w http.ResponseWriter, r *http.Request, status int, page []byte) {
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'; frame-ancestors 'none'")
	write(w, r, "text/html; charset=utf-8", status, page)
}

func write(w http.ResponseWriter, r *http.Request, kind string, status int, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that has gone needs none
	}
}

func asJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // of types that can't fail
	return b.Bytes()
}

// preferred returns which of HTML, JSON and plain text an Accept header names
// first, or otherwise.
func preferred(accept, otherwise string) string {
	for part := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch kind = strings.ToLower(strings.TrimSpace(kind)); kind {
		case "text/html", "application/json", "text/plain":
			return kind
		case "application/xhtml+xml":
			return "text/html"
		}
	}
	return otherwise
}

// grpcMessage encodes text as the gRPC protocol wants it in a header.
func grpcMessage(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
