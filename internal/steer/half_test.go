package steer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// hearing is a listener that tells when a client has sent its last byte, and the door has heard.
type hearing struct {
	net.Listener
	ended func()
}

func (l hearing) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hearingConn{nc.(*net.TCPConn), l.ended}, nil
}

type hearingConn struct {
	*net.TCPConn
	ended func()
}

func (c *hearingConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if errors.Is(err, io.EOF) {
		c.ended()
	}
	return n, err
}

// A client that ends when it has asked, as nc does, is answered by a laptop whose handler needs
// longer than that: the end is not heard before the request.
func TestAClientThatEndsIsAnsweredByALaptop(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PATCH"} {
		t.Run(method, func(t *testing.T) {
			p := newPod(t, serve(t, named("app")))
			over := make(chan struct{})
			ln := hearing{listen(t), sync.OnceFunc(func() { close(over) })}
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- p.door.Serve(ctx, ln) }()
			defer func() { cancel(); <-served }()
			anna := newPerson(t, p, "anna")
			laptop := to(serve(t, named("anna")))
			anna.join(t, anna.rule(Intercept, Match{}), func(ctx context.Context, info Info) (net.Conn, error) {
				select {
				case <-over:
					return laptop(ctx, info)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			})
			c := dial(t, ln.Addr().String())
			c.send(t, method+" /x HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n")
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			_, body := c.answer(t, method)
			want(t, "answer", body, "anna "+method+" /x 0")
		})
	}
}

// Neither is it heard before a body that is sent once more.
func TestABodyIsSentAgainForAClientThatHasEnded(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	laptop := &canned{answers: []string{okAnswer}} // one on each connection
	anna.join(t, anna.rule(Intercept, Match{}), to(laptop.serve(t)))
	c := dial(t, p.addr)
	_, body := c.get(t, "/x")
	want(t, "first", body, "ok")
	c.send(t, "PUT /x HTTP/1.1\r\nHost: cart\r\nContent-Length: 3\r\n\r\nabc")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	_, body = c.answer(t, "PUT")
	want(t, "second", body, "ok")
}
