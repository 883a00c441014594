//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestShip takes commits of one app to its environment, one after the other.
func TestShip(t *testing.T) {
	d := newDock(t)
	d.chain(t, []dockTest{
		{"First", testFirstShip},
		{"Again", testShipAgain},
		{"NothingTouched", testShipNothing},
		{"OneService", testShipOneService},
		{"TestsFail", testShipTestsFail},
		{"DoesNotCompile", testShipNoCompile},
		{"Secret", testShipSecret},
		{"DoesNotServe", testShipCrash},
		{"TwoDevelopers", testShipTwo},
		{"Conflict", testShipConflict},
		{"Drift", testShipDrift},
		{"Secrets", testShipSecrets},
		{"PlainGit", testShipPlainGit},
		{"ControllerKilled", testShipControllerKilled},
		{"WorkerKilled", testShipWorkerKilled},
		{"NoRight", testShipNoRight},
		{"PreviewEnds", testPreviewEnds},
	})
}

func testFirstShip(d *dock) {
	name := d.commit("The app")
	d.ships(0)
	want := map[string]string{
		"review": v1alpha1.StepPassed, "build": v1alpha1.StepPassed, "test": v1alpha1.StepPassed,
		"preview": v1alpha1.StepPassed, "merge": v1alpha1.StepPassed, "deploy/prod": v1alpha1.StepPassed,
	}
	if diff := cmp.Diff(want, d.states(name)); diff != "" {
		d.Errorf("steps (-want +got):\n%s", diff)
	}
	d.serves(d.prod, "cart", "first")
	if out, err := d.kubectl("wait", "--for=condition=Succeeded", "change/"+name, "-n", d.namespace, "--timeout=10s"); err != nil {
		d.Errorf("kubectl wait: %v\n%s", err, out)
	}
	list, _, _ := d.bight("change", "list", "-n", d.namespace)
	if !strings.Contains(list, name) || !strings.Contains(list, "deployed") || !strings.Contains(list, "The app") {
		d.Errorf("change list:\n%s", list)
	}
	logs, _, code := d.bight("change", "logs", name, "build", "-n", d.namespace)
	if code != 0 || !strings.Contains(logs, "cart: ") {
		d.Errorf("change logs: exit code %d\n%s", code, logs)
	}
	if got := d.git("rev-parse", "refs/remotes/bight/main"); got != d.git("rev-parse", "HEAD") {
		d.Errorf("the branch is at %s", got)
	}
}

func testShipAgain(d *dock) {
	said := d.ships(0)
	if !strings.Contains(said, "deployed to prod") {
		d.Errorf("it said\n%s", said)
	}
	if all, _, _ := d.bight("change", "list", "-n", d.namespace, "-o", "json"); strings.Count(all, `"kind": "Change"`)+strings.Count(all, `"kind":"Change"`) > 1 {
		d.Errorf("the same commit made another change:\n%s", all)
	}
}

// generations tells which Deployments of the environment were changed.
func (d *dock) generations() map[string]int64 {
	d.Helper()
	list, err := client.AppsV1().Deployments(d.prod).List(context(), meta.ListOptions{})
	if err != nil {
		d.Fatal(err)
	}
	out := map[string]int64{}
	for _, x := range list.Items {
		out[x.Name] = x.Generation
	}
	return out
}

func testShipNothing(d *dock) {
	before := d.generations()
	d.write("README.md", "An app, and words about it.\n")
	name := d.commit("Words")
	began := time.Now()
	d.ships(0)
	d.Logf("a change that touches no service: %s", time.Since(began).Round(time.Millisecond))
	if diff := cmp.Diff(before, d.generations()); diff != "" {
		d.Errorf("deployments were changed (-before +after):\n%s", diff)
	}
	for _, s := range d.change(name).Status.Steps {
		if s.Name != "review" && s.Name != "merge" && s.Cached == "" {
			d.Errorf("%s does not say that nothing had to be done: %+v", s.Name, s)
		}
	}
}

