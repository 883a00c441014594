//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/evidence"
)

// TestRelease releases versions of a workload that Bight did not deploy, while others
// ask it 400 times a second.
func TestRelease(t *testing.T) {
	b := newReleaseBay(t)
	for _, step := range []struct {
		name string
		run  func(*bay)
	}{
		{"Refused", testReleaseRefused},
		{"Promoted", testReleasePromoted},
		{"ByHand", testReleaseByHand},
		{"ByDoors", func(b *bay) { testWay(b, way{url: till}) }},
		{"Bounds", testReleaseBounds},
		{"Convicted", testReleaseConvicted},
		{"VerdictAgain", testVerdictAgain},
		{"Replayed", testReplay},
		{"Recorded", testReplayRecorded},
		{"Attempts", testReleaseAttempts},
		{"WithoutALeader", testUndoWithoutALeader},
		{"KilledAgent", testReleaseKilledAgent},
		{"NotReady", testReleaseNeverReady},
		{"Superseded", testReleaseSuperseded},
		{"Slow", testReleaseSlow},
		{"Guards", testReleaseGuards},
		{"BlueGreen", testBlueGreen},
		{"BlueGreenBreaks", testBlueGreenBreaks},
		{"BlueGreenSlow", testBlueGreenSlow},
		{"BlueGreenKept", testBlueGreenKept},
		{"UndoWhileANewerWaits", testUndoWhileANewerWaits},
		{"ABTest", testABTest},
		{"Mirror", testMirrorStrategy},
		{"MirrorConvicts", testMirrorConvicts},
		{"MirrorProves", testMirrorProves},
		{"Scaled", testReleaseScaled},
		{"Config", testReleaseConfig},
		{"StrayRoute", testStrayRoute},
		{"Uninstall", testUninstallDuringARelease},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(b.on(t)) }) {
			t.Fatal("the rest builds on this")
		}
	}
}

