package steer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxStreams is how many requests a client may have under way on a connection.
const maxStreams = 4096

// idleTime is how long a connection without requests is kept. One that is given up while a
// request is on it has nobody else to close it.
const idleTime = time.Minute

// streams serves a client's HTTP/2 connection: each request goes its own way, the
// app's by connections that are the client's own.
type streams struct {
	c     *conn
	ctx   context.Context
	door  context.Context // of the door: copies outlive the connection
	under tasks           // handlers

	mu      sync.Mutex
	app     *http.Transport
	process int64 // which one of the app's that leads to, see Door
	laptops map[*lease]*route
	peers   map[netip.AddrPort]*http.Transport // to pods of other versions
}

// serveHTTP2 routes the requests of a connection.
func (c *conn) serveHTTP2(ctx context.Context) {
	c.client.settle()
	door := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &streams{c: c, ctx: ctx, door: door, laptops: map[*lease]*route{}}
	s.process = c.d.process.Load()
	s.app = s.newApp()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: s, Protocols: &protocols,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(c.d.logger().Handler(), slog.LevelDebug),
	}
	ln := &single{conn: &begun{Conn: c.client.conn, before: c.client.bytes(), closed: make(chan struct{})}}
	_ = server.Serve(ln) // returns when the connection is closed
	cancel()
	s.under.end()
	s.app.CloseIdleConnections() // no handler is left that could take its place
	for _, t := range s.laptops {
		t.CloseIdleConnections()
	}
	for _, t := range s.peers {
		t.CloseIdleConnections()
	}
}

// single is a listener with one connection.
type single struct {
	conn *begun
	once bool
}

// Accept implements net.Listener.
func (l *single) Accept() (net.Conn, error) {
	if l.once {
		<-l.conn.closed
		return nil, net.ErrClosed
	}
	l.once = true
	return l.conn, nil
}

// Close implements net.Listener.
func (l *single) Close() error { return nil }

// Addr implements net.Listener.
func (l *single) Addr() net.Addr { return l.conn.LocalAddr() }

// begun is a connection of which something was read already.
type begun struct {
	net.Conn
	before []byte
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.before) > 0 {
		n := copy(p, b.before)
		b.before = b.before[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// Close implements net.Conn.
func (b *begun) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Conn.Close()
}

func newTransport(dial func(ctx context.Context) (net.Conn, error)) *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		Protocols:          &protocols,
		IdleConnTimeout:    idleTime,
		DisableCompression: true, // the client decides what it can read
		HTTP2:              &http.HTTP2Config{MaxReceiveBufferPerStream: 4 << 20},
	}
}

// ended says whether it was closed.
func (b *begun) ended() bool {
	select {
	case <-b.closed:
		return true
	default:
		return false
	}
}

// dialHTTP2 connects to the handler at the laptop.
func (l *lease) dialHTTP2(ctx context.Context, info Info) (*begun, error) {
	up, err := l.open(ctx, info)
	if err != nil {
		return nil, &failure{err.Error(), true}
	}
	err = up.await(ctx)
	if err != nil {
		abort(up.conn)
	}
	up.settle()
	if err != nil {
		return nil, err
	}
	return &begun{Conn: up.conn, before: up.bytes(), closed: make(chan struct{})}, nil
}

// route carries a client's requests to a laptop. When the lease is over and the
// last request answered, it closes its connections and takes no more requests.
type route struct {
	*http.Transport
	mu    sync.Mutex
	over  bool
	under int // requests
	conns []*begun
}

// laptop returns the route to a laptop.
func (s *streams) laptop(l *lease) *route {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.laptops[l]; p != nil {
		return p
	}
	p := &route{}
	remote := s.c.client.conn.RemoteAddr().String()
	p.Transport = newTransport(func(context.Context) (net.Conn, error) { // another request may use it
		nc, err := l.dialHTTP2(s.ctx, Info{Port: s.c.d.Port, Kind: KindHTTP2, Remote: remote})
		if err != nil {
			return nil, err
		}
		return nc, p.keep(nc)
	})
	s.laptops[l] = p
	stop := context.AfterFunc(l.over, p.end)
	context.AfterFunc(s.ctx, func() { stop() })
	return p
}

// begin counts a request in, unless the connections have ended with the lease: nothing of it
// is sent then.
func (p *route) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed() {
		return false
	}
	p.under++
	return true
}

// done counts it out.
func (p *route) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under--
	p.close()
}

// end says that the lease is over.
func (p *route) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.close()
}

// keep makes nc one of the connections, or closes it if they have ended: a transport goes on to
// dial for a request that another connection has served.
func (p *route) keep(nc *begun) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(slices.DeleteFunc(p.conns, (*begun).ended), nc)
	p.close()
	if p.closed() {
		return net.ErrClosed
	}
	return nil
}

// closed says whether the connections have ended. The caller has p.mu.
func (p *route) closed() bool { return p.over && p.under == 0 }

