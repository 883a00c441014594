package bridge

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bightdev/bight/internal/steer"
)

func TestWhetherAnythingListensIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var listens atomic.Bool
		said := make(chan string, 10)
		l := (&Bridge{}).listener(8080, steer.Rule{Mode: steer.Intercept}, func(text string) { said <- text })
		l.dial = func(context.Context) (net.Conn, error) {
			if !listens.Load() {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			here, _ := net.Pipe()
			return here, nil
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go l.run(ctx)
		hears := func(want string) {
			t.Helper()
			synctest.Wait()
			select {
			case text := <-said:
				if want == "" || !strings.Contains(text, want) {
					t.Errorf("it says %q, want %q in it", text, want)
				}
			default:
				if want != "" {
					t.Errorf("it says nothing, want %q", want)
				}
			}
		}
		hears("nothing listens on port 8080 of this machine yet: the app answers the requests")
		if _, err := l.handle(ctx, steer.Info{}); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a request ends with %v", err)
		}
		hears("")
		listens.Store(true)
		time.Sleep(lookAgain)
		hears("port 8080 of this machine answers now")
		listens.Store(false)
		time.Sleep(3 * lookAgain)
		hears("") // nobody has asked
		for range 3 {
			_, _ = l.handle(ctx, steer.Info{})
		}
		hears("a request came, and nothing listens on port 8080")
		hears("")
	})
}

func TestACommandThatListensElsewhereIsSaidTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var listens atomic.Bool
		var mu sync.Mutex
		var said []string
		say := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, text)
		}
		l := (&Bridge{Say: say}).starting(steer.Rule{Mode: steer.Intercept, Port: 8080})
		dial := func(context.Context, string, uint16) (net.Conn, error) {
			if !listens.Load() {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			here, _ := net.Pipe()
			return here, nil
		}
		request := l.noting(func(ctx context.Context, info steer.Info) (net.Conn, error) { return dial(ctx, "tcp", 8080) })
		hears := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(said) != len(want) {
				t.Fatalf("it says %q, want %q", said, want)
			}
			for i := range want {
				if !strings.Contains(said[i], want[i]) {
					t.Errorf("it says %q, want %q in it", said[i], want[i])
				}
			}
			said = nil
		}
		_, _ = request(t.Context(), steer.Info{}) // before the command runs
		stop := l.watch(t.Context(), dial, func() []uint16 { return []uint16{3000, 9229} })
		listens.Store(true)
		time.Sleep(3 * lookAgain)
		hears() // it has only needed its time
		listens.Store(false)
		_, _ = request(t.Context(), steer.Info{})
		time.Sleep(lookAgain / 2)
		hears() // it may be restarting
		time.Sleep(lookAgain)
		hears("nothing listens on port 8080 of the command any more (it listens on 3000, 9229): the app answers the requests until something does")
		_, _ = request(t.Context(), steer.Info{})
		time.Sleep(3 * lookAgain)
		hears()
		listens.Store(true)
		time.Sleep(lookAgain)
		hears("port 8080 of the command answers now")
		stop()
	})
	if l := (&Bridge{}).starting(steer.Rule{Mode: steer.Replace}); l != nil {
		t.Error("a command that replaces is watched at one port")
	}
	(*listener)(nil).watch(t.Context(), nil, nil)()
}

func TestPortsInAList(t *testing.T) {
	for want, ports := range map[string][]uint16{
		"": nil, " (it listens on 3000)": {3000}, " (it listens on 1, 2, 3, 4, ...)": {1, 2, 3, 4, 5, 6},
	} {
		if got := instead(ports); got != want {
			t.Errorf("%d: got %q, want %q", ports, got, want)
		}
	}
}

func TestWhatBecomesOfRequestsThatNobodyAnswers(t *testing.T) {
	for _, tt := range []struct {
		rule steer.Rule
		want string
	}{
		{steer.Rule{Mode: steer.Intercept}, "the app answers the requests"},
		{steer.Rule{Mode: steer.Intercept, Strict: true}, "requests are answered with 502 (--strict)"},
		{steer.Rule{Mode: steer.Mirror}, "copies of requests are dropped"},
		{steer.Rule{Mode: steer.Replace}, "requests wait for 10s and then fail"},
	} {
		if got := (&listener{rule: tt.rule}).meanwhile(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.rule.Mode, got, tt.want)
		}
	}
}

func TestWhyAPortIsNotOpened(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, taken := net.Listen("tcp", ln.Addr().String())
	other := errors.New("other")
	for err, want := range map[error]string{taken: "it is in use on this machine", &net.OpError{Op: "listen", Err: syscall.EACCES}: "you may not listen there on this machine", other: "other"} {
		if got := unopened(err).Error(); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
