package steer

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Outcome is what became of one request, or that it has been without an answer for
// long. Only the door that decided about a request tells of it. Probes of kubelet and
// intercepted requests are not told.
//
// What became of a copy is told apart, with Copy and the ID of the request that it is a
// copy of. Of a copy, Cancelled says that the door has ended it, or could not send all of
// it: that tells nothing of who got it.
type Outcome struct {
	ID         uint64    // among those of the door
	Generation int64     // of the split that decided
	Of         string    // what that was made for
	Time       time.Time // of the decision
	Version    string    // that it was decided for
	// Weight is that of Version when it was decided. If the weights have decided, it is
	// the probability with which the request went there: see Balance.
	Weight   Weight
	Affinity bool   // the client's affinity has decided
	Cohort   string // that has decided, by its name, or else its version's; "" if none has
	Copied   bool   // another version got a copy, which has an Outcome of its own
	Copy     bool   // it is the copy; Version got it, and Weight is the share of requests copied

	By       string         // the version that answered, or was asked last
	Pod      netip.AddrPort // that was asked last; not valid if it is the door's own
	Carried  bool           // to another pod
	Fallback bool           // no pod of Version answered, so By was asked
	Tries    int            // pods that were asked
	// Unheard says that no pod of Version has taken a connection, and that this has not been
	// so for long: it tells nothing of the version.
	Unheard bool

	Status    int  // of HTTP; 0 when nothing was answered, 101 when other bytes follow
	GRPC      int  // its status; -1 when the request is no call
	Running   bool // no answer yet, maybe not all of the request either; another with this ID follows
	Broken    bool // the answer never came or broke off, or the door had to make one
	Cancelled bool // the client went away before the answer was whole, or the door ended
	Err       string

	// Latency is from the decision to the head of the answer, or until now. While a request waits
	// for a connection to another pod nothing is told, and if there is no answer then, it is
	// from when that was over. Of a request that
	// was carried, or a copy, and was answered, it is what the door of that pod says, which is
	// from when it had the head of the request; where that says nothing, a copy has it from when
	// there was a connection, for each has one of its own.
	Latency time.Duration
	Took    time.Duration // to its end
	Told    time.Duration // Latency of the last Running outcome of this ID

	// Key is the same for requests that belong together: the id of the trace that the
	// client says it belongs to, or else the client's IP address.
	Key    string
	Client string // address and port

	// Pair is what was kept of it, nil if nothing was: see Record.
	Pair *Pair
}

// Drawn says that the weights alone have decided.
func (o *Outcome) Drawn() bool { return o.Cohort == "" && !o.Affinity }

// flight is a request that is being answered. One goroutine has it; the watch it is
// in may report it meanwhile.
type flight struct {
	Outcome
	w          *watchlist
	prev, next *flight
	crossed    int // how many of the watch's times
	in         bool
	seeking    bool      // a connection; it is in no list meanwhile
	since      time.Time // when it was asked of who has it: Time, or when there was a connection
	answered   bool
	begun      time.Time // what Latency is counted from, if not Time; who has w.mu may have it
	tape       *tape
}

// watchlist has the requests that are not answered yet, by when that began, so that
// whoever is due is the first. There is one list for each time, and a request that has
// crossed one goes to the next; no request has a timer or a goroutine.
type watchlist struct {
	slow []time.Duration
	tell func(*Outcome) // may be nil

	mu    sync.Mutex
	lists []struct{ first, last *flight }
	free  *flight
	timer *time.Timer
	armed bool
}

func newWatch(slow []time.Duration, tell func(*Outcome)) *watchlist {
	w := &watchlist{slow: slow, tell: tell}
	w.lists = make([]struct{ first, last *flight }, len(slow))
	return w
}

// begin takes a flight up. The caller fills in what is known of it.
func (w *watchlist) begin() *flight {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.free
	if f == nil {
		f = &flight{w: w}
	} else {
		w.free = f.next
		*f = flight{w: w}
	}
	f.Time, f.since, f.GRPC = now, now, -1
	return f
}

// watch waits for the answer from now on.
func (f *flight) watch() {
	w := f.w
	if len(w.slow) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.push(f)
	w.arm()
}

// push puts f at the end of its list. The caller has w.mu.
func (w *watchlist) push(f *flight) {
	l := &w.lists[f.crossed]
	f.in, f.prev, f.next = true, l.last, nil
	if l.last != nil {
		l.last.next = f
	} else {
		l.first = f
	}
	l.last = f
}

// drop takes f out of its list. The caller has w.mu.
func (w *watchlist) drop(f *flight) {
	if !f.in {
		return
	}
	l := &w.lists[f.crossed]
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.last = f.prev
	}
	f.in, f.prev, f.next = false, nil, nil
}

