//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// quay is a dock whose repository is on an outside host.
type quay struct {
	*dock
	forge  *forge
	worker *process
}

// TestSource takes what is pushed to an outside host to the environment.
func TestSource(t *testing.T) {
	d := newDock(t)
	q := &quay{dock: d, forge: newForge(t, d.lab)}
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: q.namespace}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	q.worker = q.start("worker", "--app", q.namespace+"/"+q.namespace, "--name", "ada", "--slots", "4")
	for _, step := range []struct {
		name string
		run  func(*quay)
	}{
		{"First", testSourceFirst},
		{"Branch", testSourceBranch},
		{"MergedAtTheHost", testSourceMergedThere},
		{"Request", testSourceRequest},
		{"Fork", testSourceFork},
		{"Protected", testSourceProtected},
		{"Credentials", testSourceCredentials},
		{"Webhook", testSourceWebhook},
		{"Raced", testSourceRaced},
		{"RolledBack", testSourceRolledBack},
		{"HostAndControllerAway", testSourceAway},
		{"BranchGone", testSourceBranchGone},
		{"ForcePushAndDelete", testSourceForced},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			on, dock, l := *q, *q.dock, *q.lab
			l.T = t
			dock.lab, on.dock = &l, &dock
			step.run(&on)
		})
		if !ok {
			t.Fatal("the rest builds on this")
		}
	}
}

// push pushes HEAD to a branch of the host as people do.
func (q *quay) push(branch string, options ...string) {
	q.Helper()
	q.git(append([]string{"push", "--quiet", q.forge.dir, "HEAD:refs/heads/" + branch}, options...)...)
}

// became waits until a change is in a phase and returns it.
func (q *quay) became(name, phase string) *v1alpha1.Change {
	q.Helper()
	var c *v1alpha1.Change
	q.eventually(name+" is "+phase, func() error {
		out, errs, code := q.bight("change", "show", name, "-n", q.namespace, "-o", "json")
		if code != 0 {
			return fmt.Errorf("change show: %s", errs)
		}
		c = &v1alpha1.Change{}
		if err := json.Unmarshal([]byte(out), c); err != nil {
			return err
		}
		if c.Status.Phase != phase {
			return fmt.Errorf("it is %s: %s", c.Status.Phase, c.Status.Message)
		}
		return nil
	})
	return c
}

// merge waits until a change has passed, and has it merged.
func (q *quay) merge(name string) {
	q.Helper()
	q.became(name, v1alpha1.Held)
	if _, errs, code := q.bight("change", "merge", name, "-n", q.namespace); code != 0 {
		q.Fatalf("change merge: %s", errs)
	}
}

// followed waits until the App's Ready has a reason, and returns its message.
func (q *quay) followed(reason string) string {
	q.Helper()
	var message string
	q.eventually("the App is "+reason, func() error {
		a, err := read[v1alpha1.App](v1alpha1.Apps(), q.namespace, q.namespace)
		if err != nil {
			return err
		}
		ready := apimeta.FindStatusCondition(a.Status.Conditions, "Ready")
		if ready == nil || ready.Reason != reason {
			return fmt.Errorf("it is %+v", ready)
		}
		message = ready.Message
		return nil
	})
	return message
}

// apply makes the App as it is to be.
func (q *quay) apply(poll int) {
	q.Helper()
	file := filepath.Join(q.TempDir(), "app.yaml")
	text := fmt.Sprintf(`apiVersion: bight.dev/v1alpha1
kind: App
metadata: {name: %[1]s, namespace: %[1]s}
spec:
  source: {url: %[2]q, host: gitea, secret: forge, pollSeconds: %[3]d}
  environments: [{name: prod}]
  policy: {preview: false}
`, q.namespace, q.forge.url, poll)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		q.Fatal(err)
	}
	if out, err := q.kubectl("apply", "-f", file); err != nil {
		q.Fatalf("%v\n%s", err, out)
	}
}

