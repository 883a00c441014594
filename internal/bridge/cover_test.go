package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

// agents are the agents of all pods, behind a network that may be away. To them it is a
// net.Listener, on which a token says which pod is wanted.
type agents struct {
	conns chan net.Conn
	over  context.Context
	stop  context.CancelFunc
	shut  chan struct{} // by Close

	mu   sync.Mutex
	open []net.Conn
	away chan struct{} // closed when the network is back, nil while it is there
}

func newAgents(t *testing.T, handle func(context.Context, *stream.Stream)) *agents {
	t.Helper()
	a := &agents{conns: make(chan net.Conn), shut: make(chan struct{})}
	a.over, a.stop = context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		server := &stream.Server{Admit: func(pod string) (string, error) { return pod, nil }, Handle: handle}
		if err := server.Serve(a.over, a); err != nil {
			t.Errorf("serve sessions: %v", err)
		}
	})
	t.Cleanup(func() { a.stop(); serving.Wait() })
	return a
}

func (a *agents) Accept() (net.Conn, error) {
	select {
	case conn := <-a.conns:
		return conn, nil
	case <-a.shut:
		return nil, net.ErrClosed
	}
}

func (a *agents) Close() error {
	close(a.shut)
	return nil
}

func (a *agents) Addr() net.Addr { return stream.Addr{} }

// lose takes the network away.
func (a *agents) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = make(chan struct{})
	for _, conn := range a.open {
		_ = conn.Close()
	}
	a.open = nil
}

// regain brings it back.
func (a *agents) regain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.away)
	a.away = nil
}

func (a *agents) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	a.mu.Lock()
	away := a.away
	a.mu.Unlock()
	if away != nil {
		select {
		case <-away:
		case <-a.over.Done():
			return nil, stream.Permanent(net.ErrClosed)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	conn, err := a.pipe()
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.open = append(a.open, conn)
	}
	return conn, err
}

// pipe leads past the network.
func (a *agents) pipe() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case a.conns <- far:
		return near, nil
	case <-a.over.Done():
		return nil, stream.Permanent(net.ErrClosed)
	}
}

// connect is that of a cover.
func (a *agents) connect(ctx context.Context, pod *core.Pod, handle func(context.Context, *stream.Stream)) (*stream.Session, error) {
	return (&stream.Client{Token: pod.Name, Dial: a.dial, Handle: handle}).Connect(ctx)
}

// join is somebody else's rule in a pod, by another network.
func (a *agents) join(t *testing.T, pod string, rule steer.Rule) *steer.Membership {
	t.Helper()
	dial := func(context.Context) (io.ReadWriteCloser, error) { return a.pipe() }
	sess, err := (&stream.Client{Token: pod, Dial: dial}).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := new(steer.Laptop).Join(t.Context(), sess, rule, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// hosts are what agents serve who have rules.
func hosts(pods ...string) func(context.Context, *stream.Stream) {
	all := map[string]*steer.Host{}
	for _, pod := range pods {
		all[pod] = &steer.Host{Service: "cart", Doors: []*steer.Door{{Port: 8080}}}
	}
	return func(ctx context.Context, st *stream.Stream) { all[st.Session().Who()].Handle(ctx, st) }
}

// cover makes a cover of the service cart that reaches these agents.
func (a *agents) cover(t *testing.T, rule steer.Rule) *cover {
	t.Helper()
	b := &Bridge{
		Service: func(*core.Pod) string { return "cart" },
		Agent:   func(*core.Pod) (int, bool) { return 1, true },
		Log:     slog.New(slog.DiscardHandler),
		Say:     func(text string) { t.Errorf("it says %q", text) },
	}
	c := b.newCover(t.Context(), rule, func(context.Context, steer.Info) (net.Conn, error) { return nil, net.ErrClosed })
	c.connect = a.connect
	t.Cleanup(func() { a.stop(); c.leave() })
	return c
}

// whole is a report of all pods, each of which is ready.
func whole(pods ...*core.Pod) follow.Change {
	all := []runtime.Object{}
	for _, pod := range pods {
		all = append(all, pod)
	}
	return follow.Change{All: all}
}

func readyPod(name, uid string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, UID: types.UID(uid)},
		Spec:       core.PodSpec{Containers: make([]core.Container, 1)},
		Status:     core.PodStatus{Phase: core.PodRunning, Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}},
	}
}

func cartRule(owner string) steer.Rule {
	return steer.Rule{ID: "cart-" + owner, Owner: owner, Service: "cart", Port: 8080, Mode: steer.Intercept}
}

