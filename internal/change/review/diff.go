package review

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Limits of what [ParseDiff] reads.
const (
	maxDiffBytes = 1 << 30
	maxLineBytes = 1 << 20
)

// Kinds of [FileDiff].
const (
	Added    = "added"
	Modified = "modified"
	Deleted  = "deleted"
	Renamed  = "renamed"
	Copied   = "copied"
)

// modeSubmodule is git's mode of an entry that is a commit of another repository.
const modeSubmodule = "160000"

// Diff is what a change does to files.
type Diff struct {
	Files []*FileDiff
}

// FileDiff is what a change does to one file.
type FileDiff struct {
	Path    string // in the head commit; where it was, if it is deleted
	OldPath string // in the base commit; "" if it is added
	Kind    string // Added, Modified, ...
	OldMode string // git's octal modes; "" where the diff doesn't say
	NewMode string
	Binary  bool

	Lines   []Line // the lines that the change adds, ascending
	Removed int    // how many lines it removes
	CutAt   []int  // lines of the head after which lines were removed and none added

	// Cut says that a line longer than 1 MiB was shortened.
	Cut bool
}

// Line is a line of the head commit that a change adds.
type Line struct {
	N    int    // from 1
	Text string // without its line end
}

// Submodule reports whether the file is a commit of another repository.
func (f *FileDiff) Submodule() bool {
	return f.OldMode == modeSubmodule || f.NewMode == modeSubmodule
}

// Touches reports whether the change adds one of the lines from first to last.
func (f *FileDiff) Touches(first, last int) bool {
	i, _ := slices.BinarySearchFunc(f.Lines, first, func(l Line, n int) int { return l.N - n })
	return i < len(f.Lines) && f.Lines[i].N <= last
}

// File returns what happens to the file of that path in the head commit, or nil.
func (d *Diff) File(path string) *FileDiff {
	i := slices.IndexFunc(d.Files, func(f *FileDiff) bool { return f.Path == path })
	if i < 0 {
		return nil
	}
	return d.Files[i]
}

// Size returns how many lines a change adds and removes.
func (d *Diff) Size() (added, removed int) {
	for _, f := range d.Files {
		added += len(f.Lines)
		removed += f.Removed
	}
	return added, removed
}

// ParseDiff reads the output of git diff. Context lines are allowed and not kept.
func ParseDiff(r io.Reader) (*Diff, error) {
	p := &diffParser{in: bufio.NewReaderSize(io.LimitReader(r, maxDiffBytes+1), 64<<10), out: &Diff{}}
	if err := p.run(); err != nil {
		return nil, fmt.Errorf("read the diff, line %d: %w", p.line, err)
	}
	for _, f := range p.out.Files {
		f.settleKind()
	}
	return p.out, nil
}

// diffParser reads headers line by line, and hunks by the counts in their heads,
// so that content that looks like a header is content.
type diffParser struct {
	in    *bufio.Reader
	out   *Diff
	cur   *FileDiff
	line  int
	bytes int64
	cut   bool // the line just read was shortened
}

func (p *diffParser) run() error {
	for {
		l, err := p.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.header(l); err != nil {
			return err
		}
	}
}

