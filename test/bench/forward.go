package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
)

// bareLine is a line to a pod of the wire service by a port-forward for each
// connection, as client-go and so kubectl makes it: a raw stream of bytes, with
// nothing of ours in it. What is missing to kubectl port-forward is its listener.
func (w *wire) bareLine() (*line, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	at = at.JoinPath("api/v1/namespaces", w.namespace, "pods", w.pods[0].Name, "portforward")
	return &line{dial: func(ctx context.Context, port int) (net.Conn, error) { return forward(config, at, port) }}, nil
}

func forward(config *rest.Config, pod *url.URL, port int) (net.Conn, error) {
	dialer, err := portforward.NewSPDYOverWebsocketDialer(pod, config)
	if err != nil {
		return nil, err
	}
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	data, err := openStreams(func(h http.Header) (io.ReadWriteCloser, error) { return conn.CreateStream(h) }, port)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("forward port %d: %w", port, err)
	}
	return &forwarded{ReadWriteCloser: data, conn: conn}, nil
}

// openStreams opens the two that a forwarded connection has, and returns the one for
// data.
func openStreams(open func(http.Header) (io.ReadWriteCloser, error), port int) (io.ReadWriteCloser, error) {
	h := http.Header{}
	h.Set(core.StreamType, core.StreamTypeError)
	h.Set(core.PortHeader, strconv.Itoa(port))
	h.Set(core.PortForwardRequestIDHeader, "0")
	errs, err := open(h)
	if err != nil {
		return nil, err
	}
	_ = errs.Close() // our half
	h.Set(core.StreamType, core.StreamTypeData)
	return open(h)
}

// forwarded is a stream of a port-forward, as a connection without deadlines.
type forwarded struct {
	io.ReadWriteCloser
	conn io.Closer
}

func (f *forwarded) Close() error { return f.conn.Close() }

func (f *forwarded) LocalAddr() net.Addr              { return nil }
func (f *forwarded) RemoteAddr() net.Addr             { return nil }
func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }
