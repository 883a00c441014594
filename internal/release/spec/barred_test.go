package spec

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

func TestBarred(t *testing.T) {
	template := &corev1.PodTemplateSpec{}
	read(t, `
metadata: {labels: {app: cart, tier: back}}
spec: {containers: [{name: cart, ports: [{name: web, containerPort: 8080}]}]}`, template)
	service := &corev1.Service{}
	read(t, `spec: {ports: [{port: 80, targetPort: web}, {port: 5432, appProtocol: postgresql}, {port: 53, protocol: UDP}]}`, service)
	const clients = `{podSelector: {matchLabels: {app: cart}}, ingress: [{from: [{podSelector: {matchLabels: {app: load}}}]}]}`
	for name, tt := range map[string]struct {
		policies []string
		want     string // of which policies, at which port; "" for none
	}{
		"no policy":                {nil, ""},
		"of other pods":            {[]string{`{podSelector: {matchLabels: {app: stock}}}`}, ""},
		"clients alone":            {[]string{clients}, "NetworkPolicy p0 does not let these pods connect to each other at port 8080"},
		"nobody":                   {[]string{`{podSelector: {}}`}, "NetworkPolicy p0 does not"},
		"two of them":              {[]string{clients, `{podSelector: {}}`}, "NetworkPolicies p0, p1 do not"},
		"another lets them":        {[]string{clients, `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {tier: back}}}]}]}`}, ""},
		"from anywhere":            {[]string{`{podSelector: {}, ingress: [{}]}`}, ""},
		"the port by its name":     {[]string{`{podSelector: {}, ingress: [{ports: [{port: web}]}]}`}, ""},
		"among others":             {[]string{`{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8100}]}]}`}, ""},
		"another port":             {[]string{`{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 8080, protocol: UDP}]}]}`}, "at port 8080"},
		"addresses may be theirs":  {[]string{`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`}, ""},
		"namespaces may be theirs": {[]string{`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: shop}}}]}]}`}, ""},
		"not what they send":       {[]string{`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]}`}, "NetworkPolicy p0 does not"},
		"nor where":                {[]string{`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: stock}}}]}]}`}, "NetworkPolicy p0 does not"},
		"what they send, that too": {[]string{`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var policies []netv1.NetworkPolicy
			for i, text := range tt.policies {
				p := netv1.NetworkPolicy{}
				read(t, text, &p.Spec)
				p.Name = "p" + string(rune('0'+i))
				policies = append(policies, p)
			}
			if got := Barred(service, template, policies); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func read(t *testing.T, text string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}
