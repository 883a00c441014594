package kube

import (
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd/api"
)

const twoContexts = `apiVersion: v1
kind: Config
current-context: kind-a
clusters:
- {name: ca, cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}}
- {name: cb, cluster: {server: "https://b.example:6443/k8s", insecure-skip-tls-verify: true, proxy-url: "http://proxy.example:3128"}}
contexts:
- {name: kind-a, context: {cluster: ca, user: u}}
- {name: b, context: {cluster: cb, user: u, namespace: team}}
users:
- {name: u, user: {token: abc}}
`

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoadChoosesTheContext(t *testing.T) {
	file := writeFile(t, twoContexts)
	tests := []struct {
		name       string
		o          Options
		env        string
		want       Cluster
		wantErr    string
		impersonal string
	}{
		{name: "the current one", o: Options{Kubeconfig: file},
			want: Cluster{Context: "kind-a", Name: "ca", Namespace: "default", Server: "https://127.0.0.1:1"}},
		{name: "another", o: Options{Kubeconfig: file, Context: "b"},
			want: Cluster{Context: "b", Name: "cb", Namespace: "team", Server: "https://b.example:6443/k8s"}},
		{name: "another namespace", o: Options{Kubeconfig: file, Context: "b", Namespace: "mine"},
			want: Cluster{Context: "b", Name: "cb", Namespace: "mine", Server: "https://b.example:6443/k8s"}},
		{name: "from a list", env: filepath.Join(t.TempDir(), "absent") + string(os.PathListSeparator) + file,
			want: Cluster{Context: "kind-a", Name: "ca", Namespace: "default", Server: "https://127.0.0.1:1"}},
		{name: "one that does not exist", o: Options{Kubeconfig: file, Context: "c"},
			wantErr: `context "c" (--context) does not exist; there are: b, kind-a`},
		{name: "an absent file", o: Options{Kubeconfig: "/nonexistent/config"},
			wantErr: "kubeconfig /nonexistent/config cannot be read"},
		{name: "nothing configured", env: filepath.Join(t.TempDir(), "absent"),
			wantErr: "no cluster is configured: start one with `bight cluster start`"},
		{name: "a broken file", o: Options{Kubeconfig: writeFile(t, "{")},
			wantErr: "read kubeconfig"},
		{name: "no current context", o: Options{Kubeconfig: writeFile(t, strings.Replace(twoContexts, "current-context: kind-a", "", 1))},
			wantErr: "no current context; choose one with --context: b, kind-a"},
		{name: "impersonation", o: Options{Kubeconfig: file, As: "jane", AsGroups: []string{"dev"}}, impersonal: "jane",
			want: Cluster{Context: "kind-a", Name: "ca", Namespace: "default", Server: "https://127.0.0.1:1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", test.env)
			t.Setenv("HOME", t.TempDir())
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			got, err := Load(test.o)
			if test.wantErr != "" {
				var config *ConfigError
				if !errors.As(err, &config) || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got %v, want %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Context != test.want.Context || got.Name != test.want.Name || got.Namespace != test.want.Namespace || got.Server != test.want.Server {
				t.Errorf("got %s %s %s %s, want %+v", got.Context, got.Name, got.Namespace, got.Server, &test.want)
			}
			if user := got.RESTConfig().Impersonate.UserName; user != test.impersonal {
				t.Errorf("impersonates %q, want %q", user, test.impersonal)
			}
		})
	}
	after, err := os.ReadFile(file)
	if err != nil || string(after) != twoContexts {
		t.Error("the kubeconfig was written to")
	}
}

// apiServer answers with TLS and HTTP/2 as an API server does.
func apiServer(t testing.TB, h http.Handler) (*Cluster, *httptest.Server) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	config := &rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{CAData: certPEM(s.Certificate().Raw)}}
	return New(config, "kind-test", "default"), s
}

