package steer

import "time"

// drainTime is how long the app may take to answer what it was asked before a rule
// that replaces it.
const drainTime = 2 * time.Second

// Process is the app's process, for rules that replace it. The methods return soon.
type Process interface {
	// Hold stops it, on behalf of somebody, and keeps it stopped until Release. What
	// it returns is closed when the process has ended.
	Hold(by string) (ended <-chan struct{})
	// Release starts it again.
	Release()
}

// engage stops the app's process if the lease wants that and has not done it yet:
// after what the app was asked before is answered, since new requests go to the
// laptop already. It returns when the process has ended, or the lease is not active
// any more.
func (l *lease) engage() {
	l.mu.Lock()
	due := l.mayHold()
	silent := l.silent
	l.mu.Unlock()
	defer l.engaged()
	if !due {
		return
	}
	late := time.NewTimer(drainTime)
	defer late.Stop()
	for _, d := range l.doors {
		select {
		case <-d.idle():
		case <-late.C:
			late.Reset(0) // for the others, too
		case <-silent:
		case <-l.over.Done():
		}
	}
	ended := l.hold()
	select {
	case <-ended:
	case <-silent:
	case <-l.over.Done():
	}
}

// engaged makes the lease one that its laptop has to keep alive.
func (l *lease) engaged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engaging {
		l.engaging, l.last = false, time.Now()
	}
}

// mayHold says whether the process is still to be stopped. The caller has l.mu.
func (l *lease) mayHold() bool {
	return l.rule.Mode == Replace && l.state == Active && !l.holding && !l.done
}

// succeed takes over, from the lease that it comes in the place of, that the process
// is stopped.
func (l *lease) succeed(old *lease) {
	old.mu.Lock()
	holding := old.holding
	old.mu.Unlock()
	if holding {
		l.hold()
	}
}

// hold is called once the app is to end. It returns nil if it is not any more.
func (l *lease) hold() (ended <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mayHold() {
		return nil
	}
	l.holding = true
	h := l.host
	h.holding.Lock()
	defer h.holding.Unlock()
	h.holders = append(h.holders, l)
	h.logger().Info("process is replaced", "rule", l.rule.ID, "owner", l.rule.Owner)
	return h.Process.Hold(l.rule.Owner)
}

// release starts the app's process unless another lease holds it. It comes before
// the first request goes to the app. The caller has l.mu.
func (l *lease) release() {
	if !l.holding {
		return
	}
	l.holding = false
	for _, d := range l.doors {
		d.process.Add(1)
	}
	h := l.host
	h.holding.Lock()
	defer h.holding.Unlock()
	for i, o := range h.holders {
		if o == l {
			h.holders = append(h.holders[:i], h.holders[i+1:]...)
			break
		}
	}
	if len(h.holders) == 0 {
		h.Process.Release()
		return
	}
	h.Process.Hold(h.holders[len(h.holders)-1].rule.Owner)
}

// asks counts requests that the app may have to answer in or out. A request is
// counted before it is picked for the app, so that none is missed by who waits for
// idle after the rules have changed.
func (d *Door) asks(by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.atApp += by
	if d.atApp == 0 && d.none != nil {
		close(d.none)
		d.none = nil
	}
}

// elsewhere has somebody else answer a request that is counted: it is not, until that has
// failed, and the request may be the app's again.
func (d *Door) elsewhere(answer func() error) error {
	d.asks(-1)
	defer d.asks(1) // after a panic, too
	return answer()
}

// idle returns what is closed when the app has no request of this door.
func (d *Door) idle() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.none == nil {
		d.none = make(chan struct{})
	}
	none := d.none
	if d.atApp == 0 {
		close(none)
		d.none = nil
	}
	return none
}
