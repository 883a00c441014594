package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/atomicfile"
)

// files keeps what steps print and what they leave, by the namespace and name of the
// change. It is safe for concurrent use.
type files struct {
	dir string

	mu   sync.Mutex
	logs map[string]chan struct{} // by path, closed at the next write or the end of a step
}

// maxLog is how much of one step's output is kept.
const maxLog = 32 << 20

// logPath is where the log of a step's lease is, below the files.
func logPath(namespace, change, step string, attempt, lease int32) string {
	return path.Join(namespace, change, fmt.Sprintf("%s-%d-%d.log", strings.ReplaceAll(step, "/", "-"), attempt, lease))
}

// append writes to a log.
func (f *files) append(name string, b []byte) error {
	file := filepath.Join(f.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	w, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if info, err := w.Stat(); err == nil && info.Size()+int64(len(b)) > maxLog {
		if info.Size() < maxLog {
			b = fmt.Appendf(nil, "\n(what follows is not kept: the log has %d MiB)\n", maxLog>>20)
		} else {
			b = nil
		}
	}
	_, err = w.Write(b)
	err = errors.Join(err, w.Close())
	f.stir(name)
	return err
}

// stir wakes who follows a log.
func (f *files) stir(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.logs[name]; c != nil {
		close(c)
		delete(f.logs, name)
	}
}

// stirAll wakes who follows any log of a change.
func (f *files) stirAll(namespace, change string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, c := range f.logs {
		if strings.HasPrefix(name, namespace+"/"+change+"/") {
			close(c)
			delete(f.logs, name)
		}
	}
}

// written is closed at the next write to a log, and when its change changes.
func (f *files) written(name string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.logs == nil {
		f.logs = map[string]chan struct{}{}
	}
	c := f.logs[name]
	if c == nil {
		c = make(chan struct{})
		f.logs[name] = c
	}
	return c
}

// put keeps a file whole and returns its path.
func (f *files) put(namespace, change, name string, b []byte) (string, error) {
	if !fs.ValidPath(name) || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is no name of a file", name)
	}
	p := path.Join(namespace, change, name)
	if err := atomicfile.Write(filepath.Join(f.dir, filepath.FromSlash(p)), b); err != nil {
		return "", err
	}
	return p, nil
}

func (f *files) get(p string) ([]byte, error) {
	if !fs.ValidPath(p) {
		return nil, fs.ErrNotExist
	}
	return os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(p)))
}

// remove forgets everything of a change.
func (f *files) remove(namespace, change string) error {
	return os.RemoveAll(filepath.Join(f.dir, namespace, change))
}

// serve answers a request for a file; ended says whether a log that is followed is
// over.
func (f *files) serve(w http.ResponseWriter, r *http.Request, p string, ended func(context.Context) bool) {
	if !fs.ValidPath(p) {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	file, err := os.Open(filepath.Join(f.dir, filepath.FromSlash(p)))
	follow := r.URL.Query().Has("follow")
	if err != nil && !(follow && errors.Is(err, fs.ErrNotExist)) {
		http.Error(w, "no such file: the step has printed nothing, or the change is too old", http.StatusNotFound)
		return
	}
	if file != nil {
		defer func() { file.Close() }()
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	flush := http.NewResponseController(w)
	for {
		more := f.written(p)
		over := !follow || ended(r.Context())
		if file == nil {
			file, _ = os.Open(filepath.Join(f.dir, filepath.FromSlash(p)))
		}
		if file != nil {
			if _, err := io.Copy(w, file); err != nil {
				return
			}
			_ = flush.Flush()
		}
		if over {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-more:
		}
	}
}
