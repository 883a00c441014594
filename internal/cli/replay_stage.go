package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay"
	"github.com/bightdev/bight/internal/replay/calls"
	"github.com/bightdev/bight/internal/replay/switchboard"
	"github.com/bightdev/bight/internal/ui/term"
)

const (
	// listening is how long a command may take until it listens: go run compiles.
	listening = 5 * time.Minute
	// lookAgain is how often that is looked for, at first and at last.
	lookAgain, lookAgainMost = 10 * time.Millisecond, 200 * time.Millisecond
)

// stage is where a bundle is played: a command that is started anew for each round, or a
// program that runs already.
type stage struct {
	p       *Program
	f       *replayFlags
	printer *term.Printer
	bundle  *evidence.Bundle
	pairs   []*evidence.Pair
	isFile  bool                     // the evidence is a file's
	keeps   v1alpha1.ReleaseEvidence // what may be kept by the release's plan, if it is no file's
	command []string
	player  *replay.Player
	quiet   bool           // what comes of requests is not printed
	bridge  *bridge.Bridge // nil for none
	order   bridge.Order

	recording *calls.Recording   // from which calls are answered, nil for none
	board     *switchboard.Board // of the round, nil for none
}

// run plays rounds until ctx ends, or one if that is all.
func (s *stage) run(ctx context.Context) error {
	if s.f.once {
		all, err := s.round(ctx, nil)
		if err != nil {
			return err
		}
		return s.outcome(all)
	}
	watched, stop := context.WithCancel(ctx)
	defer stop()
	saves, err := replay.Saves(watched, ".", s.ours(), s.f.target.log(s.p.Stderr), func(err error) {
		s.printer.Warn("", err.Error(), "end with Ctrl-C and start again after a save")
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if _, err := s.round(ctx, saves); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// unreachedError says why the command could not be asked.
type unreachedError struct{ why string }

func (e *unreachedError) Error() string { return e.why }

// round starts the command, plays, and ends the command when there is a newer one to try,
// at once where saves is nil.
func (s *stage) round(ctx context.Context, saves <-chan string) (all []replay.Result, err error) {
	if len(s.command) == 0 {
		s.player.Dial = dialTo(s.f.to)
		conn, err := s.player.Dial(ctx, s.port())
		switch {
		case err != nil && saves != nil:
			s.printer.Fail("", fmt.Errorf("nothing answers at %s: %w", s.f.to, err), "", "start the program, and save a file: then it is asked again")
			return nil, s.wait(ctx, saves)
		case err != nil:
			return nil, fmt.Errorf("nothing answers at %s: %w: start the program first, or name another with --to", s.f.to, err)
		}
		_ = conn.Close()
		all = s.play(ctx)
		return all, s.wait(ctx, saves)
	}
	running, stop := context.WithCancelCause(ctx)
	started := make(chan func(context.Context, string, uint16) (net.Conn, error), 1)
	ended := make(chan error, 1)
	order := s.order
	defer s.connect(ctx, &order)()
	order.Started = func(dial func(context.Context, string, uint16) (net.Conn, error)) { started <- dial }
	go func() { ended <- s.start(running, order) }()
	over := false
	defer func() {
		stop(nil)
		if !over {
			<-ended
		}
	}()
	var dial func(context.Context, string, uint16) (net.Conn, error)
	select {
	case dial = <-started:
	case err := <-ended:
		over = true
		return nil, err
	}
	s.player.Dial = func(ctx context.Context, port int) (net.Conn, error) {
		if s.f.port != 0 {
			port = s.f.port
		}
		return dial(ctx, "tcp", uint16(port))
	}
	over, err = s.reach(running, ended)
	var early *unreachedError
	switch {
	case errors.As(err, &early) && saves != nil:
		s.printer.Fail("", err, "", "save a file, and it is started again")
		return nil, s.wait(ctx, saves)
	case err != nil:
		return nil, err
	}
	all = s.play(running)
	if err := s.keep(ctx, len(all)); err != nil {
		return nil, err
	}
	return all, s.wait(ctx, saves)
}

// start runs the command to its end.
func (s *stage) start(ctx context.Context, o bridge.Order) error {
	var code int
	var err error
	if s.bridge == nil {
		code, err = bridge.Alone(ctx, o, func(text string) { s.printer.Note("", text) }, s.f.target.log(s.p.Stderr))
	} else {
		code, err = s.bridge.Run(ctx, o)
	}
	if err == nil && ctx.Err() == nil {
		err = &unreachedError{fmt.Sprintf("the command has ended with %d before anybody could reach it at %s", code, s.at())}
	}
	return err
}

func (s *stage) port() int {
	if s.f.port != 0 {
		return s.f.port
	}
	return s.pairs[0].Request.Port
}

func (s *stage) at() string { return fmt.Sprintf("port %d", s.port()) }

// reach waits until the command listens. over says that it has ended.
func (s *stage) reach(ctx context.Context, ended chan error) (over bool, err error) {
	limit := time.NewTimer(listening)
	defer limit.Stop()
	for pause := lookAgain; ; pause = min(2*pause, lookAgainMost) {
		conn, err := s.player.Dial(ctx, s.pairs[0].Request.Port)
		if err == nil {
			return false, conn.Close()
		}
		select {
		case err := <-ended:
			if err == nil { // it was ended
				err = context.Canceled
			}
			return true, err
		case <-limit.C:
			return false, &unreachedError{fmt.Sprintf("the command does not listen at %s, %s after its start: %v; --port names another", s.at(), listening, err)}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// wait waits for a save.
func (s *stage) wait(ctx context.Context, saves <-chan string) error {
	if saves == nil {
		return nil
	}
	select {
	case what := <-saves:
		s.printer.Event(term.Event{Type: term.Change, Text: what})
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// play sends the requests, and prints what comes of them.
func (s *stage) play(ctx context.Context) []replay.Result {
	asJSON := s.f.output == "json"
	began := time.Now()
	all := s.player.Play(ctx, s.pairs, func(r replay.Result) {
		if !asJSON && !s.quiet {
			s.print(r)
		}
	})
	s.settle(ctx)
	if ctx.Err() != nil || s.quiet {
		return all
	}
	n := replay.Count(all)
	if asJSON {
		_ = s.printer.Data(map[string]any{
			"release": s.bundle.Release, "passed": n[replay.Passed], "failed": n[replay.Failed], "skipped": n[replay.Skipped], "unclear": n[replay.Unclear],
			"results": all, "lacking": s.misses(),
		}, nil) // Close tells
		return all
	}
	s.tellCalls()
	text := fmt.Sprintf("%d passed, %d failed", n[replay.Passed], n[replay.Failed])
	if n[replay.Unclear] > 0 {
		text += fmt.Sprintf(", %d unclear", n[replay.Unclear])
	}
	if n[replay.Skipped] > 0 {
		text += fmt.Sprintf(", %d not sent", n[replay.Skipped])
	}
	switch {
	case n[replay.Failed]+n[replay.Unclear] > 0 || n[replay.Passed] == 0:
		s.printer.Warn("", text, s.hint(all))
	default:
		s.printer.Event(term.Event{Type: term.Ready, Text: text, Took: time.Since(began), Why: s.hint(all)})
	}
	return all
}

// hint is what else a person could do.
func (s *stage) hint(all []replay.Result) string {
	for _, r := range all {
		if r.State == replay.Skipped && !s.f.all && !replay.Safe(r.Pair.Request.Method) {
			return "--all sends what could change something, too"
		}
	}
	for _, r := range all {
		if r.State == replay.Failed && r.Answer != nil && (r.Answer.Status == 401 || r.Answer.Status == 403) && len(r.Pair.Request.Hidden) > 0 {
			return "headers that users are known by were not kept: --header \"" + r.Pair.Request.Hidden[0] + "=...\" gives one"
		}
	}
	return ""
}

// print tells what became of one request.
func (s *stage) print(r replay.Result) {
	was := before(r.Pair)
	switch r.State {
	case replay.Skipped:
		s.printer.Note("", fmt.Sprintf("%s is not sent: %s", r.Name, r.Why))
	case replay.Unclear:
		s.printer.Warn("", fmt.Sprintf("%s tells nothing: %s%s", r.Name, r.Why, parens(was)), "")
	case replay.Failed:
		s.printer.Fail("", fmt.Errorf("%s: %s%s", r.Name, r.Why, parens(was)), strings.Join(r.Differs, "\n"), "")
	default:
		why := was
		if len(r.Differs) > 0 {
			why += "; it says something else: " + strings.Join(r.Differs[:min(3, len(r.Differs))], ", ")
		}
		s.printer.Event(term.Event{Type: term.Test, Text: fmt.Sprintf("%s: %d", r.Name, r.Answer.Status), Why: why, Took: r.Elapsed})
	}
}

func parens(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// before is what came of a request when users sent it.
func before(p *evidence.Pair) string {
	text := p.Why
	if text == "" && p.Answer != nil {
		text = fmt.Sprint(p.Answer.Status)
	}
	text = p.Version + ": " + text
	if len(p.Stable) > 0 {
		text += fmt.Sprintf("; stable: %d", p.Stable[0].Status)
	}
	return text
}

// outcome is the error of a round that is the last.
func (s *stage) outcome(all []replay.Result) error {
	n := replay.Count(all)
	switch {
	case n[replay.Failed] > 0:
		return codedError{code: 1, err: fmt.Errorf("%d of %s failed", n[replay.Failed], term.Count(len(all), "request")), silent: s.f.output == "json"}
	case n[replay.Unclear] > 0:
		return codedError{code: exitFailed, err: fmt.Errorf("%d of %s can't be told: %s lacks answers to what the command asks", n[replay.Unclear], term.Count(len(all), "request"), s.f.recorded), silent: s.f.output == "json"}
	case n[replay.Passed] == 0:
		return errors.New("no request was sent")
	}
	return nil
}
