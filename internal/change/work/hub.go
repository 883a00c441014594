package work

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Keeper is told what becomes of orders, and writes it down. Its methods are called
// from several goroutines; an order may be done before Leased has returned.
type Keeper interface {
	// Leased is called when a worker gets the order. An error takes it from the worker
	// again; the order is then forgotten.
	Leased(ctx context.Context, o Order, worker string) error
	// Done is called with the result. The worker hears that it counted when nil is
	// returned; until then it keeps it.
	Done(ctx context.Context, o Order, worker string, r Result) error
	// Doing is called with what the step does now, "" for nothing in particular, after
	// Leased. What an order does is told in order; of what comes fast, the newest.
	Doing(ctx context.Context, o Order, text string) error
	// Log is called with what the step prints.
	Log(o Order, b []byte)
}

// Hub gives orders to workers.
type Hub struct {
	Keeper Keeper
	// May tells whether somebody who connects may work for an app: nil is an error to
	// be shown to them. It is asked for each app that a worker names, or once with ""
	// for one that names none.
	May func(r *http.Request, app string) error
	Log *slog.Logger

	mu      sync.Mutex
	waiting []*job
	leased  map[string]*job // by id
	workers map[*worker]bool
}

// job is an order and where it is.
type job struct {
	Order
	worker *worker // nil: waits
	losses int
	// over tells that the worker is done with it, and only its result is to be written down.
	over bool
	telling
}

type worker struct {
	Hello
	conn *websocket.Conn
	busy int
	// draining tells that it takes no more orders.
	draining bool
	// order has what was leased to it and is to be sent; it never blocks.
	order chan message
}

// Offer has a worker do the order, unless it is on offer or being done.
func (h *Hub) Offer(o Order) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := o.ID()
	if h.leased[id] != nil || slices.ContainsFunc(h.waiting, func(j *job) bool { return j.ID() == id }) {
		return
	}
	h.waiting = append(h.waiting, &job{Order: o})
	h.dispatch()
}

// Withdraw takes back every order that keep is false of; a worker that is at one
// stops.
func (h *Hub) Withdraw(why string, keep func(Order) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = slices.DeleteFunc(h.waiting, func(j *job) bool { return !keep(j.Order) })
	for id, j := range h.leased {
		if keep(j.Order) {
			continue
		}
		delete(h.leased, id)
		j.worker.send(message{Stop: why, ID: id, Lease: j.Lease})
		j.free()
	}
	h.dispatch()
}

// Place says where an order is, for people: "", "waits for a worker" or the name of
// the worker.
func (h *Hub) Place(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if j := h.leased[id]; j != nil {
		return j.worker.Name
	}
	for _, j := range h.waiting {
		if j.ID() == id {
			return "waits for a worker"
		}
	}
	return ""
}

// Load is how many orders wait for a worker, how many one has, and how many workers
// there are.
func (h *Hub) Load() (waiting, leased, workers int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting), len(h.leased), len(h.workers)
}

