//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestWorkers ships with the toolchains of a Deployment and with none of the laptop's.
func TestWorkers(t *testing.T) {
	d := newDock(t)
	d.install("--workers", "1", "--worker-volume", "5Gi")
	for _, step := range []struct {
		name string
		run  func(*dock)
	}{
		{"Ship", testWorkersShip},
		{"RollingUpdate", testWorkersDrain},
		{"Rights", testWorkersRights},
		{"DryRun", testWorkersDryRun},
		{"NoMore", testWorkersNoMore},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			on, l := *d, *d.lab
			l.T = t
			on.lab = &l
			step.run(&on)
			d.commits = on.commits
		})
		if !ok {
			t.Fatal("the rest builds on this")
		}
	}
}

// doneBy fails the test unless workers of the Deployment did all steps of a change that
// take toolchains.
func (d *dock) doneBy(name string) {
	d.Helper()
	c := d.change(name)
	for _, step := range []string{v1alpha1.ReviewStep, v1alpha1.BuildStep, v1alpha1.TestStep} {
		if s := stepOf(c, step); s.State != v1alpha1.StepPassed || !strings.HasPrefix(s.Worker, "bight-worker-") {
			d.Errorf("%s is %s, by %q: %s", step, s.State, s.Worker, s.Message)
		}
	}
}

func testWorkersShip(d *dock) {
	name := d.commit("The app")
	d.ships(0, "--no-worker")
	d.doneBy(name)
	d.serves(d.prod, "cart", "first")
}

// testWorkersDrain replaces the worker while it tests.
func testWorkersDrain(d *dock) {
	d.write("cart/main.go", shipped("cart", "second"))
	d.write("cart/slow_test.go", "package main\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestSlow(t *testing.T) { time.Sleep(25 * time.Second) }\n")
	name := d.commit("cart: say second, after a while")
	d.ships(0, "--no-worker", "--detach")
	d.runs(name, v1alpha1.TestStep)
	var old string
	d.eventually("it is told who does the test", func() error {
		if old = stepOf(d.change(name), v1alpha1.TestStep).Worker; old == "" {
			return errors.New("nobody")
		}
		return nil
	})
	if out, err := d.kubectl("rollout", "restart", "deployment/bight-worker", "-n", "bight-system"); err != nil {
		d.Fatalf("%v\n%s", err, out)
	}
	d.eventually("the old worker is told to stop, and a new one is there", func() error {
		pods, err := client.CoreV1().Pods("bight-system").List(context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/name=bight-worker"})
		if err != nil {
			return err
		}
		var leaving, others int
		for _, p := range pods.Items {
			switch {
			case p.Name == old && p.DeletionTimestamp != nil:
				leaving++
			case p.Name != old && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Ready:
				others++
			}
		}
		if leaving != 1 || others != 1 {
			return fmt.Errorf("%d pods, of which %d leaves and %d is new", len(pods.Items), leaving, others)
		}
		return nil
	})
	d.serves(d.prod, "cart", "second")
	if s := stepOf(d.change(name), v1alpha1.TestStep); s.Worker != old || s.Lease != 0 || s.State != v1alpha1.StepPassed {
		d.Errorf("the test was done by %q under lease %d, it began at %q: %s", s.Worker, s.Lease, old, s.Message)
	}
	d.eventually("the old worker is gone", func() error {
		_, err := client.CoreV1().Pods("bight-system").Get(context(), old, meta.GetOptions{})
		if err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	d.write("stock/main.go", shipped("stock", "third"))
	name = d.commit("stock: say third")
	d.ships(0, "--no-worker")
	d.doneBy(name)
}

// testWorkersRights asks what the workers may do in the cluster.
func testWorkersRights(d *dock) {
	const who = "--as=system:serviceaccount:bight-system:bight-worker"
	for _, c := range []struct {
		ask  string
		want string
	}{
		{"get apps.bight.dev", "yes"}, {"work apps.bight.dev", "yes"},
		{"update apps.bight.dev", "no"}, {"patch changes.bight.dev", "no"}, {"list secrets", "no"}, {"create pods", "no"}, {"create namespaces", "no"},
	} {
		out, _ := d.kubectl(append([]string{"auth", "can-i", "-n", d.namespace, who}, strings.Fields(c.ask)...)...) // no is an exit code, too
		if lines := strings.Fields(out); len(lines) == 0 || lines[len(lines)-1] != c.want {
			d.Errorf("%s: %s, want %s", c.ask, out, c.want)
		}
	}
}

func testWorkersDryRun(d *dock) {
	out, errs, code := d.bight("install", "--dry-run", "--workers", "2", "--worker-registry", "registry.example/shop", "--worker-image", "registry.example/tools:v1")
	for _, want := range []string{"kind: Deployment", "replicas: 2", "image: registry.example/tools:v1", "registry.example/shop"} {
		if code != 0 || !strings.Contains(out, want) {
			d.Errorf("exit code %d, no %q: %s", code, want, errs)
		}
	}
	for _, args := range [][]string{{"--workers", "-1"}, {"--worker-image", "x"}, {"--dry-run", "--workers", "1"}} {
		if _, errs, code := d.bight(append([]string{"install"}, args...)...); code != 2 {
			d.Errorf("install %v: exit code %d, %s", args, code, errs)
		}
	}
}

func testWorkersNoMore(d *dock) {
	d.install()
	out, err := d.kubectl("get", "deployments,serviceaccounts,pvc", "-n", "bight-system", "-o", "name")
	if err != nil || strings.Contains(out, "bight-worker") {
		d.Errorf("%v, there is %s", err, out)
	}
	if out, err := d.kubectl("get", "clusterrole", "bight-worker"); err == nil {
		d.Errorf("there is %s", out)
	}
}