// next returns the next line without its line feed.
func (p *diffParser) next() (string, error) {
	var long []byte
	p.cut = false
	for {
		b, err := p.in.ReadSlice('\n')
		if p.bytes += int64(len(b)); p.bytes > maxDiffBytes {
			return "", fmt.Errorf("the diff has more than %d MiB: split the change", maxDiffBytes>>20)
		}
		if room := maxLineBytes - len(long); len(b) > room {
			long, p.cut = append(long, b[:room]...), true
		} else if err == nil && long == nil {
			p.line++
			return string(b[:len(b)-1]), nil
		} else {
			long = append(long, b...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == nil, errors.Is(err, io.EOF) && len(long) > 0:
			p.line++
			return strings.TrimSuffix(string(long), "\n"), nil
		default:
			return "", err
		}
	}
}

func (p *diffParser) header(l string) error {
	switch {
	case strings.HasPrefix(l, "diff --git "):
		old, new := gitNames(l[len("diff --git "):])
		p.cur = &FileDiff{Path: new, OldPath: old, Kind: Modified}
		p.out.Files = append(p.out.Files, p.cur)
		return nil
	case strings.HasPrefix(l, "diff --cc "), strings.HasPrefix(l, "diff --combined "):
		return errors.New("this is the diff of a merge to all its parents: give one base (git diff BASE HEAD)")
	case p.cur == nil:
		return nil // what stands before the first file: a commit message, notes
	case strings.HasPrefix(l, "@@ "):
		return p.hunk(l)
	}
	return p.extended(l)
}

// extended reads one line between "diff --git" and the first hunk.
func (p *diffParser) extended(l string) error {
	for _, h := range []struct {
		prefix string
		set    func(v string) error
	}{
		{"old mode ", func(v string) error { p.cur.OldMode = v; return nil }},
		{"new mode ", func(v string) error { p.cur.NewMode = v; return nil }},
		{"new file mode ", func(v string) error { p.cur.Kind, p.cur.NewMode = Added, v; return nil }},
		{"deleted file mode ", func(v string) error { p.cur.Kind, p.cur.OldMode = Deleted, v; return nil }},
		{"rename from ", func(v string) error { p.cur.Kind = Renamed; return setPath(&p.cur.OldPath, v, "") }},
		{"rename to ", func(v string) error { return setPath(&p.cur.Path, v, "") }},
		{"copy from ", func(v string) error { p.cur.Kind = Copied; return setPath(&p.cur.OldPath, v, "") }},
		{"copy to ", func(v string) error { return setPath(&p.cur.Path, v, "") }},
		{"index ", func(v string) error {
			if _, mode, ok := strings.Cut(v, " "); ok {
				p.cur.OldMode, p.cur.NewMode = mode, mode
			}
			return nil
		}},
		{"Binary files ", func(string) error { p.cur.Binary = true; return nil }},
		{"GIT binary patch", func(string) error { p.cur.Binary = true; return nil }},
		{"--- ", func(v string) error { return setPath(&p.cur.OldPath, v, "a/") }},
		{"+++ ", func(v string) error { return setPath(&p.cur.Path, v, "b/") }},
	} {
		if v, ok := strings.CutPrefix(l, h.prefix); ok {
			return h.set(v)
		}
	}
	return nil // similarity, the payload of a binary patch
}

// hunk reads a hunk's head and exactly as many lines as it announces.
func (p *diffParser) hunk(head string) error {
	oldN, newAt, newN, err := hunkHead(head)
	if err != nil {
		return err
	}
	removed, added := 0, 0
	at := newAt
	if newN == 0 {
		at++ // git names the line before
	}
	for oldN > 0 || newN > 0 {
		l, err := p.next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the hunk %q ends early: the diff was cut off", head)
		}
		if err != nil {
			return err
		}
		mark := byte(' ') // some programs strip the blank of an empty context line
		if l != "" {
			mark = l[0]
		}
		switch mark {
		case '+':
			p.cur.Lines = append(p.cur.Lines, Line{N: at, Text: strings.TrimSuffix(l[1:], "\r")})
			p.cur.Cut = p.cur.Cut || p.cut
			at, newN, added = at+1, newN-1, added+1
		case '-':
			oldN, removed = oldN-1, removed+1
		case ' ':
			p.boundary(at, removed, added)
			removed, added = 0, 0
			at, newN, oldN = at+1, newN-1, oldN-1
		case '\\': // "\ No newline at end of file"
		default:
			return fmt.Errorf("a line of the hunk %q starts with %q", head, mark)
		}
	}
	if oldN < 0 || newN < 0 {
		return fmt.Errorf("the hunk %q has more lines than it says", head)
	}
	p.boundary(at, removed, added)
	return nil
}

// boundary notes the end of a run of removed and added lines before line at.
func (p *diffParser) boundary(at, removed, added int) {
	p.cur.Removed += removed
	if removed > 0 && added == 0 {
		p.cur.CutAt = append(p.cur.CutAt, at-1)
	}
}

