// Package rpc is gRPC without generated code: methods are described by ordinary
// functions and messages travel as JSON, so a message is any Go struct. Health
// checks stay protocol buffers, so that standard probes understand them.
//
// Servers use [Options], [Unary], [Stream] and [Serve]; clients use [Dial],
// [Call] and [Watch]. Everything is safe for concurrent use.
package rpc

import (
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"net"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bightdev/bight/examples/shop/internal/serve"
)

// codec writes JSON, except for the messages of gRPC's own services.
type codec struct{}

func (codec) Name() string { return "json" }

func (codec) Marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return proto.Marshal(m)
	}
	return json.Marshal(v)
}

func (codec) Unmarshal(b []byte, v any) error {
	if m, ok := v.(proto.Message); ok {
		return proto.Unmarshal(b, m)
	}
	return json.Unmarshal(b, v)
}

// Options make a grpc.Server speak JSON and log one line per call.
func Options(log *slog.Logger) []grpc.ServerOption {
	line := func(method string, start time.Time, err error) {
		log.Info(path.Base(method), "code", status.Code(err), "took", time.Since(start).Round(10*time.Microsecond))
	}
	return []grpc.ServerOption{
		grpc.ForceServerCodec(codec{}),
		grpc.UnaryInterceptor(func(ctx context.Context, in any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			start := time.Now()
			out, err := next(ctx, in)
			if !isProbe(in) {
				line(info.FullMethod, start, err)
			}
			return out, err
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			start := time.Now()
			err := next(srv, s)
			line(info.FullMethod, start, err)
			return err
		}),
	}
}

// isProbe tells the health checks, which come every few seconds and say nothing.
func isProbe(in any) bool {
	_, ok := in.(proto.Message)
	return ok
}

// Serve serves until ctx ends, and then finishes what is in flight.
func Serve(ctx context.Context, log *slog.Logger, srv *grpc.Server, lis net.Listener) error {
	log.Info("listening", "addr", lis.Addr())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	force := time.AfterFunc(serve.Grace, srv.Stop)
	defer force.Stop()
	srv.GracefulStop()
	return <-served
}

// Unary describes a method that takes one message and answers with one.
func Unary[In, Out any](service, name string, f func(context.Context, *In) (*Out, error)) grpc.MethodDesc {
	handler := func(ctx context.Context, in any) (any, error) { return f(ctx, in.(*In)) }
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(srv any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
			in := new(In)
			if err := decode(in); err != nil {
				return nil, err
			}
			if around == nil {
				return handler(ctx, in)
			}
			return around(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + service + "/" + name}, handler)
		},
	}
}

// Stream describes a method that takes one message and answers with many.
func Stream[In, Out any](name string, f func(ctx context.Context, in *In, send func(*Out) error) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ServerStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			in := new(In)
			if err := s.RecvMsg(in); err != nil {
				return err
			}
			return f(s.Context(), in, func(out *Out) error { return s.SendMsg(out) })
		},
	}
}

// Dial returns a connection to addr. It connects when it is first used, and
// again within moments when the other side was restarted.
func Dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{}), grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
}

// Call calls a unary method and gives it three seconds.
func Call[Out any](ctx context.Context, conn *grpc.ClientConn, service, name string, in any) (*Out, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	out := new(Out)
	if err := conn.Invoke(ctx, "/"+service+"/"+name, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

// Watch calls a streaming method and yields what arrives, until the stream ends
// with an error or the caller stops.
func Watch[Out any](ctx context.Context, conn *grpc.ClientConn, service, name string, in any) iter.Seq2[*Out, error] {
	return func(yield func(*Out, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+service+"/"+name)
		if err == nil {
			err = s.SendMsg(in)
		}
		if err == nil {
			err = s.CloseSend()
		}
		for err == nil {
			out := new(Out)
			if err = s.RecvMsg(out); err == nil && !yield(out, nil) {
				return
			}
		}
		yield(nil, err)
	}
}