func testShipOneService(d *dock) {
	before := d.generations()
	d.write("cart/main.go", shipped("cart", "second"))
	name := d.commit("cart: say second")
	stop := d.drip(d.prod, "cart")
	began := time.Now()
	d.ships(0)
	d.Logf("a fix of one service: %s", time.Since(began).Round(time.Millisecond))
	d.serves(d.prod, "cart", "second")
	if asked, failed := stop(); failed > 0 {
		d.Errorf("%d of %d requests failed meanwhile", failed, asked)
	}
	after := d.generations()
	if after["stock"] != before["stock"] || after["cart"] == before["cart"] {
		d.Errorf("deployments before %v, after %v", before, after)
	}
	if got := d.change(name).Status; got.Images["cart"] == "" || got.Risk == nil || got.Preview == nil {
		d.Errorf("status %+v", got)
	}
}

// refusedBy ships HEAD, which is refused by one step, and undoes the commit.
func (d *dock) refusedBy(step string, want ...string) string {
	d.Helper()
	name := d.commit("Wrong")
	before := d.generations()
	said := d.ships(1)
	for _, w := range want {
		if !strings.Contains(said, w) {
			d.Errorf("it does not say %q:\n%s", w, said)
		}
	}
	c := d.change(name)
	if c.Status.Phase != v1alpha1.Refused || !strings.HasPrefix(c.Status.Message, step+": ") {
		d.Errorf("phase %q, message %q; want one of %s", c.Status.Phase, c.Status.Message, step)
	}
	if c.Status.Merged != "" {
		d.Errorf("it was merged as %s", c.Status.Merged)
	}
	if diff := cmp.Diff(before, d.generations()); diff != "" {
		d.Errorf("deployments were changed (-before +after):\n%s", diff)
	}
	d.git("reset", "--quiet", "--hard", "HEAD~1")
	return name
}

func testShipTestsFail(d *dock) {
	d.write("cart/main.go", shipped("cart", ""))
	d.refusedBy("test", "cart/main_test.go:7", "there is no word")
}

func testShipNoCompile(d *dock) {
	d.write("cart/main.go", strings.Replace(shipped("cart", "third"), "word)", "words)", 1))
	name := d.commit("Does not compile")
	said := d.ships(1)
	if !strings.Contains(said, "undefined: words") || !strings.Contains(said, "cart/main.go:14") {
		d.Errorf("it said\n%s", said)
	}
	if c := d.change(name); c.Status.Phase != v1alpha1.Refused {
		d.Errorf("phase %q", c.Status.Phase)
	}
	d.git("reset", "--quiet", "--hard", "HEAD~1")
}

func testShipSecret(d *dock) {
	// In two parts, so that it is in no file of this repository.
	secret := "AKIA" + "Z7QXR2LM4NVBTY5K"
	d.write("cart/config.go", "package main\n\nvar awsKey = \""+secret+"\"\n")
	name := d.refusedBy("review", "cart/config.go:3")
	shown, _, _ := d.bight("change", "show", name, "-n", d.namespace, "-o", "json")
	logs, _, _ := d.bight("change", "logs", name, "-n", d.namespace)
	if strings.Contains(shown+logs, secret) {
		d.Errorf("the secret is told:\n%s\n%s", shown, logs)
	}
}

func testShipCrash(d *dock) {
	d.write("cart/main.go", strings.Replace(shipped("cart", "third"), "func main() {", "func main() {\n\tif len(os.Args) < 9 {\n\t\tpanic(\"no ninth argument\")\n\t}", 1))
	d.refusedBy("preview", "no ninth argument")
	d.serves(d.prod, "cart", "second")
}

