package gate

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

const (
	// helperVar makes the test's program another one: "wait" only holds its
	// namespaces, "container" lives in a root of its own at rootVar, "gate" serves
	// the network namespace at descriptor 3, "split" has a split besides. Each prints a
	// line when it is ready and for each line that it is told, and ends when its input does.
	helperVar = "BIGHT_GATE_HELPER"
	rootVar   = "BIGHT_GATE_ROOT"

	// limit bounds each wait of a test.
	limit   = 20 * time.Second
	appPort = 8080
	podUID  = "2d3f9c1e-8f0a-4c55-9d5c-0a7f2b1e6c44"
)

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
	told := func(string) error { return nil }
	switch mode {
	case "container":
		c := container{root: os.Getenv(rootVar)}
		if err := c.enter(); err != nil {
			return err
		}
		told = c.write
	case "gate", "split":
		ns, err := node.OpenNetns("/proc/self/fd/3")
		if err != nil {
			return err
		}
		g, err := Open(context.Background(), ns, options(nil))
		if err != nil {
			return err
		}
		g.Set([]Grant{annas()})
		if mode == "split" {
			if err := g.Split(appPort, "stable", shared(1, 5000)); err != nil {
				return err
			}
		}
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := told(in.Text()); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

// container is a process with a root file system of its own and a volume that is
// written as kubelet does it.
type container struct {
	root    string
	version int
}

func (c *container) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{c.root, c.root + "/etc/keys"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for name, text := range map[string]string{
		"etc/hostname":    "cart-0\n",
		"etc/hosts":       "10.77.0.1\tlegacy old.example # the client\n",
		"etc/resolv.conf": "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.77.0.2\noptions ndots:5 timeout:1\n",
	} {
		if err := os.WriteFile(filepath.Join(c.root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/srv", "/old"} {
		if err := os.Mkdir(c.root+dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.PivotRoot(c.root, c.root+"/old"); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/srv"); err != nil {
		return err
	}
	return c.write("first")
}

// write exchanges the volume's files.
func (c *container) write(text string) error {
	const dir = "/etc/keys/"
	c.version++
	version := fmt.Sprintf("..2026_%d", c.version)
	_ = os.Symlink("..data/key", dir+"key") // from before
	_ = os.Symlink("/etc/passwd", dir+"out")
	return errors.Join(
		os.Mkdir(dir+version, 0o755),
		os.WriteFile(dir+version+"/key", []byte(text), 0o600),
		os.Symlink(version, dir+"..data_tmp"),
		os.Rename(dir+"..data_tmp", dir+"..data"),
	)
}

// process is a helper that runs.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a helper. It ends with the test.
func start(t testing.TB, mode string, change func(*exec.Cmd)) *process {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), helperVar+"="+mode)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	if change != nil {
		change(c)
	}
	must(t, c.Start())
	p := &process{c, in, bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close()
		_ = c.Wait() // it may have been killed
	})
	p.says(t, "ready")
	return p
}

func (p *process) says(t testing.TB, want string) {
	t.Helper()
	if line, err := p.out.ReadString('\n'); err != nil || line != want+"\n" {
		t.Fatalf("helper: got %q, %v, want %s", line, err, want)
	}
}

func (p *process) tell(t testing.TB, text string) {
	t.Helper()
	_, err := fmt.Fprintln(p.in, text)
	must(t, err)
	p.says(t, "done")
}

// find returns the process as the agent of a node finds it.
func (p *process) find(t testing.TB) node.Process {
	t.Helper()
	const id = "3ea1b2c3d4e5f60718293a4b5c6d7e8f3ea1b2c3d4e5f60718293a4b5c6d7e8f"
	dir := t.TempDir()
	for _, pid := range []int{os.Getpid(), p.Process.Pid} {
		sub := filepath.Join(dir, strconv.Itoa(pid))
		must(t, os.Mkdir(sub, 0o755))
		for _, name := range []string{"stat", "cmdline", "environ", "root", "ns", "mountinfo", "status", "net"} {
			must(t, os.Symlink(fmt.Sprintf("/proc/%d/%s", pid, name), filepath.Join(sub, name)))
		}
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		must(t, err)
		must(t, os.Symlink(cwd, filepath.Join(sub, "cwd")))
		in := "0::/\n"
		if pid == p.Process.Pid {
			in = "0::/kubepods/burstable/pod" + podUID + "/" + id + "\n"
		}
		must(t, os.WriteFile(filepath.Join(sub, "cgroup"), []byte(in), 0o644))
	}
	found, err := node.Proc(dir).Pod(t.Context(), podUID)
	must(t, err)
	main, ok := found.Container(id)
	if !ok {
		t.Fatalf("got containers %+v, want %s", found.Containers, id)
	}
	return main
}

// network is a client and a pod, each a process in a network namespace of its own,
// with a link in between.
type network struct {
	client, pod *node.Netns
	main        *process // the pod's
}

var clientIP, podIP = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")

func at(ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, appPort) }

