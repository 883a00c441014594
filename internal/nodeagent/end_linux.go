package nodeagent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/agent/node"
)

// served is an open gate. What passes through it ends before the pod's network does, or
// whoever is connected would not hear of it, ever.
//
// The network of a pod that is deleted goes right after its last container, so that is
// waited for. Kubelet ends pods without that, too: those that it evicts, that have come to
// their activeDeadlineSeconds or make room for others. The API tells of such a pod when all is
// over, and until then its containers may as well be about to start again, with all
// connections to others kept. But the process that holds the pod's namespaces ends some
// hundredths of a second before the network does, and never earlier: so all connections are
// reset at once then, and the rest comes later. (CRI-O has no such process: there, who is
// connected through the door of an evicted pod may hang.)
type served struct {
	gate *gate.Gate
	ns   *node.Netns
	runs string // of the pod, when it was looked at last

	containers *vigil // over those that ran when it began, nil for none
	sandbox    *vigil // over the process that holds the pod's namespaces, nil for none

	// Of a gate that closes because nobody wants it, nil for one that does not: retired is
	// closed when another one may be opened, drained when nothing is under way any more.
	retired, drained chan struct{}
}

// drain closes the gate to what is new, and has what is under way end by itself for so long.
func (s *served) drain(longest time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	s.retired, s.drained = make(chan struct{}), make(chan struct{})
	go func() { // shut and cut wait for it
		defer close(s.drained)
		defer cancel()
		s.gate.Retire(ctx)
		close(s.retired)
		_ = s.gate.Close(ctx) // shut says what went wrong
	}()
}

// drains says whether the gate closes, or has closed, since nobody wanted it.
func (s *served) drains() bool { return s != nil && s.drained != nil }

// draining says whether something is under way yet.
func (s *served) draining() bool {
	if !s.drains() {
		return false
	}
	select {
	case <-s.drained:
		return false
	default:
		return true
	}
}

// unattend is the end of attend.
func (s *served) unattend() {
	s.containers.leave()
	s.containers = nil
}

// vigil is somebody who waits for the end of processes. A nil one waits for nothing.
type vigil struct {
	over    chan struct{} // closed when all of them have ended
	forget  context.CancelFunc
	waiting sync.WaitGroup
}

// await waits for the end of all of the processes until ctx ends. then, if not nil, is called at
// once when they have ended: who hears of it by ended may have something else to do.
func (p *post) await(ctx context.Context, then func(), all ...node.Process) *vigil {
	ctx, forget := context.WithCancel(ctx)
	v := &vigil{over: make(chan struct{}), forget: forget}
	v.waiting.Go(func() {
		for _, one := range all {
			if err := one.Await(ctx); err != nil {
				if ctx.Err() == nil {
					p.log.Warn("the end of a pod is not seen: connections through its door may hang", "why", err)
				}
				return
			}
		}
		if then != nil {
			then()
		}
		close(v.over)
	})
	return v
}

// ended is closed when they have ended.
func (v *vigil) ended() <-chan struct{} {
	if v == nil {
		return nil
	}
	return v.over
}

// leave has nobody wait any more.
func (v *vigil) leave() {
	if v != nil {
		v.forget()
		v.waiting.Wait()
	}
}

// over says that no container of a pod runs any more. What can't be seen may run.
func (p *post) over(ctx context.Context, w *wanted) bool {
	found, err := p.proc.Pod(ctx, uidOf(w.pod))
	return errors.Is(err, node.ErrNoPod) || err == nil && len(found.Containers) == 0
}

// attend waits for the end of a pod's containers.
func (p *post) attend(ctx context.Context, s *served, w *wanted) {
	if s.containers != nil {
		return
	}
	var containers []node.Process
	found, err := p.find(ctx, w.pod)
	switch {
	case err == nil:
		containers = found.Containers
	case !w.deleted() || !p.over(ctx, w):
		return // its processes are between two runs: there will be news
	}
	s.containers = p.await(ctx, nil, containers...)
}

// outlast leaves a gate that drains to itself, since the pod gets another one. It returns when
// that may be opened.
func (p *post) outlast(ctx context.Context, s *served) {
	<-s.retired
	p.unsplit()
	p.older.Add(1)
	p.outlasting.Go(func() {
		select {
		case <-s.drained:
		case <-s.containers.ended(): // with whom it was connected to
		case <-s.sandbox.ended():
		case <-ctx.Done():
			late := time.NewTimer(closing)
			defer late.Stop()
			select {
			case <-s.drained:
			case <-late.C:
			}
		}
		if err := s.close(s.gate.Cut); err != nil {
			p.log.Debug("a gate was not closed well", "err", err) // the pod may be going
		}
		p.older.Add(-1)
		p.wake()
	})
}

// close ends all that there is of it, the gate by a function of it.
func (s *served) close(gate func() error) error {
	err := errors.Join(gate(), s.ns.Close())
	s.unattend()
	s.sandbox.leave()
	return err
}

// cut closes the gate of a pod that has ended.
func (p *post) cut(s *served, w *wanted) {
	err := s.close(s.gate.Cut)
	if w.deleted() {
		p.buried = w.pod.UID
	}
	p.tell(nil, "")
	if err != nil {
		p.log.Debug("a gate was not closed well", "err", err) // its network is going
	}
	p.unsplit()
}
