// Package work carries the steps of changes to the workers that do them, and their
// results back.
//
// The main types are [Hub], which the controller has, and [Client], which a worker
// has. A worker holds one WebSocket to the hub; an order that the hub sends down it is
// leased for as long as the connection lives. When it is cut, the hub gives the order
// to another worker under a new lease, and the worker stops what it was doing. A
// result counts once: only from the connection that holds the lease, and only when
// the hub's [Keeper] has written it down does the worker hear so.
//
// Both types are safe for concurrent use and wait for the goroutines that they start.
package work

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Order is one step of one change, to be done by a worker.
type Order struct {
	Namespace string `json:"namespace"`
	App       string `json:"app"`
	Change    string `json:"change"`
	Step      string `json:"step"`
	// Lease counts how often the step was given to a worker.
	Lease int32 `json:"lease"`
	// Attempt is the change's, which a person raises to have it done again.
	Attempt int32 `json:"attempt"`

	// Commit is what the step is about, Base what it is compared with ("" for
	// nothing), both in the app's repository at the controller.
	Commit string `json:"commit"`
	Base   string `json:"base,omitempty"`
	// Directory of the repository that the app is in, "" for its root.
	Directory string `json:"directory,omitempty"`
	// Untrusted tells that the commit's author may not push to the repository.
	Untrusted bool `json:"untrusted,omitempty"`
	// Timeout is the longest that the step may take.
	Timeout time.Duration `json:"timeout"`
	// Policy is the app's, as far as steps need it.
	Policy Policy `json:"policy"`

	// Workers, where it is more than 1, is how many could do parts of the step, the one
	// that has the order among them: it may answer with [Split].
	Workers int `json:"workers,omitempty"`
	// Part, from 1, is which part of the step this is, and Units are what it consists
	// of; 0 is all of it.
	Part  int      `json:"part,omitempty"`
	Units []string `json:"units,omitempty"`
}

// Policy is what of an app's policy the steps need.
type Policy struct {
	RefuseAt   string `json:"refuseAt,omitempty"`   // severity: error, warning or never
	Quarantine bool   `json:"quarantine,omitempty"` // of flaky tests
	Tests      Limits `json:"tests,omitzero"`
}

// Limits are what tests may use; what is zero has the worker's own limit.
type Limits struct {
	Seconds   int32 `json:"seconds,omitempty"` // of one Go package or command
	Processes int32 `json:"processes,omitempty"`
	Memory    int64 `json:"memory,omitempty"` // bytes
	Disk      int64 `json:"disk,omitempty"`   // bytes
}

// ID is the same for the same work, whatever its lease.
func (o Order) ID() string {
	id := fmt.Sprintf("%s/%s/%s/%s/%d", o.Namespace, o.Change, o.Step, o.Commit, o.Attempt)
	if o.Part > 0 {
		id += fmt.Sprintf("/part %d", o.Part)
	}
	return id
}

// States of a Result: those of a step that has ended.
const (
	Passed  = "Passed"
	Failed  = "Failed"  // by what the change is
	Erred   = "Erred"   // by what surrounds it
	Skipped = "Skipped" // there was nothing to do
	// Split is no end: what is in Rest is to be done by several workers.
	Split = "Split"
)

// Result is what came of an order.
type Result struct {
	State   string `json:"state"`
	Message string `json:"message,omitempty"` // a sentence
	Key     string `json:"key,omitempty"`     // digest of the inputs
	Cached  string `json:"cached,omitempty"`  // why nothing had to be done
	Risk    *int32 `json:"risk,omitempty"`
	// Images are what was built, by service.
	Images map[string]string `json:"images,omitempty"`
	// Files are what is kept for people and later steps, by name.
	Files map[string][]byte `json:"files,omitempty"`
	// Rest is what a step that is split still has to do: seconds by unit.
	Rest map[string]float64 `json:"rest,omitempty"`
	// Keep is what other workers may take instead of doing it again, by kind and key:
	// "tests/<digest>". Whether they trust it depends on the order, not on the worker.
	Keep map[string][]byte `json:"keep,omitempty"`
}

// message is one frame, from either end.
type message struct {
	Hello *Hello `json:"hello,omitempty"`
	Order *Order `json:"order,omitempty"`
	Stop  string `json:"stop,omitempty"` // why
	Log   []byte `json:"log,omitempty"`
	// Doing is what the step does now; "" is nothing in particular.
	Doing  *string `json:"doing,omitempty"`
	Result *Result `json:"result,omitempty"`
	// Drain tells the hub that the worker wants no more orders; it answers with the same,
	// after which none comes.
	Drain bool `json:"drain,omitempty"`
	// Counted answers a result; Refused is why it did not count.
	Counted bool   `json:"counted,omitempty"`
	Refused string `json:"refused,omitempty"`
	ID      string `json:"id,omitempty"` // of the order that all but the hello are about
	Lease   int32  `json:"lease,omitempty"`
}

// Hello is what a worker says of itself.
type Hello struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Slots   int    `json:"slots"` // how many steps at once
	// Apps are the ones it works for, "<namespace>/<name>"; none is all.
	Apps []string `json:"apps,omitempty"`
	// Untrusted tells that it takes steps of changes that strangers have made.
	Untrusted bool `json:"untrusted,omitempty"`
}

// Limits of the protocol.
const (
	maxFrame = 64 << 20 // a result with its files
	maxHello = 64 << 10 // a hello, whose sender is not known yet
	// MaxKept is how many bytes a result's Keep has at most, and an answer with such.
	MaxKept = 16 << 20
	// Each end asks the other once a beat whether it is there, and gives it silence
	// long to say so.
	beat    = time.Second
	silence = 3 * time.Second
	// maxLosses is how many workers may be lost over one step before it counts as the
	// cause.
	maxLosses = 3
)

// Doer does the work of an order. What it prints goes to log, which may be a [Teller].
// It returns when ctx ends, whose cause says why.
type Doer func(ctx context.Context, o Order, log io.Writer) Result

// Teller tells people what a step does now, in a few words, where that takes long.
type Teller interface{ Doing(text string) }
