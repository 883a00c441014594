package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
)

// book is a Keeper that remembers.
type book struct {
	mu     sync.Mutex
	leased map[string][]string // workers, by order
	done   map[string][]Result
	logs   map[string]string
	doings []string
	gate   chan struct{}    // where it is not nil, Leased waits for it to be closed
	refuse map[string]error // of Done
	unfit  map[string]error // of Leased
	during func(Order)      // called by Done
	more   chan struct{}    // closed and renewed with each entry
}

func newBook() *book {
	return &book{leased: map[string][]string{}, done: map[string][]Result{}, logs: map[string]string{}, refuse: map[string]error{}, unfit: map[string]error{}, more: make(chan struct{})}
}

func (b *book) write(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	close(b.more)
	b.more = make(chan struct{})
}

func (b *book) Leased(_ context.Context, o Order, worker string) error {
	var err error
	if b.gate != nil {
		<-b.gate
	}
	b.write(func() {
		b.leased[o.Step] = append(b.leased[o.Step], fmt.Sprintf("%s#%d", worker, o.Lease))
		err = b.unfit[o.Step]
	})
	return err
}

func (b *book) Done(_ context.Context, o Order, _ string, r Result) error {
	b.mu.Lock()
	err, during := b.refuse[o.Step], b.during
	b.mu.Unlock()
	if during != nil {
		during(o)
	}
	b.write(func() {
		if err == nil {
			b.done[o.Step] = append(b.done[o.Step], r)
		}
	})
	return err
}

func (b *book) Doing(_ context.Context, o Order, text string) error {
	b.write(func() { b.doings = append(b.doings, fmt.Sprintf("%s of %d: %s", o.Step, len(b.leased[o.Step]), text)) })
	return nil
}

func (b *book) Log(o Order, p []byte) { b.write(func() { b.logs[o.Step] += string(p) }) }

// until waits until something is true of the book.
func (b *book) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		b.mu.Lock()
		ok, more := is(), b.more
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-more:
		case <-deadline:
			b.see(func() { t.Fatalf("%s: not after 20 s; leased %v, done %v", what, b.leased, b.done) })
		}
	}
}

// see looks at the book, which others may write.
func (b *book) see(look func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	look()
}

type office struct {
	t    *testing.T
	book *book
	hub  *Hub
	url  string
}

func newOffice(t *testing.T) *office {
	b := newBook()
	h := &Hub{Keeper: b, Log: slog.New(slog.DiscardHandler), May: func(r *http.Request, app string) error {
		if r.Header.Get("X-Stranger") != "" {
			return errors.New("strangers do not work here")
		}
		return nil
	}}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &office{t: t, book: b, hub: h, url: s.URL}
}

// employ starts a worker and returns what ends it, as a crash does.
func (o *office) employ(hello Hello, do Doer) (kill func()) {
	ctx, cancel := context.WithCancel(context.Background())
	connected := make(chan struct{})
	var once sync.Once
	c := &Client{
		Hello: hello, Do: do, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (*websocket.Conn, error) {
			conn, _, err := websocket.Dial(ctx, o.url, nil)
			return conn, err
		},
		Connected: func() { once.Do(func() { close(connected) }) },
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Run(ctx)
	}()
	<-connected
	kill = func() { cancel(); <-ended }
	o.t.Cleanup(kill)
	return kill
}

func order(step string) Order {
	return Order{Namespace: "shop", App: "shop", Change: "shop-1", Step: step, Commit: "c0ffee"}
}

func pass(context.Context, Order, io.Writer) Result { return Result{State: Passed} }

func TestOrderIsDoneAndItsResultCounts(t *testing.T) {
	o := newOffice(t)
	o.employ(Hello{Name: "ada", Slots: 2}, func(_ context.Context, got Order, log io.Writer) Result {
		fmt.Fprintf(log, "doing %s", got.Step)
		return Result{State: Passed, Message: got.Commit, Files: map[string][]byte{"a": []byte("b")}}
	})
	o.hub.Offer(order("build"))
	o.book.until(t, "build", func() bool { return len(o.book.done["build"]) == 1 })
	o.book.see(func() {
		got := o.book.done["build"][0]
		if got.Message != "c0ffee" || string(got.Files["a"]) != "b" || o.book.logs["build"] != "doing build" {
			t.Errorf("result %+v, log %q", got, o.book.logs["build"])
		}
	})
}

