//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// strangersPolicy is that of the App of TestStrangers. Its limits are low, for the tests to
// be short; forks come to the number of processes well before the memory.
const strangersPolicy = `  policy:
    preview: false
    strangers: %s
    tests: {seconds: 12, processes: 200, memory: 512Mi, disk: 64Mi}
`

// stranger is a request from a fork, and what becomes of it when its tests are run.
type stranger struct {
	number int
	test   string // in cart/stranger_test.go
	phase  string
	step   string // state of the test step
	says   string // in the change's message
	shown  string // status bight/test at the host

	name, commit string
}

// imports begins a test file.
func imports(names ...string) string {
	return "package main\n\nimport (\n\t\"" + strings.Join(append(names, "testing"), "\"\n\t\"") + "\"\n)\n\n"
}

func strangers() []*stranger {
	const refused, failed = v1alpha1.Refused, v1alpha1.StepFailed
	return []*stranger{
		{number: 21, test: imports("os") + `func TestGood(t *testing.T) {
	if _, err := os.ReadFile("../README.md"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile("left.txt", nil, 0o600); err != nil {
		t.Error(err)
	}
}
`, phase: v1alpha1.Held, step: v1alpha1.StepPassed, says: "its tests passed, apart", shown: "success"},
		{number: 22, test: imports() + "func TestNever(t *testing.T) {\n\tfor {\n\t}\n}\n",
			phase: refused, step: failed, says: "took longer than", shown: "failure"},
		{number: 23, test: imports("fmt", "os", "path/filepath", "time") + `func TestFill(t *testing.T) {
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(t.TempDir(), fmt.Sprint(i)), make([]byte, 1<<20), 0o600); err != nil {
			time.Sleep(time.Hour)
		}
	}
}
`, phase: refused, step: failed, says: "it wrote more than 64 MiB", shown: "failure"},
		{number: 24, test: imports("os/exec", "time") + `func TestFork(t *testing.T) {
	for {
		if exec.Command("/proc/self/exe", "-test.run=TestFork").Start() != nil {
			time.Sleep(time.Millisecond)
		}
	}
}
`, phase: refused, step: failed, says: "more than 200 processes and threads", shown: "failure"},
		{number: 25, test: imports("time") + `func TestHoard(t *testing.T) {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		time.Sleep(time.Millisecond)
		_ = all
	}
}
`, phase: refused, step: failed, says: "more than 512 MiB of memory", shown: "failure"},
		{number: 26, test: imports("crypto/tls", "net", "net/http", "os", "strings", "time") + `func TestNosy(t *testing.T) {
	for _, e := range os.Environ() {
		if strings.Contains(strings.ToLower(e), "token") || strings.Contains(strings.ToLower(e), "password") {
			t.Errorf("it was given %s", e)
		}
	}
	if b, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/token"); err == nil {
		t.Errorf("it has a token of %d bytes", len(b))
	}
	if os.Getuid() == 0 {
		t.Error("it is root")
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	web := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, path := range []string{"/version", "/apis/bight.dev/v1alpha1/apps"} {
		if answer, err := web.Get("https://" + host + path); err == nil {
			answer.Body.Close()
			t.Errorf("it reaches the API server: %s: %s", path, answer.Status)
		}
	}
}
`, phase: v1alpha1.Held, step: v1alpha1.StepPassed, says: "its tests passed, apart", shown: "success"},
	}
}

