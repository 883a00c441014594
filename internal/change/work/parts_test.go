package work

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

func TestPartsGoToDifferentWorkersAndALostOneIsGivenAgainAlone(t *testing.T) {
	o := newOffice(t)
	begun, both := make(chan string, 8), make(chan struct{})
	doer := func(name string, stay bool) Doer {
		return func(ctx context.Context, order Order, _ io.Writer) Result {
			begun <- name
			<-both // else one could do both, one after the other
			if stay {
				<-ctx.Done()
			}
			return Result{State: Passed}
		}
	}
	kill := o.employ(Hello{Name: "ada", Slots: 4}, doer("ada", true))
	o.employ(Hello{Name: "bob", Slots: 4}, doer("bob", false))
	order := Order{Namespace: "n", App: "a", Change: "c", Step: "test", Commit: "x"}
	for deadline := time.After(20 * time.Second); len(o.hub.Free(order)) < 2; {
		select {
		case <-deadline:
			t.Fatalf("of two workers there are %v", o.hub.Free(order))
		case <-time.After(time.Millisecond):
		}
	}
	for part := 1; part <= 2; part++ {
		of := order
		of.Part = part
		o.hub.Offer(of)
		o.hub.Offer(of) // twice does no harm
	}
	first, second := <-begun, <-begun
	close(both)
	if first == second {
		t.Errorf("%s has both parts", first)
	}
	o.book.until(t, "bob's part is done", func() bool { return len(o.book.done["test"]) == 1 })
	kill()
	o.book.until(t, "ada's part is done by bob", func() bool { return len(o.book.done["test"]) == 2 && len(o.book.leased["test"]) > 2 })
	o.book.see(func() {
		if got := strings.Join(o.book.leased["test"], " "); strings.Count(got, "#0") != 2 || strings.Count(got, "bob#1") != 1 || len(o.book.leased["test"]) != 3 {
			t.Errorf("leases: %s", got)
		}
		if n := len(o.book.done["test"]); n != 2 {
			t.Errorf("%d results count, want 2", n)
		}
	})
}
