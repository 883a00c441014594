package steer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/stream"
)

// kernel is what brings connections to a door.
type kernel struct {
	mu    sync.Mutex
	fails error
	told  [][]int
}

func (k *kernel) steer(ports []int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fails != nil {
		return k.fails
	}
	k.told = append(k.told, slices.Clone(ports))
	return nil
}

func (k *kernel) was(t *testing.T, want ...[]int) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if diff := cmp.Diff(want, k.told); diff != "" {
		t.Errorf("ports that were told (-want +got):\n%s", diff)
	}
}

func TestPortsWithRulesAreTold(t *testing.T) {
	k := &kernel{}
	p := newPod(t, serve(t, named("app")), follow, func(p *pod) {
		p.host.Steer = k.steer
		p.host.Doors = append(p.host.Doors, &Door{Port: 9000})
	})
	anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
	first := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to("127.0.0.1:1"))
	second := ben.join(t, ben.rule(Intercept, header("x-user", "ben")), to("127.0.0.1:1"))
	other := ben.rule(Mirror, Match{})
	other.Port = 9000
	third := ben.join(t, other, to("127.0.0.1:1"))
	leave(t, first)
	leave(t, third)
	leave(t, second)
	k.was(t, []int{8080}, []int{8080, 9000}, []int{8080}, nil)
}

func TestARuleThatCanNotBeObeyedIsRefused(t *testing.T) {
	k := &kernel{fails: errors.New("the kernel has no such module")}
	p := newPod(t, serve(t, named("app")), func(p *pod) { p.host.Steer = k.steer })
	anna := newPerson(t, p, "anna")
	_, err := anna.Join(t.Context(), anna.sess, anna.rule(Intercept, Match{}), to("127.0.0.1:1"))
	refused, ok := errors.AsType[*RefusedError](err)
	if want := "requests for port 8080 of cart can't be brought to the agent: the kernel has no such module"; !ok || refused.Why != want {
		t.Errorf("got %v, want refused: %s", err, want)
	}
	if got := p.host.List(); len(got) != 0 {
		t.Errorf("rules: got %+v, want none", got)
	}
	k.was(t)
}

func TestARuleThatTakesLongToComeIntoForceIsThenActive(t *testing.T) {
	// The laptop, which waits for the outcome, gives no signs of life meanwhile.
	p := newPod(t, serve(t, named("app")), quick, func(p *pod) {
		p.host.Steer = func(ports []int) error {
			if len(ports) > 0 {
				<-time.After(2 * p.host.Suspend)
			}
			return nil
		}
	})
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	if got := m.Status().State; got != Active {
		t.Errorf("joined, the rule is %s, want %s", got, Active)
	}
	leave(t, m)
}

func TestWhoMayNotHaveARuleIsRefused(t *testing.T) {
	p := newPod(t, serve(t, named("app")), func(p *pod) {
		p.host.Admit = func(_ *stream.Session, r Rule) error {
			if r.Owner != "anna@laptop" {
				return errors.New("it is anna's")
			}
			return nil
		}
	})
	anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
	_, err := ben.Join(t.Context(), ben.sess, ben.rule(Intercept, Match{}), to("127.0.0.1:1"))
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Why != "it is anna's" {
		t.Errorf("got %v, want refused: it is anna's", err)
	}
	leave(t, anna.join(t, anna.rule(Intercept, Match{}), to("127.0.0.1:1")))
}

// An agent that ends takes its rules back and has no new ones: that is no reason to abort what
// a laptop is about to answer.
func TestARequestOutlastsTheRuleThatAnAgentTakesBack(t *testing.T) {
	var closing atomic.Bool
	p := newPod(t, serve(t, named("app")), func(p *pod) {
		p.host.Admit = func(*stream.Session, Rule) error {
			if closing.Load() {
				return errors.New("the agent is ending")
			}
			return nil
		}
	})
	anna := newPerson(t, p, "anna")
	addr, came, release := held(t, "anna after all")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(addr))
	c := dial(t, p.addr)
	c.send(t, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	<-came
	closing.Store(true)
	p.host.Leave(errors.New("the agent is ending"))
	<-m.Done()
	if m.Err() == nil {
		t.Error("no reason why the rule is over")
	}
	close(release)
	_, body := c.answer(t, "POST")
	want(t, "on its way", body, "anna after all")
	_ = c.Close()
	select {
	case <-m.ctx.Done():
	case <-time.After(limit):
		t.Error("something is left of it")
	}
}

