package reach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// Server answers in the pod. Its fields are set before Handle is called.
type Server struct {
	// Process finds the process that is told of, for each question anew, since
	// containers are restarted; nil is this process.
	Process func(context.Context) (Process, error)
	// Network is where connections and questions leave from. Names are resolved with
	// the process's files then. Nil is the network of this process.
	Network Network
	// Hidden are variables of the environment that are the agent's own.
	Hidden []string
	// Own are directories that are the agent's own: mounts at or below them are
	// not the process's.
	Own []string
	// DialTimeout bounds connecting: 30 s.
	DialTimeout time.Duration
	// UDPIdle is how long a UDP flow may be silent: 60 s. UDPFlows is how many a
	// session may have: 1,024.
	UDPIdle  time.Duration
	UDPFlows int
	// FilesPerMount and FilesInAll bound the bytes of a snapshot of files: 16 MiB
	// and 64 MiB.
	FilesPerMount, FilesInAll int64
	Log                       *slog.Logger

	etc, proc   string // directories, "" for /etc and /proc/self
	dnsPort     string // "" for 53
	withoutHear bool   // files are watched by looking again and again
	look        time.Duration
	unanswered  time.Duration // 0 for the constant

	bufs buffers
	mu   sync.Mutex
	udp  map[*stream.Session]int // flows
}

// Handle serves a stream that a laptop has opened. It returns false, and has
// done nothing, if the header is not of this package.
func (v *Server) Handle(ctx context.Context, st *stream.Stream) bool {
	header := string(st.Header())
	if addr, ok := strings.CutPrefix(header, headerTCP); ok {
		v.serveTCP(ctx, st, addr, func(ctx context.Context) (net.Conn, error) {
			return v.beside(ctx, func(ctx context.Context) (net.Conn, error) { return v.dial(ctx, "tcp", addr) })
		})
		return true
	}
	if addr, ok := strings.CutPrefix(header, headerUDP); ok {
		v.serveUDP(ctx, st, addr)
		return true
	}
	if request, ok := strings.CutPrefix(header, headerFiles); ok {
		v.finish(st, "files", v.serveFiles(ctx, st, request))
		return true
	}
	switch header {
	case headerDNS:
		v.finish(st, "dns", v.serveDNS(ctx, st))
	case headerPod:
		v.finish(st, "pod", v.servePod(ctx, st))
	default:
		return false
	}
	return true
}

// finish logs why a conversation has ended early, and tells the laptop.
func (v *Server) finish(st *stream.Stream, what string, err error) {
	if err == nil {
		return
	}
	var reset *stream.ResetError
	if !errors.As(err, &reset) && st.Session().Err() == nil {
		v.Log.Debug("stream ended", "what", what, "err", err)
	}
	st.Reset(stream.CodeAborted)
}

// ServePort connects a stream to a port of the pod itself: on the first of hosts
// that takes the connection.
func (v *Server) ServePort(ctx context.Context, st *stream.Stream, hosts []string, port string) {
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		st.Reset(stream.CodeRefused)
		return
	}
	v.serveTCP(ctx, st, "localhost:"+port, func(ctx context.Context) (net.Conn, error) {
		var first error
		for _, h := range hosts {
			conn, err := v.dial(ctx, "tcp", net.JoinHostPort(h, port))
			if err == nil {
				return conn, nil
			}
			first = cmp.Or(first, err)
		}
		return nil, cmp.Or(first, errors.New("the pod has no address"))
	})
}

func (v *Server) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := checkAddress(addr); err != nil {
		return nil, err
	}
	if v.Network != nil {
		return v.dialFrom(ctx, network, addr)
	}
	d := net.Dialer{Timeout: cmp.Or(v.DialTimeout, 30*time.Second)}
	return d.DialContext(ctx, network, addr)
}

var errGone = errors.New("the laptop has given the connection up")

// serveTCP connects a stream to what dial gives.
func (v *Server) serveTCP(ctx context.Context, st *stream.Stream, addr string, dial func(context.Context) (net.Conn, error)) {
	dctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	s := &splice{far: &Conn{st: st, remote: address{"tcp", addr}, bufs: &v.bufs}}
	dialled := make(chan struct{})
	s.start(func(err error) net.Conn {
		if err != nil {
			giveUp(fmt.Errorf("%w: %w", errGone, err))
		}
		<-dialled
		return s.sock
	})
	sock, err := dial(dctx)
	if err == nil {
		s.sock = sock
	}
	close(dialled)
	sendStatus(st, err)
	if err != nil {
		v.Log.Debug("connection failed", "to", addr, "err", err)
		_ = st.CloseWrite()
		_ = st.Close() // what the laptop has sent already is for nobody
		<-s.up
		return
	}
	s.run(ctx)
}
