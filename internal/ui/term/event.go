package term

import (
	"bytes"
	"encoding/json"
	"math"
	"time"
)

// Type says what kind of thing an [Event] is. Its text is the "type" in JSON.
type Type string

// Types of an [Event].
const (
	Plan    Type = "plan"    // what will be done with a service (Text), and Why
	Build   Type = "build"   // a service was built, or was known (Cached)
	Push    Type = "push"    // an image is in the registry
	Deploy  Type = "deploy"  // objects are in the cluster
	Ready   Type = "ready"   // a service can serve
	Change  Type = "change"  // files were saved (Text); nothing was done yet
	Sync    Type = "sync"    // saved files (Text) are live
	Restart Type = "restart" // a process started anew
	Review  Type = "review"  // a change was reviewed
	Test    Type = "test"    // its tests have run
	Preview Type = "preview" // it runs in an environment of its own
	Merge   Type = "merge"   // it is in the branch
	Note    Type = "note"    // a remark
	Warning Type = "warning" // it works, but should not stay so
	Error   Type = "error"   // it did not work
)

// Event is one thing that happened. All fields but Type may be empty.
type Event struct {
	Time    time.Time // zero is now
	Type    Type
	Service string // empty for the app as a whole
	Step    string // of a change, by its name: "deploy/prod"; a person reads it in Text
	Text    string // what, in a few words
	Why     string // where that was read, or the reason

	// Quiet events go to JSON and to the events file only: a person sees what
	// comes of them.
	Quiet bool

	Took   time.Duration // all of it
	Phases []Phase       // parts of Took, in order
	Cached bool          // nothing had to be done
	Bytes  int64         // that were sent
	Files  int           // that were sent

	Err    error  // of Error and Warning
	Output string // what a compiler or process printed, unchanged
	Next   string // what the user can do about it
}

// Phase is a named part of the time that something took.
type Phase struct {
	Name string
	Took time.Duration
}

// record is an event as JSON. The names are part of what users rely on.
type record struct {
	Time      time.Time `json:"time"`
	Type      Type      `json:"type"`
	Service   string    `json:"service,omitempty"`
	Step      string    `json:"step,omitempty"`
	Text      string    `json:"text,omitempty"`
	Why       string    `json:"why,omitempty"`
	MS        *millis   `json:"ms,omitempty"`
	Bytes     int64     `json:"bytes,omitempty"`
	Files     int       `json:"files,omitempty"`
	Cached    bool      `json:"cached,omitempty"`
	Error     string    `json:"error,omitempty"`
	Output    string    `json:"output,omitempty"`
	Next      string    `json:"next,omitempty"`
	URL       string    `json:"url,omitempty"`
	App       string    `json:"app,omitempty"`
	Services  []string  `json:"services,omitempty"`
	Context   string    `json:"context,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
}

func (e Event) record() record {
	r := record{
		Time:    e.Time,
		Type:    e.Type,
		Service: e.Service,
		Step:    e.Step,
		Text:    e.Text,
		Why:     e.Why,
		Bytes:   e.Bytes,
		Files:   e.Files,
		Cached:  e.Cached,
		Output:  e.Output,
		Next:    e.Next,
	}
	if e.Took > 0 || len(e.Phases) > 0 {
		r.MS = &millis{phases: e.Phases, total: e.Took}
	}
	if e.Err != nil {
		r.Error = e.Err.Error()
	}
	return r
}

// line returns the record as one line of JSON.
func (r record) line() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		// Strings, numbers and a time within this era always encode.
		panic(err)
	}
	return b.Bytes()
}

// millis is an object of milliseconds: each phase in order, then "total".
type millis struct {
	phases []Phase
	total  time.Duration
}

func (m *millis) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for _, ph := range append(m.phases[:len(m.phases):len(m.phases)], Phase{"total", m.total}) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		name, err := json.Marshal(ph.Name)
		if err != nil {
			return nil, err
		}
		b = append(append(b, name...), ':')
		n, err := json.Marshal(math.Round(float64(ph.Took)/float64(time.Microsecond)/100) / 10)
		if err != nil {
			return nil, err
		}
		b = append(b, n...)
	}
	return append(b, '}'), nil
}
