// Package term is what a person, or a program that stands in for one, sees of
// Bight: one line per thing that happens, the state of long work, tables, and
// the same as JSON.
//
// The main type is [Printer]. What happened is an [Event]; whether it becomes a
// line for people or a JSON object is the Printer's business. Data goes to Out
// (tables, logs, URLs), everything else to Err. A Printer may be used from many
// goroutines; lines are never mixed.
package term

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"
	"time"
)

// Config says where a [Printer] writes and what it may do there. [Detect] fills
// one from the process's own streams.
type Config struct {
	Out Stream // data
	Err Stream // progress and notes

	// JSON prints data as JSON on Out, one object per line where it is a stream
	// (logs, URLs), and events as JSON objects, one per line, on Err.
	JSON bool
	// Events, if set, is given every event as one JSON object per line as well.
	Events io.Writer
	// Redraw allows to draw one line of Err over and over to show progress. It
	// needs a terminal.
	Redraw bool
	// Zone is where time stamps are; nil is the local time zone.
	Zone *time.Location
}

// Stream is a writer and what is at its other end. The zero Stream is silent.
type Stream struct {
	W     io.Writer
	Color bool
	// Width returns the number of columns at present; nil and 0 mean no limit.
	Width func() int
}

func (s Stream) columns() int {
	if s.Width == nil {
		return 0
	}
	return s.Width()
}

// Printer writes what happens. Close it to end the drawing.
type Printer struct {
	cfg Config

	mu     sync.Mutex
	look   look
	tasks  []*Task // in the order they began
	frame  int     // of the spinner
	drawn  bool    // whether the status line is on the screen
	broken error   // the first write that went wrong

	start sync.Once
	wake  chan struct{} // has one element when a task has begun
	quit  chan struct{}
	ended chan struct{}
	close sync.Once
}

// New returns a Printer.
func New(cfg Config) *Printer {
	if cfg.Zone == nil {
		cfg.Zone = time.Local
	}
	return &Printer{
		cfg:   cfg,
		look:  look{zone: cfg.Zone, colors: map[string]string{}},
		wake:  make(chan struct{}, 1),
		quit:  make(chan struct{}),
		ended: make(chan struct{}),
	}
}

// Close takes the status line off the screen, waits for the drawing to end and
// returns the first error that writing met. Lines may still be printed after it.
func (p *Printer) Close() error {
	p.close.Do(func() {
		close(p.quit)
		p.start.Do(func() { close(p.ended) }) // no task ever began
		<-p.ended
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	return p.broken
}

// Header is what a command works on. The services are coloured in this order.
type Header struct {
	App       string
	Services  []string
	Context   string
	Namespace string
}

// Header prints what a command works on, and learns the services' names.
func (p *Printer) Header(h Header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range h.Services {
		p.look.meet(s)
	}
	p.record(record{Type: "app", App: h.App, Services: h.Services, Context: h.Context, Namespace: h.Namespace})
	if !p.cfg.JSON {
		p.write(&p.cfg.Err, p.look.header(h))
	}
}

// Event prints one thing that happened.
func (p *Printer) Event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.event(e)
}

func (p *Printer) event(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	p.look.meet(e.Service)
	p.record(e.record())
	if !p.cfg.JSON && !e.Quiet {
		p.write(&p.cfg.Err, p.look.event(e, p.cfg.Err.columns()))
	}
}

// Note prints a remark.
func (p *Printer) Note(service, text string) {
	p.Event(Event{Type: Note, Service: service, Text: text})
}

// Warn prints something that works but should not stay so, and what to do.
func (p *Printer) Warn(service, text, next string) {
	p.Event(Event{Type: Warning, Service: service, Text: text, Next: next})
}

// Fail prints what went wrong. Output is what a compiler or a crashed process
// printed; lines after the first of err's message count as that too. Next says
// what to do. Output and next may be empty.
func (p *Printer) Fail(service string, err error, output, next string) {
	p.Event(Event{Type: Error, Service: service, Err: err, Output: output, Next: next})
}

// Log prints what a service printed: one line or several.
func (p *Printer) Log(service, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look.meet(service)
	for s := range bytes.Lines([]byte(text)) {
		s := string(bytes.TrimRight(s, "\r\n"))
		p.recordTo(&p.cfg.Out, record{Type: "log", Service: service, Text: s})
		if !p.cfg.JSON {
			p.write(&p.cfg.Out, p.look.log(service, s, p.cfg.Out.Color))
		}
	}
}

// URL is where a service can be reached. Note says how, where that is not
// plain: "gRPC".
type URL struct {
	Service string
	URL     string
	Note    string
}

// URLs prints where services can be reached.
func (p *Printer) URLs(urls []URL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range urls {
		p.look.meet(u.Service)
		p.recordTo(&p.cfg.Out, record{Type: "url", Service: u.Service, URL: u.URL, Text: u.Note})
	}
	if !p.cfg.JSON {
		p.write(&p.cfg.Out, p.look.urls(urls))
	}
}

// Data prints the answer of a command: v as JSON, or t for people.
func (p *Printer) Data(v any, t *Table) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cfg.JSON {
		p.write(&p.cfg.Out, p.look.table(t, p.cfg.Out.columns()))
		return p.broken
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	p.send(&p.cfg.Out, b.Bytes())
	return p.broken
}

// Text prints the answer of a command that is a text for people and programs, as it is.
func (p *Printer) Text(text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.send(&p.cfg.Out, []byte(text))
	p.draw()
	return p.broken
}

// record writes an event to whoever wants JSON. Events has its own stream; with
// JSON set, Err has them too. It wants p.mu to be held.
func (p *Printer) record(r record) { p.recordTo(&p.cfg.Err, r) }

// recordTo is record for what belongs to another stream than Err.
func (p *Printer) recordTo(s *Stream, r record) {
	if p.cfg.Events == nil && !p.cfg.JSON {
		return
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.In(p.cfg.Zone).Round(time.Millisecond)
	b := r.line()
	if p.cfg.Events != nil {
		if _, err := p.cfg.Events.Write(b); err != nil && p.broken == nil {
			p.broken = err
		}
	}
	if p.cfg.JSON {
		p.send(s, b)
	}
}

// write prints lines above the status line. It wants p.mu to be held.
func (p *Printer) write(s *Stream, lines []line) {
	if len(lines) == 0 {
		return
	}
	var b bytes.Buffer
	for _, l := range lines {
		l.render(&b, s.Color)
		b.WriteByte('\n')
	}
	if !p.drawn {
		p.send(s, b.Bytes())
		return
	}
	if s == &p.cfg.Err { // the usual case in one write: no flicker
		p.send(s, append(append([]byte(eraseLine), b.Bytes()...), p.status()...))
		return
	}
	p.erase()
	p.send(s, b.Bytes())
	p.draw()
}

func (p *Printer) send(s *Stream, b []byte) {
	if s.W == nil || len(b) == 0 {
		return
	}
	if _, err := s.W.Write(b); err != nil && p.broken == nil {
		p.broken = err
	}
}
