package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/replay/calls"
	"github.com/bightdev/bight/internal/replay/switchboard"
	"github.com/bightdev/bight/internal/ui/term"
)

// lastCalls is how long is waited for calls of the command that have not ended when all
// requests are answered.
const lastCalls = 2 * time.Second

// connect has the calls of an order's command recorded, or answered from a recording, if
// that is asked for. end is to be called when the command has ended.
func (s *stage) connect(ctx context.Context, o *bridge.Order) (end func()) {
	log := s.f.target.log(s.p.Stderr)
	switch {
	case s.f.record != "":
		s.board = switchboard.Record(ctx, s.bundle.Namespace, *spec.Evidence(s.keeps), log)
	case s.recording != nil:
		s.board = switchboard.Answer(ctx, s.recording, log)
	default:
		return func() {}
	}
	o.Calls, s.player.Calls = s.board, s.board
	return s.board.Close
}

// recordable refuses to record where the plan of the release says that bodies are not to
// be kept: no command can be answered without them.
func recordable(file string, keeps v1alpha1.ReleaseEvidence) error {
	switch {
	case file == "":
	case keeps.Off:
		return fmt.Errorf("--record %s: the plan of the release says evidence.off, that nothing is to be kept; leave out --record", file)
	case keeps.NoBodies:
		return fmt.Errorf("--record %s: the plan of the release says evidence.noBodies, and nobody can be answered without bodies; leave out --record", file)
	}
	return nil
}

// settle waits for the calls that are under way.
func (s *stage) settle(ctx context.Context) {
	if s.board != nil {
		ctx, cancel := context.WithTimeout(ctx, lastCalls)
		defer cancel()
		s.board.Settle(ctx)
	}
}

// misses are the calls of the round to which the recording has no answer.
func (s *stage) misses() []calls.Miss {
	if s.board == nil {
		return nil
	}
	return s.board.Misses()
}

// tellCalls says what of the calls of a round is not as it should be.
func (s *stage) tellCalls() {
	if s.board == nil {
		return
	}
	if other := s.board.Other(); len(other) > 0 {
		verb := "is"
		if len(other) > 1 {
			verb = "are"
		}
		text := fmt.Sprintf("%s %s asked in the cluster, as it is no HTTP in the clear", strings.Join(other, ", "), verb)
		if s.f.record != "" {
			text += ", and not recorded"
		}
		s.printer.Note("", text)
	}
	var misses []string
	for _, m := range s.misses() {
		misses = append(misses, m.Text())
	}
	misses = calls.Some(misses)
	for i, text := range misses {
		next := ""
		if i == len(misses)-1 {
			next = fmt.Sprintf("--record %s records again, in the cluster", s.f.recorded)
		}
		s.printer.Warn("", text, next)
	}
}

// ours says which files are written here after a round, so that none begins for them. Paths
// are without symbolic links.
func (s *stage) ours() func(path string) bool {
	file, err := filepath.Abs(s.f.record)
	if s.f.record == "" || err != nil {
		return func(string) bool { return false }
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil {
		file = filepath.Join(dir, filepath.Base(file))
	}
	return func(path string) bool { return path == file || atomicfile.Unfinished(path, file) }
}

// keep writes what was recorded in a round in which so many requests were played.
func (s *stage) keep(ctx context.Context, played int) error {
	switch {
	case s.f.record == "":
		return nil
	case played < len(s.pairs) || ctx.Err() != nil:
		s.printer.Note("", s.f.record+" is as it was, since the round was not played to its end")
		return nil
	}
	r, dropped := s.board.Recording(s.bundle.Release)
	text, err := r.Write()
	if err == nil {
		err = atomicfile.Write(s.f.record, text)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", s.f.record, err)
	}
	s.printer.Note("", fmt.Sprintf("%s has %s to %s", s.f.record, term.Count(len(r.Calls), "call"), term.Count(len(r.Places()), "place")))
	var lacking []string
	for _, text := range r.Lacking() {
		lacking = append(lacking, "without an answer is "+text)
	}
	for _, text := range calls.Some(lacking) {
		s.printer.Warn("", text, "")
	}
	if dropped > 0 {
		s.printer.Warn("", fmt.Sprintf("%s had no room in it: it holds %d MiB", term.Count(dropped, "call"), calls.MostAll>>20), "")
	}
	return nil
}
