//go:build e2e

package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/kube/follow"
)

// oneService is an app of cart alone, without its volume.
func oneService(t testing.TB) *app.App {
	a := shop(t)
	a.Services = a.Services[:1]
	a.Services[0].Volumes = nil
	return a
}

// unnoticed renders pods that no scheduler looks at, so that a test can play
// scheduler and kubelet on any cluster.
func (h *harness) unnoticed(a *app.App, o RenderOptions) []Object {
	h.Helper()
	objs := render(h.TB, a, o)
	for i := range objs {
		if objs[i].Kind != "Deployment" {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(objs[i].JSON, &fields); err != nil {
			h.Fatal(err)
		}
		fields["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["schedulerName"] = "the-test"
		b, err := json.Marshal(fields)
		if err != nil {
			h.Fatal(err)
		}
		objs[i].JSON = b
	}
	return objs
}

// kubelet gives every pod that appears the status that it is told to, until ctx
// ends.
func (h *harness) kubelet(ctx context.Context, status func(*corev1.Pod)) error {
	pods := h.admin.CoreV1().Pods(h.namespace)
	src := follow.Of(pods, metav1.ListOptions{})
	err := src.Changes(ctx, "", func(c follow.Change) error {
		if c.Event != "" {
			c.All = []runtime.Object{c.Object}
		}
		for _, obj := range c.All {
			p := obj.(*corev1.Pod)
			if c.Event == watch.Deleted || len(p.Status.ContainerStatuses) > 0 || p.DeletionTimestamp != nil {
				continue
			}
			status(p)
			if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// rollout applies objs and waits, and plays kubelet as soon as the pods are watched.
func (h *harness) rollout(w *Waiter, a *app.App, objs []Object, status func(*corev1.Pod)) error {
	h.Helper()
	if _, err := h.applier.Apply(h.ctx, a.Name, h.namespace, objs); err != nil {
		h.Fatal(err)
	}
	watched := make(chan struct{}, 1)
	h.requests.mu.Lock()
	h.requests.watched = watched
	h.requests.mu.Unlock()
	ctx, cancel := context.WithCancel(h.ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-watched:
			return h.kubelet(ctx, status)
		case <-ctx.Done():
			return nil // there was nothing to wait for
		}
	})
	w.Client = h.applier.Client
	err := w.Wait(ctx, Rollout{App: a, Namespace: h.namespace, Start: time.Now()})
	cancel()
	if kubeletErr := g.Wait(); kubeletErr != nil {
		h.Fatal(kubeletErr)
	}
	return err
}

func nowReady(p *corev1.Pod) {
	status(0, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}, corev1.ContainerState{})(p)
	p.Status.Phase = corev1.PodRunning
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.ContainersReady, corev1.PodReady} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	}
}

func TestWaitReturnsWhenTheNewRevisionServesAlone(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	a, o := oneService(t), h.options()
	var steps []string
	w := &Waiter{Progress: func(p Progress) { steps = append(steps, string(p.Phase)) }}
	if err := h.rollout(w, a, h.unnoticed(a, o), nowReady); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(steps, " "), "scheduled started ready serving"; got != want {
		t.Errorf("steps are %q, want %q", got, want)
	}

	h.requests.take()
	start := time.Now()
	if err := h.rollout(w, a, h.unnoticed(a, o), nowReady); err != nil {
		t.Fatal(err)
	}
	got := h.requests.take()
	t.Logf("apply and wait, nothing changed: %d requests in %v", len(got), time.Since(start))
	if len(got) != 10 {
		t.Errorf("nothing changed, and there were not 10 requests:\n%s", strings.Join(got, "\n"))
	}

	o.Images["cart"] = strings.Replace(o.Images["cart"], "abab", "cdcd", 1)
	if err := h.rollout(w, a, h.unnoticed(a, o), nowReady); err != nil {
		t.Fatal(err)
	}
	pods, err := h.admin.CoreV1().Pods(h.namespace).List(h.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	serving := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(serving) != 1 || serving[0].Spec.Containers[0].Image != o.Images["cart"] {
		t.Errorf("after the wait %d pods serve, the first with image %s", len(serving), serving[0].Spec.Containers[0].Image)
	}
}

func TestWaitGoesByPodsThatSayThemselvesThatTheyServe(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	runs := func(p *corev1.Pod) { // kubelet asks only after a second
		nowReady(p)
		p.Status.Conditions = p.Status.Conditions[:1]
		p.Status.PodIP, p.Status.PodIPs = "192.0.2.7", []corev1.PodIP{{IP: "192.0.2.7"}}
	}
	var asked []string
	w := &Waiter{Ask: func(_ context.Context, s *app.Service, p *corev1.Pod) error {
		asked = append(asked, s.Name+" at "+p.Status.PodIP)
		return nil
	}}
	a, o := oneService(t), h.options()
	if err := h.rollout(w, a, h.unnoticed(a, o), runs); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"cart at 192.0.2.7"}, asked); d != "" {
		t.Errorf("asked -want +got:\n%s", d)
	}

	// Where nobody can ask them, it is kubelet's word that counts.
	w = &Waiter{Patience: Patience{Probe: 300 * time.Millisecond}, Ask: func(context.Context, *app.Service, *corev1.Pod) error { return errors.New("no way there") }}
	o.Images["cart"] = strings.Replace(o.Images["cart"], "abab", "cdcd", 1)
	var failed *RolloutError
	if err := h.rollout(w, a, h.unnoticed(a, o), runs); !errors.As(err, &failed) || len(failed.Failures) != 1 || failed.Failures[0].Cause != CauseProbe {
		t.Errorf("a pod that nobody has heard from: %v", err)
	}
}

