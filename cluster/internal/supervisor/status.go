package supervisor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// Status is what the control socket says of a cluster.
type Status struct {
	Name       string       `json:"name"`
	Stage      string       `json:"stage"`             // what is being done; "ready" when all is
	Waiting    string       `json:"waiting,omitempty"` // what the stage waits for
	Ready      bool         `json:"ready"`             // it has come up
	Error      string       `json:"error,omitempty"`
	Started    time.Time    `json:"started"`
	Stages     []Stage      `json:"stages"`
	Nodes      []NodeStatus `json:"nodes"`
	Components []Process    `json:"components"`
	Version    int          `json:"version"` // grows with every change
}

// Stage is one step of a start and how long it took.
type Stage struct {
	Name string `json:"name"`
	MS   int64  `json:"ms"`
}

// NodeStatus is the state of one node.
type NodeStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"` // why it is not
}

// board holds the Status and wakes whoever waits for it to change. It is safe for
// concurrent use.
type board struct {
	failureRead chan struct{} // closed when somebody has read the error

	mu      sync.Mutex
	status  Status
	began   time.Time     // of the present stage
	changed chan struct{} // closed by the next change
}

func newBoard(c *spec.Cluster) *board {
	now := time.Now()
	b := &board{changed: make(chan struct{}), failureRead: make(chan struct{}), began: now}
	b.status = Status{Name: c.Name, Started: now, Stages: []Stage{}}
	for _, n := range c.AllNodes() {
		b.status.Nodes = append(b.status.Nodes, NodeStatus{Name: n.Name, Address: n.Address, Reason: "its kubelet has not reported yet"})
	}
	return b
}

func (b *board) update(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
	b.status.Version++
	close(b.changed)
	b.changed = make(chan struct{})
}

// touch tells that something changed that the board does not hold.
func (b *board) touch() { b.update(func(*Status) {}) }

func (b *board) stage(name string) {
	b.update(func(s *Status) {
		if s.Stage != "" {
			s.Stages = append(s.Stages, Stage{Name: s.Stage, MS: time.Since(b.began).Milliseconds()})
		}
		s.Stage, s.Waiting, b.began = name, "", time.Now()
	})
}

// waiting says what the present stage waits for. It changes too often to wake
// anybody.
func (b *board) waiting(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Waiting = what
}

func (b *board) ready() {
	b.stage("ready")
	b.update(func(s *Status) { s.Ready = true })
}

func (b *board) fail(err error) { b.update(func(s *Status) { s.Error = err.Error() }) }

// awaitReader returns when somebody has read the error, or after a while.
func (b *board) awaitReader(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-b.failureRead:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// read notes that the error has been read.
func (b *board) read() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.failureRead:
	default:
		close(b.failureRead)
	}
}

// look returns the status and a channel that the next change closes.
func (b *board) look() (Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	status := b.status
	status.Stages, status.Nodes = slices.Clone(status.Stages), slices.Clone(status.Nodes)
	return status, b.changed
}

// after returns the status once its version is above v, or when ctx ends.
func (b *board) after(ctx context.Context, v int) Status {
	for {
		status, changed := b.look()
		if status.Version > v {
			return status
		}
		select {
		case <-changed:
		case <-ctx.Done():
			status, _ = b.look()
			return status
		}
	}
}
