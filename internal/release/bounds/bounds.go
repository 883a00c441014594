// Package bounds says whether somebody may order something of a release, by the rules of
// ReleasePolicies: who, how much, when.
//
// [Compile] makes [Bounds] of the policies of a namespace, and [Bounds.Judge] is pure: the
// same [Order] is refused for the same reason each time. A rule that can't be read, or
// that fails, refuses: nobody is let through by a mistake.
package bounds

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/expr"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// Order is what somebody wants.
type Order struct {
	Release *v1alpha1.Release // with the new orders
	Now     time.Time
	// Goes says that it ends a hold: the plan goes on to its next step.
	Goes bool
}

// Bounds are what the policies of one namespace allow. They do not change.
type Bounds struct{ rules []rule }

type rule struct {
	policy, name, message string
	run                   cel.Program
	wrong                 error // with the expression
}

// Compile reads policies, in the order in which they are judged.
func Compile(policies []v1alpha1.ReleasePolicy) *Bounds {
	b := &Bounds{}
	env, err := expr.Env([]string{"user", "order", "release"}, cel.Variable("asked", cel.StringType), cel.Variable("now", cel.TimestampType))
	for _, p := range policies {
		for _, r := range p.Spec.Rules {
			one := rule{policy: p.Name, name: r.Name, message: r.Message, wrong: err}
			if err == nil {
				one.run, one.wrong = program(env, r.Expression)
			}
			b.rules = append(b.rules, one)
		}
	}
	return b
}

func program(env *cel.Env, text string) (cel.Program, error) {
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		e := issues.Errors()[0]
		message, _, _ := strings.Cut(e.Message, " expecting {")
		return nil, fmt.Errorf("%s (line %d, column %d)", message, e.Location.Line(), e.Location.Column()+1)
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("it is %s, and must be bool", out)
	}
	return env.Program(ast, cel.CostLimit(celconfig.PerCallLimit), cel.InterruptCheckFrequency(celconfig.CheckFrequency))
}

// Wrong says what can't be read in the rules of a policy, "" if all can.
func (b *Bounds) Wrong(policy string) string {
	var all []string
	for _, r := range b.rules {
		if r.policy == policy && r.wrong != nil {
			all = append(all, fmt.Sprintf("rule %s: %v", r.name, r.wrong))
		}
	}
	return strings.Join(all, "; ")
}

// Judge returns why an order is refused, nil if it is not. To undo never is.
func (b *Bounds) Judge(o Order) *v1alpha1.ReleaseRefusal {
	if b == nil || o.Release.Spec.Orders.Undo {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	vars := variables(o)
	for _, r := range b.rules {
		if why := r.refuses(ctx, vars); why != "" {
			return &v1alpha1.ReleaseRefusal{Generation: o.Release.Generation, Policy: r.policy, Rule: r.name, Why: why}
		}
	}
	return nil
}

func (r *rule) refuses(ctx context.Context, vars map[string]any) string {
	if r.wrong != nil {
		return fmt.Sprintf("the rule can't be read: %v: only undo is obeyed until it is mended", r.wrong)
	}
	v, _, err := r.run.ContextEval(ctx, vars)
	switch {
	case err != nil:
		return fmt.Sprintf("the rule can't be judged: %v", err)
	case v == types.True:
		return ""
	case v != types.False:
		return fmt.Sprintf("the rule is %s, and must be bool", v.Type().TypeName())
	case r.message != "":
		return r.message
	}
	return "rule " + r.name + " does not allow it"
}

// variables are what expressions know.
func variables(o Order) map[string]any {
	r := o.Release
	orders := r.Spec.Orders
	now := 0.0
	if r.Status.Route != nil && !r.Status.Route.Shut {
		now = float64(r.Status.Route.Weight) / 100
	}
	weight := now
	if orders.Weight != nil {
		if w, err := spec.Weight(orders.Weight, ""); err == nil {
			weight = float64(w) / 100
		}
	}
	if share, ok := comes(r, o.Goes); ok && orders.Weight == nil {
		weight = share
	}
	whole := func(x v1alpha1.ReleaseRoute) bool {
		return x.To == v1alpha1.Canary && len(x.Headers)+len(x.Cookies) == 0
	}
	if orders.Promote || slices.ContainsFunc(orders.Routes, whole) || slices.ContainsFunc(r.Spec.Plan.Routes, whole) {
		weight = float64(release.All) / 100
	}
	verdict, requests, errors := "", int64(0), int64(0)
	if v := r.Status.Verdict; v != nil {
		verdict, requests, errors = v.Is, v.Requests, v.Errors
	}
	return map[string]any{
		"user":  map[string]any{"name": orders.By, "groups": append([]string{}, orders.Groups...)},
		"asked": orders.Asked,
		"order": map[string]any{"weight": weight, "promote": orders.Promote, "paused": orders.Paused, "routes": int64(len(orders.Routes))},
		"release": map[string]any{
			"deployment": r.Spec.Deployment, "service": r.Spec.Service, "version": r.Spec.Version, "change": r.Spec.Change,
			"phase": r.Status.Phase, "weight": now, "verdict": verdict, "requests": requests, "errors": errors,
			"annotations": copyOf(r.Annotations),
		},
		"now": o.Now,
	}
}

// comes is the share in percent that the plan gives at its present step, or at its first
// if it has not begun; at the next one if it goes on, which after the last is everything.
func comes(r *v1alpha1.Release, goes bool) (float64, bool) {
	p, err := spec.Plan(r.Spec.Plan)
	if err != nil {
		return 0, false // which is refused elsewhere
	}
	at := min(max(int(r.Status.Step)-1, 0), len(p.Steps)-1)
	if goes {
		at++
	}
	switch over := at == len(p.Steps); {
	case over && p.Undo:
		return 0, true
	case over:
		return float64(release.All) / 100, true
	}
	return float64(p.Steps[at].Weight) / 100, true
}

func copyOf(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