func TestWaitTellsWhatCannotHeal(t *testing.T) {
	none := corev1.ContainerState{}
	for _, tc := range []struct {
		name   string
		status func(*corev1.Pod)
		cause  Cause
		words  string
	}{
		{"registry down", status(0, waits("ErrImagePull", "dial tcp 127.0.0.1:1: connect: connection refused"), none), CauseImage, "connection refused"},
		{"exits at once", status(1, waits("CrashLoopBackOff", "back-off"), corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 3, Message: "no database\n", FinishedAt: metav1.Now()}}), CauseCrash, "no database"},
		{"never listens", status(0, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}, none), CauseProbe, "is not ready"},
		{"unschedulable", func(p *corev1.Pod) {
			unscheduled("0/1 nodes are available: 1 Insufficient memory.")(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "cart"}}
		}, CauseUnschedulable, "Insufficient memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHarness(t)
			h.ensure()
			a := oneService(t)
			w := &Waiter{Patience: Patience{Probe: 300 * time.Millisecond, Schedule: 300 * time.Millisecond}}
			err := h.rollout(w, a, h.unnoticed(a, h.options()), tc.status)
			var r *RolloutError
			if !errors.As(err, &r) || len(r.Failures) != 1 || r.Failures[0].Cause != tc.cause {
				t.Fatalf("Wait = %v, want one failure of cause %s", err, tc.cause)
			}
			if !strings.Contains(err.Error(), tc.words) {
				t.Errorf("the error lacks %q:\n%v", tc.words, err)
			}
		})
	}
}

func TestWaitTellsThatAQuotaRefusesThePods(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	if _, err := h.admin.CoreV1().ResourceQuotas(h.namespace).Create(h.ctx, quota("0"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a := oneService(t)
	err := h.rollout(&Waiter{}, a, h.unnoticed(a, h.options()), nowReady)
	var r *RolloutError
	if !errors.As(err, &r) || r.Failures[0].Cause != CauseRefused || !strings.Contains(err.Error(), "exceeded quota: team") {
		t.Errorf("Wait = %v, want a refusal by quota team", err)
	}
}

func TestWaitRetriesWhatAnEarlierAttemptLeftStuck(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	a := oneService(t)
	broken := status(0, waits("ImagePullBackOff", "the registry was down"), corev1.ContainerState{})
	if err := h.rollout(&Waiter{}, a, h.unnoticed(a, h.options()), broken); err == nil {
		t.Fatal("Wait took a pod that cannot pull for ready")
	}
	if err := h.rollout(&Waiter{}, a, h.unnoticed(a, h.options()), nowReady); err != nil {
		t.Errorf("Wait after the registry came back = %v", err)
	}
}

func TestWaitEndsWithItsContextAndSaysWhatIsMissing(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	a := oneService(t)
	if _, err := h.applier.Apply(h.ctx, a.Name, h.namespace, h.unnoticed(a, h.options())); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(h.ctx, 200*time.Millisecond, fmt.Errorf("the time that was given is over"))
	defer cancel()
	err := (&Waiter{Client: h.applier.Client}).Wait(ctx, Rollout{App: a, Namespace: h.namespace, Start: time.Now()})
	for _, want := range []string{"service cart is not ready", "0 of 1 pods ready", "the time that was given is over"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Wait = %v, want %q in it", err, want)
		}
	}
}

// BenchmarkUnchanged is the deploy part of a bight up with nothing to do. Its
// budget is half of what one kubectl get pods takes on the same cluster.
func BenchmarkUnchanged(b *testing.B) {
	h := newHarness(b)
	h.ensure()
	a := shop(b)
	for _, s := range a.Services {
		s.Volumes = nil
	}
	objs := h.unnoticed(a, h.options())
	w := &Waiter{}
	if err := h.rollout(w, a, objs, nowReady); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		res, err := h.applier.Apply(h.ctx, a.Name, h.namespace, objs)
		if err != nil || res.Changed() {
			b.Fatalf("Apply changed something or failed: %v", err)
		}
		if err := w.Wait(h.ctx, Rollout{App: a, Namespace: h.namespace, Start: time.Now()}); err != nil {
			b.Fatal(err)
		}
	}
}
