package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
)

// newest remembers what this process wrote last of each change, since the cache hears
// of it later. It is safe for concurrent use.
type newest struct {
	mu  sync.Mutex
	all map[client.ObjectKey]*v1alpha1.Change
	// edits are what is to be written of each change that somebody writes at the moment:
	// those who want to at the same time share one write.
	edits map[client.ObjectKey][]*edit
}

// edit is one change of a status.
type edit struct {
	do func(*v1alpha1.Change) error
	// turn is sent true to who is to write what waits, and closed when this is written,
	// or never will be.
	turn chan bool
	now  *v1alpha1.Change // the status with it
	err  error
}

// of returns the newer of c and what was written.
func (n *newest) of(c *v1alpha1.Change) *v1alpha1.Change {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := client.ObjectKeyFromObject(c)
	known := n.all[key]
	if known == nil || known.UID != c.UID || version(c) >= version(known) {
		delete(n.all, key)
		return c
	}
	return known.DeepCopy()
}

func (n *newest) wrote(c *v1alpha1.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all == nil {
		n.all = map[client.ObjectKey]*v1alpha1.Change{}
	}
	key := client.ObjectKeyFromObject(c)
	if known := n.all[key]; known == nil || known.UID != c.UID || version(known) < version(c) {
		n.all[key] = c.DeepCopy()
	}
}

// enter puts an edit in line and waits until it is written, or until it is this one's
// turn to write what is in line.
func (n *newest) enter(ctx context.Context, key client.ObjectKey, e *edit) (turn bool, err error) {
	n.mu.Lock()
	if n.edits == nil {
		n.edits = map[client.ObjectKey][]*edit{}
	}
	line, busy := n.edits[key]
	n.edits[key] = append(line, e)
	n.mu.Unlock()
	if !busy {
		return true, nil
	}
	select {
	case turn = <-e.turn:
		return turn, nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	i := slices.Index(n.edits[key], e)
	if i >= 0 {
		n.edits[key] = slices.Delete(n.edits[key], i, i+1)
	}
	n.mu.Unlock()
	if i >= 0 {
		select {
		case <-e.turn: // it was its turn, at the same moment
			n.pass(key)
		default:
		}
		return false, ctx.Err()
	}
	return <-e.turn, nil // it is being written
}

// take returns what is in line, for who has the turn.
func (n *newest) take(key client.ObjectKey) []*edit {
	n.mu.Lock()
	defer n.mu.Unlock()
	line := n.edits[key]
	n.edits[key] = nil
	return line
}

// putBack puts what was taken at the head of the line again.
func (n *newest) putBack(key client.ObjectKey, line []*edit) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.edits[key] = append(line, n.edits[key]...)
}

// pass gives the turn to the next in line.
func (n *newest) pass(key client.ObjectKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.edits[key]) == 0 {
		delete(n.edits, key)
		return
	}
	n.edits[key][0].turn <- true
}

// version is comparable as of Kubernetes 1.35, and has been a number in every server
// with etcd.
func version(c *v1alpha1.Change) uint64 {
	v, _ := strconv.ParseUint(c.ResourceVersion, 10, 64)
	return v
}

// errUnchanged tells update that there is nothing to write.
var errUnchanged = errors.New("unchanged")

// patience is how long a write waits for an API server that is away.
const patience = 2 * time.Minute

// update changes the status of a change: what do makes of the present one is written
// unless somebody was faster, in which case it is made anew. Edits are made in the
// order in which they come. While the API server is away, it is tried again.
func (c *Controller) update(ctx context.Context, key client.ObjectKey, do func(*v1alpha1.Change) error) (*v1alpha1.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	e := &edit{do: do, turn: make(chan bool, 1)}
	turn, err := c.newest.enter(ctx, key, e)
	if err != nil {
		return nil, fmt.Errorf("write the status of change %s: %w", key.Name, err)
	}
	if turn {
		line := c.newest.take(key)
		err := c.write(ctx, key, line)
		others := slices.DeleteFunc(line, func(other *edit) bool { return other == e })
		if ctx.Err() != nil && err != nil {
			c.newest.putBack(key, others) // they may have more time
		} else {
			for _, other := range others {
				close(other.turn)
			}
		}
		c.newest.pass(key)
	}
	if e.err != nil && !errors.Is(e.err, errUnchanged) {
		return nil, e.err
	}
	return e.now, nil
}

// write makes edits, each of what those before it have made, and writes the result in
// one go. Each is told what became of it.
func (c *Controller) write(ctx context.Context, key client.ObjectKey, line []*edit) error {
	read := client.Reader(c.client)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := c.writeOnce(ctx, read, key, line)
		if err == nil {
			return nil
		}
		if apierrors.IsConflict(err) || passing(err) {
			read = c.live
			select {
			case <-ctx.Done():
			case <-time.After(pause):
				continue
			}
		}
		for _, e := range line {
			if e.err == nil {
				e.err = fmt.Errorf("write the status of change %s: %w", key.Name, err)
			}
		}
		return err
	}
}

func (c *Controller) writeOnce(ctx context.Context, read client.Reader, key client.ObjectKey, line []*edit) error {
	for _, e := range line {
		e.now, e.err = nil, nil
	}
	got := &v1alpha1.Change{}
	if err := read.Get(ctx, key, got); err != nil {
		return err
	}
	was := c.newest.of(got)
	now, changed := was.DeepCopy(), false
	for _, e := range line {
		next := now.DeepCopy()
		if changed {
			next.ResourceVersion = "" // it is of no version yet, and no edit is to take it for one that it knows
		}
		if e.err = e.do(next); e.err == nil {
			now, changed = next, true
		}
	}
	if changed {
		now.ResourceVersion = was.ResourceVersion
		if err := c.client.Status().Patch(ctx, now, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
			return err
		}
		c.newest.wrote(now)
	}
	for _, e := range line {
		e.now = now.DeepCopy()
	}
	return nil
}

// passing reports whether an error is one of a server that is away or overloaded.
func passing(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) // the network
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}