func testShipTwo(d *dock) {
	base := d.git("rev-parse", "HEAD")
	d.write("cart/main.go", shipped("cart", "by ada"))
	ada := d.commit("cart: by ada")
	if said, code := d.ship("--detach"); code != 0 {
		d.Fatalf("ship --detach: exit code %d\n%s", code, said)
	}
	d.git("reset", "--quiet", "--hard", base)
	d.write("stock/main.go", shipped("stock", "by ben"))
	ben := d.commit("stock: by ben")
	said := d.ships(0)
	d.serves(d.prod, "cart", "by ada")
	d.serves(d.prod, "stock", "by ben")
	for _, name := range []string{ada, ben} {
		if c := d.change(name); c.Status.Phase != v1alpha1.Deployed {
			d.Errorf("%s is %s: %s", name, c.Status.Phase, c.Status.Message)
		}
	}
	if !strings.Contains(said, "git rebase bight/main") {
		d.Errorf("ben is not told that his commit was rebased:\n%s", said)
	}
	d.git("reset", "--quiet", "--hard", "bight/main")
	titles := strings.Split(d.git("log", "--format=%s", "-2"), "\n")
	if diff := cmp.Diff([]string{"stock: by ben", "cart: by ada"}, titles); diff != "" {
		d.Errorf("the branch's history (-want +got):\n%s", diff)
	}
}

func testShipConflict(d *dock) {
	base := d.git("rev-parse", "HEAD")
	d.write("cart/main.go", shipped("cart", "one way"))
	d.commit("cart: one way")
	d.ships(0)
	d.git("reset", "--quiet", "--hard", base)
	d.write("cart/main.go", shipped("cart", "another way"))
	name := d.commit("cart: another way")
	said := d.ships(1)
	if c := d.change(name); c.Status.Phase != v1alpha1.Refused || !strings.Contains(c.Status.Message, "cart/main.go") {
		d.Errorf("phase %q, message %q\n%s", c.Status.Phase, c.Status.Message, said)
	}
	if !strings.Contains(said, "git rebase bight/main") {
		d.Errorf("nothing is said of the branch as it is now:\n%s", said)
	}
	d.git("reset", "--quiet", "--hard", "bight/main")
	d.git("fetch", "--quiet", ".")
}

