//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/release/spec"
)

// TestShipRelease ships to an environment where new versions take over step by step.
func TestShipRelease(t *testing.T) {
	d := newDock(t)
	d.commit("The app")
	d.ships(0, "--env", "prod:canary")
	d.plan(`{"keep": "1s", "steps": [{"weight": 30, "for": "1s"}]}`)
	d.chain(t, []dockTest{
		{"Promoted", testShipPromoted},
		{"Configured", testShipConfigured},
		{"Undone", testShipUndone},
		{"Replayed", testShipReplayed},
		{"PutBack", testShipPutBack},
		{"Stats", testShipStats},
		{"Overtaken", testShipOvertaken},
	})
}

// pour asks cart as other pods do, from that of stock, a hundred times a second until
// stop, and counts what fails.
func (d *dock) pour() (stop func() (asked, failed int)) {
	d.Helper()
	way := d.start("connect", "svc/stock", "--proxy", "--port", "0", "-n", d.prod)
	var proxy *url.URL
	d.eventually("there is a way", func() error {
		found := regexp.MustCompile(`HTTP_PROXY=(\S+)`).FindStringSubmatch(way.output.String())
		if found == nil {
			return fmt.Errorf("it says %q", way.output)
		}
		var err error
		proxy, err = url.Parse(found[1])
		return err
	})
	c := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}, Timeout: 20 * time.Second}
	at := "http://cart." + d.prod + ":8080/"
	// kube-proxy hears of pods that are ready when everybody does.
	d.eventually("cart answers", func() error {
		response, err := c.Get(at)
		if err == nil {
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				err = errors.New(response.Status)
			}
		}
		return err
	})
	done := make(chan struct{})
	var tasks sync.WaitGroup
	asked, failed := 0, 0
	tasks.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			asked++
			body := ""
			response, err := c.Get(at)
			if err == nil {
				var b []byte
				b, err = io.ReadAll(response.Body)
				body = string(b)
				response.Body.Close()
			}
			if err == nil && response.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(body))
			}
			if err == nil {
				continue
			}
			if failed++; failed <= 5 {
				d.Logf("%s a request fails: %v", time.Now().UTC().Format("15:04:05.000"), err)
			}
		}
	})
	return func() (int, int) {
		close(done)
		tasks.Wait()
		way.signal(syscall.SIGINT)
		return asked, failed
	}
}

// plan sets the plan of the environment.
func (d *dock) plan(text string) {
	d.Helper()
	patch := `[{"op": "replace", "path": "/spec/environments/0/release", "value": ` + text + `}]`
	if out, err := d.kubectl("patch", "app.bight.dev", d.namespace, "-n", d.namespace, "--type", "json", "-p", patch); err != nil {
		d.Fatal(out, err)
	}
}

// releases are those of the environment.
func (d *dock) releases() map[string]v1alpha1.Release {
	d.Helper()
	all, err := readReleases(d.prod)
	if err != nil {
		d.Fatal(err)
	}
	by := map[string]v1alpha1.Release{}
	for _, r := range all {
		by[r.Spec.Version] = r
	}
	return by
}

// testShipPromoted ships a good version of one service, which loses no request.
func testShipPromoted(d *dock) {
	d.write("cart/main.go", shipped("cart", "second"))
	name := d.commit("second")
	stop := d.pour()
	said := d.ships(0)
	d.serves(d.prod, "cart", "second")
	asked, failed := stop()
	d.Logf("%d requests, %d failed", asked, failed)
	if failed > 0 || asked < 100 {
		d.Errorf("%d of %d requests failed", failed, asked)
	}
	if !strings.Contains(said, "released cart") {
		d.Errorf("bight ship does not tell of the release:\n%s", said)
	}
	all := d.releases()
	version := d.git("rev-parse", "HEAD")[:12] + " second"
	if r := all[version]; len(all) != 1 || r.Status.Phase != "Promoted" || r.Spec.Deployment != "cart" || !strings.HasPrefix(r.Spec.Change, d.namespace+"/"+name) {
		d.Errorf("%d releases; that of %s: %+v", len(all), version, r.Spec)
	}
	// The same again has nothing to release.
	d.write("README.md", "Words.\n")
	d.commit("Words")
	d.ships(0)
	if all := d.releases(); len(all) != 1 {
		d.Errorf("what is the same is released: %d releases", len(all))
	}
}

