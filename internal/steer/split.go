package steer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxVersions is how many versions share a port's requests at most.
const maxVersions = 16

// Split says how the requests for one port of a service are shared between its
// versions. It is never changed once a door has it.
//
// A request is decided by the first that is true of it: an intercept; a cohort;
// affinity; the weights. A version that is Shut gets nothing in any of these ways.
type Split struct {
	// Generation grows with each change, so that who has set one can tell that it is
	// in force, and an older one that comes late is refused.
	Generation int64 `json:"generation"`
	// Of is what the split is made for, a release say. Generations are those of one, and
	// each outcome tells it.
	Of       string    `json:"of,omitempty"`
	Service  string    `json:"service"`
	Port     int       `json:"port"` // the app's
	Versions []Version `json:"versions"`
	// Stable is the version that was there before. It answers what another version
	// can't, unless it is Shut: fail open.
	Stable   string    `json:"stable"`
	Cohorts  []Cohort  `json:"cohorts,omitempty"` // the first that matches counts
	Affinity *Affinity `json:"affinity,omitempty"`
	Mirror   *Copies   `json:"mirror,omitempty"`
	// Retire makes clients leave the door, as [Door.Retire] does, for as long as the split
	// is in force.
	Retire bool `json:"retire,omitempty"`
	// Slow are times without an answer, in order. A request in flight that crosses one
	// is reported then.
	Slow []time.Duration `json:"slowNs,omitempty"`
	// Record says what is kept of requests, nil for nothing.
	Record *Record `json:"record,omitempty"`
}

// Version is one version of the service.
type Version struct {
	Name   string `json:"name"`
	Weight Weight `json:"weight"` // all of them come to All; a weight of 0 gets none
	// Held is the largest weight that the version has had since it had none. Clients
	// with affinity stay with it when its weight becomes less. 0 is the same as Weight.
	Held Weight `json:"held,omitempty"`
	// Shut keeps everything away, cohorts and copies too. Its weight is 0 then. Without
	// it, a version of weight 0 still has its cohorts: that is how one is tried before
	// others see it.
	Shut bool `json:"shut,omitempty"`
	// Addresses are those of its pods, with the app's port.
	Addresses []netip.AddrPort `json:"addresses,omitempty"`
}

// Cohort gives the requests that match to one version, whatever its weight. All of what
// it asks for has to be true.
type Cohort struct {
	Name    string        `json:"name,omitempty"` // for reports
	Match   Match         `json:"match,omitzero"`
	Exact   bool          `json:"exact,omitempty"`   // Match.Path is the whole path
	Methods []string      `json:"methods,omitempty"` // one of them, as it is written
	Cookies []HeaderMatch `json:"cookies,omitempty"`
	Query   []HeaderMatch `json:"query,omitempty"` // parameters, decoded: the first of each name counts
	Version string        `json:"version"`
}

// Affinity keeps a client with its version. The value of the header or cookie has a
// point among All that is always the same. A version has the points of the largest
// weight it has had, so a client that was with it once stays as long as its weight is
// over 0. Requests without a value are shared by the weights.
type Affinity struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"`
	// Give makes doors give the cookie to clients that have none: the point itself. A
	// client may write another there, which chooses its own version and nobody else's.
	Give bool `json:"give,omitempty"`
}

// Copies are requests that another version gets too. Its answers are thrown away, but what
// became of them is told.
type Copies struct {
	Version string `json:"version"`
	Weight  Weight `json:"weight"` // of the requests that go to other versions
}

// Reason is why a request went to a version.
type Reason string

// Reasons.
const (
	ByCohort   Reason = "cohort"
	ByAffinity Reason = "affinity"
	ByWeight   Reason = "weight"
)

// Choice is what was decided about a request.
type Choice struct {
	Version int // its place in Split.Versions
	Reason  Reason
	Cohort  string // its name
}