// secret makes the Secret as it is to be.
func (q *quay) secret(token string) {
	q.Helper()
	s := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "forge", Namespace: q.namespace}, StringData: map[string]string{"token": token, "webhook": "signed-with-this"}}
	secrets := client.CoreV1().Secrets(q.namespace)
	if _, err := secrets.Update(context(), s, meta.UpdateOptions{}); err != nil {
		if _, err := secrets.Create(context(), s, meta.CreateOptions{}); err != nil {
			q.Fatal(err)
		}
	}
}

// wanted are the statuses of a commit that is deployed.
var wanted = map[string]string{"bight/review": "success", "bight/build": "success", "bight/test": "success", "bight/merge": "success", "bight/deploy/prod": "success"}

// shows waits until the host shows statuses.
func (q *quay) shows(commit string, want map[string]string) {
	q.Helper()
	q.eventually("the host shows how "+commit[:12]+" is", func() error {
		if diff := cmp.Diff(want, q.forge.shown(commit)); diff != "" {
			return fmt.Errorf("statuses (-want +got):\n%s", diff)
		}
		return nil
	})
}

func testSourceFirst(q *quay) {
	name := q.commit("The app")
	q.push("main")
	q.write("old.txt", "An old idea.\n")
	old := q.commit("An old idea")
	q.push("old")
	q.git("reset", "--quiet", "--hard", "HEAD~1")
	q.apply(1)
	if message := q.followed("NoSecret"); !strings.Contains(message, "secret forge") {
		q.Errorf("it says %q", message)
	}
	q.secret(q.forge.token)
	q.followed("Following")
	c := q.became(name, v1alpha1.Deployed)
	if c.Status.Merged != q.git("rev-parse", "HEAD") || c.Spec.Author != "Ada" {
		q.Errorf("it is %+v merged as %s", c.Spec, c.Status.Merged)
	}
	q.serves(q.prod, "cart", "first")
	q.shows(c.Spec.Commit, wanted)
	if list, _, _ := q.bight("change", "list", "-n", q.namespace); strings.Contains(list, old) {
		q.Errorf("a branch that was there before the App became a change:\n%s", list)
	}
}

func testSourceBranch(q *quay) {
	q.write("cart/main.go", shipped("cart", "second"))
	name := q.commit("cart: say second")
	q.push("second")
	q.merge(name)
	c := q.became(name, v1alpha1.Deployed)
	if got := q.forge.head("main"); got != c.Status.Merged || got != c.Spec.Commit {
		q.Errorf("the host's branch is at %s, the change is %s, merged as %s", got, c.Spec.Commit, c.Status.Merged)
	}
	if c.Spec.Ref != "refs/heads/second" {
		q.Errorf("it is of %s", c.Spec.Ref)
	}
	q.serves(q.prod, "cart", "second")
	q.shows(c.Spec.Commit, wanted)
}

func testSourceMergedThere(q *quay) {
	q.write("cart/main.go", shipped("cart", "third"))
	name := q.commit("cart: say third")
	q.push("main")
	c := q.became(name, v1alpha1.Deployed)
	if c.Status.Merged != q.forge.head("main") {
		q.Errorf("merged as %s", c.Status.Merged)
	}
	if s := stepOf(c, "review"); !strings.Contains(s.Message, "in 1 file") {
		q.Errorf("the review looked at something else: %+v", s)
	}
	q.serves(q.prod, "cart", "third")
}

func stepOf(c *v1alpha1.Change, name string) v1alpha1.Step {
	for _, s := range c.Status.Steps {
		if s.Name == name {
			return s
		}
	}
	return v1alpha1.Step{}
}

