package propagate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/bightdev/bight/internal/bridge/splice"
	"github.com/bightdev/bight/internal/steer"
)

const (
	trace1 = "4bf92f3577b34da6a3ce929d0e0e4736"
	trace2 = "0af7651916cd43dd8448eb211c80319c"
)

func TestKeyOf(t *testing.T) {
	exact := func(name, value string) steer.HeaderMatch { return steer.HeaderMatch{Name: name, Value: value} }
	begins := func(name, value string) steer.HeaderMatch {
		return steer.HeaderMatch{Name: name, Value: value, Prefix: true}
	}
	tests := []struct {
		name    string
		headers []steer.HeaderMatch
		want    Key
		ok      bool
	}{
		{"NoHeader", nil, Key{}, false},
		{"Exact", []steer.HeaderMatch{exact("X-Dev", "ada")}, Key{"x-dev", "ada"}, true},
		{"Beginning", []steer.HeaderMatch{begins("x-dev", "a")}, Key{"x-dev", ""}, true},
		{"ExactBeforeBeginning", []steer.HeaderMatch{begins("x-dev", "a"), exact("x-team", "b")}, Key{"x-team", "b"}, true},
		{"Host", []steer.HeaderMatch{exact("host", "a")}, Key{}, false},
		{"OfTheMessage", []steer.HeaderMatch{exact("content-type", "a"), exact("authorization", "b"), exact("x-dev", "c")}, Key{"x-dev", "c"}, true},
	}
	for _, test := range tests {
		got, ok := KeyOf(steer.Match{Headers: test.headers})
		if got != test.want || ok != test.ok {
			t.Errorf("%s: %+v, %v; want %+v, %v", test.name, got, ok, test.want, test.ok)
		}
	}
}

func TestTraces(t *testing.T) {
	tests := []struct {
		header, value string
		want          []string
	}{
		{"traceparent", "00-" + trace1 + "-00f067aa0ba902b7-01", []string{trace1}},
		{"traceparent", "00-" + strings.ToUpper(trace1) + "-00f067aa0ba902b7-01", []string{trace1}},
		{"traceparent", "cc-" + trace1 + "-00f067aa0ba902b7-01-more", []string{trace1}},
		{"traceparent", "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", nil},
		{"traceparent", "00-" + trace1[1:] + "-00f067aa0ba902b7-01", nil},
		{"traceparent", "", nil},
		{"b3", trace1 + "-00f067aa0ba902b7-1", []string{trace1}},
		{"b3", "a3ce929d0e0e4736-00f067aa0ba902b7", []string{"0000000000000000a3ce929d0e0e4736"}},
		{"b3", "0", nil},
		{"x-b3-traceid", "a3ce929d0e0e4736", []string{"0000000000000000a3ce929d0e0e4736"}},
		{"x-b3-traceid", "xyz", nil},
	}
	for _, test := range tests {
		got := Traces(func(name string) (string, bool) { return test.value, name == test.header })
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s: %s", test.header, test.value, diff)
		}
	}
}

