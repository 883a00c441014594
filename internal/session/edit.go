package session

import (
	"fmt"
	"strings"
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

// event takes in what a target reports.
func (p *pods) event(from *pod, e live.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.touch()
	ed := p.edits[from.service]
	switch e.Kind {
	case live.Synced:
		p.synchronized(from, ed, e)
	case live.Started:
		p.session.Printer.Event(term.Event{Type: term.Restart, Service: from.service, Text: "started in " + from.name, Took: e.After, Quiet: true})
		if ed != nil && e.Tree == ed.tree {
			ed.starts[from.name] = e
		}
	case live.Ready:
		p.session.wake(from.service)
		if ed == nil {
			return
		}
		sent, ok := ed.sent[from.name]
		if restarted, started := ed.starts[from.name]; ok && started {
			p.finishEdit(from, ed, sent, restarted.After, e.After)
		}
	case live.Exited:
		from.exits++
		p.reportExit(from, e)
	case live.Problem:
		where := from.name
		if e.Path != "" {
			where += ", " + e.Path
		}
		p.session.Printer.Warn(from.service, fmt.Sprintf("%s: %v", where, e.Err), "everything else is in place; the next save is tried at once")
	case live.Lost:
		if p.all[from.name] == from {
			p.session.Log.Debug("connection lost", "pod", from.name, "error", e.Err)
		}
	}
}

// synchronized takes in that a pod has confirmed a tree. The caller has the lock.
func (p *pods) synchronized(from *pod, ed *edit, e live.Event) {
	if ed == nil || e.Tree != ed.tree {
		if e.Files+e.Deleted > 0 {
			p.session.Printer.Event(term.Event{
				Type: term.Deploy, Service: from.service, Text: "brought " + from.name + " up to date",
				Files: e.Files + e.Deleted, Bytes: e.Bytes, Took: e.Diff + e.Send + e.Apply,
			})
		}
		return
	}
	ed.sent[from.name] = e
	if !ed.restart {
		p.finishEdit(from, ed, e, 0, 0)
	}
}

// finishEdit prints the line of a save, when the first of the service's pods has
// it. The caller has the lock.
func (p *pods) finishEdit(from *pod, ed *edit, sent live.Event, restart, ready time.Duration) {
	delete(p.edits, from.service)
	var phases []term.Phase
	add := func(name string, took time.Duration) {
		if took > 0 {
			phases = append(phases, term.Phase{Name: name, Took: took})
		}
	}
	add("build", ed.build)
	add("send", sent.Diff+sent.Send)
	add("apply", sent.Apply)
	add("restart", restart)
	add("ready", ready)
	p.session.Printer.Event(term.Event{
		Type: term.Sync, Service: from.service, Text: term.Files(ed.files),
		Took: time.Since(ed.heard), Phases: phases, Files: sent.Files + sent.Deleted, Bytes: sent.Bytes,
	})
}

// reportExit says how a process ended and tells whoever waits for a rollout. The
// caller has the lock.
func (p *pods) reportExit(from *pod, e live.Event) {
	delete(p.edits, from.service)
	tail := strings.TrimRight(string(e.Output), "\n")
	if from.exits <= shownExits {
		p.session.Printer.Fail(from.service, fmt.Errorf("the process in %s ended with %s", from.name, exitText(e)), tail,
			"it is started again; a save that mends it is live at once")
	}
	select {
	case p.exits <- deploy.Exit{Pod: from.name, Code: e.Code, At: e.Time, Count: from.exits, Tail: strings.Split(tail, "\n")}:
	default: // nobody waits for a rollout
	}
}

// shownExits is how many ends of a pod's process are shown between two saves.
const shownExits = 1

func exitText(e live.Event) string {
	if e.Signal != 0 {
		return "signal " + syscall.Signal(e.Signal).String()
	}
	return fmt.Sprintf("code %d", e.Code)
}
