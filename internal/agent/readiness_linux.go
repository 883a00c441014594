package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// firstReady is how long kubelet's first question may wait for its answer. It is
// less than the probe's timeout.
const firstReady = 60 * time.Second

// readiness answers kubelet in the process's stead. Kubelet asks as soon as the
// container runs, which is before the process can serve, and then only after a
// second; so the first question waits until the process is ready. Every other one is
// passed on.
type readiness struct {
	ready func() <-chan struct{}
	ask   func(context.Context) bool
	was   atomic.Bool
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ready := r.ready()
	if !r.was.Load() {
		late := time.NewTimer(firstReady)
		defer late.Stop()
		select {
		case <-ready:
			r.was.Store(true)
			return
		case <-late.C:
		case <-req.Context().Done():
		}
	}
	select {
	case <-ready:
		if r.ask(req.Context()) {
			return
		}
		http.Error(w, "the process says that it cannot serve", http.StatusServiceUnavailable)
	default:
		http.Error(w, "the process is not ready", http.StatusServiceUnavailable)
	}
}

// serveReadiness serves kubelet's questions until ctx ends.
func (a *Agent) serveReadiness(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           &readiness{ready: a.sup.Ready, ask: a.Probe.ask},
		ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
