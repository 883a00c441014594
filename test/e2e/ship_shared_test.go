//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestShipShared has several who do the same work: the two loops of one developer, and
// the workers of several.
func TestShipShared(t *testing.T) {
	d := newDock(t)
	sandbox := d.namespace + "-up"
	d.vacate(sandbox)
	t.Cleanup(func() { _ = client.CoreV1().Namespaces().Delete(context(), sandbox, deleteNow()) })
	d.chain(t, []dockTest{
		{"InnerLoop", testInnerLoopCounts},
		{"AnotherWorker", testAnotherWorkersResults},
		{"Split", testSplitOverWorkers},
	})
}

// unheard is a word that no run of this test has built before.
func unheard(word string) string { return fmt.Sprint(word, " ", time.Now().UnixNano()) }

// cached says why steps of a change had not to be done.
func (d *dock) cached(name string, steps ...string) map[string]string {
	d.Helper()
	out := map[string]string{}
	for _, s := range d.change(name).Status.Steps {
		for _, wanted := range steps {
			if s.Name == wanted {
				out[s.Name] = s.Cached
				d.Logf("%s: %s (%s)", s.Name, s.Message, s.Cached)
			}
		}
	}
	return out
}

// testInnerLoopCounts ships what bight up has built and bight test tested.
func testInnerLoopCounts(d *dock) {
	name := d.commit("The app")
	if out, errs, code := d.bight("test"); code != 0 || !strings.Contains(errs, "2 tests passed") {
		d.Fatalf("bight test: exit code %d\n%s%s", code, out, errs)
	}
	if _, errs, code := d.bight("up", "--once", "-n", d.namespace+"-up"); code != 0 {
		d.Fatalf("bight up --once: exit code %d\n%s", code, errs)
	}
	began := time.Now()
	said := d.ships(0)
	d.Logf("what both loops have in common is shipped in %s", time.Since(began).Round(time.Millisecond))
	want := map[string]string{
		"build": "same inputs as what bight up built", "test": "same inputs as what bight test tested",
	}
	if diff := cmp.Diff(want, d.cached(name, "build", "test")); diff != "" {
		d.Errorf("the timeline says (-want +got):\n%s", diff)
	}
	for _, why := range want {
		if !strings.Contains(said, why) {
			d.Errorf("bight ship does not say %q:\n%s", why, said)
		}
	}
	d.serves(d.prod, "cart", "first")
}

// another starts a worker of somebody else, on a machine where nothing was ever done.
func (d *dock) another(name string) *process {
	d.Helper()
	p := d.startWith([]string{"XDG_CACHE_HOME=" + d.TempDir(), "BIGHT_USER=" + name, together},
		"worker", "--app", d.namespace+"/"+d.namespace, "--name", name, "--slots", "2")
	d.eventually("worker "+name+" is there", func() error { return p.said("working as " + name) })
	return p
}

// testAnotherWorkersResults has two workers, of which the second knows what the first
// has shown, and not what the first has from a laptop's inner loop.
func testAnotherWorkersResults(d *dock) {
	for _, service := range []string{"cart", "stock"} {
		d.write(service+"/main.go", shipped(service, unheard("second")))
	}
	d.slow("once")
	first := d.commit("second")
	d.shipsTogether()
	want := map[string]string{"build": "", "test": ""}
	if diff := cmp.Diff(want, d.cached(first, "build", "test")); diff != "" {
		d.Errorf("the first worker (-want +got):\n%s", diff)
	}
	d.another("bob")
	d.write("README.md", "Words.\n")
	second := d.commit("Words")
	d.ships(0, "--no-worker")
	want = map[string]string{"build": "same inputs as change " + first, "test": "same inputs as change " + first}
	if diff := cmp.Diff(want, d.cached(second, "build", "test")); diff != "" {
		d.Errorf("the second worker (-want +got):\n%s", diff)
	}
	for _, s := range d.change(second).Status.Steps {
		if (s.Name == v1alpha1.BuildStep || s.Name == v1alpha1.TestStep) && s.Worker != "bob" {
			d.Errorf("%s was done by %s", s.Name, s.Worker)
		}
	}
}

// together has tests of several packages run at once: these only wait.
const together = "GOFLAGS=-p=8"

// shipsTogether ships HEAD so.
func (d *dock) shipsTogether() {
	d.Helper()
	if _, errs, code := d.bightWith([]string{together}, "ship", "-n", d.namespace); code != 0 {
		d.Fatalf("bight ship: exit code %d\n%s", code, errs)
	}
}

// slow writes packages whose tests take five seconds each.
func (d *dock) slow(word string) {
	d.Helper()
	word = unheard(word)
	for _, p := range []string{"a", "b", "c", "d"} {
		d.write("slow/"+p+"/"+p+"_test.go", "package "+p+"\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\n"+
			"func TestSlow(t *testing.T) {\n\ttime.Sleep(5100 * time.Millisecond) // "+word+"\n}\n")
	}
}

// testSplitOverWorkers has tests that take long done by two workers, by what is
// recorded of how long they take.
func testSplitOverWorkers(d *dock) {
	d.another("carol")
	d.slow("twice")
	name := d.commit("slow tests")
	began := time.Now()
	d.shipsTogether()
	d.Logf("20 s of tests on several workers are shipped in %s", time.Since(began).Round(time.Millisecond))
	c := d.change(name)
	workers, units := map[string]bool{}, map[string]int{}
	for _, r := range c.Status.Runs {
		for _, s := range r.Steps {
			for _, p := range s.Parts {
				for _, u := range p.Units {
					workers[p.Worker] = true
					units[u]++
				}
			}
		}
	}
	want := map[string]int{}
	for _, p := range []string{"a", "b", "c", "d"} {
		want["example.com/"+d.namespace+"/slow/"+p] = 1
	}
	if diff := cmp.Diff(want, units); diff != "" || len(workers) < 2 {
		d.Errorf("by workers %v (-want +got):\n%s", workers, diff)
	}
	for _, s := range c.Status.Steps {
		if s.Name == v1alpha1.TestStep && (!strings.Contains(s.Message, "6 tests passed") || !strings.Contains(s.Message, "by 2 workers") || s.Evidence["junit.xml"] == "") {
			d.Errorf("the step is %+v", s)
		}
	}
	if logs, _, code := d.bight("change", "logs", name, "test", "-n", d.namespace); code != 0 || !strings.Contains(logs, "--- part 2 of 2, by ") {
		d.Errorf("change logs: exit code %d\n%s", code, logs)
	}
}
