package supervisor

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// waitForNodes follows the nodes until each is ready, and goes on following them
// until ctx ends, so that the status stays true.
func (s *Supervisor) waitForNodes(ctx context.Context) error {
	s.work.Go(func() { s.followNodes(ctx) })
	const limit = 3 * time.Minute
	deadline, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		status, changed := s.status.look()
		missing, ok := notReady(status.Nodes)
		if !ok {
			return nil
		}
		why := s.processes.explain(fmt.Sprintf("kubelet-%d", missing+1), fmt.Errorf("node %s: %s", status.Nodes[missing].Name, status.Nodes[missing].Reason))
		if isHopeless(why) {
			return why
		}
		s.status.waiting(why.Error())
		select {
		case <-changed:
		case <-deadline.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("after %s: %w", limit, why)
		}
	}
}

// notReady returns the first node that is not.
func notReady(nodes []NodeStatus) (int, bool) {
	for i, n := range nodes {
		if !n.Ready {
			return i, true
		}
	}
	return 0, false
}

// followNodes keeps the board equal to what the nodes report. While the API
// server is away, what it said last stays.
func (s *Supervisor) followNodes(ctx context.Context) {
	nodes := s.client.CoreV1().Nodes()
	for ctx.Err() == nil {
		list, err := nodes.List(ctx, meta.ListOptions{})
		if err != nil {
			pauseFor(ctx, 50*time.Millisecond)
			continue
		}
		for i := range list.Items {
			s.noteNode(&list.Items[i])
		}
		w, err := nodes.Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			pauseFor(ctx, 50*time.Millisecond)
			continue
		}
		for event := range w.ResultChan() {
			if n, ok := event.Object.(*core.Node); ok && event.Type != watch.Deleted {
				s.noteNode(n)
			}
		}
		w.Stop()
	}
}

// noteNode puts what a node says of itself on the board.
func (s *Supervisor) noteNode(n *core.Node) {
	s.status.update(func(status *Status) {
		for i := range status.Nodes {
			if status.Nodes[i].Name == n.Name {
				status.Nodes[i].Ready, status.Nodes[i].Reason = condition(n, status.Started)
			}
		}
	})
}

// condition says whether a node is ready, and if not, why. After a restart the
// object still says what was true before it, until the kubelet reports: reports
// count from started on. The API has no fractions of a second.
func condition(n *core.Node, started time.Time) (ready bool, reason string) {
	for _, c := range n.Status.Conditions {
		if c.Type != core.NodeReady || c.LastHeartbeatTime.Time.Before(started.Truncate(time.Second)) {
			continue
		}
		if c.Status == core.ConditionTrue {
			return true, ""
		}
		return false, c.Message
	}
	return false, "its kubelet has not reported yet"
}

func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