func TestRulesOfASessionAreEnded(t *testing.T) {
	p := newPod(t, serve(t, named("app")), follow, func(p *pod) {
		var once sync.Once
		p.host.Admit = func(_ *stream.Session, r Rule) error {
			err := errors.New("it is over")
			if r.Owner == "anna@laptop" {
				once.Do(func() { err = nil })
				return err
			}
			return nil
		}
	})
	anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
	m := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serve(t, named("anna"))))
	ben.join(t, ben.rule(Intercept, header("x-user", "ben")), to(serve(t, named("ben"))))
	first := p.host.held()[0].sess
	p.host.End(func(s *stream.Session) bool { return s == first }, errors.New("its grant is over"))
	if l := p.host.List(); len(l) != 1 || l[0].Rule.Owner != "ben@laptop" {
		t.Errorf("rules: got %+v, want ben's", l)
	}
	c := dial(t, p.addr)
	for user, want := range map[string]string{"anna": "app GET /x 0", "ben": "ben GET /x 0"} {
		if _, body := c.get(t, "/x", "X-User: "+user); body != want {
			t.Errorf("request of %s: got %q, want %q", user, body, want)
		}
	}
	<-m.Done() // it asks again, and is told
	if err := m.Err(); err == nil || !strings.Contains(err.Error(), "it is over") {
		t.Errorf("got %v, want refused", err)
	}
}

func TestClientsLeaveADoorThatRetires(t *testing.T) {
	p := newPod(t, serve(t, talking("app")), follow)
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serve(t, talking("anna"))))
	conns := map[string]*client{"app": dial(t, p.addr), "anna": dial(t, p.addr)}
	for user, c := range conns {
		resp, body := c.get(t, "/x", "X-User: "+user)
		if want := user + " GET /x 0"; body != want || resp.Close {
			t.Errorf("before: got %q, close %v, want %q on a connection that goes on", body, resp.Close, want)
		}
	}
	for _, retire := range []bool{true, false} {
		only := &Split{Generation: 1, Port: p.door.Port, Service: "app", Stable: "old", Versions: []Version{{Name: "old", Weight: All}}, Retire: retire}
		if err := p.door.Split("old", only); err != nil {
			t.Fatal(err)
		}
		if resp, _ := dial(t, p.addr).get(t, "/x"); resp.Close != retire {
			t.Errorf("a split that retires (%v) ends the connection: %v", retire, resp.Close)
		}
	}
	p.door.Retire()
	for user, c := range conns {
		resp, body := c.get(t, "/x", "X-User: "+user)
		if want := user + " GET /x 0"; body != want || !resp.Close {
			t.Errorf("after: got %q, close %v, want %q and the end of the connection", body, resp.Close, want)
		}
		if b, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("after the answer: got %q, %v, want the end", b, err)
		}
	}
}

func TestHTTP2ClientsLeaveADoorThatRetires(t *testing.T) {
	p := newPod(t, serveHTTP2(t, talking("app")), follow)
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serveHTTP2(t, talking("anna"))))
	var dials atomic.Int64
	transport := newTransportTo()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	defer transport.CloseIdleConnections()
	l := &load{t: t, url: "http://" + p.addr}
	c := &http.Client{Transport: transport}
	for range 3 {
		if err := l.ask(c, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	p.door.Retire()
	eventually(t, "the client dials again", func() bool {
		if err := l.ask(c, 0, 0); err != nil {
			t.Fatal(err)
		}
		return dials.Load() > 1
	})
}
