//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestReleaseDisasters breaks what releases stand on while they are under way.
func TestReleaseDisasters(t *testing.T) {
	b := newReleaseBay(t)
	for _, step := range []struct {
		name string
		run  func(*bay)
	}{
		{"NoTraffic", testNoTraffic},
		{"StableNotReady", testUndoWhileStableIsNotReady},
		{"AgentKilledAtAWeight", testAgentKilledAtAWeight},
		{"Quota", testQuotaInTheMiddle},
		{"TwoAtOnce", testTwoAtOnce},
		{"APIServerKilledInTheMiddle", testAPIServerKilledInARelease},
		{"APIServerKilledAtUndo", testAPIServerKilledAtUndo},
		{"LeaderKilledAtUndo", testLeaderKilledAtUndo},
		{"LeaderKilledWhileKept", testLeaderKilledWhileKept},
		{"RegistryDownAtUndo", testRegistryDownAtUndo},
		{"StablePodEnds", testStablePodEnds},
		{"StablePodEvicted", testStablePodEvicted},
		{"StableDeleted", testStableDeleted},
		{"RemovedByForce", testRemovedByForce},
		{"NodeCutOff", testNodeCutOff},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(b.on(t)) }) {
			t.Fatal("the rest builds on this")
		}
	}
}

// newReleaseBay is a bay with node agents, a controller and three pods of till that have
// doors from their start.
func newReleaseBay(t *testing.T) *bay {
	t.Helper()
	b := newBay(t)
	b.deployTill(b.namespace)
	t.Cleanup(func() {
		if t.Failed() { // one may be under way
			_, _ = b.kubectl("delete", "releases.bight.dev", "-n", b.namespace, "--all", "--timeout", "60s")
		}
		if said, errs, code := b.bight("uninstall"); code != 0 {
			t.Errorf("uninstall: exit code %d\n%s%s", code, said, errs)
		}
	})
	if said, errs, code := b.bight("install"); code != 0 {
		t.Fatalf("install: exit code %d\n%s%s", code, said, errs)
	}
	b.patchTill(fmt.Sprintf(`{"spec":{"replicas":3,"template":{"metadata":{"annotations":{%q:"true"}}}}}`, v1alpha1.DoorsAnnotation))
	b.unreleased()
	b.allAnswer("app")
	return b
}

