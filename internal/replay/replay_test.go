package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/release/evidence"
)

func answer(status int, body string, header ...string) *evidence.Answer {
	a := &evidence.Answer{Status: status, Header: map[string][]string{}, Body: evidence.Body{Bytes: []byte(body)}}
	for i := 0; i < len(header); i += 2 {
		a.Header[header[i]] = []string{header[i+1]}
	}
	return a
}

func call(status string) *evidence.Answer {
	a := answer(200, "", "Content-Type", "application/grpc")
	a.Trailer = map[string][]string{"Grpc-Status": {status}}
	return a
}

func TestWhatPasses(t *testing.T) {
	failed := func(stable ...*evidence.Answer) *evidence.Pair {
		p := &evidence.Pair{Class: evidence.Failed, Version: "canary", Answer: answer(500, "no"), Request: evidence.Request{Method: "GET", Target: "/"}}
		for _, a := range stable {
			p.Stable = append(p.Stable, *a)
		}
		return p
	}
	slow := &evidence.Pair{Class: evidence.Slow, Version: "canary", Elapsed: time.Second, Answer: answer(200, "x")}
	sample := &evidence.Pair{Class: evidence.Sample, Version: "stable", Answer: answer(404, "x")}
	tests := []struct {
		name    string
		pair    *evidence.Pair
		answer  *evidence.Answer
		elapsed time.Duration
		err     error
		strict  bool
		want    string
		differs []string
	}{
		{"as stable", failed(answer(200, "ok")), answer(200, "ok"), 0, nil, false, "passed", nil},
		{"an error still", failed(answer(200, "ok")), answer(500, "ok"), 0, nil, false, "failed: status 500, stable's is 200", nil},
		{"another answer", failed(answer(200, `{"a":1,"b":[1]}`)), answer(200, `{"a":2,"b":[]}`), 0, nil, false, "passed",
			[]string{".a: 1 → 2", ".b[0]: 1 → nothing", ".b[]: nothing → []"}},
		{"another answer, strictly", failed(answer(200, "a\nb\n")), answer(200, "a\nc\n"), 0, nil, true, "failed: the answer differs from stable's", []string{"- b", "+ c"}},
		{"what stable says anew each time", failed(answer(200, `{"a":1,"t":5}`), answer(200, `{"a":1,"t":6}`)), answer(200, `{"a":1,"t":7}`), 0, nil, true, "passed", nil},
		{"stable is unsure", failed(answer(200, ""), answer(503, "")), answer(404, ""), 0, nil, false, "passed", nil},
		{"nothing to compare with", failed(), answer(404, "x"), 0, nil, false, "passed", nil},
		{"nothing to compare with, and an error", failed(), answer(502, "x"), 0, nil, false, "failed: status 502", nil},
		{"no answer", failed(answer(200, "")), nil, 0, errors.New("there is no answer: refused"), false, "failed: there is no answer: refused", nil},
		{"a call", failed(), call("13"), 0, nil, false, "failed: gRPC status 13", nil},
		{"a call that is refused", failed(), call("5"), 0, nil, false, "passed", nil},
		{"a call as stable's", failed(call("0")), call("5"), 0, nil, false, "failed: gRPC status 5, stable's is 0", nil},
		{"as slow", slow, answer(200, "x"), 600 * time.Millisecond, nil, false, "failed: it takes 600ms; the version took 1s, and was too slow: less than half of that passes", nil},
		{"quicker", slow, answer(200, "x"), 60 * time.Millisecond, nil, false, "passed", nil},
		{"what went well", sample, answer(200, "x"), 0, nil, false, "failed: status 200, what it was is 404", nil},
		{"another type", failed(answer(200, "{}", "Content-Type", "application/json; charset=utf-8")), answer(200, "{}", "Content-Type", "text/html"), 0, nil, false, "passed",
			[]string{"Content-Type: application/json → text/html"}},
		{"what is hidden", failed(answer(200, `{"token":"[hidden]"}`)), answer(200, `{"token":"abc"}`), 0, nil, true, "passed", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Judge(tt.pair, tt.answer, tt.elapsed, tt.err, tt.strict)
			got := string(r.State)
			if r.Why != "" {
				got += ": " + r.Why
			}
			if got != tt.want {
				t.Errorf("it is %q, want %q", got, tt.want)
			}
			if diff := cmp.Diff(tt.differs, r.Differs); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestsAreSentAsTheyWere(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2 ", h2), func(t *testing.T) {
			var got []string
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got = append(got, fmt.Sprintf("%s %s %s %s %s [%s] %s", r.Proto, r.Method, r.Host, r.RequestURI, r.Header.Get("X-Tenant"), r.Header.Get("Authorization"), b))
				if r.URL.Path == "/away" {
					http.Redirect(w, r, "/else", http.StatusFound)
				}
			}))
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(true)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			p := &Player{
				Header: http.Header{"authorization": {"mine"}},
				Dial: func(ctx context.Context, port int) (net.Conn, error) {
					if port != 8080 {
						return nil, fmt.Errorf("port %d", port)
					}
					return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
				},
			}
			header := map[string][]string{"X-Tenant": {"7"}, "Authorization": {evidence.Hidden}, "Cookie": {evidence.Hidden}, "Content-Length": {"999"}}
			pairs := []*evidence.Pair{
				{ID: "1", Class: evidence.Failed, Request: evidence.Request{Method: "GET", Target: "/a?b=%20c", Host: "cart.shop", Header: header}},
				{ID: "2", Class: evidence.Failed, Request: evidence.Request{Method: "POST", Target: "/b", Body: evidence.Body{Bytes: []byte("x")}}},
				{ID: "3", Class: evidence.Failed, Request: evidence.Request{Method: "PUT", Target: "/c", Body: evidence.Body{Cut: true}}},
				{ID: "4", Class: evidence.Failed, Request: evidence.Request{Method: "GET", Target: "/away"}, Stable: []evidence.Answer{{Status: 302}}},
			}
			var told []string
			tell := func(r Result) { told = append(told, fmt.Sprint(r.ID, " ", r.State)) }
			for _, pair := range pairs {
				pair.Request.HTTP2, pair.Request.Port = h2, 8080
			}
			p.Play(t.Context(), pairs, tell)
			if diff := cmp.Diff([]string{"1 passed", "2 skipped", "3 skipped", "4 passed"}, told); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			p.All = true
			if n := Count(p.Play(t.Context(), pairs[1:3], nil)); n[Passed] != 1 || n[Skipped] != 1 {
				t.Errorf("with all: %v", n)
			}
			// With other data, what is no error passes.
			p.Errors = true
			if r := p.Play(t.Context(), []*evidence.Pair{{Class: evidence.Sample, Answer: answer(404, ""), Request: evidence.Request{Method: "GET", Target: "/away", HTTP2: h2, Port: 8080}}}, nil)[0]; r.State != Passed {
				t.Errorf("it is %+v", r)
			}
			got = got[:3]
			proto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]
			want := []string{proto + " GET cart.shop /a?b=%20c 7 [mine] ", proto + " GET program:8080 /away  [mine] ", proto + " POST program:8080 /b  [mine] x"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the program got (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAProgramThatSaysNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	to := func(addr string) *Player {
		return &Player{Patience: 50 * time.Millisecond, Dial: func(ctx context.Context, _ int) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}}
	}
	pairs := []*evidence.Pair{{Class: evidence.Failed, Request: evidence.Request{Method: "GET", Target: "/"}}}
	r := to(ln.Addr().String()).Play(t.Context(), pairs, nil)[0]
	if r.State != Failed || r.Why != "there is no answer after 50ms" {
		t.Errorf("it is %+v", r)
	}
	ln.Close()
	if r := to(ln.Addr().String()).Play(t.Context(), pairs, nil)[0]; r.State != Failed || !strings.Contains(r.Why, "refused") {
		t.Errorf("it is %+v", r)
	}
}