// inContainer makes a helper a container's process.
func inContainer(root string, flags uintptr) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.Env = append(c.Env, rootVar+"="+root, "DATABASE_URL=postgres://db:5432/cart")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | flags}
	}
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	away := start(t, "wait", func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET} })
	n := &network{main: start(t, "container", inContainer(t.TempDir(), unix.CLONE_NEWNET))}
	client, pod := n.handle(t, away), n.handle(t, n.main)
	n.client, n.pod = open(t, away), open(t, n.main)
	must(t, client.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(n.main.Process.Pid),
	}))
	for _, end := range []struct {
		h    *netlink.Handle
		name string
		ip   netip.Addr
	}{{client, "lo", netip.Addr{}}, {pod, "lo", netip.Addr{}}, {client, "pod0", clientIP}, {pod, "eth0", podIP}} {
		link, err := end.h.LinkByName(end.name)
		must(t, err)
		if end.ip.IsValid() {
			addr, err := netlink.ParseAddr(end.ip.String() + "/24")
			must(t, err)
			must(t, end.h.AddrAdd(link, addr))
		}
		must(t, end.h.LinkSetUp(link))
	}
	return n
}

func (n *network) handle(t testing.TB, p *process) *netlink.Handle {
	t.Helper()
	ns, err := netns.GetFromPid(p.Process.Pid)
	must(t, err)
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func open(t testing.TB, p *process) *node.Netns {
	t.Helper()
	ns, err := node.OpenNetns(fmt.Sprintf("/proc/%d/ns/net", p.Process.Pid))
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func options(find func(context.Context, string) (node.Process, error)) Options {
	if find == nil {
		find = func(context.Context, string) (node.Process, error) {
			return node.Process{}, errors.New("it is being restarted")
		}
	}
	return Options{
		Service: "cart", Version: "v1",
		Process: find,
		Ports:   []Port{{Number: appPort, Protocol: steer.HTTP, Probes: []string{"/healthz"}}, {Number: 9000}},
	}
}

// gate opens a gate to the pod. It is closed with the test.
func (n *network) gate(t testing.TB, grants ...Grant) *Gate {
	t.Helper()
	main := n.main.find(t)
	g, err := Open(t.Context(), n.pod, options(func(_ context.Context, container string) (node.Process, error) {
		if container != "main" {
			return node.Process{}, fmt.Errorf("the pod has no container %q", container)
		}
		return main, nil
	}))
	must(t, err)
	g.Set(grants)
	t.Cleanup(func() { shut(t, g) })
	return g
}

// shut closes a gate at once.
func shut(t testing.TB, g *Gate) {
	t.Helper()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Close(now); err != nil {
		t.Error(err)
	}
}

// leftovers returns what there is of ours in the pod's network.
func (n *network) leftovers(t testing.TB) []node.Leftover {
	t.Helper()
	found, err := node.Leftovers(context.Background(), n.pod)
	must(t, err)
	return found
}

// hash is a token's.
func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func rule(name string) steer.Rule {
	return steer.Rule{
		ID: name + "-1", Owner: name, Service: "cart", Port: appPort, Mode: steer.Intercept,
		Match: steer.Match{Headers: []steer.HeaderMatch{{Name: "x-user", Value: name}}},
	}
}

// grant lets somebody in, with their name as the token.
func grant(name string) Grant {
	r := rule(name)
	return Grant{ID: name + "-1", Owner: name, TokenHash: hash(name), Rule: &r, Container: "main", Environment: true}
}

func annas() Grant { return grant("anna") }

// laptop is a developer's.
type laptop struct {
	*steer.Laptop
	sess *stream.Session
}

// connect reaches the gate the way that a port-forward does.
func (n *network) connect(t testing.TB, token string) (*laptop, error) {
	t.Helper()
	l := &laptop{Laptop: &steer.Laptop{Beat: 100 * time.Millisecond}}
	c := &stream.Client{Token: token, Version: "v1", Handle: l.Handle, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		return n.pod.Dial(ctx, "tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), defaultPort))
	}}
	sess, err := c.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	l.sess = sess
	t.Cleanup(func() { _ = sess.Close() })
	return l, nil
}

func (n *network) laptop(t testing.TB, token string) *laptop {
	t.Helper()
	l, err := n.connect(t, token)
	must(t, err)
	return l
}

// to is a handler that connects to an address of this machine.
func to(addr string) steer.Handler {
	return func(ctx context.Context, _ steer.Info) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

func (l *laptop) join(t testing.TB, r steer.Rule, h steer.Handler) *steer.Membership {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := l.Join(ctx, l.sess, r, h)
	must(t, err)
	return m
}

func leave(t testing.TB, m *steer.Membership) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	must(t, m.Leave(ctx))
}

// web serves HTTP with a name until the test ends: it answers with the name, what was
// dialled, and the method and the path.
func web(t testing.TB, ln net.Listener, name string) {
	t.Helper()
	busy(t, ln, name, func() {})
}

// busy is web that does something before each answer.
func busy(t testing.TB, ln net.Listener, name string, do func()) {
	t.Helper()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		do()
		fmt.Fprintf(w, "%s %s %s %d", name, r.Method, r.URL.Path, n)
	})}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(ln) }) // until closed
	t.Cleanup(func() { s.Close(); done.Wait() })
}

