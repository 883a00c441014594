// Package policy applies a team's rules to a change, written in CEL in the form
// of Kubernetes' ValidatingAdmissionPolicy: the same file says what review and
// admission refuse. [Checker] applies them to the objects that the change renders
// to, [Gate] applies those of kind ChangePolicy to the change itself: its files,
// its authors, its risk and what the checkers found.
//
// Where a change alters a policy, the base commit's version judges it. Both types
// are settings only and may be used from many goroutines.
package policy

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bightdev/bight/internal/change/review"
)

// Checker applies policies to rendered objects.
type Checker struct{ Source }

// Name implements [review.Checker].
func (c *Checker) Name() string { return "policy" }

// Check implements [review.Checker].
func (c *Checker) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	set, err := c.load(ctx, in)
	if err != nil {
		return review.Result{}, err
	}
	env, err := objectEnv()
	if err != nil {
		return review.Result{}, fmt.Errorf("make the environment of policies: %w", err)
	}
	var res review.Result
	res.Findings, res.Unchecked = set.problems(in)
	changed := in.ChangedObjects()
	for _, p := range set.policies {
		if p.change {
			continue // the Gate's
		}
		prog := compile(env, p)
		if len(prog.broken) > 0 {
			p.reportBroken(in, &res, prog)
			continue
		}
		for _, o := range changed {
			if err := ctx.Err(); err != nil {
				return res, context.Cause(ctx)
			}
			for _, use := range set.uses(p) {
				p.judge(ctx, prog, set, use, o, &res)
			}
		}
	}
	return res, nil
}

// judge applies a policy, as one binding uses it, to one object.
func (p *policy) judge(ctx context.Context, prog *program, set *set, use use, o review.ChangedObject, res *review.Result) {
	operation := "CREATE"
	if o.Old != nil {
		operation = "UPDATE"
	}
	if !p.matches(o.Value, operation) || !use.matches(o.Value, operation) {
		return
	}
	params, err := set.params(p, use)
	if err != nil {
		res.Unchecked = append(res.Unchecked, review.Unchecked{What: fmt.Sprintf("policy %s on %s", p.name, o), Why: err.Error()})
		return
	}
	verdicts := prog.run(ctx, map[string]any{
		"object":          defaulted(o.Value),
		"oldObject":       nilOr(defaulted(o.Old)),
		"request":         request(o, operation),
		"params":          nilOr(params),
		"namespaceObject": nil,
	})
	for _, v := range verdicts {
		if v.err != nil && p.failurePolicy == "Ignore" {
			res.Unchecked = append(res.Unchecked, review.Unchecked{
				What: fmt.Sprintf("policy %s on %s", p.name, o), Why: fmt.Sprintf("%s: %v", p.at(v.line), v.err),
			})
			continue
		}
		file, line := o.Of(v.source)
		f := review.Finding{
			Rule: p.name, Severity: use.severity(), Message: v.message, Object: o.String(), File: file, Line: line,
			Why: fmt.Sprintf("%s; the rule is at %s", o.Why, p.at(v.line)),
		}
		if v.err != nil {
			f.Message = fmt.Sprintf("the rule can't be evaluated on %s: %v", o, v.err)
		}
		res.Findings = append(res.Findings, f)
	}
}

// request is the part of an admission request that is known before there is one.
func request(o review.ChangedObject, operation string) map[string]any {
	gvk := kindOf(o.Value)
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	kind := map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
	resource := map[string]any{"group": plural.Group, "version": plural.Version, "resource": plural.Resource}
	return map[string]any{
		"kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
		"name": o.Name(), "namespace": o.Namespace(), "operation": operation, "dryRun": true,
	}
}

func kindOf(v map[string]any) schema.GroupVersionKind {
	api, _ := v["apiVersion"].(string)
	kind, _ := v["kind"].(string)
	gv, err := schema.ParseGroupVersion(api)
	if err != nil {
		return schema.GroupVersionKind{Kind: kind}
	}
	return gv.WithKind(kind)
}

