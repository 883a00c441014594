package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/release"
)

// manyReleases is how many Releases idleReleases has.
const manyReleases = 10_000

// idleReleases measures a controller with ten thousand Releases that have ended: the
// requests about them that reach the API server, and what they add to its memory. It
// also deploys a change, since only who has deployed looks at an environment's Releases.
func idleReleases(ctx context.Context, b *bed) ([]row, error) {
	const namespace = "bench-releases"
	h, err := b.harbour(ctx)
	if err != nil {
		return nil, err
	}
	remove, err := b.environment(ctx, namespace)
	if err != nil {
		return nil, err
	}
	defer func() { b.remove(ctx, namespace+"-prod"); remove() }()
	if err := b.deployed(ctx, h, namespace); err != nil {
		return nil, err
	}
	if err := b.controllers(ctx, 0); err != nil {
		return nil, err
	}
	others, err := b.watchers(ctx)
	if err != nil {
		return nil, err
	}
	// Whatever happens, the cluster has a controller again.
	defer func() { _ = b.controllers(context.WithoutCancel(ctx), 1) }()
	if _, err := b.freshController(ctx, others); err != nil {
		return nil, err
	}
	empty, _, err := b.rested(ctx)
	if err != nil {
		return nil, err
	}
	// One that has no status yet would be begun.
	if err := b.controllers(ctx, 0); err != nil {
		return nil, err
	}
	began := time.Now()
	size, err := h.endedReleases(ctx, namespace, manyReleases)
	if err != nil {
		return nil, err
	}
	b.say("  %d releases of %d bytes each are made after %s", manyReleases, size, time.Since(began).Round(time.Second))
	full, err := b.freshController(ctx, others)
	if err != nil {
		return nil, err
	}
	used, requests, err := b.rested(ctx)
	if err != nil {
		return nil, err
	}
	const kilobyte = 1e3
	each := func(u usage) float64 { return float64(u.resident-empty.resident) / manyReleases / kilobyte }
	what := fmt.Sprintf("resident memory of the controller over that without releases, %.1f MB, by release", float64(empty.resident)/1e6)
	return []row{
		{Name: "10,000 ended releases: requests about them", Limit: 0.5,
			Ours: series{What: fmt.Sprintf("requests to the API server about any of Bight's objects in %s, watches that go on not counted", b.window), Unit: "requests", Values: []float64{requests}}},
		{Name: "10,000 ended releases: memory of each", Limit: 10,
			Ours: series{What: what + fmt.Sprintf(", %s after its start", b.window), Unit: "KB", Values: []float64{each(used)}}},
		{Name: "10,000 ended releases: memory of each, at once",
			Ours: series{What: what + ", as soon as it has seen them", Unit: "KB", Values: []float64{each(full)}}},
		{Name: "10,000 ended releases: size of each",
			Ours: series{What: "as JSON", Unit: "KB", Values: []float64{float64(size) / kilobyte}}},
	}, nil
}

// deployed deploys a change of an app, whose releases the controller looks at from then on.
func (b *bed) deployed(ctx context.Context, h *harbour, name string) error {
	dir, err := b.write(name, map[string]string{"README.md": "Nothing.\n"})
	if err != nil {
		return err
	}
	if err := errors.Join(repository(ctx, dir), h.makeApp(ctx, name, name)); err != nil {
		return err
	}
	c := &client.Client{Cluster: h.cluster, Namespace: name, System: install.Namespace, Controller: install.Controller, Port: install.ControllerPort}
	if err := c.Open(ctx); err != nil {
		return err
	}
	defer c.Close()
	quiet := slog.New(slog.DiscardHandler)
	s := &ship.Shipper{Cluster: h.cluster, Client: c, Namespace: name, Name: name, Say: func(string) {}, Log: quiet}
	registered, err := s.Register(ctx, ship.Registration{})
	if err != nil {
		return err
	}
	stop := idler(ctx, c, name+"/"+name, quiet)
	defer stop()
	_, err = shipNothing(ctx, s, registered, dir, 1)
	return err
}

// freshController starts a controller, and returns what it uses when it follows Releases
// for both of its parts: those that are under way, and those of environments. So many
// others do, too.
func (b *bed) freshController(ctx context.Context, others int) (usage, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if err := b.controllers(ctx, 1); err != nil {
		return usage{}, err
	}
	err := poll(ctx, 200*time.Millisecond, func() error {
		n, err := b.watchers(ctx)
		if err == nil && n < others+2 {
			err = fmt.Errorf("%d watch Releases, and not yet %d", n, others+2)
		}
		return err
	})
	if err != nil {
		return usage{}, err
	}
	_, used, err := b.controllerNow(ctx)
	return used, err
}

// controllerNow is what controllerUse says of the controller that runs.
func (b *bed) controllerNow(ctx context.Context) (requests float64, used usage, err error) {
	pod, err := b.client.CoreV1().Pods(install.Namespace).Get(ctx, install.Controller+"-0", meta.GetOptions{})
	if err != nil {
		return 0, usage{}, err
	}
	pid, err := controllerProcess(pod)
	if err != nil {
		return 0, usage{}, err
	}
	return b.controllerUse(ctx, pid)
}

