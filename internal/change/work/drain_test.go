package work

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// draining starts a worker that can be drained.
func (o *office) draining(hello Hello, do Doer) (drain, kill func(), ended <-chan error) {
	told, over := make(chan struct{}), make(chan error, 1)
	connected := make(chan struct{}, 8)
	c := &Client{
		Hello: hello, Do: do, Log: slog.New(slog.DiscardHandler), Drain: told,
		Dial: func(ctx context.Context) (*websocket.Conn, error) {
			conn, _, err := websocket.Dial(ctx, o.url, nil)
			return conn, err
		},
		Connected: func() { connected <- struct{}{} },
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.t.Cleanup(cancel)
	go func() { over <- c.Run(ctx) }()
	<-connected
	return func() { close(told) }, cancel, over
}

// drains waits until the hub knows of a worker that drains.
func (o *office) drains(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		o.hub.mu.Lock()
		var is bool
		for w := range o.hub.workers {
			is = is || w.draining
		}
		o.hub.mu.Unlock()
		if is {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the hub does not hear of it")
		}
		runtime.Gosched()
	}
}

func TestAWorkerThatIsDrainedFinishesWhatItIsAtAndTakesNoMore(t *testing.T) {
	o := newOffice(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	drain, _, ended := o.draining(Hello{Name: "ada", Slots: 2}, func(ctx context.Context, _ Order, _ io.Writer) Result {
		close(begun)
		select {
		case <-ctx.Done():
			return Result{State: Erred}
		case <-finish:
			return Result{State: Passed}
		}
	})
	o.hub.Offer(order("build"))
	<-begun
	drain()
	o.drains(t)
	o.hub.Offer(order("test"))
	if o.hub.Place(order("test").ID()) != "waits for a worker" {
		t.Error("a worker that drains was given another order")
	}
	close(finish)
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	o.employ(Hello{Name: "bob", Slots: 1}, pass)
	o.book.until(t, "both are done", func() bool { return len(o.book.done["build"]) == 1 && len(o.book.done["test"]) == 1 })
	o.book.see(func() {
		if got := o.book.done["build"][0].State; got != Passed {
			t.Errorf("what was under way is %s", got)
		}
	})
}

func TestAnIdleWorkerThatIsDrainedEndsAtOnce(t *testing.T) {
	o := newOffice(t)
	drain, _, ended := o.draining(Hello{Name: "ada", Slots: 2}, pass)
	drain()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestWhatADrainingWorkerHandsBackIsNotHeldAgainstTheStep(t *testing.T) {
	o := newOffice(t)
	o.hub.Offer(order("build"))
	for i := range maxLosses + 2 {
		begun := make(chan struct{})
		drain, kill, ended := o.draining(Hello{Name: "ada", Slots: 1}, func(ctx context.Context, _ Order, _ io.Writer) Result {
			close(begun)
			<-ctx.Done()
			return Result{}
		})
		<-begun
		drain()
		o.drains(t)
		kill()
		<-ended
		o.book.see(func() {
			if n := len(o.book.done["build"]); n != 0 {
				t.Fatalf("it was given up after %d workers", i+1)
			}
		})
	}
	o.employ(Hello{Name: "bob", Slots: 1}, pass)
	o.book.until(t, "it is done", func() bool { return len(o.book.done["build"]) == 1 })
}