// nilOr keeps a nil map from being an empty one to CEL.
func nilOr(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

// Gate applies policies to the change.
type Gate struct{ Source }

// Name implements [review.Gate].
func (g *Gate) Name() string { return "gate" }

// Judge implements [review.Gate].
func (g *Gate) Judge(ctx context.Context, in *review.Input, rep *review.Report) (review.Result, error) {
	set, err := g.load(ctx, in)
	if err != nil {
		return review.Result{}, err
	}
	env, err := changeEnv()
	if err != nil {
		return review.Result{}, fmt.Errorf("make the environment of policies: %w", err)
	}
	var res review.Result
	change := describe(in, rep)
	for _, p := range set.policies {
		if !p.change {
			continue
		}
		prog := compile(env, p)
		if len(prog.broken) > 0 {
			p.reportBroken(in, &res, prog)
			continue
		}
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		for _, v := range prog.run(ctx, map[string]any{"change": change}) {
			if v.err != nil && p.failurePolicy == "Ignore" {
				res.Unchecked = append(res.Unchecked, review.Unchecked{What: "policy " + p.name, Why: fmt.Sprintf("%s: %v", p.at(v.line), v.err)})
				continue
			}
			f := review.Finding{
				Rule: p.name, Severity: severityOf(p.actions), Message: v.message,
				Why: "the rule at " + p.at(v.line) + " is about the change as a whole",
			}
			if v.err != nil {
				f.Message = fmt.Sprintf("the rule can't be evaluated: %v", v.err)
			}
			res.Findings = append(res.Findings, f)
		}
	}
	return res, nil
}

// describe makes the variable "change".
func describe(in *review.Input, rep *review.Report) map[string]any {
	files := []any{}
	for _, f := range in.Diff.Files {
		files = append(files, map[string]any{
			"path": f.Path, "oldPath": f.OldPath, "kind": f.Kind, "binary": f.Binary,
			"added": int64(len(f.Lines)), "removed": int64(f.Removed),
		})
	}
	findings := []any{}
	for _, f := range rep.Findings {
		findings = append(findings, map[string]any{
			"rule": f.Rule, "tool": f.Tool, "severity": string(f.Severity), "message": f.Message,
			"file": f.File, "line": int64(f.Line), "object": f.Object,
		})
	}
	unchecked := []any{}
	for _, u := range rep.Unchecked {
		unchecked = append(unchecked, map[string]any{"tool": u.Tool, "what": u.What, "why": u.Why})
	}
	reasons := []any{}
	for _, r := range rep.Risk.Reasons {
		reasons = append(reasons, map[string]any{"points": int64(r.Points), "why": r.Why, "file": r.File, "line": int64(r.Line)})
	}
	return map[string]any{
		"base": in.Base, "head": in.Head, "files": files, "authors": list(in.Authors),
		"added": int64(rep.Added), "removed": int64(rep.Removed),
		"findings": findings, "notChecked": unchecked,
		"errors": int64(rep.Count(review.Error)), "warnings": int64(rep.Count(review.Warning)), "notes": int64(rep.Count(review.Note)),
		"risk": map[string]any{"score": int64(rep.Risk.Score), "services": list(rep.Risk.Services), "reasons": reasons},
	}
}

func list(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

// reportBroken says what is wrong with a policy's expressions: as findings if the
// change touches its file, else as not checked.
func (p *policy) reportBroken(in *review.Input, res *review.Result, prog *program) {
	fd := in.Diff.File(p.file)
	for _, b := range prog.broken {
		if fd == nil || p.fromBase {
			res.Unchecked = append(res.Unchecked, review.Unchecked{What: "policy " + p.name, Why: fmt.Sprintf("%s: %v", p.at(b.line), b.err)})
			continue
		}
		res.Findings = append(res.Findings, review.Finding{
			Rule: "policy-expression", Severity: review.Error, File: p.file, Line: b.line,
			Message: b.err.Error(), Why: "the change touches policy " + p.name + ", which can't be used as it is",
		})
	}
}

// severityOf says how bad it is to break a policy with these validation actions.
func severityOf(actions []string) review.Severity {
	switch {
	case len(actions) == 0, slices.Contains(actions, "Deny"):
		return review.Error
	case slices.Contains(actions, "Warn"):
		return review.Warning
	}
	return review.Note
}
