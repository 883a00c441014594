package switchboard

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/bridge/propagate"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay/calls"
	"github.com/bightdev/bight/internal/steer"
)

// wholeRequest is how long a request may take to be there whole, that is to be answered
// from a recording: one that goes on while it is answered never is.
const wholeRequest = 5 * time.Second

// serve serves HTTP on a connection of the command.
func (l *line) serve(client *heard, kind steer.Kind) {
	var h http.Handler = http.HandlerFunc(l.answer)
	end := func() {}
	if l.b.recorder != nil {
		t := l.transport(kind)
		end = func() {
			t.CloseIdleConnections()
			_ = l.live.Close() // nobody may have asked for it
		}
		h = &recording{line: l, transport: t}
	} else {
		l.drop()
	}
	var users atomic.Int32 // this function and the calls: who is the last ends what they use
	leave := func() {
		if users.Add(-1) == 0 {
			end()
		}
	}
	users.Add(1)
	defer leave()
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	ln := &only{conn: client, over: make(chan struct{})}
	server := &http.Server{
		Protocols: &both, BaseContext: func(net.Listener) context.Context { return l.b.ctx },
		ErrorLog: slog.NewLogLogger(l.b.log.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.b.serving.Add(1) // one of HTTP/2 may outlive its connection
			defer l.b.serving.Done()
			users.Add(1)
			defer leave()
			l.b.enter()
			defer l.b.leave()
			h.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				ln.end()
			}
		},
	}
	_ = server.Serve(ln) // it ends with its one connection
}

// only is a listener with one connection.
type only struct {
	conn net.Conn // nil when it was taken
	over chan struct{}
	once sync.Once
}

// Accept implements net.Listener.
func (o *only) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	<-o.over
	return nil, net.ErrClosed
}

func (o *only) end() { o.once.Do(func() { close(o.over) }) }

// Close implements net.Listener.
func (o *only) Close() error { return nil }

// Addr implements net.Listener.
func (o *only) Addr() net.Addr { return &net.UnixAddr{} }

// transport speaks what the command speaks, on the connection that there is and on more
// if that does not last.
func (l *line) transport(kind steer.Kind) *http.Transport {
	var one http.Protocols
	one.SetHTTP1(kind == steer.KindHTTP1)
	one.SetUnencryptedHTTP2(kind == steer.KindHTTP2)
	first := make(chan net.Conn, 1)
	first <- l.live
	return &http.Transport{
		Protocols: &one, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return l.dial(ctx)
			}
		},
	}
}

// request is a request as a recording has it, without its body, and the traces that it is
// part of.
func (l *line) request(r *http.Request) (q evidence.Request, traces []string) {
	q = evidence.Request{
		Method: r.Method, Target: r.URL.RequestURI(), Host: calls.Place(l.to, r.Host, l.b.namespace),
		HTTP2: r.ProtoMajor == 2, Header: r.Header.Clone(),
	}
	return q, propagate.Traces(func(name string) (string, bool) {
		v := r.Header.Values(name)
		return strings.Join(v, ", "), len(v) > 0
	})
}

// recording passes requests on, and records them.
type recording struct {
	*line
	transport *http.Transport
}

// ServeHTTP implements http.Handler.
func (c *recording) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b := c.b
	if strings.EqualFold(r.Header.Get("Upgrade"), "h2c") { // nobody has to
		r.Header.Del("Upgrade")
		r.Header.Del("Http2-Settings")
	}
	q, traces := c.request(r)
	b.mu.Lock()
	call := b.recorder.Start(q, traces)
	b.mu.Unlock()
	sent := &kept{in: r.Body, whole: r.ContentLength == 0}
	r.Body = sent
	var once sync.Once
	end := func(a *evidence.Answer, why string) {
		once.Do(func() {
			q.Body = sent.body()
			b.mu.Lock()
			defer b.mu.Unlock()
			b.recorder.Finish(call, q, a, why)
		})
	}
	defer end(nil, "it broke off")
	(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { c.rewrite(p) }, Transport: c.transport, FlushInterval: -1,
		ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode == http.StatusSwitchingProtocols {
				end(nil, "it goes on in another protocol")
				return nil
			}
			got := &kept{in: resp.Body}
			got.ended = func() {
				if !got.whole {
					end(nil, "its answer broke off")
					return
				}
				end(&evidence.Answer{Status: resp.StatusCode, Header: resp.Header.Clone(), Trailer: resp.Trailer.Clone(), Body: got.body()}, "")
			}
			resp.Body = got
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			end(nil, "it was not answered: "+brief(err))
			panic(http.ErrAbortHandler) // as it would be without us
		},
	}).ServeHTTP(w, r)
}

