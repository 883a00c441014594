package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"time"

	"github.com/bightdev/bight/internal/release/evidence"
)

const (
	// mostAnswer is how much of an answer is looked at.
	mostAnswer = 1 << 20
	patience   = 30 * time.Second
)

// clients speak HTTP/1 and HTTP/2 to the program.
type clients [2]*http.Client

func (p *Player) clients() (all clients) {
	for i := range all {
		var protocols http.Protocols
		protocols.SetHTTP1(i == 0)
		protocols.SetUnencryptedHTTP2(i == 1)
		all[i] = &http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
					_, text, _ := net.SplitHostPort(address)
					port, err := strconv.Atoi(text)
					if err != nil {
						return nil, err
					}
					return p.Dial(ctx, port)
				},
				Protocols: &protocols, DisableCompression: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return all
}

func (c clients) of(q *evidence.Request) *http.Client {
	if q.HTTP2 {
		return c[1]
	}
	return c[0]
}

func (c clients) close() {
	for _, one := range c {
		one.CloseIdleConnections()
	}
}

// own are headers that belong to one connection, or that sending sets.
var own = []string{"Connection", "Content-Length", "Transfer-Encoding", "Trailer", "Upgrade", "Accept-Encoding", "Host"}

// send sends one request.
func (p *Player) send(ctx context.Context, to clients, pair *evidence.Pair) (*evidence.Answer, time.Duration, error) {
	limit := p.Patience
	if limit == 0 {
		limit = patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	q := &pair.Request
	r, err := http.NewRequestWithContext(ctx, q.Method, "http://program:"+strconv.Itoa(q.Port)+target(q.Target), bytes.NewReader(q.Body.Bytes))
	if err != nil {
		return nil, 0, err
	}
	r.Host = q.Host
	for name, values := range q.Header {
		if name = textproto.CanonicalMIMEHeaderKey(name); !slices.Contains(own, name) && !slices.Contains(values, evidence.Hidden) {
			r.Header[name] = slices.Clone(values)
		}
	}
	for name, values := range p.Header {
		r.Header[textproto.CanonicalMIMEHeaderKey(name)] = slices.Clone(values)
	}
	if _, has := r.Header["User-Agent"]; !has {
		r.Header.Set("User-Agent", "") // none is made up
	}
	start := time.Now()
	resp, err := to.of(q).Do(r)
	elapsed := time.Since(start)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, elapsed, fmt.Errorf("there is no answer after %s", limit)
		}
		return nil, elapsed, fmt.Errorf("there is no answer: %w", reason(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
	if err != nil {
		return nil, elapsed, fmt.Errorf("the answer (status %d) breaks off: %w", resp.StatusCode, err)
	}
	a := &evidence.Answer{Status: resp.StatusCode, Header: resp.Header, Trailer: resp.Trailer, Body: evidence.Body{Bytes: body}}
	if len(body) > mostAnswer {
		a.Body = evidence.Body{Bytes: body[:mostAnswer], Cut: true}
	}
	return a, elapsed, nil
}

// target is where a request goes; that of an OPTIONS may be no path.
func target(t string) string {
	if t == "*" {
		return "/"
	}
	return t
}

// reason is what went wrong, without the URL, which is told anyway.
func reason(err error) error {
	var of interface{ Unwrap() error }
	if errors.As(err, &of) {
		if inner := of.Unwrap(); inner != nil {
			return inner
		}
	}
	return err
}
