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
// passed on. While somebody replaces the process the pod is ready, since it is they
// who answer; and what comes after them is as good as new.
type readiness struct {
	ready    func() <-chan struct{}
	ask      func(context.Context) bool
	replaced func() bool
	was      atomic.Bool
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.replaced() {
		r.was.Store(false)
		return
	}
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
	why := "the process is not ready"
	select {
	case <-ready:
		if r.ask(req.Context()) {
			return
		}
		why = "the process says that it cannot serve"
	default:
	}
	if !r.replaced() { // meanwhile
		http.Error(w, why, http.StatusServiceUnavailable)
	}
}

// serveReadiness serves kubelet's questions until ctx ends.
func (a *Agent) serveReadiness(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           &readiness{ready: a.sup.Ready, ask: a.Probe.Ask, replaced: func() bool { return a.sup.HeldBy() != "" }},
		ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
