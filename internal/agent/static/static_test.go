package static

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// site makes a directory with files; a name that ends in "->" is a link.
func site(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, strings.TrimSuffix(name, "->"))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "->") {
			err = os.Symlink(content, full)
		} else {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err == nil && !strings.HasSuffix(name, "->") {
			// As an image has it: every file of the same time.
			err = os.Chtimes(full, time.Unix(0, 0), time.Unix(0, 0))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func do(t *testing.T, h http.Handler, method, target string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPaths(t *testing.T) {
	outside := site(t, map[string]string{"secret": "s3cret"})
	dir := site(t, map[string]string{
		"index.html": "home", "style.css": "css", "dir/index.html": "in dir", "empty/x.txt": "x",
		"with space.txt": "sp", "new\nline.txt": "nl", "inner->": "style.css", "out->": outside + "/secret",
		"up->": "../" + filepath.Base(outside), "loop->": "loop", "data.unknown": "\x7fELF", ".hidden": "h",
	})
	for _, tt := range []struct {
		path     string
		code     int
		body     string
		kind     string
		location string
	}{
		{"/", 200, "home", "text/html; charset=utf-8", ""},
		{"/index.html", 200, "home", "text/html; charset=utf-8", ""},
		{"/style.css?v=1", 200, "css", "text/css; charset=utf-8", ""},
		{"/dir/", 200, "in dir", "text/html; charset=utf-8", ""},
		{"/dir?q=1", 301, "", "", "dir/?q=1"},
		{"/style.css/", 301, "", "", "../style.css"},
		{"/empty/", 404, "404 page not found\n", "text/plain; charset=utf-8", ""},
		{"/nothing", 404, "404 page not found\n", "text/plain; charset=utf-8", ""},
		{"/with%20space.txt", 200, "sp", "text/plain; charset=utf-8", ""},
		{"/new%0Aline.txt", 200, "nl", "text/plain; charset=utf-8", ""},
		{"/inner", 200, "css", "", ""},
		{"/out", 404, "", "", ""},
		{"/up/secret", 404, "", "", ""},
		{"/loop", 404, "", "", ""},
		{"/../../etc/passwd", 404, "", "", ""},
		{"/%2e%2e/%2e%2e/etc/passwd", 404, "", "", ""},
		{"/dir/..%2f..%2fsecret", 404, "", "", ""},
		{"/x%00y", 400, "", "", ""},
		{"/.hidden", 200, "h", "", ""},
	} {
		resp := do(t, &Site{Roots: []string{dir}}, "GET", tt.path)
		got := body(t, resp)
		if resp.StatusCode != tt.code || tt.body != "" && got != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.path, resp.StatusCode, got, tt.code, tt.body)
		}
		if strings.Contains(got, "s3cret") {
			t.Errorf("%s: served a file from outside", tt.path)
		}
		if kind := resp.Header.Get("Content-Type"); tt.kind != "" && kind != tt.kind {
			t.Errorf("%s: type %q, want %q", tt.path, kind, tt.kind)
		}
		if d := cmp.Diff(tt.location, resp.Header.Get("Location")); d != "" {
			t.Errorf("%s: location -want +got:\n%s", tt.path, d)
		}
	}
}

func TestValidationAndRanges(t *testing.T) {
	dir := site(t, map[string]string{"a.txt": "0123456789"})
	s := &Site{Roots: []string{dir}}
	resp := do(t, s, "GET", "/a.txt")
	tag := resp.Header.Get("Etag")
	if tag == "" || resp.Header.Get("Cache-Control") != "no-cache" || resp.Header.Get("Last-Modified") != "" {
		t.Errorf("headers: %v", resp.Header)
	}
	if resp := do(t, s, "GET", "/a.txt", "If-None-Match", tag); resp.StatusCode != 304 || body(t, resp) != "" {
		t.Errorf("with its tag: %d", resp.StatusCode)
	}
	if resp := do(t, s, "GET", "/a.txt", "Range", "bytes=2-4", "If-Range", tag); resp.StatusCode != 206 || body(t, resp) != "234" {
		t.Errorf("range: %d", resp.StatusCode)
	}
	if resp := do(t, s, "GET", "/a.txt", "Range", "bytes=20-"); resp.StatusCode != 416 {
		t.Errorf("range behind the end: %d", resp.StatusCode)
	}
	resp = do(t, s, "HEAD", "/a.txt")
	if resp.StatusCode != 200 || resp.ContentLength != 10 || body(t, resp) != "" || resp.Header.Get("Etag") != tag {
		t.Errorf("HEAD: %d, %d bytes", resp.StatusCode, resp.ContentLength)
	}
	if resp := do(t, s, "POST", "/a.txt"); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", resp.StatusCode)
	}
	// Another content of the same size and time, as another image has it.
	s2 := &Site{Roots: []string{site(t, map[string]string{"a.txt": "9876543210"})}}
	if resp := do(t, s2, "GET", "/a.txt", "If-None-Match", tag); resp.StatusCode != 200 {
		t.Errorf("the tag of another content: %d", resp.StatusCode)
	}
}

func TestNotFoundPageAndFallback(t *testing.T) {
	dir := site(t, map[string]string{"index.html": "app", "404.html": "nothing here"})
	resp := do(t, &Site{Roots: []string{dir}}, "GET", "/some/where")
	if got := body(t, resp); resp.StatusCode != 404 || got != "nothing here" || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("404.html: %d %q", resp.StatusCode, got)
	}
	spa := &Site{Roots: []string{dir}, Fallback: true}
	if resp := do(t, spa, "GET", "/some/where"); resp.StatusCode != 200 || body(t, resp) != "app" {
		t.Errorf("fallback: %d", resp.StatusCode)
	}
	if resp := do(t, spa, "GET", "/missing.js"); resp.StatusCode != 404 {
		t.Errorf("a missing script must not be answered with a page: %d", resp.StatusCode)
	}
}

func TestListingOnlyWhenAsked(t *testing.T) {
	dir := site(t, map[string]string{"d/<b>.txt": "x", "d/sub/y": "y"})
	resp := do(t, &Site{Roots: []string{dir}, List: true}, "GET", "/d/")
	got := body(t, resp)
	if resp.StatusCode != 200 || !strings.Contains(got, `<a href="./%3Cb%3E.txt">&lt;b&gt;.txt</a>`) || !strings.Contains(got, `./sub/`) {
		t.Errorf("listing: %d %s", resp.StatusCode, got)
	}
}

func TestTheRootCanBeReplacedWhileServing(t *testing.T) {
	image := site(t, map[string]string{"index.html": "of the image"})
	live := filepath.Join(t.TempDir(), "app")
	s := &Site{Roots: []string{live, image}}
	if got := body(t, do(t, s, "GET", "/")); got != "of the image" {
		t.Errorf("before: %q", got)
	}
	for _, content := range []string{"first", "second"} {
		if err := os.RemoveAll(live); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(site(t, map[string]string{"index.html": content}), live); err != nil {
			t.Fatal(err)
		}
		if got := body(t, do(t, s, "GET", "/")); got != content {
			t.Errorf("got %q, want %q", got, content)
		}
	}
}

func BenchmarkServe(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(dir+"/a.css", make([]byte, 4<<10), 0o644); err != nil {
		b.Fatal(err)
	}
	s := &Site{Roots: []string{dir}}
	for b.Loop() {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/a.css", nil))
		if w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}
