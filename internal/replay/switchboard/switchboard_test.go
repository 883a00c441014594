package switchboard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay/calls"
)

// service is what commands call in these tests. It counts how often it is asked.
type service struct {
	*httptest.Server
	asked atomic.Int32
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/call":
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			fmt.Fprintf(w, "answer to %s", body)
			w.Header().Set("Grpc-Status", "0")
		case "/long":
			fmt.Fprint(w, strings.Repeat("x", calls.MostBody+1))
		case "/broken":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "half")
		case "/upgrade":
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.Copy(conn, rw)
		default:
			w.Header().Set("X-Number", fmt.Sprint(n))
			w.Header().Set("X-Encoding", r.Header.Get("Accept-Encoding"))
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintf(w, "%s %s %s %d", r.Method, r.RequestURI, body, n)
		}
	}))
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	s.Config.Protocols = &both
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// dial connects to the service, whatever it is called.
func (s *service) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", s.Listener.Addr().String())
}

// command is a client that has nothing but a board for a network.
func command(t *testing.T, b *Board, http2 bool, live func(context.Context) (net.Conn, error)) *http.Client {
	t.Helper()
	var one http.Protocols
	one.SetHTTP1(!http2)
	one.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{
		Protocols: &one, DisableCompression: true,
		DialContext: func(ctx context.Context, _, to string) (net.Conn, error) { return b.Connect(ctx, to, live) },
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func log() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ask asks, and returns what came, or "broken".
func ask(t *testing.T, c *http.Client, method, target, body string, headers ...string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://stock:7000"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		return "broken"
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "broken"
	}
	out := fmt.Sprintf("%d %s", resp.StatusCode, text)
	for _, name := range []string{"X-Number", "X-Encoding", "Grpc-Status", "Grpc-Message"} {
		if v := resp.Header.Get(name) + resp.Trailer.Get(name); v != "" {
			out += " " + name + "=" + v
		}
	}
	return out
}

func TestWhatWasRecordedIsAnswered(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP2=%v", http2), func(t *testing.T) {
			s := newService(t)
			asks := func(c *http.Client, b *Board) (out []string) {
				out = append(out, ask(t, c, "GET", "/start?a=1;b=%zz", ""))
				for _, id := range []string{"a/1", "a/2"} {
					b.Begin(&evidence.Pair{ID: id})
					out = append(out,
						ask(t, c, "GET", "/x", "", "Accept-Encoding", "br"), ask(t, c, "GET", "/x", ""),
						ask(t, c, "POST", "/x", id), ask(t, c, "HEAD", "/x", ""),
						ask(t, c, "POST", "/call", id, "Content-Type", "application/grpc"))
					if lacks, _ := b.End(); len(lacks) > 0 {
						t.Errorf("of %s, these have no answer: %q", id, lacks)
					}
				}
				return out
			}
			rec := Record(t.Context(), "shop", evidence.Rules{}, log())
			defer rec.Close()
			want := asks(command(t, rec, http2, s.dial), rec)
			if text := strings.Join(want, "\n"); !strings.Contains(text, "GET /start?a=1;b=%zz  1") || !strings.Contains(text, "X-Encoding=identity") ||
				!strings.Contains(text, "200 answer to a/2 Grpc-Status=0") {
				t.Fatalf("the service has answered\n%s", text)
			}
			rec.Settle(t.Context())
			r, dropped := rec.Recording("cart-7")
			if lacking := r.Lacking(); len(lacking) > 0 || dropped > 0 || len(r.Calls) != len(want) || r.Calls[0].For != "" || r.Calls[1].For != "a/1" {
				t.Fatalf("of %d calls, %d were recorded, without an answer %q:\n%+v", len(want), len(r.Calls), lacking, r.Calls)
			}
			text, err := r.Write()
			if err != nil {
				t.Fatal(err)
			}
			if r, err = calls.Read(text); err != nil {
				t.Fatal(err)
			}
			asked := s.asked.Load()
			for _, live := range []func(context.Context) (net.Conn, error){nil, s.dial, func(context.Context) (net.Conn, error) { return nil, errors.New("it is gone") }} {
				b := Answer(t.Context(), r, log())
				defer b.Close()
				if diff := cmp.Diff(want, asks(command(t, b, http2, live), b)); diff != "" {
					t.Errorf("(-live +recorded):\n%s", diff)
				}
			}
			if n := s.asked.Load(); n != asked {
				t.Errorf("the service was asked %d times more", n-asked)
			}
		})
	}
}

