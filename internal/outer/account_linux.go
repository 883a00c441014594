package outer

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/bightdev/bight/internal/change/controller"
	"github.com/bightdev/bight/internal/cli"
	"github.com/bightdev/bight/internal/release/control"
	"github.com/bightdev/bight/internal/stats/journal"
	"github.com/bightdev/bight/internal/stats/ledger"
	"github.com/bightdev/bight/internal/stats/meter"
	"github.com/bightdev/bight/internal/stats/traces"
)

// account has a controller remember, count and tell how changes and releases go.
func account(c *controller.Controller, releases *control.Controller, s cli.ControllerSettings) {
	var sender *traces.Sender
	if traces.Wanted() {
		sender = &traces.Sender{To: traces.Collector(), Version: s.Version, Log: s.Log}
	}
	m := meter.New(s.Version, func() meter.Load {
		waiting, leased, workers := c.Load()
		unsent, lost := sender.Load()
		return meter.Load{Waiting: waiting, Leased: leased, Workers: workers, Traces: unsent, Lost: lost}
	})
	l := &ledger.Ledger{
		Journal: &journal.Journal{Dir: filepath.Join(s.Dir, "journal")},
		Meter:   m, Traces: sender, Place: c.PlaceOf, ChangeOf: c.ChangeOf, Log: s.Log,
	}
	c.Ledger, releases.Seen, releases.Observed = l, l.Release, m.Observed
	c.Always = func(ctx context.Context) error {
		var tasks sync.WaitGroup
		defer tasks.Wait()
		if sender != nil {
			tasks.Go(func() { sender.Run(ctx) })
		}
		if s.Metrics != "" {
			serve(ctx, s.Metrics, m.Handler(func(r *http.Request) (int, error) { return c.MayScrape(r, meter.Path) }, metrics.Registry), s.Log)
		}
		<-ctx.Done()
		return nil
	}
}

// serve serves metrics until ctx ends. The controller does its work without, too.
func serve(ctx context.Context, address string, h http.Handler, log *slog.Logger) {
	server := &http.Server{
		Addr: address, Handler: h, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		log.Error("metrics are not served", "address", address, "err", err)
	}
}
