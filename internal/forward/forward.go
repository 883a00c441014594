// Package forward gives every service a URL that works in a browser, and every
// TCP and gRPC port an address on this machine.
//
// The main type is [Proxy]: one listener on the loopback interface that tells
// services apart by host name (http://cart.shop-anna.localhost:8000) or, for
// clients that cannot resolve such names, by path (http://localhost:8000/cart/).
// It keeps quiet about restarts: a request that finds nobody listening is held
// until somebody does. What a request is meant for is decided by [table.decide],
// whether a failed one may be sent again by [again]; both are pure.
//
// A Proxy may be used from many goroutines. It waits for those it starts.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/app"
)

const (
	defaultHold = 10 * time.Second
	// grace is how long requests may go on after [Proxy.Serve] was told to stop.
	// It is short: a page with server-sent events uses up all of it.
	grace = 300 * time.Millisecond
)

// Port is a port of a service.
type Port struct {
	Name     string
	Number   int
	Protocol string // app.HTTP, app.GRPC, app.TCP or app.UDP
}

// Route is where the requests for a service go.
type Route struct {
	Service     string
	Environment string
	Ports       []Port // the first HTTP port is the main one, else the first gRPC port

	// Dial opens a byte stream to a port of a ready pod. It may fail while pods
	// are replaced: it is called again. An error of Dial, or of the first Read or
	// Write of the connection, that is syscall.ECONNREFUSED means that nothing
	// listened: no byte has reached a process. A connection that has a CloseWrite
	// method keeps half-closed connections working.
	Dial func(ctx context.Context, port int) (net.Conn, error)
}

// Proxy forwards local requests and connections to services. Set the fields,
// then call Open, Update and Serve, in this order.
type Proxy struct {
	// Listen is the preferred address; its host must be loopback. Port 0, or no
	// address, means any free port.
	Listen string
	// Required makes it an error when the preferred port is taken.
	Required bool
	// App is the app's name, for the index.
	App string
	// Hold is how long a request waits for a pod; 0 means 10 s.
	Hold time.Duration
	// Reason says why no pod of a service can serve, "" when one can. It is what
	// users are told; may be nil.
	Reason func(service string) string
	// Log may be nil.
	Log *slog.Logger

	once    sync.Once
	ctx     context.Context // ends with the Proxy
	cancel  context.CancelFunc
	waits   context.Context // ends when nothing is worth waiting for any more
	drain   context.CancelFunc
	pages   *template.Template
	buffers buffers
	table   atomic.Pointer[table]

	mu      sync.Mutex
	main    *loopback
	changed chan struct{} // closed and replaced when something changed
	closed  bool
	tasks   sync.WaitGroup // added to under mu while not closed
	conns   map[net.Conn]bool
	raws    map[key]*raw
	udp     map[key]bool // ports of which was said that they are not forwarded
	numbers map[key]int  // local port that a raw port had last
}

// start makes what the zero value lacks.
func (p *Proxy) start() {
	p.once.Do(func() {
		p.ctx, p.cancel = context.WithCancel(context.Background())
		p.waits, p.drain = context.WithCancel(p.ctx)
		p.pages = template.Must(template.New("").Parse(pagesSource))
		p.Hold = cmp.Or(p.Hold, defaultHold)
		if p.Log == nil {
			p.Log = slog.New(slog.DiscardHandler)
		}
		if p.Reason == nil {
			p.Reason = func(string) string { return "" }
		}
		p.table.Store(&table{})
		p.changed = make(chan struct{})
		p.conns = map[net.Conn]bool{}
		p.raws, p.udp = map[key]*raw{}, map[key]bool{}
		p.numbers = map[key]int{}
	})
}

// Open takes the local port. The notes are for the user.
func (p *Proxy) Open() (notes []string, err error) {
	p.start()
	wanted, err := loopbackPort(p.Listen)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if p.main != nil {
		return nil, nil
	}
	p.main, err = listenLoopback(wanted)
	if err == nil {
		return nil, nil
	}
	if p.Required || wanted == 0 {
		return nil, portError(wanted, err)
	}
	why := err
	if p.main, err = listenLoopback(0); err != nil {
		return nil, portError(0, err)
	}
	return []string{fmt.Sprintf("port %d is %s, so URLs use port %d; stop what listens there, or choose one with --port", wanted, inWords(why), p.main.port)}, nil
}

// Port returns the local port, 0 before Open.
func (p *Proxy) Port() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.main == nil {
		return 0
	}
	return p.main.port
}

// Update replaces the routes. Connections of services that stay are kept, those
// of services that go are left to finish. Requests that wait look again. The
// notes say which raw ports could not be had as they are.
func (p *Proxy) Update(routes []Route) (notes []string) {
	p.start()
	gone, notes := p.swap(routes)
	for _, u := range gone {
		u.reset()
	}
	return notes
}

