package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/cluster/internal/component"
	"github.com/bightdev/bight/cluster/internal/pause"
	"github.com/bightdev/bight/cluster/internal/registry"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// openDoors opens the ways in: the API server's and the registry's ports on this
// machine and the way to the pods, the registry's on each node and for pods, and the
// gate.
func (s *Supervisor) openDoors(ctx context.Context) error {
	api, err := hostPort("API server", s.Cluster.APIHostPort, s.Cluster)
	if err != nil {
		return err
	}
	s.carry(ctx, api, s.dialAPI)

	gate, err := s.nodes[0].ns.Listen(net.JoinHostPort(s.nodes[0].Address, strconv.Itoa(spec.GatePort)))
	if err != nil {
		return err
	}
	s.carry(ctx, gate, s.dialReadyAPI)
	s.openPods(ctx)

	host, err := hostPort("registry", s.Cluster.RegistryHostPort, s.Cluster)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registry.Handler(ctx, s.Cluster.Path("registry")), ReadHeaderTimeout: time.Minute}
	s.serve(ctx, server, host)
	for _, n := range s.nodes {
		l, err := n.ns.Listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.RegistryPort)))
		if err != nil {
			return err
		}
		s.serve(ctx, server, l)
	}
	pods, err := s.nodes[0].ns.Listen(net.JoinHostPort(s.nodes[0].Address, strconv.Itoa(spec.RegistryPort)))
	if err != nil {
		return err
	}
	s.serve(ctx, &http.Server{Handler: readOnly(server.Handler), ReadHeaderTimeout: time.Minute}, pods)
	return s.pushPause(ctx)
}

// readOnly is the registry as pods see it: they may look, and can't change what
// others run.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "pods can't push to this registry: push from the machine that the cluster runs on", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostPort opens a port of this machine.
func hostPort(what string, port int, c *spec.Cluster) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("open port %d for the %s on this machine: %w; end the program that holds the port (ss -ltnp shows it), or choose another port in %s",
			port, what, err, c.Path("cluster.json"))
	}
	return l, nil
}

// serve serves l until ctx ends.
func (s *Supervisor) serve(ctx context.Context, server *http.Server, l net.Listener) {
	context.AfterFunc(ctx, func() { _ = server.Close() })
	s.work.Go(func() {
		if err := server.Serve(l); err != nil && ctx.Err() == nil {
			s.Log.Error("serve", "address", l.Addr().String(), "error", err)
		}
	})
}

// pushPause makes sure that the registry has the sandbox image.
func (s *Supervisor) pushPause(ctx context.Context) error {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Cluster.RegistryHostPort))
	ref, err := name.ParseReference(address+"/"+component.PauseRepository, name.Insecure)
	if err != nil {
		return err
	}
	image, err := pause.Image(s.Tools.Arch)
	if err != nil {
		return err
	}
	want, err := image.Digest()
	if err != nil {
		return err
	}
	if have, err := remote.Head(ref, remote.WithContext(ctx)); err == nil && have.Digest == want {
		return nil
	}
	if err := remote.Write(ref, image, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push the sandbox image: %w; the registry's directory is %s", err, s.Cluster.Path("registry"))
	}
	return nil
}

// dialAPI connects to the API server.
func (s *Supervisor) dialAPI(ctx context.Context) (net.Conn, error) {
	return s.nodes[0].ns.Dial(ctx, net.JoinHostPort(s.nodes[0].Address, strconv.Itoa(spec.APIPort)))
}

// dialReadyAPI connects to the API server once it is ready. Who starts before it,
// or outlives it, waits here instead of failing and pausing for longer each time.
func (s *Supervisor) dialReadyAPI(ctx context.Context) (net.Conn, error) {
	select {
	case <-s.apiReady:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var conn net.Conn
	err := until(ctx, 30*time.Second, func() (err error) {
		conn, err = s.dialAPI(ctx)
		return err
	})
	return conn, err
}

// carry joins the connections that a listener accepts to those that dial makes,
// until ctx ends.
func (s *Supervisor) carry(ctx context.Context, from net.Listener, dial func(context.Context) (net.Conn, error)) {
	s.accept(ctx, from, func(outer net.Conn) { s.carryOne(ctx, outer, dial) })
}

// accept gives each connection that a listener accepts to serve, until ctx ends.
func (s *Supervisor) accept(ctx context.Context, from net.Listener, serve func(net.Conn)) {
	context.AfterFunc(ctx, func() { from.Close() })
	s.work.Go(func() {
		for {
			outer, err := from.Accept()
			if err == nil {
				s.work.Go(func() { serve(outer) })
				continue
			}
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, or a peer that left early.
			s.Log.Warn("accept", "address", from.Addr().String(), "error", err)
			pauseFor(ctx, 10*time.Millisecond)
		}
	})
}

func (s *Supervisor) carryOne(ctx context.Context, outer net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer outer.Close()
	inner, err := dial(ctx)
	if err != nil {
		s.Log.Debug("connect", "error", err)
		return
	}
	defer inner.Close()
	stop := context.AfterFunc(ctx, func() { outer.Close(); inner.Close() })
	defer stop()
	join(outer.(*net.TCPConn), inner.(*net.TCPConn))
}

// join copies both ways until both directions have ended. Between two TCP
// connections the kernel moves the bytes (splice).
func join(a, b *net.TCPConn) {
	var g errgroup.Group
	copyTo := func(to, from *net.TCPConn) func() error {
		return func() error {
			if _, err := io.Copy(to, from); err != nil {
				from.Close()
				to.Close()
				return err
			}
			return to.CloseWrite()
		}
	}
	g.Go(copyTo(a, b))
	g.Go(copyTo(b, a))
	_ = g.Wait() // a broken connection is its two ends' affair
}
