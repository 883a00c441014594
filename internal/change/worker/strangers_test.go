package worker

import (
	"archive/tar"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/apart"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/session"
)

// filesOf are the files of an image below the app's root, with their modes.
func filesOf(t *testing.T, ref string) map[string]int64 {
	t.Helper()
	digest, err := name.NewDigest(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	r := mutate.Extract(img)
	defer r.Close()
	out := map[string]int64{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if file, ok := strings.CutPrefix(h.Name, image.Root[1:]+"/"); ok {
			out[file] = h.Mode
		}
	}
}

func TestTheTestsOfAStrangerAreCompiledAndNotRun(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	files := shopFiles()
	files["cart/evil_test.go"] = "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc init() { os.WriteFile(`" + left + "`, nil, 0o600) }\n\nfunc TestEvil(t *testing.T) {}\n"
	b := newBench(t, files)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	maker, err := session.NewMaker(t.TempDir(), By, b.worker.Log)
	if err != nil {
		t.Fatal(err)
	}
	b.worker.Maker, b.worker.Registry = maker, image.Registry{Push: strings.TrimPrefix(server.URL, "http://")}
	if b.worker.Agent, err = os.Executable(); err != nil { // any program
		t.Fatal(err)
	}
	o := work.Order{Step: v1alpha1.BuildStep, Commit: b.git("rev-parse", "HEAD"), Untrusted: true}
	got, text := b.do(o)
	if got.State != work.Passed || len(got.Images) > 0 || len(got.Keep) > 0 {
		t.Fatalf("%+v\n%s", got, text)
	}
	var made apart.Suite
	if err := json.Unmarshal(got.Files[apart.File], &made); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(made.Image, "/strangers/shop/shop@sha256:") {
		t.Errorf("its image is %s", made.Image)
	}
	in := filesOf(t, made.Image)
	for _, want := range []string{"src/cart/evil_test.go", "tests/test2json", "tests/0.test"} {
		if _, ok := in[want]; !ok {
			t.Errorf("the image lacks %s", want)
		}
	}
	for file, mode := range in {
		if strings.HasPrefix(file, "src/") && mode&0o006 != 0o006 {
			t.Errorf("the tests may not write %s: %o", file, mode)
		}
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("the worker has run it")
	}
	o.Step = v1alpha1.TestStep
	if got, _ := b.do(o); got.State != work.Erred {
		t.Errorf("a worker takes the tests of a stranger: %+v", got)
	}
}

func TestTestsOfStrangersThatAreACommandAreRefused(t *testing.T) {
	files := shopFiles()
	files["bight.yaml"] = "name: shop\nservices: {cart: {test: 'true'}}\n"
	b := newBench(t, files)
	got, _ := b.do(work.Order{Step: v1alpha1.BuildStep, Commit: b.git("rev-parse", "HEAD"), Untrusted: true})
	if got.State != work.Failed || !strings.Contains(got.Message, "the tests of cart are a command") || !strings.Contains(got.Message, "pushes it to a branch") {
		t.Errorf("%+v", got)
	}
}

func TestAStrangersReviewRunsGoUnderGuard(t *testing.T) {
	b := newBench(t, shopFiles())
	all, err := b.worker.checkers(t.Context(), &job{Order: work.Order{Untrusted: true}})
	if err != nil {
		t.Fatal(err)
	}
	guarded := 0
	for _, c := range all {
		raw, err := json.Marshal(c)
		if err != nil {
			continue
		}
		var env struct{ Env []string }
		if json.Unmarshal(raw, &env) == nil && slices.Contains(env.Env, "CGO_ENABLED=0") && slices.Contains(env.Env, "GOTOOLCHAIN=local") {
			guarded++
		}
	}
	if d := cmp.Diff(2, guarded); d != "" {
		t.Errorf("checkers that run go (-want +got):\n%s", d)
	}
	if own, _ := b.worker.checkers(t.Context(), &job{}); len(own) != len(all) {
		t.Errorf("%d checkers, of a stranger %d", len(own), len(all))
	}
}
