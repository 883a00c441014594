// Package host speaks with the places where teams keep their code, GitHub, GitLab and Gitea, as far as a
// change needs it: a status on a commit, comments on a pull or merge request, which requests are open, and what
// a webhook says. The main type is [Host], which [GitHub], [GitLab] and [Gitea] implement over their documented
// REST APIs; [Comment] keeps a request's comments equal to what a review found.
//
// Everything may be used by many goroutines. Comments of one request must be written by one goroutine at a
// time: two that find no comment would both make one.
package host

import (
	"context"
	"errors"
	"net/http"
)

// State is how far a change is in one respect.
type State string

// The states.
const (
	Pending State = "pending"
	Running State = "running"
	Success State = "success"
	Failure State = "failure" // the change is at fault
	Broken  State = "error"   // something else is
)

// Status is shown beside a commit.
type Status struct {
	Context     string // which of a commit's statuses this is: "bight/review"
	State       State
	URL         string // where to read more, may be empty
	Description string // one line; what is too long for the host is cut
}

// Request is an open pull request or merge request.
type Request struct {
	Number     int
	Title      string
	HeadCommit string
	HeadBranch string
	BaseBranch string
	Author     string
	URL        string
	Fork       bool // the head is in another repository, or in one that is gone: not to be trusted
}

// Remark is a comment on one line of a request's files.
type Remark struct {
	Fingerprint string // the same as long as it is about the same; any text
	Path        string
	OldPath     string // where the file is renamed
	Line        int    // in the new file
	Body        string // Markdown
}

// Review is everything that should stand on a request.
type Review struct {
	Commit  string // the head that was reviewed
	Summary string // Markdown; "" for none
	Remarks []Remark
}

// Host is one repository on an outside host.
type Host interface {
	// SetStatus shows a status beside a commit, in place of the one with the same context.
	SetStatus(ctx context.Context, commit string, s Status) error
	// Requests returns the open requests.
	Requests(ctx context.Context) ([]Request, error)
	// Parse checks a webhook's signature and returns what it says, [ErrForged] where the signature is not
	// the secret's. Requests that were sent before are for [Deliveries] to find.
	Parse(r *http.Request, secret string) (Event, error)

	// What [Comment] needs:
	notes(ctx context.Context, number int) ([]note, error)
	addSummary(ctx context.Context, number int, body string) error
	// addRemark returns errNoSuchLine where the host takes no comment on that line.
	addRemark(ctx context.Context, number int, commit string, r Remark, body string) error
	edit(ctx context.Context, number int, n note, body string) error
	// retire removes a comment, or, where others have answered it, leaves it as done.
	retire(ctx context.Context, number int, n note) error
}

// errNoSuchLine tells that a line is not part of a request's difference.
var errNoSuchLine = errors.New("the line is not part of the difference")

// note is a comment that stands on a request.
type note struct {
	id       string
	thread   string // what it is part of, where the host has such a thing
	line     bool   // on a line, not on the whole
	answered bool   // others have written below it
	resolved bool   // it is shown as done
	body     string
}

// cut returns text of at most n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	end := n - len("…")
	for end > 0 && text[end]&0xc0 == 0x80 {
		end--
	}
	return text[:end] + "…"
}
