package steer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// firstWord is how long a client may be silent before the door supposes that
	// the server speaks first.
	firstWord = 20 * time.Millisecond
	// wholeWord is how long it may take to say what it speaks.
	wholeWord = time.Second
	// wholeHead is how long it may take to send the head of a request.
	wholeHead = 10 * time.Second
	// acceptPause is after an Accept that failed, for want of file descriptors say.
	acceptPause = 50 * time.Millisecond
)

// Door takes the connections to one port of the app. Its exported fields are set
// before Serve is called.
type Door struct {
	Port     int // the app's
	Protocol Protocol
	// App connects to the app.
	App func(ctx context.Context) (net.Conn, error)
	// AppAt, in place of App, is told what the client has dialled.
	AppAt func(ctx context.Context, dialled net.Addr) (net.Conn, error)
	// Follow makes the door read HTTP from the first connection on, so that a rule
	// is obeyed on connections that were open before it: HTTP/1 by the next
	// request; HTTP/2 clients are told to open a new connection, and finish what
	// they have on the old one. Without it, those connections stay with the app.
	Follow bool
	// Older, if not nil, counts connections to the app that have never been to this
	// door, so that no rule sees their requests.
	Older func() int64
	// Probes are paths that kubelet asks under another name than its own, by which it is
	// known otherwise: the app has every request for them.
	Probes []string
	// Peer connects to a pod of another version, for splits. Without it the door
	// dials by itself.
	Peer func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Outcome, if not nil, is told what became of each request that a split decided
	// about, by many goroutines at once. It must be quick, and not keep the Outcome.
	Outcome func(*Outcome)
	Log     *slog.Logger

	rules   atomic.Pointer[table]     // nil without rules
	split   atomic.Pointer[splitting] // nil without a split
	retired atomic.Bool
	// process counts how often the app's process was started again: connections to an
	// earlier one are of no use, which is not seen of them at once.
	process atomic.Int64
	counts  splitCounts
	buffers sync.Pool    // of answers' bodies
	keeping atomic.Int64 // bytes of bodies, to send them again: see upload

	mu      sync.Mutex
	steered chan struct{}       // closed when the first rule or split comes
	from    time.Time           // when that was
	spliced map[*conn]time.Time // connections to the app whose requests nobody sees
	atApp   int                 // requests that the app may still have to answer
	none    chan struct{}       // closed when there are none, if somebody waits for it
	copies  sync.WaitGroup      // of requests, to mirrors
}

// Serve takes connections from ln until that is closed, and returns when they have
// ended. When ctx ends it closes ln and cuts them off.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	var conns sync.WaitGroup
	defer d.copies.Wait()
	defer conns.Wait()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			conns.Go(func() { d.serve(ctx, nc) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			d.logger().Warn("accept a connection", "port", d.Port, "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		}
	}
}

func (d *Door) logger() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (d *Door) serve(ctx context.Context, nc net.Conn) {
	c := &conn{d: d, client: source{conn: nc}, laptops: map[*lease]*upstream{}, remote: nc.RemoteAddr().String()}
	stop := context.AfterFunc(ctx, func() { abort(nc) })
	defer stop()
	defer c.close()
	if !d.steers() && !d.Follow {
		c.toAppUnread(ctx)
		return
	}
	switch c.begin(ctx) {
	case http1:
		c.serveHTTP1(ctx)
	case http2:
		if c.last != nil { // the client was slow to speak
			c.forget(c.last)
		}
		if !c.followHTTP2(ctx) {
			c.serveHTTP2(ctx)
		}
	default:
		c.raw(ctx)
	}
}

// steerBy gives the door its rules, nil for none.
func (d *Door) steerBy(t *table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.steers()
	d.rules.Store(t)
	d.steersNow(before)
}

// steers says whether there are rules or a split.
func (d *Door) steers() bool { return d.rules.Load() != nil || d.split.Load() != nil }

// steersNow is called after a change, with d.mu held.
func (d *Door) steersNow(before bool) {
	if d.steered == nil {
		d.steered = make(chan struct{})
	}
	switch now := d.steers(); {
	case !before && now:
		d.from = time.Now()
		close(d.steered)
	case before && !now:
		d.steered = make(chan struct{})
	}
}

// steeredSince returns since when there are rules or a split.
func (d *Door) steeredSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.from
}

