package term

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// columns returns how many columns r takes: 0 for marks that join the rune
// before, 2 for wide runes.
func columns(r rune) int {
	switch {
	case r < 0x20 || r == 0x7f:
		return 0
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// columnsOf returns how many columns s takes. It has no escape sequences.
func columnsOf(s string) int {
	n := 0
	for _, r := range s {
		n += columns(r)
	}
	return n
}

// cut returns as much of s as fits into n columns, with an ellipsis if that is
// not all.
func cut(s string, n int) string {
	if columnsOf(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		if used+columns(r) > n-1 {
			return s[:i] + "…"
		}
		used += columns(r)
	}
	return s
}

// pad fills s up with spaces to n columns.
func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-columnsOf(s))) }

// wrap breaks s between words into lines of at most n columns; 0 means no
// limit. A word that is longer stays whole: it may be a path to copy.
func wrap(s string, n int) []string {
	words := strings.Fields(s)
	if n <= 0 || len(words) == 0 {
		return []string{s}
	}
	lines := words[:1:1]
	used := columnsOf(words[0])
	for _, w := range words[1:] {
		c := columnsOf(w)
		if used+1+c > n {
			lines, used = append(lines, w), c
			continue
		}
		lines[len(lines)-1] += " " + w
		used += 1 + c
	}
	return lines
}

// clean makes s safe to print on one line: control characters are shown as Go
// writes them, escape sequences and broken UTF-8 cannot act.
func clean(s string) string {
	if safe(s) {
		return s
	}
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '\t':
			b.WriteString("    ")
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case harmful(r):
			const hex = "0123456789abcdef"
			if r < 0x100 {
				b.WriteString(`\x` + string(hex[r>>4]) + string(hex[r&15]))
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func safe(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, harmful) < 0
}

// harmful tells control characters, and the marks that turn the direction of
// text around and so can make a line read as something else.
func harmful(r rune) bool {
	return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// cleanLog makes a line of a process's output safe to print: colours stay if
// they are wanted, everything else that would act on the terminal goes. Of a
// line that was drawn over with carriage returns the last state stays.
func cleanLog(s string, color bool) string {
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	if !strings.ContainsRune(s, '\x1b') {
		return clean(s)
	}
	var b strings.Builder
	colored := false
	for s != "" {
		i := strings.IndexByte(s, '\x1b')
		if i < 0 {
			break
		}
		b.WriteString(clean(s[:i]))
		n, isColor := escape(s[i:])
		if isColor && color {
			b.WriteString(s[i : i+n])
			colored = true
		}
		s = s[i+n:]
	}
	b.WriteString(clean(s))
	if colored {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// escape returns the length of the escape sequence at the start of s, and
// whether all it does is set colours.
func escape(s string) (n int, color bool) {
	if len(s) < 2 {
		return len(s), false
	}
	switch s[1] {
	case '[': // parameters, then one final byte
		for i := 2; i < len(s); i++ {
			c := s[i]
			if c >= 0x40 && c <= 0x7e {
				return i + 1, c == 'm' && strings.Trim(s[2:i], "0123456789;:") == ""
			}
			if c < 0x20 || c > 0x3f {
				return i, false
			}
		}
		return len(s), false
	case ']', 'P', '_', '^', 'X': // a string up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == '\a' {
				return i + 1, false
			}
			if s[i] == '\x1b' && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2, false
			}
		}
		return len(s), false
	}
	if s[1] < 0x20 || s[1] > 0x7e {
		return 1, false
	}
	return 2, false
}
