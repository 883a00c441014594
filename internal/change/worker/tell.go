package worker

import (
	"io"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/change/work"
)

// patience is how long something takes before people are told that it is what a step
// does.
const patience = time.Second

// tell tells people what a step does, if that takes long. Its end must be called.
type tell struct {
	to    work.Teller // nil for nobody
	timer *time.Timer

	mu    sync.Mutex
	text  string
	shown bool
	over  bool
}

// tellOf tells who reads a log, as far as they can be told more than what it has.
func tellOf(log io.Writer) *tell {
	t := &tell{text: "waiting for the working copy"}
	t.to, _ = log.(work.Teller)
	t.timer = time.AfterFunc(patience, t.show)
	return t
}

func (t *tell) show() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.to == nil {
		return
	}
	t.shown = true
	t.to.Doing(t.text)
}

// say says what is done now.
func (t *tell) say(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = text
	if t.shown {
		t.to.Doing(text)
	}
}

// end says that this is done.
func (t *tell) end() {
	t.timer.Stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.shown {
		t.to.Doing("")
	}
}
