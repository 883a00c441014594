//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	changeclient "github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
)

// TestShipHostile pushes what nobody should, and asks for what is not one's own.
func TestShipHostile(t *testing.T) {
	d := newDock(t)
	d.each(t, []dockTest{
		{"Start", testStart},
		{"Pushes", testHostilePushes},
		{"NeverEnds", testNeverEnds},
		{"Environment", testEnvironmentOfTests},
		{"Tickets", testTickets},
		{"Files", testFilesOfOthers},
		{"ForeignNamespace", testForeignNamespace},
	})
}

// pushes pushes HEAD to a branch of its own by git alone.
func (d *dock) pushes(r *changeclient.Remote, branch string) (string, error) {
	d.Helper()
	return d.gitWith(r.Env(), "push", r.URL, "+HEAD:refs/heads/"+branch)
}

func testHostilePushes(d *dock) {
	r := d.remote()
	d.helper("brave")
	before := d.generations()
	for _, bad := range []struct {
		name string
		make func()
		push bool   // whether the push itself is refused
		want string // in what is said
	}{
		{"a symlink out of the tree", func() {
			if err := os.Symlink("../../../etc/passwd", d.dir+"/cart/words.txt"); err != nil {
				d.Fatal(err)
			}
		}, false, "cart/words.txt"},
		{"a bight.yaml that is nested deeply", func() { d.write("bight.yaml", "services: "+strings.Repeat("[", 200_000)) }, false, "bight.yaml"},
		{"a bight.yaml of aliases", func() {
			text := "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
			for i := 1; i < 12; i++ {
				text += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), ", "))
			}
			d.write("bight.yaml", text)
		}, false, "bight.yaml"},
		{"a file of 1.1 GB", func() {
			d.write("large.bin", "")
			if err := os.Truncate(d.dir+"/large.bin", 1100<<20); err != nil {
				d.Fatal(err)
			}
		}, true, "large.bin"},
	} {
		began := time.Now()
		base := d.git("rev-parse", "HEAD")
		bad.make()
		name := d.commit(bad.name)
		said, err := d.pushes(r, "hostile")
		if (err != nil) != bad.push {
			d.Errorf("%s: git push: %v\n%s", bad.name, err, said)
		}
		if err == nil {
			c := d.ends(name, v1alpha1.Refused)
			said = c.Status.Message
		}
		if !strings.Contains(said, bad.want) {
			d.Errorf("%s: it does not say %q:\n%s", bad.name, bad.want, said)
		}
		d.Logf("%s: refused after %s", bad.name, time.Since(began).Round(10*time.Millisecond))
		d.git("reset", "--quiet", "--hard", base)
		d.git("clean", "--quiet", "-fd")
	}
	if after := d.generations(); after["cart"] != before["cart"] || after["stock"] != before["stock"] {
		d.Errorf("deployments before %v, after %v", before, after)
	}
}

// testNeverEnds gives steps the least time that there is, which a test then outlasts.
func testNeverEnds(d *dock) {
	if out, err := d.kubectl("patch", "app", d.namespace, "-n", d.namespace, "--type", "merge", "--patch", `{"spec":{"policy":{"stepMinutes":1}}}`); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	d.write("cart/ever_test.go", "package main\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestEver(t *testing.T) {\n\tfor {\n\t\ttime.Sleep(time.Hour)\n\t}\n}\n")
	name := d.commit("cart: a test that never ends")
	began := time.Now()
	said := d.ships(1)
	if c := d.now(name); c.Status.Phase != v1alpha1.Refused || !strings.Contains(c.Status.Message, "longer than") {
		d.Errorf("%s: %s\n%s", c.Status.Phase, c.Status.Message, said)
	}
	if took := time.Since(began); took > 80*time.Second {
		d.Errorf("it took %s", took)
	}
	d.git("reset", "--quiet", "--hard", "HEAD~1")
}

// testEnvironmentOfTests has a test print all that it is told.
func testEnvironmentOfTests(d *dock) {
	d.write("cart/env_test.go", "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnv(t *testing.T) {\n\tt.Error(os.Environ())\n}\n")
	name := d.commit("cart: prints its environment")
	d.ships(1)
	logs, _, code := d.bight("change", "logs", name, "test", "-n", d.namespace)
	if code != 0 || !strings.Contains(logs, "PATH=") {
		d.Fatalf("exit code %d: %s", code, logs)
	}
	for _, secret := range []string{"bight-ticket", "KUBECONFIG", "extraHeader"} {
		if strings.Contains(logs, secret) {
			d.Errorf("a test is told of %s:\n%s", secret, logs)
		}
	}
	d.git("reset", "--quiet", "--hard", "HEAD~1")
}

// asClient is the way to the controller of somebody whose tickets are in a namespace.
func (d *dock) asClient(user, namespace string) *changeclient.Client {
	d.Helper()
	cluster, err := kube.Load(kube.Options{Kubeconfig: as(d.T, user)})
	if err != nil {
		d.Fatal(err)
	}
	c := &changeclient.Client{Cluster: cluster, Namespace: namespace, System: install.Namespace, Controller: install.Controller, Port: install.ControllerPort}
	d.Cleanup(func() { _ = c.Close() })
	return c
}

const forged = `apiVersion: bight.dev/v1alpha1
kind: Ticket
metadata: {name: forged, namespace: %s}
spec: {owner: %s, groups: [%s], keyHash: "%064d"}
`

