package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/spec"
)

// quay is a namespace with a workload that is released, pods that ask it, and a client
// of its releases.
type quay struct {
	bed       *bed
	namespace string
	releases  *client.Client
	load      *http.Client
	versions  int
	remove    func()
}

const (
	loadName = "load"
	shopName = "web" // the workload
	loadPort = 8081
)

// quay makes one, with so many pods.
func (b *bed) quay(ctx context.Context, namespace string, pods int32) (_ *quay, err error) {
	if _, err = b.harbour(ctx); err != nil {
		return nil, err
	}
	program := filepath.Join(b.work, "traffic")
	if _, _, err := runIn(ctx, b.root, static(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./test/bench/traffic"); err != nil {
		return nil, err
	}
	image, err := b.pushProgram(ctx, program)
	if err != nil {
		return nil, err
	}
	remove, err := b.environment(ctx, namespace)
	if err != nil {
		return nil, err
	}
	q := &quay{bed: b, namespace: namespace, remove: remove}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	cluster, err := kube.Load(kube.Options{Namespace: namespace})
	if err != nil {
		return nil, err
	}
	if q.releases, err = client.New(cluster); err != nil {
		return nil, err
	}
	for name, n := range map[string]int32{shopName: pods, loadName: 1} {
		if err := q.deploy(ctx, name, image, n, true); err != nil {
			return nil, err
		}
	}
	all, err := b.client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: "app=" + loadName})
	if err != nil || len(all.Items) != 1 {
		return nil, fmt.Errorf("there are not one but %d pods that ask: %w", len(all.Items), err)
	}
	q.load = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return cluster.DialPod(ctx, namespace, all.Items[0].Name, loadPort)
		},
	}}
	return q, q.answers(ctx)
}

// answers waits until requests by the Service are answered: of pods that are ready kube-proxy
// hears a little later.
func (q *quay) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return poll(ctx, 100*time.Millisecond, func() error {
		if err := q.start(ctx, 100, 2); err != nil {
			return err
		}
		all, err := q.stop(ctx)
		if n, first := failed(all); err == nil && (n > 0 || len(all) == 0) {
			err = fmt.Errorf("%d of %d requests to the Service fail: %s", n, len(all), first)
		}
		return err
	})
}

// deploy makes a Deployment with a Service, and waits for its pods.
func (q *quay) deploy(ctx context.Context, name, image string, pods int32, doors bool) error {
	port, command := int32(8080), "serve"
	if name == loadName {
		port, command, doors = loadPort, "load", false
	}
	labels := map[string]string{"app": name}
	d := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: name}}
	d.Spec = apps.DeploymentSpec{Replicas: ptr.To(pods), Selector: &meta.LabelSelector{MatchLabels: labels}, RevisionHistoryLimit: ptr.To[int32](1)}
	d.Spec.Template = core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: labels}, Spec: core.PodSpec{Containers: []core.Container{{
		Name: name, Image: image, Command: []string{"/traffic", command}, Env: []core.EnvVar{{Name: "WHO", Value: "first"}},
		Ports: []core.ContainerPort{{ContainerPort: port}},
		ReadinessProbe: &core.Probe{PeriodSeconds: 1, ProbeHandler: core.ProbeHandler{
			HTTPGet: &core.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(port)},
		}},
	}}}}
	if doors { // then no connection is older than they are
		d.Spec.Template.Annotations = map[string]string{v1alpha1.DoorsAnnotation: "true"}
	}
	s := &core.Service{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.ServiceSpec{
		Selector: labels, Ports: []core.ServicePort{{Name: "http", Port: port}},
	}}
	if _, err := q.bed.client.AppsV1().Deployments(q.namespace).Create(ctx, d, meta.CreateOptions{}); err != nil {
		return err
	}
	if _, err := q.bed.client.CoreV1().Services(q.namespace).Create(ctx, s, meta.CreateOptions{}); err != nil {
		return err
	}
	return q.settled(ctx, name)
}

// settled waits until a Deployment has its pods, and no others.
func (q *quay) settled(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return poll(ctx, 100*time.Millisecond, func() error {
		d, err := q.bed.client.AppsV1().Deployments(q.namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return err
		}
		s, n := d.Status, *d.Spec.Replicas
		if s.ObservedGeneration < d.Generation || s.ReadyReplicas != n || s.Replicas != n || s.UpdatedReplicas != n {
			return fmt.Errorf("deployment %s: %d of %d pods are ready, %d are of this version", name, s.ReadyReplicas, n, s.UpdatedReplicas)
		}
		return nil
	})
}

