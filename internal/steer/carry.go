package steer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Carried is the header of a request that another door has decided about. The door
// that gets it takes it off and gives the request to the app in its pod, whatever its
// own rules are, unless the app is replaced. A client that sends it itself gets
// nothing that it could not have: the pod that it has reached anyway, without being
// counted. In answers it is what the door tells the other, see hop.
const Carried = "Bight-Carried"

// splitMarker is the header that says that the door answered, because no pod could.
const splitMarker = "bight-release"

const (
	// peerTime is how long a pod of another version may take to take a connection.
	peerTime = 500 * time.Millisecond
	// peerRest is how long a pod that did not is asked after the others, or not at all.
	peerRest = 2 * time.Second
	// silence is for how long a pod may take no connection in time without that telling
	// anything of its version: packets that are lost and nodes that are gone are nobody's
	// fault, and all requests of peerRest depend on one attempt. Kubernetes notices a node
	// that is gone after 50 s at the latest. Refusal is the same for a pod that refuses: one
	// that ends, because its node is drained, say, is an address for a moment longer. A pod that
	// the door has never reached may be silent, or refuse, for good: a NetworkPolicy may keep the
	// two apart, and the pod be well.
	silence, refusal = time.Minute, 3 * time.Second
	// maxTries is how many pods are tried for one request.
	maxTries = 3
	// maxIdle is how long a connection may have been idle that carries a request
	// which can't be done twice: the other side may be about to close it.
	maxIdle = time.Second
)

// splitting is a split that a door has in force.
type splitting struct {
	*Split
	local int   // the version of the door's own pod
	arms  []arm // by version
	turns *turns
	draw  func() int // turns.next
	watch *watchlist
	since time.Time
}

// turns are the balances of a split, which the next one goes on with if its weights
// are the same.
type turns struct {
	mu       sync.Mutex
	versions *Balance
	copies   *Balance // nil without a mirror
	given    uint64   // points
}

// arm is where the pods of one version are.
type arm struct {
	name      string
	addresses []netip.AddrPort
	known     map[netip.AddrPort]int
	rests     []rest
	next      atomic.Uint64
	recorded  atomic.Uint64
}

// rest is until when a pod is asked only after the others, and until when not at all
// if the request can be answered here, in nanoseconds since 1970: waiting for one that
// says nothing would make every request slow. Since is from when on it has taken no
// connection; 0 for not. Met says that it has ever taken one, and is the next split's, too.
type rest struct {
	last, deaf, since atomic.Int64
	met               *atomic.Bool
}

// splitCounts are what a door counts as long as it lives.
type splitCounts struct {
	decided, carried, fallback, lost, unread, mirrored, dropped atomic.Int64
	ids                                                         atomic.Uint64
	copying, taping, underway                                   atomic.Int64
}

// SplitStatus is what a door says of its split.
type SplitStatus struct {
	Generation int64     `json:"generation"`
	Local      string    `json:"local"` // the version of its pod
	Since      time.Time `json:"since"`
	// Old is how many connections to the app are left whose requests no split sees,
	// because they are older than the first one.
	Old int64 `json:"old"`
	// The others count for as long as the door is there.
	Decided  int64 `json:"decided"`  // requests
	Carried  int64 `json:"carried"`  // of these, to another pod
	Underway int64 `json:"underway"` // of these, how many have not ended
	Fallback int64 `json:"fallback"` // of these, answered here because that pod did not
	Lost     int64 `json:"lost"`     // of these, answered by no pod
	Unread   int64 `json:"unread"`   // connections that went to the app because they can't be read
	Mirrored int64 `json:"mirrored"`
	Dropped  int64 `json:"dropped"` // copies that were not made, or not whole
}