func testTickets(d *dock) {
	d.bind("mallory", "edit")
	for _, bad := range [][2]string{{"bight-admin", ""}, {"mallory", "system:masters"}} {
		d.write("../ticket.yaml", fmt.Sprintf(forged, d.namespace, bad[0], bad[1], 0))
		out, err := d.kubectl("create", "-f", d.dir+"/../ticket.yaml", "--as", "mallory")
		if err == nil {
			d.Errorf("mallory has a ticket of %s in group %s: %s", bad[0], bad[1], out)
		}
	}
	r := d.remote()
	if said, err := d.gitWith(r.Env(), "ls-remote", r.URL); err != nil {
		d.Fatalf("%v: %s", err, said)
	}
	if out, err := d.kubectl("delete", "tickets", "--all", "-n", d.namespace); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	d.eventually("a ticket that is deleted is not good", func() error {
		if said, err := d.gitWith(r.Env(), "ls-remote", r.URL); err == nil {
			return fmt.Errorf("git ls-remote says %s", said)
		}
		return nil
	})
	wrong := r.Token[:len(r.Token)-1] + "x"
	request, err := http.NewRequest(http.MethodGet, r.URL+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		d.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+wrong)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		d.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		d.Errorf("a wrong key is answered with %s", answer.Status)
	}
}

// testFilesOfOthers asks, with rights in another namespace, for what a change of this
// one has printed, for its repository, and to be its worker.
func testFilesOfOthers(d *dock) {
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: d.namespace + "-own"}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		d.Fatal(err)
	}
	d.Cleanup(func() { _ = client.CoreV1().Namespaces().Delete(context(), ns.Name, deleteNow()) })
	other := *d.lab
	other.namespace, other.T = ns.Name, d.T
	other.bind("trudy", "edit")
	c := d.asClient("trudy", ns.Name)
	list, _, _ := d.bight("change", "list", "-n", d.namespace)
	name := strings.Fields(strings.Split(list, "\n")[1])[0]
	log := ""
	for _, s := range d.now(name).Status.Steps {
		if s.Log != "" {
			log = s.Log
		}
	}
	if log == "" {
		d.Fatalf("no step of %s has a log", name)
	}
	for _, path := range []string{log, d.namespace + "/nothing/nothing.log", d.namespace + "/" + name + "/..%2f..%2f..%2fetc%2fpasswd"} {
		b, err := c.File(context(), path, false)
		if err == nil {
			b.Close()
			d.Errorf("trudy may read %s", path)
			continue
		}
		if !strings.Contains(err.Error(), "may not") && !strings.Contains(err.Error(), "not allowed") && !strings.Contains(strings.ToLower(err.Error()), "forbidden") && !strings.Contains(err.Error(), "denied") && !strings.Contains(err.Error(), "cannot") {
			d.Errorf("%s: %v", path, err)
		}
	}
	r, err := c.Remote(context(), d.namespace, d.namespace)
	if err != nil {
		d.Fatal(err)
	}
	defer r.Close()
	for _, args := range [][]string{{"ls-remote", r.URL}, {"push", r.URL, "HEAD:refs/heads/trudy"}} {
		if said, err := d.gitWith(r.Env(), args...); err == nil || !strings.Contains(said, "403") {
			d.Errorf("git %s: %v\n%s", args[0], err, said)
		}
	}
	said := d.start("worker", "--app", ns.Name+"/x", "--app", d.namespace+"/"+d.namespace, "--kubeconfig", as(d.T, "trudy"))
	if code := said.end(d.T); code == 0 || !strings.Contains(said.output.String(), "trudy") {
		d.Errorf("trudy's worker: exit code %d\n%s", code, said.output)
	}
}

// testForeignNamespace has an App name a namespace that is somebody else's.
func testForeignNamespace(d *dock) {
	foreign := d.namespace + "-foreign"
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: foreign}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		d.Fatal(err)
	}
	d.Cleanup(func() { _ = client.CoreV1().Namespaces().Delete(context(), foreign, deleteNow()) })
	patch := `{"spec":{"environments":[{"name":"prod"},{"name":"next","namespace":"` + foreign + `"}]}}`
	if out, err := d.kubectl("patch", "app", d.namespace, "-n", d.namespace, "--type", "merge", "--patch", patch); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	d.write("stock/main.go", shipped("stock", "foreign"))
	name := d.commit("stock: to a foreign namespace")
	d.ships(1)
	if c := d.now(name); !strings.Contains(c.Status.Message, "is not an environment of app") {
		d.Errorf("%s: %s", c.Status.Phase, c.Status.Message)
	}
	left, err := client.AppsV1().Deployments(foreign).List(context(), meta.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		d.Errorf("%d deployments in %s, %v", len(left.Items), foreign, err)
	}
	if out, err := d.kubectl("label", "namespace", foreign, v1alpha1.AppLabel+"="+d.namespace, v1alpha1.AppNamespaceLabel+"="+d.namespace); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	if _, said, code := d.bight("change", "retry", name, "-n", d.namespace); code != 0 {
		d.Fatalf("change retry: exit code %d\n%s", code, said)
	}
	d.ends(name, v1alpha1.Deployed)
	d.serves(foreign, "stock", "foreign")
}
