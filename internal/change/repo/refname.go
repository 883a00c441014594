package repo

import (
	"errors"
	"fmt"
	"strings"
)

// Refs that Bight alone writes.
const (
	ownRefs     = "refs/bight/"
	ownBranches = "refs/heads/bight/" // what is deployed to each environment
	// ChangeRefs is where the commits of changes are kept, each under its own hash, also when the branch
	// on which they came has gone elsewhere.
	ChangeRefs = ownRefs + "changes/"
)

// ChangeRef returns the ref that keeps the commit of a change.
func ChangeRef(commit string) string { return ChangeRefs + commit }

// maxRefName is longer than any name that a person has typed; a name is a path of the file system.
const maxRefName = 200

// CheckRef tells whether name is a ref's whole name by git's own rules and a little stricter: text that
// a shell, a terminal or a file system could take for something else is refused.
func CheckRef(name string) error {
	rest, ok := strings.CutPrefix(name, "refs/")
	switch {
	case !ok:
		return errors.New(`a ref's name begins with "refs/"`)
	case !strings.Contains(rest, "/"):
		return errors.New(`a ref's name has a kind: "refs/heads/..." or "refs/tags/..."`)
	case len(name) > maxRefName:
		return fmt.Errorf("the name has %d bytes, the limit is %d", len(name), maxRefName)
	case printable(name) != name:
		return errors.New("the name has characters that can't be printed")
	case strings.ContainsAny(name, " ~^:?*[\\"):
		return errors.New(`the name has one of: space ~ ^ : ? * [ \`)
	case strings.Contains(name, "..") || strings.Contains(name, "@{"):
		return errors.New(`the name has ".." or "@{"`)
	}
	for element := range strings.SplitSeq(rest, "/") {
		switch {
		case element == "":
			return errors.New("the name has an empty element")
		case strings.HasPrefix(element, ".") || strings.HasSuffix(element, ".") || strings.HasSuffix(element, ".lock"):
			return fmt.Errorf("no element may begin or end with '.' or end with \".lock\": %q", element)
		case strings.HasPrefix(element, "-") || element == "@" || element == "HEAD":
			return fmt.Errorf("no element may be %q", element)
		}
	}
	return nil
}

// checkPushed tells whether users may push to the ref.
func checkPushed(name string) error {
	switch {
	case strings.HasPrefix(name, ownRefs), strings.HasPrefix(name, ownBranches), name == strings.TrimSuffix(ownBranches, "/"):
		return errors.New(`refs/bight/* and branches "bight/*" are written by Bight alone: push to a branch of another name`)
	case !strings.HasPrefix(name, "refs/heads/") && !strings.HasPrefix(name, "refs/tags/"):
		return errors.New("only branches (refs/heads/*) and tags (refs/tags/*) are kept here")
	}
	return CheckRef(name)
}
