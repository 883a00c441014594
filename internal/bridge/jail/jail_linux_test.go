package jail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/bridge/splice"
)

// cluster is the far side: servers of the test process at addresses that exist
// nowhere.
type cluster struct {
	tcp, udp string // echo servers' real addresses
	names    map[string]netip.Addr

	mu     sync.Mutex
	dialed []string
	asked  int
}

// Addresses of the far side. At the port "closed" nothing is.
const (
	echo4   = "10.96.3.7:80"
	echo6   = "[fd00:aaaa::7]:80"
	closed4 = "10.96.3.7:81"
)

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{names: map[string]netip.Addr{"cart.shop.svc.cluster.local.": netip.MustParseAddr("10.96.3.7")}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	c.tcp, c.udp = ln.Addr().String(), pc.LocalAddr().String()
	return c
}

func (c *cluster) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	c.mu.Lock()
	c.dialed = append(c.dialed, network+" "+to.String())
	c.mu.Unlock()
	var d net.Dialer
	switch {
	case to.Port() != 80:
		return nil, unix.ECONNREFUSED
	case network == "udp":
		return d.DialContext(ctx, "udp", c.udp)
	}
	return d.DialContext(ctx, "tcp", c.tcp)
}

func (c *cluster) resolve(_ context.Context, query []byte) ([]byte, error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	name, typ := testQuestion(query)
	a, ok := c.names[name]
	if strings.HasSuffix(name, ".example.") {
		a, ok = netip.MustParseAddr("10.96.9.9"), true
	}
	return testAnswer(query, a, ok, typ == 1), nil
}

func (c *cluster) config(command ...string) Config {
	return Config{
		Command: command, Env: os.Environ(), Resolv: "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:aaaa::/32")},
		Dial:   c.dial,
		DialUDP: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return c.dial(ctx, "udp", to)
		},
		Resolve: c.resolve,
		Grace:   2 * time.Second,
	}
}

// role is the configuration of a command that the test binary plays.
func (c *cluster) role(role string, args ...string) Config {
	cfg := c.config(append([]string{"/proc/self/exe"}, args...)...)
	cfg.Env = append(cfg.Env, "JAIL_TEST_ROLE="+role)
	return cfg
}

// toEnd runs a command to its end.
func toEnd(ctx context.Context, cfg Config) (code int, err error) {
	j, err := Start(ctx, cfg)
	if err != nil {
		return 0, err
	}
	return j.Wait()
}

// result of a command that has ended.
type result struct {
	Code     int
	Out, Err string
}

func run(t testing.TB, cfg Config) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	cfg.Stdout, cfg.Stderr = &out, &errs
	code, err := toEnd(ctx, cfg)
	if err != nil {
		t.Fatalf("run %v: %v", cfg.Command, err)
	}
	return result{code, out.String(), errs.String()}
}

func TestReachesTheCluster(t *testing.T) {
	c := newCluster(t)
	want := result{Out: "hello"}
	for _, to := range []string{echo4, echo6} {
		if got := run(t, c.role("echo", to, "hello")); got != want {
			t.Errorf("static Go program to %s: %+v, want %+v", to, got, want)
		}
	}
	if got := run(t, c.config("sh", "-c", `exec 3<>/dev/tcp/10.96.3.7/80 && echo hi >&3 && read x <&3 && echo "got $x"`)); got.Code == 0 && got.Out != "got hi\n" {
		t.Errorf("shell: %+v", got)
	}
	if got := run(t, c.config("bash", "-c", `exec 3<>/dev/tcp/10.96.3.7/80 && echo hi >&3 && read x <&3 && echo "got $x"`)); got.Out != "got hi\n" {
		t.Errorf("bash: %+v", got)
	}
}

