package review

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"reflect"
	"strings"
	"unicode/utf8"
)

// settle turns what checkers found into what a report says: what the change is
// answerable for, one finding per cause, with characters for columns and with
// fingerprints. lines returns a file's lines, generated whether a program wrote it.
func settle(found []Finding, d *Diff, lines func(string) [][]byte, generated func(string) bool) []Finding {
	touched := make(map[string]*FileDiff, len(d.Files))
	for _, f := range d.Files {
		if f.Kind != Deleted {
			touched[f.Path] = f
		}
	}
	kept := make([]Finding, 0, len(found))
	for _, f := range found {
		f.Message = strings.TrimSpace(f.Message)
		if f.File != "" {
			f.File = path.Clean(strings.ReplaceAll(f.File, "\\", "/"))
		}
		if answerable(f, touched) && !Vendored(f.File) && !(f.Style && generated(f.File)) {
			kept = append(kept, characters(f, lines))
		}
	}
	sortFindings(kept)
	kept = onePerCause(kept)
	fingerprint(kept, lines)
	return kept
}

// answerable reports whether the change has to answer for a finding.
func answerable(f Finding, touched map[string]*FileDiff) bool {
	if f.File != "" && (!localPath(f.File)) {
		return false
	}
	if f.Why != "" {
		return true
	}
	fd := touched[f.File]
	if fd == nil || f.Line == 0 {
		return false
	}
	last := max(f.Line, f.EndLine)
	if f.EndLine > f.Line && f.EndColumn == 1 {
		last-- // it ends before the first character of that line
	}
	// A finding over a long stretch (a function, a block) is about its start.
	if last-f.Line > 20 {
		last = f.Line
	}
	return fd.Touches(f.Line, last)
}

func localPath(p string) bool {
	return !path.IsAbs(p) && p != ".." && !strings.HasPrefix(p, "../")
}

// onePerCause keeps, of findings that say the same about one line, the best:
// the most severe, and among those one that comes with a fix.
func onePerCause(fs []Finding) []Finding {
	type key struct {
		file, cause, object string
		line                int
	}
	at := make(map[key]int, len(fs))
	out := fs[:0]
	for _, f := range fs {
		cause := f.Cause
		if cause == "" {
			cause = f.Rule + "\x00" + f.Message
		}
		k := key{f.File, cause, f.Object, f.Line}
		i, seen := at[k]
		switch {
		case !seen:
			at[k] = len(out)
			out = append(out, f)
		case len(out[i].Fixes) == 0 && len(f.Fixes) > 0 && out[i].Severity == f.Severity:
			out[i] = f
		}
	}
	return out
}

// characters turns columns that count bytes into columns that count characters.
func characters(f Finding, lines func(string) [][]byte) Finding {
	if !f.ByteColumns {
		return f
	}
	f.ByteColumns = false
	column := func(file string, line, col int) int {
		ls := lines(file)
		if col <= 1 || line < 1 || line > len(ls) {
			return col
		}
		l := ls[line-1]
		return 1 + utf8.RuneCount(l[:min(col-1, len(l))])
	}
	f.Column, f.EndColumn = column(f.File, f.Line, f.Column), column(f.File, f.EndLine, f.EndColumn)
	fixes := make([]Fix, len(f.Fixes))
	for i, x := range f.Fixes {
		fixes[i] = Fix{Message: x.Message, Edits: make([]Edit, len(x.Edits))}
		for j, e := range x.Edits {
			e.Column, e.EndColumn = column(e.File, e.Line, e.Column), column(e.File, e.EndLine, e.EndColumn)
			fixes[i].Edits[j] = e
		}
	}
	if len(fixes) > 0 {
		f.Fixes = fixes
	}
	return f
}

// fingerprint names each finding by its rule, its file and the text of its line,
// not by the line's number. Equal ones are told apart by their order.
func fingerprint(fs []Finding, lines func(string) [][]byte) {
	seen := map[string]int{}
	for i := range fs {
		f := &fs[i]
		text := f.Message
		if f.Private {
			text = ""
		} else if ls := lines(f.File); f.Line >= 1 && f.Line <= len(ls) {
			text = string(bytes.Join(bytes.Fields(ls[f.Line-1]), []byte(" ")))
		}
		id := strings.Join([]string{f.Tool, f.Rule, f.File, f.Object, text}, "\x00")
		seen[id]++
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", id, seen[id]))
		f.Fingerprint = hex.EncodeToString(sum[:12])
	}
}

// sameValue compares two rendered objects. A status is not a thing of a change's.
func sameValue(a, b map[string]any) bool {
	strip := func(m map[string]any) map[string]any {
		if _, ok := m["status"]; !ok {
			return m
		}
		out := make(map[string]any, len(m))
		for k, v := range m {
			if k != "status" {
				out[k] = v
			}
		}
		return out
	}
	return reflect.DeepEqual(strip(a), strip(b))
}
