package dns

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/miekg/dns"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

func TestServicesHaveNamesAndNobodyElse(t *testing.T) {
	ask := serve(t, Config{})
	for _, c := range []struct {
		name   string
		rcode  int
		answer string
	}{
		{"shop.default.svc.cluster.local.", dns.RcodeSuccess, "10.43.7.7"},
		{"nobody.default.svc.cluster.local.", dns.RcodeNameError, ""},
		{"shop.", dns.RcodeNameError, ""},
		{"shop.example.", dns.RcodeNameError, ""},
	} {
		if rcode, answer := ask(c.name); rcode != c.rcode || answer != c.answer {
			t.Errorf("%s: got %s %q, want %s %q", c.name, dns.RcodeToString[rcode], answer, dns.RcodeToString[c.rcode], c.answer)
		}
	}
}

func TestOtherNamesAreAskedOfTheUpstream(t *testing.T) {
	upstream := upstream(t)
	ask := serve(t, Config{Upstream: upstream})
	for _, c := range []struct {
		name   string
		rcode  int
		answer string
	}{
		{"shop.default.svc.cluster.local.", dns.RcodeSuccess, "10.43.7.7"},
		{"nobody.default.svc.cluster.local.", dns.RcodeNameError, ""},
		{"far.example.", dns.RcodeSuccess, "198.51.100.7"},
	} {
		if rcode, answer := ask(c.name); rcode != c.rcode || answer != c.answer {
			t.Errorf("%s: got %s %q, want %s %q", c.name, dns.RcodeToString[rcode], answer, dns.RcodeToString[c.rcode], c.answer)
		}
	}
}

func TestAnAddressThatIsNotOursIsRefused(t *testing.T) {
	err := Run(t.Context(), Config{Address: "192.0.2.1", Port: 5300, Domain: "cluster.local", Kubeconfig: kubeconfig(t)})
	if err == nil {
		t.Fatal("no error")
	}
}

// serve runs the name server and returns a function that asks it.
func serve(t *testing.T, c Config) func(name string) (rcode int, answer string) {
	t.Helper()
	c.Address, c.Port, c.Domain, c.Kubeconfig = "127.0.0.1", freePort(t), "cluster.local", kubeconfig(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	address := net.JoinHostPort(c.Address, strconv.Itoa(c.Port))
	return func(name string) (int, string) {
		t.Helper()
		client := dns.Client{Timeout: time.Second}
		deadline := time.Now().Add(20 * time.Second)
		for {
			m, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), address)
			if err == nil {
				for _, rr := range m.Answer {
					if a, ok := rr.(*dns.A); ok {
						return m.Rcode, a.A.String()
					}
				}
				return m.Rcode, ""
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", name, err)
			}
			time.Sleep(5 * time.Millisecond) // it is not listening yet
		}
	}
}

// kubeconfig returns the configuration for an API server that has one service.
func kubeconfig(t *testing.T) string {
	t.Helper()
	shop := core.Service{
		ObjectMeta: meta.ObjectMeta{Name: "shop", Namespace: "default", ResourceVersion: "1"},
		Spec: core.ServiceSpec{
			Type: core.ServiceTypeClusterIP, ClusterIP: "10.43.7.7", ClusterIPs: []string{"10.43.7.7"},
			Ports: []core.ServicePort{{Name: "http", Port: 80, Protocol: core.ProtocolTCP}},
		},
	}
	list := meta.ListMeta{ResourceVersion: "1"}
	answers := map[string]any{
		"/api/v1/services": core.ServiceList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "ServiceList"}, ListMeta: list, Items: []core.Service{shop}},
		"/api/v1/pods":     core.PodList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: list},
		"/api/v1/namespaces": core.NamespaceList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "NamespaceList"}, ListMeta: list,
			Items: []core.Namespace{{ObjectMeta: meta.ObjectMeta{Name: "default", ResourceVersion: "1"}}}},
		"/apis/discovery.k8s.io/v1/endpointslices": discovery.EndpointSliceList{
			TypeMeta: meta.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"}, ListMeta: list},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case r.URL.Query().Get("sendInitialEvents") != "": // we are a server that only lists
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(meta.Status{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: meta.StatusReasonInvalid, Code: 422})
		case r.URL.Query().Get("watch") != "":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
		}
	}))
	t.Cleanup(server.CloseClientConnections)
	config := api.NewConfig()
	config.Clusters["c"] = &api.Cluster{Server: server.URL}
	config.Contexts["c"] = &api.Context{Cluster: "c"}
	config.CurrentContext = "c"
	file := filepath.Join(t.TempDir(), "kube config") // names may have spaces
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// upstream is a name server that knows one name.
func upstream(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP("198.51.100.7"),
		})
		_ = w.WriteMsg(m)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown(); <-ended })
	return conn.LocalAddr().String()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