// TestStrangers runs what others have made, when somebody says so, apart.
func TestStrangers(t *testing.T) {
	d := newDock(t)
	q := &quay{dock: d, forge: newForge(t, d.lab)}
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: q.namespace}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	q.secret(q.forge.token)
	first := q.commit("The app")
	q.push("main")
	q.policy("Approve")
	q.worker = q.start("worker", "--app", q.namespace+"/"+q.namespace, "--name", "ada", "--slots", "4", "--untrusted")
	q.became(first, v1alpha1.Deployed)
	for _, step := range []struct {
		name string
		run  func(*quay)
	}{
		{"Limits", testStrangersLimits},
		{"Approved", testStrangersApproved},
		{"Command", testStrangersCommand},
		{"Unasked", testStrangersUnasked},
		{"OwnTests", testOwnLimits},
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

// policy makes the App with what it does about strangers.
func (q *quay) policy(strangers string) {
	q.Helper()
	if out, err := q.applyPolicy(fmt.Sprintf(strangersPolicy, strangers)); err != nil {
		q.Fatalf("%v\n%s", err, out)
	}
}

func (q *quay) applyPolicy(policy string) (string, error) {
	q.Helper()
	file := filepath.Join(q.TempDir(), "app.yaml")
	text := fmt.Sprintf("apiVersion: bight.dev/v1alpha1\nkind: App\nmetadata: {name: %[1]s, namespace: %[1]s}\nspec:\n"+
		"  source: {url: %[2]q, host: gitea, secret: forge, pollSeconds: 1}\n  environments: [{name: prod}]\n", q.namespace, q.forge.url) + policy
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		q.Fatal(err)
	}
	return q.kubectl("apply", "-f", file)
}

// fork opens a request from a fork with some files, on what the branch has.
func (q *quay) fork(number int, files map[string]string) (name, commit string) {
	q.Helper()
	base := q.git("rev-parse", "HEAD")
	for path, content := range files {
		q.write(path, content)
	}
	name = q.commit(fmt.Sprintf("Request %d", number))
	commit = q.git("rev-parse", "HEAD")
	q.git("push", "--quiet", q.forge.dir, fmt.Sprintf("HEAD:refs/pull/%d/head", number))
	q.git("reset", "--quiet", "--hard", base)
	q.forge.open(number, "main", commit, true)
	return name, commit
}

func testStrangersLimits(q *quay) {
	for _, c := range []struct{ policy, want string }{
		{"tests: {memory: lots}", "a quantity of at least 64Mi"},
		{"tests: {memory: 1Mi}", "a quantity of at least 64Mi"},
		{"tests: {disk: 1k}", "a quantity of at least 16Mi"},
		{"tests: {processes: 2}", "greater than or equal to 32"},
		{"tests: {seconds: -1}", "greater than or equal to 1"},
		{"strangers: Always", "Unsupported value"},
	} {
		if out, err := q.applyPolicy("  policy:\n    " + c.policy + "\n"); err == nil || !strings.Contains(out, c.want) {
			q.Errorf("%s: %v %s", c.policy, err, out)
		}
	}
}

// held waits until a change waits for something.
func (q *quay) held(name, says string) {
	q.Helper()
	q.eventually(name+" says "+says, func() error {
		c, err := read[v1alpha1.Change](v1alpha1.Changes(), q.namespace, name)
		if err == nil && (c.Status.Phase != v1alpha1.Held || !strings.Contains(c.Status.Message, says)) {
			err = fmt.Errorf("it is %s: %s", c.Status.Phase, c.Status.Message)
		}
		return err
	})
}

