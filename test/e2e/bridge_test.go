//go:build e2e

package e2e

import (
	"bufio"
	stdcontext "context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	rpc "google.golang.org/grpc/status"
	rbac "k8s.io/api/rbac/v1"

	"github.com/bightdev/bight/internal/steer"
)

const (
	cart  = "http://cart:8080/"
	stock = "http://stock:8080/"
)

// TestBridge deploys one app and joins this machine to it in every way. Each part
// leaves the app as it found it.
func TestBridge(t *testing.T) {
	b := newBay(t)
	part := func(name string, f func(*bay)) {
		t.Run(name, func(t *testing.T) { f(b.on(t)) })
	}
	part("Run", testRun)
	part("RunByAnotherUser", testRunByAnotherUser)
	part("RunIntercepts", testRunIntercepts)
	part("Environment", testEnvironment)
	part("Proxy", testProxy)
	part("Shell", testShell)
	part("EveryRequest", testEveryRequest)
	part("ByHeader", testByHeader)
	part("IPv6", func(b *bay) { b.testBySix("cart", "cart") })
	part("SeveralOwners", testSeveralOwners)
	part("Mirror", testMirror)
	part("NobodyListens", testNobodyListens)
	part("OneOwnerTwice", testOneOwnerTwice)
	part("WithoutSource", testWithoutSource)
	part("BadInput", testBridgeBadInput)
	part("EngageAndLeaveUnderLoad", testEngageAndLeaveUnderLoad)
	t.Run("Silence", func(t *testing.T) { // both wait most of the time
		for name, f := range map[string]func(*bay){"Killed": testKilled, "NetworkCut": testNetworkCut} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(b.on(t))
			})
		}
	})
	part("Direct", func(b *bay) { b.goesDirect("stock") })
	part("Replicas", testReplicas)
	part("KilledAgent", testKilledAgent)
	part("Overhead", testOverhead)
}

func testRun(b *bay) {
	tool := b.program("tool")
	tests := []struct {
		name string
		args []string
		want string // stdout, of which %s is cart's pod
		code int
	}{
		{"Environment", []string{"cart", "--", "sh", "-c", "echo $GREETING, $API_KEY, $HOSTNAME"}, "good morning, k-4711, %s\n", 0},
		{"ShortName", []string{"cart", "--", tool, "get", "http://stock:8080/"}, "app HTTP/1.1 stock-", 0},
		{"NameWithNamespace", []string{"cart", "--", tool, "get", "http://cart." + b.namespace + ":8080/"}, "app HTTP/1.1 %s\n", 0},
		{"WholeName", []string{"cart", "--", tool, "get", "http://cart." + b.namespace + ".svc.cluster.local:8080/"}, "app HTTP/1.1 %s\n", 0},
		{"LibcsResolver", []string{"cart", "--", "curl", "-s", "http://cart:8080/"}, "app HTTP/1.1 %s\n", 0},
		{"PodByAddress", []string{"load", "--", tool, "get", "http://" + b.pod("cart").Status.PodIP + ":8080/"}, "app HTTP/1.1 %s\n", 0},
		{"TCP", []string{"load", "--", tool, "tcp", "cart:7000"}, "app hello\n", 0},
		{"UDP", []string{"load", "--", tool, "udp", "cart:7001"}, "app hello\n", 0},
		{"ClosedPort", []string{"cart", "--", tool, "refused", "stock:81"}, "refused after ", 0},
		{"UnknownName", []string{"cart", "--", tool, "dns", "no-such-thing"}, "no such name\n", 1},
		{"WithoutService", []string{"--", "sh", "-c", "echo [$GREETING]; exec " + tool + " get http://cart:8080/"}, "[]\napp HTTP/1.1 %s\n", 0},
		{"Kubeconfig", []string{"cart", "--", "sh", "-c", filepath.Join(binaries, "bight") + " env cart -n " + b.namespace + " | grep -c ^GREETING="}, "1\n", 0},
		{"ExitCode", []string{"cart", "--", "sh", "-c", "exit 7"}, "", 7},
		{"Signal", []string{"cart", "--", "sh", "-c", "kill -TERM $$"}, "", 128 + 15},
		{"NoSuchCommand", []string{"cart", "--", "no-such-command"}, "", 127},
	}
	var took []time.Duration
	for _, test := range tests {
		b.Run(test.name, func(t *testing.T) {
			b := b.on(t)
			want := strings.ReplaceAll(test.want, "%s", b.pod("cart").Name)
			began := time.Now()
			out, errs, code := b.run(test.args...)
			took = append(took, time.Since(began))
			if code != test.code || !strings.HasPrefix(out, want) || want == "" && out != "" {
				t.Errorf("exit code %d, want %d; stdout %q, want %q; stderr:\n%s", code, test.code, out, want, errs)
			}
		})
	}
	slices.Sort(took)
	b.Logf("bight run takes %s at the median, %s at most", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))

	pipe := exec.Command("sh", "-c", `seq 100000 | "$0" run cart -n "$1" -- sort -n -r | tail -n 1`, filepath.Join(binaries, "bight"), b.namespace)
	pipe.Dir = b.dir
	if out, err := pipe.CombinedOutput(); err != nil || string(out) != "1\n" {
		b.Errorf("a pipe through the command ends with %q, %v", out, err)
	}
}

