package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

func eachFamily(t *testing.T, f func(t *testing.T, a addresses)) {
	t.Run("IPv4", func(t *testing.T) { f(t, v4()) })
	t.Run("IPv6", func(t *testing.T) { f(t, v6()) })
}

func TestConnectionsStayWhereTheyAre(t *testing.T) {
	eachFamily(t, func(t *testing.T, a addresses) {
		n := newNetwork(t)
		n.app(t, ":8080")
		at := netip.AddrPortFrom(a.pod, appPort)
		before := dial(t, n.client, at)
		before.servedBy(t, "app", at)

		d := n.door(t, Options{})
		dial(t, n.client, at).servedBy(t, "app", at) // a door alone changes nothing

		must(t, d.Engage(t.Context(), appPort))
		before.works(t)
		during := dial(t, n.client, at)
		during.servedBy(t, "door", at)

		must(t, d.Disengage(t.Context()))
		during.works(t)
		before.works(t)
		after := dial(t, n.client, at)
		after.servedBy(t, "app", at)

		must(t, d.Engage(t.Context(), appPort))
		for _, c := range []*talk{before, during, after} {
			c.works(t)
		}
		must(t, d.Close())
		for _, c := range []*talk{before, during, after} {
			c.works(t)
		}
		dial(t, n.client, at).servedBy(t, "app", at)
		if got, err := Leftovers(t.Context(), n.pod); err != nil || got != nil {
			t.Errorf("left over: got %v, %v, want nothing", got, err)
		}
	})
}

// TestShutdownLingersAfterTheLastRule has a door that was released just before: what
// is half open still comes to it.
func TestShutdownLingersAfterTheLastRule(t *testing.T) {
	n := newNetwork(t)
	const linger = 300 * time.Millisecond
	released := n.door(t, Options{Linger: linger})
	must(t, released.Engage(t.Context(), appPort))
	must(t, released.Disengage(t.Context()))
	began := time.Now()
	must(t, released.Shutdown(t.Context()))
	if took := time.Since(began); took < linger/2 {
		t.Errorf("a door that was just released: closed after %v, want about %v", took, linger)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	d := n.door(t, Options{Linger: time.Hour})
	must(t, d.Engage(t.Context(), appPort))
	must(t, d.Shutdown(ended)) // waits no longer than that
	if got, err := Leftovers(t.Context(), n.pod); err != nil || got != nil {
		t.Errorf("left over: got %v, %v, want nothing", got, err)
	}
}

func TestTheOwnSideIsNotSteered(t *testing.T) {
	eachFamily(t, func(t *testing.T, a addresses) {
		n := newNetwork(t)
		n.app(t, ":8080")
		must(t, n.door(t, Options{}).Engage(t.Context(), appPort))
		local := netip.MustParseAddr("127.0.0.1")
		if a.pod.Is6() {
			local = netip.IPv6Loopback()
		}
		for _, ip := range []netip.Addr{local, a.pod} {
			at := netip.AddrPortFrom(ip, appPort)
			dial(t, n.pod, at).servedBy(t, "app", at)
		}
	})
}

func TestExemptSourcesReachTheApp(t *testing.T) {
	eachFamily(t, func(t *testing.T, a addresses) {
		n := newNetwork(t)
		n.app(t, ":8080")
		must(t, n.door(t, Options{Exempt: []netip.Prefix{
			netip.MustParsePrefix("10.99.0.0/16"), netip.MustParsePrefix("10.77.0.9/29"), netip.MustParsePrefix("fd77::9/125"),
		}}).Engage(t.Context(), appPort))
		at := netip.AddrPortFrom(a.pod, appPort)
		dial(t, n.client, at).servedBy(t, "door", at)

		// The kubelet is at the node's address.
		var conn net.Conn
		must(t, n.client.In(t.Context(), func() (err error) {
			from := net.Dialer{LocalAddr: &net.TCPAddr{IP: a.node.AsSlice()}}
			conn, err = from.DialContext(t.Context(), "tcp", at.String())
			return err
		}))
		probe := newTalk(t, conn)
		probe.servedBy(t, "app", at)
	})
}

func TestSourcesAreExemptOnTheirPortsOnly(t *testing.T) {
	eachFamily(t, func(t *testing.T, a addresses) {
		n := newNetwork(t)
		n.app(t, ":8080")
		all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		must(t, n.door(t, Options{Exempt: all, ExemptPorts: []uint16{9}}).Engage(t.Context(), appPort))
		at := netip.AddrPortFrom(a.pod, appPort)
		dial(t, n.client, at).servedBy(t, "door", at)
		other := newNetwork(t)
		other.app(t, ":8080")
		must(t, other.door(t, Options{Exempt: all, ExemptPorts: []uint16{9, appPort}}).Engage(t.Context(), appPort))
		dial(t, other.client, at).servedBy(t, "app", at)
	})
}

func newTalk(t *testing.T, conn net.Conn) *talk {
	t.Helper()
	c := &talk{Conn: conn, in: bufio.NewReader(conn)}
	t.Cleanup(func() { c.Close() })
	must(t, c.hello())
	return c
}

func TestOtherPortsAreLeftAlone(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	n.app(t, ":8081")
	n.app(t, ":8082")
	d := n.door(t, Options{})
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(v4().pod, port) }
	served := func(want ...string) {
		t.Helper()
		for i, who := range want {
			dial(t, n.client, at(appPort+uint16(i))).servedBy(t, who, at(appPort+uint16(i)))
		}
	}
	must(t, d.Engage(t.Context(), 8080, 8082, 8080))
	served("door", "app", "door")
	if diff := cmp.Diff([]uint16{8080, 8082}, d.Ports()); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	must(t, d.Engage(t.Context(), 8081)) // in place of the others
	served("app", "door", "app")
	must(t, d.Disengage(t.Context()))
	served("app", "app", "app")
	must(t, d.Disengage(t.Context())) // again
}

