package ignore

import (
	"path"
	"strings"
)

// pattern is one rule of a .gitignore, see gitignore(5).
type pattern struct {
	negate  bool     // the line began with "!"
	dirOnly bool     // the line ended with "/"
	name    string   // matched against the last element of a path, or
	parts   []string // matched against all of it, from the file's directory on
}

// parseGit reads the lines of a .gitignore.
func parseGit(text string) []pattern {
	var patterns []pattern
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		if p, ok := parseGitLine(strings.TrimSuffix(line, "\r")); ok {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

func parseGitLine(line string) (pattern, bool) {
	line = trimSpaces(line)
	if line == "" || line[0] == '#' {
		return pattern{}, false
	}
	var p pattern
	if line[0] == '!' {
		p.negate, line = true, line[1:]
	}
	if rest, ok := strings.CutSuffix(line, "/"); ok {
		p.dirOnly, line = true, rest
	}
	if line == "" {
		return pattern{}, false
	}
	if !strings.Contains(line, "/") {
		p.name = line
		return p, true
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(line, "/"), "/") {
		if len(part) > 2 && strings.Trim(part, "*") == "" {
			part = "**"
		}
		if part != "**" || len(p.parts) == 0 || p.parts[len(p.parts)-1] != "**" {
			p.parts = append(p.parts, part)
		}
	}
	return p, true
}

// trimSpaces removes trailing spaces that no backslash protects.
func trimSpaces(line string) string {
	end := len(line)
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
			end = len(line)
		case ' ':
			if end == len(line) {
				end = i
			}
			continue
		default:
			end = len(line)
		}
	}
	return line[:end]
}

func (p pattern) match(rel string, dir bool) bool {
	if p.dirOnly && !dir {
		return false
	}
	if p.parts == nil {
		return matchName(p.name, path.Base(rel))
	}
	return matchParts(p.parts, strings.Split(rel, "/"))
}

// matchParts matches element by element; "**" stands for any number of them,
// at the end of a pattern for at least one.
func matchParts(parts, elems []string) bool {
	for len(parts) > 0 {
		if parts[0] == "**" {
			if len(parts) == 1 {
				return len(elems) > 0
			}
			for i := 0; i <= len(elems); i++ {
				if matchParts(parts[1:], elems[i:]) {
					return true
				}
			}
			return false
		}
		if len(elems) == 0 || !matchName(parts[0], elems[0]) {
			return false
		}
		parts, elems = parts[1:], elems[1:]
	}
	return len(elems) == 0
}

// matchName matches one path element, byte by byte, with *, ?, [sets] and
// backslashes.
func matchName(pat, s string) bool {
	var starPat, starS string // where to go on if the rest does not match
	star := false
	for {
		if pat == "" && s == "" {
			return true
		}
		if pat != "" && pat[0] == '*' {
			pat = strings.TrimLeft(pat, "*")
			starPat, starS, star = pat, s, true
			continue
		}
		if pat != "" && s != "" {
			if rest, ok := matchByte(pat, s[0]); ok {
				pat, s = rest, s[1:]
				continue
			}
		}
		if !star || starS == "" {
			return false
		}
		starS = starS[1:]
		pat, s = starPat, starS
	}
}

// matchByte matches the first item of pat and returns what follows it.
func matchByte(pat string, c byte) (rest string, ok bool) {
	switch pat[0] {
	case '?':
		return pat[1:], true
	case '\\':
		if len(pat) < 2 {
			return "", false
		}
		return pat[2:], pat[1] == c
	case '[':
		return matchSet(pat[1:], c)
	}
	return pat[1:], pat[0] == c
}

// matchSet matches what follows a "[". A set that is never closed matches
// nothing.
func matchSet(pat string, c byte) (rest string, ok bool) {
	negate := false
	if pat != "" && (pat[0] == '!' || pat[0] == '^') {
		negate, pat = true, pat[1:]
	}
	in := false
	for first := true; ; first = false {
		if pat == "" {
			return "", false
		}
		if pat[0] == ']' && !first {
			return pat[1:], in != negate
		}
		if strings.HasPrefix(pat, "[:") {
			name, after, found := strings.Cut(pat[2:], ":]")
			if found {
				in = in || inClass(name, c)
				pat = after
				continue
			}
		}
		lo, after, valid := setByte(pat)
		if !valid {
			return "", false
		}
		hi := lo
		if len(after) > 1 && after[0] == '-' && after[1] != ']' {
			if hi, after, valid = setByte(after[1:]); !valid {
				return "", false
			}
		}
		in = in || lo <= c && c <= hi
		pat = after
	}
}

// setByte reads one byte of a set.
func setByte(pat string) (c byte, rest string, ok bool) {
	if pat[0] != '\\' {
		return pat[0], pat[1:], true
	}
	if len(pat) < 2 {
		return 0, "", false
	}
	return pat[1], pat[2:], true
}

func inClass(name string, c byte) bool {
	lower := 'a' <= c && c <= 'z'
	upper := 'A' <= c && c <= 'Z'
	digit := '0' <= c && c <= '9'
	graph := 0x21 <= c && c <= 0x7e
	switch name {
	case "alpha":
		return lower || upper
	case "lower":
		return lower
	case "upper":
		return upper
	case "digit":
		return digit
	case "alnum":
		return lower || upper || digit
	case "punct":
		return graph && !lower && !upper && !digit
	case "graph":
		return graph
	case "print":
		return graph || c == ' '
	case "space":
		return c == ' ' || '\t' <= c && c <= '\r'
	case "blank":
		return c == ' ' || c == '\t'
	case "cntrl":
		return c < 0x20 || c == 0x7f
	case "xdigit":
		return digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
	}
	return false
}
