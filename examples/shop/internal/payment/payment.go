// Package payment charges cards. No money moves: a card that ends in 0000 and
// an amount above the limit are declined, everything else is paid.
package payment

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/bightdev/bight/examples/shop/internal/rpc"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	limit, err := strconv.Atoi(getenv("PAYMENT_LIMIT", "2000"))
	if err != nil {
		return fmt.Errorf("PAYMENT_LIMIT=%q is not a whole number of euros", os.Getenv("PAYMENT_LIMIT"))
	}
	lis, err := net.Listen("tcp", ":"+getenv("PORT", "7004"))
	if err != nil {
		return err
	}
	t := till{limit: limit * 100}
	srv := grpc.NewServer(rpc.Options(log)...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: shop.Payment,
		Methods:     []grpc.MethodDesc{rpc.Unary(shop.Payment, "Charge", t.charge)},
	}, nil)
	return rpc.Serve(ctx, log, srv, lis)
}

// till takes at most limit cents at a time.
type till struct{ limit int }

func (t till) charge(_ context.Context, in *shop.Charge) (*shop.Receipt, error) {
	card := strings.ReplaceAll(in.Card, " ", "")
	switch {
	case len(card) < 12 || strings.Trim(card, "0123456789") != "":
		return nil, status.Error(codes.InvalidArgument, "this is not a card number")
	case strings.HasSuffix(card, "0000"):
		return nil, status.Error(codes.FailedPrecondition, "the bank declined this card")
	case in.Cents > t.limit:
		return nil, status.Errorf(codes.FailedPrecondition, "more than €%d needs a word with us first", t.limit/100)
	}
	return &shop.Receipt{ID: "R-" + rand.Text()[:8]}, nil
}

func getenv(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
