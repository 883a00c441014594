package bridge

import (
	"cmp"
	"slices"
	"time"

	"github.com/bightdev/bight/internal/steer"
)

// Intercept is a rule as all pods of its service together have it.
type Intercept struct {
	ID      string      `json:"id"`
	Owner   string      `json:"owner"`
	Service string      `json:"service"`
	Port    int         `json:"port"`
	Mode    steer.Mode  `json:"mode"`
	Match   string      `json:"match"` // in words
	Strict  bool        `json:"strict,omitempty"`
	State   steer.State `json:"state"` // suspended when it is so in any pod
	Since   time.Time   `json:"since,omitzero"`
	Pods    int         `json:"pods"` // in which it is in force: not those where it is suspended
	Of      int         `json:"of"`   // running pods of the service
	// Namespace is where an Intercept is, "" for a rule of the app's agents.
	Namespace string `json:"namespace,omitempty"`
	// Transport is how the bytes travel: TransportDirect when they do to each pod.
	Transport string         `json:"transport"`
	Counters  steer.Counters `json:"counters"` // of all pods, also those that have gone since
}

// Transports: past the API server, and through it.
const (
	TransportDirect      = "direct"
	TransportPortForward = "port-forward"
)

// TransportOf names a transport.
func TransportOf(direct bool) string {
	if direct {
		return TransportDirect
	}
	return TransportPortForward
}

// merge puts together what the agents of several pods say. ready is how many pods
// each service has.
func merge(said []steer.Status, ready map[string]int) []Intercept {
	byID, past := map[string]*Intercept{}, map[string]steer.Counters{}
	for _, s := range said {
		key := s.Rule.Owner + "\x00" + s.Rule.ID
		i := byID[key]
		if i == nil {
			i = &Intercept{
				ID: s.Rule.ID, Owner: s.Rule.Owner, Service: s.Rule.Service, Port: s.Rule.Port, Mode: s.Rule.Mode,
				Match: s.Rule.Match.String(), Strict: s.Rule.Strict, State: s.State, Since: s.Since,
				Of: ready[s.Rule.Service], Transport: TransportDirect,
			}
			byID[key] = i
		}
		if !s.Direct {
			i.Transport = TransportPortForward
		}
		if s.State == steer.Active {
			i.Pods++
		} else {
			i.State = s.State
		}
		if s.Since.Before(i.Since) {
			i.Since = s.Since
		}
		i.Counters = i.Counters.Plus(s.Counters)
		past[key] = past[key].Max(s.Past)
	}
	all := []Intercept{}
	for key, i := range byID {
		i.Counters = i.Counters.Plus(past[key])
		all = append(all, *i)
	}
	slices.SortFunc(all, func(x, y Intercept) int { return cmp.Or(cmp.Compare(x.Service, y.Service), cmp.Compare(x.ID, y.ID)) })
	return all
}
