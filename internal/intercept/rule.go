// Package intercept is what the two sides of an Intercept have to agree on: the laptop
// that makes one, and the agents that serve it.
//
// Its function is [RuleOf]. It is pure.
package intercept

import (
	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/steer"
)

// RuleOf is the rule that an Intercept allows, nil for none: node agents let its
// owner's laptop join this one and no other.
func RuleOf(i *v1alpha1.Intercept) *steer.Rule {
	r := i.Spec.Rule
	if r == nil {
		return nil
	}
	rule := &steer.Rule{
		ID: i.Name, Owner: i.Who(), Service: i.Spec.Workload, Port: int(r.Port), Mode: steer.Mode(r.Mode), Strict: r.Strict,
		Match: steer.Match{Path: r.Path},
	}
	for _, h := range r.Headers {
		rule.Match.Headers = append(rule.Match.Headers, steer.HeaderMatch{Name: h.Name, Value: h.Value, Prefix: h.Prefix})
	}
	return rule
}