// testRunByAnotherUser runs as a user without any right on this machine.
func testRunByAnotherUser(b *bay) {
	const nobody = 65534
	dir := b.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "source"), os.DirFS(b.dir)); err != nil {
		b.Fatal(err)
	}
	for name, from := range map[string]string{
		"bight": filepath.Join(binaries, "bight"), "tool": b.program("tool"), "kubeconfig": os.Getenv("BIGHT_TEST_KUBECONFIG"),
	} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o755)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Chown(home, nobody, nobody); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "bight"), "run", "cart", "-n", b.namespace, "--kubeconfig", filepath.Join(dir, "kubeconfig"),
		"--", "sh", "-c", "id -u; "+filepath.Join(dir, "tool")+" udp stock:7001; "+filepath.Join(dir, "tool")+" get http://cart:8080/")
	cmd.Dir = filepath.Join(dir, "source")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "BIGHT_USER=nobody"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if want := "65534\napp hello\napp HTTP/1.1 " + b.pod("cart").Name + "\n"; err != nil || string(out) != want {
		b.Errorf("it says %q, %v, want %q", out, err, want)
	}
}

func testRunIntercepts(b *bay) {
	s := b.background(nil, "run", "cart", "--intercept", "--header", "x-dev=ada", "--", "env", "WHO=ada", b.program("cart"))
	s.says("in force in 1 pod")
	b.eventually("the command answers", func() error {
		if a, err := b.ask(b.client(false, false), cart, "x-dev", "ada"); err != nil || a.who != "ada" {
			return fmt.Errorf("%s answers (%s), %v", a.who, a.marker, err)
		}
		return nil
	})
	b.answers("ada", b.client(false, true), cart, "x-dev", "ada")
	b.answers("app", b.client(false, true), cart)
	// What a person asks of the path of the health check comes here, too.
	b.answers("ada", b.client(false, true), cart+"healthz", "x-dev", "ada")
	id := b.list()[0].ID
	if out, errs, code := b.bightWith([]string{"BIGHT_USER=tester"}, "intercept", "leave", id, "-n", b.namespace); code != 0 {
		b.Errorf("leave: exit code %d\n%s%s", code, out, errs)
	}
	s.says("intercept " + id + " ends, by bight intercept leave; the command goes on")
	b.eventually("the intercept is left", func() error {
		if all := b.list(); len(all) > 0 {
			return fmt.Errorf("there is %+v", all)
		}
		return nil
	})
	b.answers("app", b.client(false, false), cart, "x-dev", "ada")
	if code := s.signal(syscall.SIGINT); code != 128+15 { // the command's, which is asked to end
		b.Errorf("exit code %d after an interrupt, want 143", code)
	}
	if left := b.list(); len(left) > 0 {
		b.Errorf("after the end there is %+v", left)
	}
	b.answers("app", b.client(false, false), cart, "x-dev", "ada")
}

