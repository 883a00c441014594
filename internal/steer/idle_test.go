package steer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// serveHTTP2On serves HTTP/2 on a connection, until that is closed.
func serveHTTP2On(nc net.Conn, h http.Handler) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: &protocols}
	_ = server.Serve(&single{conn: &begun{Conn: nc, closed: make(chan struct{})}})
}

// A connection to a pod that has left the split while a call was under way does not stay.
func TestAConnectionToAPodThatHasLeftEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, nil)
		old, next := at("10.0.0.1:80"), at("10.0.0.2:80")
		ended := make(chan struct{})
		p.door.Peer = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
			return pipeTo(func(nc net.Conn) {
				serveHTTP2On(nc, grpcLike(to.String(), nil))
				if to == old {
					close(ended)
				}
			}), nil
		}
		split := func(generation int64, pod netip.AddrPort) {
			t.Helper()
			s := two(All, func(s *Split) {
				s.Generation = generation
				s.Versions[1].Addresses = []netip.AddrPort{pod}
			})
			if err := p.door.Split("stable", s); err != nil {
				t.Fatal(err)
			}
		}
		split(1, old)
		hc := &http.Client{Transport: newTransport(func(context.Context) (net.Conn, error) { return p.dial(), nil })}
		defer hc.CloseIdleConnections()
		talk, w := call(t, hc, t.Context(), "stable", "/talk", "anna")
		want(t, "served by", talk.Header.Get("X-Served-By"), old.String())
		split(2, next)
		resp, _ := call(t, hc, t.Context(), "stable", "/none", "anna")
		want(t, "served by", resp.Header.Get("X-Served-By"), next.String())
		_, _ = io.WriteString(w, "after\n")
		lines := bufio.NewReader(talk.Body)
		if s, err := lines.ReadString('\n'); err != nil || s != "AFTER\n" {
			t.Errorf("what is under way: got %q, %v", s, err)
		}
		_ = w.Close()
		_, _ = io.Copy(io.Discard, lines)
		select {
		case <-ended:
		case <-time.After(time.Hour):
			t.Error("the connection stays")
		}
	})
}

// A copy that is cut leaves no connection behind.
func TestACopyThatIsCutTakesItsConnectionAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := http.NewRequest(http.MethodGet, "http://stable/", nil)
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		err = sendCopy(ctx, r, newSpool(), func(context.Context) (net.Conn, error) {
			nc := pipeTo(func(nc net.Conn) {
				serveHTTP2On(nc, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					cancel()
					<-r.Context().Done()
				}))
			})
			return &begun{Conn: nc, closed: closed}, nil
		}, nil)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the copy ended with %v", err)
		}
		synctest.Wait()
		select {
		case <-closed:
		default:
			t.Error("the connection stays")
		}
	})
}

// A client that asks seldom, so that each request has a connection to the laptop of its own,
// does not make its route longer and longer.
func TestARouteForgetsConnectionsThatHaveEnded(t *testing.T) {
	p := &route{}
	for range 3 {
		here, _ := net.Pipe()
		nc := &begun{Conn: here, closed: make(chan struct{})}
		if err := p.keep(nc); err != nil {
			t.Fatal(err)
		}
		if n := len(p.conns); n != 1 {
			t.Errorf("it keeps %d connections", n)
		}
		_ = nc.Close()
	}
}
