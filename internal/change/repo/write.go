package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// Writing is a commit to be made without a checkout.
type Writing struct {
	Parent    string            // "" for a commit without history
	Files     map[string][]byte // by path; replace what the parent has there
	Delete    []string          // files or directories of the parent; one that it has not is deleted already
	Whole     bool              // Files are all that there is: nothing of the parent's stays
	Message   string
	Author    Signature
	Committer Signature // of no name: the author
}

// WriteCommit makes a commit. Nothing but objects is written: let [Repository.UpdateRef] move a ref to it.
func (r *Repository) WriteCommit(ctx context.Context, w Writing) (string, error) {
	if w.Parent != "" {
		parent, err := r.Resolve(ctx, w.Parent)
		if err != nil {
			return "", err
		}
		w.Parent = parent
	}
	if w.Committer.Name == "" {
		w.Committer = w.Author
	}
	if err := checkWriting(w); err != nil {
		return "", fmt.Errorf("write commit: %w", err)
	}
	// Git's importer makes everything in one process. It needs a ref to work on, which never comes to be: it
	// is reset before the importer ends.
	stream := importStream(w, ownRefs+"importing/"+rand.Text())
	out, err := run(ctx, call{dir: r.Dir, args: []string{"fast-import", "--quiet", "--done", "--date-format=raw"}, stdin: stream})
	if err != nil {
		return "", fmt.Errorf("write commit: %w", err)
	}
	hash := strings.TrimSpace(string(out))
	if !fullHash.MatchString(hash) {
		return "", fmt.Errorf("write commit: git did not name it")
	}
	return hash, nil
}

// checkWriting tells whether the commit can be.
func checkWriting(w Writing) error {
	if cleanIdent(w.Author.Name) == "" {
		return fmt.Errorf("it has no author")
	}
	for name := range w.Files {
		if err := checkPath(name); err != nil {
			return err
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, both := w.Files[dir]; both {
				return fmt.Errorf("%q is to be a file and the directory of %q", dir, name)
			}
		}
	}
	for _, name := range w.Delete {
		if err := checkPath(name); err != nil {
			return err
		}
	}
	return nil
}

// importStream writes the commit in the importer's language, which gets its hash out, too.
func importStream(w Writing, ref string) io.Reader {
	var parts []io.Reader
	say := func(format string, args ...any) {
		parts = append(parts, strings.NewReader(fmt.Sprintf(format, args...)))
	}
	data := func(content []byte) {
		say("data %d\n", len(content))
		parts = append(parts, bytes.NewReader(content))
		say("\n")
	}
	names := slices.Sorted(maps.Keys(w.Files))
	for i, name := range names {
		say("blob\nmark :%d\n", i+2)
		data(w.Files[name])
	}
	say("commit %s\nmark :1\n", ref)
	say("author %s <%s> %s\n", cleanIdent(w.Author.Name), cleanIdent(w.Author.Email), stamp(w.Author.When))
	say("committer %s <%s> %s\n", cleanIdent(w.Committer.Name), cleanIdent(w.Committer.Email), stamp(w.Committer.When))
	message := strings.ToValidUTF8(w.Message, "?")
	data([]byte(strings.ReplaceAll(message, "\x00", "")))
	if w.Parent != "" {
		say("from %s\n", w.Parent)
	}
	if w.Whole {
		say("deleteall\n")
	}
	for _, name := range w.Delete {
		say("D %s\n", quotePath(name))
	}
	for i, name := range names {
		say("M %s :%d %s\n", ModeFile, i+2, quotePath(name))
	}
	say("\nget-mark :1\nreset %s\nfrom %s\n\ndone\n", ref, strings.Repeat("0", 40))
	return io.MultiReader(parts...)
}

// quotePath writes a path as the importer reads it.
func quotePath(name string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(name) + `"`
}