// close ends the connections if nobody needs them any more. The caller has p.mu.
func (p *route) close() {
	if !p.closed() {
		return
	}
	for _, nc := range p.conns {
		_ = nc.Close()
	}
	p.conns = nil
}

// ServeHTTP implements http.Handler.
func (s *streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.under.begin() { // the connection has ended meanwhile
		panic(http.ErrAbortHandler)
	}
	defer s.under.done()
	path, query, _ := strings.Cut(r.RequestURI, "?")
	seen := Request{Method: r.Method, Path: path, Query: query, Header: func(name string) (string, bool) {
		if strings.EqualFold(name, "host") {
			return r.Host, true
		}
		v := r.Header[textproto.CanonicalMIMEHeaderKey(name)]
		if len(v) == 1 {
			return v[0], true
		}
		return strings.Join(v, ", "), len(v) > 0
	}}
	in := &incoming{d: s.c.d, r: r, body: r.Body, close: r.Body.Close}
	if _, seen.carried = r.Header[Carried]; r.Header.Get(Carried) == carriedAsks {
		in.came = time.Now()
	}
	r.Header.Del(Carried)
	s.c.d.asks(1) // before it is decided whom
	defer s.c.d.asks(-1)
	to, mirrors := s.c.d.pick(seen)
	defer in.settle()
	defer in.mirror(s, mirrors)()
	mark := ""
	var tried leases
	for to != nil {
		err := s.c.d.elsewhere(func() error { return s.toLaptop(w, in, to) })
		if err == nil || r.Context().Err() != nil {
			return // or nobody listens
		}
		f, ok := errors.AsType[*failure](err)
		if !ok {
			f = &failure{why: to.rule.Owner + " has not answered: " + err.Error()}
		}
		again := f.unseen || in.repeatable()
		if again && to.left() {
			to, _ = s.c.d.pick(seen, tried...)
			continue
		}
		tried = append(tried, to)
		s.c.d.logger().Debug("laptop has not answered", "owner", to.rule.Owner, "port", s.c.d.Port, "why", f.why)
		if to.rule.Strict || !again {
			tried.missed()
			lost(w, r, f.why)
			return
		}
		mark = note("app", f.why)
		to, _ = s.c.d.pick(seen, tried...)
	}
	tried.byApp()
	s.toVersion(w, in, seen, mark)
}

// newApp makes what carries requests to the app.
func (s *streams) newApp() *http.Transport {
	return newTransport(func(ctx context.Context) (net.Conn, error) {
		return s.c.d.connect(ctx, s.c.client.conn.LocalAddr())
	})
}

// toProcess returns what carries requests to the app's present process.
func (s *streams) toProcess() *http.Transport {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.c.d.process.Load(); s.process != now {
		s.app.CloseIdleConnections()
		s.app, s.process = s.newApp(), now
	}
	return s.app
}

