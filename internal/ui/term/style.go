package term

import (
	"bytes"
	"hash/fnv"
	"time"
)

// Colours are of the 256 that nearly every terminal has. Each can be read on
// black and on white; a test holds them to that. No colour is the only bearer
// of a meaning: there is always a sign or a word beside it.
const (
	plain   = ""
	bold    = "1"
	faint   = "38;5;245"
	good    = "38;5;29"
	bad     = "38;5;160"
	caution = "38;5;136"
)

// palette colours services. Neighbours differ for colour-blind eyes too.
var palette = [...]string{"38;5;33", "38;5;166", "38;5;30", "38;5;169", "38;5;136", "38;5;98", "38;5;64", "38;5;131"}

// span is text in one style. The text never holds an escape sequence, except
// that of a log line, which ends its own.
type span struct {
	style string
	text  string
}

// line is what is printed between two line ends.
type line []span

func (l line) columns() int {
	n := 0
	for _, s := range l {
		n += columnsOf(s.text)
	}
	return n
}

// cut returns the line at a width of n columns; 0 means no limit.
func (l line) cut(n int) line {
	if n <= 0 || l.columns() <= n {
		return l
	}
	var out line
	for _, s := range l {
		c := columnsOf(s.text)
		if c >= n {
			// An ellipsis even if s just fits: something follows it.
			if c == n {
				s.text += " "
			}
			return append(out, span{s.style, cut(s.text, n)})
		}
		out = append(out, s)
		n -= c
	}
	return out
}

func (l line) render(b *bytes.Buffer, color bool) {
	for _, s := range l {
		if !color || s.style == plain || s.text == "" {
			b.WriteString(s.text)
			continue
		}
		b.WriteString("\x1b[" + s.style + "m" + s.text + "\x1b[0m")
	}
}

// look is how things are laid out: what is known of the services' names.
type look struct {
	zone   *time.Location
	names  int               // columns of the longest name
	colors map[string]string // of the services that were met
}

const (
	minName = 4
	maxName = 24
)

// meet makes room for a service's name and gives it a colour. Services that are
// known from the start get the palette's colours in their order, so that no two
// are alike before all are used; later ones by a hash of their name.
func (k *look) meet(service string) {
	if service == "" || k.colors[service] != "" {
		return
	}
	k.names = min(maxName, max(k.names, minName, columnsOf(clean(service))))
	if n := len(k.colors); n < len(palette) {
		k.colors[service] = palette[n]
		return
	}
	h := fnv.New32a()
	h.Write([]byte(service))
	k.colors[service] = palette[h.Sum32()%uint32(len(palette))]
}

func (k *look) name(service string) span {
	return span{k.colors[service], pad(clean(service), k.names)}
}
