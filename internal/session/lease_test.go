package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	leases "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

func TestHolderIsReadAsItIsWritten(t *testing.T) {
	for _, h := range []holder{{"ada", "laptop", 12}, {"ada@example.com", "laptop.local", 1}, {"", "", 0}} {
		if got, ok := parseHolder(h.String()); !ok || got != h {
			t.Errorf("%s: got %+v, %v", h, got, ok)
		}
	}
	for _, text := range []string{"", "ada", "ada@laptop", "ada:3", "ada@laptop:x", "a:1@b"} {
		if h, ok := parseHolder(text); ok {
			t.Errorf("%q: got %+v", text, h)
		}
	}
}

func FuzzParseHolder(f *testing.F) {
	f.Add("ada@laptop:12")
	f.Fuzz(func(t *testing.T, text string) {
		if h, ok := parseHolder(text); ok {
			if again, ok := parseHolder(h.String()); !ok || again != h {
				t.Errorf("%q: %+v became %+v, %v", text, h, again, ok)
			}
		}
	})
}

func TestLeaseFree(t *testing.T) {
	now := time.Unix(1000, 0)
	me := holder{"ada", "laptop", 1}
	spec := func(holder string, age time.Duration) coordination.LeaseSpec {
		renewed, seconds := meta.NewMicroTime(now.Add(-age)), int32(30)
		return coordination.LeaseSpec{HolderIdentity: &holder, RenewTime: &renewed, LeaseDurationSeconds: &seconds}
	}
	lives := func(pid int) bool { return pid == 7 }
	for _, tt := range []struct {
		name string
		spec coordination.LeaseSpec
		want bool
	}{
		{"of nobody", coordination.LeaseSpec{}, true},
		{"given back", spec("", time.Second), true},
		{"of another who lives", spec("bob@laptop:7", 29*time.Second), false},
		{"of another of this machine whom we cannot see", spec("bob@laptop:8", time.Second), false},
		{"of another machine", spec("ada@desk:8", time.Second), false},
		{"of another who vanished", spec("bob@desk:7", 31*time.Second), true},
		{"our own that lives", spec("ada@laptop:7", time.Second), false},
		{"our own that was killed", spec("ada@laptop:8", time.Second), true},
		{"this process", spec("ada@laptop:1", time.Second), true},
		{"of something else", spec("somebody", time.Second), false},
	} {
		if got := leaseFree(tt.spec, me, now, lives); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// cluster is an API server that knows one lease, and can be out of reach.
type cluster struct {
	leases.LeaseInterface
	mu    sync.Mutex
	lease *coordination.Lease
	down  error
}

// do looks at the cluster or changes it.
func (c *cluster) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// age is how long ago the lease was renewed.
func (c *cluster) age() (age time.Duration) {
	c.do(func() { age = time.Since(c.lease.Spec.RenewTime.Time) })
	return age
}

func (c *cluster) answer() error {
	if c.down == nil && c.lease == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, "x")
	}
	return c.down
}

func (c *cluster) Create(_ context.Context, l *coordination.Lease, _ meta.CreateOptions) (*coordination.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return nil, c.down
	}
	if c.lease != nil {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "leases"}, l.Name)
	}
	c.lease = l.DeepCopy()
	c.lease.UID, c.lease.ResourceVersion = "u", "1"
	return c.lease.DeepCopy(), nil
}

func (c *cluster) Get(context.Context, string, meta.GetOptions) (*coordination.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answer(); err != nil {
		return nil, err
	}
	return c.lease.DeepCopy(), nil
}

func (c *cluster) Update(_ context.Context, l *coordination.Lease, _ meta.UpdateOptions) (*coordination.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answer(); err != nil {
		return nil, err
	}
	if l.ResourceVersion != c.lease.ResourceVersion {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "leases"}, l.Name, errors.New("changed"))
	}
	l = l.DeepCopy()
	l.UID, l.ResourceVersion = c.lease.UID, c.lease.ResourceVersion+"1"
	c.lease = l
	return l.DeepCopy(), nil
}

