package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/steer"
)

const canaryPort = 8081

// canary serves another version, which the pod reaches at the client's address.
func (n *network) canary(t testing.TB) {
	t.Helper()
	ln, err := n.client.Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", clientIP, canaryPort))
	must(t, err)
	web(t, ln, "canary")
}

// shared is a split between the app and the canary.
func shared(generation int64, weight steer.Weight, change ...func(*steer.Split)) *steer.Split {
	s := &steer.Split{Generation: generation, Of: "r", Service: "cart", Port: appPort, Stable: "stable", Versions: []steer.Version{
		{Name: "stable", Weight: steer.All - weight},
		{Name: "canary", Weight: weight, Addresses: []netip.AddrPort{netip.AddrPortFrom(clientIP, canaryPort)}},
	}}
	for _, c := range change {
		c(s)
	}
	return s
}

// count makes requests and tells how many of them each version has answered.
func count(t testing.TB, c *http.Client, requests int) map[string]int {
	t.Helper()
	by := map[string]int{}
	for range requests {
		who, err := ask(c, "POST", "cleo", "abc")
		must(t, err)
		by[who]++
	}
	return by
}

func wantShares(t testing.TB, what string, got map[string]int, app, canary int) {
	t.Helper()
	if got["app"] != app || got["canary"] != canary {
		t.Errorf("%s: answers by %v, want %d by the app and %d by the canary", what, got, app, canary)
	}
}

// A gate needs no intercept to share requests, on connections that are kept and on new
// ones; when that is over nothing is in the way.
func TestASplitAlone(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	n.canary(t)
	before := n.browser(true)
	wantFrom(t, before, "cleo", "app")
	g := n.gate(t)
	if got := n.leftovers(t); got != nil {
		t.Errorf("before the split: got %v in the way, want nothing", got)
	}
	must(t, g.Split(appPort, "stable", shared(1, 2500)))
	kept, fresh := n.browser(true), n.browser(false)
	wantShares(t, "on a connection that is kept", count(t, kept, 40), 30, 10)
	wantShares(t, "on new ones", count(t, fresh, 40), 30, 10)
	wantFrom(t, before, "cleo", "app") // this connection is the app's
	s, has := g.InForce(appPort)
	if !has || s.Generation != 1 || s.Decided != 80 || s.Carried != 20 || s.Old != 1 || g.Decided(appPort)() != 80 {
		t.Errorf("in force is %+v, %v", s, has)
	}
	must(t, g.Split(appPort, "stable", shared(2, steer.All)))
	wantShares(t, "all is the canary's", count(t, kept, 10), 0, 10)
	must(t, g.Split(appPort, "stable", shared(3, 0, func(s *steer.Split) { s.Versions[1].Shut = true })))
	wantShares(t, "it is shut", count(t, kept, 10), 10, 0)
	if _, has := g.InForce(9000); has {
		t.Error("another port has a split, too")
	}

	must(t, g.Split(appPort, "", nil))
	wantShares(t, "it has ended", count(t, kept, 10), 10, 0)
	if _, has := g.InForce(appPort); has {
		t.Error("a split that has ended is in force")
	}
	for _, l := range n.leftovers(t) {
		if l.Rules > 0 {
			t.Errorf("after the split: got %+v in the way, want no rules", l)
		}
	}
}

// A laptop's requests are its own, the others are shared, and neither ends with the
// other.
func TestASplitBesideAnIntercept(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	n.canary(t)
	g := n.gate(t, annas())
	must(t, g.Split(appPort, "stable", shared(1, 5000)))
	m := n.laptop(t, "anna").join(t, rule("anna"), to(local(t, "anna")))
	c := n.browser(true)
	for range 4 {
		wantFrom(t, c, "anna", "anna")
	}
	wantShares(t, "beside it", count(t, c, 20), 10, 10)
	must(t, g.Split(appPort, "", nil))
	wantFrom(t, c, "anna", "anna")
	wantShares(t, "without a split", count(t, c, 4), 4, 0)
	must(t, g.Split(appPort, "stable", shared(2, 5000)))
	leave(t, m)
	wantShares(t, "without the intercept", count(t, c, 20), 10, 10)
	g.Set(nil)
	wantShares(t, "without its grant", count(t, c, 20), 10, 10)
}

// What another version has been asked is answered, for as long as the one who closes the gate
// will wait.
func TestClosingWaitsForSharedRequests(t *testing.T) {
	for name, patient := range map[string]bool{"as long as it takes": true, "no longer": false} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			n.app(t)
			ln, err := n.client.Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", clientIP, canaryPort))
			must(t, err)
			came, taken := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(taken) })
			busy(t, ln, "canary", func() {
				close(came)
				<-taken
			})
			defer release()
			g := n.gate(t)
			must(t, g.Split(appPort, "stable", shared(1, steer.All)))
			answer := make(chan string, 1)
			go func() {
				who, err := ask(n.browser(false), "POST", "cleo", "abc")
				if err != nil {
					who = "nobody"
				}
				answer <- who
			}()
			<-came
			ctx, lose := context.WithCancel(t.Context()) // patience
			defer lose()
			closed := make(chan error, 1)
			go func() { closed <- g.Close(ctx) }()
			eventually(t, "new requests are the app's", func() bool {
				return !slices.ContainsFunc(n.leftovers(t), func(l node.Leftover) bool { return l.Rules > 0 })
			})
			wantFrom(t, n.browser(false), "cleo", "app")
			want := "nobody"
			if patient {
				want = "canary"
				release()
			} else {
				lose()
			}
			if got := <-answer; got != want {
				t.Errorf("answered by %s, want %s", got, want)
			}
			must(t, <-closed)
		})
	}
}

