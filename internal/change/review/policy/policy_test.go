package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
)

const memory = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: memory}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  matchConditions:
  - {name: not-exempt, expression: "object.metadata.name != 'exempt'"}
  variables:
  - name: containers
    expression: object.spec.template.spec.containers
  - name: never
    expression: object.spec.missing.field
  validations:
  - expression: |
      variables.containers.all(c,
        has(c.resources) && quantity(c.resources.limits.memory).isLessThan(quantity('1Gi')))
    messageExpression: "'containers of ' + request.name + ' need a memory limit below 1Gi on ' + request.operation"
  - expression: oldObject == null || object.spec.replicas >= oldObject.spec.replicas
    message: replicas must not shrink
`

func deployment(name, memory string, replicas int) map[string]any {
	y := fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %s, namespace: shop}, spec: {replicas: %d, template: {spec: {containers: [{name: c, resources: {limits: {memory: %s}}}]}}}}`, name, replicas, memory)
	var v map[string]any
	if err := yaml.Unmarshal([]byte(y), &v); err != nil {
		panic(err)
	}
	return v
}

func objects(vs ...map[string]any) []review.Object {
	var out []review.Object
	for i, v := range vs {
		out = append(out, review.Object{Value: v, File: "bight.yaml", Line: i + 1})
	}
	return out
}

// change is one whose base has the given policies.
func change(t *testing.T, policies map[string]string, head map[string]string) *review.Input {
	t.Helper()
	base := map[string]string{"bight.yaml": "app: shop\n"}
	for name, p := range policies {
		base[DefaultDir+"/"+name] = p
	}
	return reviewtest.Change(t, base, head)
}

func lines(t *testing.T, res review.Result, err error) (findings, notes []string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range res.Findings {
		findings = append(findings, fmt.Sprintf("%s %s %s:%d %s: %s [%s]", f.Severity, f.Rule, f.File, f.Line, f.Object, f.Message, f.Why))
	}
	for _, u := range res.Unchecked {
		notes = append(notes, u.What+": "+u.Why)
	}
	return findings, notes
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestPolicyJudgesObjects(t *testing.T) {
	in := change(t, map[string]string{"memory.yaml": memory}, nil)
	in.Objects = objects(deployment("big", "2Gi", 1), deployment("small", "512Mi", 1), deployment("exempt", "2Gi", 1),
		map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "s"}})
	in.BaseObjects, in.BaseRendered = objects(deployment("small", "512Mi", 3)), true
	res, err := (&Checker{}).Check(t.Context(), in)
	got, notes := lines(t, res, err)
	same(t, "findings", []string{
		"error memory bight.yaml:1 Deployment big: containers of big need a memory limit below 1Gi on CREATE [the change adds Deployment big; the rule is at .bight/policies/memory.yaml:17]",
		"error memory bight.yaml:2 Deployment small: replicas must not shrink [the change alters Deployment small; the rule is at .bight/policies/memory.yaml:20]",
	}, got)
	same(t, "not checked", nil, notes)
}

const binding2 = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: b}
spec: {policyName: memory, validationActions: [Audit], matchResources: {objectSelector: {matchLabels: {a: b}}}}
`

func TestChangeCanNotWeakenThePolicyThatJudgesIt(t *testing.T) {
	for _, tt := range []struct {
		name string
		head map[string]string
	}{
		{"removed", map[string]string{DefaultDir + "/memory.yaml": "DELETED"}},
		{"altered", map[string]string{DefaultDir + "/memory.yaml": strings.ReplaceAll(memory, "1Gi", "100Gi")}},
		{"renamed", map[string]string{DefaultDir + "/memory.yaml": "DELETED", "old/memory.yaml": memory}},
		{"bound to nothing", map[string]string{DefaultDir + "/a.yaml": binding2}},
		{"broken", map[string]string{DefaultDir + "/memory.yaml": "{"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := change(t, map[string]string{"memory.yaml": memory}, tt.head)
			in.Objects = objects(deployment("big", "2Gi", 1))
			res, err := (&Checker{}).Check(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Findings) != 1 || res.Findings[0].Rule != "memory" || res.Findings[0].Severity != review.Error {
				t.Errorf("findings: %+v", res.Findings)
			}
		})
	}
}

func TestBindingSaysHowBadItIs(t *testing.T) {
	for action, want := range map[string]review.Severity{"Deny": review.Error, "Warn": review.Warning, "Audit": review.Note} {
		b := strings.Replace(strings.Replace(binding2, "Audit", action, 1), ", matchResources: {objectSelector: {matchLabels: {a: b}}}", "", 1)
		in := change(t, map[string]string{"memory.yaml": memory + "---\n" + b}, nil)
		in.Objects = objects(deployment("big", "2Gi", 1))
		res, err := (&Checker{}).Check(t.Context(), in)
		if err != nil || len(res.Findings) != 1 || res.Findings[0].Severity != want {
			t.Errorf("%s: %+v, %v", action, res.Findings, err)
		}
	}
}

const params = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: most}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  validations: [{expression: "object.spec.replicas <= int(params.data.most)", message: too many}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: most}
spec: {policyName: most, validationActions: [Warn], paramRef: {name: NAME, parameterNotFoundAction: Deny}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: limits}
data: {most: "3"}
`