func TestClientsShareOneConnection(t *testing.T) {
	var mu sync.Mutex
	remotes := map[string]bool{}
	var agents, accepts []string
	c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		remotes[r.RemoteAddr] = true
		agents = append(agents, r.UserAgent())
		accepts = append(accepts, r.Header.Get("Accept"))
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`))
	}))
	typed, err := c.Typed()
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := c.Dynamic()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := typed.CoreV1().Pods("x").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := dyn.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(remotes) != 1 {
		t.Errorf("%d connections, want 1", len(remotes))
	}
	if agents[0] != "bight" {
		t.Errorf("user agent %q", agents[0])
	}
	if !strings.HasPrefix(accepts[0], "application/vnd.kubernetes.protobuf") {
		t.Errorf("typed client accepts %q", accepts[0])
	}
}

func TestLaterConnectionsResumeTheFirstOnesSession(t *testing.T) {
	var mu sync.Mutex
	resumed := map[string]bool{} // by path
	c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		resumed[r.URL.Path] = r.TLS.DidResume
		http.NotFound(w, r)
	}))
	typed, err := c.Typed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := typed.CoreV1().Pods("x").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Fatal("there are no pods")
	}
	for _, pod := range []string{"a", "b"} {
		if conn, err := c.DialPod(t.Context(), "x", pod, 1); err == nil {
			_ = conn.Close()
			t.Fatal("there is no pod")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := map[string]bool{
		"/api/v1/namespaces/x/pods":               false,
		"/api/v1/namespaces/x/pods/a/portforward": true,
		"/api/v1/namespaces/x/pods/b/portforward": true,
	}
	if !maps.Equal(resumed, want) {
		t.Errorf("resumed %v, want %v", resumed, want)
	}
}

func TestNoSessionOutlivesTheCertificateOfItsClient(t *testing.T) {
	for name, config := range map[string]*rest.Config{
		"a plugin gives it": {ExecProvider: &api.ExecConfig{Command: "true"}},
		"it is in a file":   {TLSClientConfig: rest.TLSClientConfig{CertFile: "client.crt", KeyFile: "client.key"}},
	} {
		if sessionsFor(config) != nil {
			t.Errorf("%s: sessions are kept", name)
		}
	}
}

func TestMapperKnowsBuiltInKindsByItself(t *testing.T) {
	c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked the cluster for %s", r.URL)
	}))
	m, err := c.Mapper()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		group, kind, resource string
		namespaced            bool
	}{
		{"", "Pod", "pods", true},
		{"", "Service", "services", true},
		{"", "Endpoints", "endpoints", true},
		{"", "Namespace", "namespaces", false},
		{"apps", "Deployment", "deployments", true},
		{"networking.k8s.io", "NetworkPolicy", "networkpolicies", true},
		{"networking.k8s.io", "IngressClass", "ingressclasses", false},
		{"rbac.authorization.k8s.io", "ClusterRole", "clusterroles", false},
		{"coordination.k8s.io", "Lease", "leases", true},
	}
	for _, test := range tests {
		got, err := m.RESTMapping(schema.GroupKind{Group: test.group, Kind: test.kind})
		if err != nil {
			t.Errorf("%s: %v", test.kind, err)
			continue
		}
		if got.Resource.Resource != test.resource || (got.Scope.Name() == "namespace") != test.namespaced {
			t.Errorf("%s is %v in scope %s", test.kind, got.Resource, got.Scope.Name())
		}
	}
	if got, err := m.ResourceFor(schema.GroupVersionResource{Resource: "deployments"}); err != nil || got.Group != "apps" {
		t.Errorf("deployments are %v, %v", got, err)
	}
	if got, err := m.KindFor(schema.GroupVersionResource{Resource: "networkpolicies"}); err != nil || got.Kind != "NetworkPolicy" {
		t.Errorf("networkpolicies are %v, %v", got, err)
	}
}

func TestMapperAsksForOtherKinds(t *testing.T) {
	c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api":
			_, _ = w.Write([]byte(`{"kind":"APIVersions","versions":[]}`))
		case "/apis":
			_, _ = w.Write([]byte(`{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"example.com","versions":[{"groupVersion":"example.com/v1","version":"v1"}],"preferredVersion":{"groupVersion":"example.com/v1","version":"v1"}}]}`))
		case "/apis/example.com/v1":
			_, _ = w.Write([]byte(`{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"example.com/v1","resources":[{"name":"boats","singularName":"boat","namespaced":true,"kind":"Boat","verbs":["get"]}]}`))
		default:
			http.NotFound(w, r)
		}
	}))
	m, err := c.Mapper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.RESTMapping(schema.GroupKind{Group: "example.com", Kind: "Boat"})
	if err != nil || got.Resource.Resource != "boats" {
		t.Errorf("got %v, %v", got, err)
	}
}

func BenchmarkLoadAndClients(b *testing.B) {
	file := filepath.Join(b.TempDir(), "config")
	if err := os.WriteFile(file, []byte(twoContexts), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := Load(Options{Kubeconfig: file})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Typed(); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Dynamic(); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Mapper(); err != nil {
			b.Fatal(err)
		}
	}
}