// Find returns the place of a version, -1 if there is none of that name.
func (s *Split) Find(version string) int {
	return slices.IndexFunc(s.Versions, func(v Version) bool { return v.Name == version })
}

// Choose decides about a request. turn says whose turn it is by the weights, and is
// called only if nothing else decides, so that the balance is kept among those alone.
func (s *Split) Choose(r Request, turn func() int) Choice {
	for i := range s.Cohorts {
		c := &s.Cohorts[i]
		if v := s.Find(c.Version); !s.Versions[v].Shut && c.matches(r) {
			return Choice{Version: v, Reason: ByCohort, Cohort: c.Name}
		}
	}
	if p, has := s.pointOf(r); has {
		if v := s.at(p); v >= 0 {
			return Choice{Version: v, Reason: ByAffinity}
		}
	}
	return Choice{Version: turn(), Reason: ByWeight}
}

// pointOf returns the client's point, if it has one.
func (s *Split) pointOf(r Request) (p int, has bool) {
	a := s.Affinity
	if a == nil {
		return 0, false
	}
	var value string
	if a.Header != "" {
		value, has = r.Header(a.Header)
	} else {
		value, has = cookie(r, a.Cookie)
	}
	switch {
	case !has || value == "":
		return 0, false
	case a.Give:
		return parsePoint(value)
	}
	return point(s.Service, value), true
}

// held returns how many points a version other than the stable one has.
func (v *Version) held() int { return int(max(v.Weight, v.Held)) }

// points returns where a version's points begin and end. Those that no other version
// has are the stable one's.
func (s *Split) points(version int) (from, to int) {
	for i := range s.Versions {
		v := &s.Versions[i]
		switch {
		case v.Name == s.Stable:
		case i == version:
			return from, from + v.held()
		default:
			from += v.held()
		}
		if i == version { // the stable one's come last
			for j := i + 1; j < len(s.Versions); j++ {
				from += s.Versions[j].held()
			}
			return from, int(All)
		}
	}
	return 0, 0
}

// at returns the version that has a point, -1 if that has no weight any more.
func (s *Split) at(p int) int {
	v := s.Find(s.Stable)
	for i := range s.Versions {
		if from, to := s.points(i); i != v && from <= p && p < to {
			if s.Versions[i].Weight > 0 {
				return i
			}
			break // it goes back to the stable one
		}
	}
	if s.Versions[v].Weight == 0 {
		return -1
	}
	return v
}

// give returns a point of a version, the nth, well spread; false if it has none.
func (s *Split) give(version int, nth uint64) (p int, ok bool) {
	from, to := s.points(version)
	if from >= to {
		return 0, false
	}
	spread := (nth * 0x9e3779b97f4a7c15) >> 32 // the golden ratio's multiples
	return from + int(spread*uint64(to-from)>>32), true
}

// cookie returns the value of a cookie.
func cookie(r Request, name string) (value string, has bool) {
	list, _ := r.Header("Cookie")
	for one := range strings.SplitSeq(list, ";") {
		n, v, ok := strings.Cut(strings.Trim(one, " \t"), "=")
		if ok && n == name {
			return strings.Trim(v, `"`), true
		}
	}
	return "", false
}

// Check says what is wrong with a split, where and why.
func (s *Split) Check() error {
	if s.Service == "" || s.Port < 1 || s.Port > 65535 {
		return fmt.Errorf("split of %q, port %d: name a service and a port from 1 to 65535", s.Service, s.Port)
	}
	err := s.checkVersions()
	for i := 0; err == nil && i < len(s.Cohorts); i++ {
		if err = s.Cohorts[i].check(s); err != nil {
			err = fmt.Errorf("cohort %d %q: %w", i+1, s.Cohorts[i].Name, err)
		}
	}
	if err == nil {
		err = errors.Join(s.Affinity.check(), s.checkMirror(), s.checkSlow(), s.Record.check())
	}
	if err != nil {
		return fmt.Errorf("split of %s, port %d: %w", s.Service, s.Port, err)
	}
	return nil
}