// hunkHead reads "@@ -1,2 +3,4 @@ anything".
func hunkHead(l string) (oldN, newAt, newN int, err error) {
	f := strings.SplitN(l, " ", 5)
	if len(f) < 4 || f[3] != "@@" || !strings.HasPrefix(f[1], "-") || !strings.HasPrefix(f[2], "+") {
		return 0, 0, 0, fmt.Errorf("not a hunk's head: %q", l)
	}
	_, oldN, err = hunkRange(f[1][1:])
	if err == nil {
		newAt, newN, err = hunkRange(f[2][1:])
	}
	if err != nil {
		return 0, 0, 0, fmt.Errorf("not a hunk's head: %q: %w", l, err)
	}
	return oldN, newAt, newN, nil
}

func hunkRange(s string) (at, n int, err error) {
	first, count, ok := strings.Cut(s, ",")
	if !ok {
		count = "1"
	}
	a, err := strconv.ParseUint(first, 10, 31)
	if err != nil {
		return 0, 0, err
	}
	c, err := strconv.ParseUint(count, 10, 31)
	return int(a), int(c), err
}

// settleKind makes the paths agree with what happened to the file.
func (f *FileDiff) settleKind() {
	switch f.Kind {
	case Added:
		f.OldPath = ""
	case Deleted:
		if f.Path == "" {
			f.Path = f.OldPath
		}
	}
	if f.OldMode == "" && f.Kind != Added {
		f.OldMode = f.NewMode
	}
	if f.NewMode == "" && f.Kind != Deleted {
		f.NewMode = f.OldMode
	}
}

// setPath sets a path from a header, where /dev/null means that there is none
// and leaves what is known.
func setPath(to *string, v, prefix string) error {
	v, err := unquote(strings.TrimSuffix(v, "\t"))
	if err != nil {
		return err
	}
	if v != "/dev/null" {
		*to = strings.TrimPrefix(v, prefix)
	}
	return nil
}

// gitNames splits what follows "diff --git ". Without quotes it is ambiguous when
// the names have spaces; then the two are equal, because a rename says its names
// again in headers of its own.
func gitNames(s string) (old, new string) {
	if strings.HasPrefix(s, `"`) || strings.HasSuffix(s, `"`) {
		return quotedNames(s)
	}
	if half := len(s) / 2; len(s)%2 == 1 && s[half] == ' ' {
		a, b := strings.TrimPrefix(s[:half], "a/"), strings.TrimPrefix(s[half+1:], "b/")
		if a == b {
			return a, b
		}
	}
	a, b, _ := strings.Cut(s, " b/")
	return strings.TrimPrefix(a, "a/"), b
}

func quotedNames(s string) (old, new string) {
	var names []string
	for rest := s; rest != "" && len(names) < 2; {
		rest = strings.TrimPrefix(rest, " ")
		end := strings.IndexByte(rest, ' ')
		if strings.HasPrefix(rest, `"`) {
			end = closingQuote(rest)
		} else if len(names) == 1 || end < 0 {
			end = len(rest)
		} else if i := strings.Index(rest, ` "b/`); i >= 0 {
			end = i
		}
		name, err := unquote(rest[:end])
		if err != nil {
			name = rest[:end]
		}
		names, rest = append(names, name), rest[end:]
	}
	for len(names) < 2 {
		names = append(names, "")
	}
	return strings.TrimPrefix(names[0], "a/"), strings.TrimPrefix(names[1], "b/")
}

// closingQuote returns the index behind the quote that ends s, which starts with one.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// unquote undoes git's quoting of unusual paths, which is C's.
func unquote(s string) (string, error) {
	if !strings.HasPrefix(s, `"`) {
		return s, nil
	}
	if len(s) < 2 || !strings.HasSuffix(s, `"`) {
		return "", fmt.Errorf("the path %s has no closing quote", s)
	}
	s = s[1 : len(s)-1]
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", fmt.Errorf("the path %q ends in a backslash", s)
		}
		if at := strings.IndexByte(`abtnvfr"\`, s[i]); at >= 0 {
			b.WriteByte("\a\b\t\n\v\f\r\"\\"[at])
			continue
		}
		if i+3 > len(s) {
			return "", fmt.Errorf("the path %q has a broken escape", s)
		}
		n, err := strconv.ParseUint(s[i:i+3], 8, 8)
		if err != nil {
			return "", fmt.Errorf("the path %q has a broken escape", s)
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), nil
}