func TestParamsAreKeptBesideThePolicy(t *testing.T) {
	in := change(t, map[string]string{"p.yaml": strings.Replace(params, "NAME", "limits", 1)}, nil)
	in.Objects = objects(deployment("a", "1Mi", 4), deployment("b", "1Mi", 3))
	res, err := (&Checker{}).Check(t.Context(), in)
	got, notes := lines(t, res, err)
	if len(got) != 1 || !strings.HasPrefix(got[0], "warning most bight.yaml:1 Deployment a: too many") {
		t.Errorf("findings: %q", got)
	}
	same(t, "not checked", nil, notes)

	in = change(t, map[string]string{"p.yaml": strings.Replace(params, "NAME", "gone", 1)}, nil)
	in.Objects = objects(deployment("a", "1Mi", 4))
	res, err = (&Checker{}).Check(t.Context(), in)
	_, notes = lines(t, res, err)
	same(t, "not checked", []string{"policy most on Deployment a: its params, ConfigMap gone, are not kept beside the policies"}, notes)
}

func vap(expressions ...string) string {
	s := "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: p}\nspec:\n  validations:\n"
	for _, e := range expressions {
		s += "  - expression: |\n      " + strings.ReplaceAll(e, "\n", "\n      ") + "\n"
	}
	return s
}

func TestBadExpressionsHaveFileAndLine(t *testing.T) {
	bad := vap("true", "object.spec\n  .nonsense(", "1 + 1", "authorizer.group('x').check('y').allowed()")
	in := change(t, nil, map[string]string{DefaultDir + "/p.yaml": bad, DefaultDir + "/q.yaml": "kind: x\n", DefaultDir + "/r.yaml": "a: [\n"})
	res, err := (&Checker{}).Check(t.Context(), in)
	got, notes := lines(t, res, err)
	want := []string{
		"policy-file .bight/policies/q.yaml:1 : the document has no apiVersion or no kind",
		"policy-file .bight/policies/r.yaml:0 : yaml: line 1: did not find expected node content",
		"policy-expression .bight/policies/p.yaml:10 : Syntax error: mismatched input '<EOF>'",
		"policy-expression .bight/policies/p.yaml:12 : the expression is int, and must be bool",
		"policy-expression .bight/policies/p.yaml:14 : undeclared reference to 'authorizer'",
	}
	if len(got) != len(want) {
		t.Fatalf("findings: %s", strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], "error "+want[i]) {
			t.Errorf("finding %d:\n got %s\nwant %s", i, got[i], want[i])
		}
	}
	same(t, "not checked", nil, notes)

	in = change(t, map[string]string{"p.yaml": bad}, map[string]string{"other": "x"})
	res, err = (&Checker{}).Check(t.Context(), in)
	got, notes = lines(t, res, err)
	if len(got) != 0 || len(notes) != 3 || !strings.HasPrefix(notes[0], "policy p: .bight/policies/p.yaml:10: Syntax error") {
		t.Errorf("an old mistake is the change's fault: %q, %q", got, notes)
	}
}

func TestErrorsAtRunTimeFollowTheFailurePolicy(t *testing.T) {
	p := vap("object.spec.nothing == 1")
	in := change(t, map[string]string{"p.yaml": p}, nil)
	in.Objects = objects(deployment("a", "1Mi", 1))
	res, err := (&Checker{}).Check(t.Context(), in)
	got, _ := lines(t, res, err)
	if len(got) != 1 || !strings.Contains(got[0], "the rule can't be evaluated on Deployment a: no such key: nothing") {
		t.Errorf("findings: %q", got)
	}
	in = change(t, map[string]string{"p.yaml": strings.Replace(p, "spec:\n", "spec:\n  failurePolicy: Ignore\n", 1)}, nil)
	in.Objects = objects(deployment("a", "1Mi", 1))
	res, err = (&Checker{}).Check(t.Context(), in)
	got, notes := lines(t, res, err)
	if len(got) != 0 || len(notes) != 1 || !strings.Contains(notes[0], "no such key: nothing") {
		t.Errorf("findings %q, notes %q", got, notes)
	}
}