// app serves HTTP in the pod.
func (n *network) app(t testing.TB) {
	t.Helper()
	ln, err := n.pod.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", appPort))
	must(t, err)
	web(t, ln, "app")
}

// local serves HTTP on this machine.
func local(t testing.TB, name string) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	web(t, ln, name)
	return ln.Addr().String()
}

// browser makes requests from the client's network; with keep, on connections that
// it keeps.
func (n *network) browser(keep bool) *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{
		DisableKeepAlives: !keep,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return n.client.Dial(ctx, "tcp", netip.MustParseAddrPort(address))
		},
	}}
}

// ask makes a request and returns who has answered.
func ask(c *http.Client, method, user, body string) (who string, err error) {
	r, err := http.NewRequest(method, "http://"+at(podIP).String()+"/x", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("X-User", user)
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	who, rest, _ := strings.Cut(string(b), " ")
	if want := fmt.Sprintf("%s /x %d", method, len(body)); rest != want || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("got %d %q, want %q", resp.StatusCode, b, want)
	}
	return who, nil
}

func wantFrom(t testing.TB, c *http.Client, user, want string) {
	t.Helper()
	if who, err := ask(c, "GET", user, ""); who != want || err != nil {
		t.Errorf("request of %s: got an answer by %q, %v, want %s", user, who, err, want)
	}
}
