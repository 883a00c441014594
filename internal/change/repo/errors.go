package repo

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnauthenticated is what Authenticate returns, wrapped or not, for a request whose credentials are
// missing or not accepted. Git then asks for others.
var ErrUnauthenticated = errors.New("no valid credentials")

// DeniedError tells that a user has not the right to do something. Its text is shown to the user by git.
type DeniedError struct {
	User      string
	Verb      string // of Kubernetes' RBAC
	Namespace string
	App       string
	Reason    string // the cluster's own words, may be empty
}

func (e *DeniedError) Error() string {
	text := fmt.Sprintf("%s may not %s the app %s in namespace %s: the right %q on apps.bight.dev is missing.", e.User, deed(e.Verb), e.App, e.Namespace, e.Verb)
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	return text + fmt.Sprintf("\nA role with {apiGroups: [bight.dev], resources: [apps], resourceNames: [%s], verbs: [%s]}, bound to %s in namespace %s, grants it.",
		e.App, e.Verb, e.User, e.Namespace)
}

// deed says in the user's words what a verb is needed for.
func deed(verb string) string {
	switch verb {
	case VerbFetch:
		return "fetch from"
	case VerbPush:
		return "push to"
	}
	return verb
}

// NotFoundError tells that a repository, a revision or a file does not exist.
type NotFoundError struct {
	What string // "repository shop/web", "revision v1", "file go.mod in 3f2a..."
}

func (e *NotFoundError) Error() string { return e.What + " does not exist" }

// MovedError tells that a ref is not where the caller thought it to be. Nothing was changed.
type MovedError struct {
	Ref  string
	Want string // where it was thought to be, "" for not existing
	Have string // where it is, "" for not existing or not known
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("%s has moved: it was thought to be at %s, it is at %s; read it again and decide anew", e.Ref, orNothing(e.Want), orNothing(e.Have))
}

func orNothing(hash string) string {
	if hash == "" {
		return "nothing"
	}
	return hash
}

// ConflictError tells that two histories change the same lines.
type ConflictError struct {
	Base   string   // onto which was merged
	Commit string   // that does not apply: the head, or with Rebase the commit of it
	Files  []string // sorted
}

func (e *ConflictError) Error() string {
	files := e.Files
	more := ""
	if len(files) > 5 {
		more = fmt.Sprintf(" and %d more", len(files)-5)
		files = files[:5]
	}
	return fmt.Sprintf("commit %.12s conflicts with %.12s in %s%s: rebase it and push again", e.Commit, e.Base, strings.Join(files, ", "), more)
}

// UnrelatedError tells that two commits have no history in common.
type UnrelatedError struct{ Base, Head string }

func (e *UnrelatedError) Error() string {
	return fmt.Sprintf("commits %.12s and %.12s have no history in common: start the branch from the app's branch and push again", e.Base, e.Head)
}

// TooLargeError tells that something is over a limit.
type TooLargeError struct {
	What  string
	Size  int64 // -1: not known, over the limit
	Limit int64
}

func (e *TooLargeError) Error() string {
	if e.Size < 0 {
		return fmt.Sprintf("%s is larger than the limit of %s", e.What, bytesText(e.Limit))
	}
	return fmt.Sprintf("%s has %s, the limit is %s", e.What, bytesText(e.Size), bytesText(e.Limit))
}

// bytesText writes a size for people.
func bytesText(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// RejectedError tells that an outside host did not take a push, for a reason of its own.
type RejectedError struct{ Ref, Reason string }

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the host refused to update %s: %s", e.Ref, e.Reason)
}

// UnsafeTreeError tells that a commit has files which no working copy may have. Nothing was written.
type UnsafeTreeError struct {
	Commit string
	Causes []string // each one file and what is wrong with it
}

func (e *UnsafeTreeError) Error() string {
	causes := e.Causes
	more := ""
	if len(causes) > 5 {
		more = fmt.Sprintf("; and %d more", len(causes)-5)
		causes = causes[:5]
	}
	return fmt.Sprintf("commit %.12s can't be checked out: %s%s; remove them from the commit", e.Commit, strings.Join(causes, "; "), more)
}