// ask tells the pod that asks something.
func (q *quay) ask(ctx context.Context, path string, values url.Values, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loadName+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := q.load.Do(r)
	if err != nil {
		return fmt.Errorf("tell the load %s: %w", path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the load answers %s with %s: %.300s", path, response.Status, body)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(body, into)
	}
	return err
}

// asked is what became of one request.
type asked struct {
	At, Took int64 // nanoseconds
	Who, Why string
}

func (q *quay) start(ctx context.Context, rate, conns int) error {
	return q.ask(ctx, "/start", url.Values{"url": {"http://" + shopName + ":8080/"}, "rate": {fmt.Sprint(rate)}, "conns": {fmt.Sprint(conns)}}, nil)
}

func (q *quay) stop(ctx context.Context) ([]asked, error) {
	var all []asked
	err := q.ask(ctx, "/stop", nil, &all)
	return all, err
}

func failed(all []asked) (n int, first string) {
	for _, a := range all {
		if a.Why != "" {
			n++
			first = cmp.Or(first, a.Why)
		}
	}
	return n, first
}

// version begins the release of a new version, which its requests say, and waits until
// it is at a weight that stays.
func (q *quay) version(ctx context.Context, weight int32, proven bool, env ...client.Env) (*v1alpha1.Release, string, error) {
	q.versions++
	who := fmt.Sprintf("v%d", q.versions)
	plan := v1alpha1.ReleasePlan{
		Steps: []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(weight), Hold: !proven, Proven: proven}},
		Keep:  &meta.Duration{Duration: time.Second},
	}
	w := client.Wish{Deployment: shopName, Env: append([]client.Env{{Name: "WHO", Value: who}}, env...), Plan: plan}
	r, err := q.releases.Start(ctx, w, func(string) {})
	if err != nil || proven {
		return r, who, err
	}
	return r, who, q.reaches(ctx, r.Name, func(r *v1alpha1.Release) bool { return r.Status.Phase == string(release.Held) })
}

// reaches waits until a release is as it is wanted.
func (q *quay) reaches(ctx context.Context, name string, is func(*v1alpha1.Release) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return poll(ctx, 50*time.Millisecond, func() error {
		r, err := q.releases.Get(ctx, name)
		if err == nil && !is(r) {
			err = fmt.Errorf("release %s is %s: %s", name, r.Status.Phase, r.Status.Message)
		}
		return err
	})
}

// over waits until nothing of a release is left.
func (q *quay) over(ctx context.Context, name string) error {
	if err := q.reaches(ctx, name, spec.Over); err != nil {
		return err
	}
	return q.settled(ctx, shopName)
}