func (s *Split) checkVersions() error {
	if n := len(s.Versions); n == 0 || n > maxVersions {
		return fmt.Errorf("it has %d versions: from 1 to %d can share the requests", n, maxVersions)
	}
	sum, held := Weight(0), Weight(0)
	at := map[netip.AddrPort]string{}
	for i, v := range s.Versions {
		if err := s.checkVersion(i, at); err != nil {
			return fmt.Errorf("version %q: %w", v.Name, err)
		}
		sum += v.Weight
		if v.Name != s.Stable {
			held += max(v.Weight, v.Held)
		}
	}
	switch {
	case sum != All:
		return fmt.Errorf("the weights of its versions come to %v, and have to come to 100%%: every request has to go somewhere", sum)
	case held > All:
		return fmt.Errorf("its versions have held %v together, and clients can't stay with more than 100%%", held)
	case s.Find(s.Stable) < 0:
		return fmt.Errorf("its stable version %q is none of its versions: name the one that was there before", s.Stable)
	}
	return nil
}

func (s *Split) checkVersion(i int, at map[netip.AddrPort]string) error {
	v := &s.Versions[i]
	switch {
	case v.Name == "" || len(v.Name) > 256:
		return errors.New("a version's name has 1 to 256 bytes")
	case s.Find(v.Name) != i:
		return errors.New("it is named twice")
	case v.Weight < 0 || v.Weight > All:
		return fmt.Errorf("its weight is %v: from 0%% to 100%% is possible", v.Weight)
	case v.Held < 0 || v.Held > All || v.Held > 0 && v.Held < v.Weight:
		return fmt.Errorf("it has held %v, which has to be its weight of %v at least", v.Held, v.Weight)
	case v.Shut && v.Weight > 0:
		return fmt.Errorf("it is shut and has a weight of %v: a version that is shut gets nothing", v.Weight)
	}
	for _, a := range v.Addresses {
		if !a.IsValid() || a.Port() == 0 {
			return fmt.Errorf("%v is no address with a port", a)
		}
		if of, taken := at[a]; taken {
			return fmt.Errorf("the address %v is named before, of version %q: a pod has one version", a, of)
		}
		at[a] = v.Name
	}
	return nil
}

func (a *Affinity) check() error {
	switch {
	case a == nil:
		return nil
	case (a.Header == "") == (a.Cookie == ""):
		return errors.New("affinity: name a header or a cookie, one of the two")
	case !isToken(a.Header + a.Cookie):
		return fmt.Errorf("affinity: %q can't be the name of a header or cookie: letters, digits and dashes only", a.Header+a.Cookie)
	case a.Give && a.Header != "":
		return errors.New("affinity: clients can be given a cookie, not a header")
	}
	return nil
}

func (s *Split) checkMirror() error {
	m := s.Mirror
	if m == nil {
		return nil
	}
	v := s.Find(m.Version)
	switch {
	case v < 0:
		return fmt.Errorf("mirror: version %q is none of the split", m.Version)
	case s.Versions[v].Shut:
		return fmt.Errorf("mirror: version %q is shut, so it gets no copies", m.Version)
	case m.Weight < 1 || m.Weight > All:
		return fmt.Errorf("mirror: its weight is %v: from 0.01%% to 100%% is possible", m.Weight)
	}
	return nil
}

func (s *Split) checkSlow() error {
	for i, t := range s.Slow {
		if t <= 0 || i > 0 && t <= s.Slow[i-1] {
			return fmt.Errorf("slow: %v is not more than what comes before it", t)
		}
	}
	return nil
}

// setCookie is what gives a client its point.
func (a *Affinity) setCookie(p int) string {
	return a.Cookie + "=" + strconv.Itoa(p) + "; Path=/; HttpOnly; SameSite=Lax"
}
