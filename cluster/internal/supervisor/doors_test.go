package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/cluster/internal/spec"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestADoorCarriesBothWaysUntilItIsClosed(t *testing.T) {
	s := &Supervisor{Log: quiet()}
	ctx, cancel := context.WithCancel(t.Context())
	inside, door := listen(t), listen(t)
	s.carry(ctx, door, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", inside.Addr().String())
	})
	outer, err := net.Dial("tcp", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	inner, err := inside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	if _, err := outer.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := outer.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(inner); err != nil || string(b) != "question" {
		t.Errorf("inside: got %q, %v", b, err)
	}
	// One direction has ended, the other has not.
	if _, err := inner.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(outer, b); err != nil || string(b) != "answer" {
		t.Errorf("outside: got %q, %v", b, err)
	}
	cancel()
	s.work.Wait() // ends with everything that it carries
	if _, err := outer.Read(b); err == nil {
		t.Error("the connection is open after the end")
	}
	if conn, err := net.Dial("tcp", door.Addr().String()); err == nil {
		conn.Close()
		t.Error("the door is open after the end")
	}
}

func TestADoorToNobodyHangsUp(t *testing.T) {
	s := &Supervisor{Log: quiet()}
	ctx, cancel := context.WithCancel(t.Context())
	door := listen(t)
	s.carry(ctx, door, func(context.Context) (net.Conn, error) { return nil, errors.New("nobody") })
	outer, err := net.Dial("tcp", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	if _, err := outer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want %v", err, io.EOF)
	}
	cancel()
	s.work.Wait()
}

func TestTheGateOpensWhenTheAPIServerIsReady(t *testing.T) {
	s := &Supervisor{Log: quiet(), apiReady: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.dialReadyAPI(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("before it is ready: got %v", err)
	}
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	port := listen(t).Addr().(*net.TCPAddr).Port
	c := &spec.Cluster{Name: "dev", Dir: "/state/dev"}
	_, err := hostPort("registry", port, c)
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range []string{"port " + strconv.Itoa(port), "registry", "/state/dev/cluster.json", "in use"} {
		if !contains(err.Error(), word) {
			t.Errorf("the error lacks %q: %v", word, err)
		}
	}
}

func TestWhatEveryClusterHasIsApplied(t *testing.T) {
	applied := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPatch || r.URL.Query().Get("fieldManager") != "bight-cluster" || r.URL.Query().Get("force") != "true" {
			http.Error(w, r.Method+" "+r.URL.String(), http.StatusBadRequest)
			return
		}
		applied[r.URL.Path] = string(b)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	c := &spec.Cluster{Name: "dev", Nodes: 1, RegistryHostPort: 5001}
	if err := applyBootstrap(t.Context(), client, c); err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string][]string{
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:bight-dns":                              {`"endpointslices"`},
		"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:bight-dns":                       {`"User"`},
		"/api/v1/namespaces/kube-system/services/kube-dns":                                              {spec.ServiceDNS, `"UDP"`, `"TCP"`},
		"/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns":                      {c.Node(1).Address, `"ready":true`},
		"/apis/storage.k8s.io/v1/storageclasses/standard":                                               {`"storageclass.kubernetes.io/is-default-class":"true"`},
		"/api/v1/namespaces/kube-public/configmaps/local-registry-hosting":                              {`localhost:5001`, `localhost:5000`, c.Node(1).Address + `:5000`},
		"/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/roles/local-registry-hosting":        {`"get"`},
		"/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/rolebindings/local-registry-hosting": {`"system:authenticated"`},
	} {
		for _, word := range append(words, `"kind"`, `"apiVersion"`) {
			if !contains(applied[path], word) {
				t.Errorf("%s lacks %s: %s", path, word, applied[path])
			}
		}
	}
	if len(applied) != 8 {
		t.Errorf("applied %d objects, want 8", len(applied))
	}
	server.Close()
	if err := applyBootstrap(t.Context(), client, c); err == nil || !contains(err.Error(), "clusterroles system:bight-dns") {
		t.Errorf("without a server: got %v", err)
	}
}

func TestPodsCantPush(t *testing.T) {
	h := readOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	for method, want := range map[string]int{
		http.MethodGet: http.StatusAccepted, http.MethodHead: http.StatusAccepted, http.MethodPost: http.StatusMethodNotAllowed,
		http.MethodPut: http.StatusMethodNotAllowed, http.MethodPatch: http.StatusMethodNotAllowed, http.MethodDelete: http.StatusMethodNotAllowed,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/v2/shop/cart/manifests/x", nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", method, w.Code, want)
		}
	}
}
