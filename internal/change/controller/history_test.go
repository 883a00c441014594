package controller

import (
	"testing"
	"time"

	"github.com/bightdev/bight/internal/change/repo"
)

// history is a repository that a test writes commits into.
type history struct {
	*repo.Repository
	t     *testing.T
	store repo.Store
}

// newHistory makes the repository of app shop in namespace shop.
func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{t: t, store: repo.Store{Root: t.TempDir()}}
	var err error
	if h.Repository, err = h.store.Create(t.Context(), "shop", "shop", "main"); err != nil {
		t.Fatal(err)
	}
	return h
}

// write makes a commit of Ada's in some second, in which a file is what it says.
func (h *history) write(parent, message, file, text string, second int64) (commit string) {
	h.t.Helper()
	who := repo.Signature{Name: "Ada", Email: "ada@example.com", When: time.Unix(second, 0)}
	commit, err := h.WriteCommit(h.t.Context(), repo.Writing{
		Parent: parent, Files: map[string][]byte{file: []byte(text)}, Message: message, Author: who, Committer: who,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return commit
}

// commit makes a commit that is like others but for its text.
func (h *history) commit(text, parent string) string {
	h.t.Helper()
	return h.write(parent, text, "a", text, 1_800_000_000)
}
