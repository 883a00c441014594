package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients of the pod that never pause: some keep a connection for all
// their requests, some stream, some make a connection for each.
type load struct {
	t     *testing.T
	n     network
	kept  atomic.Int64 // requests
	fresh atomic.Int64 // connections made for one request
	lines atomic.Int64 // of streams
	fails atomic.Int64
	doors atomic.Int64 // fresh connections that the door has served
}

const linesOfStream = 40

// web serves requests: "/stream" with lines that come one by one, as fast as the
// client asks for them, anything else with who it is.
func web(t *testing.T, ln net.Listener, who string) {
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			fmt.Fprint(w, who)
			return
		}
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusOK)
		_ = c.Flush() // the client waits for this before its first line
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, line) // the client counts lines
			_ = c.Flush()
		}
	})}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(ln) }) // until closed
	t.Cleanup(func() { s.Close(); done.Wait() })
}

// start starts the clients; stop ends and awaits them.
func (l *load) start() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var clients sync.WaitGroup
	run := func(keep bool, request func(context.Context, *http.Client) error, served *atomic.Int64) {
		transport := &http.Transport{
			DisableKeepAlives: !keep,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				return l.n.client.Dial(ctx, "tcp", netip.MustParseAddrPort(address))
			},
		}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		for ctx.Err() == nil {
			// What is begun is finished: an end of the test is no failure.
			if err := request(l.t.Context(), client); err != nil {
				l.fails.Add(1)
				l.t.Errorf("keep-alive %v: %v", keep, err)
				return
			}
			served.Add(1)
		}
	}
	for range 2 {
		clients.Go(func() { run(true, l.get, &l.kept) })
		clients.Go(func() { run(false, l.get, &l.fresh) })
		clients.Go(func() { run(true, l.stream, &l.lines) })
	}
	return func() { cancel(); clients.Wait() }
}

func (l *load) get(ctx context.Context, c *http.Client) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://10.77.0.2:8080/", nil)
	if err != nil {
		return err
	}
	answer, err := c.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && string(body) == "door" && c.Transport.(*http.Transport).DisableKeepAlives {
		l.doors.Add(1)
	}
	return err
}

// stream sends lines and reads each before it sends the next.
func (l *load) stream(ctx context.Context, c *http.Client) error {
	out, in := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://10.77.0.2:8080/stream", out)
	if err != nil {
		return err
	}
	answer, err := c.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := bufio.NewReader(answer.Body)
	for i := range linesOfStream {
		if _, err := fmt.Fprintf(in, "%d\n", i); err != nil {
			return err
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
		if line != fmt.Sprintf("%d\n", i) {
			return fmt.Errorf("line %d: got %q", i, line)
		}
	}
	if err := in.Close(); err != nil {
		return err
	}
	if _, err := lines.ReadByte(); err != io.EOF {
		return fmt.Errorf("after the last line: got %v, want EOF", err)
	}
	return nil
}

// until waits for count to have grown by n.
func (l *load) until(count *atomic.Int64, n int64) {
	l.t.Helper()
	want := count.Load() + n
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for count.Load() < want && l.fails.Load() == 0 {
		select {
		case <-tick.C:
		case <-deadline:
			l.t.Fatalf("got %d of %d requests in 20 s", n-want+count.Load(), n)
		}
	}
}

func (l *load) report(begun time.Time) {
	took := time.Since(begun).Seconds()
	l.t.Logf("%d connections (%.0f/s, %d by the door), %d requests on kept connections, %d streams of %d lines, in %.1f s: %d errors",
		l.fresh.Load(), float64(l.fresh.Load())/took, l.doors.Load(), l.kept.Load(), l.lines.Load(), linesOfStream, took, l.fails.Load())
}

func TestEngagingUnderLoadFailsNothing(t *testing.T) {
	n := newNetwork(t)
	app, err := n.pod.Listen(t.Context(), "tcp", ":8080")
	must(t, err)
	web(t, app, "app")
	d, err := OpenDoor(t.Context(), n.pod, Options{})
	must(t, err)
	defer d.Close()
	web(t, d, "door")

	l := &load{t: t, n: n}
	stop := l.start()
	defer stop()
	begun := time.Now()
	var on, off []time.Duration
	for range 100 {
		l.until(&l.fresh, 10)
		at := time.Now()
		must(t, d.Engage(t.Context(), appPort))
		on = append(on, time.Since(at))
		l.until(&l.doors, 10)
		at = time.Now()
		must(t, d.Disengage(t.Context()))
		off = append(off, time.Since(at))
	}
	stop()
	l.report(begun)
	slices.Sort(on)
	slices.Sort(off)
	t.Logf("engage: median %v, most %v; disengage: median %v, most %v", on[50], on[99], off[50], off[99])
}

func TestShuttingDownUnderLoadFailsNothing(t *testing.T) {
	n := newNetwork(t)
	app, err := n.pod.Listen(t.Context(), "tcp", ":8080")
	must(t, err)
	web(t, app, "app")
	l := &load{t: t, n: n}
	stop := l.start()
	defer stop()
	begun := time.Now()
	for range 10 {
		d, err := OpenDoor(t.Context(), n.pod, Options{Linger: 100 * time.Millisecond})
		must(t, err)
		web(t, d, "door")
		must(t, d.Engage(t.Context(), appPort))
		l.until(&l.doors, 20)
		must(t, d.Shutdown(t.Context()))
	}
	stop()
	l.report(begun)
}

// TestReplacingLeftoversFailsNothing replaces what a killed process left, as a
// node agent does after it was started anew.
func TestReplacingLeftoversFailsNothing(t *testing.T) {
	n := newNetwork(t)
	app, err := n.pod.Listen(t.Context(), "tcp", ":8080")
	must(t, err)
	web(t, app, "app")
	l := &load{t: t, n: n}
	stop := l.start()
	defer stop()
	begun := time.Now()
	for range 20 {
		// What an old kernel keeps when a process is killed: rules to a door that
		// nobody listens at.
		left, err := openTable(n.pod, 0)
		must(t, err)
		must(t, left.set(plan{
			addrs: []netip.Addr{v4().pod}, ports: []uint16{appPort},
			doors: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.66:9")},
		}.rules()))
		must(t, left.conn.CloseLasting())
		l.until(&l.fresh, 10)

		d, err := OpenDoor(t.Context(), n.pod, Options{Linger: 50 * time.Millisecond})
		must(t, err)
		web(t, d, "door")
		must(t, d.Engage(t.Context(), appPort))
		l.until(&l.doors, 10)
		must(t, d.Shutdown(t.Context()))
	}
	stop()
	l.report(begun)
}
