package gate

import (
	"bufio"
	"context"
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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/steer"
)

func TestRequestsAreSteeredByHeader(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	before := n.browser(true)
	wantFrom(t, before, "anna", "app")
	g := n.gate(t, annas(), grant("ben"))
	anna, ben := n.laptop(t, "anna"), n.laptop(t, "ben")
	if got := n.leftovers(t); got != nil {
		t.Errorf("before the first rule: got %v in the way, want nothing", got)
	}
	ofAnna := anna.join(t, rule("anna"), to(local(t, "anna")))
	ofBen := ben.join(t, rule("ben"), to(local(t, "ben")))

	kept, fresh := n.browser(true), n.browser(false)
	for range 3 {
		for user, want := range map[string]string{"anna": "anna", "ben": "ben", "cleo": "app"} {
			wantFrom(t, kept, user, want)
			wantFrom(t, fresh, user, want)
		}
		wantFrom(t, before, "anna", "app") // this connection is the app's
	}
	rules := g.List()
	if len(rules) != 2 {
		t.Errorf("rules: got %d, want 2", len(rules))
	}
	for _, r := range rules {
		if r.Counters.Requests != 6 || r.Counters.Old != 1 {
			t.Errorf("rule of %s: got %+v, want 6 requests and one connection from before", r.Rule.Owner, r.Counters)
		}
	}
	before.CloseIdleConnections()
	eventually(t, "the connection from before is gone", func() bool { return g.List()[0].Counters.Old == 0 })

	leave(t, ofAnna)
	wantFrom(t, kept, "anna", "app")
	wantFrom(t, fresh, "ben", "ben")
	leave(t, ofBen)
	for _, c := range []*http.Client{kept, fresh, before} {
		wantFrom(t, c, "anna", "app")
		wantFrom(t, c, "ben", "app")
	}
	for _, l := range n.leftovers(t) {
		if l.Rules > 0 {
			t.Errorf("after the last rule: got %+v in the way, want no rules", l)
		}
	}
	again := anna.join(t, rule("anna"), to(local(t, "anna")))
	if got := g.List()[0].Counters.Old; got != 1 { // that of before, which has a new one
		t.Errorf("of a later rule: %d connections from before, want 1", got)
	}
	leave(t, again)
	shut(t, g)
	if got := n.leftovers(t); got != nil {
		t.Errorf("left over: got %v, want nothing", got)
	}
}

// TestOthersAreByteIdentical has a request and an answer that no library would write.
func TestOthersAreByteIdentical(t *testing.T) {
	n := newNetwork(t)
	const request = "POST /a%2Fb?x=%zz HTTP/1.1\r\nhOsT:cart\r\nX-USER:   ben\t\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=\"q\"\r\nabc\r\n000\r\nTrailer: t\r\n\r\n"
	const answer = "HTTP/1.1 299 Odd  reason\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nhi"
	ln, err := n.pod.Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", podIP, appPort))
	must(t, err)
	got := make(chan string, 1)
	var done sync.WaitGroup
	done.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, len(request))
		k, _ := io.ReadFull(c, b) // what has come is compared
		_, _ = io.WriteString(c, answer)
		got <- string(b[:k]) + " to " + c.LocalAddr().String()
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
	n.gate(t, annas())
	n.laptop(t, "anna").join(t, rule("anna"), to("127.0.0.1:1"))

	c, err := n.client.Dial(t.Context(), "tcp", at(podIP))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(limit)))
	_, err = io.WriteString(c, request)
	must(t, err)
	back := make([]byte, len(answer))
	_, err = io.ReadFull(c, back)
	must(t, err)
	if diff := cmp.Diff(answer, string(back)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(request+" to "+at(podIP).String(), <-got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// TestJoinAndLeaveUnderLoad has clients that never pause, on connections that they
// keep and on new ones. None may notice.
func TestJoinAndLeaveUnderLoad(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	r := rule("anna")
	everything := annas()
	everything.Rule = &r
	r.Match = steer.Match{}
	n.gate(t, everything)
	anna := n.laptop(t, "anna")
	addr := local(t, "anna")

	var byApp, byAnna atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for i := range 6 {
		c := n.browser(i%2 == 0)
		clients.Go(func() {
			defer c.CloseIdleConnections()
			for k := 0; ctx.Err() == nil; k++ {
				who, err := ask(c, []string{"GET", "POST", "PUT"}[k%3], "anna", strings.Repeat("x", k%5*1000))
				if err != nil {
					t.Error(err)
					return
				}
				if who == "app" {
					byApp.Add(1)
				} else {
					byAnna.Add(1)
				}
			}
		})
	}
	const times = 100
	began := time.Now()
	for range times {
		seen := byAnna.Load()
		m := anna.join(t, r, to(addr))
		eventually(t, "requests reach the laptop", func() bool { return byAnna.Load() > seen || t.Failed() })
		leave(t, m)
		seen = byApp.Load()
		eventually(t, "requests reach the app", func() bool { return byApp.Load() > seen || t.Failed() })
		if t.Failed() {
			break
		}
	}
	cancel()
	clients.Wait()
	t.Logf("%d answers by the app, %d by the laptop; join and leave take %v", byApp.Load(), byAnna.Load(), time.Since(began)/times)
}

// TestAKilledGateLeavesThePodAsItWas prints how long after SIGKILL the app has
// answered a new connection. The least of several is checked, since machines are
// noisy.
func TestAKilledGateLeavesThePodAsItWas(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	fresh := n.browser(false)
	var took []time.Duration
	for range 5 {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.main.Process.Pid))
		must(t, err)
		c := start(t, "gate", func(c *exec.Cmd) { c.ExtraFiles = []*os.File{ns} })
		ns.Close()
		anna := n.laptop(t, "anna")
		anna.join(t, rule("anna"), to(local(t, "anna")))
		wantFrom(t, fresh, "anna", "anna")

		begun := time.Now()
		must(t, c.Process.Kill())
		eventually(t, "the app answers", func() bool {
			who, err := ask(fresh, "GET", "anna", "") // a connection may have been the killed process's
			return err == nil && who == "app"
		})
		took = append(took, time.Since(begun))
		_ = c.Wait() // killed
		eventually(t, "nothing is left over", func() bool { return n.leftovers(t) == nil })
	}
	slices.Sort(took)
	t.Logf("the app has answered a new connection after SIGKILL in %v", took)
	if took[0] > 10*time.Millisecond {
		t.Errorf("the app has answered a new connection %v after SIGKILL at best, want 10ms", took[0])
	}
}