// Split makes the door share requests between versions; its own pod is of version
// local. It is in force when Split returns: a request that begins later obeys it,
// whatever connection it comes on, and a request that is under way ends where it is.
// A nil split ends that. Connections of before the first split that are not read are
// counted as Old; clients of HTTP/2 are told to leave them if the door has Follow.
// Split may be called by Door.Outcome.
func (d *Door) Split(local string, s *Split) error {
	var next *splitting
	if s != nil {
		if err := s.Check(); err != nil {
			return err
		}
		if s.Find(local) < 0 {
			return fmt.Errorf("split of %s, port %d: this pod is of version %q, which is none of it", s.Service, s.Port, local)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.split.Load()
	if s != nil {
		if last != nil && s.Of == last.Of && s.Generation < last.Generation {
			return fmt.Errorf("split of %s, port %d: generation %d is older than %d, which is in force", s.Service, s.Port, s.Generation, last.Generation)
		}
		next = d.splitting(local, s, last)
	}
	before := d.steers()
	d.split.Store(next)
	d.steersNow(before)
	return nil
}

// splitting makes a split ready to be used. The caller has d.mu.
func (d *Door) splitting(local string, s *Split, last *splitting) *splitting {
	n := &splitting{Split: s, local: s.Find(local), arms: make([]arm, len(s.Versions)), since: time.Now()}
	for i, v := range s.Versions {
		a := &n.arms[i]
		a.name, a.addresses = v.Name, slices.Clone(v.Addresses)
		a.known, a.rests = map[netip.AddrPort]int{}, make([]rest, len(v.Addresses))
		for j, address := range v.Addresses {
			a.known[address], a.rests[j].met = j, last.met(v.Name, address)
		}
	}
	if last != nil && last.sameWeights(s) {
		n.turns = last.turns // so that rare turns come, however often addresses change
	} else {
		n.turns = newTurns(s)
	}
	n.draw = n.turns.next
	if last != nil && slices.Equal(last.Slow, s.Slow) {
		n.watch = last.watch
	} else {
		n.watch = newWatch(s.Slow, d.Outcome)
	}
	return n
}

// met is what is known of whether a pod of a version was reached, which the next split goes
// on with.
func (s *splitting) met(version string, pod netip.AddrPort) *atomic.Bool {
	if s != nil {
		for i := range s.arms {
			if j, known := s.arms[i].known[pod]; known && s.arms[i].name == version {
				return s.arms[i].rests[j].met
			}
		}
	}
	return new(atomic.Bool)
}

func (s *Split) sameWeights(o *Split) bool {
	return slices.EqualFunc(s.Versions, o.Versions, func(a, b Version) bool {
		return a.Name == b.Name && a.Weight == b.Weight
	}) && (s.Mirror == nil) == (o.Mirror == nil) && (s.Mirror == nil || *s.Mirror == *o.Mirror)
}

func newTurns(s *Split) *turns {
	var weights []Weight
	for _, v := range s.Versions {
		weights = append(weights, v.Weight)
	}
	t := &turns{versions: NewBalance(weights...)}
	if s.Mirror != nil {
		t.copies = NewBalance(All-s.Mirror.Weight, s.Mirror.Weight)
	}
	return t
}

func (t *turns) next() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.versions.Next()
}

// copy says whether the next request that could be copied is.
func (t *turns) copy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.copies.Next() == 1
}

func (t *turns) give() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.given++
	return t.given
}

// Decided is the ID of the last request that a split has decided about, 0 for none.
// Each up to it has had its last Outcome, or will.
func (d *Door) Decided() uint64 { return d.counts.ids.Load() }

// InForce tells of the split that the door has, if it has one.
func (d *Door) InForce() (s SplitStatus, has bool) {
	n := d.split.Load()
	if n == nil {
		return SplitStatus{}, false
	}
	c := &d.counts
	s = SplitStatus{
		Generation: n.Generation, Local: n.arms[n.local].name, Since: n.since, Old: d.unsteered(d.steeredSince()),
		Decided: c.decided.Load(), Carried: c.carried.Load(), Underway: c.underway.Load(), Fallback: c.fallback.Load(), Lost: c.lost.Load(),
		Unread: c.unread.Load(), Mirrored: c.mirrored.Load(), Dropped: c.dropped.Load(),
	}
	return s, true
}

// decision is where a request goes, as long as it is under way.
type decision struct {
	d      *Door
	s      *splitting
	to     int // version
	flight *flight
	give   string // the cookie that the client gets with the answer
	tried  []netip.AddrPort
	fell   bool // it is at another version than it was decided for
	away   bool // a pod of another version was asked
	// Of the pods that took no connection: one has taken none for a short time, one for long.
	lately, long bool
}

// decide decides about a request, nil if there is no split.
func (d *Door) decide(r Request, client string) *decision {
	s := d.split.Load()
	if s == nil || d.probe(r) {
		return nil
	}
	ch := s.Choose(r, s.draw)
	v := &s.Versions[ch.Version]
	f := s.watch.begin()
	f.ID, f.Generation, f.Of, f.Version, f.Weight = d.counts.ids.Add(1), s.Generation, s.Of, v.Name, v.Weight
	f.Affinity = ch.Reason == ByAffinity
	if f.Cohort = ch.Cohort; ch.Reason == ByCohort && f.Cohort == "" {
		f.Cohort = v.Name
	}
	f.Key, f.Client = keyOf(r, client), client
	f.watch()
	d.counts.decided.Add(1)
	dec := &decision{d: d, s: s, to: ch.Version, flight: f}
	if a := s.Affinity; a != nil && a.Give && ch.Reason == ByWeight {
		if p, ok := s.give(ch.Version, s.turns.give()); ok {
			dec.give = a.setCookie(p)
		}
	}
	return dec
}

// local says whether the request belongs to the app of this pod.
func (dec *decision) local() bool { return dec.to == dec.s.local }

