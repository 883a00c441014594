package forward

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpcServer serves gRPC health, and a stream that echoes each message at once.
func grpcServer(t *testing.T, address string) (*grpc.Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(echoStream))
	healthpb.RegisterHealthServer(s, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return s, ln.Addr().String()
}

func echoStream(_ any, s grpc.ServerStream) error {
	s.SetTrailer(metadata.Pairs("farewell", "bye"))
	for {
		var m wrapperspb.StringValue
		if err := s.RecvMsg(&m); err == io.EOF {
			return status.Error(codes.DataLoss, "that was all: 100%, straße")
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(wrapperspb.String(strings.ToUpper(m.Value))); err != nil {
			return err
		}
	}
}

// callTo returns a client of what is at address, which it calls by authority.
func callTo(t *testing.T, address, authority string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithAuthority(authority), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	t.Cleanup(cancel)
	return ctx
}

// converse has a conversation in which each message answers the one before.
func converse(t *testing.T, c *grpc.ClientConn) {
	t.Helper()
	s, err := c.NewStream(limited(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	var m wrapperspb.StringValue
	for i := range 5 {
		if err := s.SendMsg(wrapperspb.String(fmt.Sprint("message ", i))); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&m); err != nil || m.Value != fmt.Sprint("MESSAGE ", i) {
			t.Fatalf("got %q, %v", m.Value, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	err = s.RecvMsg(&m)
	if st := status.Convert(err); st.Code() != codes.DataLoss || st.Message() != "that was all: 100%, straße" {
		t.Errorf("ended with %v", err)
	}
	if got := s.Trailer().Get("farewell"); len(got) != 1 || got[0] != "bye" {
		t.Errorf("trailer %v", s.Trailer())
	}
}

func TestGRPC(t *testing.T) {
	_, address := grpcServer(t, "127.0.0.1:0")
	p := serve(t,
		Route{Service: "catalog", Environment: "shop", Ports: []Port{{"grpc", freePort(t), "grpc"}}, Dial: to(address)},
		Route{Service: "both", Environment: "shop", Ports: []Port{portHTTP}, Dial: to(address)},
	)
	local := fmt.Sprintf("127.0.0.1:%d", p.Port())
	for name, c := range map[string]*grpc.ClientConn{
		"by host":           callTo(t, local, "catalog.shop.localhost"),
		"port by host":      callTo(t, local, "catalog--grpc.shop.localhost"),
		"on an HTTP port":   callTo(t, local, "both.shop.localhost"),
		"by its own port":   callTo(t, p.Addresses()[0].Local, "localhost"),
		"by IPv6 with port": callTo(t, fmt.Sprintf("localhost:%d", p.Port()), fmt.Sprintf("CATALOG.shop.localhost:%d", p.Port())),
	} {
		t.Run(name, func(t *testing.T) {
			converse(t, c)
			resp, err := healthpb.NewHealthClient(c).Check(limited(t), &healthpb.HealthCheckRequest{})
			if err != nil || resp.Status != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("check: %v, %v", resp, err)
			}
			_, err = healthpb.NewHealthClient(c).Check(limited(t), &healthpb.HealthCheckRequest{Service: "nope"})
			if status.Code(err) != codes.NotFound { // comes without a body
				t.Errorf("check of nope: %v", err)
			}
			watch, err := healthpb.NewHealthClient(c).Watch(limited(t), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if m, err := watch.Recv(); err != nil || m.Status != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("watch: %v, %v", m, err)
			}
		})
	}
}

func TestAGRPCCallIsHeldThroughARestart(t *testing.T) {
	s, address := grpcServer(t, "127.0.0.1:0")
	p := serve(t, Route{Service: "catalog", Environment: "shop", Ports: []Port{{"grpc", freePort(t), "grpc"}}, Dial: to(address)})
	c := callTo(t, fmt.Sprintf("127.0.0.1:%d", p.Port()), "catalog.shop.localhost")
	client := healthpb.NewHealthClient(c)
	for range 3 {
		if _, err := client.Check(limited(t), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		p.Invalidate("catalog") // as when a session is about to restart it
		s.Stop()
		held := make(chan error, 1)
		go func() {
			_, err := client.Check(limited(t), &healthpb.HealthCheckRequest{})
			held <- err
		}()
		select {
		case err := <-held:
			t.Fatalf("was not held: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		s, _ = grpcServer(t, address)
		if err := <-held; err != nil {
			t.Errorf("held: %v", err)
		}
	}
}

func TestGRPCClientsAreToldWhatIsWrong(t *testing.T) {
	p := &Proxy{Hold: 50 * time.Millisecond, Reason: func(s string) string { return "image of " + s + " can't be pulled: 100 %" }}
	p.Update([]Route{{Service: "catalog", Environment: "shop", Ports: []Port{portGRPC}, Dial: (&pod{}).dial}})
	if _, err := p.Open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Serve(ctx) }()
	local := fmt.Sprintf("127.0.0.1:%d", p.Port())
	for authority, want := range map[string]string{
		"catalog.shop.localhost": "Unavailable: catalog is not ready: image of catalog can't be pulled: 100 %;",
		"catalgo.shop.localhost": `Unimplemented: nothing is called "catalgo.shop.localhost" here; did you mean "catalog.shop.localhost"?`,
		"evil.example":           `Unimplemented: "evil.example" is not a name of this machine`,
	} {
		_, err := healthpb.NewHealthClient(callTo(t, local, authority)).Check(limited(t), &healthpb.HealthCheckRequest{})
		st := status.Convert(err)
		if got := st.Code().String() + ": " + st.Message(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s", authority, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
