//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	changeclient "github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
)

// TestShipQueue has people do what they do with changes, several at once too.
func TestShipQueue(t *testing.T) {
	d := newDock(t)
	d.each(t, []dockTest{
		{"Start", testStart},
		{"Amended", testAmended},
		{"Cancelled", testCancelled},
		{"Retried", testRetried},
		{"Git", testPlainGit},
		{"Reserved", testReservedRefs},
		{"Eight", testEight},
	})
}

func testAmended(d *dock) {
	d.slowTest("first try")
	first := d.commit("cart: a fix")
	if said, code := d.ship("--detach"); code != 0 {
		d.Fatalf("exit code %d\n%s", code, said)
	}
	d.slowTest("second try")
	d.git("commit", "--quiet", "--all", "--amend", "--message", "cart: a better fix")
	second := d.namespace + "-" + d.git("rev-parse", "HEAD")[:12]
	d.ships(0)
	d.ends(first, v1alpha1.Superseded)
	d.ends(second, v1alpha1.Deployed)
	d.serves(d.prod, "cart", "second try")
	d.merged()
}

func testCancelled(d *dock) {
	d.slowTest("cancelled")
	name := d.commit("cart: not after all")
	p := d.start("ship", "-n", d.namespace)
	d.reaches(name, "is tested", func(c *v1alpha1.Change) bool { return at(c, "test", v1alpha1.StepRunning) })
	if _, said, code := d.bight("change", "cancel", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change cancel: exit code %d\n%s", code, said)
	}
	if code := p.end(d.T); code != 1 {
		d.Errorf("exit code %d\n%s", code, p.output)
	}
	d.ends(name, v1alpha1.Cancelled)
	d.serves(d.prod, "cart", "second try")
	d.merged()
}

// testRetried fails by what is outside of the repository, and does again what failed.
func testRetried(d *dock) {
	file := filepath.Join(d.TempDir(), "there")
	d.write("cart/outside_test.go", "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestOutside(t *testing.T) {\n\tif _, err := os.Stat(\""+file+"\"); err != nil {\n\t\tt.Fatal(err)\n\t}\n}\n")
	name := d.commit("cart: needs a file")
	d.ships(1)
	d.ends(name, v1alpha1.Refused)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		d.Fatal(err)
	}
	if _, said, code := d.bight("change", "retry", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change retry: exit code %d\n%s", code, said)
	}
	d.ships(0)
	d.ends(name, v1alpha1.Deployed)
	d.git("rm", "--quiet", "cart/outside_test.go")
	d.commit("cart: does not need it")
	d.ships(0)
	d.merged()
}

// gitWith runs git with an environment and returns what it says.
func (d *dock) gitWith(env []string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = d.dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// remote is the served repository, as a URL for git on this machine.
func (d *dock) remote() *changeclient.Remote {
	d.Helper()
	cluster, err := kube.Load(kube.Options{})
	if err != nil {
		d.Fatal(err)
	}
	c := &changeclient.Client{Cluster: cluster, Namespace: d.namespace, System: install.Namespace, Controller: install.Controller, Port: install.ControllerPort}
	r, err := c.Remote(context(), d.namespace, d.namespace)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { _ = r.Close(); _ = c.Close() })
	return r
}

// testPlainGit pushes to a branch of its own by git alone, where the change is tested and
// held, and then to main, where it is merged on what was tested.
func testPlainGit(d *dock) {
	r := d.remote()
	d.write("cart/main.go", shipped("cart", "by git"))
	name := d.commit("cart: by git")
	said, err := d.gitWith(r.Env(), "push", r.URL, "HEAD:refs/heads/fix")
	if err != nil || !strings.Contains(said, "change "+name) {
		d.Fatalf("git push: %v\n%s", err, said)
	}
	d.helper("alone")
	held := d.reaches(name, "is held", func(c *v1alpha1.Change) bool { return c.Status.Phase == v1alpha1.Held })
	if said, err := d.gitWith(r.Env(), "push", r.URL, "HEAD:refs/heads/main"); err != nil {
		d.Fatalf("git push to main: %v\n%s", err, said)
	}
	if c := d.ends(name, v1alpha1.Deployed); len(c.Status.Runs) != len(held.Status.Runs) {
		d.Errorf("it was tested again: %+v", c.Status.Runs)
	}
	d.serves(d.prod, "cart", "by git")
	if got, err := d.gitWith(r.Env(), "ls-remote", r.URL, "refs/heads/main"); err != nil || !strings.HasPrefix(got, d.git("rev-parse", "HEAD")) {
		d.Errorf("main is at %q, %v", got, err)
	}
	d.git("update-ref", "refs/remotes/bight/main", "HEAD")
}

func testReservedRefs(d *dock) {
	r := d.remote()
	for _, ref := range []string{"refs/heads/bight/prod", "refs/bight/changes/x", "refs/meta/config"} {
		if said, err := d.gitWith(r.Env(), "push", r.URL, "+HEAD:"+ref); err == nil {
			d.Errorf("git push to %s: accepted\n%s", ref, said)
		}
	}
	if said, err := d.gitWith(r.Env(), "push", r.URL, ":refs/heads/main"); err == nil {
		d.Errorf("the branch could be deleted:\n%s", said)
	}
	answer, err := http.Get(r.URL + "/info/refs?service=git-upload-pack")
	if err != nil {
		d.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		d.Errorf("without a token it answers %s", answer.Status)
	}
}

