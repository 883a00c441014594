package gate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/reach"
)

// environmentOf shows a pod in a few words.
func environmentOf(p *reach.Pod) []string {
	var mounts []string
	for _, m := range p.Mounts {
		mounts = append(mounts, fmt.Sprint(m.Path, " ", m.Kind, " ", m.Copied))
	}
	variable := ""
	for _, v := range p.Env {
		if v.Name == "DATABASE_URL" {
			variable = v.Value
		}
	}
	return []string{p.Hostname, p.Dir, fmt.Sprint(p.UID, p.GID), variable, p.Hosts, p.ResolvConf, strings.Join(mounts, ","), strings.Join(p.Notes, ",")}
}

// keyIn returns the content of the file in the volume's present version.
func keyIn(sets []reach.FileSet) string {
	for _, set := range sets {
		for _, f := range set.Entries {
			if strings.HasSuffix(f.Name, "/key") {
				return string(f.Content)
			}
		}
	}
	return ""
}

func TestTheProcessIsSpokenFor(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	g := n.gate(t, annas())
	anna := n.laptop(t, "anna")
	p, err := reach.GetPod(t.Context(), anna.sess)
	must(t, err)
	want := []string{
		"cart-0", "/srv", fmt.Sprint(os.Getuid(), os.Getgid()), "postgres://db:5432/cart",
		"10.77.0.1\tlegacy old.example # the client\n",
		"search shop.svc.cluster.local svc.cluster.local\nnameserver 10.77.0.2\noptions ndots:5 timeout:1\n",
		"/etc/keys kubelet true", "",
	}
	if diff := cmp.Diff(want, environmentOf(p)); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	if !slices.ContainsFunc(p.Listening, func(a netip.AddrPort) bool { return a.Port() == appPort }) {
		t.Errorf("listening: got %v, want port %d among them", p.Listening, appPort)
	}

	sets, err := reach.GetFiles(t.Context(), anna.sess, nil)
	must(t, err)
	if got := keyIn(sets); got != "first" {
		t.Errorf("file: got %q, want first", got)
	}
	for _, f := range sets[0].Entries {
		if f.Name == "out" && (f.Target != "/etc/passwd" || f.Content != nil) {
			t.Errorf("link out of the volume: got %+v, want the link", f)
		}
	}
	other := grant("ben")
	other.Container = "sidecar"
	g.Set([]Grant{annas(), other})
	if _, err := reach.GetPod(t.Context(), n.laptop(t, "ben").sess); err == nil || !strings.Contains(err.Error(), `the pod has no container "sidecar"`) {
		t.Errorf("a grant about another container: got %v, want that there is none", err)
	}
	if got := n.leftovers(t); got != nil {
		t.Errorf("a session for the environment: got %v in the way, want nothing", got)
	}
	if g.door != nil {
		t.Error("a session for the environment has opened a door")
	}
}

func TestFilesAreWatchedAcrossARestart(t *testing.T) {
	n := newNetwork(t)
	var mu sync.Mutex
	main, failure := n.main.find(t), error(nil)
	become := func(p node.Process, err error) {
		mu.Lock()
		defer mu.Unlock()
		main, failure = p, err
	}
	g, err := Open(t.Context(), n.pod, options(func(context.Context, string) (node.Process, error) {
		mu.Lock()
		defer mu.Unlock()
		return main, failure
	}))
	must(t, err)
	defer shut(t, g)
	g.Set([]Grant{annas()})
	anna := n.laptop(t, "anna")
	var seen []string
	stop := errors.New("seen enough")
	err = reach.WatchFiles(t.Context(), anna.sess, nil, func(sets []reach.FileSet) error {
		seen = append(seen, keyIn(sets))
		if len(seen) == 3 {
			return stop
		}
		n.main.tell(t, fmt.Sprint("change ", len(seen)))
		return nil
	})
	if diff := cmp.Diff([]string{"first", "change 1", "change 2"}, seen); diff != "" || !errors.Is(err, stop) {
		t.Errorf("watched: %v (-want +got):\n%s", err, diff)
	}

	must(t, n.main.Process.Kill())
	_ = n.main.Wait() // killed
	if _, err := reach.GetPod(t.Context(), anna.sess); err == nil || !strings.Contains(err.Error(), node.ErrGone.Error()) {
		t.Errorf("between two processes: got %v, want %v", err, node.ErrGone)
	}
	become(node.Process{}, errors.New("container cart is not running"))
	if _, err := reach.GetPod(t.Context(), anna.sess); err == nil || !strings.Contains(err.Error(), "container cart is not running") {
		t.Errorf("between two processes: got %v, want why", err)
	}
	next := start(t, "container", inContainer(t.TempDir(), 0))
	next.tell(t, "of the next")
	become(next.find(t), nil)
	sets, err := reach.GetFiles(t.Context(), anna.sess, nil)
	must(t, err)
	if got := keyIn(sets); got != "of the next" {
		t.Errorf("file after the restart: got %q, want that of the next process", got)
	}
}