func TestCauses(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(trace ...string) []string { return trace }
	tests := []struct {
		name  string
		under func(*causes)
		of    []string
		want  string
	}{
		{"Nothing", func(*causes) {}, nil, ""},
		{"UnderWay", func(c *causes) { c.begin("ada", nil) }, nil, "ada"},
		{"UnderWayInATrace", func(c *causes) { c.begin("ada", in(trace1)) }, nil, "ada"},
		{"ItsTrace", func(c *causes) { c.begin("ada", in(trace1)) }, in(trace1), "ada"},
		{"AnotherTrace", func(c *causes) { c.begin("ada", in(trace1)) }, in(trace2), ""},
		{"ATraceOfTheCommand", func(c *causes) { c.begin("ada", nil) }, in(trace2), "ada"},
		{"OneOfItsTraces", func(c *causes) { c.begin("ada", in(trace1)) }, in(trace2, trace1), "ada"},
		{"Ended", func(c *causes) { c.end(c.begin("ada", nil), now) }, nil, ""},
		{"EndedInATrace", func(c *causes) { c.end(c.begin("ada", in(trace1)), now.Add(-4*time.Second)) }, in(trace1), "ada"},
		{"EndedInATraceWithoutOne", func(c *causes) { c.end(c.begin("ada", in(trace1)), now) }, nil, ""},
		{"EndedLongAgo", func(c *causes) { c.end(c.begin("ada", in(trace1)), now.Add(-6*time.Second)) }, in(trace1), ""},
		{"TwoOfOneValue", func(c *causes) { c.begin("ada", nil); c.begin("ada", nil) }, nil, "ada"},
		{"TwoValues", func(c *causes) { c.begin("ada", nil); c.begin("adam", nil) }, nil, ""},
		{"TwoValuesInTraces", func(c *causes) { c.begin("ada", in(trace1)); c.begin("adam", in(trace2)) }, in(trace2), "adam"},
		{"ManyEnded", func(c *causes) {
			for range 3 * maxAnswered {
				c.end(c.begin("ada", in(trace2)), now)
			}
			c.end(c.begin("eve", in(trace1)), now)
			if len(c.answered) > maxAnswered {
				panic("more are known than may be")
			}
		}, in(trace1), "eve"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var c causes
			test.under(&c)
			got, ok := c.of(test.of, now)
			if got != test.want || ok != (test.want != "") {
				t.Errorf("%q, %v, want %q", got, ok, test.want)
			}
		})
	}
}

func TestAnswersEndRequests(t *testing.T) {
	tests := []struct {
		name    string
		methods []string
		say     string
		want    []uint32
	}{
		{"Length", []string{"GET"}, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", []uint32{1}},
		{"NotYet", []string{"GET"}, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", nil},
		{"Head", []string{"HEAD", "GET"}, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP/1.1 204 No\r\n\r\n", []uint32{1, 2}},
		{"Continue", []string{"POST"}, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []uint32{1}},
		{"Upgrade", []string{"GET"}, "HTTP/1.1 101 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", nil},
		{"UntilTheEnd", []string{"GET"}, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", nil},
		{"Unasked", nil, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", nil},
		{"NotHTTP", []string{"GET"}, "hello\r\n\r\n\r\n", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, piece := range []int{1, 1000} {
				var got []uint32
				a := &answers{ended: func(n uint32) { got = append(got, n) }}
				for i, m := range test.methods {
					a.expect(request{stream: uint32(i + 1), method: m})
				}
				for rest := test.say; rest != ""; {
					n := min(piece, len(rest))
					a.take([]byte(rest[:n]))
					rest = rest[n:]
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("in pieces of %d: %s", piece, diff)
				}
			}
		})
	}
}

// rig is a command between those who call it and those whom it calls, as bight run
// has it: both kinds of connection are joined to the Propagator's.
type rig struct {
	t *testing.T
	p *Propagator
}

func newRig(t *testing.T, key Key) *rig {
	return &rig{t, &Propagator{Key: key, Inside: func(netip.AddrPort) bool { return true }}}
}

// relay listens for connections that are joined to those which reach returns.
func (r *rig) relay(reach func() (net.Conn, error)) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			to, err := reach()
			if err != nil {
				_ = nc.Close()
				continue
			}
			work.Go(func() { splice.Conns(ctx, nc, to) })
		}
	})
	r.t.Cleanup(func() { cancel(); _ = ln.Close(); work.Wait() })
	return ln.Addr().String()
}

// calling is where the command finds the server at an address.
func (r *rig) calling(address string) string {
	return r.relay(func() (net.Conn, error) {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		return r.p.Calling(nc, netip.MustParseAddrPort(address)), nil
	})
}

