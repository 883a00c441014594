package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
)

// harbour is a cluster's controller, and a way to it.
type harbour struct {
	cluster *kube.Cluster
	dynamic dynamic.Interface
}

func (b *bed) harbour(ctx context.Context) (*harbour, error) {
	if _, _, err := runIn(ctx, b.work, nil, b.program("bight"), "install"); err != nil {
		return nil, err
	}
	cluster, err := kube.Load(kube.Options{})
	if err != nil {
		return nil, err
	}
	d, err := cluster.Dynamic()
	return &harbour{cluster: cluster, dynamic: d}, err
}

// makeApp makes an App whose changes run in no preview.
func (h *harbour) makeApp(ctx context.Context, namespace, name string) error {
	a := &v1alpha1.App{
		TypeMeta:   meta.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "App"},
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       v1alpha1.AppSpec{Environments: []v1alpha1.Environment{{Name: "prod"}}, Policy: v1alpha1.Policy{Preview: ptr.To(false)}},
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(a)
	if err != nil {
		return err
	}
	_, err = h.dynamic.Resource(v1alpha1.Apps()).Namespace(namespace).Create(ctx, &unstructured.Unstructured{Object: fields}, meta.CreateOptions{})
	return err
}

// tenSteps measures what the outer loop itself takes: two changes of five steps each
// (review, build, test, merge, deploy), of which none does anything, through the real
// controller, a worker's connection and the API server.
func tenSteps(ctx context.Context, b *bed) ([]row, error) {
	const name = "bench-steps"
	h, err := b.harbour(ctx)
	if err != nil {
		return nil, err
	}
	remove, err := b.environment(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { b.remove(ctx, name+"-prod"); remove() }()
	dir, err := b.write(name, map[string]string{"README.md": "Nothing.\n"})
	if err != nil {
		return nil, err
	}
	if err := repository(ctx, dir); err != nil {
		return nil, err
	}
	if err := h.makeApp(ctx, name, name); err != nil {
		return nil, err
	}
	c := &client.Client{Cluster: h.cluster, Namespace: name, System: install.Namespace, Controller: install.Controller, Port: install.ControllerPort}
	if err := c.Open(ctx); err != nil {
		return nil, err
	}
	defer c.Close()
	quiet := slog.New(slog.DiscardHandler)
	s := &ship.Shipper{Cluster: h.cluster, Client: c, Namespace: name, Name: name, Say: func(string) {}, Log: quiet}
	registered, err := s.Register(ctx, ship.Registration{})
	if err != nil {
		return nil, err
	}
	stop := idler(ctx, c, name+"/"+name, quiet)
	defer stop()
	once := func(ctx context.Context, round int) (time.Duration, error) {
		return shipNothing(ctx, s, registered, dir, round)
	}
	two := func(ctx context.Context, round int) (time.Duration, error) {
		first, err := once(ctx, 2*round)
		if err != nil {
			return 0, err
		}
		second, err := once(ctx, 2*round+1)
		return first + second, err
	}
	all, err := b.alternate(ctx, []string{"ten steps"}, two)
	if err != nil {
		return nil, err
	}
	return []row{{Name: "outer loop: 10 steps that do nothing", Limit: 200,
		Ours: durations("2 changes of 5 steps each, from when the controller has the commit until it is deployed, by the change's own times", all[0])}}, nil
}

// idler is a worker that does every step at once.
func idler(ctx context.Context, c *client.Client, name string, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	model, _ := json.Marshal(&app.App{Name: "nothing"}) // no map or func in it: never fails
	w := &work.Client{
		Hello: work.Hello{Name: "idler", Version: "bench", Slots: 3, Apps: []string{name}},
		Dial:  c.Work, Log: log,
		Do: func(context.Context, work.Order, io.Writer) work.Result {
			return work.Result{State: work.Passed, Message: "nothing to do", Files: map[string][]byte{"app.json": model}}
		},
	}
	go func() { defer close(ended); _ = w.Run(ctx) }()
	return func() { cancel(); <-ended }
}

// shipNothing pushes a commit and returns how long it took from when its change was
// made until its last step ended.
func shipNothing(ctx context.Context, s *ship.Shipper, registered *v1alpha1.App, dir string, round int) (time.Duration, error) {
	if err := fixReadme(dir, round); err != nil {
		return 0, err
	}
	if _, err := gitIn(ctx, dir, "commit", "--quiet", "--all", "--message", marker(round)); err != nil {
		return 0, err
	}
	src, err := ship.ReadSource(ctx, dir)
	if err != nil {
		return 0, err
	}
	name, err := s.Push(ctx, src, registered)
	if err != nil {
		return 0, err
	}
	last, err := s.Follow(ctx, name, func(*v1alpha1.Change) {})
	if err != nil {
		return 0, err
	}
	if last.Status.Phase != v1alpha1.Deployed {
		return 0, fmt.Errorf("change %s is %s: %s", name, last.Status.Phase, last.Status.Message)
	}
	if n := len(last.Status.Steps); n != 5 {
		return 0, fmt.Errorf("change %s has %d steps, not 5", name, n)
	}
	var end time.Time
	for _, step := range last.Status.Steps {
		if step.Ended != nil && step.Ended.After(end) {
			end = step.Ended.Time
		}
	}
	return end.Sub(time.Unix(0, last.Spec.Order)), nil
}

// manyApps is how many Apps idleApps has.
const manyApps = 1000

// idleApps measures a controller with a thousand Apps of which nothing happens: the
// requests about Apps and Changes that reach the API server, and its memory.
func idleApps(ctx context.Context, b *bed) ([]row, error) {
	const namespace = "bench-apps"
	h, err := b.harbour(ctx)
	if err != nil {
		return nil, err
	}
	remove, err := b.environment(ctx, namespace)
	if err != nil {
		return nil, err
	}
	defer remove()
	began := time.Now()
	for i := range manyApps {
		if err := h.makeApp(ctx, namespace, fmt.Sprintf("app-%04d", i)); err != nil {
			return nil, err
		}
	}
	limited, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	if err := poll(limited, time.Second, func() error { return h.allServed(limited, namespace) }); err != nil {
		return nil, err
	}
	b.say("  %d apps are served after %s", manyApps, time.Since(began).Round(time.Second))
	pod, err := b.client.CoreV1().Pods(install.Namespace).Get(ctx, install.Controller+"-0", meta.GetOptions{})
	if err != nil {
		return nil, err
	}
	pid, err := controllerProcess(pod)
	if err != nil {
		return nil, err
	}
	b.rest(ctx)
	before, used, err := b.controllerUse(ctx, pid)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(b.window):
	}
	after, now, err := b.controllerUse(ctx, pid)
	if err != nil {
		return nil, err
	}
	const megabyte = 1e6
	over := now.processor - used.processor
	return []row{
		{Name: "1,000 idle apps: requests about them", Limit: 0.5, // none; a limit of 0 would be no limit
			Ours: series{What: fmt.Sprintf("requests to the API server about Apps, Changes and Tickets in %s, watches that go on not counted", b.window), Unit: "requests", Values: []float64{after - before}}},
		{Name: "1,000 idle apps: memory", Limit: 300,
			Ours: series{What: "resident memory of the controller", Unit: "MB", Values: []float64{float64(now.resident) / megabyte}}},
		{Name: "1,000 idle apps: processor",
			Ours: series{What: "of a core, leader election included", Unit: "%", Values: []float64{100 * float64(over) / float64(b.window)}}},
	}, nil
}

