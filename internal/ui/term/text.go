package term

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Where columns begin: "12:04:05 ✓ cart  ".
const (
	clock      = "15:04:05"
	indent     = 11 // where a service's name stands
	verbWidth  = 7  // "restart"
	tookWidth  = 7  // "1.2 s", "cached"
	outputHead = 16 // lines of output that are shown from the start
	outputTail = 8  // and from the end, where there are more
)

// header says what a command works on.
func (k *look) header(h Header) []line {
	l := line{{bold, clean(h.App)}}
	if n := len(h.Services); n > 0 {
		l = append(l, span{plain, "  " + Count(n, "service")})
	}
	if h.Context != "" {
		l = append(l, span{faint, "  context "}, span{plain, clean(h.Context)})
	}
	if h.Namespace != "" {
		l = append(l, span{faint, "  namespace "}, span{plain, clean(h.Namespace)})
	}
	return []line{l, nil}
}

// event lays out e for a screen of so many columns; 0 means no limit.
func (k *look) event(e Event, width int) []line {
	head := line{{faint, e.Time.In(k.zone).Format(clock)}, {plain, " "}, sign(e.Type), {plain, " "}}
	if e.Service != "" {
		head = append(head, k.name(e.Service), span{plain, "  "})
	}
	switch e.Type {
	case Error, Warning:
		return k.trouble(head, e, width)
	case Note:
		return hang(head, clean(e.Text), plain, width)
	case Sync:
		return []line{fit(width, head, saved(e))}
	}
	if e.Service == "" && k.names > 0 { // the verbs stand below each other
		head = append(head, span{plain, strings.Repeat(" ", k.names+2)})
	}
	return []line{fit(width, head, done(e))}
}

// sign is a mark that tells how it went without any colour.
func sign(t Type) span {
	switch t {
	case Build, Push, Deploy, Ready, Sync, Review, Test, Preview, Merge:
		return span{good, "✓"}
	case Warning:
		return span{caution, "!"}
	case Error:
		return span{bad, "✗"}
	}
	return span{faint, "·"}
}

// part of a line. Optional parts are left out when the screen is too narrow.
type part struct {
	line
	optional bool
}

// fit puts together what fits into width columns. Parts come in the order of
// their importance.
func fit(width int, head line, parts []part) line {
	need := head.columns()
	for _, p := range parts {
		if !p.optional {
			need += p.columns()
		}
	}
	out := slices.Clone(head)
	for _, p := range parts {
		if p.optional && width > 0 && need+p.columns() > width {
			continue
		}
		if p.optional {
			need += p.columns()
		}
		out = append(out, p.line...)
	}
	return out.cut(width)
}

// saved tells how a save became live.
func saved(e Event) []part {
	var parts []part
	if e.Text != "" {
		parts = append(parts, part{line: line{{bold, clean(e.Text)}, {plain, "  "}}})
	}
	parts = append(parts, part{line: line{{plain, "saved → live "}, {good, Duration(e.Took)}}})
	if ph := phases(e.Phases); ph != "" {
		parts = append(parts, part{line{{faint, "  (" + ph + ")"}}, true})
	}
	if size := size(e); size != "" {
		parts = append(parts, part{line{{plain, "  " + size}}, true})
	}
	return parts
}

// done tells one step: a verb, how long it took, and what there is to say.
func done(e Event) []part {
	parts := []part{{line: line{{faint, pad(string(e.Type), verbWidth)}}}}
	took := ""
	switch {
	case e.Cached:
		took = "cached"
	case e.Took > 0:
		took = Duration(e.Took)
	}
	if took != "" {
		parts = append(parts, part{line: line{{plain, strings.Repeat(" ", max(0, tookWidth-columnsOf(took))) + took}}})
	}
	if e.Text != "" {
		gap := "  "
		if took == "" {
			gap = " "
		}
		parts = append(parts, part{line: line{{plain, gap + clean(e.Text)}}})
	}
	if size := size(e); size != "" {
		parts = append(parts, part{line{{plain, "  " + size}}, true})
	}
	if ph := phases(e.Phases); ph != "" {
		parts = append(parts, part{line{{faint, "  (" + ph + ")"}}, true})
	}
	if e.Why != "" {
		parts = append(parts, part{line{{faint, "  (" + clean(e.Why) + ")"}}, true})
	}
	return parts
}

// phases writes parts of a time in plain milliseconds: "build 310 · send 18".
func phases(ph []Phase) string {
	var b []string
	for _, p := range ph {
		s := strings.TrimSuffix(Duration(p.Took), " ms")
		b = append(b, clean(p.Name)+" "+s)
	}
	return strings.Join(b, " · ")
}

