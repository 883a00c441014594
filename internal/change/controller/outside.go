package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/change/host"
)

// outside is what a look at an outside host has found, beside what was known.
type outside struct {
	branch string            // the App's
	first  bool              // nothing of this repository was looked at before
	heads  map[string]string // commits by branch
	forks  map[int]string    // commits of requests from forks
	// requests are the open ones for the App's branch.
	requests []host.Request
	// requestRef is where git finds a request's head, with %d for its number.
	requestRef string
	// seen is what was acted upon: commits by "heads/BRANCH" and "requests/NUMBER".
	seen map[string]string
}

// arrival is a head that was not there before.
type arrival struct {
	seen   string // what it is remembered as
	ref    string // as on the host
	commit string
	// request is the open one of which it is the head, if there is one.
	request *host.Request
	// known tells that it is taken as it is: nobody has pushed it for us.
	known bool
}

// departure is a head that is no more.
type departure struct {
	seen, ref string
	commit    string // the last that was seen
	why       string
}

// news is what is to be acted upon.
type news struct {
	gone []departure
	come []arrival
}

// environmentBranches begin the names of branches that have the desired state of
// environments, and are nobody's change.
const environmentBranches = "bight/"

// compare tells what is new. What was there before the App, and nobody has asked to
// merge, is no news.
func compare(o outside) news {
	var n news
	byHead := map[string]*host.Request{}
	open := map[string]*host.Request{}
	for i, r := range o.requests {
		if r.Fork {
			open[fmt.Sprintf("requests/%d", r.Number)] = &o.requests[i]
		} else {
			byHead[r.HeadBranch] = &o.requests[i]
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.seen)) {
		branch, isBranch := strings.CutPrefix(key, "heads/")
		if isBranch && o.heads[branch] == "" {
			n.gone = append(n.gone, departure{key, "refs/heads/" + branch, o.seen[key], "branch " + branch + " was deleted at the host"})
		}
		if number, isRequest := strings.CutPrefix(key, "requests/"); isRequest && open[key] == nil {
			ref := strings.ReplaceAll(o.requestRef, "%d", number)
			n.gone = append(n.gone, departure{key, ref, o.seen[key], "request " + number + " was closed at the host"})
		}
	}
	for _, branch := range slices.Sorted(maps.Keys(o.heads)) {
		key, commit := "heads/"+branch, o.heads[branch]
		if branch == o.branch || strings.HasPrefix(branch, environmentBranches) || o.seen[key] == commit {
			continue
		}
		r := byHead[branch]
		n.come = append(n.come, arrival{key, "refs/heads/" + branch, commit, r, o.first && r == nil})
	}
	for _, number := range slices.Sorted(maps.Keys(o.forks)) {
		key, commit := fmt.Sprintf("requests/%d", number), o.forks[number]
		if r := open[key]; r != nil && o.seen[key] != commit {
			n.come = append(n.come, arrival{key, fmt.Sprintf(o.requestRef, number), commit, r, false})
		}
	}
	return n
}
