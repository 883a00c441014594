package evidence

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Hidden takes the place of a text that is not kept.
const Hidden = "[hidden]"

// Rules say what is kept of a request and its answer.
type Rules struct {
	// Headers are kept besides the usual ones. Of all others the name is.
	Headers []string
	// Fields of JSON and of forms, and parameters of queries, are hidden besides the usual
	// ones.
	Fields []string
	// NoBodies keeps nothing of any body.
	NoBodies bool
	// Again says that a program is to be answered from what is kept. All headers are kept
	// then but those with secret names, and so are bodies in whose formats no fields can be
	// found, but for those with a text that looks secret: nothing is replaced in them.
	Again bool
}

// mostPlain is how much a compressed body may come to, mostPlainAgain how much one that
// a program is to be answered with.
const mostPlain, mostPlainAgain = 64 << 10, 1 << 20

// headers are those that say how to read the rest, where a request comes from in a
// trace, or what the client accepts; nobody is known by them.
var headers = []string{
	"accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges", "access-control-allow-origin", "access-control-request-headers",
	"access-control-request-method", "age", "allow", "cache-control", "connection", "content-disposition", "content-encoding", "content-language",
	"content-length", "content-range", "content-type", "date", "etag", "expect", "expires", "grpc-accept-encoding", "grpc-encoding", "grpc-message",
	"grpc-status", "grpc-timeout", "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified",
	"max-forwards", "origin", "pragma", "prefer", "range", "retry-after", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "server", "te",
	"traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "trailer", "transfer-encoding", "upgrade", "user-agent",
	"vary", "via", "x-content-type-options", "x-forwarded-proto", "x-request-id", "x-requested-with",
}

// fields are parts of names whose values are secret or about a person.
var fields = []string{
	"password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "accesskey", "privatekey", "credential", "authorization",
	"sessionid", "cookie", "signature", "jwt", "cardnumber", "creditcard", "socialsecurity", "taxid", "email", "phone", "birthda",
}

// exact are names that are secret only as a whole: shipping has a pin, an author has auth.
var exact = []string{
	"auth", "card", "code", "cvc", "cvv", "dob", "iban", "key", "otp", "pan", "pass", "pin", "session", "sid", "sig", "ssn",
}

// alone are words that make a name secret wherever they stand in it: DB_PASS, signingKey.
var alone = []string{"auth", "cvc", "cvv", "iban", "key", "otp", "pan", "pass", "pin", "session", "sid", "sig", "ssn"}

// words are those of a name, in lower case: signingKey and SIGNING_KEY have two.
func words(name string) []string {
	var out []string
	var word []rune
	flush := func() {
		if len(word) > 0 {
			out, word = append(out, strings.ToLower(string(word))), nil
		}
	}
	var last rune
	for _, c := range name {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) || unicode.IsUpper(c) && unicode.IsLower(last) {
			flush()
		}
		if unicode.IsLetter(c) || unicode.IsDigit(c) {
			word = append(word, c)
		}
		last = c
	}
	flush()
	return out
}

// patterns are texts that are secret wherever they stand.
var patterns = regexp.MustCompile(strings.Join([]string{
	`-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`,
	`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`,          // JSON web tokens
	`\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b`,                            // AWS
	`\bgh[pousr]_[A-Za-z0-9]{20,}\b`, `\bgithub_pat_[A-Za-z0-9_]{20,}\b`, // GitHub
	`\bglpat-[A-Za-z0-9_-]{16,}`,                             // GitLab
	`\bxox[abeoprs]-[A-Za-z0-9-]{10,}`,                       // Slack
	`\b[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}\b`,              // Stripe
	`\bAIza[A-Za-z0-9_-]{30,}`, `\bya29\.[A-Za-z0-9_-]{20,}`, // Google
	`\bnpm_[A-Za-z0-9]{30,}\b`, `\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}`,
	`(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}`, `(?i)\bbasic\s+[A-Za-z0-9+/=]{8,}`,
	`[a-z][a-z0-9+.-]*://[^/\s:@"']+:[^/\s@"']+@`, // a URL with a password
}, "|"))

