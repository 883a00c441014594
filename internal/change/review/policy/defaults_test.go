package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// defaultsRule asks for fields that an API server has set when it asks its policies.
const defaultsRule = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  validations:
  - expression: object.spec.replicas <= 2
    message: at most two replicas
  - expression: object.spec.strategy.rollingUpdate.maxSurge == '25%'
  - expression: object.spec.template.spec.containers.all(c, c.ports.all(p, p.protocol == 'TCP') && c.readinessProbe.failureThreshold == 3)
`

func TestARuleSeesWhatTheAPIServerWouldHaveSet(t *testing.T) {
	in := change(t, map[string]string{"few.yaml": defaultsRule}, nil)
	plain := object(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {containers: [
		{name: web, ports: [{containerPort: 8080}], readinessProbe: {httpGet: {port: 8080}}}]}}}}`)
	many := object(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: many}, spec: {replicas: 5, template: {spec: {containers: []}}}}`)
	in.Objects = objects(plain, many)
	before := object(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {containers: []}}}}`)
	in.BaseObjects, in.BaseRendered = objects(before), true
	res, err := (&Checker{}).Check(t.Context(), in)
	got, notes := lines(t, res, err)
	same(t, "findings", []string{
		"error few bight.yaml:2 Deployment many: at most two replicas [the change adds Deployment many; the rule is at .bight/policies/few.yaml:9]",
	}, got)
	same(t, "not checked", nil, notes)
	if _, is := plain["spec"].(map[string]any)["replicas"]; is {
		t.Error("the object itself was changed")
	}
}

func TestDefaultsAreOnlyWhereNothingIs(t *testing.T) {
	for _, tt := range []struct{ name, have, want string }{
		{"a service",
			`{apiVersion: v1, kind: Service, spec: {ports: [{port: 80}, {port: 53, protocol: UDP, targetPort: dns}]}}`,
			`{apiVersion: v1, kind: Service, spec: {type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster,
				ports: [{port: 80, protocol: TCP, targetPort: 80}, {port: 53, protocol: UDP, targetPort: dns}]}}`},
		{"another strategy",
			`{apiVersion: apps/v1, kind: Deployment, spec: {replicas: 0, revisionHistoryLimit: 3, progressDeadlineSeconds: 5, strategy: {type: Recreate}}}`,
			`{apiVersion: apps/v1, kind: Deployment, spec: {replicas: 0, revisionHistoryLimit: 3, progressDeadlineSeconds: 5, strategy: {type: Recreate}}}`},
		{"a kind that has none", `{apiVersion: v1, kind: ConfigMap, data: {a: b}}`, `{apiVersion: v1, kind: ConfigMap, data: {a: b}}`},
		{"no spec", `{apiVersion: apps/v1, kind: Deployment}`, `{apiVersion: apps/v1, kind: Deployment}`},
	} {
		if diff := cmp.Diff(object(t, tt.want), defaulted(object(t, tt.have))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if defaulted(nil) != nil {
		t.Error("an object was made of none")
	}
}
