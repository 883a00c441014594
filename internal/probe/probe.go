// Package probe asks processes whether they serve, by TCP, HTTP or the health service
// of gRPC, as kubelet asks them and more often.
package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Probe asks a process whether it can serve. The zero value is not valid.
type Probe struct {
	Kind string // "tcp", "http" or "grpc"
	Port int
	Path string // http only
	// Hosts are the addresses to try; none stands for those of loopback.
	Hosts []string
}

// Parse parses "tcp:8080", "http:8080/healthz" or "grpc:50051".
func Parse(s string) (*Probe, error) {
	kind, rest, _ := strings.Cut(s, ":")
	port, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		port, path = rest[:i], rest[i:]
	}
	n, err := strconv.Atoi(port)
	ok := err == nil && n > 0 && n < 1<<16
	switch kind {
	case "http":
		if path == "" {
			path = "/"
		}
	case "tcp", "grpc":
		ok = ok && path == ""
	default:
		ok = false
	}
	if !ok {
		return nil, fmt.Errorf("readiness %q: want tcp:PORT, http:PORT/PATH or grpc:PORT", s)
	}
	return &Probe{Kind: kind, Port: n, Path: path}, nil
}

// Wait returns nil when the process can serve. It asks every few milliseconds
// at first, since a person waits, and less often later.
func (p *Probe) Wait(ctx context.Context) error {
	start := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if p.Ask(ctx) {
			return nil
		}
		t.Reset(pause(time.Since(start)))
	}
}

func pause(age time.Duration) time.Duration {
	switch {
	case age < time.Second:
		return 2 * time.Millisecond
	case age < 10*time.Second:
		return 10 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// Ask asks once whether the process can serve, and waits 5 s at most.
func (p *Probe) Ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := Dial(ctx, p.Hosts, p.Port)
	if err != nil {
		return false
	}
	switch p.Kind {
	case "http":
		return p.askHTTP(ctx, conn)
	case "grpc":
		return p.askGRPC(ctx, conn)
	}
	_ = conn.Close()
	return true
}

// over returns a transport that uses conn and nothing else.
func over(conn net.Conn) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			c := conn
			conn = nil
			if c == nil {
				return nil, errors.New("the connection is used up")
			}
			return c, nil
		},
	}
}

func (p *Probe) askHTTP(ctx context.Context, conn net.Conn) bool {
	defer conn.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://localhost:%d%s", p.Port, p.Path), nil)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", "bight-agent")
	tr := over(conn)
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode >= 200 && resp.StatusCode < 400
}

// askGRPC calls grpc.health.v1.Health/Check. A server without that service is
// ready when it answers at all.
func (p *Probe) askGRPC(ctx context.Context, conn net.Conn) bool {
	defer conn.Close()
	const check = "/grpc.health.v1.Health/Check"
	empty := make([]byte, 5) // an uncompressed message of no bytes
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://localhost:%d%s", p.Port, check), bytes.NewReader(empty))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	tr := over(conn)
	tr.DisableKeepAlives = false
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		return false
	}
	const unimplemented, serving = "12", 1
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" { // an answer without a message has it in the header
		status = resp.Header.Get("Grpc-Status")
	}
	if status == unimplemented {
		return true
	}
	// The message is field 1, a varint: the serving status.
	return status == "0" && len(body) >= 7 && body[5] == 0x08 && body[6] == serving
}

// Dial connects to a port on the first of hosts that takes the connection.
// Refusals are reported at once; the error is that of the first host.
func Dial(ctx context.Context, hosts []string, port int) (net.Conn, error) {
	if len(hosts) == 0 {
		hosts = []string{"127.0.0.1", "::1"}
	}
	var d net.Dialer
	var first error
	for _, h := range hosts {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(h, strconv.Itoa(port)))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