// firstRule returns what is closed as long as there are rules or a split.
func (d *Door) firstRule() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.steered == nil {
		d.steered = make(chan struct{})
	}
	return d.steered
}

// unsteered counts the connections to the app that no rule sees, and that are
// older than since.
func (d *Door) unsteered(since time.Time) (n int64) {
	if d.Older != nil {
		n = d.Older()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.spliced {
		if t.Before(since) {
			n++
		}
	}
	return n
}

func (d *Door) enter(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spliced == nil {
		d.spliced = map[*conn]time.Time{}
	}
	d.spliced[c] = time.Now()
}

func (d *Door) leave(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.spliced, c)
}

// pick decides about a request: lease is nil for the app. What those have not answered who
// were tried before is the app's, unless that is replaced: its process may be stopped, so the
// other rules come first.
func (d *Door) pick(r Request, tried ...*lease) (to *lease, mirrors []*lease) {
	t := d.rules.Load()
	if t == nil || !t.replaced && len(tried) > 0 {
		return nil, nil
	}
	if len(tried) > 0 {
		t = t.without(tried)
	}
	if !t.replaced && (r.carried || d.probe(r)) { // else nobody else is there, not even for kubelet
		return nil, nil
	}
	i, copies := Pick(t.rules, r)
	if i >= 0 {
		to = t.leases[i]
	}
	for _, j := range copies {
		mirrors = append(mirrors, t.leases[j])
	}
	return to, mirrors
}

// probe says whether a request is kubelet's, which asks the app of this pod.
func (d *Door) probe(r Request) bool {
	agent, _ := r.Header("User-Agent")
	return strings.HasPrefix(agent, "kube-probe/") || slices.Contains(d.Probes, r.Path)
}

// conn is a client's connection, and those that serve it.
type conn struct {
	d       *Door
	client  source
	remote  string // the client's address
	app     *upstream
	laptops map[*lease]*upstream
	peers   []*upstream // pods of other versions, one of each version
	last    *upstream   // that answered last
}

// close ends all connections and waits for what reads them.
func (c *conn) close() {
	_ = c.client.conn.Close()
	c.client.settle()
	if c.app != nil {
		c.app.close()
	}
	for _, up := range c.laptops {
		up.close()
	}
	for _, up := range c.peers {
		up.close()
	}
}

func (u *upstream) close() {
	_ = u.conn.Close()
	u.settle()
	if u.stop != nil {
		u.stop()
	}
}

func (d *Door) connect(ctx context.Context, dialled net.Addr) (net.Conn, error) {
	if d.AppAt != nil {
		return d.AppAt(ctx, dialled)
	}
	return d.App(ctx)
}

// dialApp connects to the app, if there is no connection yet that lives.
func (c *conn) dialApp(ctx context.Context) (*upstream, error) {
	if c.app != nil {
		if len(c.app.bytes()) > 0 || c.app.process == c.d.process.Load() && !c.app.stirred() {
			return c.app, nil
		}
		c.forget(c.app)
	}
	process := c.d.process.Load()
	nc, err := c.d.connect(ctx, c.client.conn.LocalAddr())
	if err != nil {
		return nil, fmt.Errorf("connect to the app on port %d: %w", c.d.Port, err)
	}
	c.app = &upstream{source: source{conn: nc}, process: process}
	c.app.stop = context.AfterFunc(ctx, func() { abort(nc) })
	return c.app, nil
}