func TestDatagramsComeBackFromWhereTheyWereSent(t *testing.T) {
	c := newCluster(t)
	got := run(t, c.role("udp", "10.96.3.7:80", "10.96.3.8:80"))
	want := result{Out: "10.96.3.7:80 0\n10.96.3.8:80 0\n10.96.3.7:80 1\n10.96.3.8:80 1\n10.96.3.7:80 2\n10.96.3.8:80 2\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(c.dialed) != 2 {
		t.Errorf("dialed %v, want one dial for each flow", c.dialed)
	}
	if got := run(t, c.role("udp", "[fd00:aaaa::7]:80")); got.Out != "[fd00:aaaa::7]:80 0\n[fd00:aaaa::7]:80 1\n[fd00:aaaa::7]:80 2\n" {
		t.Errorf("IPv6: %+v", got)
	}
}

func TestNamesAreTheClusters(t *testing.T) {
	c := newCluster(t)
	for _, tc := range []struct {
		cfg  Config
		want result
	}{
		{c.role("lookup", "cart"), result{Out: "10.96.3.7\n"}},
		{c.role("lookup", "cart.shop"), result{Out: "10.96.3.7\n"}},
		{c.role("lookup", "nobody"), result{Out: "not found\n"}},
		{c.role("lookup", HostName), result{Out: "198.18.0.1\n"}},
		{c.config("getent", "ahostsv4", "cart.shop"), result{Out: "10.96.3.7       STREAM cart.shop.svc.cluster.local\n10.96.3.7       DGRAM  \n10.96.3.7       RAW    \n"}},
		{c.config("getent", "hosts", "nobody"), result{Code: 2}},
		{c.config("cat", "/etc/resolv.conf"), result{Out: "nameserver 198.18.0.53\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n"}},
	} {
		if diff := cmp.Diff(tc.want, run(t, tc.cfg)); diff != "" {
			t.Errorf("%v: %s", tc.cfg.Command, diff)
		}
	}
}

func TestWhatDoesNotExistIsRefused(t *testing.T) {
	c := newCluster(t)
	cfg := c.role("echo", closed4, "x")
	if got := run(t, cfg); got.Code != 1 || !strings.Contains(got.Err, "connection reset by peer") {
		t.Errorf("refused by the far side: %+v, want a reset", got)
	}
	cfg.Services = Services{
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		TCP:    []netip.AddrPort{netip.MustParseAddrPort(echo4)},
	}
	if got := run(t, cfg); got.Code != 1 || !strings.Contains(got.Err, "connection refused") {
		t.Errorf("not in the cluster: %+v, want refused", got)
	}
	cfg.Command[1] = echo4
	if got := run(t, cfg); got != (result{Out: "x"}) {
		t.Errorf("a known service: %+v", got)
	}
	cfg.Command[1] = "127.0.0.1:80"
	if got := run(t, cfg); got.Code != 1 || !strings.Contains(got.Err, "connection refused") {
		t.Errorf("its own loopback: %+v, want refused", got)
	}
}

func TestPingIsNotAnsweredFalsely(t *testing.T) {
	c := newCluster(t)
	for mode, want := range map[Mode]string{ModeTransparent: "not permitted", ModeListeners: "temporarily unavailable"} {
		cfg := c.role("ping", "10.96.3.7")
		cfg.Mode = mode
		if got := run(t, cfg); got.Code != 1 || !strings.Contains(got.Err, want) {
			t.Errorf("%s: %+v, want %q", mode, got, want)
		}
	}
	if got := run(t, c.role("ping", "127.0.0.1")); got != (result{Out: "answered\n"}) {
		t.Errorf("loopback: %+v", got)
	}
}

func TestIPv6WithoutAWayIsUnreachable(t *testing.T) {
	c := newCluster(t)
	cfg := c.role("echo", "[2001:db8::1]:80", "x")
	cfg.Ranges = nil // all goes to the cluster, which has no IPv6
	if got := run(t, cfg); got.Code != 1 || !strings.Contains(got.Err, "unreachable") {
		t.Errorf("%+v, want unreachable", got)
	}
	cfg.IPv6 = true
	if got := run(t, cfg); got != (result{Out: "x"}) {
		t.Errorf("with IPv6: %+v", got)
	}
}