// serving is where others find the command's server at an address.
func (r *rig) serving(address string, kind steer.Kind) string {
	return r.relay(func() (net.Conn, error) {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		return r.p.Serving(nc, kind), nil
	})
}

func protocols(two bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(!two)
	p.SetUnencryptedHTTP2(two)
	return p
}

func (r *rig) serve(two bool, h http.HandlerFunc) (address string) {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = protocols(two)
	s.Start()
	r.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func (r *rig) client(two bool) *http.Client {
	t := &http.Transport{Protocols: protocols(two)}
	r.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// get asks for a path; headers are name and value in turn.
func (r *rig) get(c *http.Client, method, url, body string, headers ...string) string {
	r.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Error(err)
	}
	return string(answer)
}

func TestARequestCarriesTheHeaderOfItsCause(t *testing.T) {
	for _, two := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP2=%v", two), func(t *testing.T) {
			r := newRig(t, Key{"x-dev", "ada"})
			shelf := r.calling(r.serve(two, func(w http.ResponseWriter, q *http.Request) {
				body, _ := io.ReadAll(q.Body) // what is missing shows
				fmt.Fprintf(w, "%s %q %s", q.Method, q.Header["X-Dev"], body)
			}))
			caller := r.client(two)
			kind := map[bool]steer.Kind{false: steer.KindHTTP1, true: steer.KindHTTP2}[two]
			command := r.serving(r.serve(two, func(w http.ResponseWriter, q *http.Request) {
				var pass []string
				for _, name := range []string{"X-Dev", "Traceparent"} {
					if v := q.Header.Get("Send-" + name); v != "" {
						pass = append(pass, name, v)
					}
				}
				body, _ := io.ReadAll(q.Body)
				fmt.Fprint(w, r.get(caller, "PUT", "http://"+shelf+"/", string(body), pass...))
			}), kind)
			asker := r.client(two)
			large := strings.Repeat("0123456789", 50_000)
			tests := []struct {
				name, body, want string
				headers          []string
			}{
				{"Plain", "", `PUT ["ada"] `, nil},
				{"Body", "hello", `PUT ["ada"] hello`, nil},
				{"LargeBody", large, `PUT ["ada"] ` + large, nil},
				{"HasItAlready", "", `PUT ["bob"] `, []string{"Send-X-Dev", "bob"}},
				{"SameTrace", "", `PUT ["ada"] `, []string{"Traceparent", "00-" + trace1 + "-00f067aa0ba902b7-01", "Send-Traceparent", "00-" + trace1 + "-00f067aa0ba902b8-01"}},
				{"OtherTrace", "", `PUT [] `, []string{"Traceparent", "00-" + trace1 + "-00f067aa0ba902b7-01", "Send-Traceparent", "00-" + trace2 + "-00f067aa0ba902b8-01"}},
			}
			for _, test := range tests {
				for range 3 { // the connections stay
					got := r.get(asker, "POST", "http://"+command+"/", test.body, append(test.headers, "X-Dev", "ada")...)
					if got != test.want {
						t.Errorf("%s: %.60q, want %.60q", test.name, got, test.want)
					}
				}
			}
			if got := r.get(caller, "GET", "http://"+shelf+"/", ""); got != "GET [] " {
				t.Errorf("a request that nothing has caused: %q", got)
			}
		})
	}
}

func TestTheValueIsThatOfTheRequestWhenTheRuleHasOnlyItsBeginning(t *testing.T) {
	r := newRig(t, Key{Name: "x-dev"})
	shelf := r.calling(r.serve(false, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Header.Get("X-Dev")) }))
	caller := r.client(false)
	command := r.serving(r.serve(false, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, r.get(caller, "GET", "http://"+shelf+"/", ""))
	}), steer.KindHTTP1)
	for _, who := range []string{"ada", "adam"} {
		if got := r.get(r.client(false), "GET", "http://"+command+"/", "", "X-Dev", who); got != who {
			t.Errorf("%q, want %q", got, who)
		}
	}
}