// dialLaptop returns a connection to the laptop of l.
func (c *conn) dialLaptop(ctx context.Context, l *lease, kind Kind) (*upstream, error) {
	if up := c.laptops[l]; up != nil {
		if !up.stirred() && up.busy() {
			return up, nil
		}
		c.forget(up)
	}
	up, err := l.open(ctx, Info{Port: c.d.Port, Kind: kind, Remote: c.client.conn.RemoteAddr().String()})
	if err != nil {
		return nil, &failure{err.Error(), true}
	}
	up.state.Store(upBusy)
	stops := []func() bool{
		context.AfterFunc(ctx, func() { abort(up.conn) }),
		context.AfterFunc(l.over, func() {
			if up.state.CompareAndSwap(upIdle, upDead) {
				_ = up.conn.Close()
			}
		}),
	}
	up.stop = func() bool { return stops[0]() && stops[1]() }
	c.laptops[l] = up
	return up, nil
}

// forget closes a connection that is of no more use.
func (c *conn) forget(up *upstream) {
	up.close()
	if c.last == up {
		c.last = nil
	}
	switch {
	case up.lease != nil:
		delete(c.laptops, up.lease)
	case up.peer.IsValid():
		c.peers = slices.DeleteFunc(c.peers, func(p *upstream) bool { return p == up })
	default:
		c.app = nil
	}
}

// begin finds out what the client speaks. When it is silent, the one who would get
// its bytes is connected to: that one may speak first.
func (c *conn) begin(ctx context.Context) kind {
	patience := time.NewTimer(firstWord)
	defer patience.Stop()
	heard := false
	for {
		p := c.client.bytes()
		if len(p) > 0 {
			if k := sniff(p); k != unknown {
				return k
			}
			if !heard {
				heard = true
				patience.Reset(wholeWord)
			}
		}
		if c.client.err != nil || c.last != nil && len(c.last.bytes()) > 0 {
			return other
		}
		var fromUp, over <-chan struct{}
		if c.last != nil {
			fromUp = c.last.watch()
			if c.last.lease != nil {
				over = c.last.lease.over.Done()
			}
		}
		select {
		case <-c.client.watch():
			c.client.heard()
		case <-fromUp:
			c.last.heard()
			return other
		case <-over: // nothing was said that belongs to the laptop
			c.forget(c.last)
			if c.openRaw(ctx) != nil {
				return other
			}
		case <-patience.C:
			if !heard && c.patient() {
				continue
			}
			if heard || c.openRaw(ctx) != nil {
				return other
			}
		case <-ctx.Done():
			return other
		}
	}
}

// patient says whether a client may be silent for as long as it likes: the port is known to
// speak HTTP, and who gets all its requests may not be there, which they are to be told.
func (c *conn) patient() bool {
	to, _ := c.d.pick(Request{Header: func(string) (string, bool) { return "", false }})
	return to != nil && to.rule.Strict && (c.d.Protocol == HTTP || c.d.Protocol == GRPC)
}

// openRaw connects to the one who gets the client's bytes when they are not read,
// and makes it c.last. Those who were tried before have not taken them.
func (c *conn) openRaw(ctx context.Context, tried ...*lease) error {
	to, _ := c.d.pick(Request{Header: func(string) (string, bool) { return "", false }}, tried...)
	if to != nil && (c.client.err == nil || len(c.client.bytes()) > 0) { // else it is kubelet, knocking
		up, err := c.openRawLaptop(ctx, to)
		switch {
		case err == nil:
			c.last = up
			return nil
		case to.left():
			return c.openRaw(ctx, tried...)
		}
		c.d.logger().Debug("laptop has not taken a connection", "owner", to.rule.Owner, "port", c.d.Port, "why", err)
		if tried = append(tried, to); to.rule.Strict {
			leases(tried).missed()
			return err
		}
		return c.openRaw(ctx, tried...)
	}
	leases(tried).byApp()
	up, err := c.dialApp(ctx)
	if err != nil {
		return err
	}
	c.last = up
	return nil
}

