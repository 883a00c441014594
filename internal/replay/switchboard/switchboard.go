// Package switchboard stands between a command and the services that it calls: it passes
// calls on and records them, or answers them from a recording.
//
// The main type is [Board]. The bridge asks [Board.Connect] for each TCP connection of the
// command. A connection on which HTTP/1 or HTTP/2 in the clear is spoken is served here,
// request by request. Any other, TLS among them, is passed on as it is, or refused where
// there is no way. All exported methods are safe for concurrent use; what a board has
// started has ended when Close returns.
package switchboard

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/bightdev/bight/internal/bridge/propagate"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay/calls"
)

// Board stands between a command and the services that it calls, for one round. Record
// and Answer make it, Close ends it.
type Board struct {
	recorder  *calls.Recorder // or
	answers   *calls.Answers
	namespace string
	places    []string
	log       *slog.Logger

	ctx     context.Context // of all connections
	stop    context.CancelFunc
	serving sync.WaitGroup

	mu    sync.Mutex
	cause string        // the replayed request that is under way
	under int           // calls under way
	idle  chan struct{} // closed when there are none
	other map[string]int
}

// Record returns a board that passes all on and records what is HTTP, without what the
// rules hide. In namespace, names of hosts are short.
func Record(ctx context.Context, namespace string, rules evidence.Rules, log *slog.Logger) *Board {
	b := open(ctx, log)
	b.recorder, b.namespace = &calls.Recorder{Rules: rules}, namespace
	return b
}

// Answer returns a board that answers what is HTTP from a recording, and passes on the rest.
func Answer(ctx context.Context, r *calls.Recording, log *slog.Logger) *Board {
	b := open(ctx, log)
	b.answers, b.namespace, b.places = calls.NewAnswers(r), r.Namespace, r.Places()
	return b
}

func open(ctx context.Context, log *slog.Logger) *Board {
	b := &Board{log: log, other: map[string]int{}, idle: make(chan struct{})}
	close(b.idle)
	b.ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	return b
}

// Close ends all connections.
func (b *Board) Close() {
	b.stop()
	b.serving.Wait()
}

// Places are the HOST:PORT that are answered for without anybody else.
func (b *Board) Places() []string { return b.places }

// Host is how places name a host.
func (b *Board) Host(name string) string { return calls.Host(name, b.namespace) }

// Refuse takes note of what the command could not have, though nobody was asked.
func (b *Board) Refuse(what, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answers != nil {
		b.answers.Refuse(what, why)
	}
}

// Begin says which request is sent to the command.
func (b *Board) Begin(p *evidence.Pair) {
	traces := propagate.Traces(func(name string) (string, bool) {
		v := p.Request.Header[http.CanonicalHeaderKey(name)]
		return append(v, "")[0], len(v) > 0
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cause = p.ID
	if b.recorder != nil {
		b.recorder.Begin(p.ID, traces)
	} else {
		b.answers.Begin(p.ID, traces)
	}
}

// End says that it was answered, and returns which calls since then had no answer, and
// which had one with values that were hidden: some of them, if they are many.
func (b *Board) End() (lacks, hidden []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recorder != nil {
		b.recorder.End()
		return nil, nil
	}
	b.answers.End()
	misses, without := b.answers.Of(b.cause)
	for _, m := range without {
		hidden = append(hidden, m.Call)
	}
	return calls.Some(texts(misses)), calls.Some(hidden)
}

func texts(misses []calls.Miss) (out []string) {
	for _, m := range misses {
		out = append(out, m.Text())
	}
	return out
}

// Misses are the calls up to now to which the recording had no answer.
func (b *Board) Misses() []calls.Miss {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answers == nil {
		return nil
	}
	return b.answers.Misses()
}

// Other is where connections led to that are no HTTP and were passed on.
func (b *Board) Other() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.other))
}

// Recording is what was recorded up to now, and how many calls had no room.
func (b *Board) Recording(release string) (r *calls.Recording, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recorder.Recording(release, b.namespace), b.recorder.Dropped
}

// Settle waits until no call is under way, or ctx ends.
func (b *Board) Settle(ctx context.Context) {
	b.mu.Lock()
	idle := b.idle
	b.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// enter and leave count the calls under way.
func (b *Board) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.under++; b.under == 1 {
		b.idle = make(chan struct{})
	}
}

func (b *Board) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.under--; b.under == 0 {
		close(b.idle)
	}
}
