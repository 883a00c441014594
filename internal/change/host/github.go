package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// GitHub is a repository on github.com or a GitHub Enterprise Server.
type GitHub struct{ Connection }

func (g *GitHub) client() client {
	return client{g.Connection, func(h http.Header) {
		h.Set("Authorization", "Bearer "+g.Token)
		h.Set("Accept", "application/vnd.github+json")
		h.Set("X-GitHub-Api-Version", "2022-11-28")
	}}
}

func (g *GitHub) path(format string, args ...any) string {
	return "/repos/" + g.Repository + fmt.Sprintf(format, args...)
}

// commitStatus is a status as GitHub and Gitea take it.
type commitStatus struct {
	State       string `json:"state"`
	URL         string `json:"target_url,omitempty"`
	Description string `json:"description"`
	Context     string `json:"context"`
}

// SetStatus implements [Host].
func (g *GitHub) SetStatus(ctx context.Context, commit string, s Status) error {
	return setStatus(ctx, g.client(), g.path("/statuses/%s", commit), s)
}

func setStatus(ctx context.Context, c client, path string, s Status) error {
	state := s.State
	if state == Running {
		state = Pending
	}
	if err := post(ctx, c, path, commitStatus{string(state), s.URL, cut(s.Description, 140), s.Context}); err != nil {
		return fmt.Errorf("set status %s: %w", s.Context, err)
	}
	return nil
}

// Requests implements [Host].
func (g *GitHub) Requests(ctx context.Context) ([]Request, error) {
	return pullRequests(ctx, g.client(), g.path("/pulls?state=open&per_page=100"))
}

// Parse implements [Host].
func (g *GitHub) Parse(r *http.Request, secret string) (Event, error) {
	body, err := bodyOf(r)
	if err != nil {
		return Event{}, err
	}
	signature, ok := strings.CutPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256=")
	if !ok || !signedHex(signature, secret, body) {
		return Event{}, ErrForged
	}
	return parsePull(r.Header.Get("X-GitHub-Event"), r.Header.Get("X-GitHub-Delivery"), body)
}

func (g *GitHub) notes(ctx context.Context, number int) ([]note, error) {
	whole, err := pages[comment](ctx, g.client(), g.path("/issues/%d/comments?per_page=100", number))
	if err != nil {
		return nil, err
	}
	lines, err := pages[comment](ctx, g.client(), g.path("/pulls/%d/comments?per_page=100", number))
	if err != nil {
		return nil, err
	}
	return append(notesOf(whole, false), notesOf(lines, true)...), nil
}

func (g *GitHub) addSummary(ctx context.Context, number int, body string) error {
	return post(ctx, g.client(), g.path("/issues/%d/comments", number), text{body})
}

func (g *GitHub) addRemark(ctx context.Context, number int, commit string, r Remark, body string) error {
	err := post(ctx, g.client(), g.path("/pulls/%d/comments", number), struct {
		Body   string `json:"body"`
		Commit string `json:"commit_id"`
		Path   string `json:"path"`
		Line   int    `json:"line"`
		Side   string `json:"side"`
	}{body, commit, r.Path, r.Line, "RIGHT"})
	if e, ok := errors.AsType[*APIError](err); ok && e.Status == http.StatusUnprocessableEntity {
		return fmt.Errorf("%w: %w", errNoSuchLine, err)
	}
	return err
}

// commentPath is where a comment is.
func (g *GitHub) commentPath(n note) string {
	if n.line {
		return g.path("/pulls/comments/%s", n.id)
	}
	return g.path("/issues/comments/%s", n.id)
}

func (g *GitHub) edit(ctx context.Context, _ int, n note, body string) error {
	_, err := g.client().call(ctx, http.MethodPatch, g.commentPath(n), text{body}, nil)
	return err
}

func (g *GitHub) retire(ctx context.Context, number int, n note) error {
	if n.answered {
		return g.edit(ctx, number, n, retiredBody(n))
	}
	_, err := g.client().call(ctx, http.MethodDelete, g.commentPath(n), nil, nil)
	return err
}