// mostError is how much of an error is kept.
const mostError = 200

// brief is what is kept of an error: it may quote what a service has said.
func brief(err error) string {
	text := []rune(evidence.Text(err.Error()))
	if len(text) > mostError {
		return string(text[:mostError]) + "…"
	}
	return string(text)
}

// rewrite makes of a request the same one again. Answers that are compressed can't be
// looked through for secrets, so none is asked for.
func (c *recording) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL = new(url.URL)
	*p.Out.URL = *p.In.URL
	p.Out.URL.Scheme, p.Out.URL.Host = "http", c.to
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := p.In.Header[name]; v != nil {
			p.Out.Header[name] = v
		}
	}
	if p.In.Header["Accept-Encoding"] != nil {
		p.Out.Header.Set("Accept-Encoding", "identity")
	}
	p.Out.Header.Del("Grpc-Accept-Encoding")
}

// kept keeps what is read of a body, up to a limit.
type kept struct {
	in    io.ReadCloser
	ended func() // nil, or called when it is closed

	mu    sync.Mutex
	text  []byte
	cut   bool
	whole bool // its end was seen
}

// Read implements io.Reader.
func (k *kept) Read(p []byte) (int, error) {
	n, err := k.in.Read(p)
	k.mu.Lock()
	defer k.mu.Unlock()
	room := min(n, calls.MostBody-len(k.text))
	k.text = append(k.text, p[:room]...)
	k.cut = k.cut || room < n
	k.whole = k.whole || errors.Is(err, io.EOF)
	return n, err
}

// Close implements io.Closer.
func (k *kept) Close() error {
	if k.ended != nil {
		k.ended()
	}
	return k.in.Close()
}

// body is what was kept, cut if that is not all.
func (k *kept) body() evidence.Body {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut || !k.whole {
		return evidence.Body{Cut: true}
	}
	return evidence.Body{Bytes: k.text}
}

// answer answers from the recording.
func (l *line) answer(w http.ResponseWriter, r *http.Request) {
	q, traces := l.request(r)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(wholeRequest))
	sent := &kept{in: r.Body}
	_, err := io.Copy(io.Discard, sent)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		panic(http.ErrAbortHandler) // the command has given it up
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	q.Body = sent.body()
	l.b.mu.Lock()
	a, miss := l.b.answers.Find(q, traces)
	l.b.mu.Unlock()
	if miss != nil {
		refuse(w, r, "bight: "+miss.Text())
		return
	}
	write(w, r, a)
}

// refuse says that there is no answer, in the way in which the command can hear it.
func refuse(w http.ResponseWriter, r *http.Request, text string) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "14") // unavailable
		w.Header().Set("Grpc-Message", strings.ReplaceAll(url.PathEscape(text), "%20", " "))
		return
	}
	http.Error(w, text, http.StatusBadGateway)
}

// hops are headers of one connection, and those that are set by writing.
var hops = []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Proxy-Connection"}

// write writes an answer of the recording.
func write(w http.ResponseWriter, r *http.Request, a *calls.Answer) {
	h := w.Header()
	for name, values := range a.Header {
		if slices.Contains(hops, name) || name == "Content-Length" && r.Method != http.MethodHead || slices.Contains(values, evidence.Hidden) {
			continue
		}
		h[name] = values
	}
	if a.Header["Content-Type"] == nil {
		h["Content-Type"] = nil // none is made up
	}
	for name, values := range a.Trailer {
		if !slices.Contains(values, evidence.Hidden) {
			h[http.TrailerPrefix+name] = values
		}
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the command need not read it
}
