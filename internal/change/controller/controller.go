// Package controller is the outer loop in a cluster: it takes what is pushed, has it
// reviewed, built and tested by workers, merges it and brings it to the app's
// environments.
//
// The main type is [Controller]. It serves git and the workers over HTTP, keeps
// repositories, logs and results in a directory, and everything else that it knows
// in the status of Apps and Changes. Of several controllers one acts, the leader.
// What to do next with the changes of one app is decided by [decide], a pure
// function; one goroutine per app carries it out.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/go-logr/logr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/repo/access"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/kube"
)

// Controller is one process of the outer loop.
type Controller struct {
	Cluster *kube.Cluster
	// Dir has the repositories, the logs and the results.
	Dir string
	// Listen is the address of the HTTP service.
	Listen string
	// Pod and Namespace are this process's; the leader's pod is labelled, so that the
	// Kubernetes Service leads to it.
	Pod, Namespace string
	// HookCommand runs this program's git hooks.
	HookCommand []string
	// Beside is what else is done while this process leads, and Paths what else is served.
	Beside func(context.Context) error
	Paths  map[string]http.Handler
	// Guarded is served to those who may.
	Guarded map[string]Guarded
	// Always is done whether this process leads or not.
	Always func(context.Context) error
	// Ledger, if not nil, remembers how changes have gone.
	Ledger  Ledger
	Version string
	Log     *slog.Logger

	client client.Client
	live   client.Reader // past the cache
	// caches has namespaces, too, which the client reads past the cache.
	caches    cache.Cache
	hub       *work.Hub
	git       *repo.Server
	store     repo.Store
	files     *files
	results   *results
	newest    newest
	tickets   tickets
	tokens    *access.Kubernetes
	scrapers  *access.Kubernetes
	envs      environments
	images    verifier
	sources   sources
	strangers strangerRuns
	apps      keyed // one reconcile of an app at a time, with what it starts
	wake      chan v1alpha1.App
}

// Scheme knows the kinds that the controller reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// Run acts, whenever it leads, until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := repo.CheckGit(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	scheme, err := Scheme()
	if err != nil {
		return err
	}
	logger := logr.FromSlogHandler(c.Log.Handler())
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	m, err := ctrl.NewManager(c.Cluster.RESTConfig(), ctrl.Options{
		Scheme:                        scheme,
		Logger:                        logger,
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              "bight-controller",
		LeaderElectionNamespace:       c.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 ptr.To(6 * time.Second),
		RenewDeadline:                 ptr.To(4 * time.Second),
		RetryPeriod:                   ptr.To(time.Second),
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.Namespace{}}}},
		Cache:                         cached(),
		GracefulShutdownTimeout:       ptr.To(10 * time.Second),
	})
	if err != nil {
		return c.Cluster.Explain(err)
	}
	if err := c.set(m); err != nil {
		return err
	}
	return m.Start(ctx)
}

// set puts the parts together.
func (c *Controller) set(m ctrl.Manager) error {
	typed, err := c.Cluster.Typed()
	if err != nil {
		return err
	}
	dynamic, err := c.Cluster.Dynamic()
	if err != nil {
		return err
	}
	c.client, c.live, c.caches = m.GetClient(), m.GetAPIReader(), m.GetCache()
	c.files = &files{dir: filepath.Join(c.Dir, "files")}
	c.results = &results{dir: filepath.Join(c.Dir, "results"), log: c.Log, now: time.Now}
	c.store = repo.Store{Root: filepath.Join(c.Dir, "git")}
	c.tickets.reader = c.live
	c.images.registry = c.Cluster.LocalRegistry
	c.envs.typed, c.envs.dynamic, c.envs.client, c.envs.live, c.envs.log = typed, dynamic, c.client, c.live, c.Log
	c.wake = make(chan v1alpha1.App, 1024)
	c.hub = &work.Hub{Keeper: keeper{c}, Log: c.Log, May: c.mayWork}
	c.admit(typed)
	c.git = &repo.Server{
		Store: c.store, HookCommand: c.HookCommand, Log: c.Log, OnPush: c.pushed,
		Access: &gate{tickets: &c.tickets, tokens: c.tokens},
	}
	r, err := ctrlcontroller.New("app", m, ctrlcontroller.Options{
		Reconciler: reconcile.Func(c.reconcile), MaxConcurrentReconciles: 8, NeedLeaderElection: ptr.To(true),
	})
	if err != nil {
		return err
	}
	if err := c.watch(m, r); err != nil {
		return err
	}
	if c.Always != nil {
		if err := m.Add(always(c.Always)); err != nil {
			return err
		}
	}
	return m.Add(leading{c})
}

