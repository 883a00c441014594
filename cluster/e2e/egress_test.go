//go:build e2e

package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/cluster/internal/netns"
)

// farAway is an address for documentation (RFC 5737).
const farAway = "198.51.100.7"

// outside is the machine that the cluster with a way out runs on: a namespace
// with a loopback device alone, so that no test can reach a real network. The
// device has an address that pods take for one far away.
func outside(t *testing.T) *netns.Namespace {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.With(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(farAway + "/32")
		if err != nil {
			return err
		}
		return h.AddrAdd(lo, address)
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestEgress(t *testing.T) {
	world := outside(t)
	serveWeb(t, world, farAway+":80", "far away")
	serveWeb(t, world, "127.0.0.1:7070", "the host")
	serveNames(t, world)

	c := newCluster(t, "out")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	start := c.command("start", "--egress", "--nodes", "2")
	start = inWorld(start, resolv)
	var said strings.Builder
	start.Stderr = &said
	if err := world.Start(start); err != nil {
		t.Fatal(err)
	}
	if err := start.Wait(); err != nil {
		t.Fatalf("start: %v: %s", err, said.String())
	}
	c.dial = func(config *rest.Config) {
		config.Dial = func(ctx context.Context, _, address string) (net.Conn, error) { return world.Dial(ctx, address) }
	}
	c.connect()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) { return world.Dial(ctx, address) }
	c.pushProbe(remote.WithTransport(transport))

	nodes, err := c.client.CoreV1().Nodes().List(t.Context(), meta.ListOptions{})
	if err != nil || len(nodes.Items) != 2 {
		t.Fatalf("got %d nodes, %v; want 2", len(nodes.Items), err)
	}
	for i, name := range []string{"first", "second"} {
		c.create(pod(name, probeImage, nodes.Items[i].Name))
		c.create(service(name))
	}
	for _, name := range []string{"first", "second"} {
		c.running(name, time.Time{})
		c.wants(name, "/get?url=http://"+farAway+"/", "far away")
		c.wants(name, "/get?url=http://far.example/", "far away")
		c.wants(name, "/get?url=http://host.bight.internal:7070/", "the host")
		c.wants(name, "/get?url=http://first.default/name", `{"value":"first"}`+"\n")
		if a, err := c.ask(name, "/lookup?name=nowhere.example."); err != nil || !a.NotFound {
			t.Errorf("a name that nobody has: got %+v, %v", a, err)
		}
		if a, err := c.ask(name, "/dial?address="+farAway+":81"); err != nil || a.Error == "" {
			t.Errorf("a port that nobody listens on: got %+v, %v", a, err)
		}
	}
}

// inWorld makes a command see another resolv.conf, in a mount namespace.
func inWorld(cmd *exec.Cmd, resolv string) *exec.Cmd {
	args := append([]string{"-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv}, cmd.Args...)
	wrapped := exec.Command("/bin/sh", args...)
	wrapped.Env = cmd.Env
	wrapped.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return wrapped
}

func serveWeb(t *testing.T, world *netns.Namespace, address, content string) {
	t.Helper()
	l, err := world.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, content)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-ended })
}

// serveNames knows far.example and nothing else.
func serveNames(t *testing.T, world *netns.Namespace) {
	t.Helper()
	var conn net.PacketConn
	err := world.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", "127.0.0.1:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		if q := r.Question[0]; q.Name != "far.example." {
			m.Rcode = dns.RcodeNameError
		} else if q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(farAway),
			})
		}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown(); <-ended })
}
