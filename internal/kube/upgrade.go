package kube

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	// forwardProtocol is the protocol of port-forwards; over a WebSocket it is
	// asked for with a prefix, because SPDY frames travel inside.
	forwardProtocol = "portforward.k8s.io"
	tunnelProtocol  = "SPDY/3.1+" + forwardProtocol

	maxStatus = 64 << 10
)

// carrier is what SPDY frames travel in: a WebSocket, or a bare connection.
type carrier interface {
	io.Reader
	// writeFrame writes head and body in one piece. One may write at a time.
	writeFrame(head, body []byte) error
	// goodbye tells the other side that the connection ends.
	goodbye()
}

// openCarrier asks the API server for a port-forward: over a WebSocket, and over
// SPDY where the server or a proxy on the way does not know that. Closing raw, which
// never waits, ends it.
func (c *Cluster) openCarrier(ctx context.Context, namespace, pod string) (over carrier, raw io.Closer, err error) {
	path := "/api/v1/namespaces/" + namespace + "/pods/" + pod + "/portforward"
	over, raw, err = c.upgradeWebSocket(ctx, c.Server+path)
	if err != nil && ctx.Err() == nil && worthSPDY(err) {
		over, raw, err = c.upgradeSPDY(ctx, c.Server+path)
	}
	return over, raw, err
}

// worthSPDY reports whether an old server or a proxy may be what made the
// WebSocket fail. 403 counts: old servers ask for another verb.
func worthSPDY(err error) bool {
	if apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) {
		return false
	}
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

func (c *Cluster) upgradeWebSocket(ctx context.Context, url string) (carrier, io.Closer, error) {
	tlsConfig, err := c.tlsConfig()
	if err != nil {
		return nil, nil, err
	}
	proxy := c.config.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	up := &socketUpgrade{tls: tlsConfig, proxy: proxy, bufs: c.bufs}
	wrapped, err := rest.HTTPWrappersForConfig(c.config, up)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := wrapped.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	_ = resp.Body.Close() // of an upgrade there is none
	// Not the connection of TLS: that says goodbye first, behind what can't be written.
	return up.socket, up.socket.below, nil
}

// socketUpgrade is a round tripper that makes a WebSocket of its one request.
type socketUpgrade struct {
	tls    *tls.Config
	proxy  func(*http.Request) (*url.URL, error)
	bufs   *writeBuffers
	socket *webSocket
}

// RoundTrip implements http.RoundTripper. An error is an UpgradeFailureError if the
// server answered something else.
func (u *socketUpgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	var below *corked
	dialer := websocket.Dialer{
		Proxy: u.proxy, TLSClientConfig: u.tls, Subprotocols: []string{tunnelProtocol},
		ReadBufferSize: socketReadAhead, WriteBufferSize: socketWrite, WriteBufferPool: &u.bufs.sockets,
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			below = &corked{Conn: conn, bufs: u.bufs}
			return below, nil
		},
	}
	at := *req.URL
	at.Scheme = map[string]string{"https": "wss", "http": "ws"}[at.Scheme]
	ws, resp, err := dialer.DialContext(req.Context(), at.String(), req.Header)
	if err != nil {
		if errors.Is(err, websocket.ErrBadHandshake) {
			cause := err
			if resp != nil {
				cause = responseError(resp)
			}
			err = &httpstream.UpgradeFailureError{Cause: cause}
		}
		return nil, err
	}
	if ws.Subprotocol() != tunnelProtocol {
		_ = ws.Close()
		return nil, &httpstream.UpgradeFailureError{Cause: fmt.Errorf("the server chose protocol %q, not %s", ws.Subprotocol(), tunnelProtocol)}
	}
	u.socket = &webSocket{ws: ws, below: below}
	return resp, nil
}

func (c *Cluster) upgradeSPDY(ctx context.Context, url string) (carrier, io.Closer, error) {
	tlsConfig, err := c.tlsConfig()
	if err != nil {
		return nil, nil, err
	}
	dialer, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{TLS: tlsConfig, Proxier: c.config.Proxy})
	if err != nil {
		return nil, nil, err
	}
	up := &upgrade{dialer: dialer}
	wrapped, err := rest.HTTPWrappersForConfig(c.config, up)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, forwardProtocol)
	resp, err := wrapped.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer up.conn.Close()
		return nil, nil, responseError(resp)
	}
	return up.conn, up.conn, nil
}

// upgrade is a round tripper that keeps the connection of its one request.
type upgrade struct {
	dialer *spdy.SpdyRoundTripper
	conn   *bareCarrier
}

// RoundTrip implements http.RoundTripper; it ends with the request's context.
func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	req.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	conn, err := u.dialer.Dial(req)
	if err != nil {
		return nil, err
	}
	release := context.AfterFunc(req.Context(), func() { _ = conn.Close() })
	u.conn = &bareCarrier{Conn: conn, r: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(u.conn.r, req)
	if !release() {
		return nil, context.Cause(req.Context())
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return resp, nil
}

// bareCarrier carries frames on a connection. It reads first what the HTTP
// response's reader has read ahead.
type bareCarrier struct {
	net.Conn
	r     *bufio.Reader
	piece []byte
}

func (c *bareCarrier) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *bareCarrier) writeFrame(head, body []byte) error {
	c.piece = append(append(c.piece[:0], head...), body...)
	_, err := c.Write(c.piece)
	return err
}

func (c *bareCarrier) goodbye() {}

// responseError reads why the server did not upgrade.
func responseError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return fmt.Errorf("server answered %s and then: %w", resp.Status, err)
	}
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("server answered %s: %s", resp.Status, strings.TrimSpace(string(body)))
}
