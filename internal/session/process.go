package session

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// settled is how long a process that has crashed before must run until what it
// prints is taken for news again.
const settled = 3 * time.Second

// repeat is the pause before a crash that comes again and again is told again. It
// doubles each time, up to repeatMost.
const repeat, repeatMost = 30 * time.Second, 8 * time.Minute

// process is what is known of the process in one pod, and decides what of its
// words is shown: a crash has one panel with the last of them. A process that
// crashes again and again in the same way without having served has another one now
// and then. Its owner's lock guards it.
type process struct {
	ends  int           // since the last save
	told  time.Time     // when a panel had the last of them
	pause time.Duration // until the next panel
	since time.Time     // when the present one was started
	isUp  bool
	shown []string // the last lines that were printed as log
	tail  []string // of the last crash
	due   []string // lines of the crash that are still to come as log
	held  []string // lines of a process that has crashed before
}

// keptLines is how many lines are remembered or held back.
const keptLines = 200

// edited notes that the process will be another one.
func (p *process) edited() { *p = process{shown: p.shown} }

// started notes that it was started, up that it can serve.
func (p *process) started(at time.Time) { p.since, p.isUp, p.held = at, false, nil }

// up notes that it can serve, and returns the lines that were held back until then.
func (p *process) up() []string {
	p.isUp = true
	return p.show(nil)
}

// ripe returns the lines that were held back, once the process has run for long enough.
func (p *process) ripe(now time.Time) []string {
	if now.Sub(p.since) < settled {
		return nil // of another process
	}
	return p.show(nil)
}

// exited notes an end with the last of its output. It reports whether that is news
// to a person, and what of the output was not shown yet.
func (p *process) exited(output []byte, at time.Time) (news bool, unseen string) {
	tail := lines(output)
	p.ends++
	first := p.ends == 1 || !slices.Equal(anonymous(tail), anonymous(p.tail))
	served := p.isUp && at.Sub(p.since) >= settled
	if news = first || served || at.Sub(p.told) >= p.pause; news {
		p.told, p.pause = at, min(2*p.pause, repeatMost)
	}
	if first || served {
		p.pause = repeat
	}
	p.isUp, p.held = false, nil
	p.tail = tail
	n := overlap(p.shown, tail)
	p.shown = nil
	p.due = tail[n:]
	return news, strings.Join(tail[n:], "\n")
}

// log takes in a line and returns those that are to be printed now. What it holds back
// is asked for by up or ripe.
func (p *process) log(line string, now time.Time) []string {
	if i := slices.Index(p.due, line); i >= 0 {
		p.due = p.due[i+1:] // the panel had it
		return nil
	}
	if p.ends > 0 && !p.isUp && now.Sub(p.since) < settled {
		if len(p.held) < keptLines {
			p.held = append(p.held, line)
		}
		return nil
	}
	return p.show([]string{line})
}

// show returns what was held back, and lines after that, and remembers them as printed.
func (p *process) show(lines []string) []string {
	out := append(p.held, lines...)
	p.held = nil
	p.shown = append(p.shown, out...)
	if n := len(p.shown); n > keptLines {
		p.shown = slices.Clone(p.shown[n-keptLines:])
	}
	return out
}

// overlap returns how many of the first of next are the last of before.
func overlap(before, next []string) int {
	for n := min(len(before), len(next)); n > 0; n-- {
		if slices.Equal(before[len(before)-n:], next[:n]) {
			return n
		}
	}
	return 0
}

// anonymous takes out what differs between two crashes of the same kind: numbers.
func anonymous(all []string) []string {
	same := make([]string, len(all))
	for i, line := range all {
		same[i] = strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' || r >= 'a' && r <= 'f' {
				return -1
			}
			return r
		}, line)
	}
	return same
}

// lines splits a process's output.
func lines(output []byte) []string {
	var all []string
	for line := range bytes.Lines(output) {
		all = append(all, string(bytes.TrimRight(line, "\r\n")))
	}
	return all
}