// always is what runs whether this process leads or not.
type always func(context.Context) error

var _ manager.LeaderElectionRunnable = always(nil)

// NeedLeaderElection implements [manager.LeaderElectionRunnable].
func (always) NeedLeaderElection() bool { return false }

// Start does it, until ctx ends.
func (a always) Start(ctx context.Context) error { return a(ctx) }

// leading is what runs while this process leads.
type leading struct{ *Controller }

var _ manager.LeaderElectionRunnable = leading{}

// NeedLeaderElection implements [manager.LeaderElectionRunnable].
func (leading) NeedLeaderElection() bool { return true }

// Start serves HTTP, and then lets clients find this pod.
func (l leading) Start(ctx context.Context) error {
	// What is reconciled already has locks of its own.
	if err := l.store.Unlock(time.Now().Add(-300 * time.Millisecond)); err != nil {
		return fmt.Errorf("remove the locks that a killed controller has left: %w", err)
	}
	if err := l.git.Open(); err != nil {
		return err
	}
	defer l.git.Close()
	listener, err := net.Listen("tcp", l.Listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: l.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(l.Log.Handler(), slog.LevelDebug),
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer l.envs.tasks.Wait()
	tasks.Go(func() {
		<-ctx.Done()
		_ = server.Close()
	})
	defer l.sources.tasks.Wait()
	following, stop := context.WithCancel(ctx)
	defer stop()
	l.sources.start(following)
	l.envs.start(ctx)
	if err := l.follow(ctx, l.caches); err != nil {
		return fmt.Errorf("watch the environments: %w", err)
	}
	if err := l.wakeAll(ctx); err != nil {
		return err
	}
	tasks.Go(func() { l.healAll(ctx) })
	if l.Ledger != nil {
		forget, err := l.account(ctx)
		if err != nil {
			return err
		}
		defer forget()
	}
	if l.Beside != nil {
		tasks.Go(func() {
			if err := l.Beside(ctx); err != nil {
				l.Log.Error("what is done beside has ended", "err", err)
				_ = server.Close() // another leads then
			}
		})
	}
	if err := l.announce(ctx); err != nil {
		l.Log.Error("the leader's pod is not labelled", "err", err)
		return err
	}
	l.Log.Info("leading", "pod", l.Pod, "version", l.Version)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// wakeAll has every app looked at: what was seen before this process led was not acted
// upon.
func (c *Controller) wakeAll(ctx context.Context) error {
	var all v1alpha1.AppList
	if err := c.client.List(ctx, &all); err != nil {
		return err
	}
	for _, a := range all.Items {
		c.wakeApp(a.Namespace, a.Name)
	}
	return nil
}

// announce labels this pod as the leader's, and no other.
func (c *Controller) announce(ctx context.Context) error {
	var pods corev1.PodList
	if err := c.live.List(ctx, &pods, client.InNamespace(c.Namespace), client.HasLabels{v1alpha1.LeaderLabel}); err != nil {
		return err
	}
	for _, p := range pods.Items {
		if p.Name == c.Pod {
			continue
		}
		was := p.DeepCopy()
		delete(p.Labels, v1alpha1.LeaderLabel)
		if err := c.client.Patch(ctx, &p, client.MergeFrom(was)); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	own := &corev1.Pod{}
	own.Name, own.Namespace = c.Pod, c.Namespace
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:"true"}}}`, v1alpha1.LeaderLabel)
	return c.client.Patch(ctx, own, client.RawPatch("application/merge-patch+json", patch))
}

func (c *Controller) watch(m ctrl.Manager, r ctrlcontroller.Controller) error {
	toApp := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, o *v1alpha1.Change) []reconcile.Request {
		c.files.stirAll(o.Namespace, o.Name) // who follows a log hears that its step has ended
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: o.Namespace, Name: o.Spec.App}}}
	})
	return errors.Join(
		r.Watch(sourceKind(m.GetCache(), &v1alpha1.App{}, &handler.TypedEnqueueRequestForObject[*v1alpha1.App]{})),
		r.Watch(sourceKind(m.GetCache(), &v1alpha1.Change{}, toApp)),
		r.Watch(wakeSource(c.wake)),
	)
}

// wakeApp has an app looked at again.
func (c *Controller) wakeApp(namespace, name string) {
	a := v1alpha1.App{}
	a.Namespace, a.Name = namespace, name
	select {
	case c.wake <- a:
	default: // a thousand are to be looked at already; what woke it will be seen then or at the next event
	}
}
