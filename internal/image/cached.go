package image

import (
	"context"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/tree"
)

// Cached wraps a builder so that inputs that were built once are not built
// again, in this process or another. A hit is told by [Artifact.Cached], and whom it
// was built for by [Artifact.By], which by is from now on.
func Cached(b Builder, s *Store, by string) Builder { return &cached{Builder: b, store: s, by: by} }

type cached struct {
	Builder
	store *Store
	by    string
}

// A Finder is a Builder that remembers what it has built.
type Finder interface {
	Builder
	// Find returns what the present inputs gave before, or nil, and the digest of the
	// inputs.
	Find(ctx context.Context, a *app.App, s *app.Service) (*Artifact, tree.Hash, error)
}

// Find implements [Finder].
func (c *cached) Find(ctx context.Context, a *app.App, s *app.Service) (*Artifact, tree.Hash, error) {
	in, err := c.Inputs(ctx, a, s)
	if err != nil {
		return nil, tree.Hash{}, err
	}
	return c.find(a, s, in), in.Digest, nil
}

// manifest is the record of an artifact. Names are bytes because file names
// need not be text.
type manifest struct {
	Tree       tree.Hash      `json:"tree"`
	Command    []string       `json:"command"`
	NeedsAgent bool           `json:"needsAgent,omitempty"`
	Restart    bool           `json:"restart,omitempty"`
	By         string         `json:"by,omitempty"`
	Files      []manifestFile `json:"files"`
}

type manifestFile struct {
	Path []byte      `json:"path"`
	Mode fs.FileMode `json:"mode"`
	Size int64       `json:"size,omitempty"`
	Hash tree.Hash   `json:"hash,omitzero"`
	Link []byte      `json:"link,omitempty"`
	// Source is where the file is in the app's directory; "" means the store.
	Source []byte `json:"source,omitempty"`
}

func (c *cached) Build(ctx context.Context, a *app.App, s *app.Service) (*Artifact, error) {
	in, err := c.Inputs(ctx, a, s)
	if err != nil {
		return nil, err
	}
	if art := c.find(a, s, in); art != nil {
		return art, nil
	}
	art, err := c.Builder.Build(ctx, a, s)
	if err != nil {
		return nil, err
	}
	art.By = c.by
	if art.Inputs == in.Digest && len(art.Problems) == 0 {
		// What could not be remembered is built again: slower, not wrong.
		_ = c.remember(a, art)
	}
	return art, nil
}

// BuildChanged implements [Refresher].
func (c *cached) BuildChanged(ctx context.Context, a *app.App, s *app.Service, changed []string) (*Artifact, error) {
	if r, ok := c.Builder.(Refresher); ok {
		return r.BuildChanged(ctx, a, s, changed)
	}
	return c.Build(ctx, a, s)
}

// find returns the artifact that the inputs gave before, if all of it is still
// there and unharmed.
func (c *cached) find(a *app.App, s *app.Service, in *Inputs) *Artifact {
	var m manifest
	if !c.store.Recall("artifact", in.Digest, &m) {
		return nil
	}
	t := make(tree.Tree, len(m.Files))
	for _, f := range m.Files {
		e := tree.Entry{Mode: f.Mode, Size: f.Size, Hash: f.Hash, Link: string(f.Link)}
		if f.Mode.IsRegular() && !c.locate(a, in, &e, string(f.Source)) {
			return nil
		}
		t[string(f.Path)] = e
	}
	if t.Digest() != m.Tree {
		return nil
	}
	return &Artifact{
		Service: s.Name, Tree: t, Command: m.Command, NeedsAgent: m.NeedsAgent, Restart: m.Restart,
		Inputs: in.Digest, By: m.By, Cached: true,
	}
}

// locate finds e's content in the store, or in the source, which is as the
// inputs have just been read.
func (c *cached) locate(a *app.App, in *Inputs, e *tree.Entry, source string) bool {
	if source == "" {
		return c.store.Holds(e)
	}
	if have, ok := in.Files[source]; !ok || have.Hash != e.Hash {
		return false
	}
	e.Local = filepath.Join(a.Dir, filepath.FromSlash(source))
	return true
}

func (c *cached) remember(a *app.App, art *Artifact) error {
	m := manifest{Tree: art.TreeDigest(), Command: art.Command, NeedsAgent: art.NeedsAgent, Restart: art.Restart, By: art.By}
	var files []string
	for _, p := range art.Tree.Paths() {
		e := art.Tree[p]
		f := manifestFile{Path: []byte(p), Mode: e.Mode, Size: e.Size, Hash: e.Hash, Link: []byte(e.Link)}
		switch {
		case !e.Mode.IsRegular():
		case c.store.within(e):
			files = append(files, name(e))
		default:
			rel, err := filepath.Rel(a.Dir, e.Local)
			if err != nil {
				return err
			}
			f.Source = []byte(filepath.ToSlash(rel))
		}
		m.Files = append(m.Files, f)
	}
	return c.store.Remember("artifact", art.Inputs, m, files)
}

// Place returns where a file at source path p goes when the file or directory
// at source path from is put at to: "" when p is not below from. All paths are
// clean and slash separated.
func Place(p, from, to string) string {
	switch {
	case p == from:
		return path.Clean(to)
	case from == ".":
		return path.Join(to, p)
	case strings.HasPrefix(p, from+"/"):
		return path.Join(to, p[len(from)+1:])
	}
	return ""
}