// rested watches the controller for a while, and returns what it uses then, and how many
// requests about Bight's objects there were.
func (b *bed) rested(ctx context.Context) (used usage, requests float64, err error) {
	b.rest(ctx)
	before, _, err := b.controllerNow(ctx)
	if err != nil {
		return usage{}, 0, err
	}
	select {
	case <-ctx.Done():
		return usage{}, 0, context.Cause(ctx)
	case <-time.After(b.window):
	}
	after, used, err := b.controllerNow(ctx)
	return used, after - before, err
}

// watchers is how many watch Releases now.
func (b *bed) watchers(ctx context.Context) (int, error) {
	text, err := b.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	return watching(text, "releases")
}

// watching is how many watch a resource of ours now.
func watching(metrics []byte, resource string) (int, error) {
	total := 0
	for line := range strings.Lines(string(metrics)) {
		if !strings.HasPrefix(line, "apiserver_longrunning_requests{") || !strings.Contains(line, `resource="`+resource+`"`) || !strings.Contains(line, `verb="WATCH"`) {
			continue
		}
		_, value, _ := cutLast(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("this is no metric: %.100q", line)
		}
		total += n
	}
	return total, nil
}

// endedReleases makes Releases that have ended as most do, of Deployments that do not
// exist, and returns how large one is.
func (h *harbour) endedReleases(ctx context.Context, namespace string, n int) (size int, err error) {
	numbers := make(chan int)
	var workers sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for range 8 {
		workers.Go(func() {
			for i := range numbers {
				bytes, err := h.endedRelease(ctx, namespace, i)
				mu.Lock()
				if size = bytes; err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		mu.Lock()
		hopeless := len(errs) > 0
		mu.Unlock()
		if hopeless {
			break
		}
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	return size, errors.Join(errs...)
}

// endedRelease makes one.
func (h *harbour) endedRelease(ctx context.Context, namespace string, i int) (size int, err error) {
	r := &v1alpha1.Release{
		TypeMeta:   meta.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Release"},
		ObjectMeta: meta.ObjectMeta{Name: fmt.Sprintf("cart-%05d-71b1fa5bf5", i), Namespace: namespace},
	}
	name := fmt.Sprintf("cart-%05d", i)
	r.Spec = v1alpha1.ReleaseSpec{Deployment: name, Service: name, Version: "cart:v2", Orders: v1alpha1.ReleaseOrders{By: "bight-admin"}}
	var env []string
	for n := range 20 {
		env = append(env, fmt.Sprintf(`{"name":"SETTING_%d","value":"what it is set to, which is a sentence"}`, n))
	}
	r.Spec.Template.Raw = fmt.Appendf(nil, `{"metadata":{"labels":{"app":%q}},"spec":{"containers":[{"name":"cart","image":"registry.example.com/cart:v2","env":[%s]}]}}`, name, strings.Join(env, ","))
	now := meta.NowMicro()
	s := &r.Status
	s.Phase, s.Message, s.Weight, s.Step, s.Steps, s.Started, s.Ended = string(release.Promoted), "it has all requests", "100 %", 2, 2, &now, &now
	s.Stable, s.Canary = v1alpha1.VersionStatus{Hash: "6849678cf6", Image: "cart:v1"}, v1alpha1.VersionStatus{Hash: "657df8d685", Image: "cart:v2", Ready: 3, Pods: 3, Want: 3}
	for n := range 10 {
		s.Events = append(s.Events, v1alpha1.ReleaseEvent{Time: now, Text: fmt.Sprintf("the %d. of what has happened, as it is told to people", n)})
	}
	s.State = &runtime.RawExtension{Raw: []byte(`{"state":{"phase":"Promoted","message":"it has all requests","started":"2026-01-01T10:00:00Z","step":1,"route":{"generation":9,"weight":10000},"pods":3,"ended":"2026-01-01T10:04:00Z","cleaned":true},"since":1767261600000,"template":"71b1fa5bf5"}`)}
	s.Evidence = &runtime.RawExtension{Raw: fmt.Appendf(nil, `{"judge":{"blocks":{"logs":[%s0]}}}`, strings.Repeat("-2.525728644308255,", 60))}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		return 0, err
	}
	all := h.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace)
	if _, err := all.Create(ctx, &unstructured.Unstructured{Object: fields}, meta.CreateOptions{}); err != nil {
		return 0, err
	}
	patch, err := json.Marshal(map[string]any{"status": fields["status"]})
	if err != nil {
		return 0, err
	}
	made, err := all.Patch(ctx, r.Name, types.MergePatchType, patch, meta.PatchOptions{}, "status")
	if err != nil {
		return 0, err
	}
	text, err := made.MarshalJSON()
	return len(text), err
}
