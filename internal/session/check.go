package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
)

// check finds what would keep the app from coming up while nothing has been
// changed yet: a right, the registry, the local port.
func (s *Session) check(ctx context.Context, once bool) error {
	if s.Port != 0 && !once {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(s.Port))
		if err != nil {
			return fmt.Errorf("port %d is already in use on this machine: stop what listens there, or name another with --port: %w", s.Port, err)
		}
		l.Close()
	}
	objects, err := Manifests(s.plan(), s.environment)
	if err != nil {
		return err
	}
	if err := s.applier.Preflight(ctx, s.environment, objects, deploy.SessionRights()...); err != nil {
		return s.Cluster.Explain(err)
	}
	registry, err := FindRegistry(ctx, s.Cluster, s.Registry)
	if err != nil {
		return err
	}
	const patience = 5 * time.Second
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = image.Reachable(limited, registry, http.DefaultTransport)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &image.RegistryError{Registry: registry.Push, Advice: "check its name and the network", Err: fmt.Errorf("no answer within %s", patience)}
	}
	return err
}
