package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/steer"
)

func TestOnlyTheProcessThatMadeAnInterceptIsInterrupted(t *testing.T) {
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	pid := other.Process.Pid
	birth, err := session.Birth(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{
		fmt.Sprintf("cart-%d-aaaaa", pid),         // made by a process that had this number before
		fmt.Sprintf("cart-%d", pid),               // by an older release
		fmt.Sprintf("cart-%d-%s", pid+1, birth),   // by yet another
		fmt.Sprintf("cart-%s", birth), birth, "-", // by nobody
	} {
		err := leaveService(bridge.Intercept{ID: id, Owner: ownName()})
		if err == nil || !strings.Contains(err.Error(), "intercept "+id+" was ") {
			t.Errorf("leave %s: got %v", id, err)
		}
		if m, ok := makerOf(id); ok && m.lives() {
			t.Errorf("the maker of %s is said to live", id)
		}
	}
	id := fmt.Sprintf("cart-%d-%s", pid, birth)
	if err := leaveService(bridge.Intercept{ID: id, Owner: "ada@elsewhere"}); err == nil || !strings.Contains(err.Error(), "is that of ada@elsewhere") {
		t.Errorf("leave that of another: got %v", err)
	}
	if m, ok := makerOf(id); !ok || !m.lives() {
		t.Errorf("%s: its maker is said to be gone", id)
	}
	if err := leaveService(bridge.Intercept{ID: id, Owner: ownName()}); err != nil {
		t.Errorf("leave %s: got %v", id, err)
	}
	var exit *exec.ExitError
	if err := other.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != leaveSignal() {
		t.Errorf("the process ended with %v", err)
	}
	if err := leaveService(bridge.Intercept{ID: id, Owner: ownName()}); err == nil || !strings.Contains(err.Error(), "does not run on this machine any more") {
		t.Errorf("leave %s again: got %v", id, err)
	}
}

func TestWhoIsLeftIsTold(t *testing.T) {
	rule := &steer.Rule{ID: "cart-1-aaaaa"}
	for _, test := range []struct {
		signal syscall.Signal
		rule   *steer.Rule
		want   string
	}{
		{syscall.SIGTERM, rule, "intercept cart-1-aaaaa ends: this process was told to (SIGTERM)"},
		{syscall.SIGINT, rule, ""}, // who pressed Ctrl-C knows
		{syscall.SIGTERM, nil, ""},
	} {
		ctx, forget := signal.NotifyContext(t.Context(), test.signal)
		defer forget()
		said := ""
		stop := tellLeft(ctx, test.rule, func(text string) { said = text })
		if err := syscall.Kill(os.Getpid(), test.signal); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		stop()
		if said != test.want {
			t.Errorf("%v: %q, want %q", test.signal, said, test.want)
		}
	}
	said := false
	tellLeft(t.Context(), rule, func(string) { said = true })()
	if said {
		t.Error("of a command that has ended by itself it is said that it was told to")
	}
}

func TestWhoIsLeftFromElsewhereEnds(t *testing.T) {
	ctx, forget := untilLeft(t.Context())
	defer forget()
	said := ""
	stop := tellLeft(ctx, &steer.Rule{ID: "cart-1-aaaaa"}, func(text string) { said = text })
	m, _ := makerOf("cart-" + madeHere())
	if err := m.leave(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	stop()
	if want := "intercept cart-1-aaaaa ends: this process was told to, by bight intercept leave"; said != want {
		t.Errorf("got %q, want %q", said, want)
	}
}

func TestAnIDSaysWhichProcessMadeIt(t *testing.T) {
	m, ok := makerOf("shop-2-" + madeHere())
	if !ok || m.pid != os.Getpid() || !m.lives() {
		t.Errorf("got %+v, %t", m, ok)
	}
}