func TestOfABundleTheVersionsOwnCount(t *testing.T) {
	b := &evidence.Bundle{Pairs: []evidence.Pair{
		{ID: "a", Version: "canary", Class: evidence.Failed}, {ID: "b", Version: "stable", Class: evidence.Failed},
		{ID: "c", Version: "stable", Class: evidence.Sample}, {ID: "d", Version: "stable", Class: evidence.Slow},
	}}
	var got string
	for _, p := range Of(b) {
		got += p.ID
	}
	if got != "ac" {
		t.Errorf("it is %q", got)
	}
}

// knower knows of calls without an answer.
type knower struct {
	lacks, hidden map[string][]string
	now           string
}

func (k *knower) Begin(p *evidence.Pair) { k.now = p.ID }

func (k *knower) End() (lacks, hidden []string) { return k.lacks[k.now], k.hidden[k.now] }

func TestWhatLacksAnswersTellsNothing(t *testing.T) {
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/fine" {
			w.WriteHeader(500)
		}
	}))
	defer program.Close()
	var pairs []*evidence.Pair
	for _, id := range []string{"fine", "lacking", "hiding", "broken"} {
		pairs = append(pairs, &evidence.Pair{ID: id, Class: evidence.Failed, Request: evidence.Request{Method: "GET", Target: "/" + id}})
	}
	k := &knower{
		lacks:  map[string][]string{"fine": {"no answer for x"}, "lacking": {"no answer for x", "none for y"}},
		hidden: map[string][]string{"hiding": {"GET http://auth/"}},
	}
	p := &Player{Calls: k, Dial: func(ctx context.Context, _ int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", program.Listener.Addr().String())
	}}
	var got []string
	for _, r := range p.Play(t.Context(), pairs, nil) {
		got = append(got, fmt.Sprintf("%s %s: %s %q", r.ID, r.State, r.Why, r.Lacks))
	}
	want := []string{
		`fine passed:  ["no answer for x"]`,
		`lacking unclear: status 500, but no answer for x; none for y ["no answer for x" "none for y"]`,
		`hiding failed: status 500; values were hidden in what it was answered to GET http://auth/ []`,
		`broken failed: status 500 []`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