func testSourceRequest(q *quay) {
	q.write("cart/config.go", "package main\n\nvar awsKey = \""+"AKIA"+"Z7QXR2LM4NVBTY5K"+"\"\n")
	name := q.commit("cart: a key")
	commit := q.git("rev-parse", "HEAD")
	q.forge.open(7, "key", commit, false)
	q.push("key")
	c := q.became(name, v1alpha1.Refused)
	if c.Spec.Request != 7 || c.Spec.Author != "grace" || c.Spec.Untrusted {
		q.Errorf("it is %+v", c.Spec)
	}
	q.eventually("the finding is told", func() error {
		said := q.forge.said(7)
		if !strings.Contains(said["cart/config.go:3"], "error") || !strings.Contains(said["all"], "refused") {
			return fmt.Errorf("it says %q", said)
		}
		if strings.Contains(fmt.Sprint(said), "Z7QXR2LM4NVBTY5K") {
			q.Fatalf("the secret is told: %q", said)
		}
		return nil
	})
	q.eventually("the host shows the refusal", func() error {
		if got := q.forge.shown(commit); got["bight/review"] != "failure" || got["bight/merge"] != "failure" {
			return fmt.Errorf("statuses %v", got)
		}
		return nil
	})
	q.write("cart/config.go", "package main\n\nvar answer = 42\n\nfunc init() { _ = answer }\n")
	q.git("add", "--all")
	q.git("commit", "--quiet", "--amend", "--message", "cart: an answer")
	commit = q.git("rev-parse", "HEAD")
	q.forge.open(7, "key", commit, false)
	q.push("key", "--force")
	name = q.namespace + "-" + commit[:12]
	q.merge(name)
	q.became(name, v1alpha1.Deployed)
	q.eventually("the comment is gone and the summary says deployed", func() error {
		said := q.forge.said(7)
		if said["cart/config.go:3"] != "" || !strings.Contains(said["all"], "deployed") || strings.Count(said["all"], "<!-- bight") != 1 {
			return fmt.Errorf("it says %q", said)
		}
		return nil
	})
}

func testSourceFork(q *quay) {
	q.write("cart/main.go", shipped("cart", "mallory"))
	name := q.commit("cart: say mallory")
	commit := q.git("rev-parse", "HEAD")
	q.git("push", "--quiet", q.forge.dir, "HEAD:refs/pull/8/head")
	q.git("reset", "--quiet", "--hard", "HEAD~1")
	q.forge.open(8, "main", commit, true)
	q.eventually("the request is a change", func() error {
		out, errs, code := q.bight("change", "show", name, "-n", q.namespace, "-o", "json")
		if code != 0 {
			return fmt.Errorf("%s", errs)
		}
		c := &v1alpha1.Change{}
		if err := json.Unmarshal([]byte(out), c); err != nil {
			return err
		}
		if !c.Spec.Untrusted || c.Spec.Request != 8 || c.Spec.Author != "grace" || c.Spec.Ref != "refs/pull/8/head" {
			q.Fatalf("it is %+v", c.Spec)
		}
		return nil
	})
	q.forge.set(func() { q.forge.pulls = q.forge.pulls[:1] })
	c := q.became(name, v1alpha1.Cancelled)
	if !strings.Contains(c.Status.Message, "request 8 was closed") || len(c.Status.Runs) > 0 {
		q.Errorf("it says %q, runs %v", c.Status.Message, c.Status.Runs)
	}
	// Somebody who may push takes it over.
	q.git("push", "--quiet", q.forge.dir, commit+":refs/heads/adopted")
	q.merge(name)
	c = q.became(name, v1alpha1.Deployed)
	if c.Spec.Untrusted || c.Spec.Ref != "refs/heads/adopted" {
		q.Errorf("it is %+v", c.Spec)
	}
	q.git("reset", "--quiet", "--hard", commit)
}

