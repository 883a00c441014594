package nodeagent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/steer"
)

// obeyed is which release the doors of a pod obey, or why they don't.
type obeyed struct {
	of         string
	generation int64
	problem    string
}

// sharing is which ports of a gate have a split, and who listens to what becomes of
// the requests there.
type sharing map[int]*listening

type listening struct {
	of         string
	generation int64
	sink       *sink // nil for nobody
}

// manySinks is how many there are before those are looked for that hear nothing more.
const manySinks = 64

// door names one door to those who listen to it, for one release.
type door struct {
	port int
	of   string
}

// sinks are those that listen to the doors of a gate. The zero value is none.
type sinks struct {
	mu  sync.RWMutex
	all map[door]*sink
	// before are requests of no release.
	before measured
}

// add gives an outcome to whoever wants it.
func (s *sinks) add(port int, o *steer.Outcome) {
	if o.Of == idle {
		s.before.add(port, o, time.Now())
		return
	}
	s.mu.RLock()
	to := s.all[door{port, o.Of}]
	s.mu.RUnlock()
	if to != nil {
		to.add(o)
	}
}

func (s *sinks) put(at door, to *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[door]*sink{}
	}
	if len(s.all) >= manySinks {
		maps.DeleteFunc(s.all, func(_ door, s *sink) bool { return s.isClosed() })
	}
	s.all[at] = to
}

// split brings the gate's splits to what is wanted. Of ports that can't be shared the
// requests go to the app.
func (p *post) split(g *gate.Gate, w *wanted) error {
	want := map[int]*steer.Split{}
	s := w.share
	if s != nil {
		for _, split := range s.splits {
			want[split.Port] = split
		}
	}
	var errs []error
	for port := range maps.Clone(p.sharing) {
		if want[port] == nil {
			errs = append(errs, g.Split(port, "", nil))
			p.unlisten(port)
		}
	}
	for port, split := range want {
		p.listen(g, port, split.Of, w)
		l := p.sharing[port]
		if split.Generation < l.generation {
			// An order was taken back that nobody else had obeyed yet.
			errs = append(errs, g.Split(port, "", nil))
		}
		l.generation = split.Generation
		errs = append(errs, g.Split(port, s.local, split))
	}
	err := errors.Join(errs...)
	o := obeyed{}
	if s != nil {
		o.of, o.generation, o.problem = string(s.of.uid), s.generation, s.problem
		if err != nil {
			o.generation, o.problem = 0, err.Error()
		}
	}
	p.obey(o)
	return err
}

// obey tells which release the pod obeys now.
func (p *post) obey(o obeyed) {
	p.mu.Lock()
	same := p.obeyed == o
	news := o.problem != "" && o.problem != p.obeyed.problem
	p.obeyed = o
	p.mu.Unlock()
	if news {
		p.log.Warn("a pod does not obey a release", "why", o.problem)
	}
	if !same {
		p.changed()
	}
}

// shared is what there is to tell of a release: whether the pod obeys it as it is
// wanted, and if not, why, "" if it is about to.
func (p *post) shared(s *share) (obeys bool, problem string, soon bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch o := p.obeyed; {
	case p.gate == nil:
		return false, p.problem, false
	case o.of != string(s.of.uid) || o.problem == "" && o.generation < s.generation:
		return false, "", true
	default:
		return o.problem == "", o.problem, false
	}
}

// listen has a trial told of the requests for a port, from before the first that is
// decided for it.
func (p *post) listen(g *gate.Gate, port int, of string, w *wanted) {
	if l := p.sharing[port]; l != nil {
		if l.of == of && (l.sink == nil) == (w.trial == nil) {
			return
		}
		p.unlisten(port)
	}
	l := &listening{of: of}
	if of == idle {
		p.sinks.before.begin(port, time.Now())
	}
	if w.trial != nil {
		l.sink = w.trial.open(fmt.Sprintf("%s:%d", w.pod.Name, port), port, g.Decided(port), p.sinks.before.of(port))
		l.sink.pod = addressOf(w.pod, port) // before the first outcome
		p.sinks.put(door{port, of}, l.sink)
	}
	if p.sharing == nil {
		p.sharing = sharing{}
	}
	p.sharing[port] = l
}

// addressOf is where a port of a pod is, not valid while it has no IP.
func addressOf(pod *core.Pod, port int) netip.AddrPort {
	a, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}

// unlisten expects no more requests of a port. What is under way is still told.
func (p *post) unlisten(port int) {
	if l := p.sharing[port]; l.sink != nil {
		l.sink.close()
	}
	delete(p.sharing, port)
}

// unsplit is called when the gate is closed.
func (p *post) unsplit() {
	for port := range maps.Clone(p.sharing) {
		p.unlisten(port)
	}
	p.sinks.mu.Lock()
	p.sinks.all = nil
	p.sinks.mu.Unlock()
	p.obey(obeyed{})
}

// sample looks at the connections of the doors that somebody listens to.
func (p *post) sample(open *served) {
	for port, l := range p.sharing {
		if l.sink == nil || open == nil {
			continue
		}
		if s, has := open.gate.InForce(port); has {
			l.sink.sample(s)
		}
	}
}