// An agent may take as long to confirm a rule as a process takes to end. Who leaves waits
// neither for that nor for the network, and the agent hears of it if it can.
func TestLeavingDoesNotWaitForTheAgent(t *testing.T) {
	for name, away := range map[string]bool{"the network is there": false, "the network is away": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, given := make(chan bool, 1), make(chan bool, 1)
				a := newAgents(t, func(_ context.Context, st *stream.Stream) {
					if string(st.Header()) == steer.HeaderList {
						_, _ = io.WriteString(st, "[]\n")
						return
					}
					asked <- true
					_, _ = io.Copy(io.Discard, st)
					given <- true // up
				})
				c := a.cover(t, cartRule("ada"))
				c.take(whole(readyPod("cart-0", "a")))
				<-asked
				if away {
					a.lose()
				}
				synctest.Wait()
				left := make(chan bool)
				go func() { c.leave(); close(left) }()
				select {
				case <-left:
				case <-time.After(10 * time.Second):
					t.Fatal("it waits")
				}
				synctest.Wait()
				if len(given) == 0 && !away {
					t.Error("the agent does not hear of it")
				}
			})
		})
	}
}

// The pod of a StatefulSet is replaced by one of the same name while nobody watches.
func TestAPodOfTheSameNameIsAnotherPod(t *testing.T) {
	for name, change := range map[string]func(*core.Pod) follow.Change{
		"the whole is reported": func(pod *core.Pod) follow.Change { return whole(pod) },
		"a change is reported":  func(pod *core.Pod) follow.Change { return follow.Change{Event: watch.Modified, Object: pod} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAgents(t, hosts("cart-0"))
				c := a.cover(t, cartRule("ada"))
				var to []types.UID
				c.connect = func(ctx context.Context, pod *core.Pod, handle func(context.Context, *stream.Stream)) (*stream.Session, error) {
					to = append(to, pod.UID)
					return a.connect(ctx, pod, handle)
				}
				c.take(whole(readyPod("cart-0", "old")))
				synctest.Wait()
				c.take(whole(readyPod("cart-0", "old")))
				synctest.Wait()
				c.take(change(readyPod("cart-0", "new")))
				time.Sleep(grace)
				synctest.Wait()
				if want := []types.UID{"old", "new"}; !slices.Equal(to, want) {
					t.Errorf("it has gone to %q, want %q", to, want)
				}
				if active, ready := c.counts(); active != 1 || ready != 1 {
					t.Errorf("in force in %d of %d pods", active, ready)
				}
			})
		})
	}
}

// The laptop was away for so long that its rule was given up, and somebody else has taken its
// place. The user is told, once, and has the requests again when that one leaves.
func TestARuleThatWasTakenMeanwhileComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := []string{"cart-0", "cart-1"}
		a := newAgents(t, hosts(pods...))
		c := a.cover(t, cartRule("ada"))
		said := make(chan string, 100)
		c.b.Say = func(text string) { said <- text }
		says := func(when string, want ...string) {
			t.Helper()
			if len(said) != 1 {
				t.Fatalf("%s %d things are said, want one", when, len(said))
			}
			text := <-said
			for _, part := range want {
				if !strings.Contains(text, part) {
					t.Errorf("%s it says %q, want %q in it", when, text, part)
				}
			}
		}
		c.take(whole(readyPod(pods[0], "a"), readyPod(pods[1], "b")))
		if err := c.complete(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			a.lose()
			time.Sleep(15 * time.Second)
			var others []*steer.Membership
			for _, pod := range pods {
				others = append(others, a.join(t, pod, cartRule("ben")))
			}
			a.regain()
			time.Sleep(time.Minute)
			says("then", "intercept cart-ada is not in force in every pod", "ben already intercepts every request of cart")
			for _, m := range others {
				if err := m.Leave(t.Context()); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(2 * refusedPause)
			if active, ready := c.counts(); active != 2 || ready != 2 {
				t.Fatalf("in force in %d of %d pods", active, ready)
			}
			says("in the end", "intercept cart-ada is in force in every pod again")
		}
	})
}

// Who may not enter any more is told so, whatever an agent has said before.
func TestTheRightIsTakenAwayAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgents(t, hosts("cart-0"))
		c := a.cover(t, cartRule("ada"))
		c.b.Say = func(string) {}
		var revoked atomic.Bool
		c.connect = func(ctx context.Context, pod *core.Pod, handle func(context.Context, *stream.Stream)) (*stream.Session, error) {
			switch {
			case revoked.Load():
				return nil, fmt.Errorf("%w: the Intercept was deleted", ErrRevoked)
			case pod.Name != "cart-0":
				return nil, &steer.RefusedError{Why: "it is somebody else's"}
			}
			return a.connect(ctx, pod, handle)
		}
		c.take(whole(readyPod("cart-0", "a")))
		if err := c.complete(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.take(whole(readyPod("cart-0", "a"), readyPod("cart-1", "b")))
		synctest.Wait()
		if err := c.failure(); err != nil {
			t.Errorf("what one pod says is %v for all", err)
		}
		revoked.Store(true)
		a.stop() // and the session with it
		select {
		case <-c.revoked:
		case <-time.After(time.Minute):
			t.Fatal("nobody is told")
		}
		if err := c.failure(); !errors.Is(err, ErrRevoked) {
			t.Errorf("it is told %v", err)
		}
	})
}
