package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/steer"
)

// maker is the process that made a rule. Its number alone may be another process's by
// now, or belong to another machine of the same name.
type maker struct {
	pid   int
	birth string // as session.Birth has it
}

// madeHere is what the ID of a rule of this process ends with: cart-4711-kdxqf. Where
// births are not known, nobody recognises the process.
func madeHere() string {
	pid := os.Getpid()
	birth, err := session.Birth(pid)
	if err != nil {
		return strconv.Itoa(pid)
	}
	return strconv.Itoa(pid) + "-" + birth
}

// makerOf reads which process made a rule from the rule's ID, false where that does not
// say so.
func makerOf(id string) (maker, bool) {
	rest, birth, _ := cutLast(id)
	_, number, ok := cutLast(rest)
	pid, err := strconv.Atoi(number)
	return maker{pid, birth}, ok && err == nil && pid > 0 && session.IsBirth(birth)
}

func cutLast(id string) (before, after string, found bool) {
	i := strings.LastIndexByte(id, '-')
	if i < 0 {
		return id, "", false
	}
	return id[:i], id[i+1:], true
}

// lives reports whether that very process runs on this machine.
func (m maker) lives() bool {
	birth, err := session.Birth(m.pid)
	return err == nil && birth == m.birth
}

// errMakerGone says that no process of this machine is the one that made a rule.
var errMakerGone = errors.New("that process does not run on this machine any more")

// leave asks the process to take its intercept back, if it is the one. What is found by its number is
// held before it is asked who it is, so that another can't take its place meanwhile.
func (m maker) leave() error {
	process, err := os.FindProcess(m.pid)
	if err != nil {
		return errMakerGone
	}
	defer func() { _ = process.Release() }()
	if !m.lives() {
		return errMakerGone
	}
	if err := process.Signal(leaveSignal()); errors.Is(err, os.ErrProcessDone) {
		return errMakerGone
	} else if err != nil {
		return fmt.Errorf("ask it: %w", err)
	}
	return nil
}

// errLeave is why an intercept ends that somebody leaves from elsewhere.
var errLeave = errors.New("bight intercept leave")

// onLeave waits for somebody to leave the intercept of this process from elsewhere. The
// channel is closed then.
func onLeave() (left <-chan struct{}, stop func()) {
	asked, over, told := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(asked, leaveSignal())
	go func() {
		select {
		case <-asked:
			close(told)
		case <-over:
		}
	}()
	return told, sync.OnceFunc(func() { signal.Stop(asked); close(over) })
}

// untilLeft is a context that ends when somebody leaves the intercept of this process.
func untilLeft(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	left, forget := onLeave()
	go func() {
		select {
		case <-left:
			cancel(errLeave)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { forget(); cancel(nil) }
}

// terminated reports whether it is a SIGTERM that has ended a program's context, and no
// Ctrl-C.
func terminated(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return cause != nil && strings.HasPrefix(cause.Error(), syscall.SIGTERM.String()+" ")
}

// tellLeft says, when it comes to that, that an intercept ends because this process was
// told to, in a terminal where nobody has typed anything. stop has to be called before the
// printer is closed. There may be no rule.
func tellLeft(ctx context.Context, rule *steer.Rule, say func(string)) (stop func()) {
	if rule == nil {
		return func() {}
	}
	id, told := rule.ID, make(chan struct{})
	tell := func() {
		defer close(told)
		switch {
		case errors.Is(context.Cause(ctx), errLeave):
			say(fmt.Sprintf("intercept %s ends: this process was told to, by %v", id, errLeave))
		case terminated(ctx):
			say(fmt.Sprintf("intercept %s ends: this process was told to (SIGTERM)", id))
		}
	}
	forget := context.AfterFunc(ctx, tell)
	return func() {
		if forget() {
			tell() // ctx may have ended just now
		}
		<-told
	}
}

// leaveService asks the process that holds the intercept of a service to take it back.
func leaveService(i bridge.Intercept) error {
	if i.Owner != ownName() {
		return notYours(i)
	}
	m, ok := makerOf(i.ID)
	if !ok {
		return fmt.Errorf("intercept %s was not made by this bight on this machine: leave it where it was made, with Ctrl-C", i.ID)
	}
	err := m.leave()
	if errors.Is(err, errMakerGone) {
		return fmt.Errorf("intercept %s was made by process %d, and %w: the rule ends by itself within 10 s; if another machine has the name of this one, leave it there", i.ID, m.pid, err)
	}
	if err != nil {
		return fmt.Errorf("intercept %s is held by process %d: %w", i.ID, m.pid, err)
	}
	return nil
}