func (c *cluster) Delete(context.Context, string, meta.DeleteOptions) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answer(); err != nil {
		return err
	}
	c.lease = nil
	return nil
}

// keeping runs a lease of ada's in a bubble of time; play changes the cluster, and
// returns when the session is to end.
func keeping(t *testing.T, play func(c *cluster)) (*cluster, error) {
	t.Helper()
	c := &cluster{}
	var err error
	synctest.Test(t, func(t *testing.T) {
		l := &lease{client: c, app: "shop", holder: holder{"ada", "laptop", 1}}
		if err := l.take(t.Context(), "ns"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.keep(ctx) }()
		play(c)
		synctest.Wait()
		cancel()
		err = <-done
	})
	return c, err
}

func TestALeaseIsRenewedAndGivenBack(t *testing.T) {
	c, err := keeping(t, func(c *cluster) {
		time.Sleep(25 * time.Second)
		if age := c.age(); age != 5*time.Second {
			t.Errorf("after 25 s the last renewal was %s ago, want 5s", age)
		}
	})
	if err != nil || c.lease != nil {
		t.Errorf("%v, %v", err, c.lease)
	}
}

func TestALostNetworkEndsNoSession(t *testing.T) {
	c, err := keeping(t, func(c *cluster) {
		c.do(func() { c.down = errors.New("no route to host") })
		time.Sleep(5 * leaseDuration)
		c.do(func() { c.down = nil })
		time.Sleep(leaseRenewal + time.Second) // past the next renewal, not at its very moment
		if age := c.age(); age > leaseRenewal {
			t.Errorf("the last renewal was %s ago", age)
		}
	})
	if err != nil || c.lease != nil {
		t.Errorf("%v, %v", err, c.lease)
	}
}

func TestASessionThatWasReplacedEndsByName(t *testing.T) {
	c, err := keeping(t, func(c *cluster) {
		other := "bob@desk:9"
		c.do(func() { c.lease.Spec.HolderIdentity, c.lease.ResourceVersion = &other, "7" })
		time.Sleep(leaseRenewal)
	})
	var busy *BusyError
	if !errors.As(err, &busy) || !strings.Contains(err.Error(), "bob on desk (process 9)") {
		t.Errorf("got %v", err)
	}
	if c.lease == nil {
		t.Error("the other's lease was removed")
	}
}

func TestASessionThatWasTakenDownEnds(t *testing.T) {
	_, err := keeping(t, func(c *cluster) {
		c.do(func() { c.lease = nil })
		time.Sleep(leaseRenewal)
	})
	if err == nil || !strings.Contains(err.Error(), "bight down") {
		t.Errorf("got %v", err)
	}
}

func TestSomebodyElsesWriteDoesNotCostTheLease(t *testing.T) {
	c, err := keeping(t, func(c *cluster) {
		c.do(func() { c.lease.ResourceVersion = "7" })
		time.Sleep(leaseRenewal + time.Second)
		if age := c.age(); age != time.Second {
			t.Errorf("not renewed for %s", age)
		}
	})
	if err != nil || c.lease != nil {
		t.Errorf("%v, %v", err, c.lease)
	}
}

// api is an API server with one namespace, and the lease of a cluster in it.
type api struct {
	kubernetes.Interface
	cluster *cluster
}

func (a api) CoreV1() corev1.CoreV1Interface                 { return coreAPI{} }
func (a api) CoordinationV1() leases.CoordinationV1Interface { return leaseAPI{cluster: a.cluster} }

type leaseAPI struct {
	leases.CoordinationV1Interface
	cluster *cluster
}

func (l leaseAPI) Leases(string) leases.LeaseInterface { return l.cluster }

type coreAPI struct{ corev1.CoreV1Interface }

func (coreAPI) Namespaces() corev1.NamespaceInterface { return namespaces{} }
func (coreAPI) Secrets(string) corev1.SecretInterface { return secrets{} }

type namespaces struct{ corev1.NamespaceInterface }

func (namespaces) Get(context.Context, string, meta.GetOptions) (*core.Namespace, error) {
	return &core.Namespace{}, nil
}

type secrets struct{ corev1.SecretInterface }