// Secret says whether what has a name is hidden.
func (r *Rules) Secret(name string) bool {
	if slices.ContainsFunc(words(name), func(w string) bool { return slices.Contains(alone, w) }) {
		return true
	}
	plain := strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c == '.' || c == ' ' || c == '[' || c == ']' {
			return -1
		}
		return c
	}, strings.ToLower(name))
	return slices.Contains(exact, plain) ||
		slices.ContainsFunc(fields, func(f string) bool { return strings.Contains(plain, f) }) ||
		slices.ContainsFunc(r.Fields, func(f string) bool { return strings.EqualFold(f, name) })
}

// Redact hides in a pair what is not to be kept. A pair is redacted before anything is
// done with it.
func (r *Rules) Redact(p *Pair) {
	q := &p.Request
	hidden := map[string]bool{}
	q.Target = r.target(q.Target, hidden)
	q.Header = r.header(q.Header, hidden)
	q.Body, _ = r.body(q.Body, q.Header, hidden)
	for name := range hidden {
		q.Hidden = append(q.Hidden, name)
	}
	slices.Sort(q.Hidden)
	q.Hidden = slices.Compact(q.Hidden)
	p.Why = Text(p.Why)
	if p.Answer != nil {
		r.Answer(p.Answer)
	}
	for i := range p.Stable {
		r.Answer(&p.Stable[i])
	}
}

// Answer hides in an answer what is not to be kept. hid says that there was something of
// that in its body.
func (r *Rules) Answer(a *Answer) (hid bool) {
	none := map[string]bool{}
	a.Header = r.header(a.Header, none)
	a.Trailer = r.header(a.Trailer, none)
	a.Body, hid = r.body(a.Body, a.Header, none)
	return hid
}

// Text hides what is secret by its looks.
func Text(s string) string { return patterns.ReplaceAllString(s, Hidden) }

func (r *Rules) header(h map[string][]string, hidden map[string]bool) map[string][]string {
	out := make(map[string][]string, len(h))
	for name, values := range h {
		if !r.keeps(name) {
			out[name] = []string{Hidden}
			hidden[name] = true
			continue
		}
		for _, v := range values {
			if strings.EqualFold(name, "Location") {
				to, _, _ := strings.Cut(v, "#")
				v = r.links(r.target(to, hidden)+v[len(to):], hidden, deepest)
			} else if !usual(name) {
				v = r.links(v, hidden, deepest)
			}
			out[name] = append(out[name], Text(v))
		}
	}
	return out
}

// keeps says whether the values of a header are kept.
func (r *Rules) keeps(name string) bool {
	return usual(name) ||
		slices.ContainsFunc(r.Headers, func(n string) bool { return strings.EqualFold(n, name) }) ||
		r.Again && !r.Secret(name)
}

// usual says whether a header is one of those that nobody is known by.
func usual(name string) bool { return slices.Contains(headers, strings.ToLower(name)) }