// toApp sends a request to the app.
func (s *streams) toApp(w http.ResponseWriter, in *incoming, mark string, answered func(*http.Response)) error {
	err := s.send(in.r.Context(), s.toProcess(), w, in, mark, answered)
	switch {
	case err == nil || in.r.Context().Err() != nil:
	case mark != "":
		lost(w, in.r, err.Error())
	case !in.came.IsZero() && !in.connected.Load():
		w.Header().Set(Carried, carriedRefused)
		w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	return err
}

// sendCopy sends a copy of a request, and reads its answer for nobody but answered, if that
// is not nil. A transport dials in a goroutine of its own; when sendCopy returns, dial has
// returned and is not called any more.
func sendCopy(ctx context.Context, out *http.Request, body *spool, dial func(context.Context) (net.Conn, error), answered func(*http.Response) error) error {
	var dialling tasks
	t := newTransport(func(ctx context.Context) (net.Conn, error) {
		if !dialling.begin() {
			return nil, net.ErrClosed
		}
		defer dialling.done()
		return dial(ctx)
	})
	defer dialling.end()
	defer t.CloseIdleConnections() // ends a dial that nobody waits for
	if out.Body = body; out.ContentLength == 0 {
		out.Body = http.NoBody
	}
	out.Close = true // the connection, with its only request
	resp, err := t.RoundTrip(out.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // which answered may have put another in place of
	if answered != nil {
		if err := answered(resp); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// mirror begins to copy the request. over is to be called when that has ended.
func (in *incoming) mirror(s *streams, to []*lease) (over func()) {
	var copies spools
	for _, l := range to {
		out := in.copy(s.door)
		c := l.copyTo(s.door, func(ctx context.Context, body *spool) error {
			return sendCopy(ctx, out, body, func(ctx context.Context) (net.Conn, error) {
				return l.dialHTTP2(ctx, Info{Kind: KindHTTP2, Remote: in.r.RemoteAddr, Mirror: true})
			}, nil)
		})
		if c != nil {
			copies = append(copies, c)
		}
	}
	if copies == nil {
		return func() {}
	}
	whole := in.copyTo(copies...)
	return func() { copies.over(whole()) }
}

// toLaptop sends a request to a laptop. After an error nothing was answered.
func (s *streams) toLaptop(w http.ResponseWriter, in *incoming, l *lease) error {
	if why := l.absent(); why != "" {
		return &failure{why, true}
	}
	if err := in.retain(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(in.r.Context())
	defer cancel(nil)
	answered := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		silent := l.quiet()
		if !in.repeatable() {
			silent = nil
		}
		select {
		case <-silent:
			cancel(&failure{why: l.rule.Owner + " is silent"})
		case <-l.lost:
			cancel(&failure{why: l.rule.Owner + " is gone"})
		case <-answered:
		case <-ctx.Done():
		}
	})
	defer watching.Wait()
	stop := sync.OnceFunc(func() { close(answered) })
	defer stop()
	path := s.laptop(l)
	if !path.begin() {
		return &failure{l.rule.Owner + " is gone", true}
	}
	defer path.done()
	err := s.send(ctx, path.Transport, w, in, "", func(*http.Response) {
		stop()
		l.requests.Add(1)
	})
	if f, ok := errors.AsType[*failure](context.Cause(ctx)); ok && err != nil {
		return f
	}
	return err
}

// send sends a request and passes on its answer. After an error the client has
// seen nothing of one; an answer that breaks off ends in a panic, as http.Server
// wants it.
func (s *streams) send(ctx context.Context, t *http.Transport, w http.ResponseWriter, in *incoming, mark string, answered func(*http.Response)) error {
	early := &interim{w: w, in: in}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			in.connected.Store(true)
			if in.got != nil {
				in.got()
			}
		},
		Got1xxResponse: early.pass,
	})
	out, err := in.outgoing(ctx)
	if err != nil {
		return err
	}
	in.connected.Store(false)
	resp, err := t.RoundTrip(out)
	early.end()
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if in.carry {
		in.said = resp.Header.Get(Carried)
		if _, err := told(in.said); err != nil {
			return err
		}
	}
	if in.carry || !in.came.IsZero() {
		resp.Header.Del(Carried)
	}
	in.settle()
	if answered != nil {
		answered(resp)
	}
	h := w.Header()
	copyHeader(h, resp.Header)
	if in.give != "" {
		h.Add("Set-Cookie", in.give)
	}
	for _, name := range []string{"Date", "Content-Type"} {
		if _, has := h[name]; !has {
			h[name] = nil // else one would be made up
		}
	}
	if mark != "" {
		h.Set(marker, mark)
	}
	if !in.came.IsZero() {
		h.Set(Carried, tell(in.came))
	}
	if s.c.d.retiring() {
		h.Set("Connection", "close") // which http.Server turns into GOAWAY
	}
	announced := map[string]bool{}
	for name := range resp.Trailer {
		announced[name] = true
		h.Add("Trailer", name)
	}
	w.WriteHeader(resp.StatusCode)
	if resp.ContentLength != 0 {
		err = s.c.d.pour(w, resp.Body)
	} else { // it ends with its head, and has to here: for clients of gRPC its status is nothing else
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range resp.Trailer {
		if !announced[name] {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	return nil
}

// interim passes on the answers that come before the last. A transport tells of them in a
// goroutine that it does not wait for, and where a panic ends the program: after end, nobody
// has w but the handler.
type interim struct {
	w  http.ResponseWriter
	in *incoming

	mu   sync.Mutex
	over bool
}

// pass passes one on.
func (i *interim) pass(code int, h textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return nil
	}
	if code != http.StatusContinue { // that one comes by itself
		copyHeader(i.w.Header(), http.Header(h))
		i.w.WriteHeader(code)
		clear(i.w.Header())
	}
	i.in.heard.Store(true)
	return nil
}

// end waits for the one that is being passed on, and lets no other be.
func (i *interim) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[name] = append(to[name], values...)
	}
}

// pour copies an answer piece by piece as it comes.
func (d *Door) pour(w http.ResponseWriter, r io.Reader) error {
	control := http.NewResponseController(w)
	if err := control.Flush(); err != nil {
		return err
	}
	kept := d.buffer()
	defer d.buffers.Put(kept)
	buf := kept[:]
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := control.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// buffer returns one of the door's buffers.
func (d *Door) buffer() *[largeBuffer]byte {
	if b, _ := d.buffers.Get().(*[largeBuffer]byte); b != nil {
		return b
	}
	return new([largeBuffer]byte)
}

// lost says that no laptop can answer.
func lost(w http.ResponseWriter, r *http.Request, why string) {
	inPlace(w, r, http.StatusBadGateway, marker, why, "This request belongs to a laptop that did not answer it: "+why+".")
}

// inPlace answers in the place of those who can't.
func inPlace(w http.ResponseWriter, r *http.Request, status int, marker, why, text string) {
	h := w.Header()
	h.Set(marker, note("lost", why))
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", "14") // unavailable
		h.Set("Grpc-Message", strings.ReplaceAll(note("lost", why), "%", "%25"))
		w.WriteHeader(http.StatusOK)
		return
	}
	http.Error(w, text, status)
}