// What a step does is told once it is written down who does it: the newest, and then what comes.
func TestWhatAStepDoesIsTold(t *testing.T) {
	o := newOffice(t)
	o.book.gate = make(chan struct{})
	next := make(chan struct{})
	o.employ(Hello{Name: "ada", Slots: 1}, func(_ context.Context, _ Order, log io.Writer) Result {
		log.(Teller).Doing("fetching")
		log.(Teller).Doing("checking out")
		fmt.Fprint(log, "x")
		<-next
		log.(Teller).Doing("")
		<-next
		return Result{State: Passed}
	})
	o.hub.Offer(order("test"))
	o.book.until(t, "log", func() bool { return o.book.logs["test"] == "x" }) // it comes after what was to be told
	close(o.book.gate)
	o.book.until(t, "told", func() bool { return len(o.book.doings) == 1 })
	next <- struct{}{}
	o.book.until(t, "told again", func() bool { return len(o.book.doings) == 2 })
	next <- struct{}{}
	o.book.until(t, "test", func() bool { return len(o.book.done["test"]) == 1 })
	o.book.see(func() {
		if diff := cmp.Diff([]string{"test of 1: checking out", "test of 1: "}, o.book.doings); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

func TestOrderIsTakenBack(t *testing.T) {
	o := newOffice(t)
	o.book.unfit["build"] = errors.New("nobody wants it any more")
	stopped := make(chan error, 1)
	o.employ(Hello{Name: "ada", Slots: 1}, func(ctx context.Context, got Order, _ io.Writer) Result {
		if got.Step == "build" {
			<-ctx.Done()
			stopped <- context.Cause(ctx)
		}
		return Result{State: Passed}
	})
	o.hub.Offer(order("build"))
	if err := <-stopped; err == nil || err.Error() != "nobody wants it any more" {
		t.Errorf("the worker stops because of %v", err)
	}
	o.hub.Offer(order("after"))
	o.book.until(t, "after", func() bool { return len(o.book.done["after"]) == 1 })
	o.book.see(func() {
		if n := len(o.book.done["build"]); n != 0 {
			t.Errorf("what was taken back counted %d times", n)
		}
	})
}

func TestOfferedTwiceIsDoneOnce(t *testing.T) {
	o := newOffice(t)
	for range 3 {
		o.hub.Offer(order("test"))
	}
	o.employ(Hello{Name: "ada", Slots: 8}, pass)
	o.book.until(t, "test", func() bool { return len(o.book.done["test"]) == 1 })
	o.hub.Offer(order("after"))
	// A lease is written down while the step is done.
	o.book.until(t, "after", func() bool { return len(o.book.done["after"]) == 1 && len(o.book.leased["test"]) > 0 })
	o.book.see(func() {
		if n := len(o.book.leased["test"]); n != 1 {
			t.Errorf("leased %d times", n)
		}
	})
}

func TestLostWorkersStepGoesToAnotherAtOnce(t *testing.T) {
	o := newOffice(t)
	began := make(chan struct{})
	var stopped error
	kill := o.employ(Hello{Name: "ada", Slots: 1}, func(ctx context.Context, _ Order, _ io.Writer) Result {
		close(began)
		<-ctx.Done()
		stopped = context.Cause(ctx)
		return Result{State: Passed, Message: "too late"}
	})
	o.hub.Offer(order("test"))
	<-began
	o.employ(Hello{Name: "ben", Slots: 1}, func(context.Context, Order, io.Writer) Result { return Result{State: Passed, Message: "by ben"} })
	lost := time.Now()
	kill()
	o.book.until(t, "test", func() bool { return len(o.book.done["test"]) > 0 })
	t.Logf("done by another %s after the loss", time.Since(lost).Round(time.Millisecond))
	o.book.until(t, "both leases are written down", func() bool { return len(o.book.leased["test"]) > 1 })
	o.book.see(func() {
		if got := o.book.done["test"]; len(got) != 1 || got[0].Message != "by ben" {
			t.Errorf("results %+v", got)
		}
		got := slices.Sorted(slices.Values(o.book.leased["test"]))
		if diff := cmp.Diff([]string{"ada#0", "ben#1"}, got); diff != "" {
			t.Errorf("leases (-want +got):\n%s", diff)
		}
	})
	if stopped == nil {
		t.Error("the lost worker went on")
	}
}

func TestStepThatLosesItsWorkersIsGivenUp(t *testing.T) {
	o := newOffice(t)
	o.hub.Offer(order("bomb"))
	for i := range maxLosses {
		began := make(chan struct{})
		kill := o.employ(Hello{Name: fmt.Sprint("w", i), Slots: 1}, func(ctx context.Context, _ Order, _ io.Writer) Result {
			close(began)
			<-ctx.Done()
			return Result{State: Passed}
		})
		<-began
		kill()
	}
	o.book.until(t, "bomb", func() bool { return len(o.book.done["bomb"]) == 1 })
	o.book.see(func() {
		if got := o.book.done["bomb"][0]; got.State != Erred || !strings.Contains(got.Message, "3 workers were lost") {
			t.Errorf("result %+v", got)
		}
	})
}

func TestWithdrawnOrderStops(t *testing.T) {
	o := newOffice(t)
	why := make(chan error, 1)
	began := make(chan struct{})
	o.employ(Hello{Name: "ada", Slots: 1}, func(ctx context.Context, got Order, _ io.Writer) Result {
		if got.Step == "next" {
			return Result{State: Passed}
		}
		close(began)
		<-ctx.Done()
		why <- context.Cause(ctx)
		return Result{State: Passed}
	})
	o.hub.Offer(order("test"))
	o.hub.Offer(order("waits"))
	<-began
	o.hub.Withdraw("a newer change came", func(Order) bool { return false })
	if err := <-why; err.Error() != "a newer change came" {
		t.Errorf("stopped because %q", err)
	}
	o.hub.Offer(order("next"))
	o.book.until(t, "next", func() bool { return len(o.book.done["next"]) == 1 })
	o.book.see(func() {
		if n := len(o.book.done["test"]) + len(o.book.leased["waits"]); n != 0 {
			t.Errorf("done %v, leased %v", o.book.done, o.book.leased)
		}
	})
}

func TestWorkerGetsOnlyWhatItTakes(t *testing.T) {
	o := newOffice(t)
	var mu sync.Mutex
	var got []string
	o.employ(Hello{Name: "ada", Slots: 4, Apps: []string{"shop/shop"}}, func(_ context.Context, x Order, _ io.Writer) Result {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, x.App+" "+x.Step)
		return Result{State: Passed}
	})
	other, stranger := order("build"), order("review")
	other.App, stranger.Untrusted = "blog", true
	o.hub.Offer(other)
	o.hub.Offer(stranger)
	o.hub.Offer(order("test"))
	o.book.until(t, "test", func() bool { return len(o.book.done["test"]) == 1 })
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 1 || got[0] != "shop test" {
		t.Errorf("it did %v", got)
	}
	if place := o.hub.Place(stranger.ID()); place != "waits for a worker" {
		t.Errorf("the stranger's step: %q", place)
	}
}

func TestStepThatTakesTooLongFails(t *testing.T) {
	o := newOffice(t)
	o.employ(Hello{Name: "ada", Slots: 1}, func(ctx context.Context, _ Order, _ io.Writer) Result {
		<-ctx.Done()
		return Result{State: Erred, Message: "interrupted"}
	})
	slow := order("slow")
	slow.Timeout = 50 * time.Millisecond
	o.hub.Offer(slow)
	o.book.until(t, "slow", func() bool { return len(o.book.done["slow"]) == 1 })
	if got := o.book.done["slow"][0]; got.State != Failed || !strings.Contains(got.Message, "longer than the 50ms") {
		t.Errorf("result %+v", got)
	}
}

func TestRefusedResultDoesNotCount(t *testing.T) {
	o := newOffice(t)
	o.book.refuse["build"] = errors.New("the change has ended")
	o.employ(Hello{Name: "ada", Slots: 1}, pass)
	o.hub.Offer(order("build"))
	o.hub.Offer(order("test"))
	o.book.until(t, "test", func() bool { return len(o.book.done["test"]) == 1 })
	if len(o.book.done["build"]) != 0 {
		t.Error("it counted")
	}
}

func TestAPlaceIsFreeBeforeTheResultIsWrittenDown(t *testing.T) {
	o := newOffice(t)
	o.book.during = func(done Order) {
		if done.Step == "test" {
			o.hub.Offer(order("build"))
			o.book.until(t, "build", func() bool { return len(o.book.leased["build"]) == 1 })
		}
	}
	o.employ(Hello{Name: "ada", Slots: 1}, pass)
	o.hub.Offer(order("test"))
	o.book.until(t, "both", func() bool { return len(o.book.done["test"]) == 1 && len(o.book.done["build"]) == 1 })
	o.hub.Offer(order("review"))
	o.hub.Offer(order("deploy"))
	o.book.until(t, "one more", func() bool { return len(o.book.done["review"]) == 1 && len(o.book.done["deploy"]) == 1 })
	o.hub.mu.Lock()
	defer o.hub.mu.Unlock()
	for w := range o.hub.workers {
		if w.busy != 0 {
			t.Errorf("%d places are taken by nothing", w.busy)
		}
	}
}

func TestStrangerIsNoWorker(t *testing.T) {
	o := newOffice(t)
	c := &Client{
		Hello: Hello{Name: "eve", Slots: 1}, Do: pass, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (*websocket.Conn, error) {
			conn, _, err := websocket.Dial(ctx, o.url, &websocket.DialOptions{HTTPHeader: http.Header{"X-Stranger": {"yes"}}})
			return conn, err
		},
	}
	var refused *RefusedError
	if err := c.Run(t.Context()); !errors.As(err, &refused) || !strings.Contains(refused.Why, "strangers") {
		t.Errorf("got %v", err)
	}
}

func TestWhoDoesNotSayWhoTheyAreIsTurnedAway(t *testing.T) {
	o := newOffice(t)
	for name, hello := range map[string]string{
		"no JSON":       "hello",
		"no name":       `{"hello":{"slots":1}}`,
		"no slots":      `{"hello":{"name":"eve"}}`,
		"another frame": `{"result":{"state":"Passed"},"id":"x"}`,
	} {
		conn, _, err := websocket.Dial(t.Context(), o.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(hello)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("%s: got %v", name, err)
		}
		_ = conn.CloseNow()
	}
}

// Who is not known yet may send as much as a hello is, and a worker as much as a result.
func TestAHelloIsNoLargerThanItNeedsToBe(t *testing.T) {
	o := newOffice(t)
	conn, _, err := websocket.Dial(t.Context(), o.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"hello":{"slots":1}}`+strings.Repeat(" ", maxHello))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("a large hello: got %v", err)
	}
	large := make([]byte, 2*maxHello)
	o.employ(Hello{Name: "ada", Slots: 1}, func(context.Context, Order, io.Writer) Result {
		return Result{State: Passed, Files: map[string][]byte{"a": large}}
	})
	o.hub.Offer(order("build"))
	o.book.until(t, "build", func() bool { return len(o.book.done["build"]) == 1 })
	o.book.see(func() {
		if got := len(o.book.done["build"][0].Files["a"]); got != len(large) {
			t.Errorf("of a file of %d bytes came %d", len(large), got)
		}
	})
}