func size(e Event) string {
	var b []string
	if e.Files > 0 {
		b = append(b, Count(e.Files, "file"))
	}
	if e.Bytes > 0 {
		b = append(b, Bytes(e.Bytes))
	}
	return strings.Join(b, " ")
}

// trouble tells what went wrong: the matter, its causes below it, what a
// program had to say, and what to do.
func (k *look) trouble(head line, e Event, width int) []line {
	causes, output := []string{e.Text}, e.Output
	if e.Err != nil {
		var rest string
		causes, rest = split(e.Err)
		if e.Text != "" {
			causes = append([]string{e.Text}, causes...)
		}
		if output == "" {
			output = rest
		}
	}
	whole := clean(strings.Join(causes, ": "))
	var lines []line
	if width == 0 || head.columns()+columnsOf(whole) <= width || len(causes) == 1 {
		lines = hang(head, whole, plain, width)
	} else {
		lines = hang(head, clean(causes[0]), plain, width)
		for _, c := range causes[1:] {
			lines = append(lines, hang(under("because "), clean(c), plain, width)...)
		}
	}
	lines = append(lines, outputOf(output)...)
	if e.Next != "" {
		lines = append(lines, hang(under("→ "), clean(e.Next), plain, width)...)
	}
	return lines
}

func under(mark string) line { return line{{faint, strings.Repeat(" ", indent) + mark}} }

// hang prints text behind head and, where it is longer than the screen is wide,
// goes on below its start.
func hang(head line, text, style string, width int) []line {
	at := head.columns()
	if width > 0 && width-at < 24 {
		at = indent // too narrow for that: below the name
	}
	room := 0
	if width > 0 {
		room = max(24, width-at)
	}
	var lines []line
	for i, s := range wrap(text, room) {
		l := line{{plain, strings.Repeat(" ", at)}}
		if i == 0 {
			l = slices.Clone(head)
		}
		lines = append(lines, append(l, span{style, s}))
	}
	return lines
}

// outputOf shows what a program printed: all of a page, the ends of a wall.
func outputOf(output string) []line {
	output = strings.TrimRight(output, "\n")
	if output == "" {
		return nil
	}
	var lines []line
	all := strings.Split(output, "\n")
	for i, s := range all {
		skipped := len(all) - outputHead - outputTail
		if skipped > 1 && i >= outputHead && i < outputHead+skipped {
			if i == outputHead {
				lines = append(lines, append(under("┆ "), span{faint, Count(skipped, "line") + " more"}))
			}
			continue
		}
		lines = append(lines, append(under("│ "), span{plain, cleanLog(s, false)}))
	}
	return lines
}

// split takes an error apart: what was being done, then each cause. What stands
// below the first line of its message is output.
func split(err error) (causes []string, output string) {
	msg, output, _ := strings.Cut(err.Error(), "\n")
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		cause, _, _ := strings.Cut(inner.Error(), "\n")
		what, ok := strings.CutSuffix(msg, ": "+cause)
		if ok && what != "" && cause != "" {
			causes, msg = append(causes, what), cause
		}
		err = inner
	}
	return append(causes, strings.TrimSuffix(msg, ":")), output
}

// log prefixes a line with the service that printed it.
func (k *look) log(service, text string, color bool) []line {
	return []line{{k.name(service), {faint, " │ "}, {plain, cleanLog(text, color)}}}
}

// urls lists where services can be reached.
func (k *look) urls(urls []URL) []line {
	lines := []line{nil}
	for _, u := range urls {
		l := line{{plain, "  "}, k.name(u.Service), {plain, "  " + clean(u.URL)}}
		if u.Note != "" {
			l = append(l, span{faint, "  " + clean(u.Note)})
		}
		lines = append(lines, l)
	}
	return append(lines, nil)
}

// status shows the work that is going on in one line.
func (k *look) status(frame int, tasks []*Task, now time.Time, width int) line {
	const frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
	spinner := []rune(frames)
	l := line{{faint, string(spinner[frame%len(spinner)]) + " "}}
	for i, t := range tasks {
		next := line{}
		if i > 0 {
			next = append(next, span{faint, " · "})
		}
		if t.service != "" {
			next = append(next, span{k.colors[t.service], clean(t.service)}, span{plain, " "})
		}
		next = append(next, span{plain, clean(t.text)}, span{faint, fmt.Sprintf(" %.1f s", now.Sub(t.began).Seconds())})
		more := fmt.Sprintf(" +%d more", len(tasks)-i)
		room := width
		if i < len(tasks)-1 {
			room -= len(more)
		}
		if width > 0 && i > 0 && l.columns()+next.columns() > room {
			return append(l, span{faint, more}).cut(width)
		}
		l = append(l, next...)
	}
	return l.cut(width)
}