func (b *bay) patchTill(patch string) {
	b.Helper()
	if _, err := client.AppsV1().Deployments(b.namespace).Patch(context(), tillNamed, types.MergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
}

// unreleased waits until the Deployment and the Service are as no release has ever been,
// and nothing of one is left to be done.
func (b *bay) unreleased() {
	b.Helper()
	b.eventually("the Deployment is its own again", func() error {
		d, err := client.AppsV1().Deployments(b.namespace).Get(context(), tillNamed, meta.GetOptions{})
		if err != nil {
			return err
		}
		s, err := client.CoreV1().Services(b.namespace).Get(context(), tillNamed, meta.GetOptions{})
		if err != nil {
			return err
		}
		n := *d.Spec.Replicas
		if d.Spec.MinReadySeconds != 0 || *d.Spec.ProgressDeadlineSeconds != 600 || d.Spec.Strategy.RollingUpdate.MaxSurge.String() != "25%" ||
			d.Annotations[v1alpha1.ReleasedAnnotation] != "" || len(s.Spec.Selector) != 1 {
			return fmt.Errorf("%+v, selector %v", d.Spec, s.Spec.Selector)
		}
		if d.Status.Replicas != n || d.Status.AvailableReplicas != n || d.Status.UpdatedReplicas != n {
			return fmt.Errorf("%+v", d.Status)
		}
		all, err := readReleases(b.namespace)
		for _, r := range all {
			if r.Status.Route != nil {
				return fmt.Errorf("release %s has something left to do: %s", r.Name, r.Status.Message)
			}
		}
		return err
	})
}

// plan writes a plan, and returns its file's name.
func (b *bay) plan(text string) string {
	b.Helper()
	return b.planNamed("plan", text)
}

func (b *bay) planNamed(name, text string) string {
	b.Helper()
	b.write(name+".yaml", text)
	return b.dir + "/" + name + ".yaml"
}

// hold is a plan that stays at a share until somebody says otherwise.
const hold = "steps: [{weight: %v, hold: true}]\nkeep: 1s\n"

// release begins a release, and waits until it has a phase.
func (b *bay) release(word, plan, phase string, env ...string) string {
	b.Helper()
	args := []string{"release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=" + word, "--plan", b.plan(plan), "--detach"}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	if said, errs, code := b.bight(args...); code != 0 {
		b.Fatalf("release start: exit code %d\n%s%s", code, said, errs)
	}
	b.reaches(phase)
	return b.current().Name
}

// current is the newest release.
func (b *bay) current() *v1alpha1.Release {
	b.Helper()
	all, err := readReleases(b.namespace)
	if err != nil || len(all) == 0 {
		b.Fatalf("there is no release: %v", err)
	}
	return &all[len(all)-1]
}

// reaches waits until the newest release has a phase.
func (b *bay) reaches(phase string) *v1alpha1.Release {
	b.Helper()
	var r *v1alpha1.Release
	b.eventually("the release is "+phase, func() error {
		if r = b.current(); r.Status.Phase != phase {
			return fmt.Errorf("it is %s: %s", r.Status.Phase, r.Status.Message)
		}
		return nil
	})
	return r
}

// order gives an order, and returns what was said.
func (b *bay) order(args ...string) string {
	b.Helper()
	said, errs, code := b.bight(append([]string{"release"}, append(args, "-n", b.namespace)...)...)
	if code != 0 {
		b.Fatalf("release %v: exit code %d\n%s%s", args, code, said, errs)
	}
	return said + errs
}

// shares asks n times, on a connection each, and counts who answers: nobody, too.
func (b *bay) shares(n int, headers ...string) map[string]int {
	b.Helper()
	return b.sharesAt(till, n, headers...)
}

func (b *bay) sharesAt(url string, n int, headers ...string) map[string]int {
	b.Helper()
	by := map[string]int{}
	c := b.client(false, false)
	for range n {
		a, err := b.ask(c, url, headers...)
		if err != nil {
			// Who answers is what is asked here; what fails is the load's to count.
			b.Logf("a request fails, and is made again: %v", err)
			a, err = b.ask(c, url, headers...)
		}
		if err != nil {
			b.Logf("and again: %v", err)
			by["nobody"]++
			continue
		}
		by[a.who]++
	}
	return by
}

func testReleaseRefused(b *bay) {
	for _, tt := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"start", "tell", "--env", "WHO=two"}, "tell", 4},
		{[]string{"start", tillNamed}, "--image", 2},
		{[]string{"start", tillNamed, "--env", "WHO=two", "--plan", b.plan("steps: [{weight: 120}]")}, "120", 2},
		{[]string{"start", tillNamed, "--env", "WHO=two", "--plan", b.planNamed("guards", "judge: {guards: [{name: queue, query: up, max: 1}]}")}, "bight install --prometheus URL", 2},
		{[]string{"weight", tillNamed, "5"}, tillNamed, 4},
	} {
		_, errs, code := b.bight(append([]string{"release"}, append(tt.args, "-n", b.namespace)...)...)
		if code != tt.code || !strings.Contains(errs, tt.want) {
			b.Errorf("release %v: exit code %d\n%s", tt.args, code, errs)
		}
	}
	b.unreleased()
}

