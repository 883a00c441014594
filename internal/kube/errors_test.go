package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd/api"
)

func certPEM(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func expiredCert(t *testing.T, end time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return certPEM(raw)
}

func status(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Code: code, Reason: reason, Message: message}}
}

func TestClassifyStatus(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	end := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	s := subject{context: "team", server: "https://x", namespace: "shop", now: end.Add(time.Hour)}
	old := s
	old.certificate = expiredCert(t, end)
	tests := []struct {
		name    string
		s       subject
		err     error
		kind    Kind
		text    string
		missing []Access
	}{
		{
			name: "a missing right", s: s, kind: Forbidden,
			err:     apierrors.NewForbidden(pods, "cart", errors.New(`User "jane" cannot create resource "pods/portforward" in API group "" in the namespace "shop"`)),
			text:    `user "jane" has not the right to create pods/portforward in namespace shop in the cluster of context "team" (https://x); ask whoever runs it for a Role in namespace shop with the rule {apiGroups: [""], resources: [pods/portforward], verbs: [create]}, or choose another namespace with -n`,
			missing: []Access{{Verb: "create", Resource: "pods", Subresource: "portforward", Namespace: "shop"}},
		},
		{
			name: "a missing right for the cluster", s: s, kind: Forbidden,
			err:     status(403, metav1.StatusReasonForbidden, `clusterroles.rbac.authorization.k8s.io is forbidden: User "system:serviceaccount:a:b" cannot list resource "clusterroles" in API group "rbac.authorization.k8s.io" at the cluster scope`),
			text:    `user "system:serviceaccount:a:b" has not the right to list clusterroles.rbac.authorization.k8s.io in the cluster of`,
			missing: []Access{{Verb: "list", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}},
		},
		{
			name: "quota", s: s, kind: Quota,
			err:  status(403, metav1.StatusReasonForbidden, `pods "cart-1" is forbidden: exceeded quota: team, requested: pods=1, used: pods=10, limited: pods=10`),
			text: `quota "team" is used up (requested: pods=1, used: pods=10, limited: pods=10)`,
		},
		{
			name: "Pod Security", s: s, kind: Policy,
			err:  status(403, metav1.StatusReasonForbidden, `pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true`),
			text: `refused by a policy of the cluster: pods "x" is forbidden: violates PodSecurity`,
		},
		{
			name: "a namespace on its way out", s: s, kind: Conflict,
			err:  status(403, metav1.StatusReasonForbidden, `pods "x" is forbidden: unable to create new content in namespace shop because it is being terminated`),
			text: "wait until it is gone",
		},
		{name: "unknown user", s: s, kind: Credentials, err: apierrors.NewUnauthorized("Unauthorized"), text: "does not accept the credentials of the kubeconfig (Unauthorized)"},
		{name: "expired certificate of ours", s: old, kind: Credentials, err: apierrors.NewUnauthorized("Unauthorized"), text: "expired on 2026-01-02 03:04: fetch the cluster's kubeconfig again"},
		{name: "not found", s: s, kind: NotFound, err: fmt.Errorf("read: %w", apierrors.NewNotFound(pods, "cart")), text: `pods "cart" does not exist in the cluster of context "team"`},
		{name: "exists", s: s, kind: Conflict, err: apierrors.NewAlreadyExists(pods, "cart"), text: `"cart" already exists: choose another name`},
		{name: "conflict", s: s, kind: Conflict, err: apierrors.NewConflict(pods, "cart", errors.New("changed")), text: "changed"},
		{name: "apply conflict", s: s, kind: Conflict, err: apierrors.NewApplyConflict([]metav1.StatusCause{{Type: metav1.CauseTypeFieldManagerConflict, Field: ".spec.replicas", Message: `conflict with "hpa"`}}, "Apply failed"), text: `.spec.replicas conflict with "hpa"`},
		{name: "too many requests", s: s, kind: Unavailable, err: apierrors.NewTooManyRequests("slow down", 1), text: "can't serve now: slow down"},
		{name: "a proxy's 503", s: s, kind: Unavailable, err: apierrors.NewGenericServerResponse(503, "get", pods, "x", "no backend", 0, true), text: "can't serve now"},
		{name: "invalid", s: s, err: apierrors.NewBadRequest("no")},
		{name: "anything else", s: s, err: errors.New("boom")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := classify(test.err, test.s)
			if got == nil {
				if test.kind != "" {
					t.Errorf("not classified, want %s", test.kind)
				}
				return
			}
			if got.Kind != test.kind || !strings.Contains(got.Text, test.text) {
				t.Errorf("got %s: %s\nwant %s: %s", got.Kind, got.Text, test.kind, test.text)
			}
			if diff := cmp.Diff(test.missing, got.Missing); diff != "" {
				t.Errorf("missing rights (-want +got):\n%s", diff)
			}
		})
	}
}

