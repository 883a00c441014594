package suite

import (
	"bytes"
	"io"
	"slices"
	"sync"
)

// Mask is a writer that replaces secrets by "***", also where a secret is spread
// over several writes. It holds back as much as may be the beginning of a secret;
// Flush writes that. It is safe for concurrent use.
type Mask struct {
	w       io.Writer
	secrets [][]byte

	mu   sync.Mutex
	held []byte
	err  error
}

// shortest is the length below which a value is no secret: masking it would
// destroy the log and tell the value.
const shortest = 4

// NewMask masks the given values in what is written to w.
func NewMask(w io.Writer, secrets ...string) *Mask {
	m := &Mask{w: w}
	for _, s := range secrets {
		// A log shows a value of several lines line by line.
		for _, line := range append(bytes.Split([]byte(s), []byte("\n")), []byte(s)) {
			if line = bytes.TrimSpace(line); len(line) >= shortest {
				m.secrets = append(m.secrets, line)
			}
		}
	}
	// Of two that begin at one place the longer is the one to mask.
	slices.SortFunc(m.secrets, func(a, b []byte) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return bytes.Compare(a, b)
	})
	m.secrets = slices.CompactFunc(m.secrets, bytes.Equal)
	return m
}

func (m *Mask) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return 0, m.err
	}
	m.held = append(m.held, p...)
	m.write(false)
	if m.err != nil {
		return 0, m.err
	}
	return len(p), nil
}

// Flush writes what was held back. No more is to be written after it.
func (m *Mask) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(true)
	return m.err
}

// write passes on what can't be part of a secret any more, or all.
func (m *Mask) write(all bool) {
	var out []byte
	i := 0
	for i < len(m.held) && m.err == nil {
		found, maybe := m.at(m.held[i:])
		if maybe && !all {
			break
		}
		if found > 0 {
			out = append(out, "***"...)
			i += found
			continue
		}
		out = append(out, m.held[i])
		i++
	}
	m.held = append(m.held[:0], m.held[i:]...)
	if len(out) > 0 && m.err == nil {
		_, m.err = m.w.Write(out)
	}
}

// at tells how long the secret is that p begins with, and whether one may begin
// there, longer than that, whose end has not come yet.
func (m *Mask) at(p []byte) (found int, maybe bool) {
	for _, s := range m.secrets {
		if bytes.HasPrefix(p, s) {
			return len(s), false
		}
		if len(p) < len(s) && bytes.HasPrefix(s, p) {
			return 0, true
		}
	}
	return 0, false
}

// masked is Mask for one string.
func masked(s string, secrets []string) string {
	var b bytes.Buffer
	m := NewMask(&b, secrets...)
	_, _ = m.Write([]byte(s)) // a bytes.Buffer takes all
	_ = m.Flush()
	return b.String()
}

// capped passes on at most so many bytes, then says so once and drops the rest.
type capped struct {
	w    io.Writer
	left int64

	mu  sync.Mutex
	cut bool
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return len(p), nil
	}
	head := p[:min(int64(len(p)), c.left)]
	c.left -= int64(len(head))
	if _, err := c.w.Write(head); err != nil {
		return 0, err
	}
	if len(head) < len(p) {
		c.cut = true
		if _, err := io.WriteString(c.w, "\n[the log ends here: it has reached its limit]\n"); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// tail keeps the last lines.
type tail struct {
	lines []string
	bytes int
}

const (
	tailLines = 60
	tailBytes = 16 << 10
	lineBytes = 2 << 10
)

func (t *tail) add(line string) {
	if len(line) > lineBytes {
		line = line[:lineBytes] + "..."
	}
	t.lines = append(t.lines, line)
	t.bytes += len(line)
	for len(t.lines) > tailLines || t.bytes > tailBytes {
		t.bytes -= len(t.lines[0])
		t.lines = t.lines[1:]
	}
}

// tall keeps the first lines and the last ones: of a goroutine dump both matter.
type tall struct {
	head []string
	tail tail
}

func (t *tall) add(line string) {
	if len(t.head) < tailLines {
		t.head = append(t.head, line[:min(len(line), lineBytes)])
		return
	}
	t.tail.add(line)
}

func (t *tall) all() []string { return append(slices.Clone(t.head), t.tail.lines...) }