func testSourceProtected(q *quay) {
	hook := filepath.Join(q.forge.dir, "hooks", "pre-receive")
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		q.Fatal(err)
	}
	script := "#!/bin/sh\nwhile read old new ref; do [ $ref != refs/heads/main ] || { echo 'main is protected' >&2; exit 1; }; done\n"
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		q.Fatal(err)
	}
	q.write("cart/main.go", shipped("cart", "fourth"))
	name := q.commit("cart: say fourth")
	q.push("fourth")
	q.merge(name)
	c := q.became(name, v1alpha1.Failed)
	if !strings.Contains(c.Status.Message, "refused to update refs/heads/main") || stepOf(c, "merge").State != v1alpha1.StepErred {
		q.Errorf("it says %q, merge is %+v", c.Status.Message, stepOf(c, "merge"))
	}
	if err := os.Remove(hook); err != nil {
		q.Fatal(err)
	}
	if _, errs, code := q.bight("change", "retry", name, "-n", q.namespace); code != 0 {
		q.Fatalf("retry: %s", errs)
	}
	q.became(name, v1alpha1.Deployed)
	if got := q.forge.head("main"); got != c.Spec.Commit {
		q.Errorf("the host's branch is at %s", got)
	}
}

func testSourceCredentials(q *quay) {
	q.secret("another-token")
	if message := q.followed("BadCredentials"); strings.Contains(message, "another-token") {
		q.Errorf("the secret is told: %q", message)
	}
	q.secret(q.forge.token)
	q.followed("Following")
	q.forge.set(func() { q.forge.away = true })
	q.followed("Unreachable")
	q.forge.set(func() { q.forge.away = false })
	q.followed("Following")
}

func testSourceWebhook(q *quay) {
	q.apply(0) // nobody looks from now on unless told
	q.eventually("the App is seen", func() error {
		a, err := read[v1alpha1.App](v1alpha1.Apps(), q.namespace, q.namespace)
		if err == nil && a.Status.ObservedGeneration != a.Generation {
			err = fmt.Errorf("generation %d of %d is", a.Status.ObservedGeneration, a.Generation)
		}
		return err
	})
	q.write("cart/main.go", shipped("cart", "fifth"))
	name := q.commit("cart: say fifth")
	q.push("fifth")
	body := []byte(`{"ref": "refs/heads/fifth", "repository": {"full_name": "acme/shop"}}`)
	forged, text := q.report(q.namespace, "another", "a", body)
	missing, other := q.report("nothing", "another", "a", body)
	if forged != 401 || missing != 401 || text != other {
		q.Errorf("forged: %d %q; of no app: %d %q", forged, text, missing, other)
	}
	if status, text := q.report(q.namespace, "signed-with-this", "a", body); status != 202 {
		q.Errorf("the webhook: %d %s", status, text)
	}
	if status, text := q.report(q.namespace, "signed-with-this", "a", body); status != 409 {
		q.Errorf("the replayed webhook: %d %s", status, text)
	}
	q.merge(name)
	q.became(name, v1alpha1.Deployed)
	q.serves(q.prod, "cart", "fifth")
	q.apply(1)
}

// testSourceRaced has somebody push to the branch while a change is on its way to it.
func testSourceRaced(q *quay) {
	base := q.git("rev-parse", "HEAD")
	q.write("stock/main.go", shipped("stock", "raced"))
	name := q.commit("stock: say raced")
	q.push("raced")
	q.became(name, v1alpha1.Held)
	q.git("reset", "--quiet", "--hard", base)
	q.write("cart/main.go", shipped("cart", "raced"))
	other := q.commit("cart: say raced")
	q.push("main")
	q.merge(name)
	c := q.became(name, v1alpha1.Deployed)
	q.became(other, v1alpha1.Deployed)
	if got := q.forge.head("main"); got != c.Status.Merged {
		q.Errorf("the host's branch is at %s, the change was merged as %s", got, c.Status.Merged)
	}
	q.serves(q.prod, "cart", "raced")
	q.serves(q.prod, "stock", "raced")
	q.git("fetch", "--quiet", q.forge.dir, "main")
	q.git("reset", "--quiet", "--hard", "FETCH_HEAD")
}