// Workers returns the names of the workers that work for an app.
func (h *Hub) Workers(app string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for w := range h.workers {
		if len(w.Apps) == 0 || slices.Contains(w.Apps, app) {
			names = append(names, w.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Takes reports whether there is a worker for an app's orders, or for those about what
// strangers have made.
func (h *Hub) Takes(app string, untrusted bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.workers {
		if !w.draining && (w.Untrusted || !untrusted) && (len(w.Apps) == 0 || slices.Contains(w.Apps, app)) {
			return true
		}
	}
	return false
}

// Free returns the names of the workers that could take an order now.
func (h *Hub) Free(o Order) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for w := range h.workers {
		if w.takes(o) {
			names = append(names, w.Name)
		}
	}
	slices.Sort(names)
	return names
}

// parts is how many parts of an order's step a worker has.
func (h *Hub) parts(w *worker, o Order) int {
	n := 0
	for _, j := range h.leased {
		if j.worker == w && o.Part > 0 && j.Part > 0 && j.Change == o.Change && j.Namespace == o.Namespace && j.Step == o.Step {
			n++
		}
	}
	return n
}

// dispatch gives what waits to whoever is free, oldest first, to the least busy, but
// the parts of a step to different workers.
func (h *Hub) dispatch() {
	h.waiting = slices.DeleteFunc(h.waiting, func(j *job) bool {
		var best *worker
		for w := range h.workers {
			if w.takes(j.Order) && (best == nil || cmp.Or(cmp.Compare(h.parts(w, j.Order), h.parts(best, j.Order)), cmp.Compare(w.busy, best.busy)) < 0) {
				best = w
			}
		}
		if best == nil {
			return false
		}
		j.worker = best
		best.busy++
		h.leased[j.ID()] = j
		o := j.Order
		best.send(message{Order: &o, ID: j.ID(), Lease: j.Lease})
		return true
	})
}

func (w *worker) takes(o Order) bool {
	return !w.draining && w.busy < w.Slots && (w.Untrusted || !o.Untrusted) &&
		(len(w.Apps) == 0 || slices.Contains(w.Apps, o.Namespace+"/"+o.App))
}

// send hands a message to the worker's connection. The channel holds more than its
// slots can make; a worker for whom it is full is beyond help.
func (w *worker) send(m message) {
	select {
	case w.order <- m:
	default:
		_ = w.conn.CloseNow()
	}
}

// ServeHTTP serves one worker until its connection ends.
func (h *Hub) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(rw, r, nil)
	if err != nil {
		return // it has been answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxHello)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	w := &worker{conn: conn, order: make(chan message, 1024)}
	if err := h.greet(ctx, r, w); err != nil {
		_ = conn.Close(websocket.StatusPolicyViolation, brief(err.Error()))
		return
	}
	conn.SetReadLimit(maxFrame)
	log := h.Log.With("worker", w.Name)
	log.Info("worker connected", "version", w.Version, "slots", w.Slots)
	var tasks sync.WaitGroup
	tasks.Go(func() { cancel(alive(ctx, conn)) })
	tasks.Go(func() { cancel(h.deliver(ctx, w, &tasks)) })
	h.enter(w)
	err = h.hear(ctx, w, &tasks)
	cancel(err)
	_ = conn.CloseNow()
	tasks.Wait()
	lost := h.leave(w, websocket.CloseStatus(err) == websocket.StatusGoingAway)
	log.Info("worker gone", "why", context.Cause(ctx), "lost", lost)
}

// greet reads who is there.
func (h *Hub) greet(ctx context.Context, r *http.Request, w *worker) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	m, err := receive(ctx, w.conn)
	if err != nil {
		return fmt.Errorf("read who you are: %w", err)
	}
	if m.Hello == nil || m.Hello.Name == "" || m.Hello.Slots < 1 || m.Hello.Slots > 64 || len(m.Hello.Apps) > 256 {
		return errors.New("the first message says who you are: a name and 1 to 64 slots")
	}
	w.Hello = *m.Hello
	apps := w.Apps
	if len(apps) == 0 {
		apps = []string{""}
	}
	for _, app := range apps {
		if err := h.May(r, app); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hub) enter(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.workers == nil {
		h.workers, h.leased = map[*worker]bool{}, map[string]*job{}
	}
	h.workers[w] = true
	h.dispatch()
}

// leave puts what a worker had back in the queue, under new leases, and returns how
// many orders that are. What a draining worker hands back when its time is over is not
// held against the step.
func (h *Hub) leave(w *worker, goodbye bool) int {
	h.mu.Lock()
	handed := goodbye && w.draining
	delete(h.workers, w)
	var given []*job
	var lost []*job
	for id, j := range h.leased {
		if j.worker != w {
			continue
		}
		delete(h.leased, id)
		j.worker, j.over, j.telling = nil, false, telling{}
		j.Lease++
		if !handed {
			j.losses++
		}
		if j.losses >= maxLosses {
			given = append(given, j)
		} else {
			lost = append(lost, j)
		}
	}
	h.waiting = append(lost, h.waiting...)
	h.dispatch()
	h.mu.Unlock()
	for _, j := range given {
		r := Result{State: Erred, Message: fmt.Sprintf("%d workers were lost while they did this step, the last was %s", j.losses, w.Name)}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if err := h.Keeper.Done(ctx, j.Order, w.Name, r); err != nil {
			h.Log.Warn("a step that is given up is not written down", "order", j.ID(), "err", err)
		}
		cancel()
	}
	return len(given) + len(lost)
}

// deliver sends orders, and has written down who has them.
func (h *Hub) deliver(ctx context.Context, w *worker, tasks *sync.WaitGroup) error {
	for {
		var m message
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m = <-w.order:
		}
		if m.Order != nil {
			tasks.Go(func() { h.note(ctx, w, *m.Order) })
		}
		if err := transmit(ctx, w.conn, m); err != nil {
			return err
		}
	}
}

// note has it written down that w has an order. The worker does not wait for that: if
// it can't be, the order is taken back.
func (h *Hub) note(ctx context.Context, w *worker, o Order) {
	err := h.Keeper.Leased(ctx, o, w.Name)
	if err == nil {
		h.noted(ctx, w, o)
		return
	}
	if _, ok := h.release(w, o.ID(), o.Lease); ok {
		h.Log.Info("order taken back", "order", o.ID(), "err", err)
		w.send(message{Stop: err.Error(), ID: o.ID(), Lease: o.Lease})
	}
}

// release forgets a lease and reports whether w had it.
func (h *Hub) release(w *worker, id string, lease int32) (*job, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.leased[id]
	if j == nil || j.worker != w || j.Lease != lease {
		return nil, false
	}
	delete(h.leased, id)
	j.free()
	h.dispatch()
	return j, true
}

// ended gives back the place of an order whose worker has sent its result: what the
// result makes due can then go to that worker as well.
func (h *Hub) ended(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j.free()
	h.dispatch()
}

// free gives the worker's place back, once.
func (j *job) free() {
	if !j.over {
		j.over = true
		j.worker.busy--
	}
}

func (h *Hub) holds(w *worker, id string, lease int32) (*job, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.leased[id]
	return j, j != nil && j.worker == w && j.Lease == lease
}

// hear takes what a worker says. It never waits for the Keeper with a result: a worker
// that is not listened to would seem dead.
func (h *Hub) hear(ctx context.Context, w *worker, tasks *sync.WaitGroup) error {
	for {
		m, err := receive(ctx, w.conn)
		if err != nil {
			return err
		}
		j, ok := h.holds(w, m.ID, m.Lease)
		switch {
		case m.Drain:
			h.drain(w)
		case m.Result != nil && !ok:
			w.send(message{ID: m.ID, Lease: m.Lease, Refused: "the step is no longer yours"})
		case m.Result != nil:
			h.ended(j)
			tasks.Go(func() { h.finish(ctx, w, j.Order, *m.Result) })
		case ok && m.Doing != nil:
			h.doing(ctx, j, *m.Doing, tasks)
		case ok && len(m.Log) > 0:
			h.Keeper.Log(j.Order, m.Log)
		}
	}
}

// drain gives a worker no more orders, and tells it when that is so.
func (h *Hub) drain(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.draining = true
	w.send(message{Drain: true})
}

// finish has a result written down, and tells the worker.
func (h *Hub) finish(ctx context.Context, w *worker, o Order, r Result) {
	answer := message{ID: o.ID(), Lease: o.Lease, Counted: true}
	if err := h.Keeper.Done(ctx, o, w.Name, r); err != nil {
		answer.Counted, answer.Refused = false, err.Error()
	}
	h.release(w, o.ID(), o.Lease)
	w.send(answer)
}

// alive asks the other end once a beat whether it is there, and returns when it does
// not say so.
func alive(ctx context.Context, conn *websocket.Conn) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		ask, cancel := context.WithTimeout(ctx, silence)
		err := conn.Ping(ask)
		cancel()
		if err != nil {
			return fmt.Errorf("silent for %s: %w", silence, err)
		}
	}
}

func receive(ctx context.Context, conn *websocket.Conn) (message, error) {
	var m message
	_, b, err := conn.Read(ctx)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read a message: %w", err)
	}
	return m, nil
}

func transmit(ctx context.Context, conn *websocket.Conn, m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return conn.Write(ctx, websocket.MessageText, b)
}

// brief is a reason that fits a close frame.
func brief(s string) string {
	if len(s) > 120 {
		s = s[:117] + "..."
	}
	return s
}