// releases measures releases of a workload, with real requests.
func releases(ctx context.Context, b *bed) (rows []row, err error) {
	for _, measure := range []func(context.Context, *bed) ([]row, error){weights, undos, broken, losses, overhead} {
		some, err := measure(ctx, b)
		rows = append(rows, some...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// weights measures changes of weight, from when they are ordered until every one of ten
// pods obeys, under a load.
func weights(ctx context.Context, b *bed) ([]row, error) {
	q, err := b.quay(ctx, "bench-weights", 10)
	if err != nil {
		return nil, err
	}
	defer q.remove()
	r, _, err := q.version(ctx, 5, false)
	if err != nil {
		return nil, err
	}
	if err := q.start(ctx, 200, 8); err != nil {
		return nil, err
	}
	var took []time.Duration
	for began := time.Now(); time.Since(began) < b.window; {
		weight := release.Weight(100 + 100*(len(took)%9)) // one pod has them all
		a, err := q.releases.Give(ctx, r.Name, client.Weigh(weight), "", patience, func(string) {})
		if err != nil {
			return nil, err
		}
		b.detail("weight", a.Took)
		took = append(took, a.Took)
	}
	all, err := q.stop(ctx)
	if err != nil {
		return nil, err
	}
	lost, why := failed(all)
	if lost > 0 {
		b.say("  a request failed: %s", why)
	}
	if err := q.undone(ctx, r.Name); err != nil {
		return nil, err
	}
	what := "from the order until it is seen that every pod obeys, 10 pods on one node, 200 requests/s"
	return append(tails("release: a weight → observed everywhere", what, took, 250), row{
		Name: "release: requests lost by these weights", Limit: 0.5,
		Ours: series{What: fmt.Sprintf("%d changes, %d requests", len(took), len(all)), Unit: "requests", Values: []float64{float64(lost)}},
	}), nil
}

func (q *quay) undone(ctx context.Context, name string) error {
	if _, err := q.releases.Give(ctx, name, client.Undo(), "", patience, func(string) {}); err != nil {
		return err
	}
	return q.over(ctx, name)
}

// undos measures how long after an order to undo a request still goes to the version,
// with a controller and without one.
func undos(ctx context.Context, b *bed) ([]row, error) {
	q, err := b.quay(ctx, "bench-undo", 3)
	if err != nil {
		return nil, err
	}
	defer q.remove()
	var rows []row
	for _, away := range []bool{false, true} {
		var took, observed []time.Duration
		lost := 0
		for range b.samples {
			last, order, failed, err := q.undo(ctx, away)
			if err != nil {
				return rows, err
			}
			b.detail("undo: the last request", last)
			took, observed, lost = append(took, last), append(observed, order), lost+failed
		}
		name := "release: undo → no new request to the version"
		if away {
			name += ", without a controller"
		}
		what := "from the order until the last request begins that the version answers, 50 % of 400 requests/s"
		rows = append(rows, tails(name, what, took, 250)...)
		rows = append(rows, tails(strings.Replace(name, "no new request to the version", "observed everywhere", 1), "3 pods", observed, 250)...)
		rows = append(rows, row{Name: strings.Replace(name, "undo → no new request to the version", "requests lost by that", 1), Limit: 0.5,
			Ours: series{What: fmt.Sprintf("%d times", b.samples), Unit: "requests", Values: []float64{float64(lost)}}})
	}
	return rows, nil
}

// undo returns when the last request began that the version has answered, and when the
// order was observed, since it was given.
func (q *quay) undo(ctx context.Context, away bool) (last, observed time.Duration, lost int, err error) {
	r, who, err := q.version(ctx, 50, false)
	if err != nil {
		return 0, 0, 0, err
	}
	if away {
		if err := q.bed.controllers(ctx, 0); err != nil {
			return 0, 0, 0, err
		}
		// Whatever happens, the cluster has one again.
		defer func() { err = errors.Join(err, q.bed.controllers(context.WithoutCancel(ctx), 1), q.over(ctx, r.Name)) }()
	}
	if err := q.start(ctx, 400, 8); err != nil {
		return 0, 0, 0, err
	}
	q.bed.rest(ctx)
	ordered := time.Now()
	if _, err := q.releases.Give(ctx, r.Name, client.Undo(), "", patience, func(string) {}); err != nil {
		return 0, 0, 0, err
	}
	observed = time.Since(ordered)
	q.bed.rest(ctx)
	all, err := q.stop(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	seen := false
	for _, a := range all {
		if a.Who == who {
			seen = true
			last = max(last, time.Unix(0, a.At).Sub(ordered))
		}
	}
	if !seen {
		return 0, 0, 0, fmt.Errorf("version %s has answered none of %d requests", who, len(all))
	}
	n, why := failed(all)
	if n > 0 {
		q.bed.say("  a request failed: %s", why)
	}
	if !away {
		err = q.over(ctx, r.Name)
	}
	return last, observed, n, err
}

// controllers has the cluster run so many.
func (b *bed) controllers(ctx context.Context, n int32) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sets := b.client.AppsV1().StatefulSets(install.Namespace)
	if _, err := sets.Patch(ctx, install.Controller, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), meta.PatchOptions{}); err != nil {
		return err
	}
	return poll(ctx, 100*time.Millisecond, func() error {
		s, err := sets.Get(ctx, install.Controller, meta.GetOptions{})
		if err == nil && (s.Status.Replicas != n || s.Status.ReadyReplicas != n) {
			err = fmt.Errorf("there are %d controllers, of which %d are ready, not %d", s.Status.Replicas, s.Status.ReadyReplicas, n)
		}
		return err
	})
}