// swap is the part of Update that others must not see half of. It returns the
// upstreams that nothing refers to any more.
func (p *Proxy) swap(routes []Route) (gone []*upstream, notes []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil
	}
	before := p.table.Load()
	now := &table{upstreams: map[key]*upstream{}}
	for _, r := range routes {
		r.Ports = slices.Clone(r.Ports)
		now.routes = append(now.routes, r)
		for _, port := range r.Ports {
			if port.Protocol == app.UDP {
				continue
			}
			k := key{r.Environment, r.Service, port.Number}
			u := before.upstreams[k]
			if u == nil {
				u = &upstream{proxy: p, key: k}
			}
			u.use(r.Dial)
			now.upstreams[k] = u
		}
	}
	p.table.Store(now)
	for k, u := range before.upstreams {
		if now.upstreams[k] == nil {
			gone = append(gone, u)
		}
	}
	notes = p.updateRaw(now)
	p.wakeLocked()
	return gone, notes
}

// Ready tells requests that wait that a service may serve now, and the index that
// something about it changed.
func (p *Proxy) Ready(service string) {
	p.start()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked()
}

// Invalidate makes a service's next requests use new connections: call it when a
// pod goes away or its process is about to be restarted. Requests under way are
// left alone.
func (p *Proxy) Invalidate(service string) {
	p.start()
	for k, u := range p.table.Load().upstreams {
		if k.service == service {
			u.reset()
		}
	}
	p.Ready(service)
}

// URL is one line of what a user can open or connect to.
type URL struct {
	Service     string `json:"service"`
	Environment string `json:"environment"`
	Port        string `json:"port"` // its name
	Kind        string `json:"kind"` // http, grpc or tcp
	URL         string `json:"url"`  // of an HTTP port; host:port of any other
}

// URLs returns what to print, in the order of the routes.
func (p *Proxy) URLs() []URL {
	p.start()
	local := map[key]string{}
	for _, a := range p.Addresses() {
		local[key{a.Environment, a.Service, a.Port.Number}] = a.Local
	}
	port := p.Port()
	var urls []URL
	for _, r := range p.table.Load().routes {
		main, _ := r.main(false)
		for _, o := range r.Ports {
			u := URL{Service: r.Service, Environment: r.Environment, Port: o.Name, Kind: o.Protocol}
			switch o.Protocol {
			case app.UDP:
				continue
			case app.HTTP:
				u.URL = siteURL(r, o, o == main, port)
			default:
				if u.URL = local[key{r.Environment, r.Service, o.Number}]; u.URL == "" {
					continue
				}
			}
			urls = append(urls, u)
		}
	}
	return urls
}

// Serve answers requests until ctx ends, which is no error; then it closes the
// Proxy. It opens the port if that was not done.
func (p *Proxy) Serve(ctx context.Context) error {
	notes, err := p.Open()
	if err != nil {
		return err
	}
	for _, note := range notes {
		p.Log.Info("local port", "note", note)
	}
	defer p.Close()
	base, cut := context.WithCancel(context.Background())
	defer cut()
	srv := p.server(base)
	failed := make(chan error, len(p.main.listeners))
	var serving sync.WaitGroup
	for _, ln := range p.main.listeners {
		serving.Go(func() {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve URLs on port %d: %w", p.main.port, err)
	}
	p.drain()
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	_ = srv.Shutdown(patience) // what is left when that ends is cut off
	cut()
	_ = srv.Close()
	serving.Wait()
	return err
}

// server returns the HTTP server; base ends its requests.
func (p *Proxy) server(base context.Context) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           p,
		Protocols:         &protocols,
		ReadHeaderTimeout: time.Minute,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000},
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
}

// Close ends everything and waits for it.
func (p *Proxy) Close() error {
	p.start()
	p.drain()
	p.mu.Lock()
	p.closed = true
	p.cancel()
	if p.main != nil {
		p.main.close()
	}
	for k, r := range p.raws {
		r.loopback.close()
		delete(p.raws, k)
	}
	conns := p.conns
	p.conns = map[net.Conn]bool{}
	p.mu.Unlock()
	for _, u := range p.table.Load().upstreams {
		u.reset()
	}
	for c := range conns {
		_ = c.Close()
	}
	p.tasks.Wait()
	return nil
}

// enter counts a task that Close waits for; the caller calls p.tasks.Done. It
// reports false after Close.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.tasks.Add(1)
	return true
}

// track remembers a connection, so that Close ends it. It reports false after
// Close.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) untrack(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// watch returns a channel that is closed at the next change.
func (p *Proxy) watch() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *Proxy) wakeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// buffers lends what bodies are copied with.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
