package bridge

import (
	"context"
	"errors"
	"net"
	"strings"
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