// fall is called when no pod has answered. It returns whether the app of this pod
// does: the stable version always may, because it is known to be good, another one
// only as long as it has a weight, and none that is shut. So an abort leaves nothing
// with the canary, even if nobody else answers, and a canary that fails costs nobody
// an answer. The newest split counts.
func (dec *decision) fall() bool {
	dec.unheard()
	if !dec.mayFall() {
		dec.d.counts.lost.Add(1)
		return false
	}
	dec.to, dec.fell = dec.s.local, true
	dec.flight.found()
	dec.d.counts.fallback.Add(1)
	return true
}

func (dec *decision) mayFall() bool {
	s := dec.d.split.Load()
	if s == nil {
		return true // the app has everything again
	}
	here := &s.Versions[s.local]
	return !here.Shut && (here.Name == s.Stable || here.Weight > 0)
}

// shed says whether the version has lost all its weight since it was asked for the
// first time: it is not to be asked again then.
func (dec *decision) shed() bool {
	now := dec.d.split.Load()
	if now == nil || now == dec.s || dec.flight.Tries == 0 {
		return false
	}
	i := now.Find(dec.s.arms[dec.to].name)
	return i < 0 || now.Versions[i].Shut || now.Versions[i].Weight == 0 && dec.s.Versions[dec.to].Weight > 0
}

// address returns the next pod to try, if another may be tried.
func (dec *decision) address() (to netip.AddrPort, ok bool) {
	a := &dec.s.arms[dec.to]
	if len(dec.tried) >= min(maxTries, len(a.addresses)) || dec.shed() {
		return to, false
	}
	now, n := time.Now().UnixNano(), uint64(len(a.addresses))
	at := a.next.Add(1) - 1
	may := dec.mayFall()
	for _, rested := range []bool{false, true} {
		for i := range n {
			j := (at + i) % n
			if a.rests[j].deaf.Load() > now && may {
				dec.missed(a.rests[j].away(now, silence))
				continue
			}
			if (a.rests[j].last.Load() > now) == rested && !slices.Contains(dec.tried, a.addresses[j]) {
				dec.tried = append(dec.tried, a.addresses[j])
				return a.addresses[j], true
			}
		}
	}
	return to, false
}

// unreachable takes note of a pod that took no connection, and says whether it has taken
// none for so long that this tells something of its version.
func (a *arm) unreachable(at netip.AddrPort, err error) (long bool) {
	i, ok := a.known[at]
	if !ok {
		return true
	}
	r, now := &a.rests[i], time.Now()
	until := now.Add(peerRest).UnixNano()
	r.last.Store(until)
	r.since.CompareAndSwap(0, now.UnixNano())
	if late, ok := errors.AsType[net.Error](err); !ok || !late.Timeout() {
		return r.away(now.UnixNano(), refusal)
	}
	r.deaf.Store(until)
	return r.away(now.UnixNano(), silence)
}

// away says whether a pod that was reached before has taken no connection for so long.
func (r *rest) away(now int64, long time.Duration) bool {
	return r.met.Load() && r.missing(now) >= long
}

// missing is for how long a pod has taken no connection, at a time.
func (r *rest) missing(now int64) time.Duration {
	since := r.since.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(now - since)
}

// reached takes note of a pod that takes connections.
func (a *arm) reached(at netip.AddrPort) {
	if i, ok := a.known[at]; ok && a.rests[i].since.Load() != 0 {
		a.rests[i].since.Store(0)
	}
}

// met takes note of a pod that has taken a connection, whether it answers or not.
func (a *arm) met(at netip.AddrPort) {
	if i, ok := a.known[at]; ok && !a.rests[i].met.Load() {
		a.rests[i].met.Store(true)
	}
}

// missed takes note of a pod of the version that takes no connection, for long or not.
func (dec *decision) missed(long bool) {
	dec.long, dec.lately = dec.long || long, dec.lately || !long
}

// unheard takes note of what it means that no pod has taken the request.
func (dec *decision) unheard() { dec.flight.unheard(dec.lately && !dec.long) }

// unreachable takes note of a pod of the version that took no connection.
func (dec *decision) unreachable(a *arm, at netip.AddrPort, err error) {
	dec.missed(a.unreachable(at, err))
	dec.d.logger().Debug("pod takes no connection", "version", a.name, "pod", at, "err", err)
}

// dialPeer connects to a pod of another version.
func (d *Door) dialPeer(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	var nc net.Conn
	var err error
	if d.Peer != nil {
		nc, err = d.Peer(ctx, to)
	} else {
		nc, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the pod at %s: %w", to, err)
	}
	return nc, nil
}

// whyLost tells a client why the door answers.
func (dec *decision) whyLost(why string) string {
	return fmt.Sprintf("no pod of version %s answers: %s", dec.s.arms[dec.to].name, why)
}
