package kube

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestParseAccess(t *testing.T) {
	tests := []struct {
		resource string
		want     Access
		text     string
	}{
		{"pods", Access{Verb: "get", Resource: "pods", Namespace: "n"}, "get pods in namespace n"},
		{"pods/portforward", Access{Verb: "get", Resource: "pods", Subresource: "portforward", Namespace: "n"}, "get pods/portforward in namespace n"},
		{"deployments.apps", Access{Verb: "get", Resource: "deployments", Group: "apps", Namespace: "n"}, "get deployments.apps in namespace n"},
		{"deployments.apps/scale", Access{Verb: "get", Resource: "deployments", Group: "apps", Subresource: "scale", Namespace: "n"}, "get deployments/scale.apps in namespace n"},
		{"leases.coordination.k8s.io", Access{Verb: "get", Resource: "leases", Group: "coordination.k8s.io", Namespace: "n"}, "get leases.coordination.k8s.io in namespace n"},
	}
	for _, test := range tests {
		got := ParseAccess("get", test.resource, "n")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.resource, diff)
		}
		if got.String() != test.text {
			t.Errorf("%s reads %q, want %q", test.resource, got, test.text)
		}
	}
}

// reviewer answers access reviews: what denies says no to.
func reviewer(t *testing.T, denies func(authv1.ResourceAttributes) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			t.Error(err)
			return
		}
		review := obj.(*authv1.SelfSubjectAccessReview)
		review.Status.Allowed = !denies(*review.Spec.ResourceAttributes)
		review.TypeMeta = metav1.TypeMeta{Kind: "SelfSubjectAccessReview", APIVersion: "authorization.k8s.io/v1"}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review)
	})
}

func TestMissingNamesEveryRightAtOnce(t *testing.T) {
	c, _ := apiServer(t, reviewer(t, func(a authv1.ResourceAttributes) bool {
		return a.Subresource == "portforward" || a.Group == "apps"
	}))
	wanted := []Access{
		ParseAccess("create", "pods", "shop"),
		ParseAccess("create", "pods/portforward", "shop"),
		ParseAccess("patch", "deployments.apps", "shop"),
		ParseAccess("patch", "deployments.apps", "shop"),
	}
	got, err := c.Missing(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted[1:3], got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	err = c.Require(t.Context(), wanted)
	want := "you have not these rights: create pods/portforward in namespace shop, patch deployments.apps in namespace shop in the cluster of context \"kind-test\""
	if KindOf(err) != Forbidden || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Require: %v\nwant %s", err, want)
	}
	if err := c.Require(t.Context(), wanted[:1]); err != nil {
		t.Errorf("Require of what is there: %v", err)
	}
	for resource, want := range map[string]bool{"pods": true, "pods/portforward": false} {
		if got, err := c.Can(t.Context(), "create", resource, "shop"); got != want || err != nil {
			t.Errorf("Can create %s = %v, %v, want %v", resource, got, err, want)
		}
	}
}

func TestLocalRegistry(t *testing.T) {
	tests := []struct {
		name string
		code int
		body any
		want *Registry
		err  string
	}{
		{name: "announced", code: 200, want: &Registry{Host: "localhost:5001", HostFromContainerRuntime: "registry:5000", HostFromClusterNetwork: "registry.svc:5000"},
			body: configMap("host: localhost:5001\nhostFromContainerRuntime: registry:5000\nhostFromClusterNetwork: registry.svc:5000\n")},
		{name: "announced without names", code: 200, body: configMap("help: https://example.com\n")},
		{name: "garbage", code: 200, body: configMap("host: [1"), err: "ConfigMap kube-public/local-registry-hosting"},
		{name: "none", code: 404, body: statusBody(404, metav1.StatusReasonNotFound)},
		{name: "not to be asked", code: 403, body: statusBody(403, metav1.StatusReasonForbidden)},
		{name: "unknown user", code: 401, body: statusBody(401, metav1.StatusReasonUnauthorized), err: "credentials"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/namespaces/kube-public/configmaps/local-registry-hosting" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(test.code)
				_ = json.NewEncoder(w).Encode(test.body)
			}))
			got, err := c.LocalRegistry(t.Context())
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := (Registry{Host: "a"}).PullHost(); got != "a" {
		t.Errorf("PullHost = %q, want the only name", got)
	}
}

func configMap(text string) any {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		Data:     map[string]string{"localRegistryHosting.v1": text},
	}
}

func statusBody(code int32, reason metav1.StatusReason) any {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: code, Reason: reason, Message: string(reason),
	}
}

func TestTheRoleThatGrantsRights(t *testing.T) {
	for _, test := range []struct {
		rights []Access
		want   string
	}{
		{[]Access{{Verb: "create", Resource: "pods", Subresource: "portforward", Namespace: "shop"}},
			`a Role in namespace shop with the rule {apiGroups: [""], resources: [pods/portforward], verbs: [create]}`},
		{[]Access{
			{Verb: "get", Group: "apps", Resource: "deployments", Namespace: "shop"},
			{Verb: "get", Resource: "secrets", Name: "token", Namespace: "shop"},
			{Verb: "list", Group: "apps", Resource: "deployments", Namespace: "shop"},
		}, `a Role in namespace shop with the rules {apiGroups: [apps], resources: [deployments], verbs: [get, list]}, {apiGroups: [""], resources: [secrets], resourceNames: [token], verbs: [get]}`},
		{[]Access{{Verb: "list", Resource: "nodes"}}, `a ClusterRole with the rule {apiGroups: [""], resources: [nodes], verbs: [list]}`},
		{[]Access{{Verb: "get", Resource: "/metrics"}}, `a ClusterRole with the rule {nonResourceURLs: [/metrics], verbs: [get]}`},
	} {
		if got := granting(test.rights); got != test.want {
			t.Errorf("%v:\n got %s\nwant %s", test.rights, got, test.want)
		}
	}
}
