// Package shipping says what a parcel costs and where it is. The voyage of a
// shipment is sent as server-sent events while it happens.
package shipping

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/bightdev/bight/examples/shop/internal/rest"
	"github.com/bightdev/bight/examples/shop/internal/serve"
	"github.com/bightdev/bight/examples/shop/internal/shop"
)

// stages are where a shipment is, one after the other.
var stages = [...]string{"Packed", "On the quay", "At sea", "Delivered"}

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger) error {
	addr, ok := os.LookupEnv("LISTEN_ADDR")
	if !ok {
		addr = ":7005"
	}
	leg, err := time.ParseDuration(cmp.Or(os.Getenv("LEG_TAKES"), "2s"))
	if err != nil {
		return fmt.Errorf("LEG_TAKES=%q is not a time: write for example 2s", os.Getenv("LEG_TAKES"))
	}
	h := &harbour{stop: ctx.Done(), leg: leg, left: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.Handle("POST /quote", rest.Handle(h.quote))
	mux.Handle("POST /shipments", rest.Handle(h.ship))
	mux.HandleFunc("GET /shipments/{id}/events", h.events)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return serve.HTTP(ctx, log, &http.Server{Addr: addr, Handler: mux})
}

// harbour knows when each shipment left.
type harbour struct {
	stop <-chan struct{} // closed when the service is to stop
	leg  time.Duration   // from one stage to the next

	mu   sync.Mutex
	left map[string]time.Time
}

func (h *harbour) quote(r *http.Request) (any, error) {
	var p shop.Parcel
	if err := rest.Read(r, &p); err != nil {
		return nil, err
	}
	if p.Address == "" || p.Pieces < 1 {
		return nil, rest.Errorf(http.StatusUnprocessableEntity, "a parcel needs an address and something in it")
	}
	return quote(p), nil
}

// quote prices a parcel: a flat rate, and a little for each piece.
func quote(p shop.Parcel) shop.Quote {
	return shop.Quote{Cents: 490 + 60*(p.Pieces-1), Days: 2 + p.Pieces/10}
}

func (h *harbour) ship(r *http.Request) (any, error) {
	var p shop.Parcel
	if err := rest.Read(r, &p); err != nil {
		return nil, err
	}
	id := "S-" + rand.Text()[:8]
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left[id] = time.Now()
	return at(id, 0), nil
}

// events sends each stage when the shipment reaches it, and ends with the last.
func (h *harbour) events(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	h.mu.Lock()
	left, ok := h.left[id]
	h.mu.Unlock()
	if !ok {
		http.Error(w, "there is no shipment "+id, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	for stage := range stages {
		select {
		case <-time.After(time.Until(left.Add(time.Duration(stage) * h.leg))):
		case <-r.Context().Done():
			return
		case <-h.stop:
			return
		}
		b, err := json.Marshal(at(id, stage))
		if err != nil {
			return
		}
		fmt.Fprintf(w, "data: %s\n\n", b)
		if flush.Flush() != nil {
			return
		}
	}
}

func at(id string, stage int) shop.Shipment {
	return shop.Shipment{ID: id, Stage: stage, Where: stages[stage], Done: stage == len(stages)-1}
}
