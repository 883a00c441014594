package bridge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Link says that a service reaches another one, by what, and where that was read.
type Link struct {
	From string `json:"from"`
	To   string `json:"to"`
	By   string `json:"by,omitempty"` // a variable or a flag
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// place says by what and from where, for the end of a name.
func (l Link) place() string {
	var parts []string
	if l.By != "" {
		parts = append(parts, l.By)
	}
	if l.File != "" && l.Line > 0 {
		parts = append(parts, fmt.Sprintf("%s:%d", l.File, l.Line))
	} else if l.File != "" {
		parts = append(parts, l.File)
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// Reached is what became of the header at a service.
type Reached string

// What may have become of it.
const (
	HasKey     Reached = "has"         // the request came with it
	DropsKey   Reached = "drops"       // so it did, and went on without
	WithoutKey Reached = "without"     // the request came without it
	NotReached Reached = "not reached" // none came
	NotWatched Reached = "not watched" // nobody could look
)

// Traced is one service.
type Traced struct {
	Service string   `json:"service"`
	State   Reached  `json:"state"`
	With    int      `json:"with"`    // requests that had the header
	Without int      `json:"without"` // requests of the probes that did not
	Calls   []string `json:"calls,omitempty"`
}

// Drop is where the header was lost.
type Drop struct {
	// By are the services that may have lost it; where the links leave no doubt, it is
	// one.
	By     []string `json:"by"`
	Called string   `json:"called"` // which service, without the header
	Links  []Link   `json:"links"`  // by which it did, one for each of By
}

// Trace is what became of the header of a request on its way through the app.
type Trace struct {
	URL      string   `json:"url"`
	Header   string   `json:"header"`
	Rounds   int      `json:"rounds"`
	Answers  []int    `json:"answers"`  // statuses, one for each round
	Services []Traced `json:"services"` // in the order of calls, as far as links tell
	Drops    []Drop   `json:"drops"`    // the first one first
}

// sighting is a request that was seen at a service.
type sighting struct {
	service string
	call    string // method and path, without what differs from one to the next
	key     bool   // it has the header
	ours    bool   // it is part of a probe's trace
}

// evidence is all that was seen.
type evidence struct {
	entry   string // the service that the probe was sent to, "" when that is not known
	before  []sighting
	rounds  [][]sighting
	blind   []string // services that nobody watched
	known   []string // services
	linking []Link
}

// conclude says where the header has got to. A request with it is one of ours, since
// the value is. One without it is ours if its trace is; or, since a service may drop
// both, if the like of it came in every round and not before the first.
func conclude(e evidence) (services []Traced, drops []Drop) {
	seen := map[string]*Traced{}
	for _, name := range e.known {
		seen[name] = &Traced{Service: name, State: NotReached}
		if slices.Contains(e.blind, name) {
			seen[name].State = NotWatched
		}
	}
	constant := e.constant()
	for _, round := range e.rounds {
		for _, s := range round {
			t := seen[s.service]
			switch {
			case t == nil:
				continue
			case s.key:
				t.With++
				t.State = HasKey
			case s.ours || constant[s.service+" "+s.call]:
				t.Without++
				if t.State != HasKey {
					t.State = WithoutKey
				}
			default:
				continue
			}
			if !slices.Contains(t.Calls, s.call) {
				t.Calls = append(t.Calls, s.call)
			}
		}
	}
	order := e.order(seen)
	drops = e.drops(seen, order)
	for _, d := range drops {
		if len(d.By) == 1 {
			seen[d.By[0]].State = DropsKey
		}
	}
	for _, name := range order {
		slices.Sort(seen[name].Calls)
		services = append(services, *seen[name])
	}
	return services, drops
}

// constant are the calls without the header that every round has seen and the time
// before has not.
func (e evidence) constant() map[string]bool {
	in := map[string]int{}
	for _, round := range e.rounds {
		once := map[string]bool{}
		for _, s := range round {
			if !s.key {
				once[s.service+" "+s.call] = true
			}
		}
		for call := range once {
			in[call]++
		}
	}
	all := map[string]bool{}
	for call, n := range in {
		all[call] = n == len(e.rounds)
	}
	for _, s := range e.before {
		delete(all, s.service+" "+s.call)
	}
	return all
}

// order sorts services as they call each other: those that a request reaches first,
// then the others.
func (e evidence) order(seen map[string]*Traced) []string {
	depth := map[string]int{}
	next := []string{e.entry}
	if seen[e.entry] == nil {
		next = e.first(seen)
	}
	for at := 1; len(next) > 0; at++ {
		var after []string
		for _, name := range next {
			if depth[name] > 0 {
				continue
			}
			depth[name] = at
			for _, l := range e.linking {
				if t := seen[l.To]; l.From == name && t != nil && t.With+t.Without > 0 {
					after = append(after, l.To)
				}
			}
		}
		next = after
	}
	all := slices.Sorted(maps.Keys(seen))
	far := len(all) + 1
	slices.SortStableFunc(all, func(a, b string) int {
		place := func(name string) int {
			switch t := seen[name]; {
			case depth[name] > 0:
				return depth[name]
			case t.With+t.Without > 0:
				return far
			}
			return far + 1
		}
		return cmp.Compare(place(a), place(b))
	})
	return all
}

// first returns the services that had the header though none that links to them did.
func (e evidence) first(seen map[string]*Traced) (all []string) {
	for _, name := range e.known {
		linked := slices.ContainsFunc(e.linking, func(l Link) bool {
			return l.To == name && l.From != name && seen[l.From] != nil && seen[l.From].With > 0
		})
		if seen[name].With > 0 && !linked {
			all = append(all, name)
		}
	}
	return all
}

// drops finds who lost the header: for each service that was called without it, those
// that link to it and had it. Where none of these had it, the header was lost before.
func (e evidence) drops(seen map[string]*Traced, order []string) (all []Drop) {
	for _, called := range order {
		if seen[called].Without == 0 {
			continue
		}
		d := Drop{Called: called, By: []string{}, Links: []Link{}}
		behind := false
		for _, from := range order {
			i := slices.IndexFunc(e.linking, func(l Link) bool { return l.From == from && l.To == called && from != called })
			switch {
			case i < 0:
			case seen[from].With > 0:
				d.By, d.Links = append(d.By, from), append(d.Links, e.linking[i])
			case seen[from].Without > 0:
				behind = true
			}
		}
		if len(d.By) > 0 || !behind {
			all = append(all, d)
		}
	}
	at := func(d Drop) int {
		if len(d.By) == 0 {
			return len(order)
		}
		return slices.Index(order, d.By[0])
	}
	slices.SortStableFunc(all, func(a, b Drop) int { return cmp.Compare(at(a), at(b)) })
	return all
}

// String says who lost the header, and how that is known.
func (d Drop) String() string {
	switch len(d.By) {
	case 0:
		return fmt.Sprintf("somebody called %s without the header: none of the services that had it is known to reach that one", d.Called)
	case 1:
		return fmt.Sprintf("%s drops it: it called %s%s without the header", d.By[0], d.Called, d.Links[0].place())
	}
	var each []string
	for _, l := range d.Links {
		each = append(each, l.From+l.place())
	}
	return fmt.Sprintf("%s drops it: one of them called %s without the header", strings.Join(each, " or "), d.Called)
}

// alike is a path without what differs from one request to the next: numbers, and
// names that no person gave. Versions, files and gRPC's services are kept.
func alike(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if named := strings.Contains(p, ".") || isVersion(p); !named && (strings.ContainsAny(p, "0123456789") || len(p) >= 20) {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}

func isVersion(p string) bool {
	n, ok := strings.CutPrefix(p, "v")
	return ok && len(n) < 3 && strings.Trim(n, "0123456789") == ""
}
