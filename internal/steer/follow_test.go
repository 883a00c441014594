package steer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
)

// spoken is a listener of connections whose client has spoken already.
type spoken struct{ net.Listener }

func (l spoken) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 1024)
	n, err := nc.Read(b)
	return &begun{Conn: nc, before: b[:n], closed: make(chan struct{})}, err
}

// While a connection to the app is being made for a client of HTTP/2, a rule that replaces the
// app waits for it, and has the client's requests: none was passed on.
func TestTheAppIsReplacedWhileItIsDialled(t *testing.T) {
	for name, fail := range map[string]error{"in the end it is there": nil, "it never is": errors.New("it does not start")} {
		t.Run(name, func(t *testing.T) {
			app := newMortal(t, named("app"))
			dialling, release := make(chan struct{}), make(chan struct{})
			began := sync.OnceFunc(func() { close(dialling) })
			p := newPod(t, "", replaceable(app), func(p *pod) {
				p.door.App = func(ctx context.Context) (net.Conn, error) {
					began()
					select {
					case <-release:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if fail != nil {
						return nil, fail
					}
					return app.dial(ctx)
				}
			})
			ln := spoken{listen(t)}
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- p.door.Serve(ctx, ln) }()
			defer func() { cancel(); <-served }()
			tr := newTransportTo()
			defer tr.CloseIdleConnections()
			got := make(chan string, 1)
			go func() { got <- askAs(&http.Client{Transport: tr}, "anna", "GET", ln.Addr().String()) }()
			<-dialling
			anna, laptop := newPerson(t, p, "anna"), to(serveHTTP2(t, named("anna")))
			joined := make(chan error, 1)
			go func() {
				_, err := anna.Join(t.Context(), anna.sess, anna.rule(Replace, Match{}), laptop)
				joined <- err
			}()
			eventually(t, "the process is about to be stopped, or is", func() bool {
				p.door.mu.Lock()
				defer p.door.mu.Unlock()
				return p.door.none != nil || !app.isRunning()
			})
			if !app.isRunning() {
				t.Error("the process was stopped while it was being connected to")
			}
			close(release)
			want(t, "answer", <-got, "200 anna GET /x 0")
			if err := <-joined; err != nil {
				t.Error(err)
			}
		})
	}
}
