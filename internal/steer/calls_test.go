package steer

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serveCalls is an app that knows of one service, and answers a call about any other
// with an error, which is a head and nothing else.
func serveCalls(t testing.TB) string {
	ln := listen(t)
	s := grpc.NewServer()
	h := health.NewServer()
	h.SetServingStatus("cart", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, h)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// The status of a call comes to a client of gRPC as the app has said it, whoever answers:
// one that is in the head of an answer has to end with that, or it is none.
func TestTheStatusOfACall(t *testing.T) {
	v := newVersions(t, serveCalls(t), serveCalls(t))
	anna := newPerson(t, v.stable, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serveCalls(t)))
	for name, w := range map[string]Weight{"by its own pod": 0, "carried": All, "by a laptop": 0} {
		v.set(t, v.split(w))
		ctx := t.Context()
		if name == "by a laptop" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-user", "anna")
		}
		conn, err := grpc.NewClient(v.stable.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		asker := healthpb.NewHealthClient(conn)
		for service, want := range map[string]codes.Code{"cart": codes.OK, "ghost": codes.NotFound} {
			_, err := asker.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
			if got := status.Code(err); got != want {
				t.Errorf("%s, %s: %v, want %v", name, service, err, want)
			}
		}
	}
}