func (secrets) Get(_ context.Context, name string, _ meta.GetOptions) (*core.Secret, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

// slow is a builder that takes its time.
type slow struct {
	image.Builder
	takes time.Duration
}

func (s slow) Build(ctx context.Context, _ *app.App, service *app.Service) (*image.Artifact, error) {
	select {
	case <-time.After(s.takes):
		return &image.Artifact{Service: service.Name, Tree: tree.Tree{}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// building runs ada's session in a bubble of time, with a build that takes so long,
// until there is something to apply; play changes the cluster meanwhile, or ends it.
func building(t *testing.T, takes time.Duration, play func(c *cluster, end func())) (c *cluster, applied bool, err error) {
	t.Helper()
	c = &cluster{}
	a := shopApp()
	a.Services = a.Services[:1]
	s, err := Planned(a, Config{
		Cluster: kube.New(&restclient.Config{}, "", ""), Namespace: "ns", Registry: "registry.example", CacheDir: t.TempDir(),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.maker.builders = map[string]image.Builder{app.BuildGo: slow{takes: takes}}
	s.applier = &deploy.Applier{Client: api{cluster: c}}
	synctest.Test(t, func(t *testing.T) {
		s.Printer = term.New(term.Config{Out: term.Stream{W: io.Discard}, Err: term.Stream{W: io.Discard}})
		defer s.Printer.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var player sync.WaitGroup
		player.Go(func() { play(c, cancel) })
		err = s.claimed(ctx, true, func(context.Context, *lease, []*image.Artifact, error) error {
			applied = true
			return nil
		})
		player.Wait()
	})
	return c, applied, err
}

func TestAClaimIsKeptWhileBuilding(t *testing.T) {
	c, applied, err := building(t, 2*leaseDuration, func(c *cluster, _ func()) {
		time.Sleep(leaseDuration + 5*time.Second)
		var busy *BusyError
		second := &lease{client: c, app: "shop", holder: holder{"bob", "desk", 2}}
		if err := second.take(t.Context(), "ns"); !errors.As(err, &busy) {
			t.Errorf("another takes it: %v", err)
		}
	})
	if err != nil || !applied || c.lease != nil {
		t.Errorf("%v, applied: %t, the lease is %v", err, applied, c.lease)
	}
}

func TestABuildEndsWithTheClaim(t *testing.T) {
	c, applied, err := building(t, time.Hour, func(c *cluster, _ func()) {
		other := "bob@desk:9"
		time.Sleep(time.Second)
		c.do(func() { c.lease.Spec.HolderIdentity, c.lease.ResourceVersion = &other, "7" })
	})
	var busy *BusyError
	if !errors.As(err, &busy) || applied {
		t.Errorf("got %v, applied: %t", err, applied)
	}
	if c.lease == nil {
		t.Error("the other's lease was removed")
	}
}

func TestABuildThatIsInterruptedGivesTheClaimBack(t *testing.T) {
	c, applied, err := building(t, time.Hour, func(_ *cluster, end func()) {
		time.Sleep(time.Second)
		end()
	})
	if !errors.Is(err, context.Canceled) || applied || c.lease != nil {
		t.Errorf("got %v, applied: %t, the lease is %v", err, applied, c.lease)
	}
}

func TestTheSecondOfTwoThatRaceIsRefusedByName(t *testing.T) {
	c := &cluster{}
	first := &lease{client: c, app: "shop", holder: holder{"ada", "laptop", 1}}
	second := &lease{client: c, app: "shop", holder: holder{"bob", "desk", 2}}
	if err := first.take(t.Context(), "ns"); err != nil {
		t.Fatal(err)
	}
	if err := second.take(t.Context(), "ns"); err == nil || !strings.Contains(err.Error(), "ada on laptop (process 1)") {
		t.Errorf("got %v", err)
	}
	if err := first.publish(t.Context(), map[string]string{"cart": "http://x"}); err != nil {
		t.Fatal(err)
	}
	if got := c.lease.Annotations[urlsAnnotation]; got != `{"cart":"http://x"}` {
		t.Errorf("published %s", got)
	}
}