// body hides fields, and says whether there were any. Of a body whose encoding is not known
// nothing is kept.
func (r *Rules) body(b Body, header map[string][]string, hidden map[string]bool) (kept Body, hid bool) {
	if b.Empty() {
		return b, false
	}
	if r.NoBodies {
		return Body{Cut: true}, true
	}
	get := func(name string) string {
		if v := header[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	switch encoding := strings.ToLower(get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip":
		limit := mostPlain
		if r.Again {
			limit = mostPlainAgain
		}
		plain, cut := gunzip(b.Bytes, max(len(b.Bytes), limit))
		b = Body{Bytes: plain, Cut: b.Cut || cut, Changed: true}
		delete(header, "Content-Encoding")
	default:
		return Body{Cut: true}, true
	}
	media, _, _ := mime.ParseMediaType(get("Content-Type"))
	before := string(b.Bytes)
	switch {
	case strings.Contains(media, "json") || looksJSON(b.Bytes):
		var whole bool
		if b.Bytes, whole = r.json(bytes.TrimPrefix(b.Bytes, []byte("\xef\xbb\xbf")), hidden); !whole {
			b.Cut = true
		}
	case media == "application/x-www-form-urlencoded":
		b.Bytes = []byte(r.form(string(b.Bytes), hidden))
	case strings.HasPrefix(media, "application/grpc"):
		if e := get("Grpc-Encoding"); e != "" && e != "identity" {
			return Body{Cut: true}, true // nothing can be found in it
		}
		if r.Again {
			return whole(b)
		}
	case r.Again && opaque(media):
		return whole(b)
	case media != "" && media != "text/plain" && media != "text/html" && media != "text/xml" && media != "application/xml" && media != "text/csv":
		return Body{Cut: true}, true // files mostly, and what nobody here can read
	}
	b.Bytes = patterns.ReplaceAll(b.Bytes, []byte(Hidden))
	hid = string(b.Bytes) != before
	b.Changed = b.Changed || hid
	return b, hid
}

// opaque says whether no fields can be found in a format.
func opaque(media string) bool {
	kind, sub, _ := strings.Cut(media, "/")
	return slices.Contains([]string{"image", "audio", "video", "font"}, kind) ||
		slices.ContainsFunc([]string{"octet-stream", "protobuf", "msgpack", "cbor", "pdf"}, func(s string) bool { return strings.Contains(sub, s) })
}

// whole is a body as it is, or nothing of it.
func whole(b Body) (kept Body, hid bool) {
	if patterns.Match(b.Bytes) {
		return Body{Cut: true}, true
	}
	return b, false
}

// looksJSON says whether a body is JSON, whatever it says of itself. What was hidden is none.
func looksJSON(p []byte) bool {
	p = bytes.TrimLeft(bytes.TrimPrefix(p, []byte("\xef\xbb\xbf")), " \t\r\n")
	return len(p) > 1 && (p[0] == '{' || p[0] == '[') && !bytes.HasPrefix(p, []byte(Hidden))
}

func gunzip(p []byte, limit int) (out []byte, cut bool) {
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, true
	}
	out, err = io.ReadAll(io.LimitReader(z, int64(limit)+1))
	if len(out) > limit {
		return out[:limit], true
	}
	return out, err != nil
}

// json hides values and leaves every other byte as it is. It stops at the first byte
// that makes no sense; whole says that there was none.
func (r *Rules) json(p []byte, hidden map[string]bool) (out []byte, whole bool) {
	type level struct {
		object, hides bool // all that is in it
		key           bool // the next string is one
		name          string
	}
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	var in []level
	done := 0 // bytes of p that are in out
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && len(in) == 0 {
			return append(out, p[done:]...), true
		}
		if err != nil {
			return out, false // what is behind the last token may be the beginning of a secret
		}
		end := int(d.InputOffset())
		var top *level
		if len(in) > 0 {
			top = &in[len(in)-1]
		}
		name, hides := "", false
		if top != nil {
			name, hides = top.name, top.hides
		}
		if top != nil && top.object && top.key {
			if key, ok := t.(string); ok {
				top.name, top.key = key, false
				out, done = append(out, p[done:end]...), end
				continue
			}
		}
		hides = hides || top != nil && top.object && r.Secret(name)
		if top != nil && top.object {
			top.key = true
		}
		switch v := t.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				in = append(in, level{object: v == '{', hides: hides, key: v == '{', name: name})
			} else {
				in = in[:len(in)-1]
			}
			out = append(out, p[done:end]...)
		default:
			start := valueStart(p[done:end]) + done
			out = append(out, p[done:start]...)
			text, isText := t.(string)
			switch {
			case hides && t != nil:
				hidden[name] = true
				out = append(out, blank(t)...)
			case isText && looksJSON([]byte(text)): // a text in a text
				inner, _ := r.json([]byte(text), hidden)
				again, err := json.Marshal(string(inner))
				if err != nil || string(inner) == text {
					again = p[start:end]
				}
				out = append(out, again...)
			default:
				out = append(out, p[start:end]...)
			}
		}
		done = end
	}
}

// valueStart is where a scalar begins behind what separates it from the one before.
func valueStart(p []byte) int {
	return len(p) - len(bytes.TrimLeft(p, " \t\r\n:,"))
}

// blank is a value of the same type that tells nothing.
func blank(t json.Token) string {
	switch t.(type) {
	case string:
		return `"` + Hidden + `"`
	case bool:
		return "false"
	}
	return "0"
}