func testEnvironment(b *bay) {
	out, errs, code := b.bight("env", "cart", "-n", b.namespace, "-o", "json")
	var env map[string]string
	if err := json.Unmarshal([]byte(out), &env); code != 0 || err != nil {
		b.Fatalf("exit code %d, %v in %q\n%s", code, err, out, errs)
	}
	out, _, code = b.bight("env", "cart", "-n", b.namespace)
	file := filepath.Join(b.TempDir(), "env")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil || code != 0 {
		b.Fatalf("exit code %d, %v", code, err)
	}
	sourced, err := exec.Command("sh", "-c", `. "$0"; printf %s "$GREETING, $API_KEY"`, file).CombinedOutput()
	if want := "good morning, k-4711"; err != nil || string(sourced) != want || env["GREETING"]+", "+env["API_KEY"] != want {
		b.Errorf("as dotenv %q, %v, as JSON %q and %q; want %q", sourced, err, env["GREETING"], env["API_KEY"], want)
	}
	for name := range env {
		if name == "PATH" || name == "HOME" || name == "HOSTNAME" || strings.HasPrefix(name, "KUBERNETES_") {
			b.Errorf("without --all it has %s, as every container does", name)
		}
	}
}

func testShell(b *bay) { b.shell(cart, b.pod("cart").Name) }

// shell gives a shell of bight connect a few lines, as somebody who types. A pod answers
// at url.
func (b *bay) shell(url, pod string) {
	b.Helper()
	cmd := exec.Command(filepath.Join(binaries, "bight"), "connect", "-n", b.namespace)
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "SHELL=/bin/sh")
	cmd.Stdin = strings.NewReader(b.program("tool") + " get " + url + "\necho namespace $BIGHT_NAMESPACE\nexit 3\n")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	want := "app HTTP/1.1 " + pod + "\nnamespace " + b.namespace + "\n"
	if code := cmd.ProcessState.ExitCode(); code != 3 || string(out) != want || !strings.Contains(errs.String(), "leave with exit") {
		b.Errorf("exit code %d, want 3, %v; stdout %q, want %q; stderr:\n%s", code, err, out, want, errs.String())
	}
}

func testProxy(b *bay) {
	for _, scheme := range []string{"socks5h", "http"} {
		out, err := exec.Command("curl", "-sS", "--max-time", "20", "-x", scheme+"://"+b.proxy, cart).CombinedOutput()
		if want := "app HTTP/1.1 " + b.pod("cart").Name + "\n"; err != nil || string(out) != want {
			b.Errorf("by %s: %q, %v, want %q", scheme, out, err, want)
		}
	}
}

// rpc makes a call and reads a stream by gRPC, and returns who the trailers name.
func (b *bay) rpc(headers ...string) (who []string, err error) {
	c, err := grpc.NewClient("passthrough:///cart:9090", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx stdcontext.Context, to string) (net.Conn, error) { return b.dial(ctx, "tcp", to) }))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := stdcontext.WithTimeout(metadata.AppendToOutgoingContext(context(), headers...), 20*time.Second)
	defer cancel()
	var trailer metadata.MD
	if _, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Trailer(&trailer)); err != nil {
		return nil, err
	}
	who = trailer.Get("who")
	stream, err := healthpb.NewHealthClient(c).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return who, err
	}
	for n := 0; ; n++ {
		if _, err := stream.Recv(); err != nil {
			if rpc.Code(err) != codes.DataLoss || n != 3 {
				return who, fmt.Errorf("after %d messages: %w", n, err)
			}
			return append(who, stream.Trailer().Get("who")...), nil
		}
	}
}

// calls fails the test unless who answers by gRPC.
func (b *bay) calls(who string, headers ...string) {
	b.Helper()
	if got, err := b.rpc(headers...); err != nil || !slices.Equal(got, []string{who, who}) {
		b.Errorf("gRPC %q is answered by %q, %v; want %s", headers, got, err, who)
	}
}

