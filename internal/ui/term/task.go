package term

import (
	"bytes"
	"slices"
	"time"
)

const (
	eraseLine   = "\r\x1b[K"
	drawEvery   = 100 * time.Millisecond
	remindEvery = time.Second // how often plain output looks for work that lasts
)

// Task is long work that is going on. End it with Done, Fail or Drop; what is
// called after that does nothing.
type Task struct {
	p       *Printer
	typ     Type
	service string
	step    string // of a change
	text    string // "building"
	began   time.Time
	remind  time.Duration // how old the task is when plain output next mentions it
}

// Task shows that work has begun: text is what is being done ("building"), typ
// is what it will be when it is done ([Build]).
func (p *Printer) Task(typ Type, service, text string) *Task {
	t := &Task{p: p, typ: typ, service: service, text: text, began: time.Now(), remind: 10 * time.Second}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look.meet(service)
	select {
	case <-p.quit:
		return t
	default:
	}
	p.tasks = append(p.tasks, t)
	p.start.Do(func() { go p.animate() })
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return t
}

// Update changes what is being done.
func (t *Task) Update(text string) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.text = text
}

// Began says that the task is a step of a change, and has begun before it was shown:
// at a time of another machine's clock, of which one to come is now.
func (t *Task) Began(step string, at time.Time) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.step = step
	if at.Before(t.began) {
		t.began = at
		t.remind = max(t.remind, reminder(time.Since(at)))
	}
}

// Done ends the task and prints e, whose type, service and time it knows.
func (t *Task) Done(e Event) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if !t.end() {
		return
	}
	if e.Type == "" {
		e.Type = t.typ
	}
	if e.Service == "" {
		e.Service = t.service
	}
	if e.Took == 0 {
		e.Took = time.Since(t.began)
	}
	t.p.event(e)
}

// Fail ends the task and prints what went wrong, as [Printer.Fail] does.
func (t *Task) Fail(err error, output, next string) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.end() {
		t.p.event(Event{Type: Error, Service: t.service, Took: time.Since(t.began), Err: err, Output: output, Next: next})
	}
}

// Drop ends the task without a word.
func (t *Task) Drop() {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.end()
}

// end takes the task off the status line. It wants the Printer's lock.
func (t *Task) end() bool {
	i := slices.Index(t.p.tasks, t)
	if i < 0 {
		return false
	}
	t.p.tasks = slices.Delete(t.p.tasks, i, i+1)
	if len(t.p.tasks) == 0 {
		t.p.erase()
	}
	return true
}

// animate keeps the status line moving while there are tasks.
func (p *Printer) animate() {
	defer close(p.ended)
	every := remindEvery
	if p.cfg.Redraw && !p.cfg.JSON {
		every = drawEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		tick.Stop()
		select {
		case <-p.wake:
		case <-p.quit:
			return
		}
		tick.Reset(every)
		for p.progress() {
			select {
			case <-tick.C:
			case <-p.quit:
				return
			}
		}
	}
}

// progress shows how tasks are getting on, and reports whether there are any.
func (p *Printer) progress() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.Redraw && !p.cfg.JSON {
		p.frame++
		p.draw()
		return len(p.tasks) > 0
	}
	for _, t := range p.tasks {
		if age := time.Since(t.began); age >= t.remind {
			t.remind = reminder(age)
			p.event(Event{Type: Note, Service: t.service, Step: t.step, Text: "still " + t.text + " (" + Duration(age.Truncate(time.Second)) + ")"})
		}
	}
	return len(p.tasks) > 0
}

// reminder returns the age at which a task of this age is next mentioned: at 10
// and 30 seconds, then every minute.
func reminder(age time.Duration) time.Duration {
	switch {
	case age < 10*time.Second:
		return 10 * time.Second
	case age < 30*time.Second:
		return 30 * time.Second
	}
	return age.Truncate(time.Minute) + time.Minute
}

// draw shows the status line, erase takes it away and status returns it. They
// want p.mu to be held.
func (p *Printer) draw() {
	if s := p.status(); len(s) > 0 {
		p.send(&p.cfg.Err, append([]byte("\r"), s...))
	}
}

func (p *Printer) erase() {
	if p.drawn {
		p.send(&p.cfg.Err, []byte(eraseLine))
		p.drawn = false
	}
}

func (p *Printer) status() []byte {
	p.drawn = len(p.tasks) > 0
	if !p.drawn {
		return nil
	}
	width := p.cfg.Err.columns()
	if width > 1 {
		width-- // a full line would make some terminals wrap
	}
	var b bytes.Buffer
	p.look.status(p.frame, p.tasks, time.Now(), width).render(&b, p.cfg.Err.Color)
	b.WriteString("\x1b[K")
	return b.Bytes()
}