func testShipDrift(d *dock) {
	if err := client.CoreV1().Services(d.prod).Delete(context(), "cart", meta.DeleteOptions{}); err != nil {
		d.Fatal(err)
	}
	d.serves(d.prod, "cart", "one way")
	patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"stock","image":"localhost:5000/nothing:here"}]}}}}`)
	if _, err := client.AppsV1().Deployments(d.prod).Patch(context(), "stock", types.StrategicMergePatchType, patch, meta.PatchOptions{FieldManager: "somebody"}); err != nil {
		d.Fatal(err)
	}
	d.eventually("the image is put back", func() error {
		x, err := client.AppsV1().Deployments(d.prod).Get(context(), "stock", meta.GetOptions{})
		if err == nil && strings.Contains(x.Spec.Template.Spec.Containers[0].Image, "nothing:here") {
			err = fmt.Errorf("it is %s", x.Spec.Template.Spec.Containers[0].Image)
		}
		return err
	})
	d.eventually("the App tells of it", func() error {
		a, err := read[v1alpha1.App](v1alpha1.Apps(), d.namespace, d.namespace)
		if err == nil && !strings.Contains(fmt.Sprintf("%+v", a.Status.Environments), "deployment/stock") {
			err = fmt.Errorf("it says %+v", a.Status.Environments)
		}
		return err
	})
	d.changedUnseen()
}

// changedUnseen changes an environment while no controller is there to see it.
func (d *dock) changedUnseen() {
	d.Helper()
	scale := func(replicas int) {
		d.Helper()
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
		if _, err := client.AppsV1().StatefulSets("bight-system").Patch(context(), "bight-controller", types.MergePatchType, patch, meta.PatchOptions{}); err != nil {
			d.Fatal(err)
		}
		d.eventually(fmt.Sprintf("there are %d controllers", replicas), func() error {
			all, err := client.CoreV1().Pods("bight-system").List(context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/name=bight-controller"})
			if err == nil && len(all.Items) != replicas {
				err = fmt.Errorf("there are %d", len(all.Items))
			}
			return err
		})
	}
	scale(0)
	if err := client.CoreV1().Services(d.prod).Delete(context(), "stock", meta.DeleteOptions{}); err != nil {
		d.Fatal(err)
	}
	scale(1)
	d.eventually("what was deleted unseen is back", func() error {
		_, err := client.CoreV1().Services(d.prod).Get(context(), "stock", meta.GetOptions{})
		return err
	})
}

func testShipSecrets(d *dock) {
	d.write("bight.yaml", "services:\n  cart:\n    env:\n      API_KEY: {secret: true, value: of-a-laptop}\n")
	name := d.commit("cart: wants a key")
	said := d.ships(1)
	for _, want := range []string{"secret/cart (API_KEY)", v1alpha1.PreviewsLabel + "=true", d.namespace} {
		if !strings.Contains(said, want) {
			d.Errorf("without the Secret, %q is not in\n%s", want, said)
		}
	}
	secret := &core.Secret{StringData: map[string]string{"API_KEY": "of-a-cluster"}}
	secret.Name, secret.Labels = "cart", map[string]string{v1alpha1.PreviewsLabel: "true"}
	for _, ns := range []string{d.namespace, d.prod} {
		if _, err := client.CoreV1().Secrets(ns).Create(context(), secret, meta.CreateOptions{}); err != nil {
			d.Fatal(err)
		}
	}
	worker := d.start("worker", "--app", d.namespace+"/"+d.namespace)
	defer func() {
		worker.signal(syscall.SIGINT)
		worker.end(d.T)
	}()
	if _, errs, code := d.bight("change", "retry", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change retry: exit code %d\n%s", code, errs)
	}
	if _, errs, code := d.bight("change", "show", name, "-n", d.namespace, "--follow"); code != 0 {
		d.Fatalf("exit code %d\n%s\n%s", code, errs, worker.output)
	}
	p := d.change(name).Status.Preview
	if p == nil {
		d.Fatal("there is no preview")
	}
	got, err := client.CoreV1().Secrets(p.Namespace).Get(context(), "cart", meta.GetOptions{})
	if err != nil || string(got.Data["API_KEY"]) != "of-a-cluster" {
		d.Errorf("the preview's Secret is %v, %v", got, err)
	}
}

func testShipPlainGit(d *dock) {
	d.T.Setenv("PATH", binaries+":"+os.Getenv("PATH"))
	worker := d.start("worker", "--app", d.namespace+"/"+d.namespace, "--slots", "4")
	d.write("stock/main.go", shipped("stock", "by git"))
	name := d.commit("stock: by git")
	d.git("remote", "add", "cluster", "bight://"+d.namespace+"/"+d.namespace)
	said := d.git("push", "cluster", "HEAD:fix")
	if !strings.Contains(said, "remote: change "+name) {
		d.Errorf("git push said\n%s", said)
	}
	_, _, code := d.bight("change", "show", name, "-n", d.namespace, "--follow")
	if c := d.change(name); code != 0 || c.Status.Phase != v1alpha1.Held || c.Status.Merged != "" {
		d.Fatalf("pushed to a branch: exit code %d, phase %q, message %q\n%s", code, c.Status.Phase, c.Status.Message, worker.output)
	}
	if _, errs, code := d.bight("change", "merge", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change merge: exit code %d\n%s", code, errs)
	}
	d.serves(d.prod, "stock", "by git")
	d.git("fetch", "--quiet", "cluster")
	if got := d.git("rev-parse", "cluster/main"); got != d.git("rev-parse", "HEAD") {
		d.Errorf("the branch is at %s", got)
	}
	if out := d.git("log", "-1", "--format=%s", "cluster/bight/prod"); !strings.Contains(out, "Deploy "+name) {
		d.Errorf("the environment's branch says %q", out)
	}
}

// slowTest makes cart's test wait for a file to go.
func (d *dock) slowTest(word string) {
	d.write("cart/main.go", shipped("cart", word))
	d.write("cart/slow_test.go", "package main\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestSlow(t *testing.T) {\n\ttime.Sleep(4 * time.Second)\n}\n")
}

func testShipControllerKilled(d *dock) {
	d.slowTest("kept")
	name := d.commit("cart: a slow test")
	p := d.start("ship", "-n", d.namespace)
	d.runs(name, "test")
	if err := client.CoreV1().Pods("bight-system").Delete(context(), d.leader(), deleteNow()); err != nil {
		d.Fatal(err)
	}
	if code := p.end(d.T); code != 0 {
		d.Fatalf("exit code %d\n%s", code, p.output)
	}
	d.serves(d.prod, "cart", "kept")
	d.once1(name, "deploy/prod")
}

// once1 checks that a step is once in a change's timeline.
func (d *dock) once1(name, step string) {
	d.Helper()
	n := 0
	for _, s := range d.change(name).Status.Steps {
		if s.Name == step {
			n++
		}
	}
	if n != 1 {
		d.Errorf("%s is %d times in the timeline", step, n)
	}
}

func testShipWorkerKilled(d *dock) {
	d.slowTest("again")
	name := d.commit("cart: killed in the middle")
	first := d.start("worker", "--app", d.namespace+"/"+d.namespace, "--name", "first", "--slots", "4")
	d.eventually("the worker is connected", func() error {
		if !strings.Contains(first.output.String(), "working as first") {
			return fmt.Errorf("it says %q", first.output)
		}
		return nil
	})
	p := d.start("ship", "-n", d.namespace, "--no-worker")
	d.runs(name, "test")
	first.signal(syscall.SIGKILL)
	d.start("worker", "--app", d.namespace+"/"+d.namespace, "--name", "second", "--slots", "4")
	if code := p.end(d.T); code != 0 {
		d.Fatalf("exit code %d\n%s", code, p.output)
	}
	steps := d.change(name).Status.Steps
	i := slices.IndexFunc(steps, func(s v1alpha1.Step) bool { return s.Name == "test" })
	if steps[i].Worker != "second" {
		d.Errorf("the test was done by %s", steps[i].Worker)
	}
}

func testShipNoRight(d *dock) {
	kubeconfig := as(d.T, "mallory")
	d.write("cart/main.go", shipped("cart", "by mallory"))
	d.commit("cart: by mallory")
	_, said, code := d.bight("ship", "-n", d.namespace, "--kubeconfig", kubeconfig)
	if code != 3 || !strings.Contains(said, "apps.bight.dev") {
		d.Errorf("exit code %d\n%s", code, said)
	}
	d.bind("mallory", "view")
	_, said, code = d.bight("ship", "-n", d.namespace, "--kubeconfig", kubeconfig)
	if code != 3 || !strings.Contains(said, "tickets") {
		d.Errorf("with role view: exit code %d\n%s", code, said)
	}
	d.git("reset", "--quiet", "--hard", "HEAD~1")
}

func testPreviewEnds(d *dock) {
	previews, err := client.CoreV1().Namespaces().List(context(), meta.ListOptions{LabelSelector: v1alpha1.EnvironmentLabel + "=preview," + v1alpha1.AppNamespaceLabel + "=" + d.namespace})
	if err != nil || len(previews.Items) == 0 {
		d.Fatalf("previews: %v, %d", err, len(previews.Items))
	}
	preview := previews.Items[0].Name
	patch := []byte(`{"metadata":{"annotations":{"bight.dev/until":"2020-01-01T00:00:00Z"}}}`)
	if _, err := client.CoreV1().Namespaces().Patch(context(), preview, types.MergePatchType, patch, meta.PatchOptions{}); err != nil {
		d.Fatal(err)
	}
	if out, err := d.kubectl("annotate", "app", d.namespace, "-n", d.namespace, "look=again"); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	d.eventually("the preview is gone", func() error {
		_, err := client.CoreV1().Namespaces().Get(context(), preview, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}
