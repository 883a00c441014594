package host

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// GitLab is a project on gitlab.com or a GitLab server.
type GitLab struct{ Connection }

func (g *GitLab) client() client {
	return client{g.Connection, func(h http.Header) { h.Set("PRIVATE-TOKEN", g.Token) }}
}

func (g *GitLab) path(format string, args ...any) string {
	return "/projects/" + url.PathEscape(g.Repository) + fmt.Sprintf(format, args...)
}

// SetStatus implements [Host].
func (g *GitLab) SetStatus(ctx context.Context, commit string, s Status) error {
	state := string(s.State)
	if s.State == Failure || s.State == Broken {
		state = "failed"
	}
	err := post(ctx, g.client(), g.path("/statuses/%s", commit), struct {
		State       string `json:"state"`
		Name        string `json:"name"`
		URL         string `json:"target_url,omitempty"`
		Description string `json:"description"`
	}{state, s.Context, s.URL, cut(s.Description, 255)})
	if e, ok := errors.AsType[*APIError](err); ok && e.Status == http.StatusBadRequest && strings.Contains(e.Message, "Cannot transition status") &&
		strings.Contains(e.Message, "from :"+state) {
		return nil // it has this state already
	}
	if err != nil {
		return fmt.Errorf("set status %s: %w", s.Context, err)
	}
	return nil
}

// Requests implements [Host].
func (g *GitLab) Requests(ctx context.Context) ([]Request, error) {
	merges, err := pages[struct {
		Number int    `json:"iid"`
		Title  string `json:"title"`
		SHA    string `json:"sha"`
		URL    string `json:"web_url"`
		Head   string `json:"source_branch"`
		Base   string `json:"target_branch"`
		From   int64  `json:"source_project_id"` // null when the fork is gone
		To     int64  `json:"target_project_id"`
		Author struct {
			Username string `json:"username"`
		} `json:"author"`
	}](ctx, g.client(), g.path("/merge_requests?state=opened&per_page=100"))
	if err != nil {
		return nil, err
	}
	requests := make([]Request, len(merges))
	for i, m := range merges {
		requests[i] = Request{Number: m.Number, Title: m.Title, HeadCommit: m.SHA, HeadBranch: m.Head, BaseBranch: m.Base,
			Author: m.Author.Username, URL: m.URL, Fork: m.From != m.To}
	}
	return requests, nil
}

// Parse implements [Host]. A secret that begins with "whsec_" is a signing token, any other a secret token.
func (g *GitLab) Parse(r *http.Request, secret string) (Event, error) {
	body, err := bodyOf(r)
	if err != nil {
		return Event{}, err
	}
	genuine := false
	if strings.HasPrefix(secret, standardSecret) {
		genuine = signedStandard(r.Header, secret, body, time.Now())
	} else {
		genuine = sameSecret(r.Header.Get("X-Gitlab-Token"), secret)
	}
	if !genuine {
		return Event{}, ErrForged
	}
	delivery := r.Header.Get("Idempotency-Key")
	if delivery == "" {
		delivery = r.Header.Get("X-Gitlab-Event-UUID")
	}
	return parseMerge(delivery, body)
}

// parseMerge reads an event of GitLab.
func parseMerge(delivery string, body []byte) (Event, error) {
	e := Event{Kind: Other, Delivery: delivery, digest: sha256.Sum256(body)}
	var p struct {
		Kind    string `json:"object_kind"`
		Ref     string `json:"ref"`
		Before  string `json:"before"`
		After   string `json:"after"`
		Project struct {
			Path string `json:"path_with_namespace"`
		} `json:"project"`
		User struct {
			Username string `json:"username"`
		} `json:"user"`
		Object struct {
			Number int    `json:"iid"`
			Action string `json:"action"`
			Title  string `json:"title"`
			URL    string `json:"url"`
			Head   string `json:"source_branch"`
			Base   string `json:"target_branch"`
			From   int64  `json:"source_project_id"`
			To     int64  `json:"target_project_id"`
			Last   struct {
				ID string `json:"id"`
			} `json:"last_commit"`
		} `json:"object_attributes"`
	}
	var kind struct {
		Kind string `json:"object_kind"`
	}
	if err := json.Unmarshal(body, &kind); err != nil {
		return Event{}, fmt.Errorf("read webhook: %w", err)
	}
	if kind.Kind != "push" && kind.Kind != "tag_push" && kind.Kind != "merge_request" {
		return e, nil // other kinds have other types under the same names
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return Event{}, fmt.Errorf("read webhook: %w", err)
	}
	e.Repository = p.Project.Path
	if p.Kind != "merge_request" {
		e.Kind, e.Ref, e.Old, e.New = Pushed, p.Ref, hash(p.Before), hash(p.After)
		return e, nil
	}
	o := p.Object
	e.Kind, e.Number, e.Action = Requested, o.Number, o.Action
	e.Request = Request{Number: o.Number, Title: o.Title, HeadCommit: o.Last.ID, HeadBranch: o.Head, BaseBranch: o.Base, Author: p.User.Username,
		URL: o.URL, Fork: o.From != o.To}
	return e, nil
}

