package steer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

func TestSniff(t *testing.T) {
	for p, want := range map[string]kind{
		"GET / HTTP/1.1\r\n":                   http1,
		"POST /a?b HTTP/1.0\r\nHost: x\r\n":    http1,
		"M-SEARCH * HTTP/1.1\r\n":              http1,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00": http2,
		"PRI * HTTP/2.0\r\n\r\n":               unknown,
		"P":                                    unknown,
		"PO":                                   unknown,
		"GET / HTTP/1.1":                       unknown,
		"GET / HTTP/1.1\n":                     other,
		"GET / HTTP/1.2\r\n":                   other,
		"GET /\r\n":                            other,
		"\x16\x03\x01\x02\x00":                 other,
		"*1\r\n$4\r\nPING\r\n":                 other,
		"PING\r\n":                             other,
		"EHLO mail.example\r\n":                other,
		"get key\r\n":                          other,
		" GET / HTTP/1.1\r\n":                  other,
		"\x00\x00\x00\x08\x04\xd2\x16\x2f":     other,
		strings.Repeat("A", 40):                other,
	} {
		if got := sniff([]byte(p)); got != want {
			t.Errorf("%q: got %d, want %d", p, got, want)
		}
	}
}

func TestParseRequest(t *testing.T) {
	for name, tt := range map[string]struct {
		p    string
		want body
		err  error
	}{
		"no body":          {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", body{}, nil},
		"no fields":        {"GET / HTTP/1.1\r\n\r\n", body{}, nil},
		"length":           {"POST / HTTP/1.1\r\ncontent-LENGTH:  12 \r\n\r\n", body{kind: bodyLength, left: 12}, nil},
		"chunked":          {"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", body{kind: bodyChunked}, nil},
		"not whole":        {"GET / HTTP/1.1\r\nHost: x\r\n", body{}, errMore},
		"both":             {"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", body{}, errOdd},
		"two lengths":      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", body{}, errOdd},
		"list of lengths":  {"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", body{}, errOdd},
		"signed length":    {"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", body{}, errOdd},
		"huge length":      {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", body{}, errOdd},
		"two codings":      {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", body{}, errOdd},
		"coding twice":     {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", body{}, errOdd},
		"odd coding":       {"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", body{}, errOdd},
		"chunked in 1.0":   {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", body{}, errOdd},
		"space before :":   {"POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\n", body{}, errOdd},
		"folded":           {"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", body{}, errOdd},
		"bare line feed":   {"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", body{}, errOdd},
		"line feeds only":  {"GET / HTTP/1.1\nA: b\n\n", body{}, errOdd},
		"bare return":      {"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", body{}, errOdd},
		"zero byte":        {"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", body{}, errOdd},
		"no version":       {"GET /\r\n\r\n", body{}, errOdd},
		"two spaces":       {"GET  / HTTP/1.1\r\n\r\n", body{}, errOdd},
		"another version":  {"GET / HTTP/3.0\r\n\r\n", body{}, errOdd},
		"empty line first": {"\r\nGET / HTTP/1.1\r\n\r\n", body{}, errOdd},
		"too large":        {"GET / HTTP/1.1\r\nA: " + strings.Repeat("b", maxHead), body{}, errOdd},
	} {
		r, err := parseRequest([]byte(tt.p))
		if !errors.Is(err, tt.err) || err == nil && (r.body != tt.want || r.size != len(tt.p)) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		p, method string
		want      body
		err       error
	}{
		"length":          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", body{kind: bodyLength, left: 5}, nil},
		"chunked":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", body{kind: bodyChunked}, nil},
		"until the end":   {"HTTP/1.1 200 OK\r\n\r\n", "GET", body{kind: bodyRest}, nil},
		"to HEAD":         {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", body{}, nil},
		"not modified":    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", body{}, nil},
		"no content":      {"HTTP/1.1 204 No Content\r\n\r\n", "GET", body{}, nil},
		"interim":         {"HTTP/1.1 103 Early Hints\r\n\r\n", "GET", body{}, nil},
		"no words":        {"HTTP/1.1 204\r\n\r\n", "GET", body{}, nil},
		"upgrade":         {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "GET", body{kind: bodyRest}, nil},
		"tunnel":          {"HTTP/1.1 200 OK\r\n\r\n", "CONNECT", body{kind: bodyRest}, nil},
		"no tunnel":       {"HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\n", "CONNECT", body{kind: bodyLength, left: 1}, nil},
		"both":            {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", body{}, errOdd},
		"not an answer":   {"ICY 200 OK\r\n\r\n", "GET", body{}, errOdd},
		"no status":       {"HTTP/1.1 OK\r\n\r\n", "GET", body{}, errOdd},
		"status too long": {"HTTP/1.1 2000 OK\r\n\r\n", "GET", body{}, errOdd},
		"status too low":  {"HTTP/1.1 099 OK\r\n\r\n", "GET", body{}, errOdd},
	} {
		a, err := parseAnswer([]byte(tt.p), tt.method)
		if !errors.Is(err, tt.err) || err == nil && a.body != tt.want {
			t.Errorf("%s: got %+v, %v", name, a, err)
		}
	}
}

func TestPathOf(t *testing.T) {
	for target, want := range map[string]string{
		"/": "/", "/a/b?c/d": "/a/b", "*": "*", "http://x/a?b": "/a", "http://x": "/", "http://x?a/b": "/", "/a#b": "/a",
	} {
		if got := pathOf(target); got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
}

func TestChunks(t *testing.T) {
	for p, want := range map[string]int{
		"0\r\n\r\nGET":                                   5,
		"3\r\nabc\r\n0\r\n\r\n":                          13,
		"A;name=\"v\"\r\n0123456789\r\n000\r\n\r\nx":     31,
		"1\r\na\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\nz": 33,
	} {
		for step := 1; step <= len(p); step++ { // however it is cut
			b := body{kind: bodyChunked}
			n := 0
			for n < len(p) && !b.done() {
				k, err := b.take([]byte(p[n:min(n+step, len(p))]))
				if err != nil {
					t.Fatalf("%q: %v", p, err)
				}
				n += k
			}
			if n != want || !b.done() {
				t.Errorf("%q in steps of %d: got %d, want %d", p, step, n, want)
			}
		}
	}
	for _, p := range []string{
		"\r\n", "g\r\n", "-1\r\n", "0x1\r\n", "1\na\r\n", "1\r\nab\r\n", "1\r\na\n0\r\n\r\n", " 1\r\na\r\n", "1 \r\na\r\n",
		"1234567890abcdef\r\n", "0\r\n X: y\r\n\r\n", "1;\x00\r\n", "1;" + strings.Repeat("x", maxChunkLine) + "\r\n",
		"0\r\nA: " + strings.Repeat("x", maxTrailer) + "\r\n\r\n",
	} {
		b := body{kind: bodyChunked}
		if n, err := b.take([]byte(p)); !errors.Is(err, errOdd) {
			t.Errorf("%.40q: took %d, %v", p, n, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("POST http://x/y?z HTTP/1.1\r\nContent-Length: 3\r\nConnection: a, close\r\n\r\nabc"))
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		for i := range p {
			if k := sniff(p[:i]); k != unknown && k != sniff(p) && len(p) < maxHead/2 {
				t.Errorf("sniffed %d after %d bytes, %d after all", k, i, sniff(p))
			}
		}
		r, err := parseRequest(p)
		if err != nil {
			return
		}
		// The head is what it was, put together again from its parts.
		var b bytes.Buffer
		fmt.Fprintf(&b, "%s %s HTTP/1.%d\r\n", r.method, r.target, r.minor)
		lines := strings.Split(string(p[:r.size]), "\r\n")
		if lines[0]+"\r\n" != b.String() {
			t.Errorf("first line %q, was %q", b.String(), lines[0])
		}
		if len(lines) != len(r.fields)+3 {
			t.Errorf("%d fields in %q", len(r.fields), p[:r.size])
		}
		_ = r.lasts()
		_ = pathOf(r.target)
		if _, err := parseRequest(p[:r.size]); err != nil {
			t.Errorf("without what follows: %v", err)
		}
		if r.size > 1 {
			if _, err := parseRequest(p[:r.size-1]); !errors.Is(err, errMore) {
				t.Errorf("without its last byte: %v", err)
			}
		}
	})
}

// Whatever is taken for a chunked body is one to net/http as well, of the same
// length, and it does not depend on how it came.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"), 1)
	f.Add([]byte("A;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET"), 3)
	f.Fuzz(func(t *testing.T, p []byte, step int) {
		whole := body{kind: bodyChunked}
		n, err := whole.take(p)
		if n > len(p) || err == nil && n < len(p) && !whole.done() {
			t.Fatalf("took %d of %d, %v", n, len(p), err)
		}
		pieces, at := body{kind: bodyChunked}, 0
		var perr error
		for step = max(step, 1); at < len(p) && perr == nil && !pieces.done(); {
			var k int
			k, perr = pieces.take(p[at:min(at+min(step, len(p)), len(p))])
			at += k
		}
		if at != n || (perr == nil) != (err == nil) || pieces != whole {
			t.Errorf("in pieces %d, %v; whole %d, %v", at, perr, n, err)
		}
		if !whole.done() {
			return
		}
		r := bytes.NewReader(p[:n])
		if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(r)); err != nil && !strings.Contains(err.Error(), "chunked encoding contains too much non-data") {
			t.Errorf("net/http does not take %q: %v", p[:n], err)
		}
	})
}