// testEight ships eight changes at once, by different people: one is broken, and two
// touch the same line.
func testEight(d *dock) {
	base := d.git("rev-parse", "HEAD")
	want := map[string]string{}
	var names []string
	ship := func(author, title string, files map[string]string, phase string) {
		d.git("reset", "--quiet", "--hard", base)
		for path, content := range files {
			d.write(path, content)
		}
		name := d.commit(title)
		kubeconfig := as(d.T, author)
		if _, said, code := d.bight("ship", "--detach", "-n", d.namespace, "--kubeconfig", kubeconfig); code != 0 {
			d.Fatalf("%s ships: exit code %d\n%s", author, code, said)
		}
		want[name] = phase
		names = append(names, name)
	}
	for _, who := range []string{"ann", "bob", "cy", "dee", "eve", "fay", "gus", "hal"} {
		d.bind(who, "edit")
	}
	broken := "package main\n\nimport \"testing\"\n\nfunc TestBroken(t *testing.T) { t.Error(\"broken\") }\n"
	began := time.Now()
	ship("ann", "words of ann", map[string]string{"docs/ann.md": "ann\n"}, v1alpha1.Deployed)
	ship("bob", "stock says bob", map[string]string{"stock/main.go": shipped("stock", "bob")}, v1alpha1.Deployed)
	ship("cy", "a broken test", map[string]string{"cart/cy_test.go": broken}, v1alpha1.Refused)
	ship("dee", "cart says dee", map[string]string{"cart/main.go": shipped("cart", "dee")}, v1alpha1.Deployed)
	ship("eve", "cart says eve", map[string]string{"cart/main.go": shipped("cart", "eve")}, v1alpha1.Refused)
	ship("fay", "words of fay", map[string]string{"docs/fay.md": "fay\n"}, v1alpha1.Deployed)
	ship("gus", "words of gus", map[string]string{"docs/gus.md": "gus\n"}, v1alpha1.Deployed)
	ship("hal", "words of hal", map[string]string{"docs/hal.md": "hal\n"}, v1alpha1.Deployed)
	pushed := time.Now()
	d.Cleanup(func() {
		if d.Failed() {
			for _, name := range names {
				c := d.now(name)
				d.Logf("%s %s: %s", name, c.Status.Phase, c.Status.Message)
				for _, r := range c.Status.Runs {
					d.Logf("    %s %d %s on %.8s: %v", r.State, r.Attempt, r.Changes, r.Base, r.Steps)
				}
			}
		}
	})
	d.helper("all")
	got := map[string]string{}
	runs := 0
	for _, name := range names {
		c := d.reaches(name, "ends", change.Ended)
		got[name] = c.Status.Phase
		runs += len(c.Status.Runs)
	}
	d.Logf("8 changes pushed in %s, judged in %s more, by %d runs", pushed.Sub(began).Round(time.Millisecond), time.Since(pushed).Round(time.Millisecond), runs)
	if diff := cmp.Diff(want, got); diff != "" {
		d.Errorf("phases (-want +got):\n%s", diff)
		for _, name := range names {
			d.Logf("%s: %s", name, d.now(name).Status.Message)
		}
	}
	d.serves(d.prod, "cart", "dee")
	d.serves(d.prod, "stock", "bob")
	d.git("reset", "--quiet", "--hard", base)
}

// TestShipPromotion takes changes to two environments, the second by a person's word.
func TestShipPromotion(t *testing.T) {
	d := newDock(t)
	stage := d.namespace + "-stage"
	first := d.commit("The app")
	said := d.ships(0, "--env", "stage,prod:manual")
	if c := d.now(first); c.Status.Phase != v1alpha1.Held || !strings.Contains(said, "bight change promote "+first+" prod") {
		t.Errorf("%s\n%s", c.Status.Phase, said)
	}
	d.serves(stage, "cart", "first")
	d.write("cart/main.go", shipped("cart", "second"))
	second := d.commit("cart: second")
	d.ships(0)
	d.serves(stage, "cart", "second")
	if _, said, code := d.bight("change", "promote", first, "nowhere", "-n", d.namespace); code == 0 {
		t.Errorf("promoted to nowhere:\n%s", said)
	}
	for _, step := range []struct{ name, word string }{{first, "first"}, {second, "second"}} {
		if _, said, code := d.bight("change", "promote", step.name, "prod", "-n", d.namespace); code != 0 {
			t.Fatalf("promote: exit code %d\n%s", code, said)
		}
		c := d.ends(step.name, v1alpha1.Deployed)
		d.serves(d.prod, "cart", step.word)
		for service, image := range c.Status.Images {
			for _, ns := range []string{d.prod, stage} {
				if ns == stage && step.name == first {
					continue // it has the second by now
				}
				x, err := client.AppsV1().Deployments(ns).Get(context(), service, meta.GetOptions{})
				if err != nil || x.Spec.Template.Spec.Containers[0].Image != image {
					t.Errorf("%s of %s: %v, want %s", service, ns, err, image)
				}
			}
		}
	}
}
