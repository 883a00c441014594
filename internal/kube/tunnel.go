package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	// forwardProtocol is the protocol of port-forwards; over a WebSocket it is
	// asked for with a prefix, because SPDY frames travel inside.
	forwardProtocol = "portforward.k8s.io"
	tunnelProtocol  = "SPDY/3.1+" + forwardProtocol

	pingPeriod   = 10 * time.Second
	closeTimeout = time.Second
	maxStatus    = 64 << 10
)

// tunnel is one port-forward to a pod, good for one stream.
type tunnel struct {
	namespace, pod string
	conn           httpstream.Connection
	raw            io.Closer // the connection below, which never waits
	close          sync.Once
}

// openTunnel asks the API server for a port-forward: over a WebSocket, and over
// SPDY where the server or a proxy on the way does not know that.
func (c *Cluster) openTunnel(ctx context.Context, namespace, pod string) (*tunnel, error) {
	path := "/api/v1/namespaces/" + namespace + "/pods/" + pod + "/portforward"
	conn, raw, err := c.upgradeWebSocket(ctx, c.Server+path)
	if err != nil && ctx.Err() == nil && worthSPDY(err) {
		conn, raw, err = c.upgradeSPDY(ctx, c.Server+path)
	}
	if err != nil {
		// The WebSocket's dialler notices a deadline a moment before ctx does.
		if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
			<-ctx.Done()
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("forward to pod %s/%s: %w", namespace, pod, c.Explain(err))
	}
	return &tunnel{namespace: namespace, pod: pod, conn: conn, raw: raw}, nil
}

// worthSPDY reports whether an old server or a proxy may be what made the
// WebSocket fail. 403 counts: old servers ask for another verb.
func worthSPDY(err error) bool {
	if apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) {
		return false
	}
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

func (c *Cluster) upgradeWebSocket(ctx context.Context, url string) (httpstream.Connection, io.Closer, error) {
	transport, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	ws, err := websocket.Negotiate(transport, holder, req, tunnelProtocol)
	if err != nil {
		return nil, nil, err
	}
	conn, err := spdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("bight", ws), pingPeriod)
	if err != nil {
		_ = ws.Close()
		return nil, nil, err
	}
	return conn, ws.NetConn(), nil
}

func (c *Cluster) upgradeSPDY(ctx context.Context, url string) (httpstream.Connection, io.Closer, error) {
	tlsConfig, err := rest.TLSConfigFor(c.config)
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
	conn, err := spdy.NewClientConnectionWithPings(up.conn, pingPeriod)
	if err != nil {
		_ = up.conn.Close()
		return nil, nil, err
	}
	return conn, up.conn.Conn, nil
}

// upgrade is a round tripper that keeps the connection of its one request.
type upgrade struct {
	dialer *spdy.SpdyRoundTripper
	conn   bufferedConn
}

// bufferedConn reads first what the HTTP response's reader has read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

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
	u.conn = bufferedConn{conn, bufio.NewReader(conn)}
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

// broken reports whether no more streams can be opened.
func (t *tunnel) broken() bool {
	select {
	case <-t.conn.CloseChan():
		return true
	default:
		return false
	}
}

// shut closes the tunnel, politely as long as that takes no time.
func (t *tunnel) shut() {
	t.close.Do(func() {
		timer := time.AfterFunc(closeTimeout, func() { _ = t.raw.Close() })
		_ = t.conn.Close() // it only says goodbye
		timer.Stop()
		_ = t.raw.Close()
	})
}

// stream opens a stream to a port of the pod. It succeeds whether anybody
// listens there or not: the pod's side says so later, on the error stream.
func (t *tunnel) stream(ctx context.Context, port int) (*podConn, error) {
	release := context.AfterFunc(ctx, func() { _ = t.raw.Close() })
	errs, data, err := t.patientPair(ctx, port)
	if !release() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("forward to port %d of pod %s/%s: %w", port, t.namespace, t.pod, err)
	}
	return newPodConn(t, port, errs, data), nil
}

// patientPair is pair as long as ctx and the connection last. The SPDY library
// waits half a minute for the answer to a new stream, and does not notice that the
// connection below is gone; the one goroutine that waits so long is left to it.
func (t *tunnel) patientPair(ctx context.Context, port int) (errs, data httpstream.Stream, err error) {
	done := make(chan struct{})
	var e, d httpstream.Stream
	var failure error
	go func() {
		defer close(done)
		e, d, failure = t.pair(port)
	}()
	select {
	case <-done:
		return e, d, failure
	case <-t.conn.CloseChan():
		return nil, nil, ErrTunnelLost
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

func (t *tunnel) pair(port int) (errs, data httpstream.Stream, err error) {
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	if errs, err = t.conn.CreateStream(h); err != nil {
		return nil, nil, err
	}
	_ = errs.Close() // our half: nothing is written to it
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	if data, err = t.conn.CreateStream(h); err != nil {
		_ = errs.Reset()
		return nil, nil, err
	}
	return errs, data, nil
}

// PortError is what the pod's side says of a forwarded port.
type PortError struct {
	Namespace, Pod string
	Port           int
	Refused        bool   // nothing listens there
	Text           string // what it said
}

func (e *PortError) Error() string {
	if e.Refused {
		return fmt.Sprintf("nothing listens on port %d in pod %s/%s", e.Port, e.Namespace, e.Pod)
	}
	return fmt.Sprintf("port %d of pod %s/%s: %s", e.Port, e.Namespace, e.Pod, e.Text)
}

func portError(t *tunnel, port int, text string) *PortError {
	text = strings.TrimSpace(text)
	return &PortError{
		Namespace: t.namespace, Pod: t.pod, Port: port, Text: text,
		Refused: strings.Contains(text, "connection refused"),
	}
}

// ErrTunnelLost is why a connection to a pod ends when the port-forward below
// it does.
var ErrTunnelLost = errors.New("port-forward was cut")