// Errors as they come from real connections.
func TestExplainConnections(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	_, tlsServer := apiServer(t, http.NotFoundHandler())
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(plain) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	tests := []struct {
		name    string
		context string
		config  rest.Config
		kind    Kind
		text    string
	}{
		{"nothing there", "team", rest.Config{Host: "https://" + gone.Addr().String()}, Unreachable, "is not reachable: connection refused; see that it runs"},
		{"embedded cluster stopped", "bight", rest.Config{Host: "https://" + gone.Addr().String()}, Unreachable, "start it with `bight cluster start`"},
		{"named cluster stopped", "bight-two", rest.Config{Host: "https://" + gone.Addr().String()}, Unreachable, "start it with `bight cluster start --name two`"},
		{"no such host", "team", rest.Config{Host: "https://nonexistent.invalid"}, Unreachable, "no such host as nonexistent.invalid"},
		{"unknown authority", "team", rest.Config{Host: tlsServer.URL}, Certificate, "signed by an authority that the kubeconfig does not name"},
		{"wrong name", "team", rest.Config{Host: tlsServer.URL, TLSClientConfig: rest.TLSClientConfig{CAData: certPEM(tlsServer.Certificate().Raw), ServerName: "other"}}, Certificate, "set tls-server-name there"},
		{"HTTP where HTTPS is meant", "team", rest.Config{Host: "https://" + plain.Addr().String()}, Unreachable, "does not speak HTTPS"},
		{"a plugin that fails", "team", rest.Config{
			Host:            tlsServer.URL,
			TLSClientConfig: rest.TLSClientConfig{CAData: certPEM(tlsServer.Certificate().Raw)},
			ExecProvider: &api.ExecConfig{
				Command: "false", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.NeverExecInteractiveMode,
			},
		}, Credentials, "the credential plugin for the cluster of context \"team\""},
		{"a plugin that is not installed", "team", rest.Config{
			Host:            tlsServer.URL,
			TLSClientConfig: rest.TLSClientConfig{CAData: certPEM(tlsServer.Certificate().Raw)},
			ExecProvider: &api.ExecConfig{
				Command: "no-such-plugin", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.NeverExecInteractiveMode,
			},
		}, Credentials, "no-such-plugin"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := New(&test.config, test.context, "default")
			client, err := c.Typed()
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.CoreV1().Pods("x").List(t.Context(), metav1.ListOptions{})
			got := c.Explain(err)
			if KindOf(got) != test.kind || !strings.Contains(got.Error(), test.text) {
				t.Errorf("got %s: %v\nwant %s: %s", KindOf(got), got, test.kind, test.text)
			}
			if c.Explain(got) != got {
				t.Error("explained twice")
			}
			if errors.Unwrap(got) != err {
				t.Error("the original is lost")
			}
		})
	}
}

func TestExplainLeavesTheRestAlone(t *testing.T) {
	c := New(&rest.Config{Host: "https://x"}, "team", "default")
	for _, err := range []error{nil, errors.New("boom"), t.Context().Err()} {
		if got := c.Explain(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
