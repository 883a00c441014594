package session

import (
	"fmt"
	"syscall"
	"time"

	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

// edit is a save on its way to the pods of one service.
type edit struct {
	heard   time.Time // when the watcher heard of it
	build   time.Duration
	files   []string
	tree    tree.Hash // what it came to
	restart bool
	sent    map[string]live.Event // by pod: how it was brought there
	starts  map[string]live.Event // by pod: when the process was started anew
}

// take takes in an event of a pod. It reports whether the edit is live there now,
// and the phases that led to it.
func (e *edit) take(pod string, ev live.Event) (phases []term.Phase, isLive bool) {
	switch ev.Kind {
	case live.Synced:
		if ev.Tree == e.tree {
			e.sent[pod] = ev
			isLive = !e.restart
		}
	case live.Started:
		if ev.Tree == e.tree {
			e.starts[pod] = ev
		}
	case live.Ready:
		_, sent := e.sent[pod]
		_, started := e.starts[pod]
		isLive = sent && started
	}
	if !isLive {
		return nil, false
	}
	add := func(name string, took time.Duration) {
		if took > 0 {
			phases = append(phases, term.Phase{Name: name, Took: took})
		}
	}
	sent := e.sent[pod]
	add("build", e.build)
	add("send", sent.Diff+sent.Send)
	add("apply", sent.Apply)
	if e.restart {
		add("restart", e.starts[pod].After)
		add("ready", ev.After)
	}
	return phases, true
}

// event takes in what a target reports.
func (p *pods) event(from *pod, e live.Event) {
	p.mu.Lock()
	defer p.unlock()
	defer p.touch()
	s := p.session
	if ed := p.edits[from.service]; ed != nil {
		if phases, isLive := ed.take(from.name, e); isLive {
			delete(p.edits, from.service)
			sent := ed.sent[from.name]
			s.Printer.Event(term.Event{
				Type: term.Sync, Service: from.service, Text: term.Files(ed.files),
				Took: time.Since(ed.heard), Phases: phases, Files: sent.Files + sent.Deleted, Bytes: sent.Bytes,
			})
		}
	}
	switch e.Kind {
	case live.Synced:
		if !p.staged(from, e) {
			p.caughtUp(from, e)
		}
	case live.Replaced:
		if from.replacedBy != e.By {
			from.replacedBy = e.By
			from.process.edited()
			p.renew(from.service)
			s.Printer.Event(term.Event{Type: term.Restart, Service: from.service, Text: "stopped in " + from.name + ": replaced by " + e.By})
		}
	case live.Started:
		from.process.started(e.Time)
		p.renew(from.service)
		s.Printer.Event(term.Event{
			Type: term.Restart, Service: from.service, Text: "started in " + from.name, Took: e.After, Quiet: from.replacedBy == "",
		})
		from.replacedBy = ""
	case live.Ready:
		p.print(from, from.process.up())
		p.wake(from.service)
	case live.Exited:
		p.exited(from, e)
	case live.Problem:
		where := from.name
		if e.Path != "" {
			where += ", " + e.Path
		}
		s.Printer.Warn(from.service, fmt.Sprintf("%s: %v", where, e.Err), "everything else is in place; it is tried again, and with the next save at once")
	case live.Lost:
		if p.all[from.name] == from {
			s.Log.Debug("connection lost", "pod", from.name, "error", e.Err)
		}
	}
}

// staged says, if it is so, that a save is there and takes effect when the process is
// started again. The caller has the lock.
func (p *pods) staged(from *pod, e live.Event) bool {
	ed := p.edits[from.service]
	if from.replacedBy == "" || ed == nil || ed.tree != e.Tree {
		return false
	}
	delete(p.edits, from.service)
	p.session.Printer.Event(term.Event{
		Type: term.Sync, Service: from.service, Text: term.Files(ed.files) + ", staged: replaced by " + from.replacedBy,
		Took: time.Since(ed.heard), Files: e.Files + e.Deleted, Bytes: e.Bytes,
	})
	return true
}

// caughtUp says that a pod was brought up to date for another reason than a save.
// The caller has the lock.
func (p *pods) caughtUp(from *pod, e live.Event) {
	if e.Files+e.Deleted == 0 {
		return
	}
	if ed := p.edits[from.service]; ed != nil && ed.tree == e.Tree {
		return
	}
	if art := p.wants[from.service]; art != nil && art.TreeDigest() == e.Tree && p.saved[from.service] && from.wasReady {
		return // another replica had the save's line
	}
	p.session.Printer.Event(term.Event{
		Type: term.Deploy, Service: from.service, Text: "brought " + from.name + " up to date",
		Files: e.Files + e.Deleted, Bytes: e.Bytes, Took: e.Diff + e.Send + e.Apply,
	})
}

// exited says how a process ended, and tells whoever waits for a rollout. The
// caller has the lock.
func (p *pods) exited(from *pod, e live.Event) {
	if ed := p.edits[from.service]; ed != nil && ed.restart {
		if ed.starts[from.name].Pid != e.Pid {
			// A save takes its place already, and may be what mends it.
			p.session.Printer.Event(term.Event{Type: term.Restart, Service: from.service, Text: "the process of before the save ended in " + from.name, Quiet: true})
			return
		}
		delete(p.edits, from.service)
	}
	news, output := from.process.exited(e.Output, e.Time)
	if p.exits != nil {
		select {
		case p.exits <- deploy.Exit{Pod: from.name, Code: e.Code, At: e.Time, Count: from.process.ends, Tail: lines(e.Output)}:
		default: // it has heard of 64 already
		}
		if !from.wasReady {
			return // the rollout's failure will say it all
		}
	}
	text := fmt.Sprintf("the process in %s ended with %s", from.name, exitText(e))
	if n := from.process.ends; n > 1 {
		text += fmt.Sprintf(" (%d times since the last save)", n)
	}
	if !news {
		// The same again, as often as it is tried: no news to a person.
		p.session.Printer.Event(term.Event{Type: term.Restart, Service: from.service, Text: text, Quiet: true})
		return
	}
	p.session.Printer.Fail(from.service, fmt.Errorf("%s", text), localText(p.session.plan(), output), "it is started again; a save that mends it is live at once")
}

func exitText(e live.Event) string {
	if e.Signal != 0 {
		return "signal " + syscall.Signal(e.Signal).String()
	}
	return fmt.Sprintf("code %d", e.Code)
}