func testStrangersApproved(q *quay) {
	all := strangers()
	for _, s := range all {
		s.name, s.commit = q.fork(s.number, map[string]string{"cart/stranger_test.go": s.test})
	}
	for _, s := range all {
		q.became(s.name, v1alpha1.Held)
		if c := q.change(s.name); len(c.Status.Runs) > 0 || !strings.Contains(c.Status.Message, "bight change approve "+s.name) {
			q.Errorf("before anybody has approved it, it says %q and has %d runs", c.Status.Message, len(c.Status.Runs))
		}
	}
	for _, s := range all {
		if _, errs, code := q.bight("change", "approve", s.name, "-n", q.namespace); code != 0 {
			q.Fatalf("change approve: %s", errs)
		}
	}
	for _, s := range all {
		q.eventually(fmt.Sprintf("request %d is %s", s.number, s.phase), func() error {
			c := q.change(s.name)
			if test := stepOf(c, v1alpha1.TestStep); c.Status.Phase != s.phase || test.State != s.step || !strings.Contains(c.Status.Message, s.says) {
				return fmt.Errorf("it is %s: %s; test is %s: %s", c.Status.Phase, c.Status.Message, test.State, test.Message)
			}
			return nil
		})
		q.eventually("the host shows that", func() error {
			if got := q.forge.shown(s.commit)["bight/test"]; got != s.shown {
				return fmt.Errorf("bight/test is %s", got)
			}
			return nil
		})
		c := q.change(s.name)
		if c.Status.Merged != "" || len(c.Status.Images) > 0 || stepOf(c, v1alpha1.TestStep).Evidence["junit.xml"] == "" {
			q.Errorf("request %d: %+v", s.number, c.Status)
		}
	}
	nosy := all[len(all)-1]
	if out, errs, code := q.bight("change", "logs", nosy.name, "test", "-n", q.namespace); code != 0 || !strings.Contains(out, "PASS: TestNosy") {
		q.Errorf("its log, exit code %d: %s %s", code, out, errs)
	}
	q.eventually("the namespaces of the tests are gone", func() error {
		left, err := client.CoreV1().Namespaces().List(context(), meta.ListOptions{LabelSelector: v1alpha1.AppLabel + "=" + q.namespace + "," + v1alpha1.EnvironmentLabel + "=preview"})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("there are %d", len(left.Items))
		}
		return err
	})
	if _, errs, code := q.bight("change", "approve", all[0].name, "-n", q.namespace); code != 2 || !strings.Contains(errs, "approved already") {
		q.Errorf("approved again: exit code %d, %s", code, errs)
	}
	if _, errs, code := q.bight("change", "merge", all[0].name, "-n", q.namespace); code != 2 {
		q.Errorf("merged: exit code %d, %s", code, errs)
	}
}

// testStrangersCommand has a stranger say how a service is tested.
func testStrangersCommand(q *quay) {
	name, _ := q.fork(27, map[string]string{"bight.yaml": "name: " + q.namespace + "\nservices: {cart: {test: 'id'}}\n"})
	q.held(name, "bight change approve")
	if _, errs, code := q.bight("change", "approve", name, "-n", q.namespace); code != 0 {
		q.Fatalf("change approve: %s", errs)
	}
	if c := q.became(name, v1alpha1.Refused); !strings.Contains(c.Status.Message, "the tests of cart are a command") || !strings.Contains(c.Status.Message, "pushes it to a branch") {
		q.Errorf("it says %q", c.Status.Message)
	}
}

func testStrangersUnasked(q *quay) {
	q.policy("Test")
	name, _ := q.fork(28, map[string]string{"cart/more_test.go": imports() + "func TestMore(t *testing.T) {}\n"})
	q.held(name, "its tests passed, apart")
	q.policy("Review")
	name, _ = q.fork(29, map[string]string{"cart/less_test.go": imports() + "func TestLess(t *testing.T) {}\n"})
	q.held(name, "has nothing of it run")
	if _, errs, code := q.bight("change", "approve", name, "-n", q.namespace); code != 2 || !strings.Contains(errs, "says Review") {
		q.Errorf("approved: exit code %d, %s", code, errs)
	}
}

// testOwnLimits has the tests of somebody who may push held by the same limits.
func testOwnLimits(q *quay) {
	base := q.git("rev-parse", "HEAD")
	for _, c := range []struct {
		branch string
		of     int
		says   string
	}{{"storm", 24, "processes"}, {"hoard", 25, "memory"}, {"fill", 23, "64 MiB of temporary files"}, {"never", 22, "it took longer than 12s"}} {
		for _, s := range strangers() {
			if s.number == c.of {
				q.write("cart/own_test.go", s.test)
			}
		}
		name := q.commit(c.branch)
		q.push(c.branch)
		q.git("reset", "--quiet", "--hard", base)
		if got := q.became(name, v1alpha1.Refused); !strings.Contains(got.Status.Message, c.says) {
			q.Errorf("%s says %q", c.branch, got.Status.Message)
		}
	}
}