func TestADoorHasNoAddressThatOthersReach(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	d := n.door(t, Options{})
	must(t, d.Engage(t.Context(), appPort))
	for _, a := range d.addrs() {
		for _, ip := range []netip.Addr{v4().pod, v6().pod} {
			to := netip.AddrPortFrom(ip, a.Port())
			if c, err := n.client.Dial(t.Context(), "tcp", to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("dial the door at %s: got %v, %v, want refused", to, c, err)
			}
		}
	}
}

func TestAClosedPortIsServedByTheDoorOnly(t *testing.T) {
	// The app may be away, for example while it is replaced by a laptop.
	n := newNetwork(t)
	d := n.door(t, Options{})
	must(t, d.Engage(t.Context(), appPort))
	at := netip.AddrPortFrom(v4().pod, appPort)
	dial(t, n.client, at).servedBy(t, "door", at)
	if _, err := n.pod.Dial(t.Context(), "tcp", at); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial the app: got %v, want refused", err)
	}
	must(t, d.Disengage(t.Context()))
	if _, err := n.client.Dial(t.Context(), "tcp", at); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial from outside: got %v, want refused", err)
	}
}

// TestASidecarKeepsItsConnections has what a service mesh puts into a pod: its
// sidecar takes connections before the door does, and goes on working.
func TestASidecarKeepsItsConnections(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	n.app(t, ":15006")
	conn, _, err := dialNetfilter(n.pod)
	must(t, err)
	defer conn.CloseLasting()
	table := conn.AddTable(&nftables.Table{Name: "mesh", Family: nftables.TableFamilyIPv4})
	chain := conn.AddChain(&nftables.Chain{
		Name: "in", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(
		fieldsOf(v4().pod).destination(v4().pod, appPort),
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(15006)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1},
	)})
	must(t, conn.Flush())

	must(t, n.door(t, Options{}).Engage(t.Context(), appPort))
	dial(t, n.client, netip.AddrPortFrom(v4().pod, appPort)).servedBy(t, "app", netip.AddrPortFrom(v4().pod, 15006))
}

