//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDownRemovesWhatWasDeployedAndNothingElse(t *testing.T) {
	l := goApp(t)
	l.write("bight.yaml", "services:\n  hello:\n    volumes:\n      - name: data\n        path: /data\n        size: 10Mi\n")
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: l.namespace}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mine := &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: "mine"}, Data: map[string]string{"keep": "me"}}
	if _, err := client.CoreV1().ConfigMaps(l.namespace).Create(context(), mine, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.once()
	_, errs, code := l.bight("down", "-n", l.namespace)
	if code != 0 || !strings.Contains(errs, "bight down --volumes") {
		t.Errorf("down: exit code %d\n%s", code, errs)
	}
	if _, err := client.CoreV1().ConfigMaps(l.namespace).Get(context(), "mine", meta.GetOptions{}); err != nil {
		t.Errorf("what is somebody else's: %v", err)
	}
	claims := func() int {
		list, err := client.CoreV1().PersistentVolumeClaims(l.namespace).List(context(), meta.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	if n := claims(); n != 1 {
		t.Errorf("%d volumes are left, want 1", n)
	}
	if _, errs, code = l.bight("down", "--volumes", "-n", l.namespace); code != 0 {
		t.Errorf("down --volumes: exit code %d\n%s", code, errs)
	}
	if n := claims(); n != 0 {
		t.Errorf("%d volumes are left, want none", n)
	}
	if _, errs, code = l.bight("down", "-n", l.namespace); code != 0 || !strings.Contains(errs, "nothing to remove") {
		t.Errorf("a second down: exit code %d\n%s", code, errs)
	}
	if left := l.pods(); len(left) > 0 {
		t.Errorf("pods are left: %v", left)
	}
}

func TestDownRemovesTheClaimOfAKilledSession(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.signal(9)
	if got := l.status().Services[0].URL; got != "" {
		t.Errorf("the URL of a session that was killed: %s", got)
	}
	if _, errs, code := l.bight("down", "-n", l.namespace); code != 0 {
		t.Fatalf("down: exit code %d\n%s", code, errs)
	}
	if _, err := client.CoreV1().Namespaces().Get(context(), l.namespace, meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace: %v", err)
	}
}

func TestManifestsAreValid(t *testing.T) {
	l := pairApp(t)
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: l.namespace}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	out, errs, code := l.bight("plan", "--manifests", "-n", l.namespace)
	if code != 0 {
		t.Fatalf("plan --manifests: exit code %d\n%s", code, errs)
	}
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := l.kubectl("apply", "--server-side", "--dry-run=server", "-f", file); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

func TestWhatIsEjectedRunsWithoutBight(t *testing.T) {
	l := goApp(t)
	l.once()
	image := l.deployment().Spec.Template.Spec.Containers[0].Image
	if _, errs, code := l.bight("down", "-n", l.namespace); code != 0 {
		t.Fatalf("down: exit code %d\n%s", code, errs)
	}
	dir := filepath.Join(t.TempDir(), "deploy")
	if _, errs, code := l.bight("eject", dir); code != 0 {
		t.Fatalf("eject: exit code %d\n%s", code, errs)
	}
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: l.namespace}}
	if _, err := client.CoreV1().Namespaces().Create(context(), ns, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// As kustomization.yaml says it: where the image is that was pushed.
	file := filepath.Join(dir, "kustomization.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at, digest, _ := strings.Cut(image, "@")
	edited := strings.Replace(string(b), "newName: registry.invalid/hello/hello", "newName: "+at+"\n  digest: "+digest, 1)
	if err := os.WriteFile(file, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := l.kubectl("apply", "-n", l.namespace, "-k", dir); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	l.eventually("it is ready", func() error {
		if n := l.deployment().Status.ReadyReplicas; n != 1 {
			return fmt.Errorf("%d pods are", n)
		}
		return nil
	})
}

func TestStatusKnowsTheURLsOfASessionElsewhere(t *testing.T) {
	l := goApp(t)
	s := l.up()
	s.serves("hello", "/", "first")
	status := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(binaries, "bight"), append([]string{"status", "-o", "json", "-n", l.namespace}, args...)...)
		cmd.Dir = t.TempDir()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	l.eventually("status has the URL", func() error {
		if out := status(l.dir); !strings.Contains(out, `"url": "`+s.url("hello")+`"`) {
			return fmt.Errorf("it is not in %s", out)
		}
		return nil
	})
	s.signal(2)
	if out := status(l.dir); strings.Contains(out, `"url"`) || !strings.Contains(out, `"inSync": true`) {
		t.Errorf("after the session: %s", out)
	}
}