// allServed returns nil when the controller has seen every App of a namespace.
func (h *harbour) allServed(ctx context.Context, namespace string) error {
	list, err := h.dynamic.Resource(v1alpha1.Apps()).Namespace(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for _, u := range list.Items {
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		if len(conditions) > 0 {
			ready++
		}
	}
	if ready < len(list.Items) || ready < manyApps {
		return fmt.Errorf("%d of %d are served", ready, manyApps)
	}
	return nil
}

// controllerProcess is the pid of a controller's pod.
func controllerProcess(pod *core.Pod) (int, error) {
	return processOfPod(string(pod.UID), "/srv/app/bight-outer", "controller")
}

// controllerUse is how many requests about Bight's objects the API server has
// answered, and what the controller has used.
func (b *bed) controllerUse(ctx context.Context, pid int) (requests float64, used usage, err error) {
	text, err := b.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, usage{}, err
	}
	if requests, err = requestsAbout(text, v1alpha1.Group); err != nil {
		return 0, usage{}, err
	}
	used, err = processUsage(pid)
	return requests, used, err
}

// requestsAbout adds up the API server's count of requests about one group's objects,
// but for watches, which are counted when they end.
func requestsAbout(metrics []byte, group string) (float64, error) {
	total := 0.0
	for line := range bytes.Lines(metrics) {
		text := string(line)
		if !strings.HasPrefix(text, "apiserver_request_total{") || !strings.Contains(text, `group="`+group+`"`) || strings.Contains(text, `verb="WATCH"`) {
			continue
		}
		_, value, ok := cutLast(strings.TrimSpace(text), " ")
		n, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			return 0, errors.Join(fmt.Errorf("this is no metric: %.100q", text), err)
		}
		total += n
	}
	return total, nil
}
