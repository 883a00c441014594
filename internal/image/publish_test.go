package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ggcr "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/bightdev/bight/internal/tree"
)

// testRegistry is a registry in this process that keeps a list of what it is
// asked.
type testRegistry struct {
	host string
	mu   sync.Mutex
	log  []string
	fail func(*http.Request) (status int, body string)
}

func newRegistry(t *testing.T) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.log = append(r.log, req.Method+" "+req.URL.Path)
		fail := r.fail
		r.mu.Unlock()
		if fail != nil {
			if status, body := fail(req); status != 0 {
				http.Error(w, body, status)
				return
			}
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

func (r *testRegistry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.log
	r.log = nil
	return log
}

// artifactIn writes files into a new directory and makes an artifact of them.
func artifactIn(t *testing.T, service string, files map[string]string) *Artifact {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tr, problems, err := tree.ReadDir(context.Background(), dir, tree.Options{})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	return &Artifact{Service: service, Tree: tr, Command: []string{"./" + service}}
}

func newPublisher(t *testing.T) *Publisher {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return &Publisher{
		Store: OpenStore(t.TempDir()), Arch: "amd64",
		Zones: filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"),
	}
}

func imageOf(t *testing.T, p *Publisher, art *Artifact, opts Options) v1.Image {
	t.Helper()
	img, err := p.Image(context.Background(), art, opts)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// check validates an image. The validator takes every layer for gzip, so the
// layers are checked here.
func check(t *testing.T, img v1.Image) {
	t.Helper()
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Error(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		want, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		wantDiff, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		size, err := l.Size()
		if err != nil {
			t.Fatal(err)
		}
		moved, n := hashAll(t, l.Compressed)
		plain, _ := hashAll(t, l.Uncompressed)
		if moved != want || n != size || plain != wantDiff {
			t.Errorf("layer %s of %d bytes, plain %s, says %s, %d, %s", moved, n, plain, want, size, wantDiff)
		}
	}
}

func hashAll(t *testing.T, open func() (io.ReadCloser, error)) (v1.Hash, int64) {
	t.Helper()
	r, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h, n, err := v1.SHA256(r)
	if err != nil {
		t.Fatal(err)
	}
	return h, n
}

// contents returns the files of an image as a container sees them.
func contents(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	files := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		files[h.Name] = fmt.Sprintf("%s %d:%d %s%.8x", h.FileInfo().Mode(), h.Uid, h.Gid, h.Linkname, sum[:4])
		if h.Name == "etc/ssl/certs/ca-certificates.crt" {
			if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(b) || bytes.Count(b, []byte("BEGIN CERT")) < 50 {
				t.Error("the certificates can't be used")
			}
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s was modified at %v", h.Name, h.ModTime)
		}
	}
}

func TestImageHasTheTreeOnOurBase(t *testing.T) {
	art := artifactIn(t, "cart", map[string]string{
		"cart": "program", "web/a b.html": "page", "new\nline": "n", "raw\xff": "r",
		strings.Repeat("long/", 60) + "name": "l",
	})
	art.Tree["cart"] = func(e tree.Entry) tree.Entry { e.Mode = 0o755; return e }(art.Tree["cart"])
	art.Tree["link"] = tree.Entry{Mode: fs.ModeSymlink, Link: "web"}
	art.Tree["empty/dir"] = tree.Entry{Mode: fs.ModeDir | 0o755}
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Compression{Plain, Gzip, Zstd} {
		t.Run("compression "+string(c), func(t *testing.T) {
			p := newPublisher(t)
			p.Compression = c
			img := imageOf(t, p, art, Options{Agent: agent, Version: "v1"})
			check(t, img)
			files := contents(t, img)
			for name, want := range map[string]string{
				"srv/app/cart":         "-rwxr-xr-x 65532:65532",
				"srv/app/web/a b.html": "-rw-r--r-- 65532:65532",
				"srv/app/new\nline":    "-rw-r--r-- 65532:65532",
				"srv/app/raw\xff":      "-rw-r--r-- 65532:65532",
				"srv/app/" + strings.Repeat("long/", 60) + "name": "-rw-r--r-- 65532:65532",
				"srv/app/link":                      "Lrwxrwxrwx 65532:65532 web",
				"srv/app/empty/dir":                 "drwxr-xr-x 65532:65532",
				"srv/app":                           "drwxr-xr-x 65532:65532",
				"srv":                               "drwxr-xr-x 0:0",
				"bight/agent":                       "-rwxr-xr-x 0:0",
				"tmp":                               "dtrwxrwxrwx 0:0",
				"etc/passwd":                        "-rw-r--r-- 0:0",
				"etc/nsswitch.conf":                 "-rw-r--r-- 0:0",
				"etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- 0:0",
				"usr/share/zoneinfo/Europe/Zurich":  "-rw-r--r-- 0:0",
			} {
				if got := files[name]; !strings.HasPrefix(got, want) {
					t.Errorf("%q is %q, want %q", name, got, want)
				}
			}
			again := imageOf(t, &Publisher{Store: p.Store, Arch: p.Arch, Zones: p.Zones, Compression: c}, art, Options{Agent: agent, Version: "v1"})
			if a, b := digest(t, img), digest(t, again); a != b {
				t.Errorf("digests differ the second time: %s, %s", a, b)
			}
		})
	}
}

func digest(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestImageConfiguration(t *testing.T) {
	art := artifactIn(t, "cart", map[string]string{"cart": "x"})
	art.Command = []string{"./cart", "--flag"}
	img := imageOf(t, newPublisher(t), art, Options{Version: "v1", Source: "https://example.com/x", Labels: map[string]string{"a": "b"}})
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := f.Config
	got := []any{c.User, c.WorkingDir, c.Entrypoint, f.OS, f.Architecture, f.Created.Unix(), len(f.History) == len(f.RootFS.DiffIDs)}
	want := []any{"65532:65532", "/srv/app", []string{"/srv/app/cart", "--flag"}, "linux", "amd64", int64(0), true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	labels := map[string]string{
		"a": "b", "org.opencontainers.image.title": "cart", "org.opencontainers.image.version": "v1",
		"org.opencontainers.image.source": "https://example.com/x", "dev.bight.tree": art.Tree.Digest().String(),
	}
	if diff := cmp.Diff(labels, c.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func TestImageIsTheSameFromAnyDirectory(t *testing.T) {
	files := map[string]string{"cart": "x", "a/b": "y"}
	first, second := artifactIn(t, "cart", files), artifactIn(t, "cart", files)
	for _, e := range second.Tree {
		old := time.Unix(1e9, 0)
		if err := errors.Join(os.Chtimes(e.Local, old, old), os.Chmod(e.Local, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	second, err := reread(second)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, imageOf(t, newPublisher(t), first, Options{})), digest(t, imageOf(t, newPublisher(t), second, Options{})); a != b {
		t.Errorf("digests differ: %s, %s", a, b)
	}
}

func reread(art *Artifact) (*Artifact, error) {
	dir := filepath.Dir(art.Tree["cart"].Local)
	tr, _, err := tree.ReadDir(context.Background(), dir, tree.Options{})
	return &Artifact{Service: art.Service, Tree: tr, Command: art.Command}, err
}

func TestImageRefusesWhatItCannotDo(t *testing.T) {
	p := newPublisher(t)
	static := &Artifact{Service: "front", Command: []string{AgentPath}, NeedsAgent: true}
	for name, tc := range map[string]struct {
		art  *Artifact
		want string
	}{
		"no agent":   {static, "served by the agent"},
		"whiteout":   {artifactIn(t, "cart", map[string]string{".wh.x": ""}), ".wh."},
		"no command": {&Artifact{Service: "cart"}, "no command"},
	} {
		if _, err := p.Image(context.Background(), tc.art, Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	p = newPublisher(t)
	p.Zones = "/no/such/zoneinfo.zip"
	if _, err := p.Image(context.Background(), artifactIn(t, "cart", nil), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error without time zones: %v", err)
	}
}

func TestPushMovesOnlyWhatIsMissing(t *testing.T) {
	reg, p, ctx := newRegistry(t), newPublisher(t), context.Background()
	target := Registry{Push: reg.host, Pull: "localhost:5000"}
	var targets []Target
	for _, name := range []string{"cart", "front", "mail"} {
		art := artifactIn(t, name, map[string]string{name: strings.Repeat(name, 10_000)})
		targets = append(targets, Target{"shop/" + name, imageOf(t, p, art, Options{})})
	}
	first, err := p.Push(ctx, target, targets...)
	if err != nil {
		t.Fatal(err)
	}
	uploads := strings.Count(strings.Join(reg.requests(), "\n"), "PATCH ")
	if uploads != 3+3+1 {
		t.Errorf("%d blobs were moved, want three trees, three configurations and one base", uploads)
	}
	for i, got := range first {
		if want := "localhost:5000/" + targets[i].Repository + "@" + digest(t, targets[i].Image).String(); got.Ref != want || got.Present || got.Bytes < 40_000 {
			t.Errorf("pushed %+v, want %s", got, want)
		}
		ref, err := ggcr.ParseReference(strings.Replace(got.Ref, "localhost:5000", reg.host, 1), ggcr.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		check(t, img)
	}
	reg.requests()

	again, err := (&Publisher{Store: p.Store}).Push(ctx, target, targets[0])
	if err != nil {
		t.Fatal(err)
	}
	if reqs := reg.requests(); len(reqs) != 1 || !again[0].Present || again[0].Bytes != 0 {
		t.Errorf("an image that is there cost %q and gave %+v", reqs, again[0])
	}

	art := artifactIn(t, "cart", map[string]string{"cart": "new"})
	changed, err := p.Push(ctx, target, Target{"shop/cart", imageOf(t, p, art, Options{})})
	if err != nil {
		t.Fatal(err)
	}
	if changed[0].Bytes > 20_000 {
		t.Errorf("a changed program of 3 bytes moved %d bytes", changed[0].Bytes)
	}
}

func TestPushErrorsNameTheRegistry(t *testing.T) {
	reg, p := newRegistry(t), newPublisher(t)
	img := imageOf(t, p, artifactIn(t, "cart", map[string]string{"cart": "x"}), Options{})
	closed := httptest.NewServer(nil)
	closed.Close()
	uploads := func(status int, body string) func(*http.Request) (int, string) {
		return func(r *http.Request) (int, string) {
			if r.Method == http.MethodPatch {
				return status, body
			}
			return 0, ""
		}
	}
	for name, tc := range map[string]struct {
		host   string
		repo   string
		fail   func(*http.Request) (int, string)
		advice string
	}{
		"down":        {strings.TrimPrefix(closed.URL, "http://"), "shop/cart", nil, "bight cluster start"},
		"disk full":   {reg.host, "shop/cart", uploads(500, "write /var/x: no space left on device"), "disk is full"},
		"failing":     {reg.host, "shop/cart", uploads(500, "oops"), "see its logs"},
		"not allowed": {reg.host, "shop/cart", func(*http.Request) (int, string) { return 403, "" }, "docker login " + reg.host},
	} {
		reg.mu.Lock()
		reg.fail = tc.fail
		reg.mu.Unlock()
		_, err := p.Push(context.Background(), Registry{Push: tc.host}, Target{tc.repo, img})
		re, ok := errors.AsType[*RegistryError](err)
		if !ok || re.Registry != tc.host || !strings.Contains(err.Error(), tc.advice) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := p.Push(context.Background(), Registry{Push: reg.host}, Target{"Not A Name", img}); err == nil || !strings.Contains(err.Error(), "Not A Name") {
		t.Errorf("error of a bad name: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Push(ctx, Registry{Push: reg.host}, Target{"shop/cart", img}); !errors.Is(err, context.Canceled) {
		t.Errorf("error of a cancelled push: %v", err)
	}
}

func TestPushNoticesAChangedFile(t *testing.T) {
	reg, p := newRegistry(t), newPublisher(t)
	art := artifactIn(t, "cart", map[string]string{"cart": "before"})
	img := imageOf(t, p, art, Options{})
	for _, text := range []string{"later!", "x"} {
		if err := os.WriteFile(art.Tree["cart"].Local, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Push(context.Background(), Registry{Push: reg.host}, Target{"shop/cart", img}); err == nil {
			t.Errorf("a file that became %q was pushed under the old digest", text)
		}
	}
}

func TestImageOnAConfiguredBase(t *testing.T) {
	reg, p, ctx := newRegistry(t), newPublisher(t), context.Background()
	base := imageOf(t, p, artifactIn(t, "base", map[string]string{"base": "x"}), Options{Labels: map[string]string{"from": "base"}})
	pushed, err := p.Push(ctx, Registry{Push: reg.host}, Target{"library/base", base})
	if err != nil {
		t.Fatal(err)
	}
	on := &Publisher{Store: p.Store, Base: pushed[0].Ref, Arch: "amd64"}
	img := imageOf(t, on, artifactIn(t, "cart", map[string]string{"cart": "y"}), Options{})
	files := contents(t, img)
	if files["srv/app/base"] == "" || files["srv/app/cart"] == "" {
		t.Errorf("files %v", files)
	}
	if _, err := on.Push(ctx, Registry{Push: newRegistry(t).host}, Target{"shop/cart", img}); err != nil {
		t.Error(err)
	}
}

func TestOneBlobIsUploadedOnceByManyAtATime(t *testing.T) {
	reg, p := newRegistry(t), newPublisher(t)
	var targets []Target
	for i := range 8 {
		art := artifactIn(t, "cart", map[string]string{"cart": "same"})
		targets = append(targets, Target{fmt.Sprintf("shop/cart%d", i), imageOf(t, p, art, Options{})})
	}
	if _, err := p.Push(context.Background(), Registry{Push: reg.host}, targets...); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(strings.Join(reg.requests(), "\n"), "PATCH "); n != 3 {
		t.Errorf("%d blobs were moved, want 3", n)
	}
}

func BenchmarkLayer(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	var none *tree.Cache
	e, err := none.Stat(exe)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []Compression{Plain, Gzip, Zstd} {
		b.Run("compression="+string(c), func(b *testing.B) {
			b.SetBytes(e.Size)
			for b.Loop() {
				p := &Publisher{Store: OpenStore(b.TempDir()), Compression: c}
				l, err := p.treeLayer(tree.Tree{"x": e}, "srv/app", User)
				if err != nil {
					b.Fatal(err)
				}
				size, err := l.Size()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(size), "bytes")
			}
		})
	}
}

// BenchmarkPush is what the delivery of a program costs, apart from the work of
// the registry, which here only counts what it gets.
func BenchmarkPush(b *testing.B) {
	file := filepath.Join(b.TempDir(), "program")
	if err := os.WriteFile(file, bytes.Repeat([]byte("0123456789abcdef"), 50<<16), 0o755); err != nil {
		b.Fatal(err)
	}
	var none *tree.Cache
	e, err := none.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	p := &Publisher{Store: OpenStore(b.TempDir())}
	img, err := p.Image(context.Background(), &Artifact{Service: "x", Tree: tree.Tree{"x": e}, Command: []string{"./x"}}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Error(err)
		}
		switch {
		case r.URL.Path == "/v2/":
		case r.Method == http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodPost, r.Method == http.MethodPatch:
			w.Header().Set("Location", "/v2/shop/x/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusCreated)
		}
	}))
	defer srv.Close()
	b.SetBytes(e.Size)
	for b.Loop() {
		p := &Publisher{Store: p.Store}
		if _, err := p.Push(context.Background(), Registry{Push: strings.TrimPrefix(srv.URL, "http://")}, Target{"shop/x", img}); err != nil {
			b.Fatal(err)
		}
	}
}
