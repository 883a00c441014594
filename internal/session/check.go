package session

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
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
	return answers(ctx, registry.Push)
}

// answers reports whether anything listens where the registry should be.
func answers(ctx context.Context, registry string) error {
	host, _, _ := strings.Cut(registry, "/")
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "443")
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return &image.RegistryError{Registry: registry, Advice: "nothing answers there; start the cluster that it belongs to (bight cluster start), or name another registry with --registry", Err: err}
	}
	return conn.Close()
}
