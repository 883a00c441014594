//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
)

// each runs one test after the other on the same repository.
func (d *dock) each(t *testing.T, tests []dockTest) {
	for _, step := range tests {
		if !d.step(t, step) && t.Context().Err() == nil {
			d.git("reset", "--quiet", "--hard", "bight/main")
			d.git("clean", "--quiet", "-fd")
		}
	}
}

// now is a change as the cluster has it, or nil.
func (d *dock) now(name string) *v1alpha1.Change {
	d.Helper()
	all, err := dynamic.NewForConfig(config)
	if err != nil {
		d.Fatal(err)
	}
	u, err := all.Resource(v1alpha1.Changes()).Namespace(d.namespace).Get(context(), name, meta.GetOptions{})
	if err != nil {
		if !apierrors.IsNotFound(err) {
			d.Logf("get change %s: %v", name, err)
		}
		return nil
	}
	c := &v1alpha1.Change{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, c); err != nil {
		d.Fatal(err)
	}
	return c
}

// reaches waits until a change has reached something.
func (d *dock) reaches(name, what string, reached func(*v1alpha1.Change) bool) *v1alpha1.Change {
	d.Helper()
	var c *v1alpha1.Change
	d.eventually(name+": "+what, func() error {
		if c = d.now(name); c == nil {
			return errors.New("there is no such change")
		}
		if !reached(c) {
			return fmt.Errorf("it is %s at %s: %s; runs %+v", c.Status.Phase, c.Status.Current, c.Status.Message, c.Status.Runs)
		}
		return nil
	})
	return c
}

// at reports whether a step of a change or of one of its runs has a state.
func at(c *v1alpha1.Change, step string, states ...string) bool {
	all := c.Status.Steps
	for _, r := range c.Status.Runs {
		all = append(all[:len(all):len(all)], r.Steps...)
	}
	for _, s := range all {
		for _, state := range states {
			if s.Name == step && s.State == state {
				return true
			}
		}
	}
	return false
}

// ends waits for the end of a change.
func (d *dock) ends(name, phase string) *v1alpha1.Change {
	d.Helper()
	c := d.reaches(name, "ends", func(c *v1alpha1.Change) bool { return change.Ended(c) && !change.Retried(c) })
	if c.Status.Phase != phase {
		d.Fatalf("%s is %s, want %s: %s", name, c.Status.Phase, phase, c.Status.Message)
	}
	return c
}

// testStart makes the dock's first change, so that later ones have an environment
// to change.
func testStart(d *dock) {
	d.commit("The app")
	d.ships(0)
}

// TestShipDisasters breaks what brings changes to their environment, at each step.
func TestShipDisasters(t *testing.T) {
	d := newDock(t)
	d.install("--replicas", "2")
	tests := []dockTest{{"Start", testStart}, {"OneActs", testOneActs}}
	for _, at := range []struct {
		step    string
		reached func(*v1alpha1.Change) bool
	}{
		{"Review", func(c *v1alpha1.Change) bool { return at(c, "review", v1alpha1.StepRunning) }},
		{"Build", func(c *v1alpha1.Change) bool { return at(c, "build", v1alpha1.StepRunning) }},
		{"Preview", func(c *v1alpha1.Change) bool { return at(c, "preview", v1alpha1.StepRunning) }},
		{"Merge", func(c *v1alpha1.Change) bool {
			return at(c, "preview", v1alpha1.StepPassed) && at(c, "test", v1alpha1.StepPassed)
		}},
		{"Deploy", func(c *v1alpha1.Change) bool { return at(c, "deploy/prod", v1alpha1.StepRunning) }},
	} {
		tests = append(tests, dockTest{"LeaderKilledAt" + at.step, func(d *dock) { testLeaderKilled(d, strings.ToLower(at.step), at.reached) }})
	}
	d.each(t, append(tests, []dockTest{
		{"APIServerKilledAtTest", func(d *dock) { testAPIServerKilled(d, "test") }},
		{"APIServerKilledAtPreview", func(d *dock) { testAPIServerKilled(d, "preview") }},
		{"APIServerKilledAtDeploy", func(d *dock) { testAPIServerKilled(d, "deploy/prod") }},
		{"RegistryAway", testRegistryAway},
		{"WorkerSilent", testWorkerSilent},
		{"LaptopKilled", testLaptopKilled},
		{"LaptopInterrupted", testLaptopInterrupted},
		{"AppDeleted", testAppDeleted},
	}...))
}

