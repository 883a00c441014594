package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// Gitea is a repository on a Gitea or Forgejo server.
type Gitea struct{ Connection }

func (g *Gitea) client() client {
	return client{g.Connection, func(h http.Header) { h.Set("Authorization", "token "+g.Token) }}
}

func (g *Gitea) path(format string, args ...any) string {
	return "/repos/" + g.Repository + fmt.Sprintf(format, args...)
}

// SetStatus implements [Host].
func (g *Gitea) SetStatus(ctx context.Context, commit string, s Status) error {
	return setStatus(ctx, g.client(), g.path("/statuses/%s", commit), s)
}

// Requests implements [Host].
func (g *Gitea) Requests(ctx context.Context) ([]Request, error) {
	return pullRequests(ctx, g.client(), g.path("/pulls?state=open&limit=50&page=1"))
}

// Parse implements [Host].
func (g *Gitea) Parse(r *http.Request, secret string) (Event, error) {
	body, err := bodyOf(r)
	if err != nil {
		return Event{}, err
	}
	if !signedHex(r.Header.Get("X-Gitea-Signature"), secret, body) {
		return Event{}, ErrForged
	}
	return parsePull(r.Header.Get("X-Gitea-Event"), r.Header.Get("X-Gitea-Delivery"), body)
}

// notes reads comments on lines review by review: each of our remarks is a review of its own, as that is what
// the API can remove.
func (g *Gitea) notes(ctx context.Context, number int) ([]note, error) {
	whole, err := pages[comment](ctx, g.client(), g.path("/issues/%d/comments", number))
	if err != nil {
		return nil, err
	}
	all := notesOf(whole, false)
	reviews, err := pages[struct {
		ID       int64 `json:"id"`
		Comments int   `json:"comments_count"`
	}](ctx, g.client(), g.path("/pulls/%d/reviews?limit=50&page=1", number))
	if err != nil {
		return nil, err
	}
	for _, review := range reviews {
		if review.Comments == 0 {
			continue
		}
		lines, err := pages[comment](ctx, g.client(), g.path("/pulls/%d/reviews/%d/comments", number, review.ID))
		if err != nil {
			return nil, err
		}
		for _, n := range notesOf(lines, true) {
			n.thread = strconv.FormatInt(review.ID, 10)
			n.answered = len(lines) > 1
			all = append(all, n)
		}
	}
	return all, nil
}

func (g *Gitea) addSummary(ctx context.Context, number int, body string) error {
	return post(ctx, g.client(), g.path("/issues/%d/comments", number), text{body})
}

func (g *Gitea) addRemark(ctx context.Context, number int, commit string, r Remark, body string) error {
	type line struct {
		Path     string `json:"path"`
		Body     string `json:"body"`
		Position int    `json:"new_position"`
	}
	err := post(ctx, g.client(), g.path("/pulls/%d/reviews", number), struct {
		Commit   string `json:"commit_id"`
		Event    string `json:"event"`
		Comments []line `json:"comments"`
	}{commit, "COMMENT", []line{{r.Path, body, r.Line}}})
	if e, ok := errors.AsType[*APIError](err); ok && e.Status == http.StatusUnprocessableEntity {
		return fmt.Errorf("%w: %w", errNoSuchLine, err)
	}
	return err
}

func (g *Gitea) edit(ctx context.Context, _ int, n note, body string) error {
	_, err := g.client().call(ctx, http.MethodPatch, g.path("/issues/comments/%s", n.id), text{body}, nil)
	return err
}

func (g *Gitea) retire(ctx context.Context, number int, n note) error {
	path := g.path("/issues/comments/%s", n.id)
	switch {
	case n.answered:
		return g.edit(ctx, number, n, retiredBody(n))
	case n.line:
		path = g.path("/pulls/%d/reviews/%s", number, n.thread)
	}
	_, err := g.client().call(ctx, http.MethodDelete, path, nil, nil)
	return err
}