// book answers with what it was told in the metadata, and asks the next one first.
type book struct {
	health.Server
	next *grpc.ClientConn
	got  chan []string
}

func (b *book) Check(ctx context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	b.got <- md.Get("x-dev")
	if b.next != nil {
		return healthpb.NewHealthClient(b.next).Check(ctx, in)
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (r *rig) grpc(b *book) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, b)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	r.t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

func (r *rig) dial(address string) *grpc.ClientConn {
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestGRPC(t *testing.T) {
	r := newRig(t, Key{"x-dev", "ada"})
	shelf := &book{got: make(chan []string, 1)}
	command := &book{got: make(chan []string, 1), next: r.dial(r.calling(r.grpc(shelf)))}
	c := healthpb.NewHealthClient(r.dial(r.serving(r.grpc(command), steer.KindHTTP2)))
	for i := range 20 { // the tables of the compression are in use
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		ctx = metadata.AppendToOutgoingContext(ctx, "x-dev", "ada", "x-n", fmt.Sprint(i))
		if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		cancel()
		for who, b := range map[string]*book{"command": command, "shelf": shelf} {
			if diff := cmp.Diff([]string{"ada"}, <-b.got); diff != "" {
				t.Errorf("%s: %s", who, diff)
			}
		}
	}
	if _, err := healthpb.NewHealthClient(command.next).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := <-shelf.got; len(got) > 0 {
		t.Errorf("a call that nothing has caused has %q", got)
	}
}

func TestAWebSocketIsUnderWayUntilItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Propagator{Key: Key{"x-dev", "ada"}}
		near, far := net.Pipe()
		go func() {
			_, _ = io.ReadFull(far, make([]byte, len("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x81\x02hi")))
			_, _ = io.WriteString(far, "HTTP/1.1 101 Switching\r\n\r\n\x81\x02hi")
			_ = far.Close()
		}()
		c := p.Serving(near, steer.KindHTTP1)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x81\x02hi"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		if _, ok := p.causes.of(nil, time.Now()); !ok {
			t.Error("it is not under way")
		}
		if _, err := c.Read(buf); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, ok := p.causes.of(nil, time.Now()); ok {
			t.Error("it is under way after its end")
		}
	})
}

func TestConnectionsOutOfTheClusterAreNotTouched(t *testing.T) {
	p := &Propagator{Key: Key{"x-dev", "ada"}, Inside: func(a netip.AddrPort) bool { return a.Addr().IsPrivate() }}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if got := p.Calling(near, netip.MustParseAddrPort("93.184.215.14:80")); got != near {
		t.Errorf("%T stands for the connection", got)
	}
	if got := p.Calling(near, netip.MustParseAddrPort("10.0.0.1:80")); got == near {
		t.Error("a connection in the cluster is not read")
	}
	if got := p.Serving(near, steer.KindRaw); got != near {
		t.Errorf("%T stands for a raw connection", got)
	}
}

// A connection whose first bytes are no request costs a look at a flag.
func BenchmarkUnread(b *testing.B) {
	p := &Propagator{Key: Key{"x-dev", "ada"}, Inside: func(netip.AddrPort) bool { return true }}
	c := p.Calling(nowhere{}, netip.AddrPort{})
	text := append([]byte("\x16\x03\x01"), make([]byte, 64<<10)...)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := c.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}

// What a small request costs that gets the header.
func BenchmarkRequest(b *testing.B) {
	p := &Propagator{Key: Key{"x-dev", "ada"}, Inside: func(netip.AddrPort) bool { return true }}
	p.causes.begin("ada", nil)
	c := p.Calling(nowhere{}, netip.AddrPort{})
	text := []byte("GET /shelf HTTP/1.1\r\nHost: back:8080\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n")
	for b.Loop() {
		if _, err := c.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}

type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
