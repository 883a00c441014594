package work

import (
	"context"
	"sync"
)

// telling is what people are told of what an order's step does.
type telling struct {
	known  bool // that somebody has the order is written down
	text   string
	untold bool
	busy   bool // somebody tells it
}

// doing has it told what a step does. The worker does not wait for that.
func (h *Hub) doing(ctx context.Context, j *job, text string, tasks *sync.WaitGroup) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j.text, j.untold = text, true
	if j.known && !j.busy {
		j.busy = true
		o := j.Order
		tasks.Go(func() { h.tell(ctx, j, o) })
	}
}

// noted has told what a step did before it was written down who does it.
func (h *Hub) noted(ctx context.Context, w *worker, o Order) {
	j, ok := h.holds(w, o.ID(), o.Lease)
	if !ok {
		return
	}
	h.mu.Lock()
	j.known = true
	begin := j.untold && !j.busy
	j.busy = j.busy || begin
	h.mu.Unlock()
	if begin {
		h.tell(ctx, j, o)
	}
}

// tell tells the newest until there is nothing new, as long as the lease is the order's.
func (h *Hub) tell(ctx context.Context, j *job, o Order) {
	for {
		h.mu.Lock()
		if j.Lease != o.Lease {
			h.mu.Unlock()
			return
		}
		if !j.untold {
			j.busy = false
			h.mu.Unlock()
			return
		}
		text := j.text
		j.untold = false
		h.mu.Unlock()
		if err := h.Keeper.Doing(ctx, o, text); err != nil {
			h.Log.Debug("what a step does is not told", "order", o.ID(), "err", err)
		}
	}
}
