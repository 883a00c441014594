package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pmezard/go-difflib/difflib"

	"github.com/bightdev/bight/internal/release/evidence"
)

// mostDifferences is how many are told of one answer.
const mostDifferences = 20

// differences says what of an answer differs from the one that was expected, a line each.
// Fields in which stable's answers to the same request differ tell nothing.
func differences(pair *evidence.Pair, a, expected *evidence.Answer) []string {
	if expected == nil || pair.Request.Method == "HEAD" {
		return nil
	}
	got := *a // it is shown, and what was expected has its secrets hidden
	(&evidence.Rules{}).Answer(&got)
	var out []string
	if was, is := media(expected), media(&got); was != is {
		out = append(out, fmt.Sprintf("Content-Type: %s → %s", orNone(was), orNone(is)))
	}
	if expected.Body.Cut || got.Body.Cut || slices.Contains([]string{"application/grpc"}, media(&got)) {
		return out
	}
	before, after := expected.Body.Bytes, got.Body.Bytes
	if bytes.Equal(before, after) {
		return out
	}
	if fields, ok := compareJSON(before, after, noise(pair)); ok {
		return shorten(append(out, fields...))
	}
	if !utf8.Valid(before) || !utf8.Valid(after) {
		return append(out, fmt.Sprintf("body: %d bytes → %d other bytes", len(before), len(after)))
	}
	return shorten(append(out, compareText(string(before), string(after))...))
}

func media(a *evidence.Answer) string {
	for name, values := range a.Header {
		if strings.EqualFold(name, "Content-Type") && len(values) > 0 {
			m, _, err := mime.ParseMediaType(values[0])
			if err != nil {
				return values[0]
			}
			return m
		}
	}
	return ""
}

// noise are the fields in which stable differs from itself.
func noise(pair *evidence.Pair) map[string]bool {
	out := map[string]bool{}
	if len(pair.Stable) < 2 {
		return out
	}
	a, b := map[string]string{}, map[string]string{}
	if !flat(pair.Stable[0].Body.Bytes, a) || !flat(pair.Stable[1].Body.Bytes, b) {
		return out
	}
	for name, was := range a {
		if is, has := b[name]; !has || was != is {
			out[name] = true
		}
	}
	for name := range b {
		if _, had := a[name]; !had {
			out[name] = true
		}
	}
	return out
}

// compareJSON compares two JSON texts field by field; ok says that both are.
func compareJSON(before, after []byte, ignore map[string]bool) (out []string, ok bool) {
	a, b := map[string]string{}, map[string]string{}
	if !flat(before, a) || !flat(after, b) {
		return nil, false
	}
	names := map[string]bool{}
	maps.Copy(names, keys(a))
	maps.Copy(names, keys(b))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := a[name]
		is, has := b[name]
		switch {
		case ignore[name] || had && has && was == is:
		case !had:
			out = append(out, fmt.Sprintf("%s: nothing → %s", name, is))
		case !has:
			out = append(out, fmt.Sprintf("%s: %s → nothing", name, was))
		default:
			out = append(out, fmt.Sprintf("%s: %s → %s", name, was, is))
		}
	}
	return out, true
}

func keys(m map[string]string) map[string]bool {
	out := make(map[string]bool, len(m))
	for k := range m {
		out[k] = true
	}
	return out
}

// flat writes the scalars of a JSON text under their paths.
func flat(text []byte, into map[string]string) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return false
	}
	walk("", v, into)
	return true
}

func walk(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			into[path+"."] = "{}"
		}
		for name, of := range v {
			walk(path+"."+name, of, into)
		}
	case []any:
		if len(v) == 0 {
			into[path+"[]"] = "[]"
		}
		for i, of := range v {
			walk(fmt.Sprintf("%s[%d]", path, i), of, into)
		}
	default:
		text, err := json.Marshal(v)
		if err != nil {
			text = fmt.Append(nil, v)
		}
		if path == "" {
			path = "."
		}
		into[path] = clip(string(text))
	}
}

func clip(s string) string {
	const most = 120
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// compareText gives the lines that differ, with - for those that are missing and + for
// those that are new.
func compareText(before, after string) (out []string) {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, op := range difflib.NewMatcher(a, b).GetOpCodes() {
		if op.Tag == 'e' {
			continue
		}
		for _, line := range a[op.I1:op.I2] {
			out = append(out, "- "+clip(line))
		}
		for _, line := range b[op.J1:op.J2] {
			out = append(out, "+ "+clip(line))
		}
	}
	return out
}

func shorten(lines []string) []string {
	if n := len(lines); n > mostDifferences {
		return append(lines[:mostDifferences:mostDifferences], fmt.Sprintf("… and %d more", n-mostDifferences))
	}
	return lines
}
