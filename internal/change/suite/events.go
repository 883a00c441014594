package suite

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// event is a line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output, FailedBuild string
	Elapsed                                                float64
}

// events reads what go test -json writes, as it comes. What is no event (a tool's
// own words) is kept as output of nothing in particular. It writes what tests
// print to log.
type events struct {
	log   io.Writer
	stray tail // lines that are no events

	mu     sync.Mutex
	line   []byte
	long   bool // the present line is longer than what is kept of it
	packs  map[string]*packEvents
	builds map[string]*tall // output of compilations, by import path
}

type packEvents struct {
	tests       map[string]*testEvents
	order       []string
	output      tall
	action      string // the last of pass, fail, skip; "" while it runs
	elapsed     float64
	failedBuild string
}

type testEvents struct {
	action  string
	elapsed float64
	output  tall
}

// longest is how long a line may be.
const longest = 1 << 20

// mostTests is of how many tests of a package something is kept.
const mostTests = 100_000

func newEvents(log io.Writer) *events {
	return &events{log: log, packs: map[string]*packEvents{}, builds: map[string]*tall{}}
}

// Write takes a piece of the stream. It never fails but when the log does.
func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			e.keep(p)
			break
		}
		e.keep(p[:i])
		if err := e.flush(); err != nil {
			return 0, err
		}
		p = p[i+1:]
	}
	return n, nil
}

func (e *events) keep(p []byte) {
	if room := longest - len(e.line); len(p) > room {
		e.long = true
		p = p[:room]
	}
	e.line = append(e.line, p...)
}

// end takes what comes without a line end.
func (e *events) end() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.line) == 0 {
		return nil
	}
	return e.flush()
}

func (e *events) flush() error {
	line, long := e.line, e.long
	e.line, e.long = e.line[:0], false
	var ev event
	if long || len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &ev) != nil || ev.Action == "" {
		e.stray.add(string(line))
		_, err := e.log.Write(append(slices.Clone(line), '\n'))
		return err
	}
	e.take(ev)
	if ev.Output == "" {
		return nil
	}
	_, err := io.WriteString(e.log, ev.Output)
	return err
}

func (e *events) take(ev event) {
	switch {
	case strings.HasPrefix(ev.Action, "build-"):
		if ev.Output != "" {
			b := e.builds[ev.ImportPath]
			if b == nil {
				b = &tall{}
				e.builds[ev.ImportPath] = b
			}
			b.add(strings.TrimRight(ev.Output, "\n"))
		}
		return
	case ev.Package == "":
		return
	}
	p := e.packs[ev.Package]
	if p == nil {
		p = &packEvents{tests: map[string]*testEvents{}}
		e.packs[ev.Package] = p
	}
	if ev.Test != "" {
		p.take(ev)
		return
	}
	switch ev.Action {
	case "output":
		p.output.add(strings.TrimRight(ev.Output, "\n"))
	case "pass", "fail", "skip":
		p.action, p.elapsed, p.failedBuild = ev.Action, ev.Elapsed, ev.FailedBuild
	}
}

func (p *packEvents) take(ev event) {
	t := p.tests[ev.Test]
	if t == nil {
		if len(p.tests) >= mostTests {
			return
		}
		t = &testEvents{}
		p.tests[ev.Test] = t
		p.order = append(p.order, ev.Test)
	}
	switch ev.Action {
	case "output":
		if line := strings.TrimRight(ev.Output, "\n"); !marker(line) {
			t.output.add(line)
		}
	case "pass", "fail", "skip":
		t.action, t.elapsed = ev.Action, ev.Elapsed
	}
}

// marker reports whether a line only tells that a test begins or goes on.
func marker(line string) bool {
	for _, m := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "} {
		if strings.HasPrefix(line, m) {
			return true
		}
	}
	return false
}

var (
	said  = regexp.MustCompile(`^\s*([\w./@-]+\.go):(\d+):`)
	frame = regexp.MustCompile(`^\s+(/?[^\s:]+\.go):(\d+)( \+0x[0-9a-f]+)?$`)
)

// where finds the place of a failure in a test's output: what t.Error printed, or
// of a panic the first frame in the source tree.
func where(output []string, root, dir string) (file string, line int) {
	for _, l := range output {
		m := said.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		if n, err := strconv.Atoi(m[2]); err == nil {
			return filepath.ToSlash(filepath.Join(dir, m[1])), n
		}
	}
	for _, l := range output {
		m := frame.FindStringSubmatch(l)
		if m == nil || !filepath.IsAbs(m[1]) || !within(root, m[1]) {
			continue
		}
		rel, err := filepath.Rel(root, m[1])
		if n, bad := strconv.Atoi(m[2]); err == nil && bad == nil {
			return filepath.ToSlash(rel), n
		}
	}
	return "", 0
}

// action is how a package ended, "" when it has not.
func (e *events) action(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.packs[name]; p != nil {
		return p.action
	}
	return ""
}

// result turns what was read about a unit's package into its result.
func (e *events) result(u Unit, root string) UnitResult {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := UnitResult{Name: u.Name, Kind: u.Kind, Dir: u.Dir, Key: u.Key, Status: Stopped}
	p := e.packs[u.Name]
	if p == nil {
		r.Output = e.stray.lines
		return r
	}
	r.Seconds = p.elapsed
	for _, name := range p.order {
		r.Tests = append(r.Tests, p.tests[name].result(name, root, u.Dir))
	}
	switch p.action {
	case "pass", "skip":
		r.Status = Passed
		return r
	case "fail":
		r.Status = Failed
	}
	r.Output = p.output.all()
	if p.failedBuild != "" {
		r.Reason = "it does not compile"
		if b := e.builds[p.failedBuild]; b != nil {
			r.Output = b.all()
		}
	}
	return r
}

func (t *testEvents) result(name, root, dir string) Test {
	out := Test{Name: name, Seconds: t.elapsed}
	switch t.action {
	case "pass":
		out.Status = Passed
		return out
	case "skip":
		out.Status = Skipped
		return out
	case "fail":
		out.Status = Failed
	default: // it had not ended when its package did
		out.Status = Stopped
	}
	out.Output = t.output.all()
	out.File, out.Line = where(out.Output, root, dir)
	return out
}