// testShipConfigured ships nothing but another configuration, which is a version of its own.
func testShipConfigured(d *dock) {
	before := len(d.releases())
	for i, mood := range []string{"fine", "better"} {
		d.write("bight.yaml", "services:\n  cart:\n    env:\n      MOOD: "+mood+"\n")
		d.commit("cart is " + mood)
		d.ships(0)
		if n := len(d.releases()); n != before+i+1 {
			d.Errorf("%d releases, %d before", n, before)
		}
		runs, err := d.kubectl("get", "deployment", "cart", "-n", d.prod, "-o", "jsonpath={.spec.template.spec.containers[0].envFrom[0].configMapRef.name}")
		if err != nil {
			d.Fatal(runs, err)
		}
		has, err := d.kubectl("get", "configmap", runs, "-n", d.prod, "-o", "jsonpath={.data.MOOD} {.immutable} {.metadata.annotations.bight\\.dev/config}")
		if err != nil || has != mood+" true cart" {
			d.Errorf("ConfigMap %s is %q, %v", runs, has, err)
		}
	}
	// That of the version before is there as long as it may come back.
	if all, err := d.kubectl("get", "configmap", "-n", d.prod, "-o", "jsonpath={.items[*].data.MOOD}"); err != nil || !strings.Contains(all, "fine") {
		d.Errorf("the moods that are there are %q, %v", all, err)
	}
}

// testShipUndone ships a version that fails, which the evidence is against, and one of
// another service, which goes with it. The change ends before the pods are gone.
func testShipUndone(d *dock) {
	d.plan(`{"keep": "20s", "steps": [{"weight": 30, "proven": true}]}`)
	d.write("stock/main.go", shipped("stock", "third"))
	broken := strings.Replace(shipped("cart", "third"), "fmt.Fprintln(w, word)", "http.Error(w, word, 500)\n\t\tfmt.Fprintln(w)", 1)
	d.write("cart/main.go", broken)
	name := d.commit("third")
	stop := d.pour()
	said := d.ships(1)
	asked, failed := stop()
	d.Logf("%d requests, %d failed before it was undone", asked, failed)
	if failed == 0 || failed > 20 || !strings.Contains(said, "was undone: E = ") {
		d.Errorf("%d of %d requests failed; bight ship said\n%s", failed, asked, said)
	}
	d.serves(d.prod, "cart", "second")
	version := d.git("rev-parse", "HEAD")[:12] + " third"
	ours := func() (all []v1alpha1.Release) {
		list, err := readReleases(d.prod)
		if err != nil {
			d.Fatal(err)
		}
		for _, r := range list {
			if r.Spec.Version == version {
				all = append(all, r)
			}
		}
		return all
	}
	left := 0
	for _, r := range ours() {
		if !spec.Over(&r) {
			left++
		}
	}
	if left == 0 {
		d.Error("bight ship has waited until nothing of the releases was left")
	}
	d.eventually("nothing of the releases is left", func() error {
		all := ours()
		if len(all) != 2 {
			return fmt.Errorf("there are %d", len(all))
		}
		for _, r := range all {
			if r.Status.Phase != "Undone" || !spec.Over(&r) {
				return fmt.Errorf("that of %s is %s: %s", r.Spec.Deployment, r.Status.Phase, r.Status.Message)
			}
			if r.Spec.Deployment == "stock" && !strings.Contains(r.Status.Message, "its change failed: release cart-") {
				d.Fatalf("that of stock says %q", r.Status.Message)
			}
		}
		return nil
	})
	d.serves(d.prod, "stock", "first")
	d.write("stock/main.go", shipped("stock", "first")) // the next change has it
	// Nobody brings it back: neither who heals the environment, nor another change.
	image := func() string {
		cart, err := client.AppsV1().Deployments(d.prod).Get(context(), "cart", meta.GetOptions{})
		if err != nil {
			d.Fatal(err)
		}
		return cart.Spec.Template.Spec.Containers[0].Image
	}
	was := image()
	if out, err := d.kubectl("set", "image", "-n", d.prod, "deployment/cart", "cart=localhost:1/other:v1"); err != nil {
		d.Fatal(out, err)
	}
	d.eventually("the environment is put back", func() error {
		if is := image(); is != was {
			return fmt.Errorf("it has %s", is)
		}
		return nil
	})
	d.serves(d.prod, "cart", "second")
	if out, errs, code := d.bight("change", "retry", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change retry: exit code %d\n%s%s", code, out, errs)
	}
	d.eventually("it is refused again", func() error {
		c := d.change(name)
		if c.Status.Phase != v1alpha1.Refused && c.Status.Phase != v1alpha1.Failed || c.Status.Attempt == 0 {
			return fmt.Errorf("it is %s: %s", c.Status.Phase, c.Status.Message)
		}
		return nil
	})
	if c := d.change(name); !strings.Contains(c.Status.Message, "was convicted") {
		d.Errorf("it says %q", c.Status.Message)
	}
	d.serves(d.prod, "cart", "second")
}

