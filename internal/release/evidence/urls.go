package evidence

import (
	"net/url"
	"regexp"
	"strings"
)

// deepest is how often a URL may be encoded in another whose parameter it is, and that one in a
// third. What is encoded more often is hidden as a whole.
const deepest = 4

// target hides parameters. What can't be read has no query any more.
func (r *Rules) target(target string, hidden map[string]bool) string {
	path, query, has := strings.Cut(target, "?")
	path = r.path(path, hidden)
	if !has {
		return path
	}
	return path + "?" + r.form(query, hidden)
}

// form hides values of a form, and leaves everything else as it is.
func (r *Rules) form(form string, hidden map[string]bool) string {
	parts := strings.Split(form, "&")
	for i, part := range parts {
		name, value, has := strings.Cut(part, "=")
		plain, err := url.QueryUnescape(name)
		text, wrong := url.QueryUnescape(value)
		switch {
		case has && (err != nil || wrong != nil || r.Secret(plain)):
			parts[i] = name + "=" + url.QueryEscape(Hidden)
			hidden[plain] = true
		case !has && err == nil: // a URL, say
			if kept := r.within(plain, hidden, deepest); kept != plain {
				parts[i] = url.QueryEscape(kept)
			}
		case has:
			if kept := r.within(text, hidden, deepest); kept != text {
				parts[i] = name + "=" + url.QueryEscape(kept)
			}
			if Text(text) != text && !looksJSON([]byte(text)) {
				hidden[plain] = true
			}
		}
	}
	return strings.Join(parts, "&")
}

// path hides what is secret in a path: by its looks, as a parameter of one of its elements, or in
// a URL that is an element.
func (r *Rules) path(path string, hidden map[string]bool) string {
	elements := strings.Split(r.links(Text(path), hidden, deepest), "/")
	for i, e := range elements {
		if plain := decode(e); plain != e {
			if kept := r.within(plain, hidden, deepest); kept != plain {
				elements[i] = strings.ReplaceAll(url.QueryEscape(kept), "+", "%20")
			}
		}
	}
	return strings.Join(elements, "/")
}

// within hides what is secret in the value of a parameter, or in an element of a path: in
// parameters, in JSON, and in what it is when it is decoded once more, depth times.
func (r *Rules) within(text string, hidden map[string]bool, depth int) string {
	if depth < 0 {
		return Hidden
	}
	if looksJSON([]byte(text)) {
		inner, _ := r.json([]byte(text), hidden)
		return Text(string(inner))
	}
	text = Text(r.links("&"+text, hidden, depth)[1:])
	if plain := decode(text); plain != text {
		if inner := r.within(plain, hidden, depth-1); inner != plain {
			return url.QueryEscape(inner)
		}
	}
	return text
}

// links hides the parameters of URLs that stand somewhere in a text, behind their # too, and in
// the values of these: those in values that are encoded as well, depth times. A value may have
// parameters of its own, that end where it does: none is looked at twice.
func (r *Rules) links(text string, hidden map[string]bool, depth int) string {
	var out strings.Builder
	at, end := 0, 0 // where to look, and where the value ends that begins there
	var encodes bool
	for {
		found := parameter.FindStringSubmatchIndex(text[at:])
		if found == nil {
			out.WriteString(text[at:])
			return out.String()
		}
		name, err := url.QueryUnescape(text[at+found[2] : at+found[3]])
		name = strings.TrimSpace(name)
		out.WriteString(text[at : at+found[1]])
		at += found[1]
		if end <= at {
			end = at + len(value.FindString(text[at:]))
			encodes = encoded.MatchString(text[at:end])
		}
		given := text[at:end]
		kept := given
		switch {
		case err != nil || r.Secret(name):
			hidden[name] = true
			if given != Hidden {
				kept = url.QueryEscape(Hidden)
			}
		case !encodes:
			continue
		default:
			plain := decode(given)
			if inner := r.within(plain, hidden, depth-1); inner != plain {
				kept = url.QueryEscape(inner)
			}
		}
		out.WriteString(kept)
		at = end
	}
}

// parameter is the beginning of one in a text, value what comes then.
var (
	parameter = regexp.MustCompile(`[?&#;]([^?&#;=<>"]+)=`)
	value     = regexp.MustCompile(`^(?:"[^"]*"?|[^&#;\s<>"]*)`)
)

// decode decodes as much of a text as is encoded well.
func decode(text string) string {
	return encoded.ReplaceAllStringFunc(text, func(s string) string {
		if plain, err := url.PathUnescape(s); err == nil {
			return plain
		}
		return s
	})
}

var encoded = regexp.MustCompile(`(?:%[0-9A-Fa-f]{2})+`)