func TestCurlReachesAServiceByName(t *testing.T) {
	c := newCluster(t)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Log("there is no curl here")
		return
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, r.URL) }))
	defer backend.Close()
	c.tcp = backend.Listener.Addr().String()
	got := run(t, c.config("curl", "-sS", "--noproxy", "*", "http://cart.shop/items"))
	if want := (result{Out: "cart.shop/items"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := run(t, c.config("curl", "-sS", "--noproxy", "*", "http://nobody.shop/")); got.Code != 6 {
		t.Errorf("%+v, want curl's code for unknown names", got)
	}
}

func TestServicesCanBeReplaced(t *testing.T) {
	c := newCluster(t)
	cfg := c.config("bash", "-c", `while read to; do (exec 3<>/dev/tcp/${to/:/\/}) 2>/dev/null && echo yes || echo no; done`)
	cfg.Services = Services{Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	cfg.Stdin, cfg.Stdout = in, out
	j, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	try := func() string {
		fmt.Fprintln(stdin, echo4)
		line := make([]byte, 10)
		n, _ := stdout.Read(line)
		return string(line[:n])
	}
	if got := try(); got != "no\n" {
		t.Errorf("before: %q", got)
	}
	s := cfg.Services
	for i := range 3000 {
		s.TCP = append(s.TCP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80))
		s.UDP = append(s.UDP, netip.AddrPortFrom(netip.MustParseAddr("fd00:aaaa::1"), uint16(i+1)))
	}
	if err := j.SetServices(s); err != nil {
		t.Fatal(err)
	}
	if got := try(); got != "yes\n" {
		t.Errorf("after: %q", got)
	}
	_ = stdin.Close()
	if code, err := j.Wait(); code != 0 || err != nil {
		t.Error(code, err)
	}
}

func TestTheMachinesOwnNetworkIsReached(t *testing.T) {
	c := newCluster(t)
	_, port, _ := net.SplitHostPort(c.tcp)
	if got := run(t, c.role("echo", HostName+":"+port, "local")); got != (result{Out: "local"}) {
		t.Errorf("%+v", got)
	}
	if len(c.dialed) != 0 {
		t.Errorf("the cluster was asked for %v", c.dialed)
	}
}

func TestFilesAreAtTheirRealPaths(t *testing.T) {
	c := newCluster(t)
	here := t.TempDir()
	if err := os.WriteFile(filepath.Join(here, "mine"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	const token = "/var/run/secrets/kubernetes.io/serviceaccount"
	cfg := c.config("sh", "-c", `set -e; cd "$1"
		cat `+token+`/token; cat /jail-absent/deep/config.yaml; cat mine; cat new/key; ls -a new; ls /etc/passwd
		readlink `+token+`/token; cat /jail-absent/one; hostname; cat /etc/hostname; ls /jail-absent; stat -Lc %a `+token+`/token`, "sh", here)
	cfg.Hostname = "cart-7d4b9c-x2x4z"
	cfg.Mounts = []Mount{
		{Path: token, Projected: true, Files: []File{{Name: "token", Mode: 0o400, Content: []byte("T1\n")}, {Name: "ca/crt", Mode: 0o644}}},
		{Path: "/jail-absent/deep", Files: []File{{Name: "config.yaml", Mode: 0o644, Content: []byte("a: 1\n")}}},
		{Path: "/jail-absent/one", Files: []File{{Mode: 0o644, Content: []byte("one\n")}}},
		{Path: here + "/new", Files: []File{{Name: "..data", Link: "..1"}, {Name: "..1/key", Mode: 0o644, Content: []byte("\nkey\n")}, {Name: "key", Link: "..data/key"}}},
	}
	want := result{Out: "T1\na: 1\nmine\nkey\n.\n..\n..1\n..data\nkey\n/etc/passwd\n..data/token\none\ncart-7d4b9c-x2x4z\ncart-7d4b9c-x2x4z\ndeep\none\n400\n"}
	if diff := cmp.Diff(want, run(t, cfg)); diff != "" {
		t.Error(diff)
	}
	for _, p := range []string{"/jail-absent", filepath.Join(here, "new")} {
		if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is on the machine: %v", p, err)
		}
	}
}

func TestUpdateChangesAllFilesAtOnce(t *testing.T) {
	c := newCluster(t)
	content := func(text string) Mount {
		return Mount{Path: "/jail-absent/v", Projected: true, Files: []File{
			{Name: "a", Mode: 0o644, Content: []byte(text)}, {Name: "b", Mode: 0o644, Content: []byte(text)},
		}}
	}
	cfg := c.role("watch", "/jail-absent/v")
	cfg.Mounts = []Mount{content("0")}
	stdout, out := io.Pipe()
	cfg.Stdout, cfg.Stderr = out, os.Stderr
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			lines <- in.Text()
		}
	}()
	if got := <-lines; got != "0" {
		t.Fatalf("started with %q", got)
	}
	for i := 1; i <= 100; i++ {
		if err := j.Update(content(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			for got := range lines {
				if got == fmt.Sprint(i) {
					break
				}
			}
		}
	}
	if err := j.Update(Mount{Path: "/nowhere", Files: []File{{Name: "x"}}}); err == nil {
		t.Error("a mount that does not exist was updated")
	}
	cancel()
	go func() {
		for range lines {
		}
	}()
	code, err := j.Wait()
	_ = out.Close()
	if code != codeSignal+int(unix.SIGTERM) || err != nil {
		t.Errorf("ended with %d, %v", code, err)
	}
}

func TestTheCommandsPortsAreReached(t *testing.T) {
	c := newCluster(t)
	cfg := c.role("serve", "127.0.0.1:7001", "[::1]:7002", "0.0.0.0:80", "198.18.0.2:7003")
	stdout, out := io.Pipe()
	cfg.Stdout, cfg.Stderr = out, os.Stderr
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	check := func(conn net.Conn) {
		t.Helper()
		defer conn.Close()
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 4)
		if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "ping" {
			t.Errorf("%q, %v", buf, err)
		}
	}
	for _, port := range []uint16{7001, 7002, 7003, 80} {
		conn, err := j.DialInside(ctx, "tcp", port)
		if err != nil {
			t.Error(err)
			continue
		}
		check(conn)
	}
	if _, err := j.DialInside(ctx, "tcp", 7999); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: %v, want refused", err)
	}
	if got := j.Listening(); !slices.Equal(got, []uint16{80, 7001, 7002, 7003}) {
		t.Errorf("it is said to listen on %d", got)
	}
	at, err := j.Publish(7001, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	check(conn)
	cancel()
	_, _ = j.Wait()
	if _, err := net.Dial("tcp", at.String()); err == nil {
		t.Error("the published port is still open after the end")
	}
}