// testShipReplayed keeps what convicted the version of the step before as a test: what
// still fails at it never leaves its preview.
func testShipReplayed(d *dock) {
	d.plan(`{"keep": "1s", "steps": [{"weight": 30, "for": "1s"}]}`)
	dir := d.dir + "/cart/testdata/replay"
	if out, errs, code := d.bight("replay", "cart", "-n", d.prod, "--save-test="+dir); code != 0 {
		d.Fatalf("replay --save-test: exit code %d\n%s%s", code, out, errs)
	}
	before := len(d.releases())
	d.write("cart/main.go", strings.Replace(shipped("cart", "fifth"), "fmt.Fprintln(w, word)", "http.Error(w, word, 503)\n\t\tfmt.Fprintln(w)", 1))
	d.commit("fifth")
	said := d.ships(1)
	if !strings.Contains(said, "such requests convicted release cart-") || !strings.Contains(said, "cart/testdata/replay/") || len(d.releases()) != before {
		d.Errorf("what fails at it goes on: %d releases, %d before; bight ship said\n%s", len(d.releases()), before, said)
	}
	// Which commit it was, is found by the same evidence.
	program := "go run -C cart ."
	out, errs, code := d.bight("release", "blame", "cart", "-n", d.prod, "--alone", "--", "sh", "-c", program)
	if code != 0 || !strings.Contains(out, "third") {
		d.Errorf("release blame: exit code %d\n%s%s", code, out, errs)
	}
	d.write("cart/main.go", shipped("cart", "second"))
	name := d.commit("as it was")
	d.ships(0)
	d.serves(d.prod, "cart", "second")
	step := change.StepOf(d.change(name).Status.Steps, v1alpha1.PreviewStep)
	for _, r := range d.change(name).Status.Runs {
		if s := change.StepOf(r.Steps, v1alpha1.PreviewStep); s != nil {
			step = s
		}
	}
	if step == nil || !strings.Contains(step.Message, "that convicted earlier releases pass") {
		d.Errorf("the preview says %+v", step)
	}
}

// testShipPutBack ships what was there before, while the release of something newer is
// under way.
func testShipPutBack(d *dock) {
	d.plan(`{"keep": "1s", "steps": [{"weight": 30, "hold": true}]}`)
	d.write("cart/main.go", shipped("cart", "fourth"))
	d.commit("fourth")
	version := d.git("rev-parse", "HEAD")[:12] + " fourth"
	d.start("ship", "-n", d.namespace)
	d.eventually("it is released", func() error {
		if r := d.releases()[version]; r.Status.Phase != "Held" {
			return fmt.Errorf("it is %s: %s", r.Status.Phase, r.Status.Message)
		}
		return nil
	})
	d.write("cart/main.go", shipped("cart", "second"))
	d.commit("back to second")
	d.ships(0)
	if r := d.releases()[version]; r.Status.Phase != "Undone" || !strings.Contains(r.Status.Message, "a change puts back what was there before") {
		d.Errorf("it is %s: %s", r.Status.Phase, r.Status.Message)
	}
	d.serves(d.prod, "cart", "second")
}

// testShipOvertaken ships a change while the release of one before it is under way, and has
// the newer one come to nothing: then it is the turn of the one before again, and until
// that is promoted the environment's branch never says that it serves.
func testShipOvertaken(d *dock) {
	d.plan(`{"keep": "1s", "steps": [{"weight": 30, "hold": true}]}`)
	held := func(word string) (change, version string, p *process) {
		d.write("cart/main.go", shipped("cart", word))
		change = d.commit(word)
		version = d.git("rev-parse", "HEAD")[:12] + " " + word
		p = d.start("ship", "-n", d.namespace)
		d.eventually(word+" is released", func() error {
			if r := d.releases()[version]; r.Status.Phase != "Held" {
				return fmt.Errorf("it is %s: %s", r.Status.Phase, r.Status.Message)
			}
			return nil
		})
		return change, version, p
	}
	first, version, one := held("sixth")
	second, _, two := held("seventh")
	if out, errs, code := d.bight("release", "undo", "cart", "-n", d.prod); code != 0 {
		d.Fatalf("release undo: exit code %d\n%s%s", code, out, errs)
	}
	d.ends(second, v1alpha1.Refused)
	if code := two.end(d.T); code != 1 {
		d.Errorf("exit code %d\n%s", code, two.output)
	}
	d.eventually("the first is released again", func() error {
		if r := d.releases()[version]; r.Status.Phase != "Held" {
			return fmt.Errorf("it is %s: %s", r.Status.Phase, r.Status.Message)
		}
		return nil
	})
	if out, errs, code := d.bight("release", "promote", "cart", "-n", d.prod); code != 0 {
		d.Fatalf("release promote: exit code %d\n%s%s", code, out, errs)
	}
	d.ends(first, v1alpha1.Deployed)
	if code := one.end(d.T); code != 0 {
		d.Errorf("exit code %d\n%s", code, one.output)
	}
	d.serves(d.prod, "cart", "sixth")
	d.git("remote", "add", "cluster", "bight://"+d.namespace+"/"+d.namespace)
	d.git("fetch", "--quiet", "cluster")
	said := strings.Split(d.git("log", "-4", "--format=%s", "cluster/bight/prod"), "\n")
	for i, want := range []string{"Deploy " + first, "Put back what was before " + second, "Deploy " + second, "Deploy " + first} {
		if i >= len(said) || !strings.HasPrefix(said[i], want) {
			d.Errorf("the environment's branch says %q, want %q as number %d", said, want, i)
		}
	}
}
