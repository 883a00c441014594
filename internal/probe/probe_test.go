package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]*Probe{
		"tcp:8080":           {Kind: "tcp", Port: 8080},
		"http:80":            {Kind: "http", Port: 80, Path: "/"},
		"http:80/healthz?x=": {Kind: "http", Port: 80, Path: "/healthz?x="},
		"grpc:50051":         {Kind: "grpc", Port: 50051},
		"":                   nil, "tcp": nil, "tcp:": nil, "tcp:0": nil, "tcp:65536": nil, "tcp:80/x": nil, "udp:53": nil, "http:/x": nil,
	} {
		got, err := Parse(s)
		if (err != nil) != (want == nil) {
			t.Errorf("%q: %v", s, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: -want +got:\n%s", s, d)
		}
	}
}

func portOf(t *testing.T, addr net.Addr) int {
	t.Helper()
	_, p, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestProbeHTTP(t *testing.T) {
	var status atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(404)
			return
		}
		w.WriteHeader(int(status.Load()))
	}))
	defer srv.Close()
	p := &Probe{Kind: "http", Port: portOf(t, srv.Listener.Addr()), Path: "/healthz"}
	for code, want := range map[int]bool{200: true, 204: true, 302: true, 404: false, 500: false, 503: false} {
		status.Store(int32(code))
		if got := p.Ask(t.Context()); got != want {
			t.Errorf("status %d: %v, want %v", code, got, want)
		}
	}
}

func TestProbeGRPC(t *testing.T) {
	serve := func(s *grpc.Server) *Probe {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(ln) }()
		t.Cleanup(func() { s.Stop(); <-done })
		return &Probe{Kind: "grpc", Port: portOf(t, ln.Addr())}
	}
	s := grpc.NewServer()
	h := health.NewServer()
	healthpb.RegisterHealthServer(s, h)
	p := serve(s)
	for status, want := range map[healthpb.HealthCheckResponse_ServingStatus]bool{
		healthpb.HealthCheckResponse_SERVING: true, healthpb.HealthCheckResponse_NOT_SERVING: false, healthpb.HealthCheckResponse_UNKNOWN: false,
	} {
		h.SetServingStatus("", status)
		if got := p.Ask(t.Context()); got != want {
			t.Errorf("%s: %v, want %v", status, got, want)
		}
	}
	if !serve(grpc.NewServer()).Ask(t.Context()) {
		t.Error("a server without the health service: not ready")
	}
}

func TestProbeWaits(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, ln.Addr())
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	p := &Probe{Kind: "tcp", Port: port}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); err == nil {
		t.Error("nothing listens, and it is ready")
	}
	done := make(chan error, 1)
	go func() { done <- p.Wait(t.Context()) }()
	if ln, err = net.Listen("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
