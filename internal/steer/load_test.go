package steer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients that use a door without pause, and the answers that they got.
type load struct {
	t                          *testing.T
	url                        string
	byApp, byLaptop, exchanged atomic.Int64
	clients                    sync.WaitGroup
	end                        context.CancelFunc
	over                       context.Context
}

func newLoad(t *testing.T, addr string, client func() *http.Client) *load {
	l := &load{t: t, url: "http://" + addr}
	l.over, l.end = context.WithCancel(context.Background())
	t.Cleanup(l.stop)
	for i := range 6 {
		l.clients.Go(func() { l.until(client(), func(c *http.Client, n int) error { return l.ask(c, i, n) }) })
	}
	for i := range 2 {
		l.clients.Go(func() { l.until(client(), func(c *http.Client, _ int) error { return l.talk(c, i) }) })
	}
	return l
}

func (l *load) stop() {
	l.end()
	l.clients.Wait()
}

func (l *load) until(c *http.Client, do func(*http.Client, int) error) {
	defer c.CloseIdleConnections()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for n := 0; l.over.Err() == nil; n++ {
		if err := do(c, n); err != nil {
			l.t.Errorf("%s: %v", time.Now().Format("05.000"), err)
			return
		}
		<-pace.C
	}
}

// ask makes one request.
func (l *load) ask(c *http.Client, i, n int) error {
	sent := strings.Repeat("x", n%7*1000)
	req, err := http.NewRequest([]string{"POST", "GET", "PUT"}[n%3], l.url+"/x", io.MultiReader(strings.NewReader(sent)))
	if err != nil {
		return err
	}
	if n%2 == 0 {
		req.ContentLength = int64(len(sent))
	}
	req.Header.Set("X-User", fmt.Sprint(i%2))
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	by, rest, _ := strings.Cut(string(b), " ")
	if want := fmt.Sprintf("%s /x %d", req.Method, len(sent)); rest != want || resp.StatusCode != 200 || resp.Header.Get(marker) != "" {
		return fmt.Errorf("got %d %q, want %q; %q", resp.StatusCode, b, want, resp.Header.Get(marker))
	}
	l.count(by)
	return nil
}

func (l *load) count(by string) {
	if by == "app" {
		l.byApp.Add(1)
	} else {
		l.byLaptop.Add(1)
	}
}

// talk has a conversation of some messages.
func (l *load) talk(c *http.Client, i int) error {
	r, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequest("POST", l.url+"/talk", r)
	if err != nil {
		return err
	}
	req.Header.Set("X-User", fmt.Sprint(i%2))
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for k := range 5 {
		fmt.Fprintf(w, "message %d\n", k)
		if s, err := lines.ReadString('\n'); err != nil || s != fmt.Sprintf("message %d\n", k) {
			return fmt.Errorf("message %d: got %q, %w", k, s, err)
		}
		l.exchanged.Add(1)
	}
	_ = w.Close()
	if _, err := io.Copy(io.Discard, lines); err != nil {
		return fmt.Errorf("end of a conversation: %w", err)
	}
	l.count(resp.Header.Get("X-Served-By"))
	return nil
}

func talking(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", named(name))
	mux.HandleFunc("/talk", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", name)
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex() // which HTTP/2 has anyway
		_ = control.Flush()
		lines := bufio.NewReader(r.Body)
		for s, err := lines.ReadString('\n'); err == nil; s, err = lines.ReadString('\n') {
			_, _ = io.WriteString(w, s)
			_ = control.Flush()
		}
	})
	return mux
}

// Nobody notices that an intercept comes and goes, 100 times, neither on kept
// connections nor in open conversations.
func TestEngageAndLeaveUnderLoad(t *testing.T) {
	kept := func() *http.Client { return &http.Client{Transport: &http.Transport{}} }
	multiplexed := func() *http.Client { return &http.Client{Transport: newTransportTo()} }
	for name, tt := range map[string]struct {
		serve  func(testing.TB, http.Handler) string
		client func() *http.Client
	}{"HTTP1": {serve, kept}, "HTTP2": {serveHTTP2, multiplexed}} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, tt.serve(t, talking("app")), follow)
			anna := newPerson(t, p, "anna")
			laptop := tt.serve(t, talking("anna"))
			l := newLoad(t, p.addr, tt.client)
			var leaving time.Duration
			began := time.Now()
			for i := range 100 {
				m := Match{}
				if i%2 == 1 {
					m = header("x-user", "0")
				}
				before := l.byLaptop.Load()
				member := anna.join(t, anna.rule(Intercept, m), to(laptop))
				eventually(t, "requests reach the laptop", func() bool { return l.byLaptop.Load() > before || t.Failed() })
				mark := time.Now()
				leave(t, member)
				leaving += time.Since(mark)
				before = l.byApp.Load()
				eventually(t, "requests reach the app", func() bool { return l.byApp.Load() > before || t.Failed() })
				if t.Failed() {
					return
				}
			}
			l.stop()
			took := time.Since(began)
			t.Logf("%d answers by the app, %d by the laptop, %d messages, %.0f a second; %v to leave", l.byApp.Load(), l.byLaptop.Load(),
				l.exchanged.Load(), float64(l.byApp.Load()+l.byLaptop.Load()+l.exchanged.Load())/took.Seconds(), leaving/100)
		})
	}
}

func newTransportTo() *http.Transport {
	t := newTransport(nil)
	t.DialContext = nil
	return t
}

// BenchmarkRequest compares a request by the door with one to the app directly:
// p50 and p99.
func BenchmarkRequest(b *testing.B) {
	app := serve(b, named("app"))
	plain, followed, ruled := newPod(b, app), newPod(b, app, follow), newPod(b, app)
	anna := newPerson(b, ruled, "anna")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m, err := anna.Join(ctx, anna.sess, anna.rule(Intercept, header("x-user", "anna")), to(serve(b, named("anna"))))
	if err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct{ name, addr, user string }{
		{"direct", app, ""}, {"spliced", plain.addr, ""}, {"followed", followed.addr, ""}, {"no match", ruled.addr, "ben"}, {"laptop", ruled.addr, "anna"},
	} {
		b.Run(way.name, func(b *testing.B) {
			c := dial(b, way.addr)
			_ = c.SetDeadline(time.Time{})
			request := []byte("GET /x HTTP/1.1\r\nHost: cart\r\nUser-Agent: bench\r\nAccept: */*\r\nX-User: " + way.user + "\r\n\r\n")
			buf := make([]byte, 4096)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				for n := 0; !bytes.HasSuffix(buf[:n], []byte("GET /x 0")); {
					k, err := c.Conn.Read(buf[n:])
					if err != nil {
						b.Fatal(err)
					}
					n += k
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
	leave(b, m)
}