// testSourceRolledBack sets the host's branch back to what it was.
func testSourceRolledBack(q *quay) {
	before := q.git("rev-parse", "HEAD")
	q.write("cart/main.go", shipped("cart", "wrong"))
	name := q.commit("cart: say wrong")
	q.push("wrong")
	q.merge(name)
	q.became(name, v1alpha1.Deployed)
	q.serves(q.prod, "cart", "wrong")
	q.git("reset", "--quiet", "--hard", before)
	q.push("main", "--force")
	q.serves(q.prod, "cart", "raced")
	if got := q.forge.head("main"); got != before {
		q.Errorf("the host's branch is at %s", got)
	}
}

// testSourceAway loses the host, and then the controller, before a merge.
func testSourceAway(q *quay) {
	q.write("cart/main.go", shipped("cart", "patient"))
	name := q.commit("cart: say patient")
	q.push("patient")
	q.became(name, v1alpha1.Held)
	q.forge.set(func() { q.forge.away = true })
	q.merge(name)
	q.eventually("the merge waits for the host", func() error {
		if s := stepOf(q.change(name), "merge"); s.State != v1alpha1.StepRunning || !strings.Contains(s.Message, "not at the host yet") {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
	if err := client.CoreV1().Pods("bight-system").Delete(context(), q.leader(), deleteNow()); err != nil {
		q.Fatal(err)
	}
	q.followed("Unreachable")
	q.forge.set(func() { q.forge.away = false })
	c := q.became(name, v1alpha1.Deployed)
	if got := q.forge.head("main"); got != c.Status.Merged {
		q.Errorf("the host's branch is at %s, the change was merged as %s", got, c.Status.Merged)
	}
	q.serves(q.prod, "cart", "patient")
	q.shows(c.Spec.Commit, wanted)
}

// testSourceBranchGone deletes the branch that a change is to be merged into.
func testSourceBranchGone(q *quay) {
	main := q.forge.head("main")
	q.write("cart/main.go", shipped("cart", "back"))
	name := q.commit("cart: say back")
	q.push("back")
	q.became(name, v1alpha1.Held)
	q.forge.git("-C", q.forge.dir, "update-ref", "-d", "refs/heads/main")
	q.merge(name)
	q.followed("NoBranch")
	q.eventually("the merge waits for the branch", func() error {
		if s := stepOf(q.change(name), "merge"); !strings.Contains(s.Message, "has no branch main") {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
	q.forge.set(func() {
		if q.forge.asked > 500 { // each look is a few questions
			q.Errorf("the host was asked %d times", q.forge.asked)
		}
	})
	q.forge.git("-C", q.forge.dir, "update-ref", "refs/heads/main", main)
	q.became(name, v1alpha1.Deployed)
	q.serves(q.prod, "cart", "back")
}

func testSourceForced(q *quay) {
	q.worker.signal(syscall.SIGINT)
	q.worker.end(q.T)
	q.write("cart/main.go", shipped("cart", "sixth"))
	first := q.commit("cart: say sixth")
	q.push("sixth")
	q.became(first, v1alpha1.Running)
	q.git("commit", "--quiet", "--amend", "--message", "cart: say sixth, better")
	second := q.namespace + "-" + q.git("rev-parse", "HEAD")[:12]
	q.push("sixth", "--force")
	if c := q.became(first, v1alpha1.Superseded); c.Status.Message != "replaced by "+second {
		q.Errorf("it says %q", c.Status.Message)
	}
	q.became(second, v1alpha1.Running)
	q.git("push", "--quiet", q.forge.dir, ":refs/heads/sixth")
	if c := q.became(second, v1alpha1.Cancelled); c.Status.Message != "branch sixth was deleted at the host" {
		q.Errorf("it says %q", c.Status.Message)
	}
	q.eventually("the host shows that it was given up", func() error {
		if got := q.forge.shown(q.git("rev-parse", "HEAD")); got["bight/merge"] != "error" {
			return fmt.Errorf("statuses %v", got)
		}
		return nil
	})
}
