package host

import (
	"context"
	"net/http"
	"strconv"
)

// GitHub's API and Gitea's, which was made after it, have these in common.

type repository struct {
	FullName string `json:"full_name"`
}

type person struct {
	Login string `json:"login"`
}

// pull is a pull request.
type pull struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
	URL    string `json:"html_url"`
	User   person `json:"user"`
	Head   struct {
		Ref        string      `json:"ref"`
		SHA        string      `json:"sha"`
		Repository *repository `json:"repo"` // null when the fork is gone
	} `json:"head"`
	Base struct {
		Ref string `json:"ref"`
	} `json:"base"`
}

// request returns the pull request as this package has it; home is the repository that it is for.
func (p pull) request(home string) Request {
	return Request{Number: p.Number, Title: p.Title, HeadCommit: p.Head.SHA, HeadBranch: p.Head.Ref, BaseBranch: p.Base.Ref, Author: p.User.Login,
		URL: p.URL, Fork: p.Head.Repository == nil || p.Head.Repository.FullName != home}
}

// comment is a comment on a pull request or on one of its lines.
type comment struct {
	ID      int64  `json:"id"`
	Body    string `json:"body"`
	ReplyTo int64  `json:"in_reply_to_id"`
}

func pullRequests(ctx context.Context, c client, path string) ([]Request, error) {
	pulls, err := pages[pull](ctx, c, path)
	if err != nil {
		return nil, err
	}
	requests := make([]Request, len(pulls))
	for i, p := range pulls {
		requests[i] = p.request(c.Repository)
	}
	return requests, nil
}

func notesOf(comments []comment, line bool) []note {
	answered := map[int64]bool{}
	for _, c := range comments {
		answered[c.ReplyTo] = true
	}
	notes := make([]note, len(comments))
	for i, c := range comments {
		notes[i] = note{id: strconv.FormatInt(c.ID, 10), line: line, answered: answered[c.ID], body: c.Body}
	}
	return notes
}

// text is a request's body that has nothing but a comment's.
type text struct {
	Body string `json:"body"`
}

// post is what is asked for most.
func post(ctx context.Context, c client, path string, in any) error {
	_, err := c.call(ctx, http.MethodPost, path, in, nil)
	return err
}