// TestAKilledProcessLeavesThePodAsItWas prints how long after SIGKILL, and after
// the kernel has closed the process's sockets, the app has answered a new
// connection. The least of several is what is checked, since machines are noisy.
func TestAKilledProcessLeavesThePodAsItWas(t *testing.T) {
	for _, mode := range []string{"door", "door unowned"} {
		t.Run(mode, func(t *testing.T) {
			n := newNetwork(t)
			n.app(t, ":8080")
			at := netip.AddrPortFrom(v4().pod, appPort)
			old := dial(t, n.client, at)
			var afterKill, afterClose []time.Duration
			for range 8 {
				c := helper(t, mode, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{n.pod.file} })
				taken := dial(t, n.client, at)
				taken.servedBy(t, "door", at)
				closed := make(chan time.Time)
				go func() {
					_, _ = taken.in.ReadByte() // ends when the process's sockets do
					closed <- time.Now()
				}()
				begun := time.Now()
				must(t, c.Process.Kill())
				answered := untilServedByTheApp(t, n, at)
				afterKill = append(afterKill, answered.Sub(begun))
				afterClose = append(afterClose, answered.Sub(<-closed))
				_ = c.Wait() // killed
				old.servedBy(t, "app", at)
			}
			slices.Sort(afterKill)
			slices.Sort(afterClose)
			t.Logf("the app has answered a new connection after SIGKILL in %v, after the sockets' end in %v", afterKill, afterClose)
			if afterKill[0] > 10*time.Millisecond {
				t.Errorf("the app has answered a new connection %v after SIGKILL at best, want 10ms", afterKill[0])
			}
			leftoversAre(t, n, mode)
		})
	}
}

// untilServedByTheApp dials until the app answers, and returns when it did.
func untilServedByTheApp(t *testing.T, n network, at netip.AddrPort) time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		c, err := tryDial(ctx, n.client, at)
		if err != nil {
			continue // it was the killed process's
		}
		c.Close()
		if c.who == "app" {
			return time.Now()
		}
	}
	t.Fatal("the app has not served a new connection")
	return time.Time{}
}

// leftoversAre checks what killed processes have left, that it can be replaced,
// and removed.
func leftoversAre(t *testing.T, n network, mode string) {
	t.Helper()
	var want []Leftover
	if mode == "door unowned" {
		want = []Leftover{{Family: "inet", Table: "bight", Rules: 3}}
	}
	got, err := Leftovers(t.Context(), n.pod)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left over (-want +got):\n%s", diff)
	}
	at := netip.AddrPortFrom(v4().pod, appPort)
	d := n.door(t, Options{})
	dial(t, n.client, at).servedBy(t, "app", at)
	must(t, d.Engage(t.Context(), appPort))
	dial(t, n.client, at).servedBy(t, "door", at)
	must(t, d.Close())

	c := helper(t, mode, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{n.pod.file} })
	must(t, c.Process.Kill())
	_ = c.Wait() // killed
	must(t, Clean(t.Context(), n.pod))
	must(t, Clean(t.Context(), n.pod)) // again
	if got, err := Leftovers(t.Context(), n.pod); err != nil || got != nil {
		t.Errorf("left over after cleaning: got %v, %v, want nothing", got, err)
	}
}

func TestAPodHasOneDoorAtATime(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	d := n.door(t, Options{})
	must(t, d.Engage(t.Context(), appPort))
	if _, err := OpenDoor(t.Context(), n.pod, Options{}); !errors.Is(err, ErrHeld) {
		t.Errorf("open a second door: got %v, want %v", err, ErrHeld)
	}
	if err := Clean(t.Context(), n.pod); !errors.Is(err, ErrHeld) {
		t.Errorf("clean: got %v, want %v", err, ErrHeld)
	}
	got, err := Leftovers(t.Context(), n.pod)
	must(t, err)
	if diff := cmp.Diff([]Leftover{{Family: "inet", Table: "bight", Rules: 3, Held: true}}, got); diff != "" {
		t.Errorf("left over (-want +got):\n%s", diff)
	}
	at := netip.AddrPortFrom(v4().pod, appPort)
	dial(t, n.client, at).servedBy(t, "door", at)
}