func TestTwoJailsSeeTwoClusters(t *testing.T) {
	a, b := newCluster(t), newCluster(t)
	b.names["cart.shop.svc.cluster.local."] = netip.MustParseAddr("10.96.7.7")
	var group sync.WaitGroup
	for c, want := range map[*cluster]string{a: "10.96.3.7\n", b: "10.96.7.7\n"} {
		for range 3 {
			group.Go(func() {
				if got := run(t, c.role("lookup", "cart")); got.Out != want {
					t.Errorf("%+v, want %q", got, want)
				}
			})
		}
	}
	group.Wait()
}

func TestAThousandFlowsAtOnce(t *testing.T) {
	c := newCluster(t)
	cfg := c.role("flows", echo4, "1000")
	cfg.Command[0] = os.Args[0]
	cfg.Command = append([]string{"sh", "-c", `ulimit -n 4096; exec "$0" "$@"`}, cfg.Command...)
	if got := run(t, cfg); got != (result{}) {
		t.Errorf("%+v", got)
	}
}

func TestManyQuestionsForNames(t *testing.T) {
	c := newCluster(t)
	const n = 20000
	got := run(t, c.role("names", fmt.Sprint(n)))
	var answered, failed, ms int
	if _, err := fmt.Sscan(got.Out, &answered, &failed, &ms); err != nil {
		t.Fatalf("%+v: %v", got, err)
	}
	t.Logf("%d of %d questions answered in %d ms, %d of them SERVFAIL; the cluster was asked %d", answered, n, ms, failed, c.asked)
	if answered < n*9/10 || c.asked > 2100 {
		t.Errorf("answered %d of %d, asked the cluster %d", answered, n, c.asked)
	}
}

func TestAPipelineKeepsItsReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.ReadFull(conn, make([]byte, 1))
		splice.Abort(conn)
	}()
	c := newCluster(t)
	c.tcp = ln.Addr().String()
	if got := run(t, c.role("echo", echo4, "x")); got.Code != 1 || !strings.Contains(got.Err, "reset by peer") {
		t.Errorf("%+v, want a reset", got)
	}
}

func TestListenersNeedNoNetfilter(t *testing.T) {
	c := newCluster(t)
	cfg := c.role("echo", echo4, "plain")
	cfg.Mode = ModeListeners
	cfg.Services = Services{TCP: []netip.AddrPort{netip.MustParseAddrPort(echo4)}, UDP: []netip.AddrPort{netip.MustParseAddrPort(echo4)}}
	if got := run(t, cfg); got != (result{Out: "plain"}) {
		t.Errorf("%+v", got)
	}
	cfg.Command[1] = closed4
	if got := run(t, cfg); !strings.Contains(got.Err, "connection refused") {
		t.Errorf("%+v, want refused", got)
	}
	udp := c.role("udp", echo4)
	udp.Mode, udp.Services = cfg.Mode, cfg.Services
	if got := run(t, udp); got.Out != echo4+" 0\n"+echo4+" 1\n"+echo4+" 2\n" {
		t.Errorf("%+v", got)
	}
}

func TestProbeTellsTheModes(t *testing.T) {
	ladder := Probe(t.Context())
	for _, r := range ladder {
		if !r.OK {
			t.Errorf("%+v", r)
		}
	}
	if got := Best(ladder).Mode; got != ModeTransparent {
		t.Errorf("best is %s", got)
	}
}

// testQuery makes a DNS question.
func testQuery(id uint16, name string, typ uint16) []byte {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	q = append(q, 0)
	q = binary.BigEndian.AppendUint16(q, typ)
	return append(q, 0, 1)
}

// testQuestion is what a query asks for.
func testQuestion(query []byte) (name string, typ uint16) {
	at := dnsHeader
	for query[at] != 0 {
		n := int(query[at])
		name += strings.ToLower(string(query[at+1:at+1+n])) + "."
		at += 1 + n
	}
	return name, binary.BigEndian.Uint16(query[at+1:])
}

// testAnswer answers a query with an address, with none, or with NXDOMAIN.
func testAnswer(query []byte, a netip.Addr, exists, is4 bool) []byte {
	end, _ := walk(query, func(record) {})
	m := append([]byte{}, query[:end]...)
	m[2], m[3] = 0x85, 0x80
	clear(m[6:12])
	switch {
	case exists && is4:
		m[7] = 1
		m = append(m, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4)
		m = append(m, a.AsSlice()...)
	default:
		if !exists {
			m[3] |= rcodeNoName
		}
		m[9] = 1
		m = append(m, 0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 30, 0, 22, 0, 0)
		m = append(m, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5)
	}
	return m
}
