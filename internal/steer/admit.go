package steer

import (
	"fmt"
	"slices"

	"github.com/bightdev/bight/internal/stream"
)

// settle tells Steer which ports have rules or a split, if those are others than it knows of.
// Of calls that are under way at once, the last has what is true.
func (h *Host) settle() error {
	if h.Steer == nil {
		return nil
	}
	h.turn.Lock()
	defer h.turn.Unlock()
	h.mu.Lock()
	var ports []int
	for _, l := range h.leases {
		for _, d := range l.doors {
			ports = append(ports, d.Port)
		}
	}
	for _, d := range h.Doors {
		if d.split.Load() != nil {
			ports = append(ports, d.Port)
		}
	}
	h.mu.Unlock()
	slices.Sort(ports)
	ports = slices.Compact(ports)
	if slices.Equal(ports, h.steered) {
		return nil
	}
	if err := h.Steer(ports); err != nil {
		return err
	}
	h.steered = ports
	return nil
}

// engaged sees to it that a new rule is obeyed, or ends it.
func (h *Host) engaged(l *lease) error {
	err := h.settle()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("requests for port %d of %s can't be brought to the agent: %w", l.rule.Port, h.Service, err)
	l.end(err)
	return err
}

// End ends the rules of sessions that of is true of, at once, and returns when no
// request is steered by them. Whoever Admit lets in from now on is not concerned.
func (h *Host) End(of func(*stream.Session) bool, why error) {
	for _, l := range h.held() {
		if of(l.sess) {
			l.end(why)
		}
	}
}

// Leave ends all rules as though their owners had left: what is under way is still
// answered by their laptops.
func (h *Host) Leave(why error) {
	for _, l := range h.held() {
		l.end(left{why})
	}
}

func (h *Host) held() []*lease {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.leases)
}

// Retire makes clients leave the door, which still serves them: whoever gets an
// answer is told to come again on another connection, as far as the answer is read.
// Requests on connections without one go on as long as the connections do.
func (d *Door) Retire() { d.retired.Store(true) }

// retiring says whether clients are to leave.
func (d *Door) retiring() bool {
	s := d.split.Load()
	return d.retired.Load() || s != nil && s.Retire
}

// left is a reason that is treated like errLeft.
type left struct{ error }

func (left) Is(target error) bool { return target == errLeft }
