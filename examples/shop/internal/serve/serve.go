// Package serve runs a service until it is told to stop: [Main] gives it a
// context that ends with SIGTERM and a logger, [HTTP] serves and then finishes
// what is in flight. Nothing here is shared between goroutines.
package serve

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Grace is how long requests in flight may take to finish.
const Grace = 2 * time.Second

// Main runs a service and exits when it returns.
func Main(run func(context.Context, *slog.Logger) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: shortTime}))
	err := run(ctx, log)
	stop()
	if err != nil {
		log.Error("stopped", "err", err)
		os.Exit(1)
	}
	log.Info("bye")
}

// shortTime leaves of a time stamp what helps to read it.
func shortTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String(a.Key, a.Value.Time().Format("15:04:05.000"))
	}
	return a
}

// HTTP serves until ctx ends.
func HTTP(ctx context.Context, log *slog.Logger, srv *http.Server) error {
	lis, err := net.Listen("tcp", srv.Addr)
	if err != nil {
		return err
	}
	srv.Handler = logged(log, srv.Handler)
	srv.ReadHeaderTimeout = 5 * time.Second
	log.Info("listening", "addr", lis.Addr())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Grace)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// logged writes one line per request.
func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		start := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		log.Info(r.Method+" "+r.URL.Path, "status", rec.status, "took", time.Since(start).Round(10*time.Microsecond))
	})
}

// recorder remembers the status. It passes on what streams and WebSockets need.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(r.ResponseWriter).Hijack()
}