func TestClosingLosesNoRequest(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	g := n.gate(t, annas())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var m *steer.Membership
	var closing atomic.Bool
	var held atomic.Int64 // requests that the laptop has when the gate takes the rule back
	busy(t, ln, "anna", func() {
		if closing.Load() {
			held.Add(1)
			<-m.Done()
		}
	})
	m = n.laptop(t, "anna").join(t, rule("anna"), to(ln.Addr().String()))
	ctx, cancel := context.WithCancel(t.Context())
	var byAnna atomic.Int64
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for i := range 4 {
		clients.Go(func() {
			c := n.browser(i%2 == 0)
			defer c.CloseIdleConnections()
			for k := 0; ctx.Err() == nil; k++ {
				user := []string{"anna", "ben"}[k%2]
				who, err := ask(c, "POST", user, "abc") // which is not done twice
				if err != nil {
					t.Error(err)
					return
				}
				if who == "anna" {
					byAnna.Add(1)
				}
			}
		})
	}
	eventually(t, "requests reach the laptop", func() bool { return byAnna.Load() > 10 || t.Failed() })
	closing.Store(true)
	eventually(t, "the laptop has a request", func() bool { return held.Load() > 0 || t.Failed() })
	limited, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	must(t, g.Close(limited))
	if limited.Err() != nil {
		t.Error("the clients did not leave the door")
	}
	wantFrom(t, n.browser(false), "anna", "app")
	if got := n.leftovers(t); got != nil {
		t.Errorf("left over: got %v, want nothing", got)
	}
	if _, err := n.connect(t, "anna"); err == nil {
		t.Error("a gate that is closed takes a session")
	}
}

func TestProbesAndExemptSourcesReachTheApp(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	r := rule("anna")
	r.Match = steer.Match{}
	all := annas()
	all.Rule = &r
	g := n.gate(t, all)
	n.laptop(t, "anna").join(t, r, to(local(t, "anna")))
	c, err := n.client.Dial(t.Context(), "tcp", at(podIP))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(limit)))
	in := bufio.NewReader(c)
	for path, want := range map[string]string{"/healthz": "app", "/x": "anna"} {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: cart\r\n\r\n", path)
		resp, err := http.ReadResponse(in, nil)
		must(t, err)
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		if who, _, _ := strings.Cut(string(b), " "); who != want {
			t.Errorf("%s: got an answer by %s, want %s", path, who, want)
		}
	}
	shut(t, g)

	main := n.main.find(t)
	o := options(func(context.Context, string) (node.Process, error) { return main, nil })
	o.Exempt = []netip.Prefix{netip.PrefixFrom(clientIP, 32)}
	g, err = Open(t.Context(), n.pod, o)
	must(t, err)
	defer shut(t, g)
	g.Set([]Grant{all})
	n.laptop(t, "anna").join(t, r, to(local(t, "anna")))
	wantFrom(t, n.browser(false), "anna", "app")
}

// TestARuleThatCanNotBeObeyedIsRefused has another process hold the pod's door.
func TestARuleThatCanNotBeObeyedIsRefused(t *testing.T) {
	n := newNetwork(t)
	n.app(t)
	other, err := node.OpenDoor(t.Context(), n.pod, node.Options{})
	must(t, err)
	g := n.gate(t, annas())
	anna := n.laptop(t, "anna")
	_, err = anna.Join(t.Context(), anna.sess, rule("anna"), to("127.0.0.1:1"))
	wantRefused(t, err, "requests for port 8080 of cart can't be brought to the agent: open a door: another living process holds the steering rules of this pod")
	if got := g.List(); len(got) != 0 {
		t.Errorf("rules: got %+v, want none", got)
	}
	must(t, other.Close())
	anna.join(t, rule("anna"), to(local(t, "anna")))
	wantFrom(t, n.browser(false), "anna", "anna")
}