// talks fails the test unless who is at the other end of a WebSocket.
func (b *bay) talks(who string, headers ...string) {
	b.Helper()
	ctx, cancel := stdcontext.WithTimeout(context(), 20*time.Second)
	defer cancel()
	options := &websocket.DialOptions{HTTPClient: b.client(false, true), HTTPHeader: http.Header{}}
	options.HTTPClient.Timeout = 0
	for i := 0; i+1 < len(headers); i += 2 {
		options.HTTPHeader.Set(headers[i], headers[i+1])
	}
	c, _, err := websocket.Dial(ctx, cart+"ws", options)
	if err != nil {
		b.Errorf("WebSocket: %v", err)
		return
	}
	defer c.CloseNow()
	for _, text := range []string{"one", "two"} {
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			b.Error(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != who+" "+text {
			b.Errorf("%q comes back by WebSocket, %v; want it from %s", got, err, who)
		}
	}
}

// line fails the test unless who sends a line back by TCP.
func (b *bay) line(who string) {
	b.Helper()
	c, err := b.dial(context(), "tcp", "cart:7000")
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // fails on no socket
	fmt.Fprintln(c, "hello")
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != who+" hello\n" {
		b.Errorf("%q comes back by TCP, %v; want it from %s", got, err, who)
	}
}

func testEveryRequest(b *bay) {
	ada := b.laptop("ada")
	// A connection from before is steered, too.
	early := b.client(false, true)
	b.answers("app", early, cart)
	before, err := counters(b.client(false, false), "http://"+b.pod("cart").Status.PodIP+":8080")
	if err != nil {
		b.Fatal(err)
	}
	all := []*running{b.intercept("ada", "cart", "--port", ada.at(8080)), b.intercept("ada", "cart", "--port", ada.at(9090)), b.intercept("ada", "cart", "--port", ada.at(7000))}
	b.answers("ada", early, cart)
	b.answers("ada", b.client(false, false), cart)
	b.answers("ada", b.client(true, true), cart)
	b.talks("ada")
	b.calls("ada")
	b.line("ada")
	b.eventually("kubelet has asked the app twice", func() error {
		now, err := counters(b.client(false, false), "http://"+b.pod("cart").Status.PodIP+":8080")
		if n := now["probes"] - before["probes"]; err != nil || n < 2 {
			return fmt.Errorf("%d times, %v", n, err)
		}
		return nil
	})
	if got, err := ada.counters(); err != nil || got["probes"] > 0 || got["requests"] < 16 {
		b.Errorf("the laptop has had %v, %v", got, err)
	}
	b.leave(all...)
	b.answers("app", early, cart)
	b.answers("app", b.client(true, true), cart)
	b.talks("app")
	b.calls("app")
	b.line("app")
}

func testByHeader(b *bay) {
	ada := b.laptop("ada")
	mine := []string{"x-dev", "ada"}
	http1, http2 := b.client(false, true), b.client(true, true)
	b.answers("app", http1, cart, mine...)
	all := []*running{
		b.intercept("ada", "cart", "--port", ada.at(8080), "--header", "x-dev=ada"),
		b.intercept("ada", "cart", "--port", ada.at(9090), "--header", "x-dev=ada"),
	}
	for range 2 { // mine and others' on the same connections
		b.answers("ada", http1, cart, mine...)
		b.answers("app", http1, cart)
		b.answers("ada", http2, cart, mine...)
		b.answers("app", http2, cart, "x-dev", "adam")
	}
	b.talks("ada", mine...)
	b.talks("app")
	b.calls("ada", mine...)
	b.calls("app")
	b.line("app")
	b.leave(all...)
	b.answers("app", http1, cart, mine...)
	b.answers("app", http2, cart, mine...)
}

func testSeveralOwners(b *bay) {
	var all []*running
	c, http2 := b.client(false, true), b.client(true, true)
	for _, who := range []string{"ada", "bob", "eve"} {
		all = append(all, b.intercept(who, "cart", "--port", b.laptop(who).at(8080), "--header", "x-dev="+who))
	}
	for _, who := range []string{"ada", "bob", "eve", "ada"} {
		b.answers(who, c, cart, "x-dev", who)
		b.answers(who, http2, cart, "x-dev", who)
	}
	b.answers("app", c, cart)
	owners := map[string]int{}
	for _, i := range b.list() {
		owners[strings.Split(i.Owner, "@")[0]]++
		if i.State != steer.Active || i.Pods != 1 || i.Of != 1 || i.Counters.Requests < 10 {
			b.Errorf("%+v", i)
		}
	}
	if len(owners) != 3 {
		b.Errorf("the owners are %v", owners)
	}
	for _, args := range [][]string{
		{"intercept", "cart", "--port", "1"},
		{"intercept", "cart", "--port", "1", "--header", "x-dev=e*"},
		{"intercept", "cart", "--port", "1", "--path", "/cart"},
		{"run", "cart", "--intercept", "--header", "x-dev=eve", "--", "false"},
	} {
		b.refused(refusal{code: 1, says: []string{`(ada|bob|eve)@\S+ already intercepts requests with header x-dev=`}, env: []string{"BIGHT_USER=mallory"}}, inNamespace(b.namespace, args)...)
	}
	b.leave(all...)
}

func testMirror(b *bay) {
	ada := b.laptop("ada")
	s := b.intercept("ada", "cart", "--mirror", "--port", ada.at(8080))
	b.answers("app", b.client(false, true), cart)
	b.answers("app", b.client(true, true), cart)
	b.eventually("the copies have come", func() error {
		if got, err := ada.counters(); err != nil || got["requests"] != 10 {
			return fmt.Errorf("%v, %v; want 10", got, err)
		}
		return nil
	})
	b.leave(s)
}

// testOneOwnerTwice has one user with two rules: what would be a matter of which came
// last is refused, the rest said.
func testOneOwnerTwice(b *bay) {
	ada, other := b.laptop("ada"), b.laptop("other")
	some := b.intercept("ada", "cart", "--port", ada.at(8080), "--header", "x-dev=ada")
	for _, flags := range [][]string{{"--header", "x-dev=ada"}, {"--header", "x-dev=ada", "--path", "/"}, {"--header", "x-team=a"}} {
		args := append([]string{"intercept", "cart", "--port", "1"}, flags...)
		b.refused(refusal{code: 1, says: []string{`cart-\d+-[a-z]{5}, another intercept of yours, has requests with header x-dev=ada for cart:8080`, `bight intercept leave cart-\d+-[a-z]{5},`}, env: []string{"BIGHT_USER=ada"}},
			inNamespace(b.namespace, args)...)
	}
	all := b.intercept("ada", "cart", "--port", other.at(8080))
	all.says("requests that match both go there")
	b.answers("ada", b.client(false, false), cart, "x-dev", "ada")
	b.answers("other", b.client(false, false), cart)
	b.leave(some, all)
	// One that was killed is in nobody's way.
	killed := b.intercept("ada", "cart", "--port", ada.at(8080))
	killed.signal(syscall.SIGKILL)
	again := b.intercept("ada", "cart", "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), cart)
	b.interrupt(again)
	b.eventually("the lease of the killed one is over", func() error {
		if left := b.list(); len(left) > 0 {
			return fmt.Errorf("there is %+v", left)
		}
		return nil
	})
}

// testWithoutSource works where no source is, with what the cluster says.
func testWithoutSource(b *bay) {
	empty := b.on(b.T)
	empty.dir = b.TempDir()
	tool := b.program("tool")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--", tool, "get", cart}, "app HTTP/1.1 cart-"},
		{[]string{"run", "cart", "--", "sh", "-c", "echo $GREETING"}, "good morning"},
		{[]string{"intercept", "list", "-o", "json"}, `"intercepts": []`},
		{[]string{"env", "cart"}, "GREETING='good morning'"},
		{[]string{"status"}, "cart     1/1    unknown"},
		{[]string{"status", "-o", "json"}, `"noSource": true`},
	} {
		out, errs, code := empty.bight(inNamespace(b.namespace, test.args)...)
		if code != 0 || !strings.Contains(out, test.want) {
			b.Errorf("%s: exit code %d, %q, want %q\n%s", test.args, code, out, test.want, errs)
		}
	}
	ada := b.laptop("ada")
	s := empty.intercept("ada", "cart", "--port", ada.at(8080), "--header", "x-dev=ada")
	b.answers("ada", b.client(false, false), cart, "x-dev", "ada")
	all := b.list()
	if len(all) != 1 {
		b.Fatalf("there is %+v", all)
	}
	for user, want := range map[string]bool{"ada": true, "bob": false} {
		out, errs, _ := empty.bightWith([]string{"BIGHT_USER=" + user}, "__complete", "intercept", "leave", "-n", b.namespace, "")
		if strings.HasPrefix(out, all[0].ID+"\tcart:8080, ") != want {
			b.Errorf("intercept leave is completed for %s by %q, want %s in it: %t\n%s", user, out, all[0].ID, want, errs)
		}
	}
	if out, errs, code := empty.bightWith([]string{"BIGHT_USER=ada"}, "intercept", "leave", all[0].ID, "-n", b.namespace); code != 0 {
		b.Errorf("leave: exit code %d\n%s%s", code, out, errs)
	}
	<-s.ended
	if want := "intercept " + all[0].ID + " ends: this process was told to, by bight intercept leave"; !strings.Contains(s.output.String(), want) {
		b.Errorf("the one that was left says nothing of it:\n%s", s.output.String())
	}
	empty.refused(refusal{code: 4, says: []string{`there is no namespace t-nothing \(context bight\): -n names another`, `--source`}}, "run", "-n", "t-nothing", "--", "true")
	empty.refused(refusal{code: 4, says: []string{`nothing that bight up deployed is in namespace kube-public \(context bight\)`, `-n`, `--source`}}, "run", "-n", "kube-public", "--", "true")
	empty.refused(refusal{code: 4, says: []string{`nothing that bight up deployed is in namespace kube-public \(context bight\)`}}, "status", "-n", "kube-public")
	empty.refused(refusal{code: 4, says: []string{`no service "crt"; did you mean cart\?`}}, inNamespace(b.namespace, []string{"env", "crt"})...)
}

func testNobodyListens(b *bay) {
	nobody := (&laptop{offset: freeOffset(b.T)}).at(8080)
	s := b.intercept("ada", "cart", "--port", nobody)
	s.says("nothing listens on port " + strings.Split(nobody, ":")[0] + " of this machine yet: the app answers the requests")
	for _, http2 := range []bool{false, true} {
		a, err := b.ask(b.client(http2, true), cart)
		if err != nil || a.code != 200 || a.who != "app" || !strings.Contains(a.marker, "connection refused") {
			b.Errorf("HTTP/2 %v: %+v, %v; want the app's answer with a marker", http2, a, err)
		}
	}
	b.leave(s)
	s = b.intercept("ada", "cart", "--port", nobody, "--strict")
	for _, http2 := range []bool{false, true} {
		a, err := b.ask(b.client(http2, true), cart)
		if err != nil || a.code != 502 || a.who != "" || !strings.Contains(a.marker+a.body, "connection refused") {
			b.Errorf("--strict, HTTP/2 %v: %+v, %v; want 502", http2, a, err)
		}
	}
	b.leave(s)
}

func testBridgeBadInput(b *bay) {
	b.grant("looker", rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "services", "secrets", "namespaces"}, Verbs: []string{"get", "list", "watch"}})
	looker := as(b.T, "looker")
	tests := []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"NearName", []string{"run", "crat", "--", "true"}, 4, []string{`no service "crat"; did you mean cart\? There is cart, load, stock \(namespace \S+, context bight\)`}},
		{"NearNameOfIntercept", []string{"intercept", "stok", "--port", "1"}, 4, []string{`no service "stok"; did you mean stock\?`}},
		{"NearNameOfEnv", []string{"env", "carts"}, 4, []string{`no service "carts"; did you mean cart\?`}},
		{"UnknownPort", []string{"intercept", "cart", "--port", "1:81"}, 4, []string{`service cart has no port 81; there is 8080 \(http\), 9090 \(grpc\), 7000 \(raw\)`}},
		{"UDP", []string{"intercept", "cart", "--port", "1:echo"}, 2, []string{`port echo of service cart speaks UDP`}},
		{"NoPort", []string{"intercept", "cart"}, 2, []string{`say where the process listens on this machine, as in --port 8080`}},
		{"HeaderOnTCP", []string{"intercept", "cart", "--port", "1:raw", "--header", "x-dev=ada"}, 2, []string{`port 7000 of cart speaks plain TCP, which has neither headers nor paths`}},
		{"NoCommand", []string{"run", "cart"}, 2, []string{`name it after --`}},
		{"CommandNotFound", []string{"run", "cart", "--intercept", "--", "no-such-command"}, 127, []string{`start no-such-command: .*no such program in PATH`}},
		{"CommandNotExecutable", []string{"run", "cart", "--", "/etc/passwd"}, 126, []string{`start /etc/passwd: .*can't be executed`}},
		{"HeaderWithoutIntercept", []string{"run", "cart", "--header", "x-dev=ada", "--", "true"}, 2, []string{`add --intercept or --mirror`}},
		{"InterceptWithoutService", []string{"run", "--intercept", "--", "true"}, 2, []string{`say whose requests come here`}},
		{"TwoModes", []string{"run", "cart", "--intercept", "--mirror", "--", "true"}, 2, []string{`--intercept and --mirror: .*leave one out`}},
		{"HeaderWithColon", []string{"run", "cart", "--intercept", "--header", "x-dev: ada", "--", "true"}, 2, []string{`write --header x-dev=ada`}},
		{"HeaderWithoutValue", []string{"intercept", "cart", "--port", "1", "--header", "x-dev="}, 2, []string{`the header x-dev has no value`}},
		{"HeaderTwice", []string{"intercept", "cart", "--port", "1", "--header", "x-dev=a", "--header", "x-dev=b"}, 2, []string{`no request can have both`}},
		{"Path", []string{"intercept", "cart", "--port", "1", "--path", "cart"}, 2, []string{`--path "cart"`, `/cart`}},
		{"NoRight", []string{"run", "cart", "--kubeconfig", looker, "--", "true"}, 3, []string{`create pods/portforward`, b.namespace}},
		{"NoRightToIntercept", []string{"intercept", "cart", "--port", "1", "--kubeconfig", looker}, 3, []string{`create pods/portforward`, b.namespace}},
		{"NoRightAtAll", []string{"env", "cart", "--kubeconfig", as(b.T, "nobody")}, 3, []string{`nobody`, b.namespace}},
		{"LeaveWhatIsNot", []string{"intercept", "leave", "cart-1"}, 4, []string{`no intercept cart-1 in namespace \S+ \(context bight\): there is none`}},
	}
	for _, test := range tests {
		b.Run(test.name, func(t *testing.T) {
			b.on(t).refused(refusal{code: test.code, says: test.says}, inNamespace(b.namespace, test.args)...)
		})
	}
	b.Run("NotDeployed", func(t *testing.T) {
		b := b.on(t)
		b.namespace += "-not"
		says := []string{`there is no namespace ` + b.namespace, `bight up -n `}
		for _, args := range [][]string{{"run", "cart", "--", "true"}, {"run", "--", "true"}, {"intercept", "cart", "--port", "1"}, {"env", "cart"}} {
			b.refused(refusal{code: 4, says: says}, inNamespace(b.namespace, args)...)
		}
	})
	if left := b.list(); len(left) > 0 {
		b.Errorf("there is %+v", left)
	}
}
