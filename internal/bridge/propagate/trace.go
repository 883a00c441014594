package propagate

import "strings"

// Traces returns the traces that a request is part of, by the W3C's header and B3's.
// value gives a header's, whose name is in lower case.
func Traces(value func(name string) (text string, has bool)) []string {
	var all []string
	add := func(id string, ok bool) {
		if ok {
			all = append(all, id)
		}
	}
	if v, has := value("traceparent"); has {
		add(w3c(v))
	}
	if v, has := value("b3"); has {
		id, _, more := strings.Cut(v, "-")
		if more { // else it only says whether to sample
			add(traceID(id))
		}
	}
	if v, has := value("x-b3-traceid"); has {
		add(traceID(v))
	}
	return all
}

// w3c reads VERSION-TRACE-SPAN-FLAGS.
func w3c(v string) (id string, ok bool) {
	parts := strings.SplitN(strings.TrimSpace(v), "-", 4)
	if len(parts) < 4 || len(parts[0]) != 2 || len(parts[1]) != 32 || len(parts[2]) != 16 {
		return "", false
	}
	return traceID(parts[1])
}

// traceID reads the name of a trace, 16 or 32 digits, of which zeros name none.
func traceID(s string) (id string, ok bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) != 16 && len(s) != 32 || strings.Trim(s, "0123456789abcdef") != "" || strings.Trim(s, "0") == "" {
		return "", false
	}
	return strings.Repeat("0", 32-len(s)) + s, true
}
