package replay

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/live"
)

// Saves tells of files below a directory whose content is another than it was, by a text
// for people, until ctx ends. What the directory's ignore files name is left out, so that
// a program which writes files of its own is not started again for these, and so is what
// is ours, a path without symbolic links for which that says so. Who is busy misses nothing:
// the next text stands for all since the last. failed is told of an error after which no
// more comes.
func Saves(ctx context.Context, dir string, ours func(path string) bool, log *slog.Logger, failed func(error)) (<-chan string, error) {
	root, err := filepath.Abs(dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return nil, err
	}
	rules := ignore.In(root, ".")
	w := &live.Watcher{Roots: []string{root}, Log: log, Ignore: func(path string, dir bool) bool {
		rel, err := filepath.Rel(root, path)
		return err != nil || ours(path) || slices.Contains([]string{".git", ".hg", ".svn", "node_modules"}, filepath.Base(rel)) || rel != "." && rules.Ignored(filepath.ToSlash(rel), dir)
	}}
	batches, saves := make(chan live.Batch), make(chan string)
	go func() {
		if err := w.Run(ctx, batches); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}()
	go tell(ctx, root, batches, saves)
	return saves, nil
}

func tell(ctx context.Context, root string, batches <-chan live.Batch, saves chan<- string) {
	known := map[string][sha256.Size]byte{}
	var changed []string
	for {
		var to chan<- string
		text := ""
		if len(changed) > 0 {
			to, text = saves, changed[0]
			if n := len(changed) - 1; n > 0 {
				text += fmt.Sprintf(" and %d more", n)
			}
		}
		select {
		case b := <-batches:
			for _, path := range b.Paths {
				sum := digestOf(path)
				if was, has := known[path]; has && was == sum {
					continue
				}
				known[path] = sum
				if rel, err := filepath.Rel(root, path); err == nil && !slices.Contains(changed, rel) {
					changed = append(changed, rel)
				}
			}
		case to <- text:
			changed = nil
		case <-ctx.Done():
			return
		}
	}
}

// digestOf is that of a file's content, of nothing if it can't be read.
func digestOf(path string) (sum [sha256.Size]byte) {
	f, err := os.Open(path)
	if err != nil {
		return sum
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum
	}
	return [sha256.Size]byte(h.Sum(nil))
}