// arm sets the timer to when the next is due. The caller has w.mu.
func (w *watchlist) arm() {
	if w.armed {
		return
	}
	var due time.Time
	for i, l := range w.lists {
		if l.first != nil {
			if t := l.first.since.Add(w.slow[i]); due.IsZero() || t.Before(due) {
				due = t
			}
		}
	}
	if due.IsZero() {
		return
	}
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(time.Until(due), w.check)
	} else {
		w.timer.Reset(time.Until(due))
	}
}

// check reports who is due.
func (w *watchlist) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for i := range w.lists {
		for f := w.lists[i].first; f != nil && now.Sub(f.since) >= w.slow[i]; f = w.lists[i].first {
			w.drop(f)
			f.crossed++
			if f.crossed < len(w.slow) && now.Sub(f.since) >= w.slow[f.crossed] {
				w.push(f) // it is reported once for both
				continue
			}
			o := f.Outcome
			o.Running, o.Latency, o.Took = true, now.Sub(f.since), now.Sub(f.Time)
			f.Told = o.Latency
			if f.crossed == len(w.slow) && f.tape != nil {
				o.Pair = f.tape.pair()
			}
			if w.tell != nil {
				w.tell(&o) // under the lock: the end is told after it
			}
			if f.crossed < len(w.slow) {
				w.push(f)
			}
		}
	}
	w.armed = false
	w.arm()
}

// ask takes note of who is asked.
func (f *flight) ask(by string, pod netip.AddrPort, fallback bool) {
	if f == nil {
		return
	}
	f.w.mu.Lock() // check may look
	defer f.w.mu.Unlock()
	f.By, f.Pod, f.Carried, f.Fallback = by, pod, pod.IsValid(), fallback
	f.Tries++
}

// unheard takes note of what it means that no pod has taken a connection.
func (f *flight) unheard(is bool) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.Unheard = is
}

// seeks takes note of that a connection to a pod is wanted. As long as none has come the
// request is with nobody who could be slow, so it crosses no time.
func (f *flight) seeks() {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.drop(f)
	f.seeking = true
}

// found takes note of a connection, or of another answering because none came. What it was
// looking for one counts for nobody.
func (f *flight) found() {
	w := f.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !f.seeking {
		return
	}
	f.seeking, f.since = false, time.Now()
	if f.crossed < len(w.slow) {
		w.push(f)
		w.arm()
	}
}

// connected takes note of when there was a connection, or none came.
func (f *flight) connected() {
	f.w.mu.Lock() // who dials may be another goroutine than the one that hears the answer
	defer f.w.mu.Unlock()
	f.begun = time.Now()
}

// answer takes note of the head of the answer. said is what another door said of it.
func (f *flight) answer(status int, said string) {
	if f == nil || f.answered {
		return
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.answered = true
	f.Status, f.Latency = status, time.Since(f.Time)
	if !f.begun.IsZero() {
		f.Latency = time.Since(f.begun)
	}
	if took, err := told(said); err == nil && took >= 0 {
		f.Latency = min(took, f.Latency)
	}
	f.w.drop(f)
}

// call takes note of the status of a call.
func (f *flight) call(status int) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.GRPC = status
}

// end tells how it went, once; f is not to be used any more.
func (f *flight) end(broken, cancelled bool, why string) {
	if f == nil {
		return
	}
	w := f.w
	w.mu.Lock()
	w.drop(f)
	w.mu.Unlock()
	f.Took = time.Since(f.Time)
	if !f.answered {
		f.Latency = f.Took
	}
	f.Broken, f.Cancelled, f.Err = broken && !cancelled, cancelled, why
	if f.tape.keeps(&f.Outcome) {
		f.Pair = f.tape.pair()
	}
	if f.tape != nil {
		f.tape.door.counts.taping.Add(-1)
	}
	if w.tell != nil {
		w.tell(&f.Outcome)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f.Outcome, f.tape = Outcome{}, nil
	f.next, w.free = w.free, f
}

// keyOf returns what requests have in common that belong together.
func keyOf(r Request, client string) string {
	if v, has := r.Header("traceparent"); has {
		if _, rest, ok := strings.Cut(v, "-"); ok {
			if id, _, ok := strings.Cut(rest, "-"); ok && id != "" {
				return id
			}
		}
	}
	if v, has := r.Header("b3"); has {
		if id, _, ok := strings.Cut(v, "-"); ok && id != "" {
			return id
		}
	}
	if v, has := r.Header("x-b3-traceid"); has && v != "" {
		return v
	}
	if host, _, err := net.SplitHostPort(client); err == nil {
		return host
	}
	return client
}
