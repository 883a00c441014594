package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// longestLine is how much of a line is printed at once; the rest of a longer one
// follows as a line of its own.
const longestLine = 1 << 20

// cursor is where a reader of a container's log is. Kubernetes gives a log again
// only from a full second on, so a reader that comes back has to leave out what it
// had: every line before the last one's time, and as many of that very time as it
// has seen.
type cursor struct {
	at   time.Time // of the last line
	seen int       // lines of exactly that time

	again int // of these, how many the present reading has given
}

// reopen begins a new reading and returns from when on.
func (c *cursor) reopen() meta.Time {
	c.again = 0
	return meta.NewTime(c.at.Truncate(time.Second))
}

// isNew takes in the time of a line and reports whether it was not had before.
func (c *cursor) isNew(at time.Time) bool {
	switch {
	case at.Before(c.at):
		return false
	case at.After(c.at):
		c.at, c.seen, c.again = at, 1, 1
		return true
	}
	c.again++
	if c.again <= c.seen {
		return false
	}
	c.seen = c.again
	return true
}

// stamped splits a line that the cluster has put the time before.
func stamped(line string) (at time.Time, text string, ok bool) {
	stamp, text, found := strings.Cut(line, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if !found || err != nil {
		return time.Time{}, line, false
	}
	return at, text, true
}

// readLines gives every line of r to take, without its end, until r ends. A line
// that is very long comes in pieces; whole tells that a piece begins a line.
func readLines(r io.Reader, take func(line string, whole bool)) error {
	in := bufio.NewReaderSize(r, longestLine)
	whole := true
	for {
		piece, err := in.ReadSlice('\n')
		if len(piece) > 0 {
			take(strings.TrimRight(string(piece), "\r\n"), whole)
			whole = !errors.Is(err, bufio.ErrBufferFull)
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

// logs prints what the services' containers write, from now on, until ctx ends.
func (p *pods) logs(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	following := map[*pod]bool{}
	since := time.Now()
	for {
		p.mu.Lock()
		changed := p.changed
		for _, pod := range p.all {
			if pod.target != nil && !following[pod] {
				following[pod] = true
				group.Go(func() { p.log(ctx, pod, since) })
			}
		}
		for pod := range following {
			if p.all[pod.name] != pod {
				delete(following, pod)
			}
		}
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// log prints one pod's output until the pod is gone or ctx ends.
func (p *pods) log(ctx context.Context, of *pod, since time.Time) {
	c := cursor{at: since}
	client := p.session.applier.Client.CoreV1().Pods(p.session.environment)
	for ctx.Err() == nil {
		from := c.reopen()
		stream, err := client.GetLogs(of.name, &core.PodLogOptions{Container: of.container, Follow: true, Timestamps: true, SinceTime: &from}).Stream(ctx)
		if err == nil {
			err = readLines(stream, func(line string, whole bool) { p.logLine(of, &c, line, whole) })
			stream.Close()
		}
		if err != nil && ctx.Err() == nil {
			p.session.Log.Debug("log is read again", "pod", of.name, "error", err)
		}
		p.mu.Lock()
		gone := p.all[of.name] != of
		p.mu.Unlock()
		if gone {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond): // the container is started again
		case <-ctx.Done():
		}
	}
}

// logLine prints a line, unless it was printed before or is no news.
func (p *pods) logLine(of *pod, c *cursor, line string, whole bool) {
	if whole {
		at, text, ok := stamped(line)
		if ok && !c.isNew(at) {
			return
		}
		line = text
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print(of, of.process.log(line, time.Now()))
	if len(of.process.held) == 1 { // it may be its last
		time.AfterFunc(settled, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.print(of, of.process.ripe(time.Now()))
		})
	}
}

// print prints lines of a pod's process. The caller has the lock.
func (p *pods) print(of *pod, lines []string) {
	for _, line := range lines {
		p.session.Printer.Log(of.service, local(p.session.plan(), line))
	}
}
