//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// testReplayRecorded asks code on this machine what has convicted the version of the steps
// before, with what it asks of stock recorded, and then without stock.
func testReplayRecorded(b *bay) {
	name, file := b.current().Name, filepath.Join(b.dir, "calls.json")
	const (
		page = "ASKS=" + stock + "?id=7&token=abc grpc://stock:9090"
		line = " tcp://stock:7000"
	)
	program := b.program("cart")
	replayed := func(want int, says string, args ...string) {
		b.Helper()
		said, errs, code := b.bight(append([]string{"replay", "--once", "-n", b.namespace}, args...)...)
		if code != want || !strings.Contains(errs, says) {
			b.Errorf("replay %q: exit code %d, want %d and %q\n%s%s", args, code, want, says, said, errs)
		}
	}

	replayed(0, " 0 failed", name, "--record", file, "--", "env", "WHO=here", page+line, program)
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || strings.Contains(string(text), "abc") || !strings.Contains(string(text), `"url": "http://stock:8080/?id=7&token=%5Bhidden%5D"`) ||
		!strings.Contains(string(text), `"url": "http://stock:9090/grpc.health.v1.Health/Check"`) || !strings.Contains(string(text), "app HTTP/1.1") {
		b.Errorf("recorded is, with mode %v,\n%s", info.Mode(), text)
	}
	b.Logf("%d requests of the command have %d bytes", strings.Count(string(text), `"method"`), len(text))

	// A secret may be another one. What is no HTTP is asked live.
	other := strings.Replace(page, "abc", "xyz", 1)
	replayed(0, "stock:7000 is asked in the cluster, as it is no HTTP", name, "--recorded", file, "--", "env", "WHO=here", other+line, program)

	// Without stock, there is no answer but the recorded one.
	replicas := func(n int) {
		b.Helper()
		if _, err := client.AppsV1().Deployments(b.namespace).Patch(context(), "stock", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), meta.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
		b.eventually(fmt.Sprintf("stock has %d pods", n), func() error {
			d, err := client.AppsV1().Deployments(b.namespace).Get(context(), "stock", meta.GetOptions{})
			if err != nil {
				return err
			}
			pods, err := client.CoreV1().Pods(b.namespace).List(context(), meta.ListOptions{LabelSelector: meta.FormatLabelSelector(d.Spec.Selector)})
			if err == nil && (int(d.Status.ReadyReplicas) != n || len(pods.Items) != n) { // one that ends answers for a while
				err = fmt.Errorf("%+v, with %d pods", d.Status, len(pods.Items))
			}
			return err
		})
	}
	replicas(0)
	defer replicas(1)
	replayed(1, "status 500, stable's is 200", name, "--", "env", "WHO=here", page, program)
	dir := filepath.Join(b.dir, "alone")
	if said, errs, code := b.bight("replay", name, "-n", b.namespace, "--save-test="+dir); code != 0 {
		b.Fatalf("exit code %d\n%s%s", code, said, errs)
	}
	test := filepath.Join(dir, name+".json")
	for _, from := range [][]string{{name}, {name, "--alone"}, {test, "--kubeconfig", "/nowhere"}} {
		with := func(args ...string) []string {
			return append(append(from, "--recorded", file, "--", "env", "WHO=here"), args...)
		}
		replayed(0, " 0 failed", with(page, program)...)
		replayed(1, "requests failed", with(page, "BROKEN=yes", program)...)
		replayed(1, "tells nothing: status 500, stable's is 200, but the recording has no answer for GET http://stock:8080/?id=8: it has one with another query", with("ASKS="+stock+"?id=8", program)...)
	}
	replayed(1, "the recording has no answer for a connection to stock:7000", name, "--alone", "--recorded", file, "--", "env", "WHO=here", page+line, program)
}
