// Package static serves a directory of files over HTTP.
//
// The main type is [Site], an http.Handler. It looks a path up anew for each
// request, so a directory that is replaced as a whole shows at once, and nothing
// that a symbolic link names outside of the directory is served. A Site may be
// used from many goroutines once its fields are set.
package static

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Site serves the first of Roots that is there.
type Site struct {
	Roots    []string
	Fallback bool // serve /index.html for a path that has no file (single-page applications)
	List     bool // list directories without an index.html
	// CacheControl is sent with each file; "" means "no-cache": keep it, but ask
	// whether it is still the same.
	CacheControl string

	mu   sync.Mutex
	tags map[identity]string
}

// identity is what changes when a file's content does. The time alone is not
// enough: files of an image all have the same.
type identity struct {
	dev, ino uint64
	size     int64
	changed  int64
	modified int64
}

// maxTags is how many ETags are remembered.
const maxTags = 4096

func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	root, err := s.open()
	if err != nil {
		http.Error(w, "the site's files can't be opened", http.StatusServiceUnavailable)
		return
	}
	defer root.Close()
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if strings.ContainsRune(name, 0) {
		http.Error(w, "bad path", http.StatusBadRequest)
		return
	}
	if name == "" {
		name = "."
	}
	f, st, err := openFile(root, name)
	if err == nil && st.IsDir() {
		_ = f.Close()
		if !strings.HasSuffix(r.URL.Path, "/") {
			redirect(w, r, path.Base(name)+"/")
			return
		}
		s.serveDir(w, r, root, name)
		return
	}
	if err == nil && strings.HasSuffix(r.URL.Path, "/") {
		_ = f.Close()
		redirect(w, r, "../"+path.Base(name))
		return
	}
	if err != nil {
		s.missing(w, r, root, err)
		return
	}
	defer f.Close()
	s.serveFile(w, r, f, st, http.StatusOK)
}

// open opens the first root that is there.
func (s *Site) open() (*os.Root, error) {
	err := errors.New("no root")
	for _, name := range s.Roots {
		var root *os.Root
		if root, err = os.OpenRoot(name); err == nil {
			return root, nil
		}
	}
	return nil, err
}

// openFile opens a regular file or directory below root.
func openFile(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	// Opening must not wait for a writer of a named pipe.
	f, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.IsDir() && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// redirect sends the client to a relative address, keeping the query.
func redirect(w http.ResponseWriter, r *http.Request, to string) {
	u := url.URL{Path: to, RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", u.String())
	w.WriteHeader(http.StatusMovedPermanently)
}

func (s *Site) serveDir(w http.ResponseWriter, r *http.Request, root *os.Root, name string) {
	f, st, err := openFile(root, path.Join(name, "index.html"))
	switch {
	case err == nil && !st.IsDir():
		defer f.Close()
		s.serveFile(w, r, f, st, http.StatusOK)
	case s.List:
		if err == nil {
			_ = f.Close()
		}
		list(w, r, root, name)
	default:
		if err == nil {
			_ = f.Close()
			err = fs.ErrNotExist
		}
		s.missing(w, r, root, err)
	}
}

// missing serves what is shown in place of a file that is not there.
func (s *Site) missing(w http.ResponseWriter, r *http.Request, root *os.Root, err error) {
	if errors.Is(err, fs.ErrPermission) {
		http.Error(w, "the file can't be read", http.StatusForbidden)
		return
	}
	instead := map[string]int{"404.html": http.StatusNotFound}
	if s.Fallback && path.Ext(r.URL.Path) == "" {
		instead = map[string]int{"index.html": http.StatusOK}
	}
	for name, status := range instead {
		if f, st, err := openFile(root, name); err == nil {
			defer f.Close()
			if !st.IsDir() {
				s.serveFile(w, r, f, st, status)
				return
			}
		}
	}
	http.Error(w, "404 page not found", http.StatusNotFound)
}

func (s *Site) serveFile(w http.ResponseWriter, r *http.Request, f *os.File, st fs.FileInfo, status int) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	if s.CacheControl != "" {
		h.Set("Cache-Control", s.CacheControl)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if t := contentType(f.Name()); t != "" {
		h.Set("Content-Type", t)
	}
	if status != http.StatusOK {
		h.Set("Content-Length", fmt.Sprint(st.Size()))
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.Copy(w, f) // a client that has gone
		}
		return
	}
	if tag, err := s.tag(f, st); err == nil {
		h.Set("ETag", tag)
	}
	http.ServeContent(w, r, f.Name(), time.Time{}, f)
}

// tag returns the ETag of a file: its content's hash.
func (s *Site) tag(f *os.File, st fs.FileInfo) (string, error) {
	id, ok := identify(st)
	if ok {
		s.mu.Lock()
		tag := s.tags[id]
		s.mu.Unlock()
		if tag != "" {
			return tag, nil
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	tag := `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`
	// A file that was changed just now may change again within the clock's tick.
	if ok && time.Since(time.Unix(0, id.changed)) > 100*time.Millisecond {
		s.mu.Lock()
		if s.tags == nil || len(s.tags) >= maxTags {
			s.tags = map[identity]string{}
		}
		s.tags[id] = tag
		s.mu.Unlock()
	}
	return tag, nil
}

func list(w http.ResponseWriter, r *http.Request, root *os.Root, name string) {
	f, err := root.Open(name)
	if err != nil {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		http.Error(w, "the directory can't be read", http.StatusInternalServerError)
		return
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var b bytes.Buffer
	title := html.EscapeString(r.URL.Path)
	fmt.Fprintf(&b, "<!doctype html>\n<meta charset=utf-8>\n<title>%s</title>\n<h1>%s</h1>\n<ul>\n", title, title)
	for _, e := range entries {
		n := e.Name()
		if e.IsDir() {
			n += "/"
		}
		u := url.URL{Path: "./" + n}
		fmt.Fprintf(&b, "<li><a href=\"%s\">%s</a>\n", html.EscapeString(u.String()), html.EscapeString(n))
	}
	b.WriteString("</ul>\n")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.Bytes()))
}