func TestWhatTheRecordingLacksIsTold(t *testing.T) {
	r := &calls.Recording{Format: 1, Calls: []calls.Call{{Method: "GET", URL: "http://stock:7000/known", Answer: &calls.Answer{Status: 200}}}}
	for _, http2 := range []bool{false, true} {
		b := Answer(t.Context(), r, log())
		defer b.Close()
		c := command(t, b, http2, nil)
		b.Begin(&evidence.Pair{ID: "a/1", Request: evidence.Request{Header: map[string][]string{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}}})
		const text = "bight: the recording has no answer for "
		if got := ask(t, c, "GET", "/x", ""); got != "502 "+text+"GET http://stock:7000/x\n" {
			t.Errorf("an unknown one is answered %q", got)
		}
		if got := ask(t, c, "POST", "/call", "x", "Content-Type", "application/grpc"); got != "200  Grpc-Status=14 Grpc-Message="+text+"POST http:%2F%2Fstock:7000%2Fcall" {
			t.Errorf("an unknown call is answered %q", got)
		}
		b.End()
		b.Begin(&evidence.Pair{ID: "a/2"})
		ask(t, c, "GET", "/late", "", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01")
		if lacks, _ := b.End(); len(lacks) > 0 {
			t.Errorf("another request lacks %q", lacks)
		}
		var got []string
		for _, m := range b.Misses() {
			got = append(got, m.Text())
		}
		const none = "the recording has no answer for "
		want := []string{none + "GET http://stock:7000/x", none + "POST http://stock:7000/call", none + "GET http://stock:7000/late"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestWhatCanNotBeRecorded(t *testing.T) {
	s := newService(t)
	b := Record(t.Context(), "", evidence.Rules{}, log())
	defer b.Close()
	c := command(t, b, false, s.dial)
	if got := ask(t, c, "GET", "/long", ""); len(got) != len("200 ")+calls.MostBody+1 {
		t.Errorf("the long answer has %d bytes", len(got))
	}
	if got := ask(t, c, "GET", "/broken", ""); got != "broken" {
		t.Errorf("a broken answer is %q", got)
	}
	conn, err := b.Connect(t.Context(), "stock:7000", s.dial)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /upgrade HTTP/1.1\r\nHost: stock\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%+v, %v", resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); line != "hello\n" {
		t.Errorf("the other protocol says %q, %v", line, err)
	}
	r, _ := b.Recording("cart-7")
	want := []string{
		"GET http://stock:7000/long: its answer is longer than 1 MiB",
		"GET http://stock:7000/broken: its answer broke off",
		"GET http://stock:7000/upgrade: it goes on in another protocol",
	}
	if diff := cmp.Diff(want, r.Lacking()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := b.Connect(t.Context(), "gone:1", func(context.Context) (net.Conn, error) { return nil, net.ErrClosed }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("to where nothing is: %v", err)
	}
}

// A connection on which nobody has asked anything ends with that of the command.
func TestTheRealConnectionEndsWithTheOther(t *testing.T) {
	service, theirs := net.Pipe()
	b := Record(t.Context(), "", evidence.Rules{}, log())
	conn, err := b.Connect(t.Context(), "stock:7000", func(context.Context) (net.Conn, error) { return theirs, nil })
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\n\r\n") // without a host, it is no call
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 400 {
		t.Fatalf("%+v, %v", resp, err)
	}
	_ = conn.Close()
	_ = service.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := service.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the service sees %v", err)
	}
	b.Close()
}

// A board that closes does not wait for a service that says nothing.
func TestCloseEndsWhatIsSilent(t *testing.T) {
	service, theirs := net.Pipe()
	defer service.Close()
	b := Record(t.Context(), "", evidence.Rules{}, log())
	b.hear(theirs, some)
	closed := make(chan struct{})
	go func() {
		b.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("it has not closed")
	}
}

func TestErrorsAreKeptWithoutSecrets(t *testing.T) {
	service, theirs := net.Pipe()
	defer service.Close()
	b := Record(t.Context(), "", evidence.Rules{}, log())
	defer b.Close()
	go func() {
		_, _ = http.ReadRequest(bufio.NewReader(service))
		fmt.Fprintf(service, "HTTP/1.1 200 OK\r\nghp_abcdefghijklmnopqrstuvwxyz0123 %s\r\n\r\n", strings.Repeat("x", 2*mostError))
	}()
	c := command(t, b, false, func(context.Context) (net.Conn, error) { return theirs, nil })
	if got := ask(t, c, "GET", "/x", ""); got != "broken" {
		t.Errorf("it is answered %q", got)
	}
	b.Settle(t.Context())
	r, _ := b.Recording("cart-7")
	if len(r.Calls) != 1 || !strings.Contains(r.Calls[0].Lacks, "it was not answered: ") || !strings.Contains(r.Calls[0].Lacks, evidence.Hidden) ||
		strings.Contains(r.Calls[0].Lacks, "ghp_") || len(r.Calls[0].Lacks) > 2*mostError {
		t.Errorf("recorded is %+v", r.Calls)
	}
}

// talker is a server of another protocol: it greets, if it has something to say, and says
// all that it is told in capitals, until it is told no more.
func talker(t *testing.T, greeting string) func(context.Context) (net.Conn, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprint(conn, greeting)
				all, _ := io.ReadAll(conn)
				fmt.Fprint(conn, strings.ToUpper(string(all)))
			}()
		}
	}()
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}
}