func (c *conn) openRawLaptop(ctx context.Context, l *lease) (*upstream, error) {
	if why := l.absent(); why != "" {
		return nil, &failure{why, true}
	}
	up, err := c.dialLaptop(ctx, l, KindRaw)
	if err != nil {
		return nil, err
	}
	if err := up.await(ctx); err != nil {
		abort(up.conn)
		c.forget(up)
		return nil, err
	}
	return up, nil
}

// raw passes everything on without reading it, to the app or to a laptop that has
// everything.
func (c *conn) raw(ctx context.Context) {
	if c.last == nil {
		if err := c.openRaw(ctx); err != nil {
			c.d.logger().Debug("connection refused", "port", c.d.Port, "err", err)
			abort(c.client.conn)
			return
		}
	}
	if c.last.lease != nil {
		c.last.lease.connections.Add(1)
	}
	if c.client.err == nil || len(c.client.bytes()) > 0 { // else it leaves without a word
		c.unread()
	}
	_, mirrors := c.d.pick(Request{Header: func(string) (string, bool) { return "", false }})
	var copies spools
	for _, l := range mirrors {
		if s := l.mirror(ctx, c.client.conn.RemoteAddr().String(), KindRaw, ""); s != nil {
			copies = append(copies, s)
		}
	}
	defer copies.over(true)
	if copies == nil {
		c.splice(ctx, c.last, nil, nil) // the kernel copies
		return
	}
	c.splice(ctx, c.last, copies, nil)
}

// unread counts, for a split and each rule that is about requests, that they can't be
// seen.
func (c *conn) unread() {
	if c.d.split.Load() != nil {
		c.d.counts.unread.Add(1)
	}
	if t := c.d.rules.Load(); t != nil {
		for _, l := range t.leases {
			if !l.rule.Match.Everything() {
				l.unread.Add(1)
			}
		}
	}
}

// toAppUnread gives the app the connection as it is.
func (c *conn) toAppUnread(ctx context.Context) {
	up, err := c.dialApp(ctx)
	if err != nil {
		c.d.logger().Debug("connection refused", "port", c.d.Port, "err", err)
		abort(c.client.conn) // as though nobody listened
		return
	}
	c.splice(ctx, up, nil, nil)
}

// splice gives up reading: the rest of the connection belongs to up. sending, if
// not nil, yields when the client's bytes may be taken.
func (c *conn) splice(ctx context.Context, up *upstream, mirror io.Writer, sending <-chan error) {
	if up.lease == nil {
		c.d.enter(c)
		defer c.d.leave(c)
	}
	splice(ctx, &c.client, &up.source, mirror, sending)
}

// followHTTP2 splices an HTTP/2 connection to the app, and tells the client to go
// on with a new one when there are rules. If there are some already, it returns false and
// has passed on nothing.
func (c *conn) followHTTP2(ctx context.Context) bool {
	c.d.asks(1) // before it is decided, and until the client has taken the hint
	defer c.d.asks(-1)
	if c.d.steers() {
		return false
	}
	up, err := c.dialApp(ctx)
	switch {
	case c.d.steers(): // it may have taken a while
		if err == nil {
			c.forget(up)
		}
		return false
	case err != nil:
		abort(c.client.conn)
		return true
	}
	f := &farewell{Conn: c.client.conn}
	c.client.settle()
	c.client.conn = f
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c.d.firstRule():
			f.goAway()
		case <-f.closed():
		}
	}()
	c.splice(ctx, up, nil, nil)
	f.Close()
	<-done
	return true
}

// marker is the header that says who answered instead of a laptop.
const marker = "bight-intercept"

// marked puts the marker into the head of an answer.
func marked(head []byte, note string) []byte {
	if note == "" {
		return head
	}
	return withField(head, marker, note)
}

// withField puts a field into a head, before the others.
func withField(head []byte, name, value string) []byte {
	i := firstLine(head)
	return slices.Concat(head[:i], []byte(name+": "+value+"\r\n"), head[i:])
}

// note is what the marker says, in one line of ASCII.
func note(who, why string) string {
	b := bytes.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, []byte(why))
	return who + "; reason=" + string(b[:min(len(b), 512)])
}
