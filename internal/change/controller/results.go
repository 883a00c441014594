package controller

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/change/work"
)

// results keeps what the steps of an app's changes have shown, for other workers to
// take instead of doing it again. What trusted changes and what strangers' have shown
// is in classes of its own. Nothing that is read is believed before it was hashed
// again. It is safe for concurrent use.
type results struct {
	dir string
	log *slog.Logger
	now func() time.Time

	mu sync.Mutex
}

// Limits of results.
const (
	maxResultAge = 30 * 24 * time.Hour // what was shown longer ago is shown anew
	maxResult    = 1 << 20             // of one
	maxResults   = 64 << 20            // of all of one app and class
	maxAsked     = 20_000              // names in one request
)

// resultName is "<class>/<kind>/<key>", where the key is a digest.
var resultName = regexp.MustCompile(`^(trusted|untrusted)/[a-z]{1,20}/[0-9a-f]{32,64}$`)

// classOf is the class that an order's results are of. What the worker says of that
// does not count.
func classOf(o work.Order) string {
	if o.Untrusted {
		return "untrusted"
	}
	return "trusted"
}

// of is where the results of an App are. One that was made anew under the name of
// another has nothing to do with it.
func (r *results) of(a *v1alpha1.App) string {
	return filepath.Join(r.dir, a.Namespace, a.Name, string(a.UID))
}

// sum is the digest of an entry: of its content, and of its place, so that one that is
// moved to another's place is found, too.
func (r *results) sum(dir, name string, b []byte) string {
	place, err := filepath.Rel(r.dir, dir)
	if err != nil {
		place = dir
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d\n", filepath.ToSlash(place), name, len(b))
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// put keeps entries of a class, by "<kind>/<key>", and makes room for them.
func (r *results) put(a *v1alpha1.App, class string, entries map[string][]byte) error {
	if len(entries) == 0 {
		return nil
	}
	dir := r.of(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		b, name := entries[key], class+"/"+key
		if !resultName.MatchString(name) || len(b) > maxResult {
			return fmt.Errorf("%q with %d bytes is no result that is kept: it is named by its kind and a digest, and has at most %d", key, len(b), maxResult)
		}
		if err := atomicfile.Write(filepath.Join(dir, filepath.FromSlash(name)), append([]byte(r.sum(dir, name, b)+"\n"), b...)); err != nil {
			return fmt.Errorf("keep result %s: %w", name, err)
		}
	}
	return r.sweep(filepath.Join(dir, class)) // strangers fill their own room
}

// get returns an entry, or nil where there is none that can be believed. One that is
// not what was written is logged and dropped.
func (r *results) get(a *v1alpha1.App, name string) []byte {
	if !resultName.MatchString(name) {
		return nil
	}
	dir := r.of(a)
	file := filepath.Join(dir, filepath.FromSlash(name))
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(file)
	if err != nil {
		return nil
	}
	if r.now().Sub(info.ModTime()) > maxResultAge {
		r.drop(file, "it is too old")
		return nil
	}
	all, err := os.ReadFile(file)
	if err != nil {
		r.log.Warn("a result can't be read", "result", name, "err", err)
		return nil
	}
	said, b, _ := bytes.Cut(all, []byte("\n"))
	if string(said) != r.sum(dir, name, b) {
		r.log.Warn("a result is corrupt: it is dropped, and what it told is done again", "app", a.Name, "namespace", a.Namespace, "result", name)
		r.drop(file, "it is corrupt")
		return nil
	}
	return b
}

func (r *results) drop(file, why string) {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("a result is not dropped", "file", file, "why", why, "err", err)
	}
}

// kept is an entry as sweep sees it.
type kept struct {
	file  string
	size  int64
	since time.Time
}

// sweep drops what is too old of an app's class and then, when there is too much, the oldest
// until a fifth of the room is free.
func (r *results) sweep(dir string) error {
	var all []kept
	var size int64
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if r.now().Sub(info.ModTime()) > maxResultAge {
			return os.Remove(file)
		}
		all, size = append(all, kept{file, info.Size(), info.ModTime()}), size+info.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("make room for results: %w", err)
	}
	for _, k := range tooMuch(all, size, maxResults) {
		if err := os.Remove(k.file); err != nil {
			return fmt.Errorf("make room for results: %w", err)
		}
	}
	return nil
}

// tooMuch returns the oldest entries without which the rest fits into four fifths of
// the room, unless all fit into all of it.
func tooMuch(all []kept, size, room int64) []kept {
	if size <= room {
		return nil
	}
	slices.SortFunc(all, func(a, b kept) int { return a.since.Compare(b.since) })
	n := 0
	for ; n < len(all) && size > room/5*4; n++ {
		size -= all[n].size
	}
	return all[:n]
}

// remove forgets the results of an App of that name.
func (r *results) remove(key client.ObjectKey) error {
	return os.RemoveAll(filepath.Join(r.dir, key.Namespace, key.Name))
}

// serveResults answers a worker that asks what is known: a list of names with those
// entries that there are. To read them takes the right to be a worker for the app.
func (c *Controller) serveResults(w http.ResponseWriter, r *http.Request) {
	key := client.ObjectKey{Namespace: r.PathValue("namespace"), Name: r.PathValue("app")}
	if status, err := c.mayWorkFor(r, key.Namespace, key.Name); err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	a := &v1alpha1.App{}
	if err := c.client.Get(r.Context(), key, a); err != nil {
		http.Error(w, "no such app", http.StatusNotFound)
		return
	}
	c.results.serve(w, r, a)
}

// serve answers a request for results of an App.
func (r *results) serve(w http.ResponseWriter, req *http.Request, a *v1alpha1.App) {
	var names []string
	if err := json.NewDecoder(io.LimitReader(req.Body, 4<<20)).Decode(&names); err != nil || len(names) > maxAsked {
		http.Error(w, fmt.Sprintf("ask for at most %d results by name, as a list in JSON", maxAsked), http.StatusBadRequest)
		return
	}
	found := map[string][]byte{}
	size := 0
	for _, name := range names {
		if b := r.get(a, name); b != nil && size+len(b) <= work.MaxKept {
			found[name], size = b, size+len(b)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(found) // who asked has gone
}

// keepResults keeps what a step has shown for other workers. What is not kept is done
// again.
func (c *Controller) keepResults(a *v1alpha1.App, o work.Order, r work.Result) {
	if err := c.results.put(a, classOf(o), r.Keep); err != nil {
		c.Log.Warn("results are not kept", "app", a.Name, "change", o.Change, "step", o.Step, "err", err)
	}
}