// TestListenersAreClosedFirst checks what makes a killed process's doors shut
// together, however many there are.
func TestListenersAreClosedFirst(t *testing.T) {
	tables, listeners := 0, math.MaxInt
	for range 3 {
		d := newNetwork(t).door(t, Options{})
		raw, err := d.table.raw.SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) { tables = max(tables, int(fd)) }))
		for _, l := range d.listeners {
			must(t, l.raw.Control(func(fd uintptr) { listeners = min(listeners, int(fd)) }))
		}
	}
	if listeners < tables {
		t.Errorf("a listener's descriptor is %d, a table's %d, want listeners to have the higher ones", listeners, tables)
	}
}

func TestRulesThatSomebodyRemovesAreMadeAgain(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	d := n.door(t, Options{unowned: true})
	at := netip.AddrPortFrom(v4().pod, appPort)
	must(t, d.Engage(t.Context(), appPort))
	must(t, Clean(t.Context(), n.pod))
	dial(t, n.client, at).servedBy(t, "app", at)
	must(t, d.Engage(t.Context(), appPort))
	dial(t, n.client, at).servedBy(t, "door", at)
}

// TestAKernelWithoutTheModuleIsNamed has the kernel asked for an expression that
// no kernel has.
func TestAKernelWithoutTheModuleIsNamed(t *testing.T) {
	n := newNetwork(t)
	d := n.door(t, Options{})
	must(t, d.Engage(t.Context(), appPort))
	err := d.table.set([][]expr.Any{{&expr.Match{Name: "absent", Info: &xt.Unknown{}}}})
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "nft_tproxy") {
		t.Errorf("a rule with an expression that the kernel lacks: got %v, want no such file, nft_tproxy named", err)
	}
	// What was refused has changed nothing.
	at := netip.AddrPortFrom(v4().pod, appPort)
	dial(t, n.client, at).servedBy(t, "door", at)
}

func TestBadSettingsAreRefused(t *testing.T) {
	n := newNetwork(t)
	d := n.door(t, Options{})
	for _, ports := range [][]uint16{nil, {0}, {8080, 0}} {
		if err := d.Engage(t.Context(), ports...); err == nil {
			t.Errorf("engage ports %v: got no error", ports)
		}
	}
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.1/128")} {
		if _, err := OpenDoor(t.Context(), n.pod, Options{Exempt: []netip.Prefix{p}}); err == nil || !strings.Contains(err.Error(), "exempt") {
			t.Errorf("exempt %v: got %v, want refused", p, err)
		}
	}
	if _, err := OpenDoor(t.Context(), newNetns(t), Options{}); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("a pod without an address: got %v, want refused", err)
	}
	ended, cancel := context.WithCancelCause(t.Context())
	because := fmt.Errorf("the session is over")
	cancel(because)
	if err := d.Engage(ended, appPort); !errors.Is(err, because) {
		t.Errorf("engage: got %v, want %v", err, because)
	}
	must(t, d.Close())
	must(t, d.Close())
	if err := d.Engage(t.Context(), appPort); !errors.Is(err, net.ErrClosed) {
		t.Errorf("engage a closed door: got %v, want %v", err, net.ErrClosed)
	}
	if _, err := d.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept at a closed door: got %v, want %v", err, net.ErrClosed)
	}
}

func BenchmarkEngage(b *testing.B) {
	n := newNetwork(b)
	d := n.door(b, Options{})
	for b.Loop() {
		must(b, d.Engage(b.Context(), appPort))
	}
}

func BenchmarkEngageAndDisengage(b *testing.B) {
	n := newNetwork(b)
	d := n.door(b, Options{})
	for b.Loop() {
		must(b, d.Engage(b.Context(), appPort))
		must(b, d.Disengage(b.Context()))
	}
}

func BenchmarkOpenEngageClose(b *testing.B) {
	n := newNetwork(b)
	for b.Loop() {
		d, err := OpenDoor(b.Context(), n.pod, Options{})
		must(b, err)
		must(b, d.Engage(b.Context(), appPort))
		must(b, d.Close())
	}
}

func BenchmarkDialTheApp(b *testing.B) {
	n := newNetwork(b)
	n.app(b, ":8080")
	to := netip.AddrPortFrom(v4().pod, appPort)
	for b.Loop() {
		c, err := n.pod.Dial(b.Context(), "tcp", to)
		must(b, err)
		must(b, c.(*net.TCPConn).SetLinger(0))
		c.Close()
	}
}