// testOneActs looks at who holds the lease, and who is labelled.
func testOneActs(d *dock) {
	pods, err := client.CoreV1().Pods("bight-system").List(context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/name=bight-controller"})
	if err != nil {
		d.Fatal(err)
	}
	leaders := 0
	for _, p := range pods.Items {
		if p.Labels[v1alpha1.LeaderLabel] == "true" {
			leaders++
		}
	}
	if len(pods.Items) != 2 || leaders != 1 {
		d.Errorf("%d controllers, %d of them act", len(pods.Items), leaders)
	}
}

// testLeaderKilled kills the controller that acts in the middle of a step.
func testLeaderKilled(d *dock, word string, reached func(*v1alpha1.Change) bool) {
	before := d.generations()
	d.write("cart/main.go", shipped("cart", word))
	name := d.commit("cart: killed at " + word)
	p := d.start("ship", "-n", d.namespace)
	d.reaches(name, "the moment", reached)
	killed := time.Now()
	if err := client.CoreV1().Pods("bight-system").Delete(context(), d.leader(), deleteNow()); err != nil {
		d.Fatal(err)
	}
	if code := p.end(d.T); code != 0 {
		d.Fatalf("exit code %d\n%s", code, p.output)
	}
	d.Logf("deployed %s after the controller was killed", time.Since(killed).Round(10*time.Millisecond))
	d.serves(d.prod, "cart", word)
	d.deployedOnce(name, before)
	d.merged()
}

// deployedOnce checks that a change has made one step of each kind, and one change of
// the environment.
func (d *dock) deployedOnce(name string, before map[string]int64) {
	d.Helper()
	seen := map[string]int{}
	c := d.now(name)
	for _, s := range c.Status.Steps {
		seen[s.Name]++
	}
	want := map[string]int{"review": 1, "build": 1, "test": 1, "preview": 1, "merge": 1, "deploy/prod": 1}
	if diff := cmp.Diff(want, seen); diff != "" {
		d.Errorf("steps (-want +got):\n%s", diff)
	}
	want64 := map[string]int64{"cart": before["cart"] + 1, "stock": before["stock"]}
	if diff := cmp.Diff(want64, d.generations()); diff != "" {
		d.Errorf("generations of the deployments (-want +got):\n%s", diff)
	}
	if c.Status.Phase != v1alpha1.Deployed {
		d.Errorf("it is %s: %s", c.Status.Phase, c.Status.Message)
	}
}

// merged brings the repository to the branch as it is now.
func (d *dock) merged() {
	d.Helper()
	d.git("reset", "--quiet", "--hard", "bight/main")
}

// testAPIServerKilled kills the API server in the middle of a step.
func testAPIServerKilled(d *dock, step string) {
	before := d.generations()
	d.write("cart/main.go", shipped("cart", "api "+step))
	name := d.commit("cart: the API server is killed at " + step)
	p := d.start("ship", "-n", d.namespace)
	d.reaches(name, "is at "+step, func(c *v1alpha1.Change) bool { return at(c, step, v1alpha1.StepRunning) })
	d.killComponent("kube-apiserver")
	if code := p.end(d.T); code != 0 {
		d.Fatalf("exit code %d\n%s", code, p.output)
	}
	d.serves(d.prod, "cart", "api "+step)
	d.deployedOnce(name, before)
	d.merged()
}

func testRegistryAway(d *dock) {
	d.write("cart/main.go", shipped("cart", "registry"))
	name := d.commit("cart: the registry is away")
	said, code := d.ship("--registry", "localhost:9")
	if c := d.now(name); code != 1 || c.Status.Phase != v1alpha1.Failed || !strings.Contains(c.Status.Message, "localhost:9") {
		d.Errorf("exit code %d, %s: %s\n%s", code, c.Status.Phase, c.Status.Message, said)
	}
	if _, said, code := d.bight("change", "retry", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change retry: exit code %d\n%s", code, said)
	}
	d.ships(0)
	d.serves(d.prod, "cart", "registry")
	d.merged()
}

// helper starts a worker for the dock's app and waits until it is connected.
func (d *dock) helper(name string) *process {
	d.Helper()
	w := d.start("worker", "--app", d.namespace+"/"+d.namespace, "--name", name, "--slots", "4")
	d.eventually("the worker is connected", func() error {
		if !strings.Contains(w.output.String(), "working as "+name) {
			return fmt.Errorf("it says %q", w.output)
		}
		return nil
	})
	return w
}

func testWorkerSilent(d *dock) {
	d.slowTest("silent")
	name := d.commit("cart: the worker falls silent")
	first := d.helper("first")
	p := d.start("ship", "-n", d.namespace, "--no-worker")
	d.reaches(name, "is tested", func(c *v1alpha1.Change) bool { return at(c, "test", v1alpha1.StepRunning) })
	d.helper("second")
	first.signal(syscall.SIGSTOP)
	stopped := time.Now()
	d.reaches(name, "another worker tests", func(c *v1alpha1.Change) bool {
		for _, r := range c.Status.Runs {
			if s := change.StepOf(r.Steps, "test"); s != nil && s.Worker == "second" {
				return true
			}
		}
		return false
	})
	if took := time.Since(stopped); took > busy*5*time.Second {
		d.Errorf("another worker has the step after %s", took)
	}
	first.signal(syscall.SIGCONT)
	if code := p.end(d.T); code != 0 {
		d.Fatalf("exit code %d\n%s", code, p.output)
	}
	d.serves(d.prod, "cart", "silent")
	d.merged()
}

func testLaptopKilled(d *dock) { d.laptopEnds(syscall.SIGKILL, "laptop killed") }

func testLaptopInterrupted(d *dock) { d.laptopEnds(syscall.SIGINT, "laptop interrupted") }

// laptopEnds ends bight ship in the middle: the change goes on by another worker, and
// to ship again is to follow it.
func (d *dock) laptopEnds(how syscall.Signal, word string) {
	d.slowTest(word)
	name := d.commit("cart: " + word)
	p := d.start("ship", "-n", d.namespace)
	d.reaches(name, "is tested", func(c *v1alpha1.Change) bool { return at(c, "test", v1alpha1.StepRunning) })
	p.signal(how)
	p.end(d.T)
	if how == syscall.SIGINT && !strings.Contains(p.output.String(), "bight change show "+name) {
		d.Errorf("it said\n%s", p.output)
	}
	if c := d.now(name); change.Ended(c) {
		d.Errorf("it is %s: %s", c.Status.Phase, c.Status.Message)
	}
	d.helper("other")
	d.ends(name, v1alpha1.Deployed)
	d.serves(d.prod, "cart", word)
	d.ships(0, "--no-worker")
	d.merged()
}

// testAppDeleted deletes the App while a change of it is tested: nothing is left to
// do, and the environment stays.
func testAppDeleted(d *dock) {
	d.slowTest("deleted")
	name := d.commit("cart: the app is deleted")
	p := d.start("ship", "-n", d.namespace)
	d.reaches(name, "is tested", func(c *v1alpha1.Change) bool { return at(c, "test", v1alpha1.StepRunning) })
	if out, err := d.kubectl("delete", "app", d.namespace, "-n", d.namespace); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	if code := p.end(d.T); code == 0 {
		d.Errorf("bight ship: exit code 0\n%s", p.output)
	}
	d.serves(d.prod, "cart", "laptop interrupted")
	d.eventually("its changes and previews are gone", func() error {
		out, err := d.kubectl("get", "changes", "-n", d.namespace, "-o", "name")
		previews, err2 := client.CoreV1().Namespaces().List(context(), meta.ListOptions{LabelSelector: v1alpha1.EnvironmentLabel + "=preview," + v1alpha1.AppNamespaceLabel + "=" + d.namespace})
		if err2 == nil && (strings.Contains(out, "change") || len(previews.Items) > 0) {
			err2 = fmt.Errorf("%s and %d previews", out, len(previews.Items))
		}
		return errors.Join(err, err2)
	})
	d.git("reset", "--quiet", "--hard", "HEAD~1")
	d.write("cart/main.go", shipped("cart", "anew"))
	d.commit("cart: anew")
	d.ships(0)
	d.serves(d.prod, "cart", "anew")
}
