package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// namespace makes one for a test.
func namespace(t *testing.T) *Namespace {
	t.Helper()
	n, err := New()
	if errors.Is(err, os.ErrPermission) {
		t.Fatalf("%v: these tests make network namespaces, which root may", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestANamespaceHasNoWayOut(t *testing.T) {
	n := namespace(t)
	err := n.With(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		if len(links) != 1 || links[0].Attrs().Name != "lo" || links[0].Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("got %v, want a loopback device that is up", links)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if conn, err := n.Dial(ctx, "192.0.2.1:80"); err == nil {
		conn.Close()
		t.Error("connected to the outside")
	}
	if _, err := n.Dial(ctx, "localhost:80"); err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("a name: got %v, want that it is refused", err)
	}
}

func TestSocketsAreInTheNamespaceTheyWereMadeIn(t *testing.T) {
	a, b := namespace(t), namespace(t)
	for _, n := range []*Namespace{a, b} { // the same port in both
		l, err := n.Listen("127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, map[bool]string{true: "a", false: "b"}[n == a])
				conn.Close()
			}
		}()
	}
	for want, n := range map[string]*Namespace{"a": a, "b": b} {
		conn, err := n.Dial(t.Context(), "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:8080"); err == nil {
		defer conn.Close()
		if got, _ := io.ReadAll(conn); len(got) == 1 {
			t.Error("the listener is outside of its namespace")
		}
	}
}

func TestThreadsComeBack(t *testing.T) {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	n := namespace(t)
	for range 100 {
		if err := n.Do(func() error { return errors.New("x") }); err == nil || err.Error() != "x" {
			t.Fatalf("got %v", err)
		}
		if now, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || now != home {
			t.Fatalf("a thread is in %s, %v; home is %s", now, err, home)
		}
	}
}

func TestProcessesAndSettingsAreInside(t *testing.T) {
	n := namespace(t)
	if err := n.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/net/dev")
	cmd.Stdout = &out
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "1\n") || strings.Count(out.String(), ":") != 1 {
		t.Errorf("got %s", out.String())
	}
}

// TestNodesReachEachOther joins three namespaces as a cluster's are.
func TestNodesReachEachOther(t *testing.T) {
	hub, one, two := namespace(t), namespace(t), namespace(t)
	if err := hub.Bridge("lan0", "10.41.0.11/24"); err != nil {
		t.Fatal(err)
	}
	if err := one.Join(hub, "lan0", "node2", "10.41.0.12/24"); err != nil {
		t.Fatal(err)
	}
	if err := two.Join(hub, "lan0", "node3", "10.41.0.13/24"); err != nil {
		t.Fatal(err)
	}
	if err := one.Bridge("pods0", "10.42.2.1/24"); err != nil {
		t.Fatal(err)
	}
	if err := two.Route("10.42.2.0/24", "10.41.0.12"); err != nil {
		t.Fatal(err)
	}
	if err := hub.Route("", "10.41.0.12"); err != nil {
		t.Fatal(err)
	}
	if err := one.RouteDevice("10.43.0.0/16", "eth0"); err != nil {
		t.Fatal(err)
	}
	l, err := one.Listen("10.42.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, n := range map[string]*Namespace{"by its route": two, "by the default route": hub} {
		conn, err := n.Dial(t.Context(), "10.42.2.1:80")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.Close()
	}
	if err := hub.Bridge("lan0", "10.41.0.11/24"); err == nil || !strings.Contains(err.Error(), "lan0") {
		t.Errorf("a second bridge of the name: got %v", err)
	}
}

// Who connects to a neighbour that has just gone is told so, and soon.
func TestAConnectionToANeighbourThatIsGoneFails(t *testing.T) {
	hub, pod, other := namespace(t), namespace(t), namespace(t)
	if err := hub.Bridge("pods0", "10.42.1.1/24"); err != nil {
		t.Fatal(err)
	}
	if err := hub.Doubt("pods0"); err != nil {
		t.Fatal(err)
	}
	if err := pod.Join(hub, "pods0", "pod", "10.42.1.5/24"); err != nil {
		t.Fatal(err)
	}
	if err := other.Join(hub, "pods0", "other", "10.42.1.6/24"); err != nil { // a bridge with nobody forgets all
		t.Fatal(err)
	}
	l, err := pod.Listen("10.42.1.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := hub.Dial(t.Context(), "10.42.1.5:80")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	err = hub.With(func(h *netlink.Handle) error {
		link, err := h.LinkByName("pod")
		if err != nil {
			return err
		}
		return h.LinkDel(link)
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	conn, err = hub.Dial(t.Context(), "10.42.1.5:80")
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("after %s: got %v, and not that it is unreachable", time.Since(began).Round(time.Millisecond), err)
	}
	t.Logf("%v, after %s", err, time.Since(began).Round(time.Millisecond))
}

func TestFramesThatGoOutComeFromTheTap(t *testing.T) {
	n := namespace(t)
	tap, err := n.Tap("out0", "10.41.1.2/24", 1500)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	go func() { // somebody asks for a neighbour; nobody answers
		_ = n.Do(func() error {
			conn, err := net.Dial("udp", "10.41.1.1:53")
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("x"))
			return err
		})
	}()
	if err := tap.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2000)
	for {
		size, err := tap.Read(frame)
		if err != nil {
			t.Fatal(err)
		}
		if size >= 42 && frame[12] == 8 && frame[13] == 6 { // ARP, among what IPv6 says by itself
			if !net.IP(frame[38:42]).Equal(net.ParseIP("10.41.1.1")) {
				t.Errorf("got %x", frame[:size])
			}
			return
		}
	}
}