// The canary's own door gives its app what another has carried, without the header.
func TestACarriedRequestIsNotDecidedAgain(t *testing.T) {
	n := newNetwork(t)
	ln, err := n.pod.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", appPort))
	must(t, err)
	var header atomic.Value
	s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { header.Store(fmt.Sprint(r.Header["Bight-Carried"])) })}
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() { s.Close(); done.Wait() })
	var told atomic.Int64
	o := options(nil)
	o.Outcome = func(port int, out *steer.Outcome) {
		if port == appPort && out.Of == "r" {
			told.Add(1)
		}
	}
	g, err := Open(t.Context(), n.pod, o)
	must(t, err)
	defer shut(t, g)
	must(t, g.Split(appPort, "canary", &steer.Split{
		Generation: 1, Of: "r", Service: "cart", Port: appPort, Stable: "canary", Versions: []steer.Version{{Name: "canary", Weight: steer.All}},
	}))
	c := n.browser(true)
	for i, carried := range []bool{true, false} {
		r, err := http.NewRequest("GET", "http://"+at(podIP).String()+"/", nil)
		must(t, err)
		if carried {
			r.Header.Set("Bight-Carried", "1")
		}
		resp, err := c.Do(r)
		must(t, err)
		resp.Body.Close()
		if got := header.Load(); got != "[]" {
			t.Errorf("the app got the header %v", got)
		}
		eventually(t, "the outcome is told", func() bool { return told.Load() == int64(i) })
	}
}

// splitClients make requests that are not done twice, and never pause.
func splitClients(t *testing.T, n *network, ctx context.Context, failed func(error)) (wait func(), canary *atomic.Int64) {
	t.Helper()
	var clients sync.WaitGroup
	canary = &atomic.Int64{}
	for i := range 4 {
		c := n.browser(i%2 == 0)
		clients.Go(func() {
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				who, err := ask(c, "POST", "cleo", "abc")
				if err != nil {
					failed(err)
				} else if who == "canary" {
					canary.Add(1)
				}
			}
		})
	}
	return clients.Wait, canary
}

func TestChangesOfASplitUnderLoad(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	n.canary(t)
	g := n.gate(t)
	ctx, cancel := context.WithCancel(t.Context())
	wait, canary := splitClients(t, n, ctx, func(err error) { t.Error(err) })
	defer wait()
	defer cancel()
	for i := range int64(50) {
		seen := canary.Load()
		must(t, g.Split(appPort, "stable", shared(1+i, []steer.Weight{500, 5000, steer.All}[i%3])))
		eventually(t, "requests reach the canary", func() bool { return canary.Load() > seen || t.Failed() })
		if i%5 == 4 {
			must(t, g.Split(appPort, "", nil))
		}
		if t.Failed() {
			return
		}
	}
}

func TestClosingWithASplitLosesNoRequest(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	n.canary(t)
	g := n.gate(t)
	must(t, g.Split(appPort, "stable", shared(1, 5000)))
	ctx, cancel := context.WithCancel(t.Context())
	wait, canary := splitClients(t, n, ctx, func(err error) { t.Error(err) })
	defer wait()
	defer cancel()
	eventually(t, "requests reach the canary", func() bool { return canary.Load() > 10 || t.Failed() })
	limited, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	must(t, g.Close(limited))
	if limited.Err() != nil {
		t.Error("the clients did not leave the door")
	}
	wantShares(t, "after it", count(t, n.browser(false), 10), 10, 0)
	if got := n.leftovers(t); got != nil {
		t.Errorf("left over: got %v, want nothing", got)
	}
}