func TestHostileExpressionEndsSoon(t *testing.T) {
	digits := "[0,1,2,3,4,5,6,7,8,9]"
	loop := "true"
	for i := range 9 {
		loop = fmt.Sprintf("%s.all(v%d, %s)", digits, i, loop)
	}
	grow := "'xxxxxxxxxxxxxxxx'.replace('x', 'xxxxxxxxxxxxxxxx').replace('x', 'xxxxxxxxxxxxxxxx').replace('x', 'xxxxxxxxxxxxxxxx').replace('x', 'xxxxxxxxxxxxxxxx').replace('x', 'xxxxxxxxxxxxxxxx').replace('x', 'xxxxxxxxxxxxxxxx').size() > 0"
	deep := strings.Repeat("(", 2000) + "true" + strings.Repeat(")", 2000)
	for name, e := range map[string]string{"loop": loop, "grow": grow, "deep": deep} {
		t.Run(name, func(t *testing.T) {
			in := change(t, nil, map[string]string{DefaultDir + "/p.yaml": vap(e)})
			in.Objects = objects(deployment("a", "1Mi", 1))
			began := time.Now()
			res, err := (&Checker{}).Check(t.Context(), in)
			got, notes := lines(t, res, err)
			if len(got) != 1 {
				t.Errorf("findings %q, notes %q", got, notes)
			}
			t.Logf("%s: %.300s", time.Since(began), strings.Join(got, "\n"))
		})
	}
}

func TestExpressionIsInterruptedWithTheContext(t *testing.T) {
	env, err := objectEnv()
	if err != nil {
		t.Fatal(err)
	}
	prg, _, err := compileOne(env, expression{text: "[1,2,3].all(a, [1,2,3].all(b, a + b > 0))"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := (&budget{left: 1000}).eval(ctx, compiled{prg: prg}, map[string]any{}); !errors.Is(err, stop) {
		t.Errorf("error is %v", err)
	}
}

const gate = `apiVersion: bight.dev/v1alpha1
kind: ChangePolicy
metadata: {name: calm}
spec:
  variables:
  - {name: worst, expression: "change.findings.filter(f, f.severity == 'error')"}
  validations:
  - expression: variables.worst.size() == 0
    messageExpression: "'the first of ' + string(change.errors) + ' errors is ' + variables.worst[0].rule"
  - expression: change.risk.score < 50 || change.authors.exists(a, a.endsWith('@sre.example.org>'))
    message: a change of this risk needs an author from SRE
  - expression: "!change.files.exists(f, f.path.startsWith('prod/') && f.kind == 'added')"
    message: nothing new in prod/
  - expression: "!change.notChecked.exists(u, u.tool == 'secrets')"
    message: secrets were not searched
`

func TestGateJudgesTheChange(t *testing.T) {
	in := change(t, map[string]string{"gate.yaml": gate}, map[string]string{"prod/x.yaml": "a: b\n"})
	in.Authors = []string{"Ada <ada@example.org>"}
	rep := &review.Report{
		Findings:  []review.Finding{{Rule: "SA1", Severity: review.Error}},
		Unchecked: []review.Unchecked{{Tool: "secrets", Why: "crashed"}},
		Risk:      review.Risk{Score: 70},
	}
	res, err := (&Gate{}).Judge(t.Context(), in, rep)
	got, notes := lines(t, res, err)
	why := func(line int) string {
		return fmt.Sprintf("[the rule at .bight/policies/gate.yaml:%d is about the change as a whole]", line)
	}
	same(t, "findings", []string{
		"error calm :0 : the first of 1 errors is SA1 " + why(8),
		"error calm :0 : a change of this risk needs an author from SRE " + why(10),
		"error calm :0 : nothing new in prod/ " + why(12),
		"error calm :0 : secrets were not searched " + why(14),
	}, got)
	same(t, "not checked", nil, notes)

	in.Authors = []string{"Bob <bob@sre.example.org>"}
	in.Diff = &review.Diff{}
	res, err = (&Gate{}).Judge(t.Context(), in, &review.Report{Risk: review.Risk{Score: 70}})
	got, _ = lines(t, res, err)
	same(t, "findings of a calm change", nil, got)
}

func TestTenantsPoliciesApply(t *testing.T) {
	in := change(t, nil, map[string]string{DefaultDir + "/b.yaml": binding2})
	in.Objects = objects(deployment("big", "2Gi", 1))
	res, err := (&Checker{Source{Tenant: []Document{{"tenant shop", []byte(memory)}}}}).Check(t.Context(), in)
	if err != nil || len(res.Findings) != 1 || !strings.Contains(res.Findings[0].Why, "tenant shop:17") {
		t.Errorf("findings %+v, error %v", res.Findings, err)
	}
}

func FuzzPolicyFile(f *testing.F) {
	for _, s := range []string{memory, params, gate, binding2, "a: &a [*a]", "spec: {validations: 3}"} {
		f.Add(s)
	}
	env, err := objectEnv()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set := &set{}
		set.add(file{Document: Document{"f", []byte(s)}})
		for _, p := range set.policies {
			compile(env, p)
		}
	})
}
