package bridge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
)

// Door is a port of a service whose requests can be read.
type Door struct {
	Service string
	Port    int
}

// Probe says what Trace sends, and what is known of the app.
type Probe struct {
	URL         string // http://SERVICE[:PORT]/..., as the app's own address or a name in the cluster
	Name, Value string // the header
	Doors       []Door // the first of a service is its main one
	Links       []Link
}

const (
	traceRounds = 5
	// ambient is how long is looked at what comes without a probe.
	ambient = time.Second
	// quiet is how long nothing has to come after a probe, settled how long that is
	// waited for.
	quiet   = 400 * time.Millisecond
	settled = 2 * time.Second
	// answered is how long a probe may take.
	answered = 10 * time.Second
)

// Trace sends requests with a header to the app and says which of its services had
// it. While it does, it has copies of all requests to all services sent here.
func (b *Bridge) Trace(ctx context.Context, p Probe) (*Trace, error) {
	target, entry, err := b.target(p.URL, p.Doors)
	if err != nil {
		return nil, err
	}
	w, err := b.way(ctx, "")
	if err != nil {
		return nil, err
	}
	defer w.close()
	look := newLookout(p, b.Log)
	defer look.close()
	covers, blind, err := b.watchAll(ctx, p.Doors, look)
	defer leaveAll(covers)
	if err != nil {
		return nil, err
	}
	t := &Trace{URL: target, Header: p.Name + ": " + p.Value, Rounds: traceRounds, Answers: []int{}}
	found := evidence{entry: entry, blind: blind, known: b.Services, linking: p.Links}
	if !rest(ctx, ambient) {
		return nil, context.Cause(ctx)
	}
	found.before = look.take()
	client := &http.Client{
		Transport:     &http.Transport{DialContext: (&reach.Dialer{Open: w}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for range traceRounds {
		status, err := look.probe(ctx, client, target, p)
		if err != nil {
			return nil, fmt.Errorf("send a request to %s from pod %s: %w", target, w.through(), err)
		}
		look.settle(ctx)
		t.Answers = append(t.Answers, status)
		found.rounds = append(found.rounds, look.take())
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t.Services, t.Drops = conclude(found)
	if !slices.ContainsFunc(t.Services, func(s Traced) bool { return s.With > 0 }) {
		return nil, fmt.Errorf("no service of %s has seen a request for %s with the header %s: name one of the services, as in http://%s/PATH", b.App, target, p.Name, p.Doors[0].Service)
	}
	if t.Drops == nil {
		t.Drops = []Drop{}
	}
	return t, nil
}

// target returns the URL as the cluster has it, and the service that it leads to, ""
// for another host.
func (b *Bridge) target(text string, doors []Door) (target, service string, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return "", "", fmt.Errorf("%q is no URL whose requests can be followed: write http://SERVICE/PATH", text)
	}
	name, rest, _ := strings.Cut(u.Hostname(), ".")
	if name == "localhost" || net.ParseIP(u.Hostname()) != nil && net.ParseIP(u.Hostname()).IsLoopback() {
		return "", "", fmt.Errorf("%s is this machine, and which service answers there is not known: write http://SERVICE/PATH", u.Host)
	}
	i := slices.IndexFunc(doors, func(d Door) bool { return d.Service == name })
	local := rest == "localhost" || strings.HasSuffix(rest, ".localhost")
	own := rest == "" || local || rest == b.Namespace || strings.HasPrefix(rest, b.Namespace+".svc")
	switch {
	case !own:
		return text, "", nil
	case !slices.Contains(b.Services, name):
		return "", "", b.Unknown(name)
	case i < 0:
		return "", "", fmt.Errorf("service %s has no port with HTTP", name)
	case local || u.Port() == "": // the port is that of bight up, or none
		u.Host = fmt.Sprintf("%s:%d", name, doors[i].Port)
	default:
		u.Host = net.JoinHostPort(name, u.Port())
	}
	return u.String(), name, nil
}

// watchAll has copies of all requests sent to the lookout. blind are the services
// where that did not succeed; it is an error if it did nowhere.
func (b *Bridge) watchAll(ctx context.Context, doors []Door, look *lookout) (covers []*cover, blind []string, err error) {
	var mu sync.Mutex
	var g errgroup.Group
	var first error
	for _, d := range doors {
		g.Go(func() error {
			rule := steer.Rule{
				ID: fmt.Sprintf("trace-%s-%d-%d", d.Service, d.Port, os.Getpid()), Owner: b.Owner,
				Service: d.Service, Port: d.Port, Mode: steer.Mirror,
			}
			c, err := b.cover(ctx, rule, look.from(d.Service))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				covers = append(covers, c)
				return nil
			}
			if first == nil {
				first = err
			}
			if blind = append(blind, d.Service); ctx.Err() == nil {
				b.Say(fmt.Sprintf("requests for %s:%d can't be followed: %v", d.Service, d.Port, err))
			}
			return nil
		})
	}
	_ = g.Wait() // what went wrong is in first
	if ctx.Err() != nil {
		return covers, nil, context.Cause(ctx)
	}
	if len(covers) == 0 {
		if first == nil {
			first = fmt.Errorf("%s has no service with an HTTP port", b.App)
		}
		return nil, nil, first
	}
	return covers, blind, nil
}

func leaveAll(covers []*cover) {
	var leaving sync.WaitGroup
	for _, c := range covers {
		leaving.Go(c.leave)
	}
	leaving.Wait()
}

// rest waits, and says whether ctx has let it.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// lookout takes copies of requests and remembers what they were.
type lookout struct {
	name, value string // the header that is looked for
	conns       chan net.Conn
	over        chan struct{}
	server      *http.Server
	work        sync.WaitGroup

	mu     sync.Mutex
	trace  string // of the present probe
	seen   []sighting
	stir   chan struct{} // closed and renewed when one is seen
	closed sync.Once
}

func newLookout(p Probe, log *slog.Logger) *lookout {
	l := &lookout{name: p.Name, value: p.Value, conns: make(chan net.Conn), over: make(chan struct{}), stir: make(chan struct{})}
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	l.server = &http.Server{Handler: l, Protocols: &both, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	l.work.Go(func() { _ = l.server.Serve(l) }) // ends with Close
	return l
}

func (l *lookout) close() {
	_ = l.server.Close()
	l.work.Wait()
}

// Accept implements net.Listener.
func (l *lookout) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *lookout) Close() error {
	l.closed.Do(func() { close(l.over) })
	return nil
}

// Addr implements net.Listener.
func (l *lookout) Addr() net.Addr { return origin("") }

// origin is the service whose request a copy is, as an address.
type origin string

// Network implements net.Addr.
func (origin) Network() string { return "service" }

// String implements net.Addr.
func (o origin) String() string { return string(o) }

// watched is a connection with copies of a service's requests.
type watched struct {
	net.Conn
	from origin
}

// RemoteAddr implements net.Conn.
func (w watched) RemoteAddr() net.Addr { return w.from }

// from takes what is copied of a service's requests.
func (l *lookout) from(service string) steer.Handler {
	return func(ctx context.Context, info steer.Info) (net.Conn, error) {
		if info.Kind == steer.KindRaw {
			return nil, errors.New("only requests are looked at")
		}
		here, there := net.Pipe()
		select {
		case l.conns <- watched{there, origin(service)}:
			return here, nil
		case <-l.over:
		case <-ctx.Done():
		}
		_, _ = here.Close(), there.Close() // of a pipe, they don't fail
		return nil, net.ErrClosed
	}
}

// ServeHTTP implements http.Handler: it takes a copy.
func (l *lookout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.seen = append(l.seen, sighting{
		service: r.RemoteAddr,
		call:    r.Method + " " + alike(r.URL.Path),
		key:     strings.Contains(strings.Join(r.Header.Values(l.name), ","), l.value),
		ours:    l.trace != "" && strings.Contains(r.Header.Get("Traceparent"), l.trace),
	})
	close(l.stir)
	l.stir = make(chan struct{})
	l.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body) // nobody misses it
	w.WriteHeader(http.StatusNoContent)
}

// take returns what was seen since it was called last.
func (l *lookout) take() []sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen
	l.seen = nil
	return seen
}

// probe sends one request in a trace of its own and returns the status of its answer.
func (l *lookout) probe(ctx context.Context, client *http.Client, target string, p Probe) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, answered)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, err
	}
	var ids [24]byte
	_, _ = rand.Read(ids[:]) // never fails
	trace, span := hex.EncodeToString(ids[:16]), hex.EncodeToString(ids[16:])
	l.mu.Lock()
	l.trace = trace
	l.mu.Unlock()
	req.Header.Set("Traceparent", "00-"+trace+"-"+span+"-01")
	req.Header.Set(p.Name, p.Value)
	req.Header.Set("User-Agent", "bight-trace")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// Some answers never end; a stream has caused what it causes by then.
	defer time.AfterFunc(time.Second, cancel).Stop()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, nil
}

// settle waits until nothing more comes.
func (l *lookout) settle(ctx context.Context) {
	enough := time.NewTimer(settled)
	defer enough.Stop()
	for {
		l.mu.Lock()
		stir := l.stir
		l.mu.Unlock()
		still := time.NewTimer(quiet)
		select {
		case <-stir:
			still.Stop()
			continue
		case <-still.C:
		case <-enough.C:
			still.Stop()
		case <-ctx.Done():
			still.Stop()
		}
		return
	}
}
