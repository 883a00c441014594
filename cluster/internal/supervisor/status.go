package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// Status is what the control socket says of a cluster.
type Status struct {
	Name       string       `json:"name"`
	Stage      string       `json:"stage"` // what is being done; "ready" when all is
	Ready      bool         `json:"ready"`
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

// board holds the Status and wakes whoever waits for it to change.
type board struct {
	mu          sync.Mutex
	status      Status
	began       time.Time // of the present stage
	changed     chan struct{}
	failureRead chan struct{}
	once        sync.Once
}

func newBoard(c *spec.Cluster) *board {
	b := &board{changed: make(chan struct{}), failureRead: make(chan struct{}), began: time.Now()}
	b.status = Status{Name: c.Name, Started: time.Now()}
	for _, n := range c.AllNodes() {
		b.status.Nodes = append(b.status.Nodes, NodeStatus{Name: n.Name, Address: n.Address, Reason: "not started"})
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

func (b *board) stage(name string) {
	b.update(func(s *Status) {
		if s.Stage != "" {
			s.Stages = append(s.Stages, Stage{Name: s.Stage, MS: time.Since(b.began).Milliseconds()})
		}
		s.Stage, b.began = name, time.Now()
	})
}

func (b *board) ready() {
	b.stage("ready")
	b.update(func(s *Status) { s.Ready = true })
}

func (b *board) fail(err error) { b.update(func(s *Status) { s.Error = err.Error() }) }

// after returns the status once its version is above v.
func (b *board) after(ctx context.Context, v int) Status {
	for {
		b.mu.Lock()
		status, changed := b.status, b.changed
		status.Stages, status.Nodes = slices.Clone(status.Stages), slices.Clone(status.Nodes)
		b.mu.Unlock()
		if status.Version > v {
			if status.Error != "" {
				b.once.Do(func() { close(b.failureRead) })
			}
			return status
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status
		}
	}
}

// serveControl answers GET /status?after=VERSION and POST /stop on the cluster's
// control socket, which only its owner can reach.
func (s *Supervisor) serveControl(ctx context.Context, stop context.CancelFunc) (*http.Server, error) {
	socket := s.Cluster.ControlSocket()
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		var after int
		_, _ = fmt.Sscan(r.URL.Query().Get("after"), &after)
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		status := s.status.after(ctx, after)
		status.Components = s.processes.snapshot()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		stop()
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	return server, nil
}

// waitForNodes follows the nodes until each is ready, and goes on following them
// so that the status stays true.
func (s *Supervisor) waitForNodes(ctx context.Context) error {
	all := make(chan struct{})
	go s.followNodes(ctx, all)
	select {
	case <-all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Minute):
		return fmt.Errorf("after 3 minutes: %s", s.status.waitingFor())
	}
}

func (b *board) waitingFor() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.status.Nodes {
		if !n.Ready {
			return "node " + n.Name + ": " + n.Reason
		}
	}
	return "nothing"
}

func (s *Supervisor) followNodes(ctx context.Context, all chan struct{}) {
	for ctx.Err() == nil {
		list, err := s.client.CoreV1().Nodes().List(ctx, meta.ListOptions{})
		if err != nil {
			pauseFor(ctx, 200*time.Millisecond)
			continue
		}
		for i := range list.Items {
			s.noteNode(&list.Items[i], &all)
		}
		w, err := s.client.CoreV1().Nodes().Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			pauseFor(ctx, 200*time.Millisecond)
			continue
		}
		for event := range w.ResultChan() {
			if n, ok := event.Object.(*core.Node); ok && event.Type != watch.Deleted {
				s.noteNode(n, &all)
			}
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// noteNode puts what a node says of itself on the board and closes all, once,
// when every node is ready.
func (s *Supervisor) noteNode(n *core.Node, all *chan struct{}) {
	ready, reason := false, "has not reported yet"
	s.status.update(func(status *Status) {
		for _, c := range n.Status.Conditions {
			// After a restart the object still says what was true before it.
			fresh := !c.LastHeartbeatTime.Time.Before(status.Started.Truncate(time.Second))
			if c.Type == core.NodeReady && fresh {
				ready, reason = c.Status == core.ConditionTrue, c.Message
			}
		}
		every := true
		for i := range status.Nodes {
			node := &status.Nodes[i]
			if node.Name == n.Name {
				node.Ready, node.Reason = ready, reason
				if ready {
					node.Reason = ""
				}
			}
			every = every && node.Ready
		}
		if every && *all != nil {
			close(*all)
			*all = nil
		}
	})
}