// testReleasePromoted brings a good version to everybody by a plan, and loses nothing.
func testReleasePromoted(b *bay) {
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	said := b.order("start", tillNamed, "--env", "WHO=two", "--plan", b.plan("steps: [{weight: 20, for: 1s}, {weight: 50, for: 1s}]\nkeep: 2s\n"))
	b.Log(said)
	b.eventually("all requests are the new version's", func() error {
		if by := b.shares(20); by["two"] != 20 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	b.unreleased()
	var got counts
	b.load("/stop", &got)
	b.Logf("%d requests and %d streams, answered by %v; slowest %.1f ms; %d failed", got.Requests, got.Streams, got.By, got.Slowest, got.Failed)
	if got.Failed > 0 || got.By["app"] == 0 || got.By["two"] == 0 {
		b.Errorf("%v", got.Errors)
	}
	r := b.current()
	if r.Status.Phase != "Promoted" || len(r.Finalizers) > 0 || r.Status.Route != nil {
		b.Errorf("what is left: %s, %v, %+v", r.Status.Phase, r.Finalizers, r.Status.Route)
	}
	for _, p := range b.tillPods() {
		is := func(e core.EnvVar) bool { return e == core.EnvVar{Name: "WHO", Value: "two"} }
		if p.DeletionTimestamp == nil && !slices.ContainsFunc(p.Spec.Containers[0].Env, is) {
			b.Errorf("pod %s is not of the new version", p.Name)
		}
	}
}

// testReleaseByHand changes weights and routes in the middle of a release.
func testReleaseByHand(b *bay) {
	name := b.release("three", fmt.Sprintf(hold, 0), "Held")
	if by := b.shares(100); by["two"] != 100 {
		b.Errorf("0 %% is %v", by)
	}
	for patch, want := range map[string]string{
		`{"spec":{"deployment":"cart"}}`:                              "can't be changed",
		`{"spec":{"template":{"metadata":{"labels":{"other":"x"}}}}}`: "can't be changed",
		`{"spec":{"orders":{"undo":true,"by":"eve"}}}`:                "who orders something of a Release, begins it, changes its plan or asks for something says so",
	} {
		if out, err := b.kubectl("patch", "release.bight.dev", name, "-n", b.namespace, "--type", "merge", "-p", patch); err == nil || !strings.Contains(err.Error()+out, want) {
			b.Errorf("%s: %v, want %q\n%s", patch, err, want, out)
		}
	}
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	var took []time.Duration
	for i, w := range []int{25, 50, 10, 75, 5, 30, 60, 20, 0, 25} {
		began := time.Now()
		said := b.order("weight", tillNamed, fmt.Sprint(w))
		took = append(took, time.Since(began))
		if i == 0 {
			b.Log(strings.TrimSpace(said))
		}
	}
	slices.Sort(took)
	b.Logf("a weight is observed everywhere, the command's start included: %s at the median, %s at most", took[len(took)/2], took[len(took)-1])
	if by := b.shares(400); by["three"] < 60 || by["three"] > 140 || by["two"]+by["three"] != 400 {
		b.Errorf("25 %% is %v", by)
	}
	b.six(tillNamed)
	const bySix = "http://" + tillNamed + "-6:8080/"
	if by := b.sharesAt(bySix, 200); by["three"] < 20 || by["three"] > 80 || by["two"]+by["three"] != 200 {
		b.Errorf("25 %% by IPv6 is %v", by)
	}
	b.order("route", tillNamed, "--header", "x-team=ada", "--to", "canary")
	b.order("weight", tillNamed, "0")
	if by := b.sharesAt(bySix, 100); by["two"] != 100 {
		b.Errorf("0 %% by IPv6 is %v", by)
	}
	if by := b.shares(30, "X-Team", "ada"); by["three"] != 30 {
		b.Errorf("requests of ada's are answered by %v", by)
	}
	if by := b.shares(100); by["two"] != 100 {
		b.Errorf("requests of others are answered by %v", by)
	}
	b.order("route", tillNamed, "--method", "PUT", "--to", "canary")
	b.order("route", tillNamed, "--query", "look=new", "--to", "canary")
	if by := b.shares(30); by["two"] != 30 {
		b.Errorf("requests without a query, whose method is another, are answered by %v", by)
	}
	b.order("route", tillNamed, "--method", "GET,HEAD", "--path", "/", "--exact", "--to", "canary")
	if by := b.shares(30); by["three"] != 30 {
		b.Errorf("requests of a method and a path are answered by %v", by)
	}
	b.order("undo", tillNamed, "--why", "that was all")
	if by := b.shares(50, "X-Team", "ada"); by["two"] != 50 {
		b.Errorf("what is undone answers: %v", by)
	}
	b.reaches("Undone")
	b.unreleased()
	var got counts
	b.load("/stop", &got)
	b.Logf("%d requests, answered by %v; %d failed", got.Requests, got.By, got.Failed)
	if got.Failed > 0 || got.By["three"] == 0 {
		b.Errorf("%v", got.Errors)
	}
}

// testReleaseBounds orders what a policy allows, and what it does not.
func testReleaseBounds(b *bay) {
	policy := `
apiVersion: bight.dev/v1alpha1
kind: ReleasePolicy
metadata: {name: share, namespace: ` + b.namespace + `}
spec:
  rules:
  - name: small
    expression: order.weight <= 25.0 || asked != '' && asked != user.name
    message: more than 25 % takes two
`
	b.write("policy.yaml", policy)
	if out, err := b.kubectl("apply", "-f", b.dir+"/policy.yaml"); err != nil {
		b.Fatal(out, err)
	}
	b.Cleanup(func() {
		if out, err := b.kubectl("delete", "releasepolicy.bight.dev", "share", "-n", b.namespace, "--ignore-not-found"); err != nil {
			b.Error(out, err)
		}
	})
	b.eventually("the policy is read", func() error {
		out, err := b.kubectl("get", "releasepolicies.bight.dev", "-n", b.namespace)
		if err == nil && !strings.Contains(out, "its rules hold") {
			err = errors.New(out)
		}
		return err
	})
	b.release("three", fmt.Sprintf(hold, 5), "Held")
	b.grant("ada", rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
		rbac.PolicyRule{APIGroups: []string{"bight.dev"}, Resources: []string{"releases"}, Verbs: []string{"get", "list", "watch", "update", "patch"}})
	ada := []string{"-n", b.namespace, "--kubeconfig", as(b.T, "ada")}
	said := func(want int, args ...string) string {
		b.Helper()
		out, errs, code := b.bight(append([]string{"release"}, args...)...)
		if code != want {
			b.Errorf("release %q: exit code %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out + errs
	}
	shown := func(want ...string) {
		b.Helper()
		text := said(0, "status", tillNamed, "-n", b.namespace)
		for _, w := range want {
			if !strings.Contains(text, w) {
				b.Errorf("bight release status does not say %q:\n%s", w, text)
			}
		}
	}
	said(0, append([]string{"weight", tillNamed, "25"}, ada...)...)
	if text := said(3, append([]string{"weight", tillNamed, "50"}, ada...)...); !strings.Contains(text, "refused by policy share (rule small): more than 25 % takes two") {
		b.Errorf("of what is refused is said\n%s", text)
	}
	shown("25 %", "refused", "more than 25 % takes two")
	// What comes after it has nothing of what was refused.
	said(0, append([]string{"pause", tillNamed}, ada...)...)
	if by := b.shares(200); by["three"] < 42 || by["three"] > 58 { // each of three doors has turns of its own
		b.Errorf("%v", by)
	}
	said(0, append([]string{"weight", tillNamed, "50", "--ask", "--why", "it looks good"}, ada...)...)
	shown("ada asks for 50 % of the requests, pause (it looks good)")
	if text := said(3, append([]string{"approve", tillNamed}, ada...)...); !strings.Contains(text, "takes two; ada asks for it still, and somebody else can approve it") {
		b.Errorf("who asks approves: %s", text)
	}
	shown("ada asks for 50 % of the requests, pause (it looks good)")
	// What was ordered since somebody has asked is not taken back.
	said(0, append([]string{"weight", tillNamed, "50", "--ask"}, ada...)...)
	said(0, "weight", tillNamed, "10", "-n", b.namespace)
	if text := said(2, "approve", tillNamed, "-n", b.namespace); !strings.Contains(text, "have changed since") {
		b.Errorf("approved is what would take back an order: %s", text)
	}
	said(0, append([]string{"weight", tillNamed, "50", "--ask"}, ada...)...)
	said(0, "approve", tillNamed, "-n", b.namespace)
	if by := b.shares(200); by["three"] < 90 || by["three"] > 110 {
		b.Errorf("approved, %v", by)
	}
	shown("approved what ada asked for")
	if text := said(2, "approve", tillNamed, "-n", b.namespace); !strings.Contains(text, "nobody asks for anything") || b.current().Spec.Ask != nil {
		b.Errorf("approved twice: %s", text)
	}
	// Nobody says that somebody else has asked.
	if out, err := b.kubectl("patch", "release.bight.dev", b.current().Name, "-n", b.namespace, "--type", "merge", "-p",
		`{"spec":{"orders":{"weight":90,"asked":"bob"}}}`); err == nil || !strings.Contains(out+err.Error(), "says so") {
		b.Errorf("a lie is taken: %s, %v", out, err)
	}
	said(0, append([]string{"undo", tillNamed}, ada...)...)
	b.reaches("Undone")
	b.unreleased()
}

// testReleaseConvicted has a version that always fails undone by the evidence alone.
func testReleaseConvicted(b *bay) {
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	b.release("broken", "steps: [{weight: 5, proven: true}]\nkeep: 1s\n", "Undone", "BROKEN=yes")
	r := b.current()
	var got counts
	b.load("/stop", &got)
	b.Logf("%s", r.Status.Message)
	b.Logf("%d requests, answered by %v; %d failed before it was convicted", got.Requests, got.By, got.Failed)
	if !r.Status.Convicted || r.Status.Verdict == nil || r.Status.Verdict.Is != "bad" || got.Failed == 0 || got.Failed > 12 {
		b.Errorf("convicted: %v, verdict %+v, errors %v", r.Status.Convicted, r.Status.Verdict, got.Errors)
	}
	b.unreleased()
	if by := b.shares(50); by["two"] != 50 {
		b.Errorf("afterwards, %v", by)
	}
	_, errs, code := b.bight("release", "start", tillNamed, "--env", "WHO=broken", "--env", "BROKEN=yes", "-n", b.namespace, "--detach")
	if code == 0 || !strings.Contains(errs, "--again") {
		b.Errorf("a convicted version comes back: exit code %d\n%s", code, errs)
	}
}

// testReplay asks code on this machine what has convicted the version of the step before.
func testReplay(b *bay) {
	name := b.current().Name
	var kept evidence.Bundle
	b.eventually("the evidence is with the controller", func() error {
		said, errs, code := b.bight("replay", tillNamed, "-n", b.namespace, "-o", "json")
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, errs)
		}
		if err := json.Unmarshal([]byte(said), &kept); err != nil {
			return err
		}
		if kept.Deployment == "" || len(kept.Pairs) == 0 || len(kept.Moved) == 0 {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
	failed, same := 0, 0
	for _, p := range kept.Pairs {
		if p.Class == evidence.Failed && p.Version == v1alpha1.Canary {
			failed++
			if p.Answer != nil && p.Answer.Status == 500 && len(p.Stable) == 2 && p.Stable[0].Status == 200 {
				same++
			}
		}
	}
	moved := slices.DeleteFunc(slices.Clone(kept.Moved), func(id string) bool {
		return slices.ContainsFunc(kept.Pairs, func(p evidence.Pair) bool { return p.ID == id })
	})
	b.Logf("%d requests were kept; %d failed at the version, of which stable answered %d; %d moved E", len(kept.Pairs), failed, same, len(kept.Moved))
	if kept.Release != name || !kept.Convicted || failed == 0 || same == 0 || len(kept.Moved) == 0 || len(moved) > 0 || len(kept.Path) < 2 {
		b.Errorf("of release %s: %d failed, %d answered by stable, %d of %d that moved E are missing, the path is %v", kept.Release, failed, same, len(moved), len(kept.Moved), kept.Path)
	}
	if len(kept.Pods) == 0 || !strings.Contains(kept.Pods[0].Log, "this version is broken") || !slices.Contains(kept.Differs, "spec.containers[till].env[BROKEN].value: yes (new)") {
		b.Errorf("the pods are %+v, what differs is %q", kept.Pods, kept.Differs)
	}

	// In the pod's environment, the code as it was, and as it is now.
	replayed := func(want int, args ...string) string {
		b.Helper()
		said, errs, code := b.bight(append([]string{"replay", name, "-n", b.namespace, "--once"}, args...)...)
		if code != want {
			b.Errorf("replay %q: exit code %d, want %d\n%s%s", args, code, want, said, errs)
		}
		return errs
	}
	program := b.program("cart")
	for _, alone := range [][]string{nil, {"--alone"}} {
		said := replayed(1, append(alone, "--", "env", "BROKEN=yes", "WHO=here", program)...)
		if !strings.Contains(said, "status 500, stable's is 200") {
			b.Errorf("of the broken one is said\n%s", said)
		}
		if said = replayed(0, append(alone, "--", "env", "WHO=here", program)...); !strings.Contains(said, " 0 failed") {
			b.Errorf("of the other is said\n%s", said)
		}
	}
	if said := replayed(1, "--", "false"); !strings.Contains(said, "has ended with 1 before anybody could reach it at port 8080") {
		b.Errorf("of a command that ends is said\n%s", said)
	}

	// A test of it.
	dir := b.dir + "/testdata/replay"
	if said, errs, code := b.bight("replay", name, "-n", b.namespace, "--save-test="+dir); code != 0 {
		b.Fatalf("exit code %d\n%s%s", code, said, errs)
	}
	for env, want := range map[string]int{"WHO=here": 0, "BROKEN=yes": 1} {
		if said, errs, code := b.bight("replay", dir+"/"+name+".json", "--once", "--", "env", env, program); code != want {
			b.Errorf("%s: exit code %d, want %d\n%s%s", env, code, want, said, errs)
		}
	}

	// Who may only look sees no request of anybody.
	pods := rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}} // grant waits for it
	b.grant("watcher", pods, rbac.PolicyRule{APIGroups: []string{"bight.dev"}, Resources: []string{"releases", "tickets"}, Verbs: []string{"get", "list", "watch", "create", "delete"}})
	if _, errs, code := b.bight("replay", name, "-n", b.namespace, "--kubeconfig", as(b.T, "watcher")); code == 0 || !strings.Contains(errs, "releases/evidence") {
		b.Errorf("a viewer gets it: exit code %d\n%s", code, errs)
	}
}

// controllers has so many controllers run.
func (b *bay) controllers(n int) {
	b.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
	if _, err := client.AppsV1().StatefulSets("bight-system").Patch(context(), "bight-controller", types.MergePatchType, patch, meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("there are so many controllers", func() error {
		s, err := client.AppsV1().StatefulSets("bight-system").Get(context(), "bight-controller", meta.GetOptions{})
		if err == nil && (int(s.Status.Replicas) != n || int(s.Status.ReadyReplicas) != n) {
			err = fmt.Errorf("%+v", s.Status)
		}
		return err
	})
}

// testUndoWithoutALeader undoes while no controller runs.
func testUndoWithoutALeader(b *bay) {
	b.release("four", fmt.Sprintf(hold, 50), "Held")
	b.controllers(0)
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	began := time.Now()
	said := b.order("undo", tillNamed)
	b.Logf("undone without a controller in %s: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(said))
	if by := b.shares(100); by["two"] != 100 {
		b.Errorf("what is undone answers: %v", by)
	}
	b.controllers(1)
	b.reaches("Undone")
	b.unreleased()
	var got counts
	b.load("/stop", &got)
	if got.Failed > 0 {
		b.Errorf("%d of %d requests failed: %v", got.Failed, got.Requests, got.Errors)
	}
}

// testReleaseKilledAgent ends the node agent while it shares requests.
func testReleaseKilledAgent(b *bay) {
	b.release("five", fmt.Sprintf(hold, 50), "Held")
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	b.eventually("both answer", func() error {
		if by := b.shares(20); by["five"] == 0 || by["two"] == 0 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	b.killAgents()
	b.eventually("both answer again", func() error {
		if by := b.shares(20); by["five"] == 0 || by["two"] == 0 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	var got counts
	b.load("/stop", &got)
	b.Logf("%d requests and %d streams, answered by %v; %d failed when the agent was killed: %v", got.Requests, got.Streams, got.By, got.Failed, got.Errors)
	// Of what was on its way through the agent, on the load's twelve connections, and no more.
	if got.Failed > 16 {
		b.Errorf("%d failed", got.Failed)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
}

// testReleaseNeverReady has a version whose pods never are.
func testReleaseNeverReady(b *bay) {
	b.release("six", "steps: [{weight: 10}]\nready: 4s\nkeep: 1s\n", "Undone", "OFFSET=1000")
	if r := b.current(); !strings.Contains(r.Status.Message, "none of its pods was ready after 4s") {
		b.Errorf("it says %q", r.Status.Message)
	}
	b.unreleased()
	if by := b.shares(20); by["two"] != 20 {
		b.Errorf("%v", by)
	}
}

// testReleaseSuperseded begins another version in the middle of one, and then changes
// the Deployment by hand.
func testReleaseSuperseded(b *bay) {
	first := b.release("seven", fmt.Sprintf(hold, 30), "Held")
	if _, errs, code := b.bight("release", "start", tillNamed, "--env", "WHO=eight", "-n", b.namespace); code == 0 || !strings.Contains(errs, first) {
		b.Errorf("a second release in the middle of the first: exit code %d\n%s", code, errs)
	}
	b.supersede("seven", "eight")
	if r, err := read[v1alpha1.Release](v1alpha1.Releases(), b.namespace, first); err != nil || r.Status.Phase != "Superseded" {
		b.Errorf("the first is %+v, %v", r, err)
	}
	if by := b.shares(200); by["seven"] > 0 || by["nobody"] > 0 || by["eight"] < 40 || by["eight"] > 120 {
		b.Errorf("40 %% is %v", by)
	}
	if out, err := b.kubectl("set", "env", "-n", b.namespace, "deployment/till", "WHO=nine"); err != nil {
		b.Fatal(out, err)
	}
	b.reaches("Superseded")
	b.unreleased()
	b.eventually("what was set by hand answers", func() error {
		if by := b.shares(10); by["nine"] != 10 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
}

// supersede makes another release past the command, which takes the place of the present
// one, and waits until it has 40 %.
func (b *bay) supersede(word, by string) {
	b.Helper()
	second := b.another(word, by)
	b.eventually("the second is what is released", func() error {
		if r := b.current(); r.Name != second.Name || r.Status.Phase != "Held" || r.Status.Step != 1 || r.Status.Weight != "40 %" {
			return fmt.Errorf("%s is %s: %s", r.Name, r.Status.Phase, r.Status.Message)
		}
		return nil
	})
}

// another makes a release past the command, of another version and to 40 %, whatever becomes of the present one.
func (b *bay) another(word, by string) *v1alpha1.Release {
	b.Helper()
	r := b.current()
	second := &v1alpha1.Release{TypeMeta: r.TypeMeta, ObjectMeta: meta.ObjectMeta{Name: "till-" + by, Namespace: b.namespace}, Spec: r.Spec}
	second.Spec.Template.Raw = bytes.ReplaceAll(r.Spec.Template.Raw, fmt.Appendf(nil, "%q", word), fmt.Appendf(nil, "%q", by))
	second.Spec.Plan.Steps[0].Weight, second.Spec.Orders = intstr.FromInt32(40), v1alpha1.ReleaseOrders{By: "bight-admin"}
	second.Spec.Plan.Keep = &meta.Duration{Duration: time.Second}
	content, err := json.Marshal(second)
	if err != nil {
		b.Fatal(err)
	}
	b.write("second.json", string(content))
	if out, err := b.kubectl("create", "-f", b.dir+"/second.json"); err != nil {
		b.Fatal(out, err)
	}
	return second
}

// testUninstallDuringARelease is refused, and changes nothing.
func testUninstallDuringARelease(b *bay) {
	name := b.release("ten", fmt.Sprintf(hold, 50), "Held")
	_, errs, code := b.bight("uninstall")
	if code == 0 || !strings.Contains(errs, name) {
		b.Errorf("uninstall: exit code %d\n%s", code, errs)
	}
	b.order("promote", tillNamed)
	b.reaches("Promoted")
	b.unreleased()
	if by := b.shares(20); by["ten"] != 20 {
		b.Errorf("%v", by)
	}
	for _, p := range b.tillPods() {
		if p.Status.Phase != core.PodRunning {
			b.Errorf("%s is %s", p.Name, p.Status.Phase)
		}
	}
}
