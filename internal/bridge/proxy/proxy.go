// Package proxy gives programs a way to the cluster's network where they can't
// have a network of their own: SOCKS5 and HTTP on one loopback port.
//
// The main type is [Server]. A client's first byte tells the protocol. SOCKS5 is
// RFC 1928 with CONNECT; user names and passwords (RFC 1929) are taken and not
// looked at. HTTP is CONNECT and requests for absolute addresses, among them
// WebSocket. Names are resolved on the far side. One goroutine serves each
// connection, and all have ended when Serve returns. It works on every system.
package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/bridge/splice"
)

// Server is the proxy. Its fields are set before Serve is called.
type Server struct {
	// Dial opens a TCP connection on the far side; the address's host is a name or
	// an IP address.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
}

const (
	helloTimeout = 10 * time.Second
	dialTimeout  = 30 * time.Second
	idleConns    = 32 // of a kind that is kept for later requests
)

// Serve serves connections of ln until ctx ends. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	defer ln.Close()

	transport := &http.Transport{DialContext: s.Dial, MaxIdleConns: idleConns, IdleConnTimeout: time.Minute, DisableCompression: true}
	defer transport.CloseIdleConnections()
	p := &proxy{ctx: ctx, dial: s.Dial, log: log, conns: make(chan net.Conn), addr: ln.Addr()}
	p.forward = &httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {}, // as it is; hop-by-hop headers are gone
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  p.failed,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: helloTimeout, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { _ = server.Serve(p) })
	defer server.Close()
	defer cancel()
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			tasks.Go(func() { p.serve(conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("serve the proxy: %w", err)
		default:
			log.Warn("connection not taken", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// proxy is a running Server. It is the net.Listener of its HTTP server, which gets
// the connections that speak HTTP.
type proxy struct {
	ctx     context.Context
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	log     *slog.Logger
	conns   chan net.Conn
	addr    net.Addr
	forward *httputil.ReverseProxy
}

// Accept implements net.Listener.
func (p *proxy) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *proxy) Close() error { return nil }

// Addr implements net.Listener.
func (p *proxy) Addr() net.Addr { return p.addr }

// buffered is a connection of which something was read already.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// CloseWrite ends one direction.
func (b *buffered) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger makes an abort possible.
func (b *buffered) SetLinger(sec int) error {
	if tcp, ok := b.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(sec)
	}
	return errors.ErrUnsupported
}

// serve finds out what a client speaks.
func (p *proxy) serve(conn net.Conn) {
	stop := context.AfterFunc(p.ctx, func() { _ = conn.Close() })
	b := &buffered{Conn: conn, in: bufio.NewReader(conn)}
	_ = conn.SetDeadline(time.Now().Add(helloTimeout))
	first, err := b.in.Peek(1)
	if err != nil {
		stop()
		_ = conn.Close()
		return
	}
	if first[0] == socksVersion {
		defer stop()
		p.socks(b)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	stop() // the HTTP server sees to it now
	select {
	case p.conns <- b:
	case <-p.ctx.Done():
		_ = conn.Close()
	}
}

// socks serves one SOCKS5 client.
func (p *proxy) socks(conn *buffered) {
	defer conn.Close()
	address, err := greet(conn)
	if err != nil {
		var refused replyError
		if errors.As(err, &refused) {
			_, _ = conn.Write(reply(byte(refused)))
		}
		p.log.Debug("SOCKS client sent away", "err", err)
		return
	}
	_ = conn.SetDeadline(time.Time{}) // dialling may take longer
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	up, err := p.dial(ctx, "tcp", address)
	cancel()
	if err != nil {
		p.log.Debug("flow refused", "to", address, "err", err)
		_, _ = conn.Write(reply(replyFor(err)))
		return
	}
	if _, err := conn.Write(reply(replyDone)); err != nil {
		_ = up.Close()
		return
	}
	splice.Conns(p.ctx, conn, up)
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.tunnel(w, r)
	case r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "bight: this is a proxy: set it as HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, and use CONNECT for https", http.StatusBadRequest)
	default:
		p.forward.ServeHTTP(w, r)
	}
}

// tunnel serves CONNECT.
func (p *proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	if _, _, err := net.SplitHostPort(r.Host); err != nil {
		http.Error(w, "bight: CONNECT needs host:port", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	up, err := p.dial(ctx, "tcp", r.Host)
	cancel()
	if err != nil {
		p.failed(w, r, err)
		return
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok { // HTTP/2, which is not served here
		_ = up.Close()
		http.Error(w, "bight: CONNECT needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	conn, in, err := hijacker.Hijack()
	if err != nil {
		_ = up.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = up.Close()
		_ = conn.Close()
		return
	}
	splice.Conns(p.ctx, &buffered{Conn: conn, in: in.Reader}, up)
}

// failed says why a request did not get through.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	p.log.Debug("request not forwarded", "to", r.Host, "err", err)
	status := http.StatusBadGateway
	var timeout interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	http.Error(w, fmt.Sprintf("bight: reach %s: %v", r.Host, err), status)
}