// allAnswer waits until every request is answered by a version.
func (b *bay) allAnswer(version string) {
	b.Helper()
	b.eventually("all requests are answered by "+version, func() error {
		if by := b.shares(100); by[version] != 100 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
}

// unharmed ends the load, and says what it has seen. No request may have failed.
func (b *bay) unharmed(what string) {
	b.Helper()
	var got counts
	b.load("/stop", &got)
	b.Logf("%s: %d requests and %d streams, answered by %v; slowest %.1f ms; %d failed", what, got.Requests, got.Streams, got.By, got.Slowest, got.Failed)
	if got.Failed > 0 || got.Requests == 0 {
		b.Errorf("%s: %v", what, got.Errors)
	}
}

func (b *bay) pour() {
	b.Helper()
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
}

// testNoTraffic has nobody ask until the time for a verdict is over: it is held.
func testNoTraffic(b *bay) {
	b.release("quiet", "steps: [{weight: 5, proven: true}]\nkeep: 1s\njudge: {deadline: 3s}\n", "Held")
	r := b.current()
	b.Logf("%s", r.Status.Message)
	if r.Status.Verdict == nil || r.Status.Verdict.Is != "inconclusive" || r.Status.Weight != "5 %" || !strings.Contains(r.Status.Message, "no verdict in ") {
		b.Errorf("it has %s, verdict %+v: %s", r.Status.Weight, r.Status.Verdict, r.Status.Message)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
}

// testUndoWhileStableIsNotReady undoes while two of stable's three pods say nothing.
func testUndoWhileStableIsNotReady(b *bay) {
	stable := b.tillPods()
	b.release("sick", fmt.Sprintf(hold, 50), "Held")
	for _, p := range stable[1:] {
		pid := b.processOf(p.Name, "/srv/app/")
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	}
	b.eventually("two of stable's pods are not ready", func() error {
		if r := b.current(); r.Status.Stable.Ready != 1 {
			return fmt.Errorf("%d are ready", r.Status.Stable.Ready)
		}
		return nil
	})
	began := time.Now()
	said := b.order("undo", tillNamed)
	b.soon("undone while 2 of 3 pods are not ready, the command's start included", time.Since(began), time.Second)
	b.Log(strings.TrimSpace(said))
	// kube-proxy may still lead some to those that say nothing.
	if by := b.shares(50); by["sick"] > 0 || by["app"] == 0 {
		b.Errorf("what is undone answers: %v", by)
	}
	for _, p := range stable[1:] {
		if err := syscall.Kill(b.processOf(p.Name, "/srv/app/"), syscall.SIGCONT); err != nil {
			b.Fatal(err)
		}
	}
	b.reaches("Undone")
	b.unreleased()
}

// testAgentKilledAtAWeight kills the node agent, and orders a weight before another one
// is there.
func testAgentKilledAtAWeight(b *bay) {
	b.release("cut", fmt.Sprintf(hold, 20), "Held")
	b.killAgents()
	began := time.Now()
	said := b.order("weight", tillNamed, "60", "--timeout", "60s")
	b.Logf("ordered as the agent was killed, observed after %s: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(said))
	if by := b.shares(200); by["cut"] < 80 || by["cut"] > 160 || by["nobody"] > 0 {
		b.Errorf("60 %% is %v", by)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
}

// testQuotaInTheMiddle lets the canary have one pod and no second.
func testQuotaInTheMiddle(b *bay) {
	b.release("poor", fmt.Sprintf(hold, 20), "Held")
	pods := 0
	b.eventually("no pod ends any more", func() error {
		all, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range all.Items {
			if p.DeletionTimestamp != nil {
				return fmt.Errorf("%s ends", p.Name)
			}
		}
		pods = len(all.Items)
		return nil
	})
	quotas := client.CoreV1().ResourceQuotas(b.namespace)
	quota := &core.ResourceQuota{ObjectMeta: meta.ObjectMeta{Name: "few"}}
	quota.Spec.Hard = core.ResourceList{core.ResourcePods: *resource.NewQuantity(int64(pods), resource.DecimalSI)}
	if _, err := quotas.Create(context(), quota, meta.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("the quota counts", func() error {
		q, err := quotas.Get(context(), "few", meta.GetOptions{})
		if used := q.Status.Used[core.ResourcePods]; err == nil && int(used.Value()) != pods {
			err = fmt.Errorf("%s of %d pods", used.String(), pods)
		}
		return err
	})
	b.pour()
	_, errs, code := b.bight("release", "weight", tillNamed, "60", "-n", b.namespace, "--timeout", "3s")
	if code != 5 || !strings.Contains(errs, "exceeded quota") {
		b.Errorf("exit code %d\n%s", code, errs)
	}
	if r := b.current(); r.Status.Weight != "20 %" {
		b.Errorf("with one pod it has %s: %s", r.Status.Weight, r.Status.Message)
	}
	if err := quotas.Delete(context(), "few", meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("it goes on when the quota is gone", func() error {
		if r := b.current(); r.Status.Weight != "60 %" {
			return fmt.Errorf("it has %s: %s", r.Status.Weight, r.Status.Message)
		}
		return nil
	})
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unharmed("a quota in the middle")
	b.unreleased()
}

// testTwoAtOnce makes two Releases of one Deployment with one word: the one that is the
// newer of the two is released.
func testTwoAtOnce(b *bay) {
	from := b.current()
	var text []string
	names := []string{"till-twin-a", "till-twin-b"}
	for _, name := range names {
		r := &v1alpha1.Release{TypeMeta: from.TypeMeta, ObjectMeta: meta.ObjectMeta{Name: name, Namespace: b.namespace}, Spec: from.Spec}
		r.Spec.Template.Raw = []byte(strings.ReplaceAll(string(from.Spec.Template.Raw), `"poor"`, `"`+name+`"`))
		r.Spec.Orders = v1alpha1.ReleaseOrders{By: "bight-admin"}
		r.Spec.Plan.Steps = []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(40), Hold: true}}
		content, err := json.Marshal(r)
		if err != nil {
			b.Fatal(err)
		}
		text = append(text, string(content))
	}
	b.write("twins.json", `{"apiVersion":"v1","kind":"List","items":[`+strings.Join(text, ",")+`]}`)
	if out, err := b.kubectl("create", "-f", b.dir+"/twins.json"); err != nil {
		b.Fatal(out, err)
	}
	b.eventually("one of them is released, and the other is not", func() error {
		for i, want := range []string{"Superseded", "Held"} {
			r, err := read[v1alpha1.Release](v1alpha1.Releases(), b.namespace, names[i])
			if err != nil {
				return err
			}
			if r.Status.Phase != want {
				return fmt.Errorf("%s is %s: %s", names[i], r.Status.Phase, r.Status.Message)
			}
		}
		return nil
	})
	if by := b.shares(200); by[names[0]] > 0 || by["nobody"] > 0 || by[names[1]] < 40 || by[names[1]] > 120 {
		b.Errorf("40 %% is %v", by)
	}
	if out, err := b.kubectl("delete", "releases.bight.dev", "-n", b.namespace, names[0], names[1], "--timeout", "60s"); err != nil {
		b.Fatal(out, err)
	}
	b.unreleased()
	b.allAnswer("app")
}

// testRemovedByForce has somebody remove a Release in the middle, past its finalizer, while no
// controller is there: the next one gives the Deployment the version before. No request fails.
func testRemovedByForce(b *bay) {
	name := b.release("forced", fmt.Sprintf(hold, 50), "Held")
	b.pour()
	b.controllers(0)
	releases := objects.Resource(v1alpha1.Releases()).Namespace(b.namespace)
	if _, err := releases.Patch(context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	if err := releases.Delete(context(), name, meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.allAnswer("app") // as the doors hear of it
	b.controllers(1)
	b.unreleased()
	b.allAnswer("app")
	b.unharmed("a Release is removed by force")
}

// apiServerBack waits until the API server answers as it did, after it was killed.
func (b *bay) apiServerBack(killed time.Time) {
	b.Helper()
	b.eventually("the API server is back", func() error {
		_, err := client.CoreV1().Namespaces().Get(context(), b.namespace, meta.GetOptions{})
		if apierrors.IsForbidden(err) {
			return fmt.Errorf("it knows nobody yet: %w", err)
		}
		return err
	})
	b.Logf("the API server is back after %s", time.Since(killed).Round(10*time.Millisecond))
}

// testAPIServerKilledInARelease kills the API server while the doors share requests: they
// go on, and so does the release afterwards.
func testAPIServerKilledInARelease(b *bay) {
	b.release("api", fmt.Sprintf(hold, 30), "Held")
	b.pour()
	b.killComponent("kube-apiserver")
	b.apiServerBack(time.Now())
	b.order("weight", tillNamed, "50", "--timeout", "60s")
	b.eventually("both answer", func() error {
		if by := b.shares(100); by["api"] < 20 || by["app"] < 20 || by["nobody"] > 0 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	b.unharmed("the API server is killed in the middle")
}

// testAPIServerKilledAtUndo kills the API server at once after an order to undo.
func testAPIServerKilledAtUndo(b *bay) {
	b.pour()
	user, err := b.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if err != nil {
		b.Fatal(user, err)
	}
	patch := fmt.Sprintf(`{"spec":{"orders":{"undo":true,"weight":null,"by":%q}}}`, user)
	if out, err := b.kubectl("patch", "release.bight.dev", b.current().Name, "-n", b.namespace, "--type", "merge", "-p", patch); err != nil {
		b.Fatal(out, err)
	}
	b.killComponent("kube-apiserver")
	b.apiServerBack(time.Now())
	b.reaches("Undone")
	b.allAnswer("app")
	b.unreleased()
	b.unharmed("the API server is killed at an undo")
}

// testStablePodEnds deletes a pod of stable that somebody reads an endless answer of the other
// version through: he hears that it is over.
func testStablePodEnds(b *bay) {
	b.hearsTheEnd("endless", func(through core.Pod) {
		if err := client.CoreV1().Pods(b.namespace).Delete(context(), through.Name, meta.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
	})
}

// testStablePodEvicted has kubelet end such a pod, as it does with one that it evicts: nobody
// has deleted it.
func testStablePodEvicted(b *bay) {
	pods := client.CoreV1().Pods(b.namespace)
	var evicted core.Pod
	b.hearsTheEnd("unending", func(through core.Pod) {
		evicted = through
		if _, err := pods.Patch(context(), through.Name, types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":1}}`), meta.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
	})
	b.eventually("the pod has failed, and is there", func() error {
		p, err := pods.Get(context(), evicted.Name, meta.GetOptions{})
		if err == nil && (p.Status.Phase != core.PodFailed || p.DeletionTimestamp != nil) {
			err = fmt.Errorf("it is %s, deleted at %v", p.Status.Phase, p.DeletionTimestamp)
		}
		return err
	})
	if err := pods.Delete(context(), evicted.Name, meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
}

// hearsTheEnd has somebody read an endless answer of a version through the door of a pod of
// stable, which is ended then: he hears of it.
func (b *bay) hearsTheEnd(version string, end func(through core.Pod)) {
	b.Helper()
	b.release(version, fmt.Sprintf(hold, 50), "Held")
	stable := b.tillPods()
	stable = slices.DeleteFunc(stable, func(p core.Pod) bool { return p.Labels["pod-template-hash"] != b.current().Status.Stable.Hash })
	through := stable[0]
	c := b.client(false, true)
	c.Timeout = 0
	var answer *http.Response
	b.eventually("the other version answers through "+through.Name, func() (err error) {
		if answer, err = c.Get("http://" + through.Status.PodIP + ":8080/stream?n=1000000"); err != nil {
			return err
		}
		if who := answer.Header.Get("X-Who"); who != version {
			answer.Body.Close()
			return fmt.Errorf("it is %q", who)
		}
		return nil
	})
	defer answer.Body.Close()
	over := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, answer.Body)
		over <- err
	}()
	began := time.Now()
	end(through)
	select {
	case err := <-over:
		b.Logf("it is over %s after the pod was to end: %v", time.Since(began).Round(time.Millisecond), err)
		if err == nil {
			b.Error("it is read as a whole answer")
		}
	case <-time.After(patience):
		b.Error("who reads it hears nothing")
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
	b.allAnswer("app")
}

// testStableDeleted deletes the ReplicaSet of the version before by hand: the new version
// answers, until somebody wants the one before back, whose pods are made anew. Then that
// happens again, after an undo.
func testStableDeleted(b *bay) {
	b.release("last", fmt.Sprintf(hold, 30), "Held")
	remove := func() {
		b.Helper()
		set := tillNamed + "-" + b.current().Status.Stable.Hash
		if err := client.AppsV1().ReplicaSets(b.namespace).Delete(context(), set, meta.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	remove()
	deleted := time.Now()
	var slowest time.Duration
	b.eventually("the new version has all requests", func() error {
		began := time.Now()
		by := b.shares(5)
		if slowest = max(slowest, time.Since(began)); by["last"] != 5 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	b.Logf("the new version has all requests after %s", time.Since(deleted).Round(10*time.Millisecond))
	// Some connections begin towards a pod that is no more.
	b.soon("five requests have their answers, or are refused,", slowest, 5*time.Second)
	b.allAnswer("last")
	_, errs, code := b.bight("release", "weight", tillNamed, "0", "-n", b.namespace, "--timeout", "2s")
	if code != 5 || !strings.Contains(errs, "no pod of the version before exists") {
		b.Errorf("weight 0: exit code %d\n%s", code, errs)
	}
	if said, _, _ := b.bight("release", "status", tillNamed, "-n", b.namespace); !strings.Contains(said, "all go to the version") {
		b.Errorf("status says\n%s", said)
	}
	b.pour()
	began := time.Now()
	b.Log(strings.TrimSpace(b.order("undo", tillNamed, "--timeout", "60s")))
	b.Logf("undone with pods that were made anew, after %s", time.Since(began).Round(10*time.Millisecond))
	b.allAnswer("app")
	b.unreleased() // and the load's connections to the others have ended
	var got counts
	b.load("/stop", &got)
	b.Logf("%d requests, answered by %v; %d failed", got.Requests, got.By, got.Failed)
	// Clients were connected to the new version's pods, past all doors: a pod that ends at once
	// takes with it what is on its way.
	if got.Failed*100 > got.Requests || got.By["app"] == 0 {
		b.Errorf("%v", got.Errors)
	}
	b.reaches("Undone")
	b.unreleased()

	b.release("late", "steps: [{weight: 30, hold: true}]\nkeep: 5s\n", "Held")
	b.order("undo", tillNamed)
	b.reaches("Undone")
	remove()
	b.unreleased()
	b.allAnswer("app")
}
