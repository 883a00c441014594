//go:build unix

package worker

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/session"
)

const serves = `package main

import "net/http"

func main() {
	_ = http.ListenAndServe(":8080", nil)
}
`

const noShrinking = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  validations:
  - expression: object.spec.replicas <= 3
    message: at most three pods
`

// bench is a repository and a worker for it.
type bench struct {
	*testing.T
	dir    string
	worker *Worker
}

func newBench(t *testing.T, files map[string]string) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir()}
	checkers, gates := Checkers(nil, "")
	b.worker = &Worker{
		Name: "w", Dir: t.TempDir(), Cache: t.TempDir(), Log: slog.New(slog.DiscardHandler), Checkers: checkers, Gates: gates,
		Source: func(context.Context, string, string) (repo.Source, error) { return repo.Source{Path: b.dir}, nil },
	}
	b.git("init", "--quiet", "--initial-branch", "main", ".")
	b.commit(files)
	return b
}

func (b *bench) git(args ...string) string {
	b.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=Ada", "-c", "user.email=ada@example.org"}, args...)...)
	cmd.Dir = b.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (b *bench) commit(files map[string]string) string {
	b.Helper()
	for name, text := range files {
		file := filepath.Join(b.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			b.Fatal(err)
		}
	}
	b.git("add", "--all")
	b.git("commit", "--quiet", "--message", "x")
	return b.git("rev-parse", "HEAD")
}

func (b *bench) do(o work.Order) (work.Result, string) {
	b.Helper()
	o.Namespace, o.App, o.Change = "shop", "shop", "shop-1"
	var log bytes.Buffer
	r := b.worker.Do(b.Context(), o, &log)
	return r, log.String()
}

func (b *bench) report(r work.Result) *review.Report {
	b.Helper()
	rep := &review.Report{}
	if err := json.Unmarshal(r.Files["review.json"], rep); err != nil {
		b.Fatalf("%v in the report of %+v", err, r)
	}
	return rep
}

func shopFiles() map[string]string {
	return map[string]string{
		"go.mod": "module example.com/shop\n\ngo 1.26\n", "cart/main.go": serves,
		"bight.yaml": "name: shop\n", ".bight/policies/few.yaml": noShrinking,
	}
}

// sarifAt is a linter that finds fault with the first line of each file that it is
// given, and leaves a file behind.
const sarifAt = `echo left > left.txt; printf '{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":['; s=; for f in "$@"; do printf '%s{"ruleId":"r","level":"warning","message":{"text":"env %s"},"locations":[{"physicalLocation":{"artifactLocation":{"uri":"%s"},"region":{"startLine":1}}}]}' "$s" "$TOKEN" "$f"; s=,; done; printf ']}]}'`

func TestAReviewJudgesWhatTheChangeAltersOfTheObjects(t *testing.T) {
	b := newBench(t, shopFiles())
	base := b.git("rev-parse", "HEAD")
	for _, c := range []struct {
		replicas string
		state    string
		want     string
	}{
		{"2", work.Passed, ""},
		{"5", work.Failed, "at most three pods"},
	} {
		head := b.commit(map[string]string{"bight.yaml": "name: shop\nservices:\n  cart:\n    env: {MODE: fast}\n    replicas: " + c.replicas + "\n"})
		got, log := b.do(work.Order{Step: v1alpha1.ReviewStep, Commit: head, Base: base})
		if got.State != c.state || !strings.Contains(got.Message, c.want) {
			t.Errorf("%s replicas: %s, %q, want %s, %q\n%s", c.replicas, got.State, got.Message, c.state, c.want, log)
		}
		for _, f := range b.report(got).Findings {
			if f.Object != "Deployment cart" || f.File != "bight.yaml" || f.Line != 5 || !strings.HasPrefix(f.Why, "the change alters Deployment cart") {
				t.Errorf("finding %+v", f)
			}
		}
	}
	// What was so before is not the next change's fault.
	base = b.git("rev-parse", "HEAD")
	head := b.commit(map[string]string{"README.md": "Words\n"})
	if got, log := b.do(work.Order{Step: v1alpha1.ReviewStep, Commit: head, Base: base}); got.State != work.Passed || len(b.report(got).Findings) > 0 {
		t.Errorf("words: %s, %q\n%s", got.State, got.Message, log)
	}
}

func TestAReviewRunsTheAppsLintersInACopyOfTheirOwn(t *testing.T) {
	t.Setenv("TOKEN", "hunter2")
	files := shopFiles()
	yaml, err := json.Marshal(map[string]any{"name": "shop", "linters": map[string]any{
		"js":     map[string]any{"command": []string{"sh", "-c", sarifAt, "lint", "{files}"}, "files": []string{"**/*.js"}},
		"absent": map[string]any{"command": []string{"no-such-linter", "{files}"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	files["bight.yaml"] = string(yaml)
	b := newBench(t, files)
	base := b.git("rev-parse", "HEAD")
	head := b.commit(map[string]string{"cart/a.js": "x\n", "cart/b.py": "x\n"})
	o := work.Order{Step: v1alpha1.ReviewStep, Commit: head, Base: base}
	got, log := b.do(o)
	if !strings.Contains(log, "cart/a.js:1: warning: env (js r)") || strings.Contains(log, "b.py") || got.State != work.Passed {
		t.Errorf("%s, %q\n%s", got.State, got.Message, log)
	}
	if !strings.HasSuffix(got.Message, "; not checked by absent") || !strings.Contains(log, "not checked by absent: the program no-such-linter is not installed here") {
		t.Errorf("of a linter that is not there: %q\n%s", got.Message, log)
	}
	if left, _ := filepath.Glob(filepath.Join(b.worker.Dir, "shop.shop.read.*", "tree", "left.txt")); len(left) > 0 {
		t.Errorf("it was run in %s", left)
	}
	o.Policy.RefuseAt = "warning"
	if got, _ := b.do(o); got.State != work.Failed {
		t.Errorf("with warnings refused: %s, %q", got.State, got.Message)
	}
	o.Untrusted = true
	got, log = b.do(o)
	if got.State != work.Passed || !strings.Contains(log, "not checked by js: the change's author may not push here") {
		t.Errorf("of a stranger: %s, %q\n%s", got.State, got.Message, log)
	}
}

func TestAServicesOwnTestsAreRun(t *testing.T) {
	files := shopFiles()
	files["bight.yaml"] = "name: shop\nservices:\n  cart:\n    test: 'echo \"<testsuite><testcase name=\\\"sums\\\"/></testsuite>\" > out.xml; test -f main.go'\n    testReport: '*.xml'\n"
	b := newBench(t, files)
	o := work.Order{Step: v1alpha1.TestStep, Commit: b.git("rev-parse", "HEAD")}
	got, log := b.do(o)
	var result suite.Result
	if err := json.Unmarshal(got.Files["tests.json"], &result); err != nil {
		t.Fatalf("%v: %+v\n%s", err, got, log)
	}
	if got.State != work.Passed || len(result.Units) != 1 || result.Units[0].Name != "cart" || result.Units[0].Tests[0].Name != "sums" {
		t.Errorf("%s, %q, units %+v\n%s", got.State, got.Message, result.Units, log)
	}
	if all, err := filepath.Glob(filepath.Join(b.worker.Dir, "*", "store.git")); err != nil || len(all) != 1 {
		t.Errorf("what was fetched once is in %v, %v", all, err)
	}
	files["bight.yaml"] = "name: shop\nservices: {cart: {test: 'echo no luck; exit 3'}}\n"
	o.Commit = b.commit(files)
	if got, log := b.do(o); got.State != work.Failed || !strings.Contains(got.Message, "cart") || !strings.Contains(log, "no luck") {
		t.Errorf("%s, %q\n%s", got.State, got.Message, log)
	}
}

func TestABuildAttachesWhatTheImagesAreMadeOf(t *testing.T) {
	b := newBench(t, shopFiles())
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	var err error
	if b.worker.Maker, err = session.NewMaker(t.TempDir(), By, b.worker.Log); err != nil {
		t.Fatal(err)
	}
	b.worker.Registry = image.Registry{Push: strings.TrimPrefix(server.URL, "http://"), Pull: "localhost:5000"}
	o := work.Order{Step: v1alpha1.BuildStep, Commit: b.git("rev-parse", "HEAD")}
	signer := newSigner(t)
	policy := attest.Policy{Keys: []*attest.PublicKey{signer.PublicKey()}, Builders: []string{v1alpha1.WorkerBuilder}}
	verify := func(r work.Result) error {
		_, path, _ := strings.Cut(r.Images["cart"], "/")
		_, err := (&attest.Client{}).Verify(t.Context(), b.worker.Registry.Push+"/"+path, policy)
		return err
	}
	for _, c := range []struct {
		name   string
		signer *attest.Signer
		want   string
	}{
		{"without a key", nil, "there is one that is not signed"},
		{"with a key, the image as before", signer, ""},
		{"without a key again", nil, ""},
	} {
		b.worker.Signer = c.signer
		got, log := b.do(o)
		if got.State != work.Passed || strings.Contains(log, "image") && strings.Contains(log, "warning") {
			t.Fatalf("%s: %s, %q\n%s", c.name, got.State, got.Message, log)
		}
		err := verify(got)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	_, path, _ := strings.Cut(image1(b, o), "/")
	ref, err := name.NewDigest(b.worker.Registry.Push + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(ref)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list.Manifests); n != 5 {
		t.Errorf("%d things are attached, want SBOM and provenance without a signature and with, and a signature", n)
	}
}

func image1(b *bench, o work.Order) string {
	b.Helper()
	r, _ := b.do(o)
	return r.Images["cart"]
}

func newSigner(t *testing.T) *attest.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := attest.ParseSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheDatabaseIsOnThisMachineUnlessSomebodyNamesAnother(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ named, env, want string }{
		{"", "", ""},
		{"", "https://vuln.go.dev", ""},
		{"", "off", ""},
		{"", "file:///srv/vulndb", "file:///srv/vulndb"},
		{"", dir, dir},
		{"/srv/other", dir, "/srv/other"},
		{"https://vuln.example.com", "", "https://vuln.example.com"},
	} {
		if got := Database(c.named, c.env); got != c.want {
			t.Errorf("named %q, environment %q: got %q, want %q", c.named, c.env, got, c.want)
		}
	}
}
