package calls

import (
	"fmt"

	"github.com/bightdev/bight/internal/release/evidence"
)

// Recorder takes in the calls of one round. Its zero value has none.
type Recorder struct {
	// Rules say what is hidden besides the usual.
	Rules evidence.Rules
	// Dropped is how many calls have had no room any more.
	Dropped int

	causes
	calls []*Call
	size  int
}

const (
	// unended is why a call has no answer that has begun only.
	unended = "it had not ended when the round did"
	// callSize is about what a call takes besides its bodies.
	callSize = 512
)

// Start takes in that a call has begun, whose body is not known. Finish is told the rest.
func (r *Recorder) Start(q evidence.Request, traces []string) *Call {
	q.Body = evidence.Body{}
	c := called(r.Rules, q)
	c.For, c.Lacks = r.of(traces), unended
	if r.size >= MostAll {
		r.Dropped++
		return &c
	}
	r.size += callSize
	r.calls = append(r.calls, &c)
	return &c
}

// Finish takes in what a call was, and its answer. why says why that is of no use, "" if it is.
func (r *Recorder) Finish(c *Call, q evidence.Request, a *evidence.Answer, why string) {
	cause := c.For
	*c = called(r.Rules, q)
	c.For, c.Lacks = cause, why
	r.size += len(c.Body)
	if why != "" {
		return
	}
	if a.Body.Cut {
		c.Lacks = tooLong
		return
	}
	kept := *a
	hid := again(r.Rules).Answer(&kept)
	size := len(kept.Body.Bytes)
	switch {
	case kept.Body.Cut:
		c.Lacks = fmt.Sprintf("its answer (%s) is in a format in which secrets can't be found, or has one that can't be hidden", kind(a.Header))
	case r.size+size > MostAll:
		c.Lacks = fmt.Sprintf("the recording is full: its bodies have %d MiB", MostAll>>20)
	default:
		r.size += size
		c.Answer = &Answer{
			Status: kept.Status, Header: kept.Header, Trailer: kept.Trailer, Body: kept.Body.Bytes,
			Hidden: hid,
		}
	}
}

// tooLong is why a call has no answer that is too long.
var tooLong = fmt.Sprintf("its answer is longer than %d MiB", MostBody>>20)

// kind is what an answer says of its format, for people.
func kind(header map[string][]string) string {
	text := "no type"
	if v := header["Content-Type"]; len(v) > 0 {
		text = v[0]
	}
	if v := header["Content-Encoding"]; len(v) > 0 {
		text += ", " + v[0]
	}
	return text
}

// Recording is what was taken in up to now.
func (r *Recorder) Recording(release, namespace string) *Recording {
	out := &Recording{Format: Format, Release: release, Namespace: namespace, Hides: r.Rules.Fields, Calls: []Call{}}
	for _, c := range r.calls {
		out.Calls = append(out.Calls, *c)
	}
	return out
}
