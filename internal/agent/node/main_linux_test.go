package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// helperVar makes the test's program another program: one that holds a door
// ("door", "door unowned"), or one that waits ("wait"). Either prints a line when
// it is ready and ends when its input does.
const helperVar = "BIGHT_NODE_HELPER"

func TestMain(m *testing.M) {
	mode := os.Getenv(helperVar)
	switch {
	case mode != "":
		if err := help(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case os.Getuid() != 0:
		os.Exit(rootless())
	default:
		os.Exit(m.Run())
	}
}

// rootless runs the tests in namespaces where this user has what they need.
func rootless() int {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := c.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a user namespace:", err)
		return 1
	}
	return 0
}

func help(mode string) error {
	what, how, _ := strings.Cut(mode, " ")
	if what == "door" {
		ns, err := OpenNetns("/proc/self/fd/3")
		if err != nil {
			return err
		}
		d, err := OpenDoor(context.Background(), ns, Options{unowned: how == "unowned"})
		if err != nil {
			return err
		}
		if err := d.Engage(context.Background(), appPort); err != nil {
			return err
		}
		go serve(d, "door")
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// helper starts a helper. It ends with the test.
func helper(t *testing.T, mode string, change func(*exec.Cmd)) *exec.Cmd {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), helperVar+"="+mode)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = c.Wait() // it may have been killed
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("helper %q: got %q, %v, want ready", mode, line, err)
	}
	return c
}

const appPort = 8080

// network is a client and a pod, each in a network namespace, with a link in
// between. The client's namespace has the node's addresses, too.
type network struct{ client, pod *Netns }

// addresses are what the ends of the link have in one address family.
type addresses struct{ client, node, pod netip.Addr }

func v4() addresses {
	return addresses{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("10.77.0.2")}
}

func v6() addresses {
	return addresses{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::9"), netip.MustParseAddr("fd77::2")}
}

func newNetwork(t testing.TB) network {
	t.Helper()
	n := network{client: newNetns(t), pod: newNetns(t)}
	client := handle(t, n.client)
	pod := handle(t, n.pod)
	link := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0",
		PeerNamespace: netlink.NsFd(int(n.pod.file.Fd())),
	}
	must(t, client.LinkAdd(link))
	setUp(t, client, "lo")
	setUp(t, pod, "lo")
	setUp(t, client, "pod0", v4().client, v4().node, v6().client, v6().node)
	setUp(t, pod, "eth0", v4().pod, v6().pod)
	for _, a := range []addresses{v4(), v6()} {
		untilLocal(t, client, a.client)
		untilLocal(t, client, a.node)
		untilLocal(t, pod, a.pod)
	}
	// The tests begin with neighbours known, as they are in a cluster.
	for _, a := range []addresses{v4(), v6()} {
		conn, err := n.client.Dial(t.Context(), "udp", netip.AddrPortFrom(a.pod, 9))
		must(t, err)
		_, err = conn.Write([]byte{0})
		must(t, err)
		conn.Close()
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNetns(t testing.TB) *Netns {
	t.Helper()
	home, err := OpenNetns("/proc/thread-self/ns/net")
	must(t, err)
	defer home.Close()
	var made *Netns
	must(t, home.In(t.Context(), func() (err error) { // which goes home afterwards
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		made, err = OpenNetns("/proc/thread-self/ns/net")
		return err
	}))
	t.Cleanup(func() { made.Close() })
	return made
}

func handle(t testing.TB, n *Netns) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func setUp(t testing.TB, h *netlink.Handle, name string, addrs ...netip.Addr) {
	t.Helper()
	link, err := h.LinkByName(name)
	must(t, err)
	for _, a := range addrs {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		addr, err := netlink.ParseAddr(netip.PrefixFrom(a, bits).String())
		must(t, err)
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
			if a == v6().node {
				addr.ValidLft = 3600 // and not preferred, so that it is not the client's
			}
		}
		must(t, h.AddrAdd(link, addr))
	}
	must(t, h.LinkSetUp(link))
}

// untilLocal waits until an address can be reached: for IPv6 that is some time
// after it was added.
func untilLocal(t testing.TB, h *netlink.Handle, a netip.Addr) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		routes, err := h.RouteGet(a.AsSlice())
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("address %v: got route %v, %v, want a local one", a, routes, err)
		}
	}
}

// serve answers each connection with who it is and what was dialled, and then
// each line with the same line.
func serve(ln net.Listener, who string) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer conn.Close()
			fmt.Fprintf(conn, "%s %s from %s\n", who, conn.LocalAddr(), conn.RemoteAddr())
			_, _ = io.Copy(conn, conn) // until the peer goes
		})
	}
}

// app starts a server in the pod.
func (n network) app(t testing.TB, address string) {
	t.Helper()
	ln, err := n.pod.Listen(t.Context(), "tcp", address)
	must(t, err)
	var done sync.WaitGroup
	done.Go(func() { serve(ln, "app") })
	t.Cleanup(func() { ln.Close(); done.Wait() })
}

// door opens a door in the pod and serves it.
func (n network) door(t testing.TB, o Options) *Door {
	t.Helper()
	d, err := OpenDoor(t.Context(), n.pod, o)
	must(t, err)
	var done sync.WaitGroup
	done.Go(func() { serve(d, "door") })
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		done.Wait()
	})
	return d
}

// talk is a connection to a server of the tests.
type talk struct {
	net.Conn
	in  *bufio.Reader
	who string // has answered
	to  string // is what it was reached at
}

// dial connects from a namespace. The connection is closed at the test's end.
func dial(t testing.TB, from *Netns, to netip.AddrPort) *talk {
	t.Helper()
	c, err := tryDial(t.Context(), from, to)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func tryDial(ctx context.Context, from *Netns, to netip.AddrPort) (*talk, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	c := &talk{Conn: conn, in: bufio.NewReader(conn)}
	if err := c.hello(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *talk) hello() error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	c.who, line, _ = strings.Cut(line, " ")
	c.to, _, _ = strings.Cut(line, " ")
	return nil
}

// works fails the test if the connection does not carry bytes both ways.
func (c *talk) works(t testing.TB) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		t.Fatalf("connection served by the %s: %v", c.who, err)
	}
	if line, err := c.in.ReadString('\n'); err != nil || line != "ping\n" {
		t.Fatalf("connection served by the %s: got %q, %v, want ping", c.who, line, err)
	}
}

// servedBy fails the test if somebody else serves the connection.
func (c *talk) servedBy(t testing.TB, who string, at netip.AddrPort) {
	t.Helper()
	if c.who != who || c.to != at.String() {
		t.Fatalf("served by the %s at %s, want the %s at %s", c.who, c.to, who, at)
	}
	c.works(t)
}