// TestARetiredGateMakesRoom has an answer that the canary ends when another gate is open.
func TestARetiredGateMakesRoom(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	ln, err := n.client.Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", clientIP, canaryPort))
	must(t, err)
	enough := make(chan struct{})
	slow := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		must(t, http.NewResponseController(w).Flush())
		<-enough
		_, _ = io.WriteString(w, "all of it")
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = slow.Serve(ln) })
	t.Cleanup(func() { slow.Close(); serving.Wait() })
	g := n.gate(t, annas())
	must(t, g.Split(appPort, "stable", shared(1, steer.All)))
	answer, err := n.browser(false).Get("http://" + at(podIP).String() + "/")
	must(t, err)
	defer answer.Body.Close()

	g.Retire(t.Context())
	wantFrom(t, n.browser(false), "cleo", "app")
	if got := n.leftovers(t); got != nil {
		t.Errorf("of a gate that has retired is left over: got %v, want nothing", got)
	}
	next := n.gate(t, annas())
	must(t, next.Split(appPort, "stable", shared(2, 0)))
	n.laptop(t, "anna").join(t, rule("anna"), to(local(t, "anna")))
	wantFrom(t, n.browser(false), "anna", "anna")
	wantFrom(t, n.browser(false), "cleo", "app")
	if s, has := next.InForce(appPort); !has || s.Decided != 1 {
		t.Errorf("in force at the next gate is %+v, %v", s, has)
	}
	close(enough)
	if b, err := io.ReadAll(answer.Body); string(b) != "all of it" || err != nil {
		t.Errorf("what came through the first: got %q, %v", b, err)
	}
	limited, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	if err := g.Close(limited); err != nil || limited.Err() != nil {
		t.Errorf("it does not end: %v", err)
	}
	wantFrom(t, n.browser(false), "anna", "anna")
}

// TestWhoeverIsConnectedHearsOfACut has an answer of the canary that never ends by itself.
func TestWhoeverIsConnectedHearsOfACut(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	ln, err := n.client.Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", clientIP, canaryPort))
	must(t, err)
	endless := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		must(t, http.NewResponseController(w).Flush())
		<-r.Context().Done()
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = endless.Serve(ln) })
	t.Cleanup(func() { endless.Close(); serving.Wait() })
	g := n.gate(t)
	must(t, g.Split(appPort, "stable", shared(1, steer.All)))
	answer, err := n.browser(true).Get("http://" + at(podIP).String() + "/")
	must(t, err)
	defer answer.Body.Close()
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(answer.Body)
		read <- err
	}()
	g.Sever()
	select {
	case err := <-read:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("it is not reset: %v", err)
		}
	case <-time.After(limit):
		t.Error("who reads it hears nothing")
	}
	must(t, g.Cut())
	if got := n.leftovers(t); got != nil {
		t.Errorf("left over: got %v, want nothing", got)
	}
}

// TestAKilledGateLeavesAllToTheApp kills the process that shares requests. Those that
// were on their way through it are cut off by the kernel; every new one is the app's.
func TestAKilledGateLeavesAllToTheApp(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	n.canary(t)
	var took []time.Duration
	for range 5 {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.main.Process.Pid))
		must(t, err)
		p := start(t, "split", func(c *exec.Cmd) { c.ExtraFiles = []*os.File{ns} })
		ns.Close()
		fresh := n.browser(false)
		wantShares(t, "while it lives", count(t, fresh, 10), 5, 5)

		begun := time.Now()
		must(t, p.Process.Kill())
		eventually(t, "the app answers", func() bool {
			who, err := ask(fresh, "GET", "cleo", "") // a connection may have been the killed process's
			return err == nil && who == "app"
		})
		took = append(took, time.Since(begun))
		_ = p.Wait() // killed
		eventually(t, "nothing is left over", func() bool { return n.leftovers(t) == nil })
		wantShares(t, "from then on", count(t, fresh, 20), 20, 0)
	}
	slices.Sort(took)
	t.Logf("the app has answered a new connection after SIGKILL in %v", took)
	if took[0] > 10*time.Millisecond {
		t.Errorf("the app has answered a new connection %v after SIGKILL at best, want 10ms", took[0])
	}
}

// TestASplitThatCanNotBeObeyedIsRefused has another process hold the pod's door.
func TestASplitThatCanNotBeObeyedIsRefused(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	n.canary(t)
	other, err := node.OpenDoor(t.Context(), n.pod, node.Options{})
	must(t, err)
	g := n.gate(t)
	err = g.Split(appPort, "stable", shared(1, steer.All))
	if want := "requests for port 8080 of cart can't be brought to the agent"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, has := g.InForce(appPort); has {
		t.Error("it is in force all the same")
	}
	must(t, other.Close())
	must(t, g.Split(appPort, "stable", shared(1, steer.All)))
	wantShares(t, "when the other is gone", count(t, n.browser(false), 5), 0, 5)
}

// A canary that takes no connection costs nobody an answer, and each such request is
// told of.
func TestACanaryThatIsGone(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	var fell atomic.Int64
	o := options(nil)
	o.Outcome = func(_ int, out *steer.Outcome) {
		if out.Fallback && out.Version == "canary" {
			fell.Add(1)
		}
	}
	g, err := Open(t.Context(), n.pod, o)
	must(t, err)
	defer shut(t, g)
	must(t, g.Split(appPort, "stable", shared(1, 5000))) // where nobody listens
	wantShares(t, "it is gone", count(t, n.browser(true), 20), 20, 0)
	eventually(t, "ten outcomes are told", func() bool { return fell.Load() == 10 })
	var c net.Conn
	if c, err = n.pod.Dial(t.Context(), "tcp", netip.AddrPortFrom(clientIP, canaryPort)); err == nil {
		c.Close()
		t.Error("somebody listens there")
	}
}