// notes returns the first note of each discussion: that is the one which we write.
func (g *GitLab) notes(ctx context.Context, number int) ([]note, error) {
	discussions, err := pages[struct {
		ID    string `json:"id"`
		Notes []struct {
			ID   int64  `json:"id"`
			Type string `json:"type"`
			Body string `json:"body"`
			Done bool   `json:"resolved"`
		} `json:"notes"`
	}](ctx, g.client(), g.path("/merge_requests/%d/discussions?per_page=100", number))
	if err != nil {
		return nil, err
	}
	var all []note
	for _, d := range discussions {
		if len(d.Notes) == 0 {
			continue
		}
		first := d.Notes[0]
		all = append(all, note{id: strconv.FormatInt(first.ID, 10), thread: d.ID, line: first.Type == "DiffNote", answered: len(d.Notes) > 1, resolved: first.Done, body: first.Body})
	}
	return all, nil
}

func (g *GitLab) addSummary(ctx context.Context, number int, body string) error {
	return post(ctx, g.client(), g.path("/merge_requests/%d/notes", number), text{body})
}

func (g *GitLab) addRemark(ctx context.Context, number int, commit string, r Remark, body string) error {
	var merge struct {
		Refs struct {
			Base  string `json:"base_sha"`
			Head  string `json:"head_sha"`
			Start string `json:"start_sha"`
		} `json:"diff_refs"`
	}
	if _, err := g.client().call(ctx, http.MethodGet, g.path("/merge_requests/%d", number), nil, &merge); err != nil {
		return err
	}
	if merge.Refs.Head != commit {
		return fmt.Errorf("the request has moved on to commit %.12s: review that one", merge.Refs.Head)
	}
	old := r.OldPath
	if old == "" {
		old = r.Path
	}
	type position struct {
		Type  string `json:"position_type"`
		Base  string `json:"base_sha"`
		Start string `json:"start_sha"`
		Head  string `json:"head_sha"`
		New   string `json:"new_path"`
		Old   string `json:"old_path"`
		Line  int    `json:"new_line"`
	}
	err := post(ctx, g.client(), g.path("/merge_requests/%d/discussions", number), struct {
		Body     string   `json:"body"`
		Position position `json:"position"`
	}{body, position{"text", merge.Refs.Base, merge.Refs.Start, merge.Refs.Head, r.Path, old, r.Line}})
	if e, ok := errors.AsType[*APIError](err); ok && e.Status == http.StatusBadRequest {
		return fmt.Errorf("%w: %w", errNoSuchLine, err)
	}
	return err
}

// edit changes a note; one that was done is open again.
func (g *GitLab) edit(ctx context.Context, number int, n note, body string) error {
	if err := g.write(ctx, number, n, body); err != nil || !n.resolved {
		return err
	}
	return g.resolve(ctx, number, n, false)
}

func (g *GitLab) write(ctx context.Context, number int, n note, body string) error {
	_, err := g.client().call(ctx, http.MethodPut, g.path("/merge_requests/%d/notes/%s", number, n.id), text{body}, nil)
	return err
}

func (g *GitLab) resolve(ctx context.Context, number int, n note, done bool) error {
	_, err := g.client().call(ctx, http.MethodPut, g.path("/merge_requests/%d/discussions/%s?resolved=%t", number, n.thread, done), nil, nil)
	return err
}

func (g *GitLab) retire(ctx context.Context, number int, n note) error {
	if !n.answered {
		_, err := g.client().call(ctx, http.MethodDelete, g.path("/merge_requests/%d/notes/%s", number, n.id), nil, nil)
		return err
	}
	if err := g.write(ctx, number, n, retiredBody(n)); err != nil || !n.line {
		return err
	}
	return g.resolve(ctx, number, n, true)
}
