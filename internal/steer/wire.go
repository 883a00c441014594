package steer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Headers of the streams between laptop and agent.
const (
	HeaderIntercept = "intercept"  // laptop to agent: a rule, and its lease
	HeaderList      = "intercepts" // laptop to agent: which rules there are
	HeaderIn        = "in:"        // agent to laptop: a connection; JSON of Info follows
)

// protocolVersion changes when an agent and a laptop would misunderstand each other.
const protocolVersion = 1

// Kind is what a connection to the laptop carries.
type Kind string

// Kinds.
const (
	KindRaw   Kind = "raw"   // any bytes
	KindHTTP1 Kind = "http"  // requests one after the other
	KindHTTP2 Kind = "http2" // HTTP/2 without TLS, from its preface on
)

// Info tells the laptop what a connection is.
type Info struct {
	ID     string `json:"id"`   // of the rule
	Port   int    `json:"port"` // the app's
	Kind   Kind   `json:"kind"`
	Remote string `json:"remote,omitempty"` // the client's address
	Mirror bool   `json:"mirror,omitempty"` // nobody waits for the answer
}

// The first byte that a laptop sends on such a stream. After refused follows why,
// in words, and nothing has reached the handler.
const (
	byteTaken   = 0
	byteRefused = 1
)

// State is what has become of a rule.
type State string

// States.
const (
	Active    State = "active"
	Suspended State = "suspended" // the laptop is silent: the app answers
	Refused   State = "refused"   // it never was
	Gone      State = "gone"      // it is over
)

// Status is what an agent says of a rule.
type Status struct {
	Rule  Rule   `json:"rule"`
	State State  `json:"state"`
	Why   string `json:"why,omitempty"` // it is not active
	// Owner is whose rule is in the way, when it was refused for that.
	Owner    string    `json:"owner,omitempty"`
	Since    time.Time `json:"since,omitzero"`  // the laptop joined it first, in any pod; by the clock of this one
	Modes    []Mode    `json:"modes,omitempty"` // that the agent knows, when it has refused
	Counters Counters  `json:"counters"`
	// Past is what the rule did, by its laptop's account, in pods that it has left, or
	// before their agents were started anew. All agents are told the same.
	Past Counters `json:"past,omitzero"`
	// Direct says that the laptop is reached directly, not by a port-forward.
	Direct bool `json:"direct,omitempty"`
}

// Counters are what a rule has done. Old and Unread are of the port.
type Counters struct {
	Requests    int64 `json:"requests"`    // that the laptop answered, or answers
	Connections int64 `json:"connections"` // of other protocols, the same
	ByApp       int64 `json:"byApp"`       // that the app answered, because the laptop did not
	Lost        int64 `json:"lost"`        // that nobody could answer any more
	Mirrored    int64 `json:"mirrored"`    // copied to the laptop
	Dropped     int64 `json:"dropped"`     // not copied, or not whole, because it was too slow
	// Old is how many connections to the app are left from before the rule, whose
	// requests it does not see.
	Old int64 `json:"old"`
	// Unread is how many connections since then went to the app because they could
	// not be read: TLS, for example.
	Unread int64 `json:"unread"`
}

// Taken is how many requests and other connections have come to the laptop.
func (c Counters) Taken() int64 { return c.Requests + c.Connections + c.Mirrored }

// Done is c without what is a matter of a pod's present.
func (c Counters) Done() Counters {
	c.Old, c.Unread = 0, 0
	return c
}

// Plus is the sum of two.
func (c Counters) Plus(o Counters) Counters {
	return Counters{
		Requests: c.Requests + o.Requests, Connections: c.Connections + o.Connections, ByApp: c.ByApp + o.ByApp,
		Lost: c.Lost + o.Lost, Mirrored: c.Mirrored + o.Mirrored, Dropped: c.Dropped + o.Dropped,
		Old: c.Old + o.Old, Unread: c.Unread + o.Unread,
	}
}

// Max is the greater of two, each for itself: the newer of two accounts.
func (c Counters) Max(o Counters) Counters {
	return Counters{
		Requests: max(c.Requests, o.Requests), Connections: max(c.Connections, o.Connections), ByApp: max(c.ByApp, o.ByApp),
		Lost: max(c.Lost, o.Lost), Mirrored: max(c.Mirrored, o.Mirrored), Dropped: max(c.Dropped, o.Dropped),
		Old: max(c.Old, o.Old), Unread: max(c.Unread, o.Unread),
	}
}

// asked is what the laptop says on a conversation: first a rule, then that it is
// still there.
type asked struct {
	Version int      `json:"version,omitempty"`
	Rule    *Rule    `json:"rule,omitempty"`
	Leave   bool     `json:"leave,omitempty"`
	Past    Counters `json:"past,omitzero"` // see Status
	// Age is how long the laptop has had the rule, in nanoseconds, when it asks for it.
	Age time.Duration `json:"age,omitempty"`
}

// maxLine bounds a line of a conversation.
const maxLine = 256 << 10

// lines reads a conversation.
type lines struct{ s *bufio.Scanner }

func newLines(r io.Reader) lines {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	return lines{s}
}

func (l lines) next(v any) error {
	if !l.s.Scan() {
		if err := l.s.Err(); err != nil {
			return fmt.Errorf("read the conversation: %w", err)
		}
		return io.EOF
	}
	if err := json.Unmarshal(l.s.Bytes(), v); err != nil {
		return fmt.Errorf("read the conversation: %w", err)
	}
	return nil
}

func say(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write to the conversation: %w", err)
	}
	return nil
}

// RefusedError is why an agent does not take a rule.
type RefusedError struct {
	Why   string
	Owner string // whose rule is in the way, or ""
}

func (e *RefusedError) Error() string { return "the pod's agent refused the rule: " + e.Why }

// Why a laptop's rule ended.
var (
	errLeft   = errors.New("the owner has left")
	errSilent = errors.New("nothing was heard of the laptop")
)
