package steer

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// maxHead is how large a head may be that is read; a larger one is passed on
// unread.
const maxHead = 64 << 10

var (
	// errMore says that a head is not complete.
	errMore = errors.New("more bytes are needed")
	// errOdd says that a message is not one that everybody reads the same way. It
	// is passed on as it is, and so is all that follows it.
	errOdd = errors.New("not plain HTTP/1")
)

// kind is what a client's first bytes are.
type kind int

const (
	unknown kind = iota // more bytes are needed
	http1
	http2
	other // not for us to read: TLS, a database's protocol, anything
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// sniff says what a client speaks, from the first bytes that it sent.
func sniff(p []byte) kind {
	if len(p) >= len(preface) && string(p[:len(preface)]) == preface {
		return http2
	}
	if strings.HasPrefix(preface, string(p)) {
		return unknown
	}
	line, _, whole := bytes.Cut(p, []byte("\n"))
	method, rest, spaced := bytes.Cut(line, []byte(" "))
	for _, b := range method {
		if (b < 'A' || b > 'Z') && b != '-' && b != '_' {
			return other
		}
	}
	switch {
	case len(method) > 32, spaced && len(method) == 0, len(line) > maxHead/2:
		return other
	case !whole:
		return unknown
	case !spaced || !bytes.HasSuffix(rest, []byte(" HTTP/1.1\r")) && !bytes.HasSuffix(rest, []byte(" HTTP/1.0\r")):
		return other
	}
	return http1
}

// field is one line of a head.
type field struct{ name, value string }

// head is what requests and answers have in common.
type head struct {
	size   int // in bytes, with the empty line
	minor  int // HTTP/1.minor
	fields []field
	body   body
}

// request is the head of a request.
type request struct {
	head
	method, target string
	carried        bool // another door has decided about it
}

// answer is the head of an answer.
type answer struct {
	head
	status int
}

// parseRequest reads the head at the beginning of p.
func parseRequest(p []byte) (*request, error) {
	line, h, err := parseHead(p)
	if err != nil {
		return nil, err
	}
	r := &request{head: h}
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	r.method, r.target = method, target
	if r.minor, err = parseVersion(version); err != nil {
		return nil, err
	}
	if !isToken(method) || target == "" || strings.IndexFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f }) >= 0 {
		return nil, errOdd
	}
	if _, err = r.frame(); err != nil {
		return nil, err
	}
	_, r.carried = r.value(Carried)
	return r, nil // without a length it has no body
}

// parseAnswer reads the head at the beginning of p, of the answer to a request
// with the method.
func parseAnswer(p []byte, method string) (*answer, error) {
	line, h, err := parseHead(p)
	if err != nil {
		return nil, err
	}
	a := &answer{head: h}
	version, rest, _ := strings.Cut(line, " ")
	if a.minor, err = parseVersion(version); err != nil {
		return nil, err
	}
	code, _, _ := strings.Cut(rest, " ")
	if len(code) != 3 || !digits(code) {
		return nil, errOdd
	}
	a.status, _ = strconv.Atoi(code) // three digits
	switch {
	case a.status < 100:
		return nil, errOdd
	case a.status == 101, method == "CONNECT" && a.status/100 == 2:
		a.body = body{kind: bodyRest}
		return a, nil
	case a.status < 200, a.status == 204, a.status == 304, method == "HEAD":
		a.body = body{kind: bodyNone}
		return a, nil
	}
	framed, err := a.frame()
	if err != nil {
		return nil, err
	}
	if !framed {
		a.body = body{kind: bodyRest}
	}
	return a, nil
}

func parseVersion(s string) (int, error) {
	switch s {
	case "HTTP/1.1":
		return 1, nil
	case "HTTP/1.0":
		return 0, nil
	}
	return 0, errOdd
}

// parseHead splits a head into its first line and fields. It takes only what can
// be read in one way.
func parseHead(p []byte) (line string, h head, err error) {
	end := bytes.Index(p, []byte("\r\n\r\n"))
	if end < 0 {
		if len(p) >= maxHead || bytes.Contains(p, []byte("\n\n")) {
			return "", h, errOdd
		}
		return "", h, errMore
	}
	if h.size = end + 4; h.size > maxHead {
		return "", h, errOdd
	}
	line, rest, more := strings.Cut(string(p[:end]), "\r\n")
	if strings.ContainsAny(line, "\r\n\x00") {
		return "", h, errOdd
	}
	h.fields = make([]field, 0, 16)
	for more {
		var one string
		one, rest, more = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(one, ":")
		if !ok || !isToken(name) || strings.ContainsAny(value, "\r\n\x00") {
			return "", h, errOdd // a folded line, too
		}
		h.fields = append(h.fields, field{name, strings.Trim(value, " \t")})
	}
	return line, h, nil
}

// frame finds how the body is delimited; framed is false if nothing says it.
func (h *head) frame() (framed bool, err error) {
	length, coding := -1, -1
	for i, f := range h.fields {
		var seen *int
		switch {
		case strings.EqualFold(f.name, "content-length"):
			seen = &length
		case strings.EqualFold(f.name, "transfer-encoding"):
			seen = &coding
		default:
			continue
		}
		if *seen >= 0 {
			return false, errOdd
		}
		*seen = i
	}
	switch {
	case coding >= 0:
		if length >= 0 || h.minor == 0 || !strings.EqualFold(h.fields[coding].value, "chunked") {
			return false, errOdd
		}
		h.body = body{kind: bodyChunked}
		return true, nil
	case length >= 0:
		s := h.fields[length].value
		n, err := strconv.ParseInt(s, 10, 63)
		if err != nil || !digits(s) {
			return false, errOdd
		}
		h.body = body{kind: bodyLength, left: n}
		return true, nil
	}
	return false, nil
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// value returns the value of a header, and whether it is there.
func (h *head) value(name string) (value string, has bool) {
	for _, f := range h.fields {
		if !strings.EqualFold(f.name, name) {
			continue
		}
		if has {
			value += ", " + f.value
		} else {
			value, has = f.value, true
		}
	}
	return value, has
}

// says looks for a word in a header that is a list of words.
func (h *head) says(name, word string) bool {
	list, _ := h.value(name)
	for one := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(one, " \t"), word) {
			return true
		}
	}
	return false
}

// lasts says whether a connection goes on after the message.
func (h *head) lasts() bool {
	if h.minor == 0 {
		return h.says("connection", "keep-alive")
	}
	return !h.says("connection", "close")
}

// steered is the request as rules see it.
func (r *request) steered() Request {
	return Request{Method: r.method, Path: pathOf(r.target), Query: queryOf(r.target), Header: r.value, carried: r.carried}
}

// pathOf returns the path of a request's target, which may be a whole URL.
func pathOf(target string) string {
	if !strings.HasPrefix(target, "/") {
		if _, rest, ok := strings.Cut(target, "://"); ok {
			i := strings.IndexAny(rest, "/?#")
			if i < 0 || rest[i] != '/' {
				return "/"
			}
			target = rest[i:]
		}
	}
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	return target
}

// queryOf returns the query of a request's target.
func queryOf(target string) string {
	target, _, _ = strings.Cut(target, "#")
	_, query, _ := strings.Cut(target, "?")
	return query
}

// idempotent says whether doing a request twice is as good as once.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// firstLine returns how long the first line of a head is, with its end.
func firstLine(p []byte) int { return bytes.IndexByte(p, '\n') + 1 }