// question asks for the IPv4 address of a name that ends with a dot.
func question(name string) []byte {
	m := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		m = append(append(m, byte(len(label))), label...)
	}
	return append(m, 0, 0, typeA, 0, 1)
}

const typeA = 1

// answer answers a question: with an address if there is one.
func answer(q []byte, a netip.Addr) []byte {
	m := append([]byte(nil), q...)
	m[2], m[3] = 0x81, 0x80
	switch {
	case !a.IsValid():
		m[3] |= 3 // no such name
	case m[len(m)-3] == typeA:
		m[7] = 1 // the name of the question, type A, class IN, 5 s, 4 bytes
		m = append(append(m, 0xc0, 12, 0, typeA, 0, 1, 0, 0, 0, 5, 0, 4), a.AsSlice()...)
	}
	return m
}

// nameserver answers in the pod's network until the test ends: one name has an
// address, the others don't exist. It counts the questions.
func (n *network) nameserver(t *testing.T) *atomic.Int64 {
	t.Helper()
	pc, err := n.pod.ListenPacket(t.Context(), "udp", podIP.String()+":53")
	must(t, err)
	var asked atomic.Int64
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 4096)
		for {
			k, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			asked.Add(1)
			var a netip.Addr
			if known := question("client.shop.svc.cluster.local."); bytes.Equal(buf[12:k-4], known[12:len(known)-4]) {
				a = clientIP
			}
			b := answer(buf[:k], a)
			_, _ = pc.WriteTo(b, from) // who has gone needs no answer
		}
	})
	t.Cleanup(func() { pc.Close(); done.Wait() })
	return &asked
}

func TestConnectionsAndQuestionsLeaveFromThePod(t *testing.T) {
	n := newNetwork(t)
	asked := n.nameserver(t)
	ln, err := n.client.Listen(t.Context(), "tcp", ":5432")
	must(t, err)
	udp, err := n.client.ListenPacket(t.Context(), "udp", ":5432")
	must(t, err)
	var done sync.WaitGroup
	t.Cleanup(func() { ln.Close(); udp.Close(); done.Wait() })
	done.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, hostOf(c.RemoteAddr())) // compared by who reads it
			c.Close()
		}
	})
	done.Go(func() {
		buf := make([]byte, 16)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(hostOf(from)), from)
		}
	})
	n.gate(t, annas())
	anna := n.laptop(t, "anna")
	for _, host := range []string{clientIP.String(), "legacy", "OLD.example.", "client", "client.shop", "client.shop.svc.cluster.local."} {
		for _, network := range []string{"tcp", "udp"} {
			if got := heard(t, anna, network, host+":5432"); got != podIP.String() {
				t.Errorf("%s %s is reached from %q, want %s", network, host, got, podIP)
			}
		}
	}
	_, err = reach.Dial(t.Context(), anna.sess, "tcp", "nobody:1")
	if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsNotFound {
		t.Errorf("a name of nobody: got %v, want no such host", err)
	}

	before := asked.Load()
	r := reach.NewResolver(anna.sess)
	defer r.Close()
	b, err := r.Exchange(t.Context(), question("client.shop.svc.cluster.local."))
	must(t, err)
	if a := binary.BigEndian.Uint32(b[len(b)-4:]); a != binary.BigEndian.Uint32(clientIP.AsSlice()) || asked.Load() != before+1 {
		t.Errorf("resolve: got %x after %d questions, want the address after one", b, asked.Load()-before)
	}
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// heard is what is heard first from an address.
func heard(t *testing.T, l *laptop, network, addr string) string {
	t.Helper()
	c, err := reach.Dial(t.Context(), l.sess, network, addr)
	if err != nil {
		t.Errorf("dial %s: %v", addr, err)
		return ""
	}
	defer c.Close()
	if network == "udp" {
		_, err = c.Write([]byte("?"))
		must(t, err)
	}
	b := make([]byte, 64)
	k, err := c.Read(b)
	must(t, err)
	return string(b[:k])
}