func TestWhatIsNoHTTPIsPassedOn(t *testing.T) {
	r := &calls.Recording{Calls: []calls.Call{{Method: "GET", URL: "http://stock:7000/", Answer: &calls.Answer{Status: 200}}}}
	for name, b := range map[string]*Board{"Record": Record(t.Context(), "", evidence.Rules{}, log()), "Answer": Answer(t.Context(), r, log())} {
		for _, greeting := range []string{"", "220 hello\n"} {
			t.Run(name+strings.TrimSpace(greeting), func(t *testing.T) {
				conn, err := b.Connect(t.Context(), "db:5432", talker(t, greeting))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				got := make([]byte, len(greeting))
				if _, err := io.ReadFull(conn, got); err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(conn, "\x00select ")
				fmt.Fprint(conn, "all")
				if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				rest, err := io.ReadAll(conn)
				if text := string(got) + string(rest); text != greeting+"\x00SELECT ALL" || err != nil {
					t.Errorf("it says %q, %v", text, err)
				}
				if diff := cmp.Diff([]string{"db:5432"}, b.Other()); diff != "" || len(b.Misses()) > 0 {
					t.Errorf("%s, misses %v", diff, b.Misses())
				}
			})
		}
		b.Close()
	}
}

func TestWhatIsNoHTTPIsRefusedAlone(t *testing.T) {
	b := Answer(t.Context(), &calls.Recording{}, log())
	defer b.Close()
	for _, said := range []string{"\x16\x03\x01", ""} {
		conn, err := b.Connect(t.Context(), "db:5432", nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, said)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, errReset) {
			t.Errorf("after %q: %v, want a reset", said, err)
		}
		_ = conn.Close()
	}
	// Who only looks whether somebody is there asks nothing.
	conn, err := b.Connect(t.Context(), "db:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	var got []string
	for _, m := range b.Misses() {
		got = append(got, m.Text())
	}
	want := []string{
		"the recording has no answer for a connection to db:5432: it is no HTTP, and the command is alone",
		"the recording has no answer for a connection to db:5432: nobody says anything on it, so it is no HTTP, and the command is alone",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A client may connect to have a connection, and say later what it wants.
func TestAClientMayBeSilentAtFirst(t *testing.T) {
	s := newService(t)
	r := &calls.Recording{Calls: []calls.Call{{Method: "GET", URL: "http://stock:7000/x", Answer: &calls.Answer{Status: 200, Body: []byte("recorded")}}}}
	for _, to := range []string{"stock:7000", "10.43.1.2:7000"} {
		b := Answer(t.Context(), r, log())
		dialed := make(chan bool, 1)
		conn, err := b.Connect(t.Context(), to, func(ctx context.Context) (net.Conn, error) {
			defer func() { dialed <- true }()
			return s.dial(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		if to != "stock:7000" {
			<-dialed // since it was silent
		}
		fmt.Fprint(conn, "GET /x HTTP/1.1\r\nHost: stock:7000\r\nConnection: close\r\n\r\n")
		if all, err := io.ReadAll(conn); !strings.HasSuffix(string(all), "recorded") || err != nil {
			t.Errorf("to %s: %q, %v", to, all, err)
		}
		_ = conn.Close()
		b.Close()
		if n := s.asked.Load(); n > 0 {
			t.Errorf("to %s: the service was asked %d times", to, n)
		}
	}
}
